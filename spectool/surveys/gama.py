"""Mock GAMA galaxies: bands, noise and the cuts of the survey."""

from itertools import count
from typing import NamedTuple

import numpy as np
from astropy import units as u

from spectool.prepare import add_history
from spectool.spectra import AB_JY
from spectool.surveys.photometry import luminosity_distance, measure_photometry
from spectool.synth.population import concatenate, draw_population

R_LIMIT = 19.8
"""GAMA's main survey [AB mag]."""


class Band(NamedTuple):
    """A band of GAMA: its curve in sedpy, noise (1 sigma, point source), resolution (FWHM), error of calibration."""

    curve: str
    noise: float
    fwhm: float
    calibration: float


def _five_sigma(magnitude):
    return 0.2 * AB_JY * 10 ** (-0.4 * magnitude)


BANDS = {
    # GALEX's Medium Imaging Survey: Bianchi et al. (2011)
    "FUV": Band("galex_FUV", _five_sigma(22.6), 4.2, 0.05),
    "NUV": Band("galex_NUV", _five_sigma(22.7), 5.3, 0.03),
    # SDSS: depths of York et al. (2000), calibration of Padmanabhan et al. (2008)
    "u": Band("sdss_u0", _five_sigma(22.0), 1.4, 0.02),
    "g": Band("sdss_g0", _five_sigma(22.2), 1.4, 0.01),
    "r": Band("sdss_r0", _five_sigma(22.2), 1.4, 0.01),
    "i": Band("sdss_i0", _five_sigma(21.3), 1.4, 0.01),
    "z": Band("sdss_z0", _five_sigma(20.5), 1.4, 0.01),
    # VIKING: Edge et al. (2013); X is VISTA's Z, so named in GAMA's tables
    "X": Band("vista_vircam_Z", _five_sigma(23.1), 0.9, 0.02),
    "Y": Band("vista_vircam_Y", _five_sigma(22.3), 0.9, 0.02),
    "J": Band("vista_vircam_J", _five_sigma(22.1), 0.9, 0.02),
    "H": Band("vista_vircam_H", _five_sigma(21.5), 0.9, 0.02),
    "K": Band("vista_vircam_Ks", _five_sigma(21.2), 0.9, 0.02),
    # WISE: depths and resolution of Wright et al. (2010), calibration of Jarrett et al. (2011)
    "W1": Band("wise_w1", 0.08e-3 / 5, 6.1, 0.024),
    "W2": Band("wise_w2", 0.11e-3 / 5, 6.4, 0.028),
    "W3": Band("wise_w3", 1e-3 / 5, 6.5, 0.045),
    "W4": Band("wise_w4", 6e-3 / 5, 12.0, 0.057),
    # Herschel-ATLAS, confusion included: Valiante et al. (2016)
    "P100": Band("herschel_pacs_100", 44e-3, 11.4, 0.07),
    "P160": Band("herschel_pacs_160", 49e-3, 13.7, 0.07),
    "S250": Band("herschel_spire_250", 7.4e-3, 17.8, 0.055),
    "S350": Band("herschel_spire_350", 9.4e-3, 24.0, 0.055),
    "S500": Band("herschel_spire_500", 10.2e-3, 35.2, 0.055),
}
"""The 21 bands by the names of GAMA's tables; noise in Jy, FWHM in arcsec."""

FACILITIES = {
    "GALEX": (0.90, {"FUV": 0.95}),
    "VIKING": (1.0, {"X": 0.99, "Y": 0.99, "H": 0.99}),
    "WISE": (1.0, {"W4": 0.99}),
    "Herschel": (0.93, {"P100": 0.99, "P160": 0.99}),
}
"""Share of galaxies that a facility's images cover, and of these the share that some of its bands do: guesses of ours,
for the bands that hold the mark of no coverage (-999) in GAMA's public table."""
_MEMBERS = {"GALEX": ("FUV", "NUV"), "Herschel": ("P100", "P160", "S250", "S350", "S500")}
_BLOCK, _FRUITLESS = 8192, 16


