"""The DESI-like sample of Scourfield et al. (2023)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool import __version__
from spectool.io import DATA, read_or_make
from spectool.measure.classes import BPT_LINES, CLASSES, classify, kewley2001, log_ratio
from spectool.measure.lines_linear import measure_lines_linear
from spectool.papers.candidates import SEED, draw_block, observe_candidates, rebuild
from spectool.papers.scourfield2023.spectra import normalize_total, scourfield2023_wavelength
from spectool.prepare import (
    add_history,
    correct_extinction,
    mask_bad_pixels,
    mask_sky_lines,
    resample,
    to_rest_frame,
)
from spectool.spectra import L_SUN
from spectool.surveys.archive import fetch_usable, join_spectra, query_catalogue
from spectool.surveys.sdss import luminosity_to_flux
from spectool.synth.grid import SSPGrid
from spectool.synth.sfh import share_younger_than
from spectool.synth.synthesis import BIRTH_CLOUD_AGE, metallicity_weights

TABLE1 = dict(zip(CLASSES, (50948, 20771, 12204, 2968, 17), strict=True))
"""Candidates of each class in the paper, 86,908 in all; `CLASSES` is in Table 1's order."""
MAGNITUDE_LIMIT = 17.77
"""r of SDSS's main galaxy sample (Strauss et al. 2002, AJ 124, 1810)."""
_SCREEN, _SELECT = 10, 11  # streams of random numbers; those below 10 are the candidates'
_PREDICTED = np.linspace(-1.0, 4.0, 26)
_ALPHA_PER_PHOTON = 1.37e-12 / L_SUN


@dataclass(frozen=True)
class Recipe:
    """How a sample is selected."""

    low: float
    high: float
    star_forming: bool
    metallicity_sfr: bool
    n_blocks: int
    wanted: tuple
    n_bin: int = 1000
    n_top: int = 1000


_FORMING = ((-9.0, 300), (1.0, 1500), (1.2, 12000), (1.6, 5000), (1.8, 3000))
SAMPLES = {
    "uniform": Recipe(0.2, 3.4, False, True, 80, ((-9.0, 3500),)),
    "star-forming": Recipe(1.4, 3.2, True, True, 80, _FORMING, n_top=778),
    "null": Recipe(1.4, 3.2, True, False, 80, _FORMING, n_top=778),
}


def predict_h_alpha(galaxies, grid=None):
    """Roughly the H-alpha flux that candidates will show in the fibre, without synthesizing them.

    From the ionising photons of stars younger than 10 Myr, 1.37e-12 erg each (case B, Osterbrock & Ferland
    2006), and the nucleus, behind their dust.
    """
    grid = grid or SSPGrid.embedded()
    young = np.flatnonzero(share_younger_than(grid.age_edges, BIRTH_CLOUD_AGE) > 0)
    mass = (
        galaxies["mass_formed"].values[:, young] * share_younger_than(grid.age_edges, BIRTH_CLOUD_AGE)[young]
    )
    weights = metallicity_weights(10 ** galaxies["log_z_star"].values * grid.z_sun, grid.metallicity)
    photons = np.einsum("gz,ga,za->g", weights, mass, grid.ionizing_rate[:, young], optimize=True)
    depth = galaxies["dust1"] + galaxies["dust2"]
    nucleus = 10 ** galaxies["agn_log_h_alpha"].fillna(-9).values
    light = photons * _ALPHA_PER_PHOTON * galaxies["fibre_fraction"].values + nucleus
    redshift = galaxies["redshift"].values
    nodes = np.linspace(redshift.min() * 0.999, redshift.max() * 1.001, 64)
    to_flux = np.exp(np.interp(redshift, nodes, np.log(luminosity_to_flux(nodes) * (1 + nodes))))
    return light * to_flux * np.exp(-depth.values * (6564.6 / 5500) ** galaxies["dust_index"].values)


def keep_probability(predicted, n_blocks, wanted):
    """Probability to be observed in each 0.2 dex of predicted flux, so that some number of galaxies is."""
    which = np.digitize(np.log10(predicted), _PREDICTED)
    counts = np.bincount(which, minlength=_PREDICTED.size + 1) * n_blocks
    starts, numbers = np.array(wanted).T
    lower = np.concatenate([[-9.0], _PREDICTED]) + 1e-9
    numbers = numbers[np.searchsorted(starts, lower, side="right") - 1]
    return np.clip(numbers / np.maximum(counts, 1), 0.02, 1)


