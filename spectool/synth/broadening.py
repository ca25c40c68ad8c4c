"""Velocity dispersion, and SSPs at one common resolution."""

from types import SimpleNamespace

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.sparse import csr_array
from scipy.special import ndtr

from spectool.spectra import FWHM_TO_SIGMA, KM_S, pixel_edges, rebin_matrix

_STEP = 60.0
_COARSE = 400.0
_PAD = 2500.0


def make_plan(edges, available):
    """Plan for output pixels ``edges`` from a grid that covers ``available`` (both [Angstrom])."""
    tensor = torch.from_numpy(np.asarray(edges, float).copy())
    speed = np.diff(edges) / (0.5 * (edges[1:] + edges[:-1])) * KM_S
    fine = np.flatnonzero(speed < _COARSE)
    if fine.size == 0:
        return SimpleNamespace(edges=tensor, parts=(np.asarray(edges),), section=None)
    first, last = int(fine[0]), int(fine[-1]) + 1
    section_edges = _section_edges(edges[first], edges[last], available)
    parts = [edges[: first + 1], section_edges, edges[last:]]
    return SimpleNamespace(
        edges=tensor,
        parts=tuple(part for part in parts if len(part) > 1),
        section=slice(first, first + section_edges.size - 1),
        first=first,
        last=last,
        operator=csr_array(rebin_matrix(section_edges, edges[first : last + 1]).astype("f4")),
    )


def _section_edges(low, high, available):
    """Uniform in log wavelength, with room at both ends, a length that FFT likes, inside what is available."""
    step = _STEP / KM_S
    low = max(np.log(low) - _PAD / KM_S, np.log(available[0]))
    high = min(np.log(high) + _PAD / KM_S, np.log(available[-1]))
    count = next_fast_len(int(np.ceil((high - low) / step)), real=True)
    return np.exp(np.linspace(low, high, count + 1))


def broaden_batch(flux, dispersion, plan):
    """Convolve with a Gaussian in velocity and return to the output's pixels."""
    if plan.section is None:
        return flux
    section = flux[:, plan.section]
    edges = plan.parts[1] if plan.section.start else plan.parts[0]
    step = float(np.log(edges[1] / edges[0]))
    size = section.shape[1]
    frequency = torch.fft.rfftfreq(size) * (2 * np.pi / step)
    variance = torch.clamp((dispersion / KM_S) ** 2 - step**2 / 6, min=0)
    transfer = torch.exp_(torch.outer(-0.5 * variance, frequency**2))
    section = torch.fft.irfft(torch.fft.rfft(section).mul_(transfer), n=size)
    result = torch.empty(flux.shape[0], len(plan.edges) - 1)
    result[:, : plan.first] = flux[:, : plan.section.start]
    result[:, plan.last :] = flux[:, plan.section.stop :]
    # One sparse product costs a tenth of gathering the columns.
    result[:, plan.first : plan.last] = torch.from_numpy(plan.operator @ section.numpy().T).T
    return result


_REACH = 6.0
_BLOCK = 128


def grid_fwhm(grid, wavelength):
    """Resolution of an SSP grid."""
    nodes = grid.provenance.get("resolution")
    if nodes is None:
        return np.full(np.shape(wavelength), float(grid.fwhm))
    return np.interp(wavelength, nodes["wavelength"], nodes["fwhm"])


def smooth_ssps(grid, wavelength, fwhm):
    """SSP spectra broadened to a width that is the same at all wavelengths in velocity."""
    wavelength = np.asarray(wavelength, float)
    variance = (wavelength * fwhm / KM_S) ** 2 - grid_fwhm(grid, wavelength) ** 2
    box = np.interp(wavelength, grid.wavelength, np.diff(grid.edges))
    variance = variance * FWHM_TO_SIGMA**2 - box**2 / 12
    if not np.all(variance > 0):
        worst = wavelength[np.argmin(variance)]
        own = grid_fwhm(grid, np.array([worst]))[0] / worst * KM_S
        raise ValueError(
            f"the grid {grid.provenance.get('name')} has a resolution of {own:.0f} km/s (FWHM) at {worst:.0f} A: "
            f"its spectra cannot be brought to {fwhm:g} km/s"
        )
    sigma = np.sqrt(variance)
    edges = pixel_edges(wavelength)
    if edges[0] < grid.edges[0] or edges[-1] > grid.edges[-1]:
        raise ValueError(
            f"wavelengths {wavelength[0]:.0f}-{wavelength[-1]:.0f} A reach beyond the grid's "
            f"{grid.edges[0]:.0f}-{grid.edges[-1]:.0f} A"
        )
    result = np.empty((*grid.flux.shape[:2], wavelength.size), "f4")
    for first in range(0, wavelength.size, _BLOCK):
        part = slice(first, first + _BLOCK)
        result[..., part] = _smooth_block(grid, wavelength[part], sigma[part])
    return result


def _smooth_block(grid, centre, sigma):
    """SSPs (Z, a, block) at some pixels, each with its own Gaussian; kernels are renormalised at the grid's ends."""
    low = np.searchsorted(grid.edges, (centre - _REACH * sigma).min()) - 1
    high = np.searchsorted(grid.edges, (centre + _REACH * sigma).max()) + 1
    low, high = max(low, 0), min(high, grid.edges.size)
    kernel = np.diff(ndtr((grid.edges[low:high] - centre[:, None]) / sigma[:, None]), axis=1)
    kernel /= kernel.sum(1, keepdims=True)
    return grid.flux[..., low : high - 1] @ kernel.T.astype("f4")
