"""What pPXF cannot fit is explained, counted, and stops no batch."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure import lines_ppxf
from spectool.measure.line_design import MEASURED
from spectool.measure.lines_ppxf import fit_lines
from spectool.prepare import resample
from spectool.spectra import LINES

from .line_mocks import make_mocks


def fit(sample, **options):
    return fit_lines(sample, n_workers=1, progress=False, **options)


@pytest.fixture(scope="module")
def mocks(grid):
    return make_mocks(grid, 9, seed=4, sn=25, strength=3.0)


@pytest.fixture(scope="module")
def few(mocks):
    return mocks.isel(galaxy=slice(6))


def spoil(sample):
    """One bad spectrum of each kind: (message, sample)."""
    flux, ivar = sample["flux"].values.copy(), sample["ivar"].values.copy()
    mask = sample["mask"].values.copy()
    wavelength = sample["wavelength"].values
    mask[0] = True
    flux[1] = np.nan
    flux[2] = 0
    flux[3] = -np.abs(flux[3])
    mask[4, 40:] = True
    mask[5, np.abs(wavelength - LINES["Hα"]) < 25] = True
    flux[6, 100:110], flux[6, 200] = np.nan, np.inf
    ivar[7, wavelength > 6650] = 0
    dims = ("galaxy", "wavelength")
    return sample.assign(flux=(dims, flux, sample["flux"].attrs), ivar=(dims, ivar), mask=(dims, mask))


def test_bad_spectra_are_explained_and_stop_no_other(mocks):
    table = fit(spoil(mocks.isel(galaxy=slice(9))))
    messages = list(table["fit_message"].values)
    assert messages[0].startswith("no good pixel")
    assert messages[1].startswith("no good pixel")
    assert messages[2] == "the flux is zero in all good pixels"
    assert messages[3] == "the mean flux is negative: was too much sky subtracted?"
    assert messages[4] == "only 40 good pixels of 825"
    np.testing.assert_array_equal(table["fit_status"], [1, 1, 1, 1, 1, 0, 0, 0, 0])
    assert np.isnan(table["line_flux"].values[:5]).all()
    gap = np.isnan(table["line_flux"].values[5])
    assert [name for name, lost in zip(MEASURED, gap, strict=True) if lost] == [
        "[N II] 6548",
        "Hα",
        "[N II] 6583",
    ]
    assert np.isfinite(table["line_flux"].values[6]).all()
    cut = np.isnan(table["line_flux"].values[7])
    assert [name for name, lost in zip(MEASURED, cut, strict=True) if lost] == ["[S II] 6716", "[S II] 6731"]
    history = table.attrs["history"].splitlines()[-1]
    assert "9 spectra, 5 with bad input, 0 failed" in history
    assert "Hα: 1" in history
    assert "836 pixels with flux not finite left out" in history


def test_an_unknown_redshift_is_that_galaxys_trouble(mocks):
    moved = mocks.isel(galaxy=slice(3)).assign(redshift=("galaxy", [0.0, np.nan, -0.5]))
    table = fit(moved.rename(wavelength="observed_wavelength").swap_dims(observed_wavelength="wavelength"))
    np.testing.assert_array_equal(table["fit_status"], [0, 1, 1])
    assert "without redshift" in str(table["fit_message"].values[1])


def test_without_a_line_in_range_the_stars_are_fitted(few):
    part = few.sel(wavelength=few["wavelength"][(few["wavelength"] > 5320) & (few["wavelength"] < 5680)])
    table = fit(part)
    assert set(table["fit_status"].values) == {0}
    assert np.isnan(table["line_flux"]).all()
    assert np.isfinite(table["chi2"]).all()


def test_a_fit_that_fails_is_recorded(few, monkeypatch):
    call, count = lines_ppxf._call_ppxf, iter(range(100))

    class Stuck:
        def __init__(self, fit):
            self.sol, self.status = fit.sol, 0

    def sometimes(spectrum, kinds):
        k = next(count)
        if k == 1:
            raise np.linalg.LinAlgError("SVD did not converge")
        found = call(spectrum, kinds)
        return Stuck(found) if k == 3 else found

    monkeypatch.setattr(lines_ppxf, "_call_ppxf", sometimes)
    table = fit(few)
    np.testing.assert_array_equal(table["fit_status"], [0, 2, 0, 2, 0, 0])
    assert str(table["fit_message"].values[1]) == "LinAlgError: SVD did not converge"
    assert "not converged" in str(table["fit_message"].values[3])
    assert np.isnan(table["line_flux"].values[[1, 3]]).all()
    assert "2 failed" in table.attrs["history"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variable": "model"}, "no variable `model`"),
        ({"lines": ("Hα", "H-alpha")}, "no line 'H-alpha'"),
        ({"lines": ()}, "at least one line"),
        ({"kinematics": "loose"}, "'free' or 'fixed'"),
        ({"gas_dispersion": -5.0}, "gas_dispersion must be positive"),
        ({"lsf": np.nan}, "must be finite"),
        ({"templates": "some"}, "'compact', 'full'"),
    ],
)
def test_what_cannot_be_done_is_said(few, options, message):
    with pytest.raises(ValueError, match=message):
        fit(few, **options)


def test_pixels_have_to_be_uniform_in_log_wavelength(few, grid):
    linear = np.linspace(3800, 7000, 400)
    with pytest.raises(ValueError, match="uniform in log wavelength"):
        fit(resample(few, linear))
    with pytest.raises(ValueError, match="the sample holds no galaxy"):
        fit(few.isel(galaxy=slice(0)))
    bare = xr.Dataset({"flux": few["flux"].drop_vars("wavelength")})
    with pytest.raises(ValueError, match="no wavelengths"):
        fit(bare)