def load_filters(bands=None):
    """Some of GAMA's `BANDS` (default: all) from ``sedpy``: name -> wavelengths [A], transmission per photon."""
    from sedpy.observate import Filter

    curves = {}
    for name in BANDS if bands is None else bands:
        if name not in BANDS:
            raise ValueError(f"GAMA has no band {name!r}; there are {', '.join(BANDS)}")
        item = Filter(BANDS[name].curve)
        curves[name] = (item.wavelength, item.transmission)
    return curves


def draw_gama(n, *, averages, seed, redshift_range=None):
    """Galaxies of `draw_population` that GAMA would have taken (r < `R_LIMIT`), with noise-free fluxes.

    Candidates are drawn in blocks until ``n`` of them are bright enough, so that redshifts, masses and colours are
    those of a magnitude-limited survey.

    Parameters
    ----------
    n : int
    averages : SimpleNamespace
        Of `make_band_averages`, with a band ``r``.
    seed, redshift_range
        The first galaxies of a larger sample of the same seed are the same; 0.005 to the averages' highest.

    Returns
    -------
    xarray.Dataset, dims (galaxy, band)
        See `measure_photometry`; ``attrs["n_candidates"]`` tells how many were drawn, ``candidate`` which of them each
        galaxy is (`redraw_gama`).
    """
    if n < 1:
        raise ValueError(f"the number of galaxies must be at least 1, not {n}")
    faintest, r_band = (R_LIMIT * u.ABmag).to_value(u.Jy), averages.bands.index("r")
    parts, result, drawn = [], 0, 0
    for block in count():
        candidates = _draw_block(block, averages, seed, redshift_range)
        seen = measure_photometry(candidates, averages, progress=False)
        bright = np.flatnonzero(seen["flux"].values[:, r_band] > faintest)[: n - result]
        parts.append(_numbered(seen.isel(galaxy=bright), drawn + bright))
        result, drawn = result + bright.size, drawn + _BLOCK
        if result == n:
            break
        if result == 0 and block + 1 == _FRUITLESS:
            raise ValueError(f"none of {drawn} galaxies is brighter than r = {R_LIMIT}")
    text = f"{n} galaxies brighter than r = {R_LIMIT:g} of {drawn} drawn"
    attrs = {"survey": "GAMA", "r_limit": R_LIMIT, "n_candidates": drawn, "history": text}
    return concatenate(parts).assign_attrs(attrs)


def redraw_gama(candidates, *, averages, seed):
    """Galaxies of `draw_gama` by their numbers, in a quarter of its time: the fluxes of no others are measured."""
    candidates = np.asarray(candidates)
    if candidates.size == 0 or candidates[0] < 0 or (np.diff(candidates) <= 0).any():
        raise ValueError("the numbers of candidates must rise, from 0 or above")
    blocks, rows = np.divmod(candidates, _BLOCK)
    places = {block: rows[blocks == block] for block in np.unique(blocks)}
    parts = [_draw_block(block, averages, seed).isel(galaxy=some) for block, some in places.items()]
    seen = measure_photometry(concatenate(parts), averages, progress=False)
    attrs = {"survey": "GAMA", "history": f"{candidates.size} galaxies drawn again"}
    return _numbered(seen, candidates).assign_attrs(attrs)


def _numbered(galaxies, numbers):
    attrs = {"units": "", "description": "number among all drawn"}
    return galaxies.assign(candidate=("galaxy", numbers, attrs))


def _draw_block(block, averages, seed, redshift_range=None):
    limits = redshift_range or (0.005, float(averages.redshift[-1]))
    rng = np.random.default_rng([seed, int(block)])
    return draw_population(_BLOCK, grid_age=averages.grid.age, seed=rng, redshift_range=limits)


