"""The networks of liewcain2021, and experiments whose networks are not kept; those in _fit learn fitted labels.

``folds`` are the paper's sixteen networks (4 folds, 2 properties, Sets A and B), ``ensemble`` those for noise, gaps
and errors. The others write figures only: ``nuisances``, what of the galaxies' privacy makes Sets A and B differ;
``sizes``, Fig. 13, then 1,000 and 5,000 galaxies; ``types``, Table 1; ``stopping``, what stopping by the test fold
flatters; ``pretrain``, networks that have seen mixtures of single bursts before; ``peers``, boosted trees and a fit of
bursts. All figures go into one JSON file, which `read_experiments` reads.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.models.bands import N_FOLDS, hold_out, read_bands, split_spectra
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.models.peers import train_boosting
from spectool.models.store import round_weights
from spectool.models.training import split
from spectool.papers.liewcain2021 import network as paper
from spectool.papers.liewcain2021.sample import SEED, make_liewcain2021
from spectool.surveys.califa import NUISANCES, label_spread
from tools.make.bursts import fit_bursts, make_burst_library
from tools.make.ssp_mixtures import draw_ssp_mixtures
from tools.recipes import write, write_members

FEW = 20
"""Spectra per galaxy where there are many galaxies."""
OTHERS = {"ensemble": 1, "sizes": 2, "pretrain": 3}
"""Streams of galaxies other than those of the folds."""
SIZES = (0.05, 0.1, 0.25, 0.5, 0.75)
TYPES = {"early": True, "late": False}
STORED = {"curves": ("epoch", "train_mse", "valid_mse"), "sample_seed": SEED, "patience": paper.PATIENCE}


def train(options) -> dict:
    """What a recipe asks for; its figures also go into the file of all experiments."""
    started = time.monotonic()
    found = options.experiment(options)
    found["seconds"] = round(time.monotonic() - started, 1)
    write_experiment(options.results, options.recipe, found)
    return found


def write_experiment(path, name: str, found: dict) -> None:
    """Put figures beside those of other commands; Datasets as dicts (`xarray.Dataset.to_dict`)."""
    path = Path(path)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    text = json.dumps(known | {name: _shorten(found)}, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _shorten(value):
    """Numbers to five digits."""
    if isinstance(value, dict):
        return {key: _shorten(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def make_sample(options, *, n=None, spectra=None, other=None, nuisances=NUISANCES):
    """Galaxies with true and fitted labels."""
    return make_liewcain2021(
        n or options.galaxies,
        spectra_per_galaxy=spectra or options.spectra,
        stream=OTHERS.get(other),
        nuisances=nuisances,
    )


def training(options) -> dict:
    """Options of `train_cnn` that all recipes share."""
    epochs = {"epochs": options.epochs} if options.epochs else {}
    return {"live": True, "progress": not options.quiet} | epochs


def choice_of(options) -> dict:
    """The same with labels and seed."""
    return {"suffix": options.suffix, "seed": options.seed, **training(options)}


def train_sets(options) -> dict:
    """The paper's sixteen networks."""
    sample, found = make_sample(options), {}
    labels = {name: sample[name + options.suffix].values for name in paper.UNITS}
    found["guess_mse"] = {name: label_spread(values) for name, values in labels.items()}
    for by in paper.SETS.values():
        off = {}
        found[by] = {}
        for output in paper.UNITS:
            folds = paper.train_folds(sample, output, by=by, **choice_of(options))
            for model in folds.models:
                round_weights(model)
            predicted = paper.predict_folds(sample, folds.fold, folds.models)
            off[output] = predicted - labels[output]
            scores = paper.score_spectra(predicted, labels[output])
            scores["on_truth"] = paper.score_spectra(predicted, sample[output].values)
            scores["trained_seconds"] = sum(history.seconds for history in folds.histories)
            found[by][output] = scores
            for k, (model, history) in enumerate(zip(folds.models, folds.histories, strict=True)):
                name = paper.fold_name(output, by=by, suffix=options.suffix, fold=k)
                write(options, name, model, history, metrics=scores if k == 0 else {}, **STORED)
        found[by]["residual_correlation"] = paper.correlate_residuals(*off.values())
    return found