def screen_block(block, probability, *, seed=SEED, metallicity_sfr=True, grid=None):
    """The candidates of a block that are observed, chosen at random with the probability of their predicted flux."""
    galaxies = draw_block(block, seed=seed, metallicity_sfr=metallicity_sfr, grid=grid)
    which = np.digitize(np.log10(predict_h_alpha(galaxies, grid)), _PREDICTED)
    chance = np.random.default_rng([seed, block, _SCREEN]).random(which.size)
    galaxies = galaxies.assign(probability=("galaxy", probability[which], {"units": ""}))
    return galaxies.isel(galaxy=np.flatnonzero(chance < probability[which]))


def measure_candidates(galaxies, *, seed=SEED, grid=None):
    """Observe candidates, measure their lines and classify them as the paper does."""
    seen = observe_candidates(galaxies, seed=seed, grid=grid)
    lines = measure_lines_linear(seen.drop_vars(["truth", "true_line_flux"]).drop_dims("line"))
    table, without_stars = classify(lines), classify(lines, net=False)
    emitting = without_stars["spectral_class"].values == "emission line galaxy"
    forming = emitting & (table["log_o3"] < 0.7 - 1.2 * (table["log_n2"] + 0.4)).values  # NaN is not
    name = table["spectral_class"].values
    columns = {
        "candidate": seen["candidate"].values,
        "probability": seen["probability"].values,
        "r_magnitude": seen["r_magnitude"].values,
        "h_alpha_flux": table["line_flux"].sel(line="Hα").values,
        "h_alpha_sn": table["line_sn"].sel(line="Hα").values,
        "spectral_class": name.astype("<U20"),
        "is_star_forming": forming,
    }
    units = {"r_magnitude": "mag", "h_alpha_flux": "1e-17 erg / (s cm2)"}
    return xr.Dataset({k: ("galaxy", v, {"units": units.get(k, "")}) for k, v in columns.items()})


def class_weights(table):
    """Factor by which each candidate counts so that the pool has the class proportions of Table 1."""
    name, weights = table["spectral_class"].values, 1 / table["probability"].values
    natural = {kind: float(weights[name == kind].sum() / weights.sum()) for kind in CLASSES}
    total = sum(TABLE1.values())
    for kind, share in natural.items():
        if share > 0:
            weights[name == kind] *= TABLE1[kind] / total / share
    return weights, natural


def draw_weighted(weights, n, rng):
    """Rows drawn without replacement, each with a chance exactly proportional to its weight (or certain)."""
    if n >= weights.size:
        return np.arange(weights.size)
    chance = np.zeros(weights.size)
    free = np.ones(weights.size, bool)
    while True:
        chance[free] = weights[free] * (n - (~free).sum()) / weights[free].sum()
        over = free & (chance > 1)
        if not over.any():
            break
        chance[over], free[over] = 1.0, False
    order = rng.permutation(weights.size)
    ends = np.cumsum(chance[order])
    picks = np.searchsorted(ends, rng.random() + np.arange(n))
    return order[np.minimum(picks, weights.size - 1)]


def select(table, recipe, *, seed=SEED):
    """Fill the bins of H-alpha flux and split the sample.

    ``attrs``: ``counts`` (JSON, class -> number per bin), ``proportions`` (JSON, Table 1's), ``natural``
    (JSON), ``observed`` (candidates in the pool).
    """
    rng = np.random.default_rng([seed, _SELECT])
    name = table["spectral_class"].values
    pool = table.isel(
        galaxy=np.flatnonzero((table["r_magnitude"].values < MAGNITUDE_LIMIT) & np.isin(name, CLASSES))
    )
    weights, natural = class_weights(pool)
    usable = pool["h_alpha_flux"].values > 0
    if recipe.star_forming:
        usable &= pool["is_star_forming"].values
    flux = np.log10(np.where(usable, pool["h_alpha_flux"].values, 1e-30))
    which = np.digitize(flux, np.linspace(recipe.low, recipe.high, 11)) - 1
    chosen = []
    for k in range(10):
        rows = np.flatnonzero(which == k)
        n = recipe.n_top if k == 9 else recipe.n_bin
        chosen.append(rows[draw_weighted(weights[rows], n, rng)])
    rows = rng.permutation(np.concatenate(chosen))
    split = np.full(rows.size, "train", dtype="<U5")
    split[rng.permutation(rows.size)[: round(0.2 * rows.size)]] = "test"
    columns = ["candidate", "spectral_class", "h_alpha_flux"]
    out = pool[columns].isel(galaxy=rows)
    out = out.assign(
        h_alpha_bin=("galaxy", which[rows].astype("i1"), {"units": ""}),
        split=("galaxy", split, {"units": ""}),
    )
    kinds = out["spectral_class"].values
    counts = {k: np.bincount(which[rows][kinds == k], minlength=10).tolist() for k in CLASSES}
    return out.assign_attrs(
        counts=json.dumps(counts),
        proportions=json.dumps(TABLE1),
        natural=json.dumps(natural),
        observed=pool.sizes["galaxy"],
    )


