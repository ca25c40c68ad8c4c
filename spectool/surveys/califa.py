"""Mock of the CALIFA sample of Liew-Cain et al. (2021): 190 galaxies with some 100 spectra each, as J-PAS bands.

CALIFA (Sanchez et al. 2012, A&A 538, A8) took spectra of 3745-7500 A across nearby galaxies. Emission lines are
subtracted in the paper, so there are stars and dust only, at rest. Every galaxy has private nuisances, which a network
learns by heart when it has seen other spectra of the galaxy: an error of calibration, a slope of its dust and a shape
of its histories. Each can be switched off, and the rest of the sample stays as it is.
"""

import json

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.surveys.califa_histories import BASE_SHAPE, KINDS, SHAPE_COLUMNS, Populations, draw_shapes
from spectool.surveys.califa_profiles import draw_counts, draw_galaxies, draw_targets, place_spectra
from spectool.surveys.jpas import FILTERS, LIEWCAIN_BANDS, band_matrix
from spectool.synth.grid import SSPGrid
from spectool.synth.synthesis import synthesize

N_GALAXIES, N_EARLY, N_SPECTRA = 190, 44, 19_727
NUISANCES = ("tilt", "dust", "history")
RANGE = (3745.0, 7500.0)
"""Of CALIFA's V500 spectra [Angstrom]."""
TILT = 0.03
"""Scatter of the calibration's error in g - r [mag]; like `RIPPLE` ours, in the sense of "a few per cent".

Garcia-Benito et al. (2015, A&A 576, A135) and Husemann et al. (2013, A&A 549, A87) compare CALIFA with SDSS's images.
"""
RIPPLE = 0.02
"""Scatter of the calibration's error at `NODES`, beside the tilt [mag].

A choice, and not a blind one: it was 0.015 until the first networks had been scored; notebook 50 shows both.
"""
NODES = np.linspace(3700.0, 7540.0, 13)
"""Wavelengths [Angstrom] of the calibration's errors, linear between: every 320 A, twice the width of a band."""
DUST_INDEX = 0.2
"""Scatter of the attenuation's power-law index around -0.7; slopes of galaxies scatter more (Salim et al. 2018)."""
BASE_DUST_INDEX = -0.7

_COARSE = 12.0  # pixels [Angstrom] for photometry: a twelfth of a band
_BATCH = 4096
_LOWEST_SSFR = -13.0
_UNITS = {
    "log_mass": "dex(Msun)",
    "log_sfr": "dex(Msun / yr)",
    "log_ssfr": "dex(1 / yr)",
    "re": "arcsec",
    "inclination": "deg",
    "position_angle": "deg",
    "velocity_dispersion": "km / s",
    "age_at_re": "dex(Gyr)",
    "z_at_re": "dex",
    "a_v_at_re": "mag",
    "age_gradient": "dex",
    "metallicity_gradient": "dex",
    "a_v_gradient": "mag",
    "a_v_mean": "mag",
    "tilt": "mag",
    "onset": "Gyr",
    "tau": "Gyr",
    "young_begin": "Gyr",
    "young_end": "Gyr",
    "metal_rise": "dex",
    "log_age": "dex(Gyr)",
    "log_z": "dex",
    "a_v": "mag",
    "x": "arcsec",
    "y": "arcsec",
}


