"""PCA as a model: it is scikit-learn's, with any number of components, and survives the disk."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from spectool.models import store
from spectool.models.denoise import fit_pca


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


def test_round_trip(flux, tmp_path):
    model = fit_pca(flux, np.linspace(3700, 7900, 30), n_latent=4)
    path = store.save_model(tmp_path / "pca", model, recipe={}, metrics={}, int8=True)
    again, info = store.load_model(path, expected="PCAModel", n_latent=4)
    assert info.config == {"n_pixels": 30, "n_latent": 4}
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
