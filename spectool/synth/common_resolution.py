"""Simple stellar populations at one width in velocity, as Zahid et al. (2019, Section 3.1) compare spectra."""

import numpy as np
from scipy.special import ndtr

from spectool.synth.nebular import FWHM_TO_SIGMA, KM_S
from spectool.wavelength import pixel_edges

REACH = 6.0
BLOCK = 128


def grid_fwhm(grid, wavelength):
    """Resolution of an SSP grid.

    Parameters
    ----------
    grid : SSPGrid
        `grid.fwhm` holds in all the optical, unless ``provenance["resolution"]`` says more (``wavelength`` and
        ``fwhm``, two lists in Angstrom), as for FSPS.
    wavelength : array_like, shape (n,)
        [Angstrom]

    Returns
    -------
    ndarray, shape (n,)
        FWHM [Angstrom].
    """
    nodes = grid.provenance.get("resolution")
    if nodes is None:
        return np.full(np.shape(wavelength), float(grid.fwhm))
    return np.interp(wavelength, nodes["wavelength"], nodes["fwhm"])


def smooth_ssps(grid, wavelength, fwhm):
    """SSP spectra broadened to a width that is the same at all wavelengths in velocity.

    Each pixel's Gaussian is what lacks in quadrature, its integral over the grid's pixels exact. A grid's own pixels
    are boxes of variance w^2 / 12, which is taken off.

    Parameters
    ----------
    grid : SSPGrid
    wavelength : array_like, shape (n,)
        Pixel centres, vacuum, rest frame [Angstrom].
    fwhm : float
        Total width [km/s], the grid's own resolution included.

    Returns
    -------
    ndarray, shape (Z, a, n), float32
        [Lsun / Angstrom / Msun]

    Raises
    ------
    ValueError
        If the grid does not cover the wavelengths, or its resolution is lower than what is asked for.
    """
    wavelength = np.asarray(wavelength, float)
    variance = (wavelength * fwhm / KM_S) ** 2 - grid_fwhm(grid, wavelength) ** 2
    variance = (
        variance * FWHM_TO_SIGMA**2 - np.interp(wavelength, grid.wavelength, np.diff(grid.edges)) ** 2 / 12
    )
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
    for first in range(0, wavelength.size, BLOCK):
        part = slice(first, first + BLOCK)
        result[..., part] = _smooth_block(grid, wavelength[part], sigma[part])
    return result


def _smooth_block(grid, centre, sigma):
    """SSPs (Z, a, block) at some pixels, each with its own Gaussian; kernels are renormalised at the grid's ends."""
    low = np.searchsorted(grid.edges, (centre - REACH * sigma).min()) - 1
    high = np.searchsorted(grid.edges, (centre + REACH * sigma).max()) + 1
    low, high = max(low, 0), min(high, grid.edges.size)
    kernel = np.diff(ndtr((grid.edges[low:high] - centre[:, None]) / sigma[:, None]), axis=1)
    kernel /= kernel.sum(1, keepdims=True)
    return grid.flux[..., low : high - 1] @ kernel.T.astype("f4")
