"""Draw a population of galaxies: realistic, or with independent parameters for null tests."""

from functools import cache

import numpy as np
import xarray as xr
from astropy.cosmology import Planck18
from scipy.special import ndtr, ndtri

from spectool.spectra import OXYGEN_SUN, Z_SUN
from spectool.synth import relations, sfh

MASS_RANGE = (8.5, 11.5)
REDSHIFT_RANGE = (0.01, 1.0)
# BC03's young stars of 5 solar metallicities hardly ionise: stay at or below 2.5.
LOG_Z_STAR_RANGE = (-1.9, 0.397)

_COLUMNS = {
    "redshift": ("", "redshift"),
    "log_mass": ("dex(Msun)", "surviving stellar mass"),
    "log_sfr": ("dex(Msun / yr)", "star-formation rate, mean of the last 100 Myr"),
    "log_z_star": ("dex", "stellar metallicity, log Z / Zsun"),
    "log_z_gas": ("dex", "gas metallicity, log Z / Zsun"),
    "log_u": ("", "ionisation parameter"),
    "dust1": ("", "extra optical depth at 5500 A of stars younger than 10 Myr"),
    "dust2": ("", "optical depth at 5500 A of all stars"),
    "dust_index": ("", "power-law index of the attenuation curve"),
    "velocity_dispersion": ("km / s", "stellar and gas velocity dispersion"),
    "qpah": ("%", "PAH mass fraction of the dust"),
    "umin": ("", "weakest starlight that heats the dust"),
    "gamma": ("", "fraction of the dust heated by stronger starlight"),
}
_CHUNK = 4096
_VARIABILITY_AGES = np.array([3e6, 1e7, 3e7, 1e8, 3e8, 1e9])
_VARIABILITY_DEX = np.array([0.20, 0.20, 0.20, 0.15, 0.10, 0.0])


