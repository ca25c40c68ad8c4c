"""Losses of variational autoencoders: eq. 8 of Marziano (2024), and two remedies for entangled dimensions.

Each loss is called as ``loss(model, batch, step)`` with ``batch["flux"]`` (B, N) the truth,
``batch["input"]`` what the encoder reads if that differs (noise), ``batch["mask"]`` (B, N) what it does not
see; it gives a dict of scalars, means over the batch, among them ``"loss"``, which
`spectool.models.training.fit` minimises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def kl_per_dimension(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Divergence of N(mu, sigma) from N(0, 1), nat, (B, n_latent): the terms of eq. 7 of Marziano (2024)."""
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1.0)


def _forward(model, batch, step):
    flux = batch["flux"]
    recon, mu, log_var = model(batch.get("input", flux), batch.get("mask"), step.generator)
    return (flux - recon).square().sum(dim=1).mean(), mu, log_var, recon


@dataclass(frozen=True)
class BetaLoss:
    """Eq. 8 of Marziano (2024): summed squared error + beta * KL, per spectrum.

    Attributes
    ----------
    beta
        Weight of the divergence (Higgins et al. 2016).
    start, over
        Begin with this beta and change it geometrically to `beta` over this fraction of the training. A
        `start` far above `beta` opens the dimensions one after the other, the most useful first, where a
        constant beta lets many share the same information and takes long to close them again (the idea of the
        annealed capacity of Burgess et al. 2018, in terms of beta). None = constant. Validation always uses
        `beta`.
    """

    beta: float = 0.3
    start: float | None = None
    over: float = 0.6

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        squared, mu, log_var, _ = _forward(model, batch, step)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        beta = anneal(self.beta, self.start, self.over, step)
        return {"loss": squared + beta * kl, "squared_error": squared, "kl": kl}


@dataclass(frozen=True)
class CapacityLoss:
    """Controlled capacity: summed squared error + gamma * |KL - C|, C growing linearly from 0 to `capacity`.

    Attributes
    ----------
    capacity
        Final information of the latent vector, nat.
    gamma
        Weight, large compared with beta.
    growth
        Fraction of the training over which C grows.

    References
    ----------
    Burgess et al. (2018), "Understanding disentangling in beta-VAE", eq. 8.
    """

    capacity: float = 25.0
    gamma: float = 10.0
    growth: float = 0.7

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        squared, mu, log_var, _ = _forward(model, batch, step)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        target = self.capacity * _ramp(step, self.growth)
        return {"loss": squared + self.gamma * (kl - target).abs(), "squared_error": squared, "kl": kl}


@dataclass(frozen=True)
class TotalCorrelationLoss:
    """beta-TCVAE: the KL of eq. 8 taken apart, and its total-correlation part weighted up.

    KL = index-code mutual information + total correlation + dimension-wise KL; the loss is
    squared error + beta * (mutual information + dimension-wise KL) + beta * tc * total correlation, so that
    ``tc=1`` is eq. 8. The total correlation is estimated within the batch: make batches of 64 or more.

    Attributes
    ----------
    beta
        As in `BetaLoss`.
    tc
        Extra weight of the total correlation: what entangled dimensions share.
    start, over
        As in `BetaLoss`.

    References
    ----------
    Chen et al. (2018), "Isolating Sources of Disentanglement in VAEs", eqs. 2-5 and appendix C.1.
    """

    beta: float = 0.3
    tc: float = 6.0
    start: float | None = None
    over: float = 0.6

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        flux = batch["flux"]
        mu, log_var = model.encode(batch.get("input", flux), batch.get("mask"))
        if step.generator is None:
            z = mu
        else:
            eps = torch.randn(mu.shape, generator=step.generator, device=step.generator.device).to(mu)
            z = mu + torch.exp(0.5 * log_var) * eps
        squared = (flux - model.decode(z)).square().sum(dim=1).mean()
        parts = decompose_kl(z, mu, log_var)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        beta = anneal(self.beta, self.start, self.over, step)
        # The exact KL carries the low-variance part of the gradient; the estimate adds only the extra weight.
        loss = squared + beta * (kl + (self.tc - 1.0) * parts["total_correlation"])
        return {"loss": loss, "squared_error": squared, "kl": kl, **parts}


def decompose_kl(z, mu, log_var) -> dict[str, torch.Tensor]:
    """Estimate of the three parts of the mean KL, nat, the aggregate posterior being the batch's mixture.

    Parameters
    ----------
    z, mu, log_var
        (B, D) draws and the posteriors that they come from.

    Returns
    -------
    dict
        ``mutual_information`` of the latent vector with the index of the spectrum, ``total_correlation`` of the
        aggregate posterior, ``dimension_kl``: their sum is a draw's log q(z|x) - log p(z). The first cannot
        exceed ln B. Minibatch-weighted sampling (Chen et al. 2018, eq. S6) differs from this by constants in the
        number of training spectra, which no gradient sees.
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


def anneal(beta: float, start: float | None, over: float, step) -> float:
    """Beta at this step, on its way from `start` to `beta` over a fraction `over` of the training."""
    done = _ramp(step, over)
    return beta if start is None or done >= 1.0 else start ** (1.0 - done) * beta**done


def _ramp(step, over: float) -> float:
    return 1.0 if over <= 0 or not step.training else min(1.0, step.fraction / over)