SELECTION = DATA / "scourfield2023_selection.nc"
CACHE_VERSION = 1
"""Raise it when the same numbers give other spectra."""
_SAMPLES = ("uniform", "star-forming", "null")


def read_selection(sample="uniform", *, path=SELECTION):
    """The galaxies that were selected, by their numbers.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
        1,000 galaxies per bin of H-alpha flux (Section 2 of the paper); star-forming ones only (Section 5); and the
        same from the population whose gas metallicity follows mass alone.
    path : path, optional
        Default: the selection that comes with spectool.

    Returns
    -------
    Dataset
        Per galaxy ``candidate``, ``spectral_class`` (measured), ``h_alpha_flux`` (measured, 1e-17 erg/s/cm2),
        ``h_alpha_bin`` (0-9), ``split`` ("train", "test"); ``attrs``: ``constant`` (of `normalize_total`), and as JSON
        ``counts`` (class -> number per bin), ``proportions`` (candidates in the paper's Table 1), ``natural`` (shares
        of the classes among the candidates before they were weighted), ``recipe``.

    Raises
    ------
    ValueError
        If there is no such sample.
    """
    if sample not in _SAMPLES:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(_SAMPLES)}")
    stored = xr.load_dataset(path, group=sample, engine="h5netcdf")
    names = np.array(json.loads(stored.attrs["classes"]))
    split = np.where(stored["is_test"].values, "test", "train")
    return stored.drop_vars("is_test").assign(
        candidate=stored["candidate"].astype("i8").assign_attrs(stored["candidate"].attrs),
        spectral_class=("galaxy", names[stored["spectral_class"].values], {"units": ""}),
        split=("galaxy", split, {"units": ""}),
    )


def make_scourfield2023(sample="uniform", *, split=None, n=None, cache=True, progress=True):
    """The spectra of a selection, normalised.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
    split : {"train", "test"}, optional
        Default: both.
    n : int, optional
        Only the first n (they are in random order).
    cache : bool
        Keep whole samples on disk (some 100 MB each, in the folder that `pooch.os_cache` gives), for the next call.
    progress : bool

    Returns
    -------
    Dataset
        As `rebuild` and `spectool.papers.scourfield2023.spectra.normalize_total`, with the columns of `read_selection`.
    """
    chosen = read_selection(sample)
    if split is not None:
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train', 'test' or None, not {split!r}")
        chosen = chosen.isel(galaxy=np.flatnonzero(chosen["split"].values == split))
    path = _cache_file(sample, split, chosen)
    whole = n is None or n >= chosen.sizes["galaxy"]
    if cache and (whole or path.exists()):
        return read_or_make(path, lambda: _rebuild_chosen(chosen, progress)).isel(galaxy=slice(n))
    return _rebuild_chosen(chosen.isel(galaxy=slice(n)), progress)


def _rebuild_chosen(some, progress):
    """Normalised spectra of galaxies of `read_selection`, with its columns."""
    recipe = json.loads(some.attrs["recipe"])
    spectra = rebuild(
        some["candidate"].values,
        seed=recipe["seed"],
        metallicity_sfr=recipe["metallicity_sfr"],
        progress=progress,
    )
    spectra = normalize_total(spectra, constant=some.attrs["constant"])
    return spectra.assign({name: some[name] for name in some.data_vars if name != "candidate"})


def _cache_file(sample, split, chosen):
    """Named after everything that the spectra depend on; a new release of spectool makes them anew."""
    import pooch

    stated = json.dumps([__version__, CACHE_VERSION, chosen.attrs["constant"], chosen.attrs["recipe"]])
    digest = hashlib.sha256(stated.encode() + chosen["candidate"].values.tobytes()).hexdigest()[:12]
    return (
        Path(pooch.os_cache("spectool")) / "samples" / f"scourfield2023_{sample}_{split or 'all'}_{digest}.nc"
    )


REAL_SAMPLES = {"uniform": (0.2, 3.4, False), "star-forming": (1.4, 3.2, True)}
"""Name -> range of log10 H-alpha flux [1e-17 erg/s/cm2] in ten bins, and whether star-forming only."""

