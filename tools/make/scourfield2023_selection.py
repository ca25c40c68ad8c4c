"""Select the galaxies of scourfield2023 and write the list that the package ships.

    python -m tools.make.scourfield2023_selection

Some 200,000 candidates are observed, measured and classified, block by block; every finished block is kept in a cache
folder, so that a run that was interrupted goes on where it was. Then the bins of H-alpha flux are filled, and the
constant of the normalisation is found from the uniform sample's training spectra. Takes some ten minutes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

import joblib
import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import read_or_make
from spectool.measure.classes import CLASSES, classify
from spectool.measure.lines_linear import measure_lines_linear
from spectool.papers.scourfield2023.sample import (
    SEED,
    SELECTION,
    draw_block,
    observe_candidates,
    rebuild,
    total_variance,
)
from spectool.parallel import n_workers
from spectool.spectra import L_SUN
from spectool.surveys.spectrograph import luminosity_to_flux
from spectool.synth.grid import embedded_grid
from spectool.synth.sfh import share_younger_than
from spectool.synth.synthesis import BIRTH_CLOUD_AGE, metallicity_weights
from tools.command import CACHE, make_parser

PILOT_BLOCKS = 4
OPTIONS = {
    "seed": (SEED, ""),
    "blocks": (None, "instead of the recipes' (a trial)"),
    "out": (SELECTION, "file"),
    "cache": (CACHE / "candidates", "where measured candidates are kept"),
}
MAGNITUDE_LIMIT = 17.77
"""r of SDSS's main galaxy sample (Strauss et al. 2002, AJ 124, 1810)."""
_ALPHA_PER_PHOTON = 1.37e-12 / L_SUN
TOTAL_VARIANCE = 0.060
TABLE1 = dict(zip(CLASSES, (50948, 20771, 12204, 2968, 17), strict=True))
"""Candidates of each class in the paper, 86,908 in all; `CLASSES` is in Table 1's order."""
_SCREEN, _SELECT = 10, 11  # streams of random numbers; those below 10 are the candidates'
_PREDICTED = np.linspace(-1.0, 4.0, 26)


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


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = make_parser(__doc__, OPTIONS).parse_args(arguments)
    samples = {}
    for name, recipe in SAMPLES.items():
        recipe = replace(recipe, n_blocks=options.blocks or recipe.n_blocks)
        samples[name] = select(measure_pool(recipe, options), recipe, seed=options.seed)
        samples[name].attrs["recipe"] = json.dumps(asdict(recipe) | {"seed": options.seed})
    uniform = samples["uniform"]
    ids = uniform["candidate"].values[uniform["split"].values == "train"]
    constant = fit_constant(rebuild(ids, seed=options.seed, progress=not options.quiet))
    samples = {name: sample.assign_attrs(constant=constant) for name, sample in samples.items()}
    write(samples, options.out)
    report = {name: summarize(sample) for name, sample in samples.items()}
    print(json.dumps(report, indent=1))
    return report


def predict_h_alpha(galaxies):
    """Roughly the H-alpha flux that candidates will show in the fibre, without synthesizing them.

    From the ionising photons of stars younger than 10 Myr, 1.37e-12 erg each (case B, Osterbrock & Ferland
    2006), and the nucleus, behind their dust.
    """
    grid = embedded_grid()
    share = share_younger_than(grid.age_edges, BIRTH_CLOUD_AGE)
    young = np.flatnonzero(share > 0)
    mass = galaxies["mass_formed"].values[:, young] * share[young]
    weights = metallicity_weights(10 ** galaxies["log_z_star"].values * grid.z_sun, grid.metallicity)
    photons = np.einsum("gz,ga,za->g", weights, mass, grid.ionizing_rate[:, young], optimize=True)
    depth = galaxies["dust1"] + galaxies["dust2"]
    nucleus = 10 ** galaxies["agn_log_h_alpha"].fillna(-9).values
    light = photons * _ALPHA_PER_PHOTON * galaxies["fibre_fraction"].values + nucleus
    redshift = galaxies["redshift"].values
    nodes = np.linspace(redshift.min() * 0.999, redshift.max() * 1.001, 64)
    to_flux = np.exp(np.interp(redshift, nodes, np.log(luminosity_to_flux(nodes) * (1 + nodes))))
    return light * to_flux * np.exp(-depth.values * (6564.6 / 5500) ** galaxies["dust_index"].values)


def fit_constant(sample):
    """The constant of `normalize_total` for which the noise-free spectra have the paper's total variance."""
    truth = np.asarray(sample["truth"], float)
    total = truth.sum(axis=1, keepdims=True)
    good = np.isfinite(total[:, 0]) & (total[:, 0] > 0)
    if not good.any():
        raise ValueError("no spectrum has a positive summed flux: is the sample in physical units?")
    return float(np.sqrt(TOTAL_VARIANCE / total_variance(truth[good] / total[good])))


def keep_probability(predicted, n_blocks, wanted):
    """Probability to be observed in each 0.2 dex of predicted flux, so that some number of galaxies is."""
    which = np.digitize(np.log10(predicted), _PREDICTED)
    counts = np.bincount(which, minlength=_PREDICTED.size + 1) * n_blocks
    starts, numbers = np.array(wanted).T
    lower = np.concatenate([[-9.0], _PREDICTED]) + 1e-9
    numbers = numbers[np.searchsorted(starts, lower, side="right") - 1]
    return np.clip(numbers / np.maximum(counts, 1), 0.02, 1)


