"""The two losses against entangled dimensions are those of their papers."""

import numpy as np
import pytest
import torch

from spectool.models.training import Step
from spectool.models.vae import BetaLoss, ConvBetaVAE, kl_per_dimension
from tools.make.disentangling import CapacityLoss, TotalCorrelationLoss, decompose_kl


@pytest.fixture(scope="module")
def model():
    return ConvBetaVAE(
        n_pixels=40, n_latent=4, channels=(4,), strides=(4,), hidden=(16,), decoder="dense"
    ).eval()


@pytest.fixture
def batch(rng):
    return {"flux": torch.from_numpy(rng.normal(1, 0.3, (8, 40)).astype(np.float32))}


def test_capacity_loss_pulls_the_divergence_to_its_target(model, batch):
    values = CapacityLoss(capacity=8.0, gamma=5.0, growth=0.5)(
        model, batch, Step(0.0, 0.25, True, torch.Generator().manual_seed(0))
    )
    expected = values["squared_error"] + 5.0 * (values["kl"] - 4.0).abs()
    torch.testing.assert_close(values["loss"], expected)


def test_total_correlation_of_a_correlated_gaussian():
    """With narrow posteriors the aggregate is the data's own Gaussian: TC = -0.5 ln(1 - rho^2)."""
    rho, n = 0.9, 3000
    rng = np.random.default_rng(0)
    mu = torch.from_numpy(rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n))
    log_var = torch.full_like(mu, 2 * np.log(0.1))
    z = mu + 0.1 * torch.from_numpy(rng.normal(size=mu.shape))
    parts = decompose_kl(z, mu, log_var)
    cov = np.array([[1.01, rho], [rho, 1.01]])
    expected = -0.5 * np.log(np.linalg.det(cov) / 1.01**2)
    assert float(parts["total_correlation"]) == pytest.approx(expected, abs=0.06)
    total = float(sum(parts.values()))
    assert total == pytest.approx(float(kl_per_dimension(mu, log_var).sum(1).mean()), rel=0.03)


def test_total_correlation_loss_without_extra_weight_is_equation_8(model, batch):
    steps = [Step(0.0, 1.0, True, torch.Generator().manual_seed(1)) for _ in range(2)]
    plain = BetaLoss(0.3)(model, batch, steps[0])["loss"]
    weighted = TotalCorrelationLoss(beta=0.3, tc=1.0)(model, batch, steps[1])["loss"]
    torch.testing.assert_close(plain, weighted)
