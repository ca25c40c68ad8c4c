"""Training spectra that are made to differ from their library, as real ones and other libraries do."""

from __future__ import annotations

import numpy as np
import torch

from spectool.broaden import make_broadening
from spectool.continuum import ContinuumBasis
from spectool.spectra import SIGMA_TO_FWHM

FWHM = 330.0
LENGTHS = (20.0, 60.0, 150.0)
"""Scales [Angstrom] on which continua differ after division by a polynomial of degree 20, whose own is about 160."""
BLUR = 190.0  # km/s FWHM: spectra of 330 become as wide as 381


class DomainRandomisation:
    """Distort a batch of prepared spectra, each its own way."""

    def __init__(self, wavelength, *, continuum=0.01, depth=0.1, fwhm=(300.0, 370.0), noise=0.005):
        self.continuum, self.depth, self.noise = float(continuum), float(depth), float(noise)
        self.fwhm = tuple(map(float, fwhm))
        kept = np.asarray(wavelength, float)
        whole = np.arange(kept[0], kept[-1] + 0.5)
        keep = np.isin(np.round(whole).astype(int), np.round(kept).astype(int))
        self._place = torch.from_numpy(np.flatnonzero(keep))
        self._n_whole = whole.size
        self._gaps = _straight_lines(keep)
        self._blur = make_broadening(BLUR / SIGMA_TO_FWHM, whole, keep=keep)
        self._correlate = make_broadening(FWHM / SIGMA_TO_FWHM, whole, keep=keep)
        polynomials = ContinuumBasis(whole, keep).vectors
        shapes = [_smooth_shapes(kept, length) for length in LENGTHS]
        self._gain = shapes[-1]
        self._continua = [part - polynomials @ (polynomials.T @ part) for part in shapes]

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Distort a batch."""
        x = self._change_width(x, generator) if self.fwhm != (FWHM, FWHM) else x
        if self.depth:
            gain = torch.randn(len(x), self._gain.shape[1], generator=generator) @ self._gain.T
            x = x * (1 + self.depth * (gain + torch.randn(len(x), 1, generator=generator)))
        distortion = self._draw_continua(len(x), generator) if self.continuum else 0.0
        if self.noise:
            distortion = distortion + self._draw_noise(len(x), generator)
        # A distortion multiplies the spectrum, continuum included.
        return x + (1 + x) * distortion if self.continuum or self.noise else x

    def _uniform(self, n, generator, low=0.0, high=1.0):
        return low + (high - low) * torch.rand(n, 1, generator=generator)

    def _change_width(self, x, generator):
        width = self._uniform(len(x), generator, *self.fwhm)
        whole = x.new_zeros(len(x), self._n_whole)
        whole[:, self._place] = x
        place, left, right, share = self._gaps
        whole[:, place] = whole[:, left] * (1 - share) + whole[:, right] * share
        return x + (width**2 - FWHM**2) / BLUR**2 * (self._blur.apply(whole) - x)

    def _draw_continua(self, n, generator):
        total = 0.0
        for shapes in self._continua:
            amplitude = self._uniform(n, generator, 0.0, self.continuum)
            total = total + amplitude * (torch.randn(n, shapes.shape[1], generator=generator) @ shapes.T)
        return total

    def _draw_noise(self, n, generator):
        white = torch.randn(n, self._n_whole, generator=generator)
        noise = self._correlate.apply(white)
        return noise * (self._uniform(n, generator, 0.0, self.noise) / noise.std())


def _straight_lines(keep):
    """Pixels that are not kept, their kept neighbours, and the right one's share in a straight line between them."""
    kept, missing = np.flatnonzero(keep), np.flatnonzero(~keep)
    after = np.searchsorted(kept, missing)
    left, right = kept[after - 1], kept[after]
    share = ((missing - left) / (right - left)).astype("f4")
    return tuple(torch.from_numpy(a) for a in (missing, left, right, share))


def _smooth_shapes(wavelength, length):
    """Gaussians a `length` wide, (n, k), whose random sums have an rms of about 1."""
    centres = np.arange(wavelength[0] - length, wavelength[-1] + 2 * length, length)
    shapes = np.exp(-0.5 * ((wavelength[:, None] - centres) / (0.6 * length)) ** 2)
    shapes /= np.sqrt((shapes**2).sum(axis=1, keepdims=True))
    return torch.from_numpy(shapes.astype("f4"))


def randomise(prepared, *, seed, **options):
    """A distorted copy of prepared spectra, to look at, or to test a network on."""
    distort = DomainRandomisation(prepared["wavelength"].values, **options)
    generator = torch.Generator().manual_seed(int(seed))
    values = torch.from_numpy(prepared["flux"].values.astype("f4"))
    flux = distort(values, generator).numpy()
    if "mask" in prepared:
        flux = np.where(prepared["mask"].values, 0, flux)
    return prepared.assign(flux=(prepared["flux"].dims, flux, dict(prepared["flux"].attrs)))
