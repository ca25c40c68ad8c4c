"""What holds for every network: files, seeds, rows on their own, and inputs that are not theirs."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.models.bands import NarrowBandCNN, SedMLP
from spectool.models.chunked import ChunkedMLP
from spectool.models.denoise import DenseAutoencoder, NoiseAwareAutoencoder, denoise, fit_pca
from spectool.models.layers import GaussianMLP
from spectool.models.store import load_model, round_weights, save_model
from spectool.models.vae import ConvBetaVAE, encode_sample
from tests.refusals import refused

N = 121
X = np.random.default_rng(0).normal(1, 0.1, (12, N)).astype("f4")
DIMS = ("galaxy", "wavelength")
BANDS = {"outputs": ["y"], "units": ["dex"], "with_mask": True, "gaussian": True}
NAMES = [f"b{k}" for k in range(60)]
DENSE = {"n_pixels": N, "n_latent": 3, "widths": (100, 90), "dropout": 0.1}
THIN = {"variational": False, "ranks": (None, 5, None, None, 4, None)}
CONV = {"n_pixels": N, "n_latent": 3, "channels": (4, 6), "strides": (4, 2), "hidden": (8,)}


def encoded(model, x):
    return encode_sample(model, xr.Dataset({"flux": (DIMS, x)}))["latent"].values


def denoised(model, x):
    sample = xr.Dataset({"noisy": (DIMS, x), "noisy_sigma": (DIMS, np.full(x.shape, 0.1, "f4"))})
    return denoise(model, sample)["flux"].values


def predicted(model, x):
    answer = model.predict(x)
    return answer if isinstance(answer, np.ndarray) else np.hstack(answer)


NETWORKS = {
    "beta-VAE": (encoded, lambda seed: ConvBetaVAE(**CONV, shortcut=3, seed=seed)),
    "beta-VAE, dense decoder": (encoded, lambda seed: ConvBetaVAE(**CONV, decoder="dense", seed=seed)),
    "PCA": (denoised, lambda seed: fit_pca(X + np.random.default_rng(seed).normal(size=X.shape), n_latent=4)),
    "VAE": (denoised, lambda seed: DenseAutoencoder(**DENSE, seed=seed)),
    "thin AE": (denoised, lambda seed: DenseAutoencoder(**DENSE, **THIN, seed=seed)),
    "noise-aware": (denoised, lambda seed: NoiseAwareAutoencoder(n_pixels=N, seed=seed)),
    "Gaussian": (predicted, lambda seed: GaussianMLP(n_in=N, n_out=2, names=["a", "b"], seed=seed)),
    "chunked": (predicted, lambda seed: ChunkedMLP(wavelength=np.arange(N) + 4050.0, seed=seed)),
    "narrow bands": (predicted, lambda seed: NarrowBandCNN(bands=NAMES, **BANDS, seed=seed)),
    "broad bands": (predicted, lambda seed: SedMLP(bands=NAMES, hidden=(9,), **BANDS, seed=seed)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network with statistics, what it makes of spectra, and spectra."""
    ask, make = NETWORKS[request.param]
    model = make(1).eval()
    for name, value in model.state_dict().items():
        if name not in dict(model.named_parameters()):
            value += 0.3
    width = next(getattr(model, name) for name in ("n_in", "n_kept", "n_pixels") if hasattr(model, name))
    return model, ask, X[:, :width]


@pytest.mark.parametrize("form", [{}, {"half": True}, {"int8": True}], ids=["whole", "half", "int8"])
def test_a_stored_network_is_the_same(network, form, tmp_path):
    model, ask, x = network
    if form:
        round_weights(model, int8="int8" in form)
    path = save_model(tmp_path / "net", model, recipe={"n": 10}, metrics={}, **form)
    again, info = load_model(path, expected=type(model).__name__)
    assert info.config == model.config and info.recipe == {"n": 10} and not again.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=0)
    np.testing.assert_allclose(ask(again, x), ask(model, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_seed_is_a_network(name):
    first, again, other = (NETWORKS[name][1](seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


def test_rows_are_on_their_own(network):
    model, ask, x = network
    answer = ask(model, x)
    np.testing.assert_allclose(np.concatenate([ask(model, x[:5]), ask(model, x[5:])]), answer, atol=1e-5)
    bad = x.copy()
    bad[5] = np.nan
    seen = ask(model, bad)
    np.testing.assert_array_equal(np.isnan(seen), np.arange(len(x))[:, None] == 5 + np.zeros(seen.shape))
    np.testing.assert_allclose(np.delete(seen, 5, 0), np.delete(answer, 5, 0), atol=1e-5)


def test_other_inputs_are_refused(network):
    model, ask, x = network
    refused("do not fit", ask, model, x[:, 1:])


IMPOSSIBLE = {
    "increasing row": lambda: ChunkedMLP(wavelength=np.arange(60.0)[::-1]),
    "20 pixels cannot be cut into 25 chunks": lambda: ChunkedMLP(wavelength=np.arange(20.0)),
    "1 units for 2 outputs": lambda: ChunkedMLP(wavelength=np.arange(60.0), outputs=("a", "b")),
    "3 names for 2 outputs": lambda: GaussianMLP(n_in=2, n_out=2, names=["a", "b", "c"]),
    "comes twice": lambda: NarrowBandCNN(bands=["a", "a"], **BANDS),
    "cannot be pooled": lambda: NarrowBandCNN(bands=["a", "b"], **BANDS),
    "0 units for 1 outputs": lambda: SedMLP(bands=NAMES, hidden=(9,), **BANDS | {"units": []}),
    "scaling must be": lambda: SedMLP(bands=NAMES, hidden=(9,), scaling="log", **BANDS),
    "has 6 components, not 7": lambda: fit_pca(X, n_latent=6).use(7),
    "needs components of shape": lambda: ConvBetaVAE(**CONV, shortcut=3).set_components(np.zeros((2, N))),
    "mean must be 121 finite numbers": lambda: DenseAutoencoder(**DENSE).set_statistics(np.full(N, np.nan)),
    "scale must be 121 finite numbers": lambda: DenseAutoencoder(**DENSE).set_statistics(0.0, np.ones(3)),
    "scale must be positive": lambda: DenseAutoencoder(**DENSE).set_statistics(0.0, -1.0),
    "output 1 has no finite value": lambda: GaussianMLP(n_in=N, n_out=2).set_statistics(
        X, X[:, :2] * [1, np.nan]
    ),
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_impossible_networks_and_statistics_are_named(message):
    refused(message, IMPOSSIBLE[message])
