"""De-noisers: what they are, what comes out of a sample, what is refused, and that errors are what they say."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA
from torch import nn

from spectool.models.denoise import (
    DenseAutoencoder,
    denoise,
    fit_pca,
    flux_errors,
    sample_denoised,
)
from spectool.papers.scourfield2023.network import TABLE4, TABLE5, make_model, score
from tools.make.references import fit_flux_errors

TINY = {"n_pixels": 40, "n_latent": 3, "widths": (20, 15, 10, 8), "dropout": 0.2}


@pytest.fixture
def flux():
    return np.random.default_rng(0).normal(size=(80, 30)).astype(np.float32)


@pytest.mark.parametrize("k", [2, 4, 6])
def test_reconstructs_as_scikit_learn_does(flux, k):
    model = fit_pca(flux, n_latent=6).use(k)
    peer = PCA(k, svd_solver="full").fit(flux)
    expected = peer.inverse_transform(peer.transform(flux))
    found, mu, log_var = model(torch.from_numpy(flux))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert mu.shape == (80, k)
    assert (torch.exp(log_var) == 0).all()
    np.testing.assert_allclose(model.variance.numpy(), peer.explained_variance_, rtol=1e-4)


def test_more_components_than_there_are_is_told(flux):
    with pytest.raises(ValueError, match="has 4 components, not 5"):
        fit_pca(flux, n_latent=4).use(5)


def linears(part):
    return [layer for layer in part if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("variational", "table", "coded"), [(False, TABLE4, 1), (True, TABLE5, 2)])
@pytest.mark.parametrize("n_latent", [2, 4, 6, 10])
def test_layers_are_those_of_the_tables(variational, table, coded, n_latent):
    kind = "vae" if variational else "ae"
    model = make_model(kind, n_latent, np.ones((3, 825)), dropout=None)
    widths, rate = table[n_latent]["widths"], table[n_latent]["dropout"]
    assert [x.out_features for x in linears(model.encoder)] == [*widths, coded * n_latent]
    assert [x.out_features for x in linears(model.decoder)] == [*widths[::-1], 825]
    dropouts = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [rate] * 8
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.3] * 8
    assert isinstance(model.encoder[-1], nn.Linear)
    assert isinstance(model.decoder[-1], nn.Linear)


def test_weights_start_as_in_keras_and_by_the_seed():
    one, same, other = (DenseAutoencoder(**TINY, seed=s) for s in (1, 1, 2))
    weight = one.encoder[0].weight
    limit = np.sqrt(6 / (40 + 20))
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.95 * limit
    assert torch.equal(weight, same.encoder[0].weight)
    assert not torch.equal(weight, other.encoder[0].weight)
    assert all((x.bias == 0).all() for x in linears(one.encoder))


def test_an_ae_draws_nothing_and_a_vae_does():
    x = torch.rand(5, 40)
    for variational in (False, True):
        model = DenseAutoencoder(**TINY, variational=variational).eval()
        mean, mu, log_var = model(x)
        drawn, *_ = model(x, None, torch.Generator().manual_seed(0))
        assert torch.equal(mean, model.decode(mu))
        assert torch.equal(mean, drawn) == (not variational)
        assert torch.exp(log_var).max() > 0 if variational else (torch.exp(log_var) == 0).all()


def test_draws_have_the_posteriors_width():
    model = DenseAutoencoder(**TINY).eval()
    x = torch.rand(1, 40).expand(20000, 40)
    seen = []
    model.decode = lambda z: seen.append(z) or z
    _, mu, log_var = model(x, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0].std(dim=0), torch.exp(0.5 * log_var[0]), rtol=0.03, atol=0)
    torch.testing.assert_close(seen[0].mean(dim=0), mu[0], rtol=0, atol=0.05)


def test_statistics_shift_and_scale_both_ends():
    plain, scaled = (DenseAutoencoder(**TINY, seed=3).eval() for _ in range(2))
    mean = np.linspace(0, 1, 40)
    scaled.set_statistics(mean, 0.2)
    x = torch.rand(4, 40)
    expected = (
        torch.as_tensor(mean, dtype=torch.float32) + 0.2 * plain((x - torch.as_tensor(mean).float()) / 0.2)[0]
    )
    torch.testing.assert_close(scaled(x)[0], expected)
    hidden = torch.zeros(4, 40, dtype=torch.bool)
    hidden[:, 5] = True
    other = x.clone()
    other[:, 5] = torch.nan
    torch.testing.assert_close(scaled.encode(x, hidden)[0], scaled.encode(other, hidden)[0])


@pytest.mark.parametrize(("mean", "scale"), [(np.full(40, np.nan), 1.0), (np.zeros(3), 1.0), (0.0, -1.0)])
def test_statistics_that_cannot_be_are_told(mean, scale):
    with pytest.raises(ValueError, match="must be"):
        DenseAutoencoder(**TINY).set_statistics(mean, scale)


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
    arrays = fit_flux_errors(rng.normal(size=(3000, 1)), residual, seed=0)
    errors, dims = flux_errors(arrays, np.zeros((1, 1))), ("galaxy", "wavelength")
    denoised = xr.Dataset({"flux": (dims, np.zeros((1, 40), "f4")), "flux_error": (dims, errors)})
    draws, again = (sample_denoised(denoised, arrays, n=4000, seed=2).values[:, 0] for _ in range(2))
    np.testing.assert_allclose(draws.std(axis=0), errors[0], rtol=0.06)
    assert np.abs(np.corrcoef(residual.T) - np.corrcoef(draws.T)).max() < 0.12
    np.testing.assert_array_equal(draws, again)


def test_draws_scatter_about_the_prediction(trained, errors):
    test = trained["samples"]["test"].isel(galaxy=slice(0, 20))
    denoised = denoise(trained["model"], test, errors=errors)
    draws = sample_denoised(denoised, errors, n=300, seed=0)
    assert draws.dims == ("draw", "galaxy", "wavelength")
    pull = (draws.mean("draw") - denoised["flux"]) / denoised["flux_error"] * 300**0.5
    assert float(np.abs(pull).max()) < 5.5
