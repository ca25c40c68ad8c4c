"""Galaxies of an IFU sample: masses and types, radial profiles of their stars, and where spectra lie on the sky.

Means by type and mass are round numbers of ours in the sense of Gonzalez Delgado et al. (2014, A&A 562, A47; 2015,
A&A 581, A103) and Sanchez-Blazquez et al. (2014, A&A 570, A6): early types are older and more metal-rich, ages and
metallicities rise with mass, both gradients are shallow and negative (spirals: about -0.1 dex per half-light radius in
metallicity) and flatter outside of it, dust is thickest inside spirals. The level of the ages is set such that labels
spread as in Liew-Cain et al. (2021: 0.199 dex^2 between two random spectra).
"""

import numpy as np

from spectool.surveys.califa_histories import AGE_TARGETS, LOG_Z_TARGETS
from spectool.synth import relations

REACH = 2.5
PIVOT_MASS = 10.5
# Of light in an exponential disc: scale lengths per half-light radius (1.678), radii in R / Re.
_SCALE = 1.678
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
WITHIN = {"log_age": 0.06, "log_z": 0.05, "a_v": 0.06}


def draw_galaxies(rng, n_galaxies, n_early):
    """Per-galaxy columns: type, mass, size, inclination, and the profiles' values at Re and slopes.

    Discs are seen from everywhere (cos i uniform, up to 80 degrees); early types have apparent axis ratios uniform in
    0.55-1, from which an inclination follows as if they were thin discs, which is how a survey would treat them.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_galaxies, n_early : int

    Returns
    -------
    dict of str to ndarray, shape (galaxy,)
    """
    early = np.zeros(n_galaxies, bool)
    early[rng.permutation(n_galaxies)[:n_early]] = True

    def normal(mean_early, mean_late, sigma_early, sigma_late):
        deviate = np.clip(rng.standard_normal(n_galaxies), -2.5, 2.5)
        return np.where(early, mean_early + sigma_early * deviate, mean_late + sigma_late * deviate)

    log_mass = np.clip(normal(10.95, 10.4, 0.35, 0.5), 8.9, 11.8)
    mass = log_mass - PIVOT_MASS
    ratio = np.where(early, rng.uniform(0.55, 1.0, n_galaxies), rng.uniform(0.174, 1.0, n_galaxies))
    dispersion = 10 ** (relations.velocity_dispersion(log_mass) + normal(0.0, -0.08, 0.09, 0.09))
    bulge = np.clip(normal(0.7, 0.2 + 0.1 * mass, 0.12, 0.1), 0.02, 0.95)
    dust = np.clip(normal(0.08, 0.3 + 0.1 * mass, 0.05, 0.12), 0.0, 1.5)
    return {
        "is_early": early,
        "log_mass": log_mass,
        "re": np.clip(rng.lognormal(np.log(16.0), 0.3, n_galaxies), 7.0, 32.0),
        "inclination": np.degrees(np.arccos(ratio)),
        "position_angle": rng.uniform(0.0, 180.0, n_galaxies),
        "bulge_fraction": bulge,
        "velocity_dispersion": np.clip(dispersion, 30.0, 350.0),
        "age_at_re": normal(0.72 + 0.1 * mass, 0.28 + 0.35 * mass, 0.08, 0.14),
        "age_gradient": normal(-0.06, -0.15 - 0.05 * mass, 0.08, 0.12),
        "z_at_re": normal(-0.05 + 0.15 * mass, -0.25 + 0.3 * mass, 0.08, 0.12),
        "metallicity_gradient": normal(-0.15, -0.1, 0.08, 0.1),
        # A path through an inclined disc is longer.
        "a_v_at_re": dust + np.where(early, 0.0, -0.25 * np.log10(ratio)),
        "a_v_gradient": normal(-0.03, -0.12, 0.03, 0.08),
    }


def draw_counts(rng, n_galaxies, mean):
    """Numbers of spectra: lognormal with 0.26 dex around the mean, and `n_galaxies` times the mean in all.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_galaxies : int
    mean : float

    Returns
    -------
    ndarray of int, shape (galaxy,)
        At least a fifth of the mean, and 1.
    """
    least = max(1, int(0.2 * mean))
    share = rng.lognormal(0.0, 0.6, n_galaxies)
    above = max(round(n_galaxies * mean) - least * n_galaxies, 0)
    edges = np.rint(np.concatenate([[0.0], np.cumsum(share)]) / share.sum() * above).astype(int)
    return least + np.diff(edges)


