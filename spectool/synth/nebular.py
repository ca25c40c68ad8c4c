"""Nebular lines and continuum, and low-ionisation lines of gas that is not photo-ionised by young stars."""

import numpy as np
import torch

from spectool.spectra import FWHM_TO_SIGMA, KM_S, pixel_edges
from spectool.synth.dust import interpolation_weights

_REACH = 4.5


def nebular_weights(young_mass, age_edges, stars_rate, gas_metallicity, log_u, grid):
    """Weights of the grid's models for a batch of galaxies."""
    age_share = _age_shares(age_edges, grid.age_edges)
    photons = np.einsum("gza,za,ab->gb", young_mass, stars_rate, age_share, optimize=True)
    reference = gas_metallicity @ grid.ionizing_rate
    equivalent_mass = (photons / reference).astype("f4")
    by_log_u = interpolation_weights(log_u, grid.log_u)
    return np.einsum("gz,gu,gb->gzub", gas_metallicity, by_log_u, equivalent_mass).reshape(len(photons), -1)


def _age_shares(fine, coarse):
    """Share of each fine age bin that falls into each coarse one, shape (fine, coarse)."""
    low, high = np.maximum.outer(fine[:-1], coarse[:-1]), np.minimum.outer(fine[1:], coarse[1:])
    return np.clip(high - low, 0, None) / np.diff(fine)[:, None]


def continuum_factors(grid, wavelength):
    """The nebular continuum on given pixels as a product of two small matrices."""
    left, right = grid.continuum_components
    nodes = grid.continuum_wavelength
    drawn = np.stack([np.interp(wavelength, nodes, component) for component in right])
    return torch.from_numpy(left.astype("f4")), torch.from_numpy(drawn.astype("f4"))


def add_lines(flux, edges, wavelength, luminosity, dispersion, fwhm):
    """Add Gaussian emission lines to spectra in place, integrated exactly over each pixel."""
    lsf = fwhm * FWHM_TO_SIGMA
    reach = _REACH * np.hypot(wavelength * (float(dispersion.max()) / KM_S), lsf)
    pixels = edges.numpy()
    first = np.maximum(np.searchsorted(pixels, wavelength - reach) - 1, 0)
    last = np.minimum(np.searchsorted(pixels, wavelength + reach), len(pixels) - 1)
    centres = torch.from_numpy(wavelength.astype("f4"))
    inverse = 0.5**0.5 / torch.sqrt(torch.outer(dispersion / KM_S, centres) ** 2 + lsf**2)
    half, density = 0.5 * luminosity, 1.0 / torch.diff(edges).float()
    for i in np.flatnonzero(last > first):
        window = slice(first[i], last[i])
        offset = (edges[first[i] : last[i] + 1] - wavelength[i]).float()
        cumulative = torch.outer(inverse[:, i], offset).erf_()
        share = (cumulative[:, 1:] - cumulative[:, :-1]).mul_(density[window])
        flux[:, window].addcmul_(share, half[:, i, None])


# Lines of O+, S+ and of neutral oxygen and nitrogen within the optical, by their names in the grid.
LOW_IONISATION = ("O 2 3726", "O 2 3729", "Blnd 7323", "Blnd 7332", "S 2 4069", "S 2 4076")
LOW_IONISATION += ("S 2 6716", "S 2 6731", "O 1 5577", "O 1 6300", "O 1 6364", "N 1 5200")


def low_ionisation_offset(log_z_gas):
    """Correction of the grid's low-ionisation lines [dex]: 0 to 0.27 solar, -0.48 from 0.7 solar."""
    return np.clip(-0.48 - 1.15 * (np.asarray(log_z_gas) + 0.15), -0.48, 0.0)


def mend_low_ionisation(sample):
    """Scale the low-ionisation lines of star-forming gas in spectra that are synthesized already."""
    where = np.flatnonzero(np.isin(sample["line"].values, LOW_IONISATION))
    lines = sample["line_luminosity"].transpose("galaxy", "line").values.copy()
    change = 10.0 ** low_ionisation_offset(sample["log_z_gas"].values)[:, None] - 1
    light = (lines[:, where] * change).astype("f4")
    lines[:, where] += light
    flux = sample["flux"].transpose("galaxy", "wavelength").values.copy()
    dispersion = sample["gas_dispersion" if "gas_dispersion" in sample else "velocity_dispersion"].values
    draw_lines(flux, torch.from_numpy(light), where, sample, dispersion)
    return replace_light(sample, flux, lines)


def draw_lines(flux, luminosity, where, sample, dispersion):
    """Add those lines of a sample that stand at the places `where` to its flux (an array), in place."""
    edges = torch.from_numpy(pixel_edges(sample["wavelength"].values))
    width = torch.from_numpy(dispersion.astype("f4"))
    at = sample["line_wavelength"].values[where]
    add_lines(torch.from_numpy(flux), edges, at, luminosity, width, sample.attrs.get("fwhm", 2.5))


def replace_light(sample, flux, lines):
    """The sample with other spectra (galaxy, wavelength) and luminosities of lines (galaxy, line)."""
    return sample.assign(
        flux=(("galaxy", "wavelength"), flux, sample["flux"].attrs),
        line_luminosity=(("galaxy", "line"), lines, sample["line_luminosity"].attrs),
    )
