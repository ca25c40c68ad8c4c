"""Stellar templates for pPXF out of an `SSPGrid`: in pPXF's own file format, and on a spectrum's pixels."""

from functools import lru_cache

import numpy as np

from spectool.surveys.sdss import blur
from spectool.surveys.sdss_files import PIXEL_VELOCITY
from spectool.synth.grid import SSPGrid

KM_S = 299792.458
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))

# Ages [yr] and metallicities [log Z / Zsun] that span what galaxies' stars do to emission lines: with the grid's
# other 98 x 7 populations, fluxes change by less than a tenth of their error at 30 per pixel.
COMPACT_AGES = (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 9e8, 3e9, 1e10)
COMPACT_METALLICITIES = (-0.7, 0.0, 0.4)
# Optical depths at 5500 A of the copies behind dust, and the slope of the attenuation (Charlot & Fall 2000). Dust
# between them is a sum of both: non-negative least squares needs no polynomial.
REDDENING = (0.0, 1.2)
DUST_SLOPE = -0.7


def select_populations(grid, selection="compact"):
    """Which populations of a grid serve as templates.

    Parameters
    ----------
    grid : SSPGrid
    selection : {"compact", "full"} or tuple
        "compact": `COMPACT_AGES` by `COMPACT_METALLICITIES`, the grid's nearest; "full": all; or a pair (ages [yr],
        metallicities [log Z / Zsun]) of one's own.

    Returns
    -------
    age_index, metallicity_index : ndarray of int
        Increasing, without repetition.

    Raises
    ------
    ValueError
        If the selection is none of these.
    """
    if isinstance(selection, str):
        if selection == "full":
            return np.arange(len(grid.age)), np.arange(len(grid.metallicity))
        if selection != "compact":
            raise ValueError(f"templates are 'compact', 'full' or (ages, metallicities), not {selection!r}")
        selection = (COMPACT_AGES, COMPACT_METALLICITIES)
    ages, metallicities = (np.atleast_1d(np.asarray(values, float)) for values in selection)
    if not (ages.size and metallicities.size and np.all(ages > 0)):
        raise ValueError("a selection needs at least one positive age [yr] and one metallicity")
    # Grids may hold an age of 0.
    known = np.log(np.maximum(grid.age, 1.0))
    age = np.abs(np.log(ages)[:, None] - known).argmin(1)
    metal = np.abs(metallicities[:, None] - np.log10(grid.metallicity / grid.z_sun)).argmin(1)
    return np.unique(age), np.unique(metal)


def write_ppxf_templates(grid, path, *, selection="full", wavelength_range=(3000.0, 9800.0)):
    """Write a grid as a file that ``ppxf.sps_util.sps_lib`` reads.

    pPXF's examples take it in the place of the libraries that they download. Wavelengths are vacuum.

    Parameters
    ----------
    grid : SSPGrid
    path : path
        ``.npz``
    selection
        See `select_populations`.
    wavelength_range : tuple of float
        What to keep [Angstrom].

    Raises
    ------
    ValueError
        If nothing of the grid lies in the range.
    """
    age, metal = select_populations(grid, selection)
    inside = (grid.wavelength >= wavelength_range[0]) & (grid.wavelength <= wavelength_range[1])
    if not inside.any():
        raise ValueError(f"the grid has no pixel within {wavelength_range[0]:g}-{wavelength_range[1]:g} A")
    flux = grid.flux[np.ix_(metal, age, inside)]
    np.savez_compressed(
        path,
        templates=flux.transpose(2, 1, 0).astype(float),
        lam=grid.wavelength[inside],
        ages=np.maximum(grid.age[age], 1.0) / 1e9,
        metals=np.log10(grid.metallicity[metal] / grid.z_sun),
        masses=grid.surviving_mass[np.ix_(metal, age)].T.astype(float),
        # sps_lib wants one value per wavelength, whatever its docstring says.
        fwhm=np.full(inside.sum(), float(grid.fwhm)),
    )


