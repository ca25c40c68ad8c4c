"""Star-formation and metallicity histories of Zahid et al. (2019): the recipe's, and others that it has never seen."""

import numpy as np
import xarray as xr

from spectool.spectra import Z_SUN
from spectool.synth import sfh
from spectool.synth.dust import interpolation_weights
from spectool.synth.synthesis import LABEL_RANGE

N_INTERVALS = 5
LOG_Z_RANGE = (-2.0, 0.4)
OLDEST = 14.0
KINDS = ("delayed", "rising", "truncated", "bursty", "two populations")


def durations():
    """Durations of constant star formation [Gyr]: 21 from 0.1 to 14, equal steps in the logarithm."""
    return np.geomspace(0.1, OLDEST, 21)


def metallicities():
    """Metallicities, log Z / Zsun with Zsun = 0.02: 21 from -2 to 0.4 in steps of 0.12 dex."""
    return np.linspace(*LOG_Z_RANGE, 21)


def optical_light(grid):
    """Light of the SSPs in 4050-7300 Angstrom, before dust, [Lsun / Msun]; (Z, a)."""
    inside = (grid.wavelength >= LABEL_RANGE[0]) & (grid.wavelength <= LABEL_RANGE[1])
    return (grid.flux[..., inside] * np.diff(grid.edges)[inside]).sum(-1, dtype=float)


def metallicity_operator(log_z, grid):
    """Weights (..., Z) of the grid's metallicities at log Z / Zsun (Zsun = 0.02), linear in log Z, as `synthesize`."""
    return interpolation_weights(np.log(10.0) * np.asarray(log_z) + np.log(Z_SUN), np.log(grid.metallicity))


def clip_metallicity(log_z, grid):
    """log Z / Zsun (Zsun = 0.02) of the stars that the grid has for it: its first or last outside its range."""
    return np.clip(log_z, *np.log10(grid.metallicity[[0, -1]] / Z_SUN))


def solar_light(grid):
    """Light of solar SSPs in 4050-7300 Angstrom, [Lsun / Msun]; (a,)."""
    return metallicity_operator(0.0, grid) @ optical_light(grid)


def equal_light_intervals(grid):
    """Times between which equal parts of the light were made, for constant star formation at solar metallicity."""
    edges = grid.age_edges / 1e9
    made = np.concatenate([[0.0], np.cumsum(solar_light(grid) * np.diff(edges))])
    total = np.interp(durations(), edges, made)
    return np.interp(total[:, None] * np.linspace(0, 1, N_INTERVALS + 1), made, edges)


def interval_shares(mass, grid):
    """Which part of each age bin belongs to which fifth of the light, for any star-formation history."""
    light = mass * solar_light(grid)
    made = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(light, axis=1)], axis=1)
    made /= made[:, -1:]
    cuts = np.linspace(0, 1, N_INTERVALS + 1)
    low = np.maximum(made[:, None, :-1], cuts[:-1, None])
    high = np.minimum(made[:, None, 1:], cuts[1:, None])
    width = np.diff(made, axis=1)[:, None]
    return np.divide(np.clip(high - low, 0, None), width, out=np.zeros(low.shape), where=width > 0)


def draw_histories(n, *, seed, grid):
    """Histories that no training galaxy has, for stopping, calibrating and testing a network."""
    if n < 1:
        raise ValueError(f"the number of histories must be at least 1, not {n}")
    check_ages(grid)
    rng = np.random.default_rng(seed)
    edges = grid.age_edges
    kind = rng.permutation(np.arange(n) % len(KINDS))
    onset = 1e9 * 10 ** rng.uniform(np.log10(0.15), np.log10(OLDEST), n)
    mass = np.zeros((n, grid.age.size))
    for number, draw in enumerate((_delayed, _rising, _truncated, _bursty, _two_populations)):
        rows = np.flatnonzero(kind == number)
        if rows.size:
            mass[rows] = draw(rng, edges, onset[rows])
    mass /= mass.sum(1, keepdims=True)
    log_z, rise = _metallicity_history(rng, mass, edges, onset)
    zero = np.zeros(n)
    first_stars = {"units": "Gyr", "long_name": "lookback time of the first stars"}
    return xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), mass, {"units": "Msun"}),
            "log_z_star": (("galaxy", "age"), log_z, {"units": "dex", "z_sun": Z_SUN}),
            "kind": ("galaxy", np.array(KINDS)[kind], {"units": ""}),
            "onset": ("galaxy", onset / 1e9, first_stars),
            "rise": ("galaxy", rise, {"units": "dex", "long_name": "rise of log Z since the first stars"}),
            "dust1": ("galaxy", zero, {"units": ""}),
            "dust2": ("galaxy", zero, {"units": ""}),
            "dust_index": ("galaxy", zero - 0.7, {"units": ""}),
            "velocity_dispersion": ("galaxy", zero, {"units": "km / s"}),
        },
        coords={"age": ("age", grid.age, {"units": "yr"})},
    )


