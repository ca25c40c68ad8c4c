"""What the mass-metallicity dashboard is given of this paper: its table, and galaxies that are those of the table."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.scourfield2023 import mzr
from spectool.papers.scourfield2023.network import add_desi_noise, make_model
from spectool.papers.scourfield2023.sample import (
    TEST_NOISE_SEED,
    make_sample,
    read_lines,
    read_products,
)
from spectool.spectra import LINES

N = 5


def test_a_missing_or_foreign_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m tools\.make\.scourfield2023_lines null"):
        read_lines("null", path=tmp_path / "nothing.nc")
    xr.Dataset({"a": ("galaxy", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc .* no line, source"):
        read_lines(path=tmp_path / "other.nc")


def test_calibrated_errors_belong_to_the_same_fluxes_and_are_wider():
    samples = read_lines()
    formal, calibrated = samples["de-noised"], samples["de-noised, calibrated errors"]
    np.testing.assert_array_equal(formal["line_flux"], calibrated["line_flux"])
    assert float((calibrated["line_flux_error"] / formal["line_flux_error"]).sel(line="Hα").median()) > 1
    assert list(read_lines("null"))[:2] == ["null: original", "null: DESI-like"]


@pytest.mark.parametrize("name", mzr.MODELS)
def test_a_rebuilt_galaxy_is_the_one_that_was_measured(name, monkeypatch):
    # The first test galaxies, seen as tools/make/scourfield2023_lines.py sees them.
    sample = make_sample(name, split="test", n=N, progress=False)
    sample = add_desi_noise(sample, seed=np.random.default_rng(TEST_NOISE_SEED))
    model = make_model("vae", 2, sample["flux"].values, seed=1).eval()
    monkeypatch.setattr(mzr, "_model", lambda name: model)
    for row in (0, N - 1):
        spectrum = mzr.rebuild_galaxy(int(sample["candidate"].values[row]), name)
        assert list(spectrum["source"].values) == ["original", "DESI-like", *mzr.MODELS[name]]
        good = ~sample["mask"].values[row]
        for source, variable in (("original", "flux"), ("DESI-like", "noisy")):
            flux = spectrum["flux"].sel(source=source).values
            np.testing.assert_allclose(flux[good], sample[variable].values[row][good], rtol=1e-4, atol=1e-5)
            assert np.isnan(flux[~good]).all()


def test_a_stranger_is_refused():
    selection = read_products("null")
    stranger = int(selection["candidate"].values[selection["split"].values == "train"][0])
    with pytest.raises(KeyError, match=f"galaxy {stranger} is not one of the .* test galaxies"):
        mzr.rebuild_galaxy(stranger, "null")


@pytest.mark.parametrize("row", [3, 1900])
def test_a_rebuilt_spectrum_has_the_lines_of_the_table(row):
    samples = read_lines()
    spectrum = mzr.rebuild_galaxy(int(samples["original"]["candidate"].values[row]))
    wavelength = spectrum["wavelength"].values
    near, around = abs(wavelength - LINES["Hα"]) < 8, abs(wavelength - LINES["Hα"] - 60) < 25
    for source in ("original", "DESI-like", "de-noised"):
        flux = spectrum["flux"].sel(source=source).values
        height = np.nanmax(flux[near]) - np.nanmedian(flux[around])
        fitted = samples[source].isel(galaxy=row).sel(line="Hα")
        # The line stands in the stars' absorption line.
        assert height == pytest.approx(float(fitted["line_peak"]), abs=0.012)
