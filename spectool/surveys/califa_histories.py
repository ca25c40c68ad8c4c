"""Histories of the spectra of an IFU galaxy: an old and a young population that share one shape per galaxy.

Within a galaxy spectra differ by how much of the light is young, and by metallicity; from galaxy to galaxy the shapes
of both populations differ. So a spectrum of given light-weighted age is made up differently in each galaxy.
"""

import numpy as np
import xarray as xr

from spectool.synth import sfh
from spectool.synth.zahid2019_histories import metallicity_operator, optical_light

KINDS = ("continuing", "truncated", "two bursts")
SHAPE_COLUMNS = ("onset", "tau", "young_begin", "young_end", "metal_rise")
# Every galaxy's shape without the nuisance "history" [Gyr; metal_rise in dex].
BASE_SHAPE = dict(zip(SHAPE_COLUMNS, (12.0, 1.0, 1.0, 0.0, 0.0), strict=True))
AGE_TARGETS = (-0.45, 0.93)
LOG_Z_TARGETS = (-1.3, 0.35)
_HIGHEST_LOG_Z = 0.5
_MARGIN = 0.03
_RESIDUAL = 0.05
_TAUS = np.geomspace(0.3, 6.0, 12)


def draw_shapes(rng, is_early, oldest):
    """Shapes of the histories of galaxies, each its own.

    The old population is delayed-tau since ``onset``, up to ``young_begin``; the young one forms at a constant rate
    from there to ``young_end``, but for 5% that form from there to today. A third of the late types and two thirds of
    the early ones form hardly any stars today ("truncated", stopped at 30-70% of the time of the young episode), a
    sixth of all were made in two bursts.

    Parameters
    ----------
    rng : numpy.random.Generator
    is_early : ndarray of bool, shape (galaxy,)
    oldest : ndarray, shape (galaxy,)
        Highest light-weighted log age [dex(Gyr)] that the galaxy's spectra ask for: the old population is older.

    Returns
    -------
    dict of str to ndarray, shape (galaxy,)
        ``history_kind`` and `SHAPE_COLUMNS`: times in Gyr, ``metal_rise`` (young over old stars) in dex.
    """
    n = is_early.size
    draw = rng.random(n)
    two_bursts = draw < 1 / 6
    stopped = (draw >= 1 / 6) & (draw < 1 / 6 + np.where(is_early, 2 / 3, 1 / 3))
    onset = rng.uniform(9.5, 13.2, n)
    longest = _longest_tau(onset, oldest)
    tau = _TAUS[0] * (longest / _TAUS[0]) ** rng.random(n)
    tau = np.where(two_bursts, _TAUS[0], tau)
    begin = 10 ** rng.uniform(np.log10(0.3), np.log10(1.5), n)
    begin = np.where(two_bursts | stopped, 0.3 * begin, begin)
    end = np.where(stopped, rng.uniform(0.3, 0.7, n), 0.0) * begin
    end = np.where(two_bursts, 0.8 * begin, end)
    return {
        "history_kind": np.where(two_bursts, KINDS[2], np.where(stopped, KINDS[1], KINDS[0])),
        "onset": onset,
        "tau": tau,
        "young_begin": begin,
        "young_end": end,
        "metal_rise": rng.uniform(0.0, 0.4, n),
    }


def _longest_tau(onset, oldest):
    """Longest tau [Gyr] at which an old population is old enough; its light is guessed to fade as age^-0.8."""
    edges = 1e9 * np.geomspace(1.0, 13.5, 40)
    age = np.sqrt(edges[1:] * edges[:-1]) / 1e9
    every_onset = np.repeat(onset, _TAUS.size)
    mass = sfh.delayed_tau(edges, 1e9 * every_onset, 1e9 * np.tile(_TAUS, onset.size))
    light = mass * age**-0.8
    mean = (light @ np.log10(age) / light.sum(1)).reshape(-1, _TAUS.size)
    fits = mean > oldest[:, None] + _MARGIN
    return _TAUS[np.maximum(fits.sum(1) - 1, 0)]


