"""Noise and gaps while a network for narrow bands trains: the augmentation that the paper went without."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spectool.models.band_inputs import MAG_PER_LN, MIN_SN
from spectool.models.cnn import ERROR_RANGE, NarrowBandCNN


@dataclass(frozen=True)
class NoisyBands:
    """Adds noise to each spectrum, and hides bands, anew for each batch; for the `augment` of `fit`.

    A share `clean` of the spectra stays free of noise. For the others, the signal-to-noise ratio of the
    band of mean magnitude is drawn, uniform in its logarithm, from `sn`. The noise of the bands has one flux per
    spectrum, as that of the sky, times a factor per band (log-normal, `jitter` in ln). Fluxes that come out below
    `MIN_SN` are missing, as in `read_bands`. A share `gaps` of all spectra loses a run of bands at an end, of up
    to half of all, as when a spectrum or a redshift does not cover them, and each other band with a chance below 0.3.

    Attributes
    ----------
    model
        With channels for errors and missing bands.
    """

    model: NarrowBandCNN
    clean: float = 0.2
    sn: tuple[float, float] = (5.0, 200.0)
    jitter: float = 0.3
    gaps: float = 0.3

    def __post_init__(self):
        if not (self.model.with_errors and self.model.with_mask):
            raise ValueError("noise is for a network that takes errors in and does with missing bands")

    def __call__(self, batch: dict, step) -> dict:
        """The batch with noise and gaps in ``x``."""
        return {**batch, "x": self.disturb(batch["x"], step.generator)}

    def disturb(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Encoded inputs (N, n_in) of noise-free spectra, with noise and gaps."""
        n, n_bands = len(x), len(self.model.bands)
        magnitude, _, missing = x.unflatten(1, (3, n_bands)).unbind(1)

        def random(*shape):
            return torch.rand(n, *shape, generator=generator)

        low, high = self.sn
        factor = torch.exp(self.jitter * torch.randn(n, n_bands, generator=generator))
        relative = factor * (low / high) ** random(1) / low * 10 ** (0.4 * magnitude)
        noisy = random(1) >= self.clean
        relative = torch.where(noisy, relative, 0.0)
        flux = 1.0 + relative * torch.randn(n, n_bands, generator=generator)
        gone = (missing > 0) | (flux <= 0) | (flux < MIN_SN * relative)
        gone |= self._gaps(random, n_bands) & (random(1) < self.gaps)
        flux = torch.where(gone, 1.0, flux)
        magnitude = torch.where(gone, 0.0, magnitude - MAG_PER_LN * torch.log(flux))
        error = torch.where(gone, 0.0, MAG_PER_LN * relative / flux)
        return torch.cat([magnitude, torch.log10(error.clamp(*ERROR_RANGE)), gone.float()], dim=1)

    @staticmethod
    def _gaps(random, n_bands: int) -> torch.Tensor:
        """Bands to hide (N, band): a run at either end, and some of the others."""
        place = (torch.arange(n_bands) + 0.5) / n_bands
        place = torch.where(random(1) < 0.5, place, 1.0 - place)
        return (place < 0.5 * random(1)) | (random(n_bands) < 0.3 * random(1))