def template_edges(low, high, step, ratio):
    """Edges of template pixels, uniform in log wavelength, `ratio` of them per pixel of the spectra.

    Parameters
    ----------
    low, high : float
        Range to cover [Angstrom]; 1000 km/s are added at both ends, for the kinematics to move in.
    step : float
        Of the spectra's pixels, in ln(wavelength).
    ratio : int

    Returns
    -------
    ndarray, shape (n + 1,)
        [Angstrom]
    """
    margin = int(np.ceil(1000 / KM_S / step)) * ratio
    count = int(np.ceil(np.log(high / low) / step)) * ratio + 2 * margin
    return np.exp(np.log(low) + step / ratio * (np.arange(count + 1) - margin))


def template_lsf(edges, lsf, ratio):
    """Sigma [km/s] that is left to blur into template pixels, their own width taken off.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
    lsf : ndarray, shape (n,)
        Of the spectra [km/s]; the native pixel is part of it, as in SDSS's ``wdisp``.
    ratio : int

    Returns
    -------
    ndarray, shape (n,)
        [km/s]
    """
    pixel = np.log(edges[1] / edges[0]) * KM_S
    # Spectra on coarser pixels than their native ones were rebinned: the native pixel's width came in twice.
    own = pixel**2 / 12 if ratio == 1 else -(PIXEL_VELOCITY**2) / 12
    return np.sqrt(np.maximum(lsf**2 - own, (0.2 * pixel) ** 2))


def stellar_templates(edges, lsf, *, grid=None, selection="compact", reddening=REDDENING):
    """Populations on log pixels at a spectrum's resolution, with and without dust.

    Flux is conserved in the rebinning. The result is kept in memory for the next call.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
        Vacuum [Angstrom], uniform in log wavelength.
    lsf : ndarray, shape (n,)
        Sigma to reach [km/s] (see `template_lsf`); where the grid is coarser, it stays as it is.
    grid : SSPGrid, optional
        Default: the embedded one.
    selection
        See `select_populations`.
    reddening : tuple of float
        Optical depths at 5500 A.

    Returns
    -------
    ndarray, shape (template, n), float64
        Each divided by its median.

    Raises
    ------
    ValueError
        If the grid covers none of the pixels.
    """
    grid = embedded_grid() if grid is None else grid
    own = selection if isinstance(selection, str) else tuple(tuple(np.ravel(part)) for part in selection)
    key = (edges.size, float(edges[0]), float(edges[-1]), own, tuple(reddening), np.asarray(lsf).tobytes())
    kept = _CACHE.get(key)
    if kept is None or kept[0] is not grid:
        if len(_CACHE) >= _KEPT:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = kept = (grid, _build(edges, lsf, grid, selection, reddening))
    return kept[1]


_CACHE, _KEPT = {}, 4


@lru_cache(maxsize=1)
def embedded_grid():
    """The grid that comes with spectool, read once."""
    return SSPGrid.embedded()


def _build(edges, lsf, grid, selection, reddening):
    age, metal = select_populations(grid, selection)
    centres = np.sqrt(edges[1:] * edges[:-1])
    # Spectra may reach beyond the grid; there the fit uses no pixel, and the templates go on as they end.
    inside = np.flatnonzero((edges >= grid.edges[0]) & (edges <= grid.edges[-1]))
    if inside.size < 2:
        raise ValueError(
            f"wavelengths {edges[0]:.0f}-{edges[-1]:.0f} A lie beyond the grid's "
            f"{grid.edges[0]:.0f}-{grid.edges[-1]:.0f} A"
        )
    ends = (inside[0], centres.size - inside[-1])
    flux = grid.rebinned_flux(edges[inside])[np.ix_(metal, age)].reshape(-1, inside.size - 1)
    flux = np.pad(flux.astype(float), ((0, 0), ends), mode="edge")
    pixel = np.log(edges[1] / edges[0]) * KM_S
    own = grid.fwhm * FWHM_TO_SIGMA / centres * KM_S
    width = np.sqrt(np.clip(np.asarray(lsf) ** 2 - own**2, 0, None)) / pixel
    if width.max() > 0.1:
        flux = blur(flux, np.broadcast_to(width, flux.shape))
    dust = np.exp(-np.multiply.outer(np.asarray(reddening, float), (centres / 5500.0) ** DUST_SLOPE))
    flux = (flux[:, None, :] * dust).reshape(-1, centres.size)
    flux /= np.median(flux, axis=1, keepdims=True)
    flux.flags.writeable = False
    return flux
