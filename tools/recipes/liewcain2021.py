"""The networks of liewcain2021, and experiments whose networks are not kept; those in _fit learn fitted labels.

``folds`` are the paper's sixteen networks (4 folds, 2 properties, Sets A and B), ``ensemble`` those for noise, gaps
and errors. The others write figures only: ``nuisances``, what of the galaxies' privacy makes Sets A and B differ;
``sizes``, Fig. 13, then 1,000 and 5,000 galaxies; ``types``, Table 1; ``stopping``, what stopping by the test fold
flatters; ``pretrain``, networks that have seen mixtures of single bursts before; ``peers``, boosted trees and a fit of
bursts. All figures go into one JSON file, which `read_experiments` reads.
"""

from __future__ import annotations

import time

import numpy as np

from spectool.models.bands import N_FOLDS, read_bands, split_spectra
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.models.peers import train_boosting
from spectool.models.store import round_weights
from spectool.models.training import split
from spectool.papers.liewcain2021 import network as paper
from spectool.papers.liewcain2021.sample import SEED, make_liewcain2021
from spectool.surveys.califa import NUISANCES, label_spread
from tools.make import training_experiments as experiments
from tools.make.bursts import fit_bursts, make_burst_library
from tools.make.ssp_mixtures import draw_ssp_mixtures
from tools.recipes import write

FEW = 20
"""Spectra per galaxy where there are many galaxies."""
OTHERS = {"ensemble": 1, "sizes": 2, "pretrain": 3}
"""Streams of galaxies other than those of the folds."""
CURVES = ("epoch", "train_mse", "valid_mse")


def train(options) -> dict:
    """What a recipe asks for; its figures also go into the file of all experiments."""
    started = time.monotonic()
    found = options.experiment(options)
    found["seconds"] = round(time.monotonic() - started, 1)
    experiments.write_experiment(options.results, options.recipe, found)
    return found


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
                keep(options, name, model, history, scores if k == 0 else {})
        found[by]["residual_correlation"] = paper.correlate_residuals(*off.values())
    return found


def keep(options, name, model, history, metrics, arrays=()) -> None:
    """Write one network."""
    write(
        options,
        name,
        model,
        history,
        metrics=metrics,
        arrays=arrays,
        curves=CURVES,
        sample_seed=SEED,
        patience=paper.PATIENCE,
    )


def train_ensemble(options) -> dict:
    """Networks for noise and gaps from many galaxies; the first file holds the calibration."""
    sample = make_sample(options, n=options.survey, spectra=FEW, other="ensemble")
    bands = [str(band) for band in sample["band"].values]
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=options.suffix)
    galaxy = sample["galaxy_index"].values
    parts = split(options.survey, (0.64, 0.16, 0.20), seed=options.seed)
    train, valid, test = (np.flatnonzero(np.isin(galaxy, part)) for part in parts)
    seen = inputs.take(train), labels[train], inputs.take(valid), labels[valid]
    choice = {"bands": bands, "seed": options.seed, **training(options)}
    ensemble, histories = paper.train_ensemble(*seen, n_members=options.members, **choice)
    for model in ensemble.members:
        round_weights(model)
    ensemble = paper.calibrate(BandEnsemble(ensemble.members), *seen[2:], seed=options.seed)
    asked, truth = inputs.take(test), labels[test]
    noisy = paper.add_noise(ensemble.members[0], asked, seed=options.seed + 1)
    found = {}
    for name, part in {"clean": asked, "noisy": noisy}.items():
        mean, error = ensemble.predict(part)
        found[name] = {
            output: paper.score_spectra(mean[:, k], truth[:, k], error=error[:, k])
            for k, output in enumerate(ensemble.outputs)
        }
    importance = band_importance(ensemble.members[0], asked, truth, dim="band", seed=options.seed)
    plain, _ = paper.train_cnn(*seen, outputs=tuple(paper.UNITS), **choice)
    noiser = ensemble.members[0]
    found["noise"] = paper.score_noise(ensemble, asked, truth).to_dict()
    found["noise_untrained"] = paper.score_noise(BandEnsemble([plain]), asked, truth, noiser=noiser).to_dict()
    found["missing"] = paper.score_missing(ensemble, asked, truth).to_dict()
    found["importance"] = importance.to_dict()
    first = found["noisy"], {"error_calibration": ensemble.calibration}
    for k, (model, history) in enumerate(zip(ensemble.members, histories, strict=True)):
        keep(options, f"{options.name}{k + 1}", model, history, *(first if k == 0 else ({},)))
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
    choice = choice_of(options)

    def curves(sample, **more):
        return {
            by: experiments.train_sizes(sample, "log_age", by=by, **more, **choice).to_dict()
            for by in paper.SETS.values()
        }

    found = {"paper": curves(make_sample(options), repeats=options.repeats), "many": {}}
    for n in options.many:
        sample = make_sample(options, n=n, spectra=FEW, other="sizes")
        found["many"][str(n)] = curves(sample, sizes=(0.75,), repeats=1, n_asked=20_000)
    return found


def compare_types(options) -> dict:
    """Table 1, both labels."""
    sample = make_sample(options)
    return {
        output: experiments.train_types(sample, output, **choice_of(options)).to_dict()
        for output in paper.UNITS
    }


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
    everything = np.arange(mixtures.sizes["spectrum"])
    taught, _ = experiments.train_rows(
        mixtures, "log_age", everything, by="spectrum", seed=options.seed, **training(options)
    )
    predicted = taught.predict(taught.encode(read_bands(sample, taught.bands)))[0][:, 0]
    found = {"mixtures alone": paper.score_spectra(predicted, sample["log_age"].values)}
    shape = {"by": "galaxy", "sizes": (0.05, 0.25, 0.75), "repeats": options.repeats}
    for start, name in ((None, "from nothing"), (taught, "fine-tuned")):
        curve = experiments.train_sizes(sample, "log_age", start=start, **shape, **choice_of(options))
        found[name] = curve.to_dict()
    return found


def compare_peers(options) -> dict:
    """Boosted trees in both sets, and a fit of single bursts, of the same bands."""
    sample, found = make_sample(options), {}
    bands = [str(band) for band in sample["band"].values]
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


def score_columns(predicted, labels) -> dict:
    """Figures of each property."""
    return {name: paper.score_spectra(predicted[:, k], labels[:, k]) for k, name in enumerate(paper.UNITS)}


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
