"""Train and score the networks of liewcain2021, and write the weights and figures that the package ships.

    python tools/train_liewcain2021.py folds                # liewcain2021_truth_a_age1, ...: 4 folds, 2 labels, 2 sets
    python tools/train_liewcain2021.py folds --labels fit    # liewcain2021_fit_a_age1, ...
    python tools/train_liewcain2021.py ensemble              # liewcain2021_ensemble1 to 4: noise, gaps, errors
    python tools/train_liewcain2021.py nuisances             # what of the galaxies' privacy makes Sets A and B differ
    python tools/train_liewcain2021.py sizes                 # Fig. 13, then 1,000 and 5,000 galaxies
    python tools/train_liewcain2021.py types                 # Table 1
    python tools/train_liewcain2021.py stopping              # what stopping by the test fold flatters
    python tools/train_liewcain2021.py pretrain              # networks that have seen mixtures of single bursts before
    python tools/train_liewcain2021.py peers                 # boosted trees and a fit of single bursts; not kept

Each command puts its figures under its name into one JSON file, which `liewcain2021_checks.read_experiments` reads.
Networks that are kept are scored with the weights as they are stored (float16).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from spectool.models import store
from spectool.models.bands import N_FOLDS, read_bands, split_spectra
from spectool.models.ensemble import SedEnsemble
from spectool.models.peers import train_boosting
from spectool.models.store import round_weights
from spectool.models.training import split
from spectool.papers.liewcain2021 import experiments as checks
from spectool.papers.liewcain2021 import network as paper
from spectool.papers.liewcain2021.sample import SEED, make_liewcain2021
from spectool.parallel import n_workers
from spectool.surveys.califa import NUISANCES, label_spread
from tools.make.bursts import fit_bursts, make_burst_library
from tools.make.ssp_mixtures import draw_ssp_mixtures

FEW = 20
"""Spectra per galaxy where there are many galaxies."""
OTHERS = {"ensemble": 1, "sizes": 2, "pretrain": 3}
"""Streams of galaxies other than those of the folds."""


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are written, printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or n_workers())
    started = time.monotonic()
    found = COMMANDS[options.command](options)
    found["seconds"] = round(time.monotonic() - started, 1)
    name = options.command + ("_fit" if options.labels == "fit" else "")
    checks.write_experiment(options.results, name, found)
    print(json.dumps(found))
    return found


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=tuple(COMMANDS))
    parser.add_argument("--labels", choices=("truth", "fit"), default="truth")
    parser.add_argument("--galaxies", type=int, default=190)
    parser.add_argument("--many", type=int, nargs="+", default=[1000, 5000], help="galaxies of sizes")
    parser.add_argument("--survey", type=int, default=3000, help="galaxies of the ensemble")
    parser.add_argument("--spectra", type=float, default=19727 / 190, help="per galaxy")
    parser.add_argument("--epochs", type=int, help="at most (a trial)")
    parser.add_argument("--members", type=int, default=4, help="of the ensemble")
    parser.add_argument("--repeats", type=int, default=3, help="of each size")
    parser.add_argument("--threads", type=int, help="default: what the machine grants; a second gains little")
    parser.add_argument("--seed", type=int, default=0, help="of folds and networks")
    parser.add_argument("--out", type=Path, default=store.SHIPPED, help="folder for networks")
    parser.add_argument("--results", type=Path, default=checks.EXPERIMENTS, help="file for figures")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def make_sample(options, *, n=None, spectra=None, other=None, nuisances=NUISANCES):
    """Galaxies with true and fitted labels."""
    return make_liewcain2021(
        n or options.galaxies,
        spectra_per_galaxy=spectra or options.spectra,
        stream=OTHERS.get(other),
        nuisances=nuisances,
    )


def training(options) -> dict:
    """Options of `train_cnn` that all commands share."""
    found = {"live": True, "progress": not options.quiet}
    return found | ({"epochs": options.epochs} if options.epochs else {})


def suffix(options) -> str:
    """Of the labels' columns."""
    return "_fit" if options.labels == "fit" else ""