class Populations:
    """Old and young populations of galaxies, and their light at each metallicity of a grid.

    Parameters
    ----------
    shapes : mapping of str to array_like, shape (galaxy,)
        `SHAPE_COLUMNS`.
    grid : SSPGrid
    """

    def __init__(self, shapes, grid):
        gyr = {name: 1e9 * np.asarray(shapes[name], float) for name in SHAPE_COLUMNS[:-1]}
        edges = grid.age_edges
        # The populations meet at an edge of an age bin, so that each bin has one metallicity.
        inner = edges[1:-1]
        nearest = np.abs(np.log(inner)[None, :] - np.log(gyr["young_begin"])[:, None]).argmin(1)
        begin = inner[nearest]
        self.grid = grid
        self.is_young = np.arange(grid.age.size) <= nearest[:, None]
        self.rise = np.asarray(shapes["metal_rise"], float)
        self.old = sfh.delayed_tau(edges, gyr["onset"], gyr["tau"], begin)
        episode = sfh.constant(edges, begin, np.minimum(gyr["young_end"], 0.95 * begin))
        self.young = (1 - _RESIDUAL) * episode + _RESIDUAL * sfh.constant(edges, begin)
        light = optical_light(grid)
        log_age = np.log10(grid.age / 1e9)
        self._light = {True: self.young @ light.T, False: self.old @ light.T}
        self._light_age = {True: self.young @ (light * log_age).T, False: self.old @ (light * log_age).T}

    def light_and_age(self, galaxy, log_z, *, young):
        """Light per mass (n,) and light-weighted log age (n,) [dex(Gyr)] of one population of galaxies at log Z."""
        weights = metallicity_operator(log_z, self.grid)
        light = np.einsum("nz,nz->n", weights, self._light[young][galaxy])
        return light, np.einsum("nz,nz->n", weights, self._light_age[young][galaxy]) / light

    def metallicities(self, galaxy, log_z, share):
        """log Z of old and young stars (each (n,)) whose light-weighted mean is `log_z`."""
        room = (_HIGHEST_LOG_Z - log_z) / np.maximum(1 - share, 1e-6)
        rise = np.clip(np.minimum(self.rise[galaxy], room), 0, None)
        return log_z - rise * share, log_z + rise * (1 - share)

    def solve_share(self, galaxy, log_age, log_z, *, iterations=12):
        """Share of the light of 4050-7300 A that is young, so that spectra have these light-weighted means.

        The ages of both populations depend on their metallicities, which depend on the share: solved by iteration.

        Parameters
        ----------
        galaxy : ndarray of int, shape (n,)
        log_age, log_z : ndarray, shape (n,)
            [dex(Gyr)], [dex]

        Returns
        -------
        ndarray, shape (n,)
            0 to 1; at 0 or 1 the age is the nearest that the galaxy's populations have.
        """
        share = np.full(log_age.shape, 0.5)
        for _ in range(iterations):
            z_old, z_young = self.metallicities(galaxy, log_z, share)
            _, old = self.light_and_age(galaxy, z_old, young=False)
            _, young = self.light_and_age(galaxy, z_young, young=True)
            share = np.clip((old - log_age) / (old - young), 0.0, 1.0)
        return share

    def histories(self, galaxy, log_z, share):
        """Mass formed and metallicities for `spectool.synth.synthesize`, one unit of light per spectrum.

        Parameters
        ----------
        galaxy : ndarray of int, shape (n,)
        log_z, share : ndarray, shape (n,)
            Light-weighted metallicity [dex], share of young light.

        Returns
        -------
        Dataset
            Dimension ``galaxy`` (one entry per spectrum): ``mass_formed`` [Msun] and ``log_z_star`` [dex] (galaxy,
            age).
        """
        z_old, z_young = self.metallicities(galaxy, log_z, share)
        old, _ = self.light_and_age(galaxy, z_old, young=False)
        young, _ = self.light_and_age(galaxy, z_young, young=True)
        mass = ((1 - share) / old)[:, None] * self.old[galaxy] + (share / young)[:, None] * self.young[galaxy]
        metal = np.where(self.is_young[galaxy], z_young[:, None], z_old[:, None])
        return xr.Dataset(
            {
                "mass_formed": (("galaxy", "age"), mass, {"units": "Msun"}),
                "log_z_star": (("galaxy", "age"), metal, {"units": "dex", "z_sun": 0.02}),
            },
            coords={"age": ("age", self.grid.age, {"units": "yr"})},
        )