def train_ensemble(options) -> dict:
    """Networks for noise and gaps from many galaxies; the first file holds the calibration."""
    sample = make_sample(options, n=options.survey, spectra=FEW, other="ensemble")
    bands = list(map(str, sample["band"].values))
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=options.suffix)
    galaxy = sample["galaxy_index"].values
    parts = split(options.survey, (0.64, 0.16, 0.20), seed=options.seed)
    train, valid, test = (np.flatnonzero(np.isin(galaxy, part)) for part in parts)
    seen = inputs.take(train), labels[train], inputs.take(valid), labels[valid]
    choice = {"bands": bands, "outputs": tuple(paper.UNITS), **training(options)}
    seeds = range(options.seed, options.seed + options.members)
    members, histories = zip(
        *(paper.train_cnn(*seen, noise=True, seed=k, **choice) for k in seeds), strict=True
    )
    for model in members:
        round_weights(model)
    ensemble = paper.calibrate(BandEnsemble(members), *seen[2:], seed=options.seed)
    asked, truth = inputs.take(test), labels[test]
    noisy = paper.add_noise(ensemble.members[0], asked, seed=options.seed + 1)
    found = {}
    for name, part in {"clean": asked, "noisy": noisy}.items():
        mean, error = ensemble.predict(part)
        found[name] = score_columns(mean, truth, error)
    importance = band_importance(ensemble.members[0], asked, truth, dim="band", seed=options.seed)
    plain, _ = paper.train_cnn(*seen, seed=options.seed, **choice)
    noiser = ensemble.members[0]
    found["noise"] = paper.score_noise(ensemble, asked, truth).to_dict()
    found["noise_untrained"] = paper.score_noise(BandEnsemble([plain]), asked, truth, noiser=noiser).to_dict()
    found["missing"] = paper.score_missing(ensemble, asked, truth).to_dict()
    found["importance"] = importance.to_dict()
    trained = zip(ensemble.members, histories, strict=True)
    arrays = {"error_calibration": ensemble.calibration}
    write_members(options, trained, found["noisy"], arrays, **STORED)
    return found


def compare_nuisances(options) -> dict:
    """Scatter of both sets, one fold each, with none, each and all of what galaxies have for themselves."""
    found = {}
    for nuisances in ((), *((name,) for name in NUISANCES), NUISANCES):
        sample = make_sample(options, nuisances=nuisances)
        found[" + ".join(nuisances) or "none"] = {
            by: {output: score_folds(sample, output, options, by=by, only=range(1)) for output in paper.UNITS}
            for by in paper.SETS.values()
        }
    return found


def score_folds(sample, output, options, **more) -> dict:
    """Figures of the folds that are trained."""
    folds = paper.train_folds(sample, output, **choice_of(options), **more)
    return paper.score_spectra(folds.predicted, sample[output + options.suffix].values)


def compare_sizes(options) -> dict:
    """Fig. 13 for ages, and Sets A and B with many more galaxies of few spectra."""

    def curves(sample, **more):
        return {by: train_sizes(sample, by=by, **more, **choice_of(options)) for by in paper.SETS.values()}

    found = {"paper": curves(make_sample(options), repeats=options.repeats), "many": {}}
    for n in options.many:
        sample = make_sample(options, n=n, spectra=FEW, other="sizes")
        found["many"][str(n)] = curves(sample, sizes=(0.75,), repeats=1, n_asked=20_000)
    return found


