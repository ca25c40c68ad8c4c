"""Mock CALIFA galaxies: profiles, histories and spectra by radius."""

import json

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.spectra import ANGSTROM_S
from spectool.surveys.jpas import CALIFA_BANDS, FILTERS, band_matrix
from spectool.synth import relations, sfh
from spectool.synth.grid import SSPGrid
from spectool.synth.histories import metallicity_operator, optical_light
from spectool.synth.synthesis import synthesize

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
    """Shapes of the histories of galaxies, each its own."""
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
    """Old and young populations of galaxies, and their light at each metallicity of a grid."""

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

    def solve_share(self, galaxy, log_age, log_z):
        """Share of the light of 4050-7300 A that is young, so that spectra have these light-weighted means."""
        share = np.full(log_age.shape, 0.5)
        for _ in range(12):
            z_old, z_young = self.metallicities(galaxy, log_z, share)
            _, old = self.light_and_age(galaxy, z_old, young=False)
            _, young = self.light_and_age(galaxy, z_young, young=True)
            share = np.clip((old - log_age) / (old - young), 0.0, 1.0)
        return share

    def histories(self, galaxy, log_z, share):
        """Mass formed and metallicities for `spectool.synth.synthesize`, one unit of light per spectrum."""
        z_old, z_young = self.metallicities(galaxy, log_z, share)
        old, _ = self.light_and_age(galaxy, z_old, young=False)
        young, _ = self.light_and_age(galaxy, z_young, young=True)
        mass = ((1 - share) / old)[:, None] * self.old[galaxy] + (share / young)[:, None] * self.young[galaxy]
        metal = np.where(self.is_young[galaxy], z_young[:, None], z_old[:, None])
        made = xr.Dataset(coords={"age": ("age", self.grid.age, {"units": "yr"})})
        made["mass_formed"] = (("galaxy", "age"), mass, {"units": "Msun"})
        made["log_z_star"] = (("galaxy", "age"), metal, {"units": "dex", "z_sun": 0.02})
        return made


REACH = 2.5
PIVOT_MASS = 10.5
# Of light in an exponential disc: scale lengths per half-light radius (1.678), radii in R / Re.
_SCALE = 1.678
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
WITHIN = {"log_age": 0.06, "log_z": 0.05, "a_v": 0.06}


def draw_galaxies(rng, n_galaxies, n_early):
    """Per-galaxy columns: type, mass, size, inclination, and the profiles' values at Re and slopes."""
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
    """Numbers of spectra: lognormal with 0.26 dex around the mean, and `n_galaxies` times the mean in all."""
    least = max(1, int(0.2 * mean))
    share = rng.lognormal(0.0, 0.6, n_galaxies)
    above = max(round(n_galaxies * mean) - least * n_galaxies, 0)
    edges = np.rint(np.concatenate([[0.0], np.cumsum(share)]) / share.sum() * above).astype(int)
    return least + np.diff(edges)


def place_spectra(rng, galaxies, counts):
    """Positions of the spectra, like the centres of Voronoi bins of equal light in a disc."""
    galaxy = np.repeat(np.arange(counts.size), counts)
    rank = np.arange(galaxy.size) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (rank + rng.random(galaxy.size)) / counts[galaxy]
    radius = _radius_of_light(share)
    # Equal turns by the golden angle fill a disc evenly, like seeds of a sunflower.
    angle = rank * _GOLDEN_ANGLE + rng.normal(0.0, 0.2, galaxy.size)
    angle += rng.uniform(0, 2 * np.pi, counts.size)[galaxy]
    re, tilt, turn = (galaxies[name][galaxy] for name in ("re", "inclination", "position_angle"))
    along = radius * np.cos(angle) * re
    across = radius * np.sin(angle) * re * np.cos(np.radians(tilt))
    turn = np.radians(turn)
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
    """A quantity at radii of galaxies: linear inside Re, half as steep outside."""
    away = radius - 1
    return galaxies[at_re][galaxy] + galaxies[gradient][galaxy] * np.where(away > 0, 0.5 * away, away)


def draw_targets(rng, galaxies, galaxy, radius):
    """Ages, metallicities and dust of spectra: profiles with scatter within galaxies, inside what the grid can make."""
    wanted = {
        "log_age": ("age_at_re", "age_gradient", AGE_TARGETS),
        "log_z": ("z_at_re", "metallicity_gradient", LOG_Z_TARGETS),
        "a_v": ("a_v_at_re", "a_v_gradient", (0.0, 2.5)),
    }
    result = {}
    for name, (at_re, gradient, limits) in wanted.items():
        mean = profile(galaxies, galaxy, radius, at_re, gradient)
        result[name] = np.clip(mean + WITHIN[name] * rng.standard_normal(galaxy.size), *limits)
    return result


