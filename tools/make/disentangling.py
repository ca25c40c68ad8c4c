"""Two other losses for a beta-VAE, against entangled dimensions: controlled capacity, and total correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from spectool.models.layers import draw_latent
from spectool.models.vae import BetaLoss, kl_per_dimension, ramp


@dataclass(frozen=True)
class CapacityLoss:
    """Controlled capacity: summed squared error + gamma * |KL - C|, C growing linearly from 0 to `capacity`.

    Burgess et al. (2018), "Understanding disentangling in beta-VAE", eq. 8.
    """

    capacity: float = 25.0
    gamma: float = 10.0
    growth: float = 0.7

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        parts = BetaLoss()(model, batch, step)
        excess = (parts["kl"] - self.capacity * ramp(step, self.growth)).abs()
        return parts | {"loss": parts["squared_error"] + self.gamma * excess}


@dataclass(frozen=True)
class TotalCorrelationLoss(BetaLoss):
    """beta-TCVAE: the KL of eq. 8 taken apart, and its total-correlation part weighted up."""

    tc: float = 6.0

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        flux = batch["flux"]
        mu, log_var = model.encode(batch.get("input", flux), batch.get("mask"))
        z = draw_latent(mu, log_var, step.generator)
        squared = (flux - model.decode(z)).square().sum(dim=1).mean()
        parts = decompose_kl(z, mu, log_var)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        # The exact KL carries the low-variance part of the gradient; the estimate adds only the extra weight.
        loss = squared + self.beta_at(step) * (kl + (self.tc - 1.0) * parts["total_correlation"])
        return {"loss": loss, "squared_error": squared, "kl": kl, **parts}


def decompose_kl(z, mu, log_var) -> dict[str, torch.Tensor]:
    """Estimate of the three parts of the mean KL, nat, the aggregate posterior being the batch's mixture.

    Minibatch-weighted sampling (Chen et al. 2018, eq. S6) differs from this by constants in the number of training
    spectra, which no gradient sees.
    """
    log_norm = math.log(len(z))
    pair = _log_normal(z[:, None, :], mu[None], log_var[None])
    log_q = torch.logsumexp(pair.sum(dim=2), dim=1) - log_norm
    log_marginals = (torch.logsumexp(pair, dim=1) - log_norm).sum(dim=1)
    log_posterior = _log_normal(z, mu, log_var).sum(dim=1)
    log_prior = _log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(dim=1)
    return {
        "mutual_information": (log_posterior - log_q).mean(),
        "total_correlation": (log_q - log_marginals).mean(),
        "dimension_kl": (log_marginals - log_prior).mean(),
    }


def _log_normal(x, mu, log_var):
    return -0.5 * (math.log(2 * math.pi) + log_var + (x - mu).square() * torch.exp(-log_var))