TEST_SHARE = 0.2
MIN_SN = 3.0
"""Of H-alpha and H-beta in emission, and of Balmer absorption (Lick's H-delta A), for the classes."""
SFD_TO_SF = 0.86
"""E(B-V) of Schlafly & Finkbeiner (2011, ApJ 737, 103) over that of Schlegel et al. (1998), which MPA-JHU give."""


def read_real_scourfield2023(
    sample="uniform",
    *,
    split=None,
    n=None,
    cache=True,
    progress=True,
    n_per_bin=1000,
    constant=None,
    seed=2023,
    batch_size=256,
    catalogue_options=None,
    archive_options=None,
):
    """Real spectra prepared as Scourfield et al. (2023, Sections 2 and 5) prepared them."""
    if sample not in REAL_SAMPLES:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(REAL_SAMPLES)}")
    if split not in (None, "train", "test"):
        raise ValueError(f"split is 'train', 'test' or None, not {split!r}")
    low, high, star_forming = REAL_SAMPLES[sample]
    if constant is None:
        constant = read_selection(sample).attrs["constant"]
    folder = None if isinstance(cache, bool) else cache
    common = {"cache": folder, "progress": progress}
    catalogue = query_catalogue(
        n_per_bin,
        h_alpha_edges=10 ** np.linspace(low, high, 11),
        star_forming=star_forming,
        seed=seed,
        **common,
        **(catalogue_options or {}),
    )
    catalogue = _shuffle(_with_classes(catalogue), seed)
    if split is not None:
        catalogue = catalogue.isel(galaxy=np.flatnonzero(catalogue["split"].values == split))
    catalogue, paths = fetch_usable(catalogue.isel(galaxy=slice(n)), **common, **(archive_options or {}))
    parts, size = [], catalogue.sizes["galaxy"]
    for first in tqdm(range(0, size, batch_size), desc="preparing", unit="batch", disable=not progress):
        part = slice(first, first + batch_size)
        parts.append(_prepare(join_spectra(catalogue.isel(galaxy=part), paths[part])))
    how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
    whole = xr.concat(parts, "galaxy", combine_attrs="override", **how)
    masked = whole["mask"].values.mean()
    told = (
        f"{size} real spectra at rest on {whole.sizes['wavelength']} bins, {masked:.2%} of the pixels masked"
    )
    return normalize_total(
        add_history(whole.assign_attrs(history=catalogue.attrs["history"]), told), constant=constant
    )


def _prepare(spectra):
    """Observed spectra at rest, without the Milky Way's dust, on the paper's bins."""
    clean = mask_sky_lines(mask_bad_pixels(spectra))
    clean = correct_extinction(clean, ebv=SFD_TO_SF * clean["ebv"].fillna(0).values)
    return resample(to_rest_frame(clean), scourfield2023_wavelength())


def _with_classes(catalogue):
    """The five classes by the paper's rules, from MPA-JHU's lines; quasars (broad-line AGN) are SDSS's."""
    flux = {line: catalogue["line_flux"].sel(line=line).values for line in BPT_LINES}
    sn = {line: catalogue["line_sn"].sel(line=line).values for line in BPT_LINES}
    log_n2, log_o3 = log_ratio(flux["[N II] 6583"], flux["Hα"]), log_ratio(flux["[O III] 5007"], flux["Hβ"])
    with np.errstate(invalid="ignore", divide="ignore"):
        absorption = (catalogue["lick_hd_a"] / catalogue["lick_hd_a_error"]).values > MIN_SN
        emission = (sn["Hα"] > MIN_SN) & (sn["Hβ"] > MIN_SN)
        active = emission & (log_o3 > kewley2001(log_n2))
    emitting, absorbing, quiescent, narrow, broad = CLASSES
    name = np.where(absorption, absorbing, quiescent).astype("<U20")
    name[emission] = emitting
    name[active] = narrow
    name[catalogue["sdss_class"].values == "QSO"] = broad
    return catalogue.assign(spectral_class=("galaxy", name, {"units": ""}))


def _shuffle(catalogue, seed):
    """Galaxies in random order, a fifth of them for tests."""
    size = catalogue.sizes["galaxy"]
    order = np.random.default_rng([seed, 1]).permutation(size)
    split = np.where(np.arange(size) < round(TEST_SHARE * size), "test", "train")
    split = split[np.random.default_rng([seed, 2]).permutation(size)]
    columns = {"split": ("galaxy", split, {"units": ""})}
    shuffled = catalogue.isel(galaxy=order).assign(columns)
    return shuffled.assign(candidate=("galaxy", shuffled["specobjid"].values, {"units": ""}))