def train_sizes(sample, *, by, sizes=SIZES, repeats, n_asked=None, seed=0, suffix="", **choice) -> dict:
    """Robust scatter of ages by the share of spectra or galaxies that train; others are asked about."""
    galaxy, labels = sample["galaxy_index"].values, sample["log_age" + suffix].values
    units = np.arange(len(galaxy)) if by == "spectrum" else galaxy
    names = np.unique(units)
    sigma, count = np.empty((len(sizes), repeats)), np.empty((2, len(sizes), repeats))
    for i, j in np.ndindex(sigma.shape):
        rng = np.random.default_rng([seed, i, j])
        chosen = np.isin(units, rng.permutation(names)[: max(2, round(sizes[i] * len(names)))])
        seen, asked = np.flatnonzero(chosen), rng.permutation(np.flatnonzero(~chosen))[:n_asked]
        options = {"by": by, "seed": seed + j, "suffix": suffix, **choice}
        predicted = train_and_ask(sample, "log_age", seen, asked, **options)
        sigma[i, j] = paper.score_spectra(predicted, labels[asked])["sigma"]
        count[:, i, j] = len(seen), len(np.unique(galaxy[seen]))
    columns = {"sigma": (("size", "repeat"), sigma, {"units": "dex"})}
    for name, numbers in zip(("n_spectra", "n_galaxies"), count.mean(axis=2), strict=True):
        columns[name] = ("size", numbers, {"units": ""})
    return xr.Dataset(columns, coords={"size": list(sizes)}).to_dict()


def train_and_ask(sample, output, seen, asked, **choice) -> np.ndarray:
    """Predictions (asked,) [dex] by the network of `train_rows`."""
    return ask(train_rows(sample, output, seen, **choice), sample.isel(spectrum=asked))


def train_rows(sample, output, seen, *, by, seed, suffix="", **choice) -> paper.NarrowBandCNN:
    """A network that was trained, and stopped, by the rows `seen` of a sample."""
    bands = list(map(str, sample["band"].values))
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=suffix, outputs=[output])
    train, valid = hold_out(sample, seen, by=by, seed=[seed, 1])
    data = inputs.take(train), labels[train], inputs.take(valid), labels[valid]
    return paper.train_cnn(*data, outputs=[output], bands=bands, seed=seed, **choice)[0]


def ask(model, sample) -> np.ndarray:
    """What a network of one property says of a sample."""
    return model.predict(model.encode(read_bands(sample, model.bands)))[0][:, 0]


def compare_types(options) -> dict:
    """Table 1, both labels: networks trained on early or on late types, asked about both."""
    sample = make_sample(options)
    return {output: train_types(sample, output, **choice_of(options)) for output in paper.UNITS}


def train_types(sample, output, *, seed=0, suffix="", **choice) -> dict:
    """Scatter and bias by the type that trained and the type that is asked about."""
    early = sample["is_early"].values[sample["galaxy_index"].values]
    fold = np.empty(len(early), int)
    for is_early in TYPES.values():
        rows = np.flatnonzero(early == is_early)
        fold[rows] = split_spectra(sample.isel(spectrum=rows), by="galaxy", seed=[seed, is_early])
    labels = sample[output + suffix].values
    found = {what: np.empty((2, 2)) for what in ("sigma", "bias")}
    for i, trained in enumerate(TYPES.values()):
        # Galaxies of the other type count as unseen whatever their fold: they train no network.
        predicted = np.full(len(early), np.nan)
        for k in range(N_FOLDS):
            seen, asked = np.flatnonzero((early == trained) & (fold != k)), np.flatnonzero(fold == k)
            options = {"by": "galaxy", "seed": seed + k, "suffix": suffix, **choice}
            predicted[asked] = train_and_ask(sample, output, seen, asked, **options)
        for j, asked in enumerate(TYPES.values()):
            scores = paper.score_spectra(predicted[early == asked], labels[early == asked])
            for what, values in found.items():
                values[i, j] = scores[what]
    dims, names = ("training", "application"), list(TYPES)
    columns = {what: (dims, values, {"units": "dex"}) for what, values in found.items()}
    return xr.Dataset(columns, coords=dict.fromkeys(dims, names)).to_dict()