def train_sets(options) -> dict:
    """The paper's sixteen networks."""
    sample, found = make_sample(options), {}
    found["guess_mse"] = {name: label_spread(sample[name + suffix(options)].values) for name in paper.UNITS}
    for by in paper.SETS.values():
        off = {}
        found[by] = {}
        for output in paper.UNITS:
            folds = paper.train_folds(
                sample, output, by=by, suffix=suffix(options), seed=options.seed, **training(options)
            )
            for model in folds.models:
                round_weights(model)
            predicted = paper.predict_folds(sample, folds.fold, folds.models)
            label = sample[output + suffix(options)].values
            off[output] = predicted - label
            scores = checks.score_spectra(predicted, label)
            scores["on_truth"] = checks.score_spectra(predicted, sample[output].values)
            scores["trained_seconds"] = sum(history.seconds for history in folds.histories)
            found[by][output] = scores
            for k, (model, history) in enumerate(zip(folds.models, folds.histories, strict=True)):
                name = paper.fold_name(output, by=by, suffix=suffix(options), fold=k)
                write(options, name, model, history, scores if k == 0 else {})
        found[by]["residual_correlation"] = checks.correlate_residuals(*off.values())
    return found


def write(options, name, model, history, metrics, arrays=None) -> None:
    """One network with its learning curve."""
    curve = {
        f"history_{name}": history.column(name).astype("f4") for name in ("epoch", "train_mse", "valid_mse")
    }
    recipe = {
        "paper": "liewcain2021",
        "labels": options.labels,
        "sample": {"function": "make_liewcain2021", "seed": SEED, "n_galaxies": options.galaxies},
        "seed": options.seed,
        "training": {"epochs": options.epochs or paper.LIVE_EPOCHS, "patience": paper.PATIENCE},
    }
    store.save_model(
        options.out / name,
        model,
        recipe=recipe,
        metrics=metrics
        | {"best_epoch": history.best_epoch, "seconds": history.seconds, "stopped": history.stopped},
        arrays=curve | (arrays or {}),
        half=True,
    )


def train_ensemble(options) -> dict:
    """Networks for noise and gaps from many galaxies; the first file holds the calibration."""
    sample = make_sample(options, n=options.survey, spectra=FEW, other="ensemble")
    bands = [str(band) for band in sample["band"].values]
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=suffix(options))
    galaxy = sample["galaxy_index"].values
    parts = split(options.survey, (0.64, 0.16, 0.20), seed=options.seed)
    train, valid, test = (np.flatnonzero(np.isin(galaxy, part)) for part in parts)
    ensemble, histories = paper.train_ensemble(
        inputs.take(train),
        labels[train],
        inputs.take(valid),
        labels[valid],
        bands=bands,
        n_members=options.members,
        seed=options.seed,
        **training(options),
    )
    for model in ensemble.members:
        round_weights(model)
    ensemble = paper.calibrate(
        SedEnsemble(ensemble.members), inputs.take(valid), labels[valid], seed=options.seed
    )
    asked, truth = inputs.take(test), labels[test]
    noisy = paper.add_noise(ensemble.members[0], asked, seed=options.seed + 1)
    found = {}
    for name, part in {"clean": asked, "noisy": noisy}.items():
        mean, error = ensemble.predict(part)
        found[name] = {
            output: checks.score_spectra(mean[:, k], truth[:, k], error=error[:, k])
            for k, output in enumerate(ensemble.outputs)
        }
    importance = checks.band_importance(ensemble.members[0], asked, truth, seed=options.seed)
    plain, _ = paper.train_cnn(
        inputs.take(train),
        labels[train],
        inputs.take(valid),
        labels[valid],
        outputs=tuple(paper.UNITS),
        bands=bands,
        seed=options.seed,
        **training(options),
    )
    noiser = ensemble.members[0]
    found["noise"] = checks.score_noise(ensemble, asked, truth).to_dict()
    found["noise_untrained"] = checks.score_noise(SedEnsemble([plain]), asked, truth, noiser=noiser).to_dict()
    found["missing"] = checks.score_missing(ensemble, asked, truth).to_dict()
    found["importance"] = importance.to_dict()
    for k, (model, history) in enumerate(zip(ensemble.members, histories, strict=True)):
        arrays = {"error_calibration": ensemble.calibration} if k == 0 else {}
        write(
            options, f"liewcain2021_ensemble{k + 1}", model, history, found["noisy"] if k == 0 else {}, arrays
        )
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


def score_folds(sample, output, options, **choice) -> dict:
    """Figures of the folds that are trained."""
    folds = paper.train_folds(
        sample, output, suffix=suffix(options), seed=options.seed, **training(options), **choice
    )
    return checks.score_spectra(folds.predicted, sample[output + suffix(options)].values)


