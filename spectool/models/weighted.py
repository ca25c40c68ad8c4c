"""Losses weighted by the errors of the fluxes: eqs. 3-5 of Scourfield et al. (2023).

``batch["flux"]`` is the original spectrum, the target, ``batch["input"]`` the noise-added one that the encoder
reads, ``batch["weight"]`` (B, n_pixels) the weights of eq. 3. They are called as those of
`spectool.models.losses`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spectool.models.losses import kl_per_dimension

#: Added to the variance of a pixel, normalised flux squared (Section 3.2, after Portillo et al. 2020).
SOFTENING = 2e-6


def pixel_weights(sigma, mask=None, *, softening: float = SOFTENING) -> np.ndarray:
    """Weights of eq. 3 of Scourfield et al. (2023): 1 / (sigma^2 + softening), 0 where there is no data.

    Parameters
    ----------
    sigma
        (N, n_pixels) flux errors of the original spectra, in units of normalised flux.
    mask
        (N, n_pixels) bool, True = no data. A sigma that is not finite or not positive counts as none.
    softening
        In units of normalised flux squared.

    Returns
    -------
    ndarray
        float32, like `sigma`.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    bad = ~(np.isfinite(sigma) & (sigma > 0))
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    return np.where(bad, 0.0, 1.0 / (np.where(bad, 1.0, sigma) ** 2 + softening)).astype(np.float32)


def weighted_squares(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Half the weighted sum of squared residuals of each spectrum, (B,): eq. 3 before it is summed over spectra."""
    return 0.5 * (weight * (predicted - target).square()).sum(dim=1)


@dataclass(frozen=True)
class WeightedLoss:
    """Eq. 3 (an AE), or minus eq. 4 (a VAE): reconstruction + KL. Means over the batch's spectra.

    Eq. 5 of the paper lacks its minus sign; the divergence added here is
    -1/2 sum(1 + log sigma^2 - mu^2 - sigma^2), which is never negative (Kingma & Welling 2013, appendix B).

    Attributes
    ----------
    beta
        Weight of the divergence; the paper's is 1.
    """

    beta: float = 1.0

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss``, and ``reconstruction`` and ``kl`` that make it up."""
        flux = batch["flux"]
        predicted, mu, log_var = model(batch.get("input", flux), batch.get("mask"), step.generator)
        reconstruction = weighted_squares(predicted, flux, batch["weight"]).mean()
        if not model.variational:
            return {"loss": reconstruction, "reconstruction": reconstruction}
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}
