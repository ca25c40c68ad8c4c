"""What the mass-metallicity dashboard is given of this paper: its table, and galaxies that are those of the table."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.zahid2019 import mzr
from spectool.papers.zahid2019.sample import rebuild


def test_a_missing_or_foreign_table_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.nc .*python -m tools\.make\.zahid2019_tables null"
    ):
        mzr.read_sample("null", path=tmp_path / "nothing.nc")
    xr.Dataset({"log_mass": ("galaxy", [9.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc .* no candidate, log_z_predicted"):
        mzr.read_sample(path=tmp_path / "other.nc")


@pytest.mark.parametrize(("sample", "n"), [("galaxies", 200_000), ("null", 50_000)])
def test_a_rebuilt_galaxy_is_the_one_of_the_table(sample, n):
    ((name, table),) = mzr.read_sample(sample).items()
    assert (name, table.sizes["galaxy"]) == (mzr.NAMES[sample], n)
    galaxy = table.isel(galaxy=11)
    number = int(galaxy["candidate"])
    expected = rebuild([number], null=sample == "null").isel(galaxy=0)
    flux = mzr.rebuild_galaxy(number, sample)["flux"]
    seen, true = (flux.sel(source=source).values for source in (mzr.OBSERVED, mzr.NOISELESS))
    good = ~expected["mask"].values
    np.testing.assert_allclose(seen[good], (expected["flux"] / expected["norm"]).values[good], rtol=1e-5)
    assert np.isnan(seen[~good]).all()
    wavelength = flux["wavelength"].values
    assert np.nanmean(seen[(wavelength > 4400) & (wavelength < 4450)]) == pytest.approx(1, abs=0.03)
    # Neighbouring pixels share noise: what is "per Angstrom" shows in means over more of them.
    error = ((seen - true) / true)[(wavelength > 4050) & (wavelength < 7290)]
    means = np.nanmean(error[: error.size // 20 * 20].reshape(-1, 20), axis=1)
    scatter = 1.4826 * np.nanmedian(np.abs(means)) * np.sqrt(20)
    assert 1 / scatter == pytest.approx(float(galaxy["sn"]), rel=0.3)