def compare_sizes(options) -> dict:
    """Fig. 13 for ages, and Sets A and B with many more galaxies of few spectra."""
    sample, found = make_sample(options), {"paper": {}, "many": {}}
    choice = {"suffix": suffix(options), "seed": options.seed, **training(options)}
    for by in paper.SETS.values():
        curve = checks.train_sizes(sample, "log_age", by=by, repeats=options.repeats, **choice)
        found["paper"][by] = curve.to_dict()
    for n in options.many:
        sample = make_sample(options, n=n, spectra=FEW, other="sizes")
        found["many"][str(n)] = {
            by: checks.train_sizes(
                sample, "log_age", by=by, sizes=(0.75,), repeats=1, n_asked=20_000, **choice
            ).to_dict()
            for by in paper.SETS.values()
        }
    return found


def compare_types(options) -> dict:
    """Table 1, both labels."""
    sample = make_sample(options)
    choice = {"suffix": suffix(options), "seed": options.seed, **training(options)}
    return {output: checks.train_types(sample, output, **choice).to_dict() for output in paper.UNITS}


def compare_stopping(options) -> dict:
    """All folds of both sets for ages, stopped by spectra from the training set or by those that are scored."""
    sample = make_sample(options)
    return {
        by: {
            stop_on: score_folds(sample, "log_age", options, by=by, stop_on=stop_on)
            for stop_on in ("inner", "test")
        }
        for by in paper.SETS.values()
    }


def compare_pretraining(options) -> dict:
    """Set B for ages from few galaxies and from three quarters, with and without mixtures seen before."""
    mixtures = draw_ssp_mixtures(
        int(options.galaxies * options.spectra), seed=np.random.default_rng([SEED, OTHERS["pretrain"]])
    )
    sample = make_sample(options)
    everything = np.arange(mixtures.sizes["spectrum"])
    taught, _ = checks.train_rows(
        mixtures, "log_age", everything, by="spectrum", seed=options.seed, **training(options)
    )
    found = {
        "mixtures alone": checks.score_spectra(
            taught.predict(taught.encode(read_bands(sample, taught.bands)))[0][:, 0], sample["log_age"].values
        )
    }
    for start, name in ((None, "from nothing"), (taught, "fine-tuned")):
        found[name] = checks.train_sizes(
            sample,
            "log_age",
            by="galaxy",
            sizes=(0.05, 0.25, 0.75),
            repeats=options.repeats,
            suffix=suffix(options),
            seed=options.seed,
            start=start,
            **training(options),
        ).to_dict()
    return found


def compare_peers(options) -> dict:
    """Boosted trees in both sets, and a fit of single bursts, of the same bands."""
    sample, found = make_sample(options), {}
    bands = [str(band) for band in sample["band"].values]
    inputs, labels = read_bands(sample, bands), paper.read_labels(sample, suffix=suffix(options))
    x = paper.NarrowBandCNN(bands=bands, outputs=["log_age"], units=["dex(Gyr)"]).encode(inputs)
    for by in paper.SETS.values():
        fold, predicted = split_spectra(sample, by=by, seed=options.seed), np.full(labels.shape, np.nan)
        started = time.monotonic()
        for k in range(N_FOLDS):
            learner = train_boosting(x[fold != k], labels[fold != k], seed=options.seed)
            predicted[fold == k] = learner(x[fold == k])
        found[f"boosting, by {by}"] = score_columns(predicted, labels) | {
            "trained_seconds": time.monotonic() - started
        }
    few = sample.isel(spectrum=slice(None, None, 10))
    started = time.monotonic()
    fitted = fit_bursts(few, make_burst_library(bands=bands), progress=False)
    spent = time.monotonic() - started
    columns = np.stack([fitted[name].values for name in paper.UNITS], axis=1)
    found["fit of single bursts"] = score_columns(columns, labels[::10]) | {
        "fitted_seconds": spent,
        "n": len(columns),
    }
    return found


def score_columns(predicted, labels) -> dict:
    """Figures of each property."""
    return {name: checks.score_spectra(predicted[:, k], labels[:, k]) for k, name in enumerate(paper.UNITS)}


COMMANDS = {
    "folds": train_sets,
    "ensemble": train_ensemble,
    "nuisances": compare_nuisances,
    "sizes": compare_sizes,
    "types": compare_types,
    "stopping": compare_stopping,
    "pretrain": compare_pretraining,
    "peers": compare_peers,
}

if __name__ == "__main__":
    main()