def draw_population(
    n,
    *,
    grid_age,
    seed,
    independent=False,
    metallicity_sfr=True,
    stellar_metallicity_sfr=0.0,
    redshift_range=REDSHIFT_RANGE,
):
    """Draw galaxies ready for ``spectool.synth.synthesis.synthesize``, which computes ``log_mass`` anew from its grid.

    Redshifts follow z^2 exp(-(z / 0.45)^1.5), the form of Smail et al. (1994) for a magnitude-limited survey.
    Masses follow `relations.mass_function` times M^0.4 - a survey sees massive galaxies farther - from 10^8.5
    Msun (10^9.5 at z = 1, linear between) to 10^11.5. Star-forming galaxies scatter by 0.3 dex about their
    sequence, quiescent ones lie about 2 dex below. Histories are delayed-tau with an onset that is earlier in
    massive galaxies, a burst 0.1-2 Gyr ago in every fifth galaxy, and stochastic variation over the last Gyr;
    the mass formed in the last 100 Myr is exactly that of ``log_sfr``. Galaxies of class ``AGN`` are labelled
    only: they have no lines of their own here.

    With ``independent=True`` every parameter comes from a realistic population of its own, so that all keep
    their marginal distribution and none knows of another. What is independent of mass is then the *specific*
    star-formation rate (with the shape of the history), not ``log_sfr``, which is their sum; and no history
    is longer than the universe was old at the end of ``redshift_range``, or ages would tell the redshift.

    Parameters
    ----------
    n : int
        Number of galaxies, at least 1.
    grid_age : array_like, shape (age,)
        Ages of the SSP grid [yr], increasing.
    seed : int or numpy.random.Generator
        The same seed gives the same bytes.
    independent : bool
        Draw every parameter independently.
    metallicity_sfr : bool
        Whether gas metallicity follows mass and star-formation rate, or (a null test) mass only: then its median
        is that of a galaxy on the star-forming sequence at that mass, whatever the galaxy's own rate. Masses,
        rates, dust and histories are the same either way.
    stellar_metallicity_sfr : float
        By how many dex the stellar metallicity of star-forming galaxies changes per dex of star-formation rate above
        their sequence at fixed mass. Default 0: it follows mass only. A negative one has
        the sign that we take from Looser et al. (2024, arXiv:2401.08769); we have no measured slope.
    redshift_range : tuple of float
        Lowest and highest redshift, 0 < low < high. The intergalactic medium is left out, so stay below 1 or
        so. Default 0.01-1 (Marziano 2024 does not state its own).

    Returns
    -------
    xarray.Dataset
        Per-galaxy columns ``redshift``, ``log_mass``, ``log_sfr``, ``log_z_star`` (Zsun = 0.02),
        ``log_z_gas`` (zero: 12 + log(O/H) = 8.91), ``log_u``, ``dust1``, ``dust2``, ``dust_index``,
        ``velocity_dispersion``, ``qpah``, ``umin``, ``gamma``, ``is_quiescent``, ``spectral_class``; and
        ``mass_formed`` (galaxy, age), float32 [Msun].

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    n, age = int(n), np.asarray(grid_age, dtype=float)
    _check(n, age, redshift_range)
    rng = np.random.default_rng(seed)
    columns = _draw_columns(n, rng, redshift_range, metallicity_sfr, stellar_metallicity_sfr)
    if independent:
        columns = _make_independent(columns, rng, redshift_range)
    galaxies = xr.Dataset(
        {
            name: ("galaxy", columns[name], {"units": unit, "long_name": text})
            for name, (unit, text) in _COLUMNS.items()
        },
        coords={"age": ("age", age, {"units": "yr"})},
        attrs={
            "independent": int(independent),
            "metallicity_sfr": int(metallicity_sfr),
            "stellar_metallicity_sfr": float(stellar_metallicity_sfr),
            "redshift_range": list(map(float, redshift_range)),
            "cosmology": Planck18.name,
        },
    )
    galaxies["is_quiescent"] = ("galaxy", columns["is_quiescent"], {"units": ""})
    galaxies["spectral_class"] = ("galaxy", columns["spectral_class"], {"units": ""})
    formed = _mass_formed(columns, age, relations.surviving_fraction(age), rng)
    galaxies["mass_formed"] = (("galaxy", "age"), formed, {"units": "Msun"})
    galaxies["log_z_star"].attrs["z_sun"] = Z_SUN
    galaxies["log_z_gas"].attrs |= {"z_sun": Z_SUN, "oxygen_sun": OXYGEN_SUN}
    return galaxies


def age_of_universe(redshift):
    """Age of the universe [Gyr] in astropy's Planck18 cosmology, interpolated to better than 1e-4."""
    redshift = np.asarray(redshift, dtype=float)
    return np.interp(redshift, *_age_nodes(max(1.0, float(np.max(redshift)))))


@cache
def _age_nodes(highest):
    """Redshifts to `highest`, and the ages of the universe [Gyr] there: integrals that take long."""
    nodes = np.linspace(0, highest, 513)
    return nodes, Planck18.age(nodes).to_value("Gyr")


def _check(n, age, redshift_range):
    if n < 1:
        raise ValueError(f"the number of galaxies must be at least 1, not {n}")
    if age.ndim != 1 or age.size < 2 or np.any(np.diff(age) <= 0) or age[0] < 0:
        raise ValueError("grid_age must be a list of increasing ages in years, such as SSPGrid.age")
    low, high = redshift_range
    if not 0 < low < high:
        raise ValueError(f"redshift_range must be (low, high) with 0 < low < high, not {redshift_range}")
    if age[-1] < 1e9 * float(age_of_universe(low)) * 0.9:
        raise ValueError(
            f"grid_age ends at {age[-1]:.3g} yr; the universe is older at z = {low}: are these years?"
        )


