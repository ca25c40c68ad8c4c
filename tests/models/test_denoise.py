"""De-noisers: what they are, what comes out of a sample, what is refused, and that errors are what they say."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA

from spectool.models.denoise import DenseAutoencoder, denoise, fit_pca, flux_errors, sample_denoised
from spectool.papers.scourfield2023.network import score
from tests.refusals import refused
from tools.make.references import fit_flux_errors

TINY = {"n_pixels": 40, "n_latent": 3, "widths": (20, 15, 10, 8), "dropout": 0.2}


@pytest.mark.parametrize("k", [2, 6])
def test_reconstructs_as_scikit_learn_does(k):
    flux = np.random.default_rng(0).normal(size=(80, 30)).astype(np.float32)
    model = fit_pca(flux, n_latent=6)
    peer = PCA(k, svd_solver="full").fit(flux)
    expected = peer.inverse_transform(peer.transform(flux))
    again, mu, log_var = model.use(k)(torch.from_numpy(flux))
    np.testing.assert_allclose(again.numpy(), expected, atol=1e-4)
    assert mu.shape == (80, k) and (torch.exp(log_var) == 0).all()
    np.testing.assert_allclose(model.use(k).variance.numpy(), peer.explained_variance_, rtol=1e-4)


def test_an_ae_draws_nothing_and_a_vae_draws_from_its_posterior():
    x = torch.rand(1, 40).expand(20000, 40)
    for variational in (False, True):
        model = DenseAutoencoder(**TINY, variational=variational).eval()
        mean, mu, log_var = model(x)
        drawn, *_ = model(x, None, torch.Generator().manual_seed(0))
        torch.testing.assert_close(mean, model.decode(mu))
        assert torch.equal(mean, drawn) == (not variational)
        assert torch.exp(log_var).max() > 0 if variational else (torch.exp(log_var) == 0).all()
    model.decode = lambda z: z
    z, *_ = model(x, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(z.std(dim=0), torch.exp(0.5 * log_var[0]), rtol=0.03, atol=0)
    torch.testing.assert_close(z.mean(dim=0), mu[0], rtol=0, atol=0.05)


def test_statistics_shift_and_scale_both_ends():
    plain, scaled = (DenseAutoencoder(**TINY, seed=3).eval() for _ in range(2))
    mean, x = torch.linspace(0, 1, 40), torch.rand(4, 40)
    scaled.set_statistics(mean, 0.2)
    torch.testing.assert_close(scaled(x)[0], mean + 0.2 * plain((x - mean) / 0.2)[0])
    hidden, other = torch.zeros(4, 40, dtype=torch.bool), x.clone()
    hidden[:, 5], other[:, 5] = True, torch.nan
    torch.testing.assert_close(scaled.encode(x, hidden)[0], scaled.encode(other, hidden)[0])


@pytest.fixture(scope="module")
def errors(trained):
    valid = trained["samples"]["valid"]
    denoised = denoise(trained["model"], valid)
    residual = denoised["flux"].values - valid["truth"].values
    return fit_flux_errors(denoised["latent"].values, residual, seed=0)


def test_noise_goes_the_galaxy_stays_and_a_vae_beats_pca_with_as_many_dimensions(trained):
    test, data = trained["samples"]["test"], trained["data"]
    denoised = denoise(trained["model"], test)
    before, after = (((x - test["truth"]) ** 2).mean() for x in (test["noisy"], denoised["flux"]))
    assert after < 0.04 * before
    np.testing.assert_array_equal(denoised["candidate"], test["candidate"])
    pca = fit_pca(data["train"]["input"], n_latent=3)
    assert score(trained["model"], data["test"])[0]["loss"] < score(pca, data["test"])[0]["loss"]


def test_wrong_samples_are_told(trained):
    model, test = trained["model"], trained["samples"]["test"]
    moved = test.assign_coords(wavelength=test["wavelength"] * 1.01)
    refused("no 'noisy'", denoise, model, test.drop_vars("noisy"))
    refused("another wavelength grid", denoise, model, moved)
    refused(r"summed flux of 7\.5.*training to 7", denoise, model, test.assign_attrs(constant=7.5))
    refused("no errors", sample_denoised, denoise(model, test), {}, n=1, seed=0)
    refused("without errors", denoise, model, test, error=KeyError, errors={})


def test_errors_cover_68_percent_everywhere_and_draws_scatter_by_them(trained, errors):
    test = trained["samples"]["test"]
    denoised = denoise(trained["model"], test, errors=errors)
    within = np.abs(denoised["flux"].values - test["truth"].values) < denoised["flux_error"].values
    assert within.mean() == pytest.approx(0.68, abs=0.03)
    line = within[:, 88:93]
    assert line.mean() == pytest.approx(0.68, abs=0.08)
    strong = test["line_strength"].values > np.median(test["line_strength"].values)
    assert abs(line[strong].mean() - line[~strong].mean()) < 0.12
    few = denoised.isel(galaxy=slice(0, 20))
    draws = sample_denoised(few, errors, n=300, seed=0)
    pull = (draws.mean("draw") - few["flux"]) / few["flux_error"] * 300**0.5
    assert float(np.abs(pull).max()) < 5.5


def test_errors_grow_with_what_they_depend_on():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(4000, 2))
    sigma = np.exp(0.5 * latent[:, :1]) * np.linspace(1, 3, 30)
    found = fit_flux_errors(latent, sigma * rng.normal(size=(4000, 30)), seed=0)
    new = rng.normal(size=(200, 2)).clip(-2, 2)
    expected = np.exp(0.5 * new[:, :1]) * np.linspace(1, 3, 30)
    assert np.median(np.abs(flux_errors(found, new) / expected - 1)) < 0.06
    assert np.isnan(flux_errors(found, np.full((1, 2), np.nan))).all()
    refused("too few", fit_flux_errors, latent[:8], np.ones((8, 30)), seed=0)


def test_draws_have_the_errors_size_and_the_residuals_correlation():
    rng = np.random.default_rng(1)
    shape = np.exp(-0.5 * ((np.arange(40) - np.array([[10], [30]])) / 4.0) ** 2)
    residual = rng.normal(size=(3000, 2)) @ shape + 0.2 * rng.normal(size=(3000, 40))
    arrays = fit_flux_errors(rng.normal(size=(3000, 1)), residual, seed=0)
    errors, dims = flux_errors(arrays, np.zeros((1, 1))), ("galaxy", "wavelength")
    denoised = xr.Dataset({"flux": (dims, np.zeros((1, 40), "f4")), "flux_error": (dims, errors)})
    draws, again = (sample_denoised(denoised, arrays, n=4000, seed=2).values[:, 0] for _ in range(2))
    np.testing.assert_allclose(draws.std(axis=0), errors[0], rtol=0.06)
    assert np.abs(np.corrcoef(residual.T) - np.corrcoef(draws.T)).max() < 0.12
    np.testing.assert_array_equal(draws, again)
