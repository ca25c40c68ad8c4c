"""Eqs. 3-5 of Scourfield et al. (2023)."""

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from spectool.models.denoise import DenseAutoencoder
from spectool.models.training import Step
from spectool.models.vae import kl_per_dimension
from spectool.papers.scourfield2023.network import pixel_weights, weighted_loss, weighted_squares

TINY = {"n_pixels": 30, "n_latent": 2, "widths": (12, 8), "dropout": 0.0}


def step():
    return Step(0.0, 0.0, True, torch.Generator().manual_seed(0))


def test_weights_soften_the_best_pixels_and_leave_out_the_bad():
    sigma = np.array([[0.0, 0.001, 0.1, np.nan, np.inf, 0.1]])
    mask = np.array([[False, False, False, False, False, True]])
    weight = pixel_weights(sigma, mask)
    np.testing.assert_allclose(weight, [[0, 1 / 3e-6, 1 / 0.010002, 0, 0, 0]], rtol=1e-6)
    assert weight.dtype == np.float32


def test_reconstruction_is_the_gaussian_log_likelihood_of_the_softened_errors():
    rng = np.random.default_rng(0)
    target, predicted = (torch.from_numpy(rng.normal(size=(4, 30))) for _ in range(2))
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (4, 30)))
    weight = torch.from_numpy(pixel_weights(sigma.numpy(), False)).double()
    softened = Normal(target, (sigma**2 + 2e-6).sqrt())
    expected = (softened.log_prob(target) - softened.log_prob(predicted)).sum(dim=1)
    torch.testing.assert_close(weighted_squares(predicted, target, weight), expected, rtol=1e-5, atol=0)


def test_divergence_is_that_of_torch_and_not_the_papers_sign():
    mu, log_var = torch.randn(6, 3), torch.randn(6, 3)
    expected = kl_divergence(Normal(mu, torch.exp(0.5 * log_var)), Normal(0.0, 1.0))
    found = kl_per_dimension(mu, log_var)
    torch.testing.assert_close(found, expected)
    printed = 0.5 * (1 + log_var - mu**2 - log_var.exp())
    torch.testing.assert_close(found, -printed)
    assert (found >= 0).all()


def test_a_vae_minimises_reconstruction_plus_divergence_and_an_ae_the_first():
    batch = {"flux": torch.rand(5, 30), "input": torch.rand(5, 30), "weight": torch.rand(5, 30)}
    vae = weighted_loss(DenseAutoencoder(**TINY), batch, step())
    assert vae["loss"] == vae["reconstruction"] + vae["kl"]
    ae = weighted_loss(DenseAutoencoder(**TINY, variational=False), batch, step())
    assert ae["loss"] == ae["reconstruction"]
    assert "kl" not in ae


def test_the_target_is_the_original_and_masked_pixels_do_not_count():
    model = DenseAutoencoder(**TINY, variational=False)
    batch = {"flux": torch.rand(5, 30), "input": torch.rand(5, 30), "weight": torch.ones(5, 30)}
    predicted = model(batch["input"])[0]
    expected = 0.5 * (predicted - batch["flux"]).square().sum(dim=1).mean()
    torch.testing.assert_close(weighted_loss(model, batch, step())["loss"], expected)
    batch["weight"][:, 7] = 0
    before = weighted_loss(model, batch, step())["loss"]
    batch["flux"][:, 7] = 1e3
    assert weighted_loss(model, batch, step())["loss"] == before
