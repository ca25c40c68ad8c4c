"""How wide the lines of spectra are, instrument and galaxy together, and what they lack to a common width.

Measured on strong lines of stacked spectra, it grows with stellar mass; galaxies that are too noisy to be measured are
broadened by what their mass lacks to 330 km/s (Zahid et al. 2019, Section 3.1).
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.measure.line_design import DOUBLETS, gaussian_on_pixels, select_populations
from spectool.measure.line_spectra import read_spectra
from spectool.spectra import FWHM_TO_SIGMA, KM_S, LINES, pixel_edges
from spectool.surveys.spectrograph import blur
from spectool.synth.grid import embedded_grid

TARGET = 330.0  # km/s
FITTED = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
WINDOWS = ((4790.0, 5080.0), (6480.0, 6800.0))  # Angstrom, rest
TRIALS = 100.0 * 1.05 ** np.arange(46)  # km/s, to 900
MIN_SN = 10.0
# Stars beneath the lines: their Balmer absorption would make emission look narrower.
STARS = ((3e6, 1e8, 1e9, 1e10), (-0.4, 0.0))
_BATCH = 64


def spectral_fwhm(sample):
    """Total width [km/s] of strong emission lines, one for all lines of a spectrum at rest, with its error and S/N.

    Gaussians of one width in velocity are fitted on stars and a straight line per window, at each of `TRIALS` widths;
    chi2 has its minimum where a parabola through the three lowest puts it. NaN where lines are too weak, absent or
    wider or narrower than all trials. The width of the spectrum's own pixels is not in it.
    """
    row_dim = next(str(d) for d in sample["flux"].dims if d != "wavelength")
    sample = sample.rename({row_dim: "galaxy"}) if row_dim != "galaxy" else sample
    sample = sample if "ivar" in sample else sample.assign(ivar=xr.ones_like(sample["flux"]))
    spectra = read_spectra(sample, "flux", 0.0)
    wavelength, inside = spectra.wavelength, np.zeros(spectra.wavelength.size, bool)
    for low, high in WINDOWS:
        here = (wavelength >= low) & (wavelength <= high)
        if here.sum() < 30:
            raise ValueError(f"the sample has only {here.sum()} pixels within {low:.0f}-{high:.0f} A")
        inside |= here
    flux, weight = (values[:, inside] for values in spectra.weights(slice(None)))
    flux, designs = np.where(weight > 0, flux, 0), _designs(wavelength, inside, embedded_grid())
    rows = (slice(k, k + _BATCH) for k in range(0, len(flux), _BATCH))
    width, error, sn = np.concatenate([_widths(flux[some], weight[some], designs) for some in rows]).T
    weak, units = ~(sn >= MIN_SN), {"units": "km / s"}
    return xr.Dataset(
        {
            "spectral_fwhm": (row_dim, np.where(weak, np.nan, width), units),
            "spectral_fwhm_error": (row_dim, np.where(weak, np.nan, error), units),
            "fwhm_sn": (row_dim, sn, {"units": ""}),
        }
    )


def _designs(wavelength, inside, grid):
    """Columns of the fit at each trial width, (trial, pixel, column); the first `len(FITTED)` are lines."""
    edges, centres = pixel_edges(wavelength), wavelength[inside]
    straight = []
    for first, last in WINDOWS:
        here = (centres >= first) & (centres <= last)
        straight += [here.astype(float), np.where(here, (centres - first) / (last - first) - 0.5, 0.0)]
    fine = np.exp(np.arange(np.log(WINDOWS[0][0] * 0.98), np.log(WINDOWS[-1][1] * 1.02), 30.0 / KM_S))
    age, metal = select_populations(grid, STARS)
    stars = grid.rebinned_flux(fine)[np.ix_(metal, age)].reshape(-1, fine.size - 1).astype(float)
    stars /= np.median(stars, axis=1, keepdims=True)
    middle = np.sqrt(fine[1:] * fine[:-1])
    own = grid.fwhm / middle * KM_S
    designs = []
    for width in TRIALS:
        lines = []
        for name in FITTED:
            weak, share = DOUBLETS.get(name, (name, 0.0))
            both = ((LINES[n], LINES[n] * width / KM_S * FWHM_TO_SIGMA) for n in (name, weak))
            strong, other = (gaussian_on_pixels(edges, *line)[inside] for line in both)
            lines.append(strong + share * other)
        sigma = np.sqrt(np.clip(width**2 - own**2, 0, None)) * FWHM_TO_SIGMA / 30.0
        blurred = blur(stars, np.broadcast_to(np.maximum(sigma, 0.1), stars.shape))
        blurred = [np.interp(centres, middle, s) for s in blurred]
        designs.append(np.stack([*lines, *straight, *blurred], axis=1))
    return np.stack(designs)


def _widths(flux, weight, designs):
    """FWHM, its error and the lines' signal to noise, (galaxy, 3)."""
    chi2 = np.empty((len(flux), len(designs)))
    gain = np.empty_like(chi2)
    for k, design in enumerate(designs):
        chi2[:, k] = _chi2(flux, weight, design)
        gain[:, k] = _chi2(flux, weight, design[:, len(FITTED) :]) - chi2[:, k]
    count = (weight > 0).sum(axis=1)
    best = chi2.argmin(axis=1)
    middle = np.clip(best, 1, len(TRIALS) - 2)
    rows = np.arange(len(flux))
    before, here, after = (chi2[rows, middle + k] for k in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        curvature = before - 2 * here + after
        shift = 0.5 * (before - after) / curvature
        step = np.log(TRIALS[1] / TRIALS[0])
        width = TRIALS[middle] * np.exp(step * shift)
        scatter = here / np.maximum(count - designs.shape[2] - 1, 1)
        error = width * step * np.sqrt(2 * scatter / curvature)
        sn = np.sqrt(np.maximum(gain[rows, best], 0) / np.maximum(scatter, 1e-30))
    useless = (best != middle) | ~(curvature > 0) | (count < 2 * designs.shape[2])
    return np.where(useless[:, None], np.nan, np.stack([width, error, sn], axis=1))


def _chi2(flux, weight, design):
    """Of the best linear fit, per galaxy."""
    left = np.einsum("gp,pc,pd->gcd", weight, design, design, optimize=True)
    right = (weight * flux) @ design
    scale = np.sqrt(np.maximum(np.einsum("gcc->gc", left), 1e-300))
    # The columns of stars are alike, and a spectrum may lack a window: the pseudo-inverse leaves out what it lacks.
    inverse = np.linalg.pinv(left / scale[:, :, None] / scale[:, None, :], rcond=1e-11, hermitian=True)
    solution = np.einsum("gcd,gd->gc", inverse, right / scale) / scale
    return (weight * (flux - solution @ design.T) ** 2).sum(axis=1)


@dataclass(frozen=True)
class WidthMassRelation:
    """Width of lines as a function of stellar mass."""

    log_mass: np.ndarray
    fwhm: np.ndarray
    scatter: float

    def __call__(self, log_mass):
        """Width [km/s] at a mass [dex Msun]."""
        return np.interp(np.asarray(log_mass, float), self.log_mass, self.fwhm)


def fit_width_mass(stacks):
    """The relation of width and mass, a polynomial through what stacks say.

    Parameters
    ----------
    stacks : Dataset
        ``log_mass`` and, unless it is measured here, ``spectral_fwhm``.

    Returns
    -------
    WidthMassRelation
        Between the lightest and the heaviest stack with a width. It does not fall with mass: where the polynomial
        does, it stays as wide.

    Raises
    ------
    ValueError
        If fewer than four stacks have a width.
    """
    widths = stacks if "spectral_fwhm" in stacks else stacks.assign(spectral_fwhm(stacks).data_vars)
    mass, fwhm = widths["log_mass"].values.astype(float), widths["spectral_fwhm"].values.astype(float)
    known = np.isfinite(mass) & np.isfinite(fwhm)
    if known.sum() < 4:
        raise ValueError(f"only {known.sum()} stacks have a line width; a relation needs 4")
    mass, fwhm = mass[known], fwhm[known]
    polynomial = np.polynomial.Polynomial.fit(mass, fwhm, 2)
    nodes = np.linspace(mass.min(), mass.max(), 51)
    scatter = float(np.std(fwhm - polynomial(mass), ddof=3))
    return WidthMassRelation(nodes, np.maximum.accumulate(polynomial(nodes)), scatter)


def extra_fwhm(log_mass, relation):
    """What a galaxy of some mass lacks to `TARGET`, 330 km/s, in quadrature.

    Parameters
    ----------
    log_mass : array_like, shape (galaxy,)
        [dex Msun]
    relation : callable
        Mass to width [km/s], such as `WidthMassRelation`.

    Returns
    -------
    extra : ndarray, shape (galaxy,)
        sqrt(330^2 - width^2) [km/s]; 0 where lines are wider already, NaN where the mass is not
        finite.
    above : ndarray of bool, shape (galaxy,)
        Where they are wider.
    """
    width = np.asarray(relation(log_mass), float)
    width = np.where(np.isfinite(np.asarray(log_mass, float)), width, np.nan)
    return lacking_fwhm(width), width > TARGET


def lacking_fwhm(width):
    """What widths [km/s] lack to `TARGET` in quadrature; 0 above it."""
    return np.sqrt(np.clip(TARGET**2 - np.asarray(width, float) ** 2, 0, None))