def _draw_columns(n, rng, redshift_range, metallicity_sfr=True, stellar_metallicity_sfr=0.0):
    """Every per-galaxy number of a realistic population, as a dict of arrays of shape (n,)."""
    c = {"redshift": _draw_redshift(n, rng, redshift_range)}
    cosmic_age = age_of_universe(c["redshift"])
    c["log_mass"] = _draw_mass(rng, c["redshift"])
    c["is_quiescent"] = rng.random(n) < relations.quiescent_fraction(c["log_mass"], c["redshift"])
    c["log_sfr"] = _draw_sfr(rng, c["log_mass"], cosmic_age, c["is_quiescent"])
    sequence = relations.star_forming_sequence(c["log_mass"], cosmic_age)
    _draw_metals(rng, c, c["log_sfr"] if metallicity_sfr else sequence)
    if stellar_metallicity_sfr:
        above = np.where(c["is_quiescent"], 0.0, c["log_sfr"] - sequence)
        c["log_z_star"] = np.clip(c["log_z_star"] + stellar_metallicity_sfr * above, *LOG_Z_STAR_RANGE)
    _draw_dust(rng, c, cosmic_age)
    narrower = np.where(c["is_quiescent"], 0.0, -0.08)  # discs are colder than spheroids of their mass
    log_sigma = relations.velocity_dispersion(c["log_mass"]) + narrower + 0.09 * rng.standard_normal(n)
    c["velocity_dispersion"] = np.clip(10.0**log_sigma, 20.0, 400.0)
    active = rng.random(n) < relations.agn_fraction(c["log_mass"])
    c["spectral_class"] = np.where(active, "AGN", np.where(c["is_quiescent"], "quiescent", "star-forming"))
    _draw_history(rng, c, cosmic_age)
    return c


def _make_independent(columns, rng, redshift_range):
    """Take every parameter from a realistic population of its own (see `draw_population`)."""
    n = columns["redshift"].size
    shape = ("is_quiescent", "spectral_class")
    independent = {}
    for name in columns:
        if name not in shape and name != "log_sfr":
            independent[name] = _draw_columns(n, rng, redshift_range)[name]
    history = _draw_columns(n, rng, redshift_range)
    for name in shape:  # the labels describe the history and stay with it
        independent[name] = history[name]
    independent["log_sfr"] = history["log_sfr"] - history["log_mass"] + independent["log_mass"]
    youngest_universe = 1e9 * age_of_universe(redshift_range[1])
    share = history["onset"] / (1e9 * age_of_universe(history["redshift"]))
    independent["onset"] = rng.permutation(share) * youngest_universe
    return independent


def _truncated_normal(rng, mean, sigma, low, high):
    """Normal deviates within [low, high]; all arguments broadcast to the shape of ``mean``."""
    mean = np.asarray(mean, dtype=float)
    bottom, top = ndtr((low - mean) / sigma), ndtr((high - mean) / sigma)
    return np.clip(mean + sigma * ndtri(bottom + (top - bottom) * rng.random(mean.shape)), low, high)


def _draw_redshift(n, rng, redshift_range):
    nodes = np.linspace(*redshift_range, 1025)
    cumulative = np.concatenate([[0], np.cumsum((nodes**2 * np.exp(-((nodes / 0.45) ** 1.5)))[1:])])
    return np.interp(rng.random(n), cumulative / cumulative[-1], nodes)


def _draw_mass(rng, redshift):
    nodes = np.linspace(*MASS_RANGE, 1025)
    density = relations.mass_function(nodes) * 10.0 ** (0.4 * (nodes - 10))
    cumulative = np.concatenate([[0], np.cumsum(density[1:])]) / np.sum(density[1:])
    faintest = np.minimum(MASS_RANGE[0] + redshift, 10.5)
    missed = np.interp(faintest, nodes, cumulative)
    return np.interp(missed + (1 - missed) * rng.random(redshift.size), cumulative, nodes)


