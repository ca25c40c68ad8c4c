"""The networks of surana2020: the paper's three, one for all properties, an ensemble with errors; other learners.

64% of the galaxies train, 16% stop the training and calibrate errors, 20% are what all figures are of. The galaxies and
their fits are made once and kept in the cache: ``sample`` does only that.
"""

from __future__ import annotations

import json
import time
from functools import partial

import numpy as np

from spectool.measure.sedfit import N_MODELS
from spectool.models import peers
from spectool.models.bands import join_inputs, read_inputs
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.models.store import round_weights
from spectool.papers.surana2020 import network as paper
from spectool.papers.surana2020 import sample as surana2020
from spectool.papers.surana2020.network import missing_curve, missing_facilities, score_properties
from tools.make.other_surveys import vary_errors
from tools.make.outlier_references import fit_band_outliers
from tools.recipes import checkpoint_file, fit_options, write

PARTS = ("train", "valid", "test")
CURVES = ("epoch", "train_loss", "valid_loss", "train_mae", "valid_mae")


def train(options) -> dict:
    """A network of Tables 1 and 2, or of all properties, and its figures against labels and truth."""
    data = make_data(options)
    model, history = train_one(data, options, options.name, outputs=options.outputs)
    columns = [list(paper.UNITS).index(output) for output in model.outputs]
    mean, _ = model.predict(model.encode(data["test"]))
    labels = data[f"{options.labels}_test"][:, columns]
    metrics = score_properties(mean, labels, model.outputs)
    metrics["on_truth"] = score_properties(mean, data["truth_test"][:, columns], model.outputs)
    importance = band_importance(model, data["test"], labels, seed=options.seed)
    arrays = {
        "predicted_test": mean,
        "importance": importance["importance"].values.astype(np.float32),
        "importance_error": importance["importance_error"].values.astype(np.float32),
        **fit_band_outliers(data["train"], data["valid"]),
    }
    return write(options, options.name, model, history, metrics=metrics, arrays=arrays, curves=CURVES)


def make_data(options) -> dict:
    """Inputs, labels and truths by part, and the counts of the cuts."""
    sample = surana2020.make_surana2020(
        options.n,
        n_models=options.n_models,
        negative=options.negative,
        cache=options.cache / "surana2020",
        progress=not options.quiet,
    )
    selected, cuts = surana2020.select_taught(sample)
    inputs = read_inputs(selected, list(selected["band"].values))
    columns = {
        name: paper.read_labels(selected, suffix=end) for name, end in (("fit", "_fit"), ("truth", ""))
    }
    columns["true_flux"] = selected["true_flux"].values
    rows = paper.split_galaxies(len(inputs), seed=options.seed)
    data = {part: inputs.take(rows[part]) for part in PARTS}
    data |= {f"{name}_{part}": values[rows[part]] for name, values in columns.items() for part in PARTS}
    return data | {"bands": tuple(selected["band"].values), "cuts": cuts}


def train_one(data, options, name, *, outputs, **more):
    """One network, its weights rounded as they will be stored, and how its training went."""
    columns = [list(paper.UNITS).index(output) for output in outputs]
    labels = {part: data[f"{options.labels}_{part}"][:, columns] for part in PARTS}
    choice = {"live": options.live, "scaling": options.scaling or "linear", "epochs": options.epochs}
    choice |= {"seed": options.seed, "max_seconds": options.max_seconds} | fit_options(options, name)
    model, history = paper.train_network(
        data["train"],
        labels["train"],
        data["valid"],
        labels["valid"],
        outputs=outputs,
        bands=data["bands"],
        **choice | more,
    )
    round_weights(model)
    return model, history


def train_ensemble(options) -> dict:
    """Networks with errors; the first file holds the calibration, the outliers' reference and the figures of all."""
    data, members, histories = make_data(options), [], []
    choice = paper.ensemble_options(epochs=options.epochs) | {"scaling": options.scaling or "asinh"}
    varied = add_other_surveys(data, options)
    names = [f"{options.name}{k + 1}" for k in range(options.members)]
    for k, name in enumerate(names):
        model, history = train_one(varied, options, name, seed=options.seed + k, **choice)
        members.append(model)
        histories.append(history)
    valid, test = data["valid"], data["test"]
    labels = {part: data[f"{options.labels}_{part}"] for part in PARTS}
    ensemble = paper.calibrate(BandEnsemble(members), valid, labels["valid"], seed=[options.seed, 2])
    mean, error = ensemble.predict(test)
    metrics = score_properties(mean, labels["test"], ensemble.outputs, error=error)
    metrics["on_truth"] = score_properties(mean, data["truth_test"], ensemble.outputs, error=error)
    metrics["missing"] = by_row(missing_curve(ensemble, test, labels["test"]), "n_missing")
    metrics["without"] = by_row(missing_facilities(ensemble, test, labels["test"]), "facility")
    arrays = {"error_calibration": ensemble.calibration} | fit_band_outliers(data["train"], valid)
    for k, (name, model, history) in enumerate(zip(names, members, histories, strict=True)):
        first = {"metrics": metrics, "arrays": arrays} if k == 0 else {"metrics": {}}
        write(options, name, model, history, member=k + 1, **first)
    return metrics