def draw_califa(
    n_galaxies=N_GALAXIES,
    *,
    n_early=None,
    spectra_per_galaxy=N_SPECTRA / N_GALAXIES,
    seed,
    nuisances=NUISANCES,
    scatter=1.0,
    ripple=RIPPLE,
    bands=LIEWCAIN_BANDS,
    grid=None,
    progress=True,
):
    """Galaxies with many spectra each, seen through narrow bands.

    Parameters
    ----------
    n_galaxies : int
    n_early : int, optional
        Early types among them; default: the paper's share, 44 of 190.
    spectra_per_galaxy : float
        On average; default 103.8, which makes the paper's 19,727. Numbers differ from galaxy to galaxy.
    seed : int or numpy.random.Generator
        The same seed gives the same bytes, and the same galaxies and labels (to the little that histories move them)
        whatever the nuisances.
    nuisances : iterable of {"tilt", "dust", "history"}
        What differs privately from galaxy to galaxy. "tilt": an error of calibration, 0.03 mag in g - r and 0.02 mag
        at nodes every 320 A. "dust": the slope of the attenuation (-0.7 +- 0.2) and the dust of young stars' birth
        clouds (0-2 times that of all stars; else as much). "history": see `draw_shapes`.
    scatter : float
        Of spectra around their galaxy's profiles, times 0.06 dex of age, 0.05 dex of metallicity, 0.06 mag of A_V.
    ripple : float
        Waves of the calibration's error, part of "tilt" [mag].
    bands : sequence of str
        Of `spectool.surveys.jpas`.
    grid : SSPGrid, optional
        Default: the embedded one.
    progress : bool

    Returns
    -------
    Dataset
        ``flux`` (spectrum, band) float32: f_nu, noise-free, its mean over the bands 1; ``mask`` (bands that the
        spectra do not reach). Per spectrum ``galaxy_index``, ``x``, ``y`` [arcsec], ``radius`` [R / Re], and the truth:
        ``log_age`` [dex(Gyr)] and ``log_z`` [dex], light-weighted as in `spectool.synth.describe`, ``a_v`` [mag] of the
        dust before all stars; ``young_light``, the share of young light. Per galaxy ``galaxy_name``, ``is_early``,
        ``log_mass``, ``log_sfr`` and ``log_ssfr`` (last 100 Myr; not below 10^-13 per yr), ``re``, ``inclination``,
        ``a_v_mean``, ``bulge_fraction``, profiles (``age_at_re``, ``age_gradient`` ...: per Re, inside Re) and
        nuisances (``tilt``, ``calibration`` (galaxy, node), ``dust_index``, ``dust1_ratio``, ``history_kind`` ...).
        ``attrs["at_limit"]`` counts the spectra that are made of one population alone: they are as old as it is, not
        as old as the profile asks.

    Raises
    ------
    ValueError
        If a number does not make sense or there is no such nuisance or band.
    """
    n_early = round(n_galaxies * N_EARLY / N_GALAXIES) if n_early is None else n_early
    nuisances = _check(n_galaxies, n_early, spectra_per_galaxy, nuisances, scatter)
    grid = grid or SSPGrid.embedded()
    # One stream each, so that switching off one nuisance changes nothing else.
    streams = np.random.default_rng(seed).spawn(6)
    galaxies = draw_galaxies(streams[0], n_galaxies, n_early)
    spectra = place_spectra(streams[2], galaxies, draw_counts(streams[1], n_galaxies, spectra_per_galaxy))
    galaxy = spectra["galaxy_index"]
    spectra |= draw_targets(streams[3], galaxies, galaxy, spectra["radius"], scatter)
    oldest = np.full(n_galaxies, -np.inf)
    np.maximum.at(oldest, galaxy, spectra["log_age"])
    galaxies |= _draw_nuisances(streams[4], galaxies["is_early"], oldest, nuisances, ripple)
    populations = Populations(galaxies, grid)
    spectra["young_light"] = populations.solve_share(galaxy, spectra["log_age"], spectra["log_z"])
    galaxies["a_v_mean"] = np.bincount(galaxy, spectra["a_v"]) / np.bincount(galaxy)
    sample = _to_dataset(galaxies, spectra)
    attrs = {"nuisances": ",".join(nuisances), "scatter": float(scatter), "z_sun": grid.z_sun}
    at_limit = (spectra["young_light"] <= 0) | (spectra["young_light"] >= 1)
    sample.attrs = attrs | {"at_limit": int(at_limit.sum()), "ssp_grid": json.dumps(grid.provenance)}
    return _observe(sample, populations, grid, bands, progress)