def screen_block(block, probability, *, seed=SEED, metallicity_sfr=True):
    """The candidates of a block that are observed, chosen at random with the probability of their predicted flux."""
    galaxies = draw_block(block, seed=seed, metallicity_sfr=metallicity_sfr)
    which = np.digitize(np.log10(predict_h_alpha(galaxies)), _PREDICTED)
    chance = np.random.default_rng([seed, block, _SCREEN]).random(which.size)
    galaxies = galaxies.assign(probability=("galaxy", probability[which], {"units": ""}))
    return galaxies.isel(galaxy=np.flatnonzero(chance < probability[which]))


def measure_candidates(galaxies, *, seed=SEED):
    """Observe candidates, measure their lines and classify them as the paper does."""
    seen = observe_candidates(galaxies, seed=seed)
    lines = measure_lines_linear(seen.drop_vars(["truth", "true_line_flux"]).drop_dims("line"))
    table, without_stars = classify(lines), classify(lines, net=False)
    emitting = without_stars["spectral_class"].values == "emission line galaxy"
    forming = emitting & (table["log_o3"] < 0.7 - 1.2 * (table["log_n2"] + 0.4)).values  # NaN is not
    columns = {
        "candidate": seen["candidate"].values,
        "probability": seen["probability"].values,
        "r_magnitude": seen["r_magnitude"].values,
        "h_alpha_flux": table["line_flux"].sel(line="Hα").values,
        "h_alpha_sn": table["line_sn"].sel(line="Hα").values,
        "spectral_class": table["spectral_class"].values.astype("<U20"),
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
    """Fill the bins of H-alpha flux and split the sample; ``attrs``: what there was and what each bin got (JSON)."""
    rng = np.random.default_rng([seed, _SELECT])
    usual = np.isin(table["spectral_class"].values, CLASSES)
    pool = table.isel(galaxy=usual & (table["r_magnitude"].values < MAGNITUDE_LIMIT))
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
    out = pool[["candidate", "spectral_class", "h_alpha_flux"]].isel(galaxy=rows)
    bins = which[rows].astype("i1")
    out = out.assign(h_alpha_bin=("galaxy", bins, {"units": ""}), split=("galaxy", split, {"units": ""}))
    kinds = out["spectral_class"].values
    counts = {k: np.bincount(bins[kinds == k], minlength=10).tolist() for k in CLASSES}
    about = {"counts": counts, "proportions": TABLE1, "natural": natural}
    about = {name: json.dumps(value) for name, value in about.items()}
    return out.assign_attrs(about, observed=pool.sizes["galaxy"])


def measure_pool(recipe, options) -> xr.Dataset:
    """Measured candidates of all blocks of a recipe; samples of one population share them."""
    probability = make_probability(recipe, options)
    stated = json.dumps([options.seed, recipe.metallicity_sfr, probability.tolist()])
    folder = options.cache / f"scourfield2023_{hashlib.sha256(stated.encode()).hexdigest()[:12]}"
    jobs = (
        joblib.delayed(measure_block)(k, probability, recipe, options.seed, folder / f"block_{k:04d}.nc")
        for k in range(recipe.n_blocks)
    )
    tables = joblib.Parallel(n_jobs=n_workers(), return_as="generator")(jobs)
    bar = tqdm(tables, total=recipe.n_blocks, desc="candidates", unit="block", disable=options.quiet)
    return xr.concat(list(bar), "galaxy")


def make_probability(recipe, options) -> np.ndarray:
    """Probabilities to be observed, from the predicted fluxes of a few whole blocks."""
    n, choice = min(PILOT_BLOCKS, recipe.n_blocks), {"metallicity_sfr": recipe.metallicity_sfr}
    pilot = (draw_block(block, seed=options.seed, **choice) for block in range(n))
    predicted = np.concatenate([predict_h_alpha(galaxies) for galaxies in pilot])
    return keep_probability(predicted, recipe.n_blocks / n, recipe.wanted)


def measure_block(block, probability, recipe, seed, path) -> xr.Dataset:
    """One block's table, kept in a file."""
    torch.set_num_threads(1)

    def measure():
        galaxies = screen_block(block, probability, seed=seed, metallicity_sfr=recipe.metallicity_sfr)
        return measure_candidates(galaxies, seed=seed)

    return read_or_make(path, measure)


def write(samples, path) -> None:
    """All selections in one small file, a group each; classes and splits as numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, sample in samples.items():
        codes = {
            "spectral_class": np.array([CLASSES.index(k) for k in sample["spectral_class"].values], "i1"),
            "is_test": (sample["split"].values == "test").astype("i1"),
            "candidate": sample["candidate"].values.astype("i4"),
            "h_alpha_flux": sample["h_alpha_flux"].values.astype("f4"),
            "h_alpha_bin": sample["h_alpha_bin"].values,
        }
        units = {"h_alpha_flux": "1e-17 erg / (s cm2)"}
        stored = xr.Dataset({k: ("galaxy", v, {"units": units.get(k, "")}) for k, v in codes.items()})
        stored.attrs = sample.attrs | {"classes": json.dumps(CLASSES)}
        compress = {k: {"zlib": True, "complevel": 9, "shuffle": True} for k in codes}
        mode = "a" if path.exists() and name != next(iter(samples)) else "w"
        stored.to_netcdf(path, mode=mode, group=name, engine="h5netcdf", encoding=compress)


def summarize(sample) -> dict:
    """What a selection holds."""
    counts = json.loads(sample.attrs["counts"])
    return {
        "galaxies": sample.sizes["galaxy"],
        "test": int((sample["split"].values == "test").sum()),
        "per_bin": np.sum(list(counts.values()), axis=0).tolist(),
        "counts": counts,
        "natural": json.loads(sample.attrs["natural"]),
        "observed": int(sample.attrs["observed"]),
        "constant": sample.attrs["constant"],
    }


if __name__ == "__main__":
    main()
