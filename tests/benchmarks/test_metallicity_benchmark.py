import numpy as np
import pytest
import xarray as xr

from benchmarks.metallicity import require_agreement, write_map
from spectool.continuum import stack_wavelength


def found(values):
    return xr.Dataset({"log_z_predicted": ("galaxy", np.asarray(values, float))})


def test_a_speed_for_other_metallicities_does_not_count():
    require_agreement([0.1, -0.2, -0.5], found([0.11, -0.2]))
    with pytest.raises(ValueError, match=r"off by 0\.100 dex"):
        require_agreement([0.1, -0.2, -0.5], found([0.2, -0.1]))


def test_the_map_holds_the_galaxies_in_order_and_then_again(rng, tmp_path):
    wavelength, dims = stack_wavelength(), ("galaxy", "wavelength")
    flux = 1 + rng.random((3, 1)) * (wavelength / 5000 - 1)
    sample = xr.Dataset(
        {
            "flux": (dims, flux),
            "ivar": (dims, np.full(flux.shape, 400.0)),
            "mask": (dims, np.zeros(flux.shape, bool)),
            "norm": ("galaxy", np.ones(3)),
        },
        coords={"wavelength": wavelength},
    )
    write_map(tmp_path, sample, np.array([0.0, 100.0, 200.0]), 10)
    written = np.load(tmp_path / "flux.npy")
    table = xr.load_dataset(tmp_path / "table.nc", engine="h5netcdf")
    rows = np.array([0, 100, 200]).searchsorted(table["extra_fwhm"].values)
    assert rows[:3].tolist() == [0, 1, 2] and written.shape == (10, 3251)
    np.testing.assert_allclose(written, flux[rows][:, 350:3601], rtol=1e-3)
    np.testing.assert_allclose(table["chunk_sigma"].values.mean(), 0.05, rtol=0.2)