def label_histories(histories, grid):
    """Light-weighted metallicities and ages, over all and in each fifth of the light."""
    mass = histories["mass_formed"].transpose("galaxy", "age").values.astype(float)
    log_z = histories["log_z_star"].transpose("galaxy", "age").values.astype(float)
    light = mass * np.einsum("gaz,za->ga", metallicity_operator(log_z, grid), optical_light(grid))
    parts = light[:, None] * interval_shares(mass, grid)
    log_z, log_age = clip_metallicity(log_z, grid), np.log10(grid.age / 1e9)
    return make_labels(parts.sum(2), np.einsum("gia,ga->gi", parts, log_z), parts @ log_age)


def make_labels(light, light_log_z, light_log_age):
    """Labels from the light of each interval, and its sums of log Z and log age times light; (galaxy, interval)."""
    total = light.sum(1)
    dex, gyr = {"units": "dex", "z_sun": Z_SUN}, {"units": "Gyr"}
    both = ("galaxy", "interval")
    return {
        "log_z_lw": ("galaxy", light_log_z.sum(1) / total, dex),
        "age_lw": ("galaxy", 10 ** (light_log_age.sum(1) / total), gyr),
        "log_z_interval": (both, light_log_z / light, dex),
        "age_interval": (both, 10 ** (light_log_age / light), gyr),
        "light_share": (both, light / total[:, None], {"units": ""}),
    }


def check_ages(grid):
    """Raise a ValueError if the grid's oldest stars are younger than the longest history."""
    if grid.age_edges[-1] < OLDEST * 1e9:
        raise ValueError(
            f"the grid {grid.provenance.get('name')} ends at {grid.age_edges[-1] / 1e9:.1f} Gyr; histories last up to "
            f"{OLDEST:g} Gyr"
        )


def _delayed(rng, edges, onset):
    return sfh.delayed_tau(edges, onset, onset * 10 ** rng.uniform(-1.0, 0.3, onset.size))


def _rising(rng, edges, onset):
    power = rng.uniform(1.0, 4.0, onset.size)[:, None] + 1
    return -np.diff(np.clip(1 - edges / onset[:, None], 0, None) ** power, axis=1)


def _truncated(rng, edges, onset):
    return sfh.constant(edges, onset, onset * 10 ** rng.uniform(np.log10(0.03), np.log10(0.6), onset.size))


def _bursty(rng, edges, onset):
    share = rng.uniform(0.5, 0.95, (onset.size, 1))
    height = rng.dirichlet(np.ones(4), onset.size) * (np.arange(4) < rng.integers(1, 5, (onset.size, 1)))
    height /= height.sum(1, keepdims=True)
    length = onset * 10 ** rng.uniform(-2.0, -1.0, onset.size)
    bursts = np.zeros((onset.size, edges.size - 1))
    for k in range(height.shape[1]):
        end = (onset - length) * rng.random(onset.size) ** 2
        bursts += height[:, k : k + 1] * sfh.constant(edges, end + length, end)
    return (1 - share) * sfh.constant(edges, onset) + share * bursts


def _two_populations(rng, edges, onset):
    """Each burst lasts a tenth of its age; the young one holds 0.1% to half of the mass."""
    young = onset * 10 ** rng.uniform(-2.0, -0.3, onset.size)
    share = 10 ** rng.uniform(-3.0, np.log10(0.5), (onset.size, 1))
    old = sfh.constant(edges, onset, 0.9 * onset)
    return (1 - share) * old + share * sfh.constant(edges, young, 0.9 * young)


def _metallicity_history(rng, mass, edges, onset):
    """log Z / Zsun (galaxy, a), and how much it has risen (galaxy,)."""
    n = len(mass)
    last = rng.uniform(*LOG_Z_RANGE, n)
    rise = rng.uniform(0.1, 1.2, n) * (rng.random(n) < 0.5)
    rise = np.minimum(rise, last - LOG_Z_RANGE[0])
    middle = 0.5 * (edges[1:] + edges[:-1])
    by_time = np.clip(middle / onset[:, None], 0, 1)
    by_mass = np.cumsum(mass, axis=1) - 0.5 * mass
    lookback = np.where(rng.random((n, 1)) < 0.5, by_time, by_mass)
    return last[:, None] - rise[:, None] * lookback, rise
