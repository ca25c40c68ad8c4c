"""Line-of-sight velocity dispersion: a Gaussian convolution in log wavelength, for many galaxies at once."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.sparse import csr_array

from spectool.wavelength import rebin_matrix

KM_S = 299792.458
STEP = 60.0
COARSE = 400.0
PAD = 2500.0


@dataclass(frozen=True)
class Plan:
    """Where to broaden, and how to come back to the output's pixels.

    Broadening only matters where pixels are narrower than lines. There, spectra are built on pixels of 60 km/s
    (a little beyond, so that the ends do not wrap around), convolved by FFT and rebinned; elsewhere they are
    built on the output's pixels at once.

    Attributes
    ----------
    edges : Tensor, shape (n + 1,), float64
        Edges of the output's pixels [Angstrom].
    parts : tuple of ndarray
        Edges of the internal pixels: bluer than the section, the section, redder. Empty parts are left out.
    section : slice or None
        The section's place among the internal pixels.
    first, last : int
        The output's pixels that the section is rebinned to.
    operator : scipy.sparse.csr_array, shape (last - first, section), or None
        Rebins the section to the output's pixels.
    """

    edges: torch.Tensor
    parts: tuple
    section: slice | None
    first: int
    last: int
    operator: csr_array | None


def make_plan(edges, available):
    """Plan for output pixels ``edges`` from a grid that covers ``available`` (both [Angstrom])."""
    tensor = torch.from_numpy(np.asarray(edges, float).copy())
    speed = np.diff(edges) / (0.5 * (edges[1:] + edges[:-1])) * KM_S
    fine = np.flatnonzero(speed < COARSE)
    if fine.size == 0:
        return Plan(tensor, (np.asarray(edges),), None, 0, 0, None)
    first, last = int(fine[0]), int(fine[-1]) + 1
    section_edges = _section_edges(edges[first], edges[last], available)
    parts = [edges[: first + 1], section_edges, edges[last:]]
    start = first
    return Plan(
        edges=tensor,
        parts=tuple(part for part in parts if len(part) > 1),
        section=slice(start, start + section_edges.size - 1),
        first=first,
        last=last,
        operator=csr_array(rebin_matrix(section_edges, edges[first : last + 1]).astype("f4")),
    )


def _section_edges(low, high, available):
    """Uniform in log wavelength, with room at both ends, a length that FFT likes, inside what is available."""
    step = STEP / KM_S
    low = max(np.log(low) - PAD / KM_S, np.log(available[0]))
    high = min(np.log(high) + PAD / KM_S, np.log(available[-1]))
    count = next_fast_len(int(np.ceil((high - low) / step)), real=True)
    return np.exp(np.linspace(low, high, count + 1))


def broaden(flux, dispersion, plan):
    """Convolve with a Gaussian in velocity and return to the output's pixels.

    The two rebinnings, in and out of the internal pixels of width w, smooth like a variance of w^2 / 12 each, which
    is taken off the Gaussian's: dispersions down to 25 km/s are exact to second order.

    Parameters
    ----------
    flux : Tensor, shape (galaxy, m)
        On the plan's internal pixels.
    dispersion : Tensor, shape (galaxy,)
        [km/s]
    plan : Plan

    Returns
    -------
    Tensor, shape (galaxy, n)
    """
    if plan.section is None:
        return flux
    section = flux[:, plan.section]
    step = float(
        np.log(plan.parts[1][1] / plan.parts[1][0]) if plan.section.start else _log_step(plan.parts[0])
    )
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


def _log_step(edges):
    return np.log(edges[1] / edges[0])