N_GALAXIES, N_EARLY, N_SPECTRA = 190, 44, 19_727
NUISANCES = ("tilt", "dust", "history")
RANGE = (3745.0, 7500.0)
"""Of CALIFA's V500 spectra [Angstrom]."""
TILT = 0.03
"""Scatter of the calibration's error in g - r [mag]; like `RIPPLE` ours, in the sense of "a few per cent"
(Garcia-Benito et al. 2015, A&A 576, A135; Husemann et al. 2013, A&A 549, A87)."""
RIPPLE = 0.02
"""Scatter of the calibration's error at `NODES`, beside the tilt [mag]; 0.015 until the first networks were scored."""
NODES = np.linspace(3700.0, 7540.0, 13)
"""Wavelengths [Angstrom] of the calibration's errors, linear between: every 320 A, twice the width of a band."""
DUST_INDEX = 0.2
"""Scatter of the attenuation's power-law index around -0.7; slopes of galaxies scatter more (Salim et al. 2018)."""
BASE_DUST_INDEX = -0.7

_COARSE = 12.0  # pixels [Angstrom] for photometry: a twelfth of a band
_BATCH = 4096
_LOWEST_SSFR = -13.0
_UNITS = {
    "dex": "z_at_re age_gradient metallicity_gradient metal_rise log_z",
    "dex(Gyr)": "age_at_re log_age",
    "dex(Msun)": "log_mass",
    "mag": "a_v_at_re a_v_gradient a_v_mean a_v tilt calibration",
    "Gyr": "onset tau young_begin young_end",
    "arcsec": "re x y",
    "deg": "inclination position_angle",
    "km / s": "velocity_dispersion",
}
_UNITS = {name: unit for unit, names in _UNITS.items() for name in names.split()}


def draw_califa(
    n_galaxies=N_GALAXIES,
    *,
    spectra_per_galaxy=N_SPECTRA / N_GALAXIES,
    seed,
    nuisances=NUISANCES,
    ripple=RIPPLE,
    progress=True,
):
    """Galaxies with many spectra each, seen through narrow bands.

    Parameters
    ----------
    n_galaxies, spectra_per_galaxy : int, float
        44 of 190 are early types; spectra on average, for numbers differ from galaxy to galaxy.
    seed : int or numpy.random.Generator
        The same seed gives the same bytes, and the same galaxies and labels (to the little that histories move them)
        whatever the nuisances.
    nuisances : iterable of {"tilt", "dust", "history"}
        What differs privately from galaxy to galaxy. "tilt": an error of calibration, 0.03 mag in g - r and 0.02 mag
        (`ripple`) at nodes every 320 A. "dust": the slope of the attenuation (-0.7 +- 0.2) and the dust of young stars'
        birth clouds (0-2 times that of all stars; else as much). "history": see `draw_shapes`.
    ripple : float
        Waves of the calibration's error [mag].

    Returns
    -------
    Dataset
        ``flux`` (spectrum, band) float32: f_nu, noise-free, its mean over the bands 1; ``mask`` (bands that the
        spectra do not reach). Per spectrum ``galaxy_index``, ``x``, ``y`` [arcsec], ``radius`` [R / Re], and the truth:
        ``log_age`` [dex(Gyr)] and ``log_z`` [dex], light-weighted as in `spectool.synth.describe`, ``a_v`` [mag] of the
        dust before all stars, ``young_light`` (share). Per galaxy ``galaxy_name``, ``is_early``, ``log_mass``,
        ``log_sfr`` and ``log_ssfr`` (last 100 Myr; not below 10^-13 per yr), ``re``, ``inclination``, ``a_v_mean``,
        ``bulge_fraction``, profiles (``age_at_re``, ``age_gradient`` ...: per Re, inside Re) and nuisances (``tilt``,
        ``calibration`` (galaxy, node), ``dust_index``, ``dust1_ratio``, ``history_kind`` ...). ``attrs["at_limit"]``
        counts the spectra of one population alone: they are as old as it is, not as old as the profile asks.
    """
    if n_galaxies < 1 or not spectra_per_galaxy >= 1:
        counts = f"{n_galaxies} and {spectra_per_galaxy}"
        raise ValueError(f"need galaxies and spectra_per_galaxy of 1 or more, not {counts}")
    nuisances = (nuisances,) if isinstance(nuisances, str) else tuple(nuisances)
    unknown = sorted(set(nuisances) - set(NUISANCES))
    if unknown:
        raise ValueError(f"no such nuisance: {', '.join(unknown)}; there are {', '.join(NUISANCES)}")
    nuisances = tuple(name for name in NUISANCES if name in nuisances)
    grid = SSPGrid.embedded()
    # One stream each, so that switching off one nuisance changes nothing else.
    streams = np.random.default_rng(seed).spawn(6)
    galaxies = draw_galaxies(streams[0], n_galaxies, round(n_galaxies * N_EARLY / N_GALAXIES))
    spectra = place_spectra(streams[2], galaxies, draw_counts(streams[1], n_galaxies, spectra_per_galaxy))
    galaxy = spectra["galaxy_index"]
    spectra |= draw_targets(streams[3], galaxies, galaxy, spectra["radius"])
    oldest = np.full(n_galaxies, -np.inf)
    np.maximum.at(oldest, galaxy, spectra["log_age"])
    galaxies |= _draw_nuisances(streams[4], galaxies["is_early"], oldest, nuisances, ripple)
    populations = Populations(galaxies, grid)
    spectra["young_light"] = populations.solve_share(galaxy, spectra["log_age"], spectra["log_z"])
    galaxies["a_v_mean"] = np.bincount(galaxy, spectra["a_v"]) / np.bincount(galaxy)
    sample = _to_dataset(galaxies, spectra)
    attrs = {"nuisances": ",".join(nuisances), "z_sun": grid.z_sun}
    at_limit = (spectra["young_light"] <= 0) | (spectra["young_light"] >= 1)
    sample.attrs = attrs | {"at_limit": int(at_limit.sum()), "ssp_grid": json.dumps(grid.provenance)}
    return _observe(sample, populations, grid, progress)