def observe_gama(galaxies, *, seed, negative="keep", facilities=None):
    """Add GAMA's noise and its gaps in coverage.

    The aperture has 2.5 half-light radii (size-mass relations at z = 0.25 of van der Wel et al. 2014, with their
    scatter) and sees the noise of a point source times sqrt(1 + (R / 0.85 FWHM)^2), its area in units of the beam's;
    added in quadrature is the error of calibration, a share of the flux. GAMA's own tables state errors without it.

    Parameters
    ----------
    galaxies : xarray.Dataset
        With noise-free ``flux`` (galaxy, band) [Jy] in some of `BANDS`, ``redshift``, ``log_mass``, ``is_quiescent``.
    seed : int or numpy.random.Generator
    negative : {"keep", "zero"}
        What becomes of fluxes that noise takes below zero: kept, as measured, or set to zero with their error.
    facilities : dict, optional
        As `FACILITIES`, which is the default; ``{}`` for bands without gaps.

    Returns
    -------
    xarray.Dataset
        ``galaxies`` with ``flux`` (noisy), ``flux_error``, ``mask`` (True: not covered; flux and error are NaN there)
        and ``true_flux``.
    """
    if negative not in ("keep", "zero"):
        raise ValueError(f"negative is 'keep' or 'zero', not {negative!r}")
    names = list(galaxies["band"].values)
    unknown = [name for name in names if name not in BANDS]
    if unknown:
        raise ValueError(f"GAMA has no bands {', '.join(unknown)}; there are {', '.join(BANDS)}")
    rng = np.random.default_rng(seed)
    true = galaxies["flux"].transpose("galaxy", "band").values.astype(float)
    noise, fwhm, calibration = np.array([BANDS[name][1:] for name in names]).T
    beams = 1 + (aperture_radius(galaxies, seed=rng)[:, None] / (0.85 * fwhm)) ** 2
    error = np.sqrt(noise**2 * beams + (calibration * true) ** 2)
    flux = true + error * rng.standard_normal(true.shape)
    if negative == "zero":
        flux = np.maximum(flux, 0.0)
    gaps = _draw_gaps(len(true), names, FACILITIES if facilities is None else facilities, rng)
    dims, attrs = ("galaxy", "band"), {"units": "Jy"}
    seen = galaxies.assign(
        flux=(dims, np.where(gaps, np.nan, flux).astype("f4"), attrs),
        flux_error=(dims, np.where(gaps, np.nan, error).astype("f4"), attrs),
        mask=(dims, gaps, {"units": "", "description": "True: no measurement"}),
        true_flux=(dims, true.astype("f4"), attrs),
    )
    return add_history(seen, f"noise and coverage of GAMA; negative fluxes: {negative}")


def aperture_radius(galaxies, *, seed):
    """Radius [arcsec] of 2.5 half-light radii; see `observe_gama`."""
    quiescent = galaxies["is_quiescent"].values.astype(bool)
    relative_mass = galaxies["log_mass"].values - np.log10(5e10)
    log_radius = np.where(quiescent, 0.60 + 0.75 * relative_mass, 0.86 + 0.25 * relative_mass)
    deviate = np.random.default_rng(seed).standard_normal(quiescent.size)
    log_radius += np.where(quiescent, 0.10, 0.16) * deviate
    z = galaxies["redshift"].values.astype(float)
    kpc_per_arcsec = 1e3 * luminosity_distance(z) / (1 + z) ** 2 / np.degrees(1) / 3600
    return 2.5 * 10**log_radius / kpc_per_arcsec


def move_fluxes(flux, error, dex, bands):
    """Fluxes moved by so many dex, and their errors, all (band,) [Jy]: calibration follows the flux, noise does not."""
    noise, calibration = np.array(
        [(BANDS[b].noise, BANDS[b].calibration) if b in BANDS else (0, 0) for b in bands]
    ).T
    moved = flux * 10.0**dex
    variance = error**2 + calibration**2 * (moved**2 - flux**2)
    # A measured flux may be above the one that its error was stated for: never below a point source's noise.
    least = np.minimum(error, noise) ** 2
    return moved, np.where(dex == 0, error, np.sqrt(np.maximum(variance, least)))


def _draw_gaps(n, names, facilities, rng):
    """Where a band was not observed, shape (galaxy, band)."""
    gaps = np.zeros((n, len(names)), bool)
    for facility, (share, more) in facilities.items():
        outside = rng.random(n) >= share
        for name in dict.fromkeys((*_MEMBERS.get(facility, ()), *more)):
            missed = outside | (rng.random(n) >= more.get(name, 1.0))
            if name in names:
                gaps[:, names.index(name)] |= missed
    return gaps
