"""Train and score the networks of surana2020, and write the weights that the package ships.

    python tools/train_surana2020.py sample       # the galaxies and their fits, into the cache (the others do it, too)
    python tools/train_surana2020.py networks     # surana2020_mass, _sfr, _dust: Tables 1 and 2, teacher's labels
    python tools/train_surana2020.py networks --labels truth     # surana2020_truth_mass, ...
    python tools/train_surana2020.py together     # surana2020_together: one network for all three
    python tools/train_surana2020.py ensemble     # surana2020_ensemble1 to 5: errors, missing bands, outliers
    python tools/train_surana2020.py peers        # surana2020_peers.json: forest, support vectors, boosted trees scored
    python tools/train_surana2020.py scalings     # what asinh inputs change, by validation; writes nothing

64% of the galaxies train, 16% stop the training and calibrate errors, 20% are what all figures are of, with the weights
as they are stored (float16). A killed training goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pooch
import torch

from spectool.measure.sedfit import N_MODELS
from spectool.models import peers, store
from spectool.models.bands import join_inputs, read_inputs
from spectool.models.ensemble import (
    SedEnsemble,
    band_importance,
    missing_curve,
    missing_facilities,
    score_properties,
    vary_errors,
)
from spectool.models.store import round_weights
from spectool.papers.surana2020 import network as paper
from spectool.papers.surana2020 import sample as surana2020
from spectool.parallel import n_workers
from tools.make.outlier_references import fit_band_outliers

PARTS = ("train", "valid", "test")
NAMES = {"log_mass": "mass", "log_sfr": "sfr", "log_dust_luminosity": "dust"}
HISTORY = ("epoch", "train_loss", "valid_loss", "train_mae", "valid_mae")


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or n_workers())
    data = make_data(options)
    commands = {
        "sample": describe_sample,
        "networks": train_networks,
        "together": train_together,
        "ensemble": train_ensemble,
        "peers": train_peers,
        "scalings": compare_scalings,
    }
    metrics = commands[options.command](data, options)
    print(json.dumps(metrics))
    return metrics


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", choices=("sample", "networks", "together", "ensemble", "peers", "scalings")
    )
    parser.add_argument("--n", type=int, default=surana2020.PAPER_TOTAL, help="galaxies before the cuts")
    parser.add_argument("--n-models", type=int, default=N_MODELS, help="of the teacher's library")
    parser.add_argument("--negative", choices=("keep", "zero"), default="keep", help="fluxes below zero")
    parser.add_argument("--labels", choices=("fit", "truth"), default="fit")
    parser.add_argument("--scaling", choices=("linear", "asinh"), help="default: linear, the ensemble asinh")
    parser.add_argument(
        "--live", action="store_true", help="the short training, in place of the paper's epochs and patience"
    )
    parser.add_argument("--epochs", type=int, help="at most (a trial)")
    parser.add_argument(
        "--max-seconds",
        type=float,
        help="of a network, at most: how good it gets then depends on the machine",
    )
    parser.add_argument("--members", type=int, default=5, help="of the ensemble")
    parser.add_argument(
        "--threads", type=int, help="default: what the machine grants; small networks gain nothing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the first network")
    parser.add_argument("--out", type=Path, default=store.SHIPPED, help="folder to write into")
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "surana2020")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def make_data(options) -> dict:
    """Inputs, labels and truths by part, and the counts of the cuts."""
    sample = surana2020.make_surana2020(
        options.n,
        n_models=options.n_models,
        negative=options.negative,
        cache=options.cache,
        progress=not options.quiet,
    )
    selected, cuts = surana2020.select_taught(sample)
    inputs = read_inputs(selected, list(selected["band"].values))
    columns = {
        name: paper.read_labels(selected, suffix=end) for name, end in (("fit", "_fit"), ("truth", ""))
    }
    rows = paper.split_galaxies(len(inputs), seed=options.seed)
    data = {part: inputs.take(rows[part]) for part in PARTS}
    for name, labels in columns.items():
        data |= {f"{name}_{part}": labels[rows[part]] for part in PARTS}
    data |= {f"true_flux_{part}": selected["true_flux"].values[rows[part]] for part in PARTS}
    return data | {"bands": tuple(selected["band"].values), "cuts": cuts}


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


def describe_sample(data, options) -> dict:
    """How many galaxies each cut leaves, and how far the teacher is from truth."""
    cuts = data["cuts"]
    scores = score_properties(data["fit_test"], data["truth_test"], list(paper.UNITS))
    left = dict(zip(cuts["cut"].values.tolist(), cuts["left"].values.tolist(), strict=True))
    return {"left": left, "parts": {part: len(data[part]) for part in PARTS}, "teacher_on_truth": scores}


def train_one(data, options, outputs, name, **more):
    """One network, its weights rounded as they will be stored, and how its training went."""
    columns = [list(paper.UNITS).index(output) for output in outputs]
    labels = {part: data[f"{options.labels}_{part}"][:, columns] for part in PARTS}
    choice = {"outputs": outputs, "bands": data["bands"], "seed": options.seed, "live": options.live}
    choice |= {"scaling": options.scaling or "linear", "epochs": options.epochs}
    choice |= {"max_seconds": options.max_seconds} | more
    checkpoint = checkpoint_file(name, options)
    model, history = paper.train_network(
        data["train"],
        labels["train"],
        data["valid"],
        labels["valid"],
        checkpoint=checkpoint,
        progress=not options.quiet,
        **choice,
    )
    checkpoint.unlink(missing_ok=True)
    round_weights(model)
    return model, history


def train_networks(data, options) -> dict:
    """The paper's three networks."""
    metrics = {}
    for output, short in NAMES.items():
        name = file_name(short, options)
        model, history = train_one(data, options, (output,), name)
        metrics |= score_and_write(data, options, model, history, name)
    return metrics