def rebuild_galaxy(sample, galaxy, *, wavelength=None, grid=None):
    """Spectra of one galaxy (by its row) of a sample of `draw_califa`, anew: a sample keeps bands only.

    Parameters
    ----------
    wavelength : array_like, shape (n,), optional
        Pixel centres, vacuum, at rest [Angstrom]; default CALIFA's range in steps of 2 A.
    grid : SSPGrid, optional
        That of the sample; default: the embedded one.

    Returns
    -------
    Dataset
        ``flux`` (spectrum, wavelength): f_lambda, broadened by the galaxy's velocity dispersion, with its errors of
        calibration, in units of its mean f_nu through the sample's bands (so that its photometry is the sample's
        ``flux``) times c / (5500 A)^2; the sample's columns of these spectra, and ``row``, their places in it.
    """
    if not 0 <= galaxy < sample.sizes["galaxy"]:
        raise ValueError(f"the sample's galaxies are 0 to {sample.sizes['galaxy'] - 1}: there is no {galaxy}")
    rows = np.flatnonzero(sample["galaxy_index"].values == galaxy)
    grid = grid or SSPGrid.embedded()
    centres = np.arange(RANGE[0] + 1, RANGE[1], 2.0) if wavelength is None else np.asarray(wavelength, float)
    table = sample.isel(spectrum=rows, galaxy=[galaxy])
    table = table.assign(galaxy_index=("spectrum", np.zeros(rows.size, int)))
    populations = Populations({name: table[name].values for name in SHAPE_COLUMNS}, grid)
    made = _synthesize(table, populations, slice(None), centres, grid, broad=True)
    bright = made @ band_matrix(centres, sample["band"].values)
    level = np.nanmean(bright, axis=1) * ANGSTROM_S / 5500.0**2
    keep = [n for n in sample.variables if sample[n].dims == ("spectrum",)]
    spectra = sample[keep].isel(spectrum=rows)
    spectra["flux"] = (("spectrum", "wavelength"), (made / level[:, None]).astype("f4"), {"units": ""})
    spectra["row"] = ("spectrum", rows, {"units": ""})
    return spectra.assign_coords(
        wavelength=("wavelength", centres, {"units": "Angstrom", "frame": "rest, vacuum"})
    ).assign_attrs(sample.attrs, frame="rest", galaxy=int(galaxy), fwhm=grid.fwhm)


def label_spread(values):
    """Mean squared difference of two labels drawn at random."""
    return float(2 * np.nanvar(values))


def _draw_nuisances(rng, is_early, oldest, nuisances, waves):
    """Private columns of galaxies; the numbers of a nuisance are drawn also when it is switched off."""
    n = is_early.size
    shapes = draw_shapes(rng, is_early, oldest)
    if "history" not in nuisances:
        shapes = {"history_kind": np.full(n, KINDS[0])}
        shapes |= {name: np.full(n, value) for name, value in BASE_SHAPE.items()}
    tilt, ripple = TILT * rng.standard_normal(n), waves * rng.standard_normal((n, NODES.size))
    if "tilt" not in nuisances:
        tilt, ripple = np.zeros_like(tilt), np.zeros_like(ripple)
    index, ratio = DUST_INDEX * rng.standard_normal(n), rng.uniform(0.0, 2.0, n)
    if "dust" not in nuisances:
        index, ratio = np.zeros(n), np.ones(n)
    # SDSS's g and r lie at 4770 and 6231 A.
    shape = np.log(NODES / 5500.0) / np.log(6231.0 / 4770.0)
    calibration = tilt[:, None] * -shape + ripple
    return shapes | {
        "tilt": tilt,
        "calibration": calibration,
        "dust_index": np.clip(BASE_DUST_INDEX + index, -1.3, -0.2),
        "dust1_ratio": ratio,
    }


