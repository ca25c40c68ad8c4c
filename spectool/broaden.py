"""Broaden spectra to a common width: Gaussians constant in velocity, for many galaxies at once.

Individual galaxies of the SDSS are broadened to the 330 km/s of the models before their metallicity is read
(Zahid et al. 2019, Section 3.1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr

from spectool.spectra import KM_S, pixel_edges

_REACH = 5.0
_BLOCK = 64


@dataclass(frozen=True)
class Broadening:
    """The operator of one width."""

    sigma: float
    n_in: int
    n_out: int
    blocks: tuple

    def apply(self, flux: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Broaden a batch."""
        if out is None:
            out = torch.empty(len(flux), self.n_out)
        for source, target, matrix in self.blocks:
            torch.mm(flux[:, source], matrix, out=out[:, target])
        return out

    def reach(self, first: int, last: int) -> slice:
        """Input pixels that the output pixels from `first` to before `last` may depend on."""
        met = [source for source, target, _ in self.blocks if target.start < last and target.stop > first]
        return slice(met[0].start, met[-1].stop)

    def transpose(self, values: np.ndarray) -> np.ndarray:
        """Apply the transposed operator to rows (k, n_out): what a sum over output pixels takes from each input."""
        result = np.zeros((len(values), self.n_in), values.dtype)
        for source, target, matrix in self.blocks:
            result[:, source] += values[:, target] @ matrix.numpy().T
        return result


def make_broadening(sigma, wavelength, *, keep=None):
    """Operator that broadens by a Gaussian constant in velocity."""
    sigma = float(sigma)
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"broadening by {sigma} km/s: it must be a number, 0 or more")
    wavelength = np.asarray(wavelength, float)
    edges = np.log(pixel_edges(wavelength))
    n = wavelength.size
    kept = np.arange(n) if keep is None else np.flatnonzero(keep)
    width = np.diff(edges)
    spread = width * _gaussian_width((sigma / KM_S / width) ** 2)
    reach = np.ceil(_REACH * spread / width + 0.5).astype(int)
    most = int(reach.max())
    shares = _shares(edges, np.log(wavelength), np.maximum(spread, 1e-12), most)
    # A column of zeros at either end, for the corners of a block that are off the band.
    shares = np.pad(shares, ((0, 0), (1, 1))).astype("f4")
    blocks = []
    for first in range(0, kept.size, _BLOCK):
        outs = kept[first : first + _BLOCK]
        halo = reach[max(outs[0] - most, 0) : outs[-1] + most + 1].max()
        source = slice(max(outs[0] - halo, 0), min(outs[-1] + halo + 1, n))
        step = np.clip(np.arange(source.start, source.stop)[:, None] - outs, -most - 1, most + 1)
        matrix = torch.from_numpy(shares[outs, step + most + 1])
        blocks.append((source, slice(first, first + outs.size), matrix))
    return Broadening(sigma, n, kept.size, tuple(blocks))


def _gaussian_width(variance):
    """Standard deviation of the Gaussian that has a variance after integration over pixels (of width 1)."""
    # Above a width of 1 the variances simply add, to 1e-6.
    width, pixel = np.linspace(1e-3, 1, 1000)[:, None], np.arange(1, 9)
    tails = ndtr(-(pixel - 0.5) / width) - ndtr(-(pixel + 0.5) / width)
    integrated = 2 * (pixel**2 * tails).sum(axis=1)
    narrow = np.interp(variance, np.append(0, integrated), np.append(0, width))
    return np.where(variance < integrated[-1], narrow, np.sqrt(np.clip(variance - 1 / 12, 0, None)))


def _shares(edges, places, spread, reach):
    """What output pixel k takes from input pixel k + j, in column j + reach: (n, 2 reach + 1); rows sum to 1."""
    n = places.size
    result = np.zeros((n, 2 * reach + 1))
    for step in range(-reach, reach + 1):
        outs = slice(max(-step, 0), min(n - step, n))
        ins = slice(outs.start + step, outs.stop + step)
        low, high = edges[outs], edges[outs.start + 1 : outs.stop + 1]
        upper = ndtr((high - places[ins]) / spread[ins])
        result[outs, step + reach] = upper - ndtr((low - places[ins]) / spread[ins])
    return result / result.sum(axis=1, keepdims=True)


def fill_bad(flux, bad):
    """Replace bad pixels by straight lines between their good neighbours, in place; at the ends by the nearest."""
    n = flux.shape[1]
    row, column = np.divmod(np.flatnonzero(bad), n)
    if not row.size:
        return flux
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(column) != 1) | (np.diff(row) != 0)]))
    ends = np.append(starts[1:], row.size) - 1
    length = ends - starts + 1
    left, right = np.repeat(column[starts] - 1, length), np.repeat(column[ends] + 1, length)
    no_left, no_right = left < 0, right >= n
    blue, red = np.where(no_left, right, left), np.where(no_right, left, right)
    empty = no_left & no_right
    blue, red = np.where(empty, 0, blue), np.where(empty, 0, red)
    share = np.where(red > blue, (column - blue) / np.maximum(red - blue, 1), 0).astype(flux.dtype)
    low, high = np.where(empty, 0, flux[row, blue]), np.where(empty, 0, flux[row, red])
    flux[row, column] = low + share * (high - low)
    return flux


def broaden(flux, sigma, wavelength, *, bad=None, keep=None, step=0.0):
    """Broaden spectra by Gaussians constant in velocity (in Angstrom they widen with wavelength)."""
    flux = np.array(flux, dtype=np.float32, ndmin=2)
    wavelength = np.asarray(wavelength, float)
    if flux.shape[1] != wavelength.size:
        raise ValueError(f"spectra of {flux.shape[1]} pixels, but {wavelength.size} wavelengths")
    sigma = np.broadcast_to(np.asarray(sigma, float), len(flux))
    wrong = np.flatnonzero(~(np.isfinite(sigma) & (sigma >= 0)))
    if wrong.size:
        raise ValueError(f"sigma of galaxy {wrong[0]} is {sigma[wrong[0]]} km/s: it must be 0 or more")
    unknown = ~np.isfinite(flux)
    fill_bad(flux, unknown if bad is None else unknown | np.asarray(bad, bool))
    if step > 0:
        sigma = np.round(sigma / step) * step
    values, which = np.unique(sigma, return_inverse=True)
    n_out = wavelength.size if keep is None else int(np.count_nonzero(keep))
    out = np.empty((len(flux), n_out), np.float32)
    for k, value in enumerate(values):
        rows = np.flatnonzero(which == k)
        out[rows] = make_broadening(value, wavelength, keep=keep).apply(torch.from_numpy(flux[rows])).numpy()
    return out
