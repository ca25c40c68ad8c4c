"""Single bursts fitted to narrow bands: the library against synthesize, chi-squares by hand, truths and errors."""

import numpy as np
import pytest
import xarray as xr

from spectool.surveys.jpas import CALIFA_BANDS, measure_bands
from spectool.synth import synthesize
from tests.stars import bare_stars
from tools.make.bursts import fit_bursts, make_burst_library


@pytest.fixture(scope="module")
def library():
    return make_burst_library()


def make_sample(flux, error=None, bands=CALIFA_BANDS):
    both = ("spectrum", "band")
    data = {"flux": (both, flux, {"units": ""})}
    if error is not None:
        data["flux_error"] = (both, error, {"units": ""})
    return xr.Dataset(data, coords={"band": list(bands)})


def test_the_library_is_what_synthesize_makes_of_single_bursts(grid, library):
    rows = np.random.default_rng(0).integers(library.sizes["template"], size=12)
    wanted = library.isel(template=rows)
    mass = np.zeros((12, grid.age.size))
    for row, log_age in enumerate(wanted["log_age"].values):
        mass[row, np.argmin(np.abs(np.log10(grid.age / 1e9) - log_age))] = 1e9
    dust = 0.4 * np.log(10) * wanted["a_v"].values
    galaxies = bare_stars(mass, wanted["log_z"].values, dust2=dust, velocity_dispersion=50.0)
    flux = measure_bands(synthesize(galaxies, grid, nebular=False, progress=False))["flux"].values
    assert np.allclose(flux / flux.mean(axis=1, keepdims=True), wanted["flux"], rtol=5e-3)
    assert np.allclose(library["flux"].mean("band"), 1, atol=1e-5)


def test_chi_squares_are_those_by_hand_and_templates_find_themselves(library):
    rng = np.random.default_rng(1)
    rows = rng.integers(library.sizes["template"], size=20)
    models = library["flux"].values.astype(float)
    error = rng.uniform(0.01, 0.05, (20, 34))
    flux = 7.0 * (models[rows] + error * rng.standard_normal(error.shape))
    sample = make_sample(flux, 7.0 * error)
    sample["mask"] = (("spectrum", "band"), rng.random(flux.shape) < 0.1)
    found = fit_bursts(sample, library, model_error=0.0, batch_size=7, progress=False)
    for row in range(20):
        weight = np.where(sample["mask"].values[row], 0, (7.0 * error[row]) ** -2)
        amplitude = (models @ (weight * flux[row])) / (models**2 @ weight)
        chi2 = ((flux[row] - amplitude[:, None] * models) ** 2) @ weight
        assert np.isclose(found["chi2"][row], chi2.min())
        assert found["best_template"][row] == chi2.argmin()
        share, log_z = np.exp(-0.5 * (chi2 - chi2.min())), library["log_z"].values
        mean = np.average(log_z, weights=share)
        spread = np.sqrt(np.average((log_z - mean) ** 2, weights=share))
        assert np.allclose([found["log_z"][row], found["log_z_error"][row]], [mean, spread], rtol=1e-4)
    exact = fit_bursts(make_sample(models[rows]), library, model_error=1e-4, progress=False)
    assert (exact["best_template"].values == rows).all() and exact["chi2"].max() < 1e-3


def test_errors_are_as_large_as_the_differences_from_the_truth(library):
    """On draws from the library, where chi-square fits are what they claim to be."""
    rng = np.random.default_rng(2)
    rows = rng.integers(library.sizes["template"], size=1500)
    flux = library["flux"].values[rows] * (1 + 0.03 * rng.standard_normal((1500, 34)))
    found = fit_bursts(make_sample(flux), library, model_error=0.03, progress=False)
    for name in ("log_age", "log_z", "a_v"):
        off = found[name].values - library[name].values[rows]
        assert np.isclose((off**2).mean() / (found[f"{name}_error"] ** 2).mean(), 1, atol=0.12), name
        assert abs(off.mean()) < 4 * off.std() / np.sqrt(1500)
    assert float(np.corrcoef(found["log_age"], library["log_age"].values[rows])[0, 1]) > 0.9


def test_scale_and_order_do_not_matter_and_missing_bands_are_left_out(library):
    rng, bands = np.random.default_rng(3), np.array(CALIFA_BANDS)
    flux = library["flux"].values[rng.integers(library.sizes["template"], size=30)].astype(float)
    flux *= 1 + 0.02 * rng.standard_normal(flux.shape)
    order, keep = rng.permutation(34), np.setdiff1d(np.arange(34), [3, 20])
    gone = flux.copy()
    gone[:, [3, 20]] = np.nan
    samples = [make_sample(flux), make_sample(1e-29 * flux[:, order], bands=bands[order])]
    samples += [make_sample(gone), make_sample(flux[:, keep], bands=bands[keep])]
    base, other, without, fewer = (fit_bursts(sample, library, progress=False) for sample in samples)
    xr.testing.assert_allclose(base, other)
    assert (without["n_bands"] == 32).all()
    xr.testing.assert_allclose(without[["log_age", "log_z"]], fewer[["log_age", "log_z"]])


def test_what_cannot_be_fitted_is_named_and_counted(library):
    flux = np.tile(library["flux"].values[100], (4, 1)).astype(float)
    flux[1, 5:] = np.nan
    flux[2] *= -1
    error = np.full(flux.shape, 0.02)
    error[3, :30] = 0
    fitted = fit_bursts(make_sample(flux, error), library, progress=False)
    few = "fewer than 10 bands"
    assert fitted["fit_reason"].values.tolist() == ["", few, "no flux above zero", few]
    assert np.isfinite(fitted["log_age"].values).tolist() == [True, False, False, False]
    assert "3 of 4 spectra not fitted" in fitted.attrs["history"]