def _to_dataset(galaxies, spectra):
    columns = {}
    for dim, table in (("galaxy", galaxies), ("spectrum", spectra)):
        for name, values in table.items():
            dims = (dim, "node") if values.ndim == 2 else dim
            columns[name] = (dims, values, {"units": _UNITS.get(name, "")})
    names = np.array([f"C{k:04d}" for k in range(galaxies["is_early"].size)])
    sample = xr.Dataset(columns | {"galaxy_name": ("galaxy", names, {"units": ""})})
    return sample.assign_coords(node=("node", NODES, {"units": "Angstrom"}))


def _observe(sample, populations, grid, progress):
    """The sample with fluxes and labels, batch by batch: spectra are never all in memory."""
    centres = np.arange(RANGE[0] + _COARSE / 2, RANGE[1] + 1, _COARSE)
    matrix = band_matrix(centres, CALIFA_BANDS)
    n = sample.sizes["spectrum"]
    flux = np.empty((n, len(CALIFA_BANDS)), np.float32)
    labels = {name: np.empty(n) for name in ("log_age", "log_z", "mass", "rate")}
    first = range(0, n, _BATCH)
    for start in tqdm(first, desc="drawing spectra", unit="batch", disable=not progress):
        part = slice(start, min(start + _BATCH, n))
        made = _synthesize(sample, populations, part, centres, grid, labels=labels)
        seen = made @ matrix
        flux[part] = seen / np.nanmean(seen, axis=1, keepdims=True)
    galaxy = sample["galaxy_index"].values
    rate, mass = np.bincount(galaxy, labels["rate"]), np.bincount(galaxy, labels["mass"])
    log_ssfr = np.log10(np.maximum(rate / mass, 10.0**_LOWEST_SSFR))
    wavelengths = np.array([float(FILTERS[name].wavelength) for name in CALIFA_BANDS])
    wavelengths = ("band", wavelengths, {"units": "Angstrom"})
    return sample.assign_coords(band=("band", np.array(CALIFA_BANDS)), band_wavelength=wavelengths).assign(
        flux=(("spectrum", "band"), flux, {"units": "", "long_name": "f_nu over its mean"}),
        mask=(("spectrum", "band"), ~np.isfinite(flux), {"units": ""}),
        log_age=("spectrum", labels["log_age"], {"units": "dex(Gyr)", "long_name": "light-weighted log age"}),
        log_z=("spectrum", labels["log_z"], {"units": "dex", "z_sun": grid.z_sun}),
        log_ssfr=("galaxy", log_ssfr, {"units": "dex(1 / yr)"}),
        log_sfr=("galaxy", log_ssfr + sample["log_mass"].values, {"units": "dex(Msun / yr)"}),
    )


def _synthesize(sample, populations, part, centres, grid, *, broad=False, labels=None):
    """f_lambda (n, wavelength) of some spectra, one unit of light each; `labels` are filled in on the way."""
    table = sample.isel(spectrum=part)
    galaxy = table["galaxy_index"].values
    histories = populations.histories(galaxy, table["log_z"].values, table["young_light"].values)
    dust2 = table["a_v"].values / 1.086
    dispersion = sample["velocity_dispersion"].values[galaxy] if broad else np.zeros(galaxy.size)
    histories["dust1"] = ("galaxy", dust2 * sample["dust1_ratio"].values[galaxy])
    histories["dust2"] = ("galaxy", dust2)
    histories["dust_index"] = ("galaxy", sample["dust_index"].values[galaxy])
    histories["velocity_dispersion"] = ("galaxy", dispersion)
    made = synthesize(histories, grid, wavelength=centres, nebular=False, batch_size=1024, progress=False)
    if labels is not None:
        labels["log_age"][part] = np.log10(made["age_lw"].values)
        labels["log_z"][part] = made["log_z_lw"].values
        labels["mass"][part] = 10 ** made["log_mass"].values
        labels["rate"][part] = 10 ** made["log_sfr"].values
    return made["flux"].values * _calibration(sample, galaxy, centres)


def _calibration(sample, galaxy, centres):
    """Factors (n, wavelength) by which the calibration of each galaxy errs."""
    nodes = sample["node"].values
    position = np.clip((centres - nodes[0]) / (nodes[1] - nodes[0]), 0, nodes.size - 1)
    hats = np.maximum(1 - np.abs(position[:, None] - np.arange(nodes.size)), 0)
    factors = 10 ** (-0.4 * sample["calibration"].values @ hats.T)
    return factors.astype("f4")[galaxy]