def add_other_surveys(data, options) -> dict:
    """Training and validation galaxies once more, as shallower and deeper surveys would see them."""
    both = dict(data)
    for k, part in enumerate(("train", "valid")):
        varied = vary_errors(
            data[part], data[f"true_flux_{part}"], bands=data["bands"], seed=[options.seed, 3, k]
        )
        both[part] = join_inputs(data[part], varied)
        for labels in ("fit", "truth"):
            both[f"{labels}_{part}"] = np.concatenate([data[f"{labels}_{part}"]] * 2)
    return both


def by_row(curve, dim) -> dict:
    """A Dataset of curves as plain numbers."""
    names = [str(value) for value in curve[dim].values]
    return {
        what: dict(zip(names, curve[what].values.tolist(), strict=True)) for what in map(str, curve.data_vars)
    }


def describe_sample(options) -> dict:
    """How many galaxies each cut leaves, and how far the teacher is from truth."""
    data = make_data(options)
    cuts = data["cuts"]
    scores = score_properties(data["fit_test"], data["truth_test"], list(paper.UNITS))
    left = dict(zip(cuts["cut"].values.tolist(), cuts["left"].values.tolist(), strict=True))
    return {"left": left, "parts": {part: len(data[part]) for part in PARTS}, "teacher_on_truth": scores}


def train_peers(options) -> dict:
    """What the paper tried, and boosted trees, on the inputs of its networks."""
    data = make_data(options)
    labels = {part: data[f"{options.labels}_{part}"] for part in PARTS}
    model = paper.SedMLP(
        bands=data["bands"],
        hidden=(),
        outputs=tuple(paper.UNITS),
        units=tuple(paper.UNITS.values()),
        scaling=options.scaling or "linear",
    )
    model.set_statistics(data["train"], labels["train"])
    x = {part: model.encode(data[part]) for part in PARTS}
    learners = {
        "forest": peers.train_forest,
        "svm": partial(peers.train_svm, n_rows=peers.SVM_ROWS),
        "boosting": peers.train_boosting,
    }
    found = {}
    for name, learn in learners.items():
        started = time.monotonic()
        predict = learn(x["train"], labels["train"], seed=options.seed)
        seconds = {"seconds": time.monotonic() - started}
        found[name] = score_properties(predict(x["test"]), labels["test"], model.outputs) | seconds
    (options.out / f"{options.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def compare_scalings(options) -> dict:
    """Validation figures of the short training with linear and asinh inputs."""
    data, found = make_data(options), {}
    for scaling in ("linear", "asinh"):
        found[scaling] = {}
        for k, output in enumerate(paper.UNITS):
            name = f"{options.name}_{scaling}_{output}"
            model, history = train_one(data, options, name, outputs=(output,), scaling=scaling, live=True)
            checkpoint_file(options, name).unlink(missing_ok=True)
            mean, _ = model.predict(model.encode(data["valid"]))
            scores = score_properties(mean, data[f"{options.labels}_valid"][:, [k]], (output,))
            found[scaling] |= scores | {f"{output}_seconds": history.seconds}
    return found


NETWORKS = {
    "mass": {"outputs": ("log_mass",)},
    "sfr": {"outputs": ("log_sfr",)},
    "dust": {"outputs": ("log_dust_luminosity",)},
    "together": {"outputs": tuple(paper.UNITS)},
    "ensemble": {"run": train_ensemble},
}
RECIPES = {
    **NETWORKS,
    **{f"truth_{name}": choice | {"labels": "truth"} for name, choice in NETWORKS.items()},
    "sample": {"run": describe_sample},
    "peers": {"run": train_peers},
    "scalings": {"run": compare_scalings},
}
OPTIONS = {
    "n": (surana2020.PAPER_TOTAL, "galaxies before the cuts"),
    "n_models": (N_MODELS, "of the teacher's library"),
    "negative": ("keep", "fluxes below zero: keep or zero"),
    "labels": ("fit", "the teacher's (fit) or the truth"),
    "scaling": (None, "of inputs, linear or asinh; default: linear, the ensemble asinh"),
    "live": (False, "the short training, in place of the paper's epochs and patience"),
    "epochs": (None, "at most"),
    "max_seconds": (None, "of a network, at most: how good it gets then depends on the machine"),
    "members": (5, "of the ensemble"),
}
QUICK = {"n": 500, "n_models": 1500, "epochs": 3, "live": True, "members": 2}