def _draw_sfr(rng, log_mass, cosmic_age, is_quiescent):
    sequence = relations.star_forming_sequence(log_mass, cosmic_age)
    forming = sequence + _truncated_normal(rng, np.zeros_like(log_mass), 0.3, -1.0, 1.0)
    depth = 1.9 + 0.3 * (log_mass - 10.5)
    quiescent = sequence - _truncated_normal(rng, depth, 0.45, 0.8, 3.5)
    # More than a tenth of the mass in 100 Myr would leave no older stars to speak of.
    return np.minimum(np.where(is_quiescent, quiescent, forming), log_mass - 8.4)


def _draw_metals(rng, c, log_sfr):
    """Gas and stellar metallicity, whose deviations from their relations go together (r = 0.5), and log U."""
    n = c["log_mass"].size
    median = relations.gas_metallicity(c["log_mass"], log_sfr)
    c["log_z_gas"] = _truncated_normal(rng, median, 0.07, -1.5, relations.MAX_LOG_Z_GAS)
    gas_deviate = (c["log_z_gas"] - median) / 0.07
    deviate = 0.5 * gas_deviate + np.sqrt(0.75) * _truncated_normal(rng, np.zeros(n), 1.0, -2.0, 2.0)
    # Strangulation: at fixed mass quiescent galaxies are metal-richer (Peng, Maiolino & Cochrane 2015).
    quiescent = relations.quiescent_fraction(c["log_mass"], c["redshift"])
    deviate = np.clip(deviate + 0.6 * (c["is_quiescent"] - quiescent), -2.2, 2.2)
    middle, below, above = relations.stellar_metallicity(c["log_mass"])
    c["log_z_star"] = np.clip(middle + np.where(deviate < 0, below, above) * deviate, *LOG_Z_STAR_RANGE)
    log_u = relations.ionisation_parameter(c["log_z_gas"])
    c["log_u"] = _truncated_normal(rng, log_u, 0.18, -4.0, -2.0)


def _draw_dust(rng, c, cosmic_age):
    """Dust optical depths (attenuating), slope, and the parameters of the dust emission."""
    n = c["log_mass"].size
    above_sequence = c["log_sfr"] - relations.star_forming_sequence(c["log_mass"], cosmic_age)
    # Zahid et al. (2013): dust falls with SFR below log M = 10.2 and rises with it above.
    tilt = 0.3 * np.clip(c["log_mass"] - 10.2, -1, 1) * np.clip(above_sequence, -1, 1)
    to_optical_depth = (6564.6 / 5500) ** 0.7 / 1.086
    lines = (
        relations.balmer_attenuation(c["log_mass"])
        * to_optical_depth
        * 10.0 ** (0.12 * rng.standard_normal(n) + tilt)
    )
    # Half of the depth towards the lines is the birth clouds' (Calzetti 1997: stars see 0.44 of it).
    forming = 0.5 * lines * 10.0 ** (0.08 * rng.standard_normal(n))
    quiescent = 10.0 ** (-1.0 + 0.3 * rng.standard_normal(n))
    c["dust2"] = np.clip(np.where(c["is_quiescent"], quiescent, forming), 0.01, 3.0)
    c["dust1"] = c["dust2"] * _truncated_normal(rng, np.ones(n), 0.3, 0.0, 2.0)
    c["dust_index"] = _truncated_normal(rng, relations.attenuation_index(c["dust2"]), 0.12, -1.3, -0.4)
    c["qpah"] = _truncated_normal(rng, relations.pah_fraction(c["log_z_gas"]), 0.6, 0.47, 4.58)
    # Draine et al. (2007): median Umin 1.5 in spirals; dust of early types is warmer (Nersesian et al. 2019).
    warmer = np.where(c["is_quiescent"], 0.4, 0.0)
    c["umin"] = 10.0 ** _truncated_normal(
        rng, 0.18 + 0.3 * np.clip(above_sequence, -1, 1) + warmer, 0.3, -1.0, 1.39
    )
    c["gamma"] = 10.0 ** _truncated_normal(rng, np.full(n, -2.0), 0.4, -3.5, -0.7)