def rebuild_galaxy(sample, galaxy, *, wavelength=None, grid=None):
    """Spectra of one galaxy of a sample, anew: a sample keeps bands only.

    Parameters
    ----------
    sample : Dataset
        Of `draw_califa`.
    galaxy : int
        Row in the sample's table of galaxies.
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

    Raises
    ------
    ValueError
        If the sample has no such galaxy.
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
    level = np.nanmean(bright, axis=1) * 299792458e10 / 5500.0**2
    keep = [n for n in sample.variables if sample[n].dims == ("spectrum",)]
    spectra = sample[keep].isel(spectrum=rows)
    spectra["flux"] = (("spectrum", "wavelength"), (made / level[:, None]).astype("f4"), {"units": ""})
    spectra["row"] = ("spectrum", rows, {"units": ""})
    return spectra.assign_coords(
        wavelength=("wavelength", centres, {"units": "Angstrom", "frame": "rest, vacuum"})
    ).assign_attrs(sample.attrs, frame="rest", galaxy=int(galaxy), fwhm=grid.fwhm)


def label_spread(values):
    """Mean squared difference of two labels drawn at random, 0.199 dex^2 for the ages of the paper (Section 3.2)."""
    return float(2 * np.nanvar(values))


def _check(n_galaxies, n_early, spectra_per_galaxy, nuisances, scatter):
    if n_galaxies < 1 or not 0 <= n_early <= n_galaxies:
        raise ValueError(
            f"{n_early} early types among {n_galaxies} galaxies: need 1 or more, and no more than all"
        )
    if not spectra_per_galaxy >= 1:
        raise ValueError(f"spectra_per_galaxy must be at least 1, not {spectra_per_galaxy}")
    if not scatter >= 0:
        raise ValueError(f"scatter must not be negative, but is {scatter}")
    nuisances = (nuisances,) if isinstance(nuisances, str) else tuple(nuisances)
    unknown = sorted(set(nuisances) - set(NUISANCES))
    if unknown:
        raise ValueError(f"no such nuisance: {', '.join(unknown)}; there are {', '.join(NUISANCES)}")
    return tuple(name for name in NUISANCES if name in nuisances)


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
            columns[name] = (dims, values, {"units": _UNITS.get(name, "mag" if values.ndim == 2 else "")})
    names = np.array([f"C{k:04d}" for k in range(galaxies["is_early"].size)])
    sample = xr.Dataset(columns | {"galaxy_name": ("galaxy", names, {"units": ""})})
    return sample.assign_coords(node=("node", NODES, {"units": "Angstrom"}))


def _observe(sample, populations, grid, bands, progress):
    """The sample with fluxes and labels, batch by batch: spectra are never all in memory."""
    bands = tuple(bands)
    centres = np.arange(RANGE[0] + _COARSE / 2, RANGE[1] + 1, _COARSE)
    matrix = band_matrix(centres, bands)
    n = sample.sizes["spectrum"]
    flux = np.empty((n, len(bands)), np.float32)
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
    wavelengths = np.array([float(FILTERS[name].wavelength) for name in bands])
    return sample.assign(
        flux=(("spectrum", "band"), flux, {"units": "", "long_name": "f_nu over its mean"}),
        mask=(("spectrum", "band"), ~np.isfinite(flux), {"units": ""}),
        log_age=("spectrum", labels["log_age"], {"units": "dex(Gyr)", "long_name": "light-weighted log age"}),
        log_z=("spectrum", labels["log_z"], {"units": "dex", "z_sun": grid.z_sun}),
        log_ssfr=("galaxy", log_ssfr, {"units": "dex(1 / yr)"}),
        log_sfr=("galaxy", log_ssfr + sample["log_mass"].values, {"units": "dex(Msun / yr)"}),
    ).assign_coords(
        band=("band", np.array(bands)),
        band_wavelength=("band", wavelengths, {"units": "Angstrom"}),
    )


def _synthesize(sample, populations, part, centres, grid, *, broad=False, labels=None):
    """f_lambda (n, wavelength) of some spectra, one unit of light each; `labels` are filled in on the way."""
    table = sample.isel(spectrum=part)
    galaxy = table["galaxy_index"].values
    histories = populations.histories(galaxy, table["log_z"].values, table["young_light"].values)
    dust2 = table["a_v"].values / 1.086
    dispersion = sample["velocity_dispersion"].values[galaxy] if broad else np.zeros(galaxy.size)
    histories = histories.assign(
        dust1=("galaxy", dust2 * sample["dust1_ratio"].values[galaxy]),
        dust2=("galaxy", dust2),
        dust_index=("galaxy", sample["dust_index"].values[galaxy]),
        velocity_dispersion=("galaxy", dispersion),
    )
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