def place_spectra(rng, galaxies, counts):
    """Positions of the spectra, like the centres of Voronoi bins of equal light in a disc.

    Parameters
    ----------
    rng : numpy.random.Generator
    galaxies : mapping
        ``re`` [arcsec], ``inclination`` and ``position_angle`` [deg].
    counts : ndarray of int, shape (galaxy,)

    Returns
    -------
    dict of str to ndarray, shape (spectrum,)
        ``galaxy_index``, ``x``, ``y`` [arcsec], ``radius`` [R / Re, in the plane of the disc, to `REACH`].
        x points to the east and y to the north, position angles turn from north through east, as in
        `spectool.measure.gradients.deproject`.
    """
    galaxy = np.repeat(np.arange(counts.size), counts)
    rank = np.arange(galaxy.size) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (rank + rng.random(galaxy.size)) / counts[galaxy]
    radius = _radius_of_light(share)
    # Equal turns by the golden angle fill a disc evenly, like seeds of a sunflower.
    angle = (
        rank * _GOLDEN_ANGLE
        + rng.normal(0.0, 0.2, galaxy.size)
        + rng.uniform(0, 2 * np.pi, counts.size)[galaxy]
    )
    along = radius * np.cos(angle) * galaxies["re"][galaxy]
    across = (
        radius * np.sin(angle) * galaxies["re"][galaxy] * np.cos(np.radians(galaxies["inclination"][galaxy]))
    )
    turn = np.radians(galaxies["position_angle"][galaxy])
    return {
        "galaxy_index": galaxy,
        "x": along * np.sin(turn) + across * np.cos(turn),
        "y": along * np.cos(turn) - across * np.sin(turn),
        "radius": radius,
    }


def _radius_of_light(share):
    """Radius [R / Re] inside of which an exponential disc, cut at `REACH`, has a share of its light."""
    radius = np.linspace(0.0, REACH, 2001)
    light = 1 - (1 + _SCALE * radius) * np.exp(-_SCALE * radius)
    return np.interp(share, light / light[-1], radius)


def profile(galaxies, galaxy, radius, at_re, gradient):
    """A quantity at radii of galaxies: linear inside Re, half as steep outside.

    Parameters
    ----------
    galaxies : mapping
    galaxy : ndarray of int, shape (spectrum,)
    radius : ndarray, shape (spectrum,)
        [R / Re]
    at_re, gradient : str
        Columns: the value at Re, and the slope inside it [per Re].

    Returns
    -------
    ndarray, shape (spectrum,)
    """
    away = radius - 1
    return galaxies[at_re][galaxy] + galaxies[gradient][galaxy] * np.where(away > 0, 0.5 * away, away)


def draw_targets(rng, galaxies, galaxy, radius, scatter):
    """Ages, metallicities and dust of spectra: profiles with scatter within galaxies, inside what the grid can make.

    Parameters
    ----------
    rng : numpy.random.Generator
    galaxies : mapping
        Of `draw_galaxies`.
    galaxy, radius : ndarray, shape (spectrum,)
    scatter : float
        Times `WITHIN`: 0.06 dex of age, 0.05 dex of metallicity, 0.06 mag of extinction.

    Returns
    -------
    dict of str to ndarray, shape (spectrum,)
        ``log_age`` [dex(Gyr)], ``log_z`` [dex], ``a_v`` [mag]
    """
    limits = {"log_age": AGE_TARGETS, "log_z": LOG_Z_TARGETS, "a_v": (0.0, 2.5)}
    columns = {"log_age": "age", "log_z": "z", "a_v": "a_v"}
    slopes = {"log_age": "age_gradient", "log_z": "metallicity_gradient", "a_v": "a_v_gradient"}
    result = {}
    for name, (low, high) in limits.items():
        mean = profile(galaxies, galaxy, radius, f"{columns[name]}_at_re", slopes[name])
        result[name] = np.clip(mean + scatter * WITHIN[name] * rng.standard_normal(galaxy.size), low, high)
    return result