def compare_stopping(options) -> dict:
    """All folds of both sets for ages, stopped by spectra from the training set or by those that are scored."""
    sample = make_sample(options)
    return {
        by: {stop: score_folds(sample, "log_age", options, by=by, stop_on=stop) for stop in ("inner", "test")}
        for by in paper.SETS.values()
    }


def compare_pretraining(options) -> dict:
    """Set B for ages from few galaxies and from three quarters, with and without mixtures seen before."""
    rng = np.random.default_rng([SEED, OTHERS["pretrain"]])
    mixtures = draw_ssp_mixtures(int(options.galaxies * options.spectra), seed=rng)
    sample = make_sample(options)
    choice = {"by": "spectrum", "seed": options.seed} | training(options)
    taught = train_rows(mixtures, "log_age", np.arange(mixtures.sizes["spectrum"]), **choice)
    found = {"mixtures alone": paper.score_spectra(ask(taught, sample), sample["log_age"].values)}
    shape = {"by": "galaxy", "sizes": (0.05, 0.25, 0.75), "repeats": options.repeats}
    for start, name in ((None, "from nothing"), (taught, "fine-tuned")):
        found[name] = train_sizes(sample, start=start, **shape, **choice_of(options))
    return found


def compare_peers(options) -> dict:
    """Boosted trees in both sets, and a fit of single bursts, of the same bands."""
    sample, found = make_sample(options), {}
    bands = list(map(str, sample["band"].values))
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=options.suffix)
    x = paper.NarrowBandCNN(bands=bands, outputs=["log_age"], units=["dex(Gyr)"]).encode(inputs)
    for by in paper.SETS.values():
        fold, predicted = split_spectra(sample, by=by, seed=options.seed), np.full(labels.shape, np.nan)
        started = time.monotonic()
        for k in range(N_FOLDS):
            learner = train_boosting(x[fold != k], labels[fold != k], seed=options.seed)
            predicted[fold == k] = learner(x[fold == k])
        seconds = {"trained_seconds": time.monotonic() - started}
        found[f"boosting, by {by}"] = score_columns(predicted, labels) | seconds
    few = sample.isel(spectrum=slice(None, None, 10))
    started = time.monotonic()
    fitted = fit_bursts(few, make_burst_library(bands=bands), progress=False)
    about = {"fitted_seconds": time.monotonic() - started, "n": fitted.sizes["spectrum"]}
    columns = np.stack([fitted[name].values for name in paper.UNITS], axis=1)
    found["fit of single bursts"] = score_columns(columns, labels[::10]) | about
    return found


def score_columns(predicted, labels, error=None) -> dict:
    """Figures of each property."""
    errors = [None] * len(paper.UNITS) if error is None else error.T
    columns = zip(paper.UNITS, predicted.T, labels.T, errors, strict=True)
    return {name: paper.score_spectra(value, label, error=e) for name, value, label, e in columns}


EXPERIMENTS = {
    "folds": train_sets,
    "ensemble": train_ensemble,
    "nuisances": compare_nuisances,
    "sizes": compare_sizes,
    "types": compare_types,
    "stopping": compare_stopping,
    "pretrain": compare_pretraining,
    "peers": compare_peers,
}
RECIPES = {
    f"{name}{suffix}": {"experiment": function, "suffix": suffix}
    for name, function in EXPERIMENTS.items()
    for suffix in ("", "_fit")
}
OPTIONS = {
    "galaxies": (190, ""),
    "spectra": (19727 / 190, "per galaxy"),
    "many": ((1000, 5000), "galaxies of sizes"),
    "survey": (3000, "galaxies of the ensemble"),
    "epochs": (None, "at most"),
    "members": (4, "of the ensemble"),
    "repeats": (3, "of each size"),
    "results": (paper.EXPERIMENTS, "file for figures"),
}
QUICK = {"galaxies": 18, "spectra": 12.0, "many": [16], "survey": 20, "epochs": 2, "members": 2, "repeats": 1}
