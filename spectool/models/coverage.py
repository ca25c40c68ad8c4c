"""Augmentation: hide parts of the spectra while training, so that the encoder copes with missing pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class RandomCoverage:
    """Masks wavelengths of each spectrum at random, anew for each batch; for the `augment` of `fit`.

    A fraction `full` of the spectra stays whole. Half of the others are seen by a survey: only
    `observed` / (1 + z) is left, z uniform in `redshift`. The rest keeps one random window that spans at
    least `shortest` of ln(wavelength). Up to `max_gaps` gaps of `gap` Angstrom are cut into all that is not
    whole.

    Attributes
    ----------
    wavelength
        (N,) Angstrom, rest frame.
    full
        Fraction left whole.
    observed, redshift
        Range of a survey's spectrograph, Angstrom, and of its redshifts.
    shortest
        Shortest random window, as a fraction of the whole range in ln(wavelength).
    max_gaps, gap
        Most gaps (bad columns, sky lines) and the range of their widths, Angstrom.
    keep
        Range, Angstrom, that every window holds: without the normalisation's own pixels no spectrum comes in.
    """

    wavelength: np.ndarray
    full: float = 0.5
    observed: tuple[float, float] = (3800.0, 9200.0)
    redshift: tuple[float, float] = (0.0, 0.3)
    shortest: float = 0.15
    max_gaps: int = 4
    gap: tuple[float, float] = (5.0, 60.0)
    keep: tuple[float, float] = (5000.0, 5500.0)

    def __call__(self, batch: dict, step) -> dict:
        """The batch with ``mask`` widened."""
        hidden = self.draw(len(batch["flux"]), step.generator)
        return {**batch, "mask": hidden | batch["mask"] if "mask" in batch else hidden}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Masks (n, N), True = hidden."""

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

        wave = torch.tensor(np.array(self.wavelength, dtype=np.float32), device=generator.device)
        low, high = self._windows(uniform, float(wave[0]), float(wave[-1]))
        hidden = (wave < low[:, None]) | (wave > high[:, None])
        if self.max_gaps:
            centre = uniform(0.0, 1.0, self.max_gaps) * (high - low)[:, None] + low[:, None]
            half = 0.5 * uniform(*self.gap, self.max_gaps)
            half = half * (uniform(0.0, 1.0, self.max_gaps) < 0.5)
            for k in range(self.max_gaps):
                hidden |= (wave - centre[:, k : k + 1]).abs() < half[:, k : k + 1]
        return hidden & (uniform(0.0, 1.0) >= self.full)[:, None]

    def _windows(self, uniform, first: float, last: float):
        shrink = 1.0 + uniform(*self.redshift)
        survey_low, survey_high = self.observed[0] / shrink, self.observed[1] / shrink
        span = np.log(last / first)
        length = span * uniform(self.shortest, 1.0)
        start = np.log(first) + uniform(0.0, 1.0) * (span - length)
        low = torch.exp(start).clamp(max=self.keep[0])
        high = torch.exp(start + length).clamp(min=self.keep[1])
        by_survey = uniform(0.0, 1.0) < 0.5
        return torch.where(by_survey, survey_low, low), torch.where(by_survey, survey_high, high)


def survey_mask(wavelength: np.ndarray, redshift, observed=(3800.0, 9200.0)) -> np.ndarray:
    """Masks (n, N), True = outside a survey's range, of galaxies at these redshifts (n,).

    Parameters
    ----------
    wavelength
        (N,) Angstrom, rest frame.
    redshift
        (n,) or a number.
    observed
        First and last wavelength that the survey records, Angstrom.
    """
    seen = np.asarray(wavelength)[None, :] * (1.0 + np.atleast_1d(redshift)[:, None])
    return (seen < observed[0]) | (seen > observed[1])