def _draw_history(rng, c, cosmic_age):
    """Numbers that shape the star-formation histories [yr]."""
    n = c["log_mass"].size
    earlier = (
        0.75 + 0.10 * (c["log_mass"] - 10.5) + 0.10 * c["is_quiescent"]
    )  # downsizing: Thomas et al. (2010)
    c["onset"] = 1e9 * cosmic_age * _truncated_normal(rng, earlier, 0.15, 0.3, 0.97)
    c["burst_share"] = np.where(rng.random(n) < 0.2, 10.0 ** rng.uniform(-2.5, -0.7, n), 0.0)
    c["burst_end"] = 10.0 ** rng.uniform(8.1, 9.2, n)
    c["burst_length"] = 10.0 ** rng.uniform(7.5, 8.5, n)


def _delayed_tau_timescale(onset, specific_sfr):
    """Onset and tau [yr] of the delayed-tau history that has this present SFR per mass formed."""
    x = np.geomspace(0.02, 30, 1024)
    growth = x**2 * np.exp(-x) / (-np.expm1(-x) - x * np.exp(-x))
    onset = np.clip(np.minimum(onset, 1.9 / specific_sfr), 3e8, None)
    wanted = np.clip(onset * specific_sfr, growth[-1], growth[0])
    return onset, onset / np.exp(np.interp(-np.log(wanted), -np.log(growth), np.log(x)))


def _variability(rng, n):
    """Log of the factors at `_VARIABILITY_AGES` by which the SFR strays from its smooth history, (n, 6).

    Neighbouring nodes correlate with r = 0.6: a damped random walk, as in Caplar & Tacchella (2019).
    """
    steps = rng.standard_normal((n, _VARIABILITY_AGES.size))
    for k in range(1, _VARIABILITY_AGES.size):
        steps[:, k] = 0.6 * steps[:, k - 1] + 0.8 * steps[:, k]
    return np.log(10) * _VARIABILITY_DEX * steps


def _mass_formed(c, age, surviving, rng):
    """Mass formed in each age bin [Msun] that gives log_sfr and log_mass exactly, (galaxy, age), float32."""
    edges = sfh.age_bin_edges(age)
    is_young = sfh.share_younger_than(edges, sfh.RECENT)
    cut = int(np.count_nonzero(is_young))  # the bin that straddles 100 Myr is scaled with the young ones
    middle = np.sqrt(np.maximum(edges[:-1], 1.0) * edges[1:])
    nodes = np.eye(_VARIABILITY_AGES.size)
    weights = np.stack([np.interp(np.log(middle), np.log(_VARIABILITY_AGES), node) for node in nodes])
    wiggle = _variability(rng, c["log_mass"].size)

    # Some 60% of the mass formed survives; exactness comes from the scaling of both parts below.
    onset, tau = _delayed_tau_timescale(c["onset"], 0.6 * 10.0 ** (c["log_sfr"] - c["log_mass"]))
    burst_end = np.minimum(c["burst_end"], 0.6 * onset)
    burst_start = np.minimum(burst_end + c["burst_length"], 0.9 * onset)
    formed = np.empty((onset.size, age.size), dtype="f4")
    for first in range(0, onset.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        share = c["burst_share"][part, None]
        history = (1 - share) * sfh.delayed_tau(edges, onset[part], tau[part])
        history += share * sfh.constant(edges, burst_start[part], burst_end[part])
        history *= np.exp(wiggle[part] @ weights)
        young, old = history[:, :cut], history[:, cut:]
        young *= (sfh.RECENT * 10.0 ** c["log_sfr"][part] / (young @ is_young[:cut]))[:, None]
        still_missing = 10.0 ** c["log_mass"][part] - young @ surviving[:cut]
        old *= (still_missing / (old @ surviving[cut:]))[:, None]
        formed[part] = history
    return formed


def concatenate(parts):
    """Datasets of different galaxies, one after the other; what does not belong to galaxies is the first one's."""
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    return parts[0] if len(parts) == 1 else xr.concat(parts, "galaxy", **how)
