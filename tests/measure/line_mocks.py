"""Spectra whose lines are known, drawn without the code that measures them."""

import numpy as np
from scipy.stats import norm

from spectool.papers.scourfield2023.sample import rest_wavelength
from spectool.spectra import LINES, pixel_edges
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from tests.samples import make_spectra

FWHM = 2.5
MEASURED = ("[O II] 3726", "[O II] 3729", "Hδ", "Hγ", "[O III] 4363", "Hβ", "[O III] 4959", "[O III] 5007")
MEASURED += ("[O I]", "[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
OTHERS = {"Hε": 3971.20, "H8": 3890.16, "[Ne III]": 3869.86, "He I": 5877.25, "[S III]": 6313.81}
# Members of doublets whose ratio is fixed.
TIED = ("[O II] 3726", "[O III] 4959", "[N II] 6548")
PIXELS = ("galaxy", "wavelength")


def draw_fluxes(n, rng):
    """Line fluxes for a continuum of about 1, of weak and strong lines, doublets in their ratios."""
    h_alpha = 10 ** rng.uniform(-0.3, 2.0, n)
    h_beta = h_alpha / rng.uniform(2.86, 5.0, n)
    flux = {"Hα": h_alpha, "Hβ": h_beta, "Hγ": 0.46 * h_beta, "Hδ": 0.25 * h_beta}
    flux |= {"Hε": 0.15 * h_beta, "H8": 0.2 * h_beta, "[Ne III]": 0.1 * h_beta, "He I": 0.04 * h_alpha}
    flux["[N II] 6583"] = h_alpha * 10 ** rng.uniform(-1.2, 0.2, n)
    flux["[N II] 6548"] = flux["[N II] 6583"] / 3.05
    flux["[O III] 5007"] = h_beta * 10 ** rng.uniform(-0.7, 0.9, n)
    flux["[O III] 4959"] = flux["[O III] 5007"] / 2.98
    flux["[O III] 4363"] = 0.01 * flux["[O III] 5007"]
    flux |= {"[O I]": 0.08 * h_alpha, "[S III]": 0.01 * h_alpha}
    flux |= {"[S II] 6716": 0.25 * h_alpha, "[S II] 6731": 0.19 * h_alpha}
    total = h_beta * 10 ** rng.uniform(-0.2, 0.6, n)
    return flux | {"[O II] 3726": 0.43 * total, "[O II] 3729": 0.57 * total}


def gaussians(edges, centre, flux, velocity, dispersion, lsf):
    flux, velocity, dispersion = np.broadcast_arrays(np.atleast_1d(flux), velocity, dispersion)
    sigma = centre / 299792.458 * np.hypot(dispersion, lsf)
    shifted = centre * (1 + velocity / 299792.458)
    cumulative = norm.cdf((edges - shifted[:, None]) / sigma[:, None])
    return flux[:, None] * np.diff(cumulative) / np.diff(edges)


def make_mocks(grid, n, *, seed, sn, wavelength=None, strength=1.0):
    """Stars from `synthesize` and lines from here, with white noise.

    Returns a sample with ``flux``, ``ivar``, ``mask``, ``truth``, ``stars``, ``true_velocity``, ``true_dispersion``,
    ``is_quiescent`` and ``true_flux`` (galaxy, true_line); the median of each continuum is 1.
    """
    rng = np.random.default_rng(seed)
    wavelength = rest_wavelength() if wavelength is None else wavelength
    edges = pixel_edges(wavelength)
    galaxies = draw_population(n, grid_age=grid.age, seed=rng, redshift_range=(0.024, 0.05))
    stars = synthesize(galaxies, grid, wavelength=wavelength, nebular=False, progress=False)
    stars = stars["flux"].values.astype(float)
    stars /= np.median(stars, axis=1, keepdims=True)
    fluxes = {name: strength * value for name, value in draw_fluxes(n, rng).items()}
    speed, dispersion = 40.0 * rng.standard_normal(n), 85 * np.exp(0.3 * rng.standard_normal(n))
    truth = stars.copy()
    for name, flux in fluxes.items():
        centre = (LINES | OTHERS)[name]
        truth += gaussians(edges, centre, flux, speed, dispersion, FWHM / 2.354820045 / centre * 299792.458)
    noise = np.ones_like(truth) / sn
    columns = {"true_velocity": speed, "true_dispersion": dispersion}
    columns["is_quiescent"] = galaxies["is_quiescent"]
    columns |= {"ivar": 1 / noise**2, "mask": False, "truth": truth, "stars": stars}
    sample = make_spectra(truth + noise * rng.standard_normal(truth.shape), wavelength, **columns)
    true = (("galaxy", "true_line"), np.stack([fluxes[name] for name in MEASURED], axis=1))
    return sample.assign(true_flux=true).assign_attrs(fwhm=FWHM)


def pulls(table, true, *, free_only=True, above=5):
    """(measured - true) / error of lines with a true S/N above 5, without those tied to others."""
    error = table["line_flux_error"].values
    pull, sn = (table["line_flux"].values - true) / error, true / error
    free = np.array([name not in TIED or not free_only for name in MEASURED])
    return pull[:, free][sn[:, free] > above]
