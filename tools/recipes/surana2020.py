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
from spectool.models.bands import FACILITY_BANDS, BandInputs, join_inputs, read_inputs
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.models.store import round_weights
from spectool.papers.surana2020 import network as paper
from spectool.papers.surana2020 import sample as surana2020
from spectool.papers.surana2020.network import missing_curve, missing_facilities, score_properties
from tools.make.references import fit_band_outliers
from tools.recipes import fit_options, write, write_members

PARTS = ("train", "valid", "test")
VARIED = (0.02, 3.0)
"""Range of the factors by which errors of shallower and deeper surveys differ."""
CURVES = ("epoch", "train_loss", "valid_loss", "train_mae", "valid_mae")


def train(options) -> dict:
    """A network of Tables 1 and 2, or of all properties, and its figures against labels and truth."""
    data = make_data(options)
    model, history = train_one(data, options, options.name, outputs=options.outputs)
    columns = [list(paper.UNITS).index(output) for output in model.outputs]
    mean, _ = model.predict(model.encode(data["test"]))
    labels = data["labels_test"][:, columns]
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
        cache=options.cache / "surana2020",
        progress=not options.quiet,
    )
    selected, cuts = surana2020.select_taught(sample)
    inputs = read_inputs(selected, list(selected["band"].values))
    columns = {name: paper.read_labels(selected, suffix=end) for name, end in LABELS.items()}
    columns["labels"], columns["true_flux"] = columns[options.labels], selected["true_flux"].values
    rows = paper.split_galaxies(len(inputs), seed=options.seed)
    data = {part: inputs.take(rows[part]) for part in PARTS}
    data |= {f"{name}_{part}": values[rows[part]] for name, values in columns.items() for part in PARTS}
    return data | {"bands": tuple(selected["band"].values), "cuts": cuts}


def train_one(data, options, name, *, outputs, **more):
    """One network, its weights rounded as they will be stored, and how its training went."""
    columns = [list(paper.UNITS).index(output) for output in outputs]
    labels, valid_labels = (data[f"labels_{part}"][:, columns] for part in PARTS[:2])
    choice = {"bands": data["bands"], "live": options.live, "epochs": options.epochs, "seed": options.seed}
    choice |= {"outputs": outputs} | fit_options(options, name) | more
    model, history = paper.train_network(data["train"], labels, data["valid"], valid_labels, **choice)
    round_weights(model)
    return model, history


def train_ensemble(options) -> dict:
    """Networks with errors; the first file holds the calibration, the outliers' reference and the figures of all."""
    data = make_data(options)
    varied, choice = add_other_surveys(data, options), paper.ensemble_options(epochs=options.epochs)
    trained = [
        train_one(varied, options, f"{options.name}{k + 1}", seed=options.seed + k, **choice)
        for k in range(options.members)
    ]
    valid, test, labels = data["valid"], data["test"], data["labels_test"]
    ensemble = BandEnsemble([model for model, _ in trained])
    ensemble = paper.calibrate(ensemble, valid, data["labels_valid"], seed=[options.seed, 2])
    mean, error = ensemble.predict(test)
    metrics = score_properties(mean, labels, ensemble.outputs, error=error)
    metrics["on_truth"] = score_properties(mean, data["truth_test"], ensemble.outputs, error=error)
    metrics["missing"] = by_row(missing_curve(ensemble, test, labels), "n_missing")
    metrics["without"] = by_row(missing_facilities(ensemble, test, labels), "facility")
    arrays = {"error_calibration": ensemble.calibration} | fit_band_outliers(data["train"], valid)
    write_members(options, trained, metrics, arrays)
    return metrics


def add_other_surveys(data, options) -> dict:
    """Training and validation galaxies once more, as shallower and deeper surveys would see them."""
    both = dict(data)
    for k, part in enumerate(PARTS[:2]):
        inputs, true_flux = data[part], data[f"true_flux_{part}"]
        varied = vary_errors(inputs, true_flux, bands=data["bands"], seed=[options.seed, 3, k])
        both[part] = join_inputs(inputs, varied)
        both[f"labels_{part}"] = np.concatenate([data[f"labels_{part}"]] * 2)
    return both


def vary_errors(inputs: BandInputs, true_flux: np.ndarray, *, bands, seed) -> BandInputs:
    """The same galaxies with errors of another size, alike in all bands but for 0.5 in the logarithm per facility."""
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(*np.log(VARIED), (len(inputs), 1))) * np.ones(inputs.value.shape)
    for members in FACILITY_BANDS.values():
        factor[:, np.isin(bands, members)] *= np.exp(0.5 * rng.standard_normal((len(inputs), 1)))
    error = inputs.error * factor
    flux = true_flux + error * rng.standard_normal(error.shape)
    return BandInputs(flux, error, inputs.mask, inputs.redshift)


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
    data, outputs = make_data(options), tuple(paper.UNITS)
    labels = data["labels_train"]
    model = paper.SedMLP(
        bands=data["bands"], hidden=(), outputs=outputs, units=tuple(paper.UNITS.values()), scaling="linear"
    )
    model.set_statistics(data["train"], labels)
    x = {part: model.encode(data[part]) for part in PARTS}
    svm, found = partial(peers.train_svm, n_rows=peers.SVM_ROWS), {}
    for name, learn in {"forest": peers.train_forest, "svm": svm, "boosting": peers.train_boosting}.items():
        started = time.monotonic()
        predict = learn(x["train"], labels, seed=options.seed)
        seconds = {"seconds": time.monotonic() - started}
        found[name] = score_properties(predict(x["test"]), data["labels_test"], outputs) | seconds
    (options.out / f"{options.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


LABELS = {"fit": "_fit", "truth": ""}
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
}
OPTIONS = {
    "n": (surana2020.PAPER_TOTAL, "galaxies before the cuts"),
    "n_models": (N_MODELS, "of the teacher's library"),
    "labels": ("fit", "the teacher's (fit) or the truth"),
    "live": (False, "the short training, in place of the paper's epochs and patience"),
    "epochs": (None, "at most"),
    "members": (5, "of the ensemble"),
}
QUICK = {"n": 500, "n_models": 1500, "epochs": 3, "live": True, "members": 2}