def train_together(data, options) -> dict:
    """One network for all three properties."""
    name = file_name("together", options)
    model, history = train_one(data, options, tuple(paper.UNITS), name)
    return score_and_write(data, options, model, history, name)


def score_and_write(data, options, model, history, name) -> dict:
    """Figures on the test galaxies against labels and truth; the file."""
    columns = [list(paper.UNITS).index(output) for output in model.outputs]
    mean, _ = model.predict(model.encode(data["test"]))
    labels = data[f"{options.labels}_test"][:, columns]
    metrics = score_properties(mean, labels, model.outputs)
    metrics["on_truth"] = score_properties(mean, data["truth_test"][:, columns], model.outputs)
    metrics["training"] = summarize(history)
    importance = band_importance(model, data["test"], labels, seed=options.seed)
    arrays = {
        "predicted_test": mean,
        "importance": importance["importance"].values.astype(np.float32),
        "importance_error": importance["importance_error"].values.astype(np.float32),
        **{f"history_{column}": history.column(column).astype(np.float32) for column in HISTORY},
        **fit_band_outliers(data["train"], data["valid"]),
    }
    store.save_model(
        options.out / name, model, recipe=describe(options, model), metrics=metrics, arrays=arrays, half=True
    )
    return {name: metrics}


def train_ensemble(data, options) -> dict:
    """Networks with errors; the first file holds the calibration, the outliers' reference and the figures of all."""
    members, histories = [], []
    choice = paper.ensemble_options(epochs=options.epochs) | {"scaling": options.scaling or "asinh"}
    varied = add_other_surveys(data, options)
    for k in range(options.members):
        name = file_name(f"ensemble{k + 1}", options)
        model, history = train_one(varied, options, **choice, name=name, seed=options.seed + k)
        members.append(model)
        histories.append(history)
    valid, test = data["valid"], data["test"]
    labels = {part: data[f"{options.labels}_{part}"] for part in PARTS}
    ensemble = paper.calibrate(SedEnsemble(members), valid, labels["valid"], seed=[options.seed, 2])
    mean, error = ensemble.predict(test)
    curves = missing_curve(ensemble, test, labels["test"]), missing_facilities(ensemble, test, labels["test"])
    metrics = score_properties(mean, labels["test"], ensemble.outputs, error=error)
    metrics["on_truth"] = score_properties(mean, data["truth_test"], ensemble.outputs, error=error)
    metrics["missing"], metrics["without"] = (
        {
            name: {
                str(value): row.tolist()
                for value, row in zip(curve[dim].values, curve[name].values, strict=True)
            }
            for name in curve.data_vars
        }
        for curve, dim in zip(curves, ("n_missing", "facility"), strict=True)
    )
    arrays = {"error_calibration": ensemble.calibration}
    arrays |= fit_band_outliers(data["train"], valid)
    for k, (model, history) in enumerate(zip(members, histories, strict=True)):
        store.save_model(
            options.out / file_name(f"ensemble{k + 1}", options),
            model,
            recipe=describe(options, model) | {"member": k + 1, "seed": options.seed + k},
            metrics=(metrics if k == 0 else {}) | {"training": summarize(history)},
            arrays=arrays if k == 0 else {},
            half=True,
        )
    return metrics


def train_peers(data, options) -> dict:
    """What the paper tried, and boosted trees, on the inputs of its networks."""
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
    for name, train in learners.items():
        started = time.monotonic()
        predict = train(x["train"], labels["train"], seed=options.seed)
        seconds = time.monotonic() - started
        found[name] = score_properties(predict(x["test"]), labels["test"], model.outputs) | {
            "seconds": seconds
        }
    (options.out / "surana2020_peers.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def compare_scalings(data, options) -> dict:
    """Validation figures of the short training with linear and asinh inputs."""
    found = {}
    for scaling in ("linear", "asinh"):
        found[scaling] = {}
        for k, output in enumerate(paper.UNITS):
            model, history = train_one(
                data, options, (output,), f"scaling_{scaling}_{output}", scaling=scaling, live=True
            )
            mean, _ = model.predict(model.encode(data["valid"]))
            scores = score_properties(mean, data[f"{options.labels}_valid"][:, [k]], (output,))
            found[scaling] |= scores | {f"{output}_seconds": history.seconds}
    return found


def summarize(history) -> dict:
    """How a training went."""
    return {
        "best_epoch": history.best_epoch,
        "best_valid_loss": history.best_loss,
        "epochs": len(history.records),
        "seconds": history.seconds,
        "stopped": history.stopped,
    }


def file_name(short: str, options) -> str:
    """Of a model, without extension."""
    return f"surana2020_{'truth_' if options.labels == 'truth' else ''}{short}"


def describe(options, model) -> dict:
    """What has to be known to make the model again."""
    return {
        "paper": "surana2020",
        "labels": options.labels,
        "galaxies": {"n": options.n, "seed": surana2020.SEED, "negative": options.negative},
        "n_models": options.n_models,
        "split": {"fractions": list(paper.FRACTIONS), "seed": options.seed},
        "training": "live" if options.live or model.gaussian else "Tables 1 and 2",
        "epochs": options.epochs,
        "max_seconds": options.max_seconds,
        "seed": options.seed,
    }


def checkpoint_file(name: str, options) -> Path:
    """Where this very training stands: other options, another file."""
    keys = ("n", "n_models", "negative", "labels", "scaling", "live", "epochs", "seed")
    recipe = json.dumps({key: getattr(options, key) for key in keys}, sort_keys=True)
    return (
        options.cache
        / "checkpoints"
        / f"{name}_{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    )


if __name__ == "__main__":
    main()
