"""De-noisers applied to samples: what comes out, what is refused, and that errors are what they say."""

import numpy as np
import pytest

from spectool.models.denoise import (
    denoise,
    draw_errors,
    fit_pca,
    flux_errors,
    sample_denoised,
    sample_posterior,
)
from spectool.papers.scourfield2023.network import score
from tools.make.flux_errors import fit_flux_errors


@pytest.fixture(scope="module")
def errors(trained):
    valid = trained["samples"]["valid"]
    denoised = denoise(trained["model"], valid)
    residual = denoised["flux"].values - valid["truth"].values
    return fit_flux_errors(denoised["latent"].values, residual, seed=0)


def test_noise_goes_and_the_galaxy_stays(trained):
    test = trained["samples"]["test"]
    denoised = denoise(trained["model"], test)
    before, after = (
        np.mean((x - test["truth"].values) ** 2) for x in (test["noisy"].values, denoised["flux"].values)
    )
    assert after < 0.04 * before
    assert denoised["flux"].dims == ("galaxy", "wavelength")
    assert denoised["latent"].shape == (1000, 3)
    np.testing.assert_array_equal(denoised["candidate"], test["candidate"])
    assert not {"ivar", "mask", "truth", "noisy"} & set(denoised.data_vars)
    assert all("units" in v.attrs for v in denoised.data_vars.values())


def test_a_vae_beats_pca_with_as_many_dimensions(trained):
    data = trained["data"]
    pca = fit_pca(data["train"]["input"], n_latent=3)
    assert score(trained["model"], data["test"])[0]["loss"] < score(pca, data["test"])[0]["loss"]


def test_bad_spectra_are_counted_and_harm_no_other(trained):
    test = trained["samples"]["test"].isel(galaxy=slice(0, 5)).copy(deep=True)
    expected = denoise(trained["model"], test)["flux"].values
    test["noisy"][1] = np.nan
    test["mask"][2] = True
    test["noisy"][3, 10] = np.nan
    found = denoise(trained["model"], test)
    assert found["flux"].attrs["n_unusable"] == 2
    assert np.isnan(found["flux"].values[1:3]).all()
    assert np.isfinite(found["flux"].values[3]).all()
    np.testing.assert_allclose(found["flux"].values[[0, 4]], expected[[0, 4]], atol=1e-6)


def test_wrong_samples_are_told(trained):
    model, test = trained["model"], trained["samples"]["test"]
    with pytest.raises(ValueError, match="no 'noisy'"):
        denoise(model, test.drop_vars("noisy"))
    with pytest.raises(ValueError, match="reads 120 pixels"):
        denoise(model, test.isel(wavelength=slice(0, 50)))
    with pytest.raises(ValueError, match="another wavelength grid"):
        denoise(model, test.assign_coords(wavelength=test["wavelength"] * 1.01))
    with pytest.raises(ValueError, match=r"summed flux of 7\.5.*training to 7"):
        denoise(model, test.assign_attrs(constant=7.5))
    with pytest.raises(ValueError, match="no posterior"):
        sample_posterior(fit_pca(test["noisy"].values, n_latent=2), test, n=1, seed=0)
    with pytest.raises(ValueError, match="no errors"):
        sample_denoised(denoise(model, test), {}, n=1, seed=0)
    with pytest.raises(KeyError, match="without errors"):
        denoise(model, test, errors={})


def test_errors_cover_68_percent_everywhere(trained, errors):
    test = trained["samples"]["test"]
    denoised = denoise(trained["model"], test, errors=errors)
    within = np.abs(denoised["flux"].values - test["truth"].values) < denoised["flux_error"].values
    assert within.mean() == pytest.approx(0.68, abs=0.03)
    # Not only over all: in the line, and for strong and weak lines alike.
    line = within[:, 88:93]
    assert line.mean() == pytest.approx(0.68, abs=0.08)
    strong = test["line_strength"].values > np.median(test["line_strength"].values)
    assert abs(line[strong].mean() - line[~strong].mean()) < 0.12


def test_errors_grow_with_what_they_depend_on():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(4000, 2))
    sigma = np.exp(0.5 * latent[:, :1]) * np.linspace(1, 3, 30)
    found = fit_flux_errors(latent, sigma * rng.normal(size=(4000, 30)), seed=0)
    new = rng.normal(size=(200, 2)).clip(-2, 2)
    expected = np.exp(0.5 * new[:, :1]) * np.linspace(1, 3, 30)
    assert np.median(np.abs(flux_errors(found, new) / expected - 1)) < 0.06
    assert np.isnan(flux_errors(found, np.full((1, 2), np.nan))).all()
    with pytest.raises(ValueError, match="too few"):
        fit_flux_errors(latent[:8], np.ones((8, 30)), seed=0)


def test_draws_have_the_errors_size_and_the_residuals_correlation():
    rng = np.random.default_rng(1)
    shape = np.exp(-0.5 * ((np.arange(40) - np.array([[10], [30]])) / 4.0) ** 2)
    residual = rng.normal(size=(3000, 2)) @ shape + 0.2 * rng.normal(size=(3000, 40))
    found = fit_flux_errors(rng.normal(size=(3000, 1)), residual, seed=0)
    errors = flux_errors(found, np.zeros((1, 1)))
    draws = draw_errors(found, errors, n=4000, seed=2)[:, 0]
    np.testing.assert_allclose(draws.std(axis=0), errors[0], rtol=0.06)
    expected, seen = np.corrcoef(residual.T), np.corrcoef(draws.T)
    assert np.abs(expected - seen).max() < 0.12
    np.testing.assert_array_equal(draws, draw_errors(found, errors, n=4000, seed=2)[:, 0])


def test_draws_scatter_about_the_prediction(trained, errors):
    test = trained["samples"]["test"].isel(galaxy=slice(0, 20))
    denoised = denoise(trained["model"], test, errors=errors)
    draws = sample_denoised(denoised, errors, n=300, seed=0)
    assert draws.dims == ("draw", "galaxy", "wavelength")
    pull = (draws.mean("draw") - denoised["flux"]) / denoised["flux_error"] * 300**0.5
    assert float(np.abs(pull).max()) < 5.5
    narrow = sample_posterior(trained["model"], test, n=5, seed=0)
    assert narrow.shape == (5, 20, 120)
    assert (narrow.std("draw") > 0).all()
