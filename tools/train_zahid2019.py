"""Train and score the networks of zahid2019, and write the weights that the package ships.

    python tools/train_zahid2019.py ensemble      # zahid2019_mlp1 to _mlp6, errors and outliers' reference in the first
    python tools/train_zahid2019.py rules         # where other rules would have stopped; adds to zahid2019_mlp1
    python tools/train_zahid2019.py wide          # zahid2019_mlp400: 16 filters per chunk
    python tools/train_zahid2019.py intervals     # zahid2019_intervals: five intervals of equal light, and the age
    python tools/train_zahid2019.py randomised    # zahid2019_randomised1 to _3
    python tools/train_zahid2019.py diverse       # zahid2019_diverse1 to _3: half the recipe, half other histories
    python tools/train_zahid2019.py peers         # zahid2019_pca, zahid2019_pca_mlp; scores trees, which are not kept

Training stops on held-out histories; errors are calibrated on them; all figures are those of other held-out histories,
which nothing was chosen by, with the weights as they are stored.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from spectool.models import calibration as scores
from spectool.models import ensemble as chunked_errors
from spectool.models import peers, store
from spectool.models.chunked import ChunkedMLP
from spectool.models.ensemble import ChunkedEnsemble
from spectool.models.store import round_weights
from spectool.models.training import split
from spectool.papers.zahid2019 import network as paper
from spectool.papers.zahid2019.sample import HELDOUT_SEED, HELDOUT_TEST_SEED, make_heldout, make_sample
from spectool.papers.zahid2019.sample import training_table as whole_table
from spectool.parallel import n_workers
from spectool.synth.grid import SSPGrid
from tools.make import component_peers
from tools.make.outlier_references import fit_bin_outliers
from tools.make.randomised_domain import DomainRandomisation

CALIBRATION_SEED, SCORE_SEED, DIVERSE_SEED = 20192, 20193, 20194
FOREST = {"n_trees": 60, "min_leaf": 20, "noisy_copies": 2}
BOOSTING = {"n_iterations": 300, "rate": 0.05, "early_stopping": False, "noisy_copies": 4}
N_DIVERSE = 20_000
OUTLIER_SN = (5.0, 40.0)


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or n_workers())
    samples = make_samples(options)
    commands = {
        "ensemble": train_ensemble,
        "rules": compare_rules,
        "wide": partial(train_one, name="zahid2019_mlp400", n_filters=16),
        "intervals": partial(train_one, name="zahid2019_intervals", outputs=paper.TIME_RESOLVED),
        "randomised": train_randomised,
        "diverse": train_diverse,
        "peers": train_peers,
    }
    metrics = commands[options.command](samples, options)
    print(json.dumps(metrics))
    return metrics


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", choices=("ensemble", "rules", "wide", "intervals", "randomised", "diverse", "peers")
    )
    parser.add_argument("--members", type=int, help="default: 6; randomised, diverse 3")
    parser.add_argument("--grid", choices=("embedded", "fsps"), default="embedded")
    parser.add_argument("--n", type=int, help="use so many of the 46,305 training spectra (a trial)")
    parser.add_argument("--n-heldout", type=int, default=5000, help="histories to stop on, and to test on")
    parser.add_argument("--adam-epochs", type=int, help=f"default: {paper.ADAM_EPOCHS}, randomised 20")
    parser.add_argument("--sgd-epochs", type=int, help=f"default: at most {paper.SGD_EPOCHS}, randomised 0")
    parser.add_argument("--threads", type=int, help="default: what the machine grants")
    parser.add_argument("--seed", type=int, default=0, help="of the first member; the next has the next")
    parser.add_argument("--out", type=Path, default=store.SHIPPED, help="folder to write into")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    # An epoch of distorted spectra takes twenty times as long: all pixels are drawn and read.
    defaults = (20, 0) if options.command == "randomised" else (paper.ADAM_EPOCHS, paper.SGD_EPOCHS)
    for name, value in zip(("adam_epochs", "sgd_epochs"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def make_samples(options) -> dict:
    """Prepared spectra ``train``, ``valid`` (to stop and calibrate on) and ``test``."""
    grid = SSPGrid.from_fsps() if options.grid == "fsps" else SSPGrid.embedded()
    table = whole_table()
    if options.n:
        rows = np.random.default_rng(0).choice(table.sizes["galaxy"], options.n, replace=False)
        table = table.isel(galaxy=np.sort(rows))
    return {
        "grid": grid,
        "train": make_sample(grid, table=table, progress=not options.quiet),
        "valid": make_heldout(options.n_heldout, seed=HELDOUT_SEED, grid=grid),
        "test": make_heldout(options.n_heldout, seed=HELDOUT_TEST_SEED, grid=grid),
    }


def train(samples, options, seed, **more):
    """One network, its weights rounded as they will be stored, and how its training went."""
    choice = {"adam_epochs": options.adam_epochs, "sgd_epochs": options.sgd_epochs, "seed": seed}
    choice |= {"progress": not options.quiet, **more}
    model, history = paper.train(samples["train"], samples["valid"], **choice)
    round_weights(model)
    return model, history


def train_ensemble(samples, options) -> dict:
    """Train the members, write each, then the first once more with the calibration and the figures of all."""
    started, members, histories = time.monotonic(), [], []
    for k in range(options.members or 6):
        model, history = train(samples, options, options.seed + k)
        members.append(model)
        histories.append(history)
        write(f"zahid2019_mlp{k + 1}", model, score_one(model, samples), history, options)
    valid, test = samples["valid"], samples["test"]
    truth, _ = paper.make_labels(valid, paper.OUTPUTS)
    errors = chunked_errors.fit_errors(
        ChunkedEnsemble(members), valid["flux"].values, truth, seed=CALIBRATION_SEED
    )
    ensemble = ChunkedEnsemble(members, errors)

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    target, _ = paper.make_labels(test, paper.OUTPUTS)
    by_sn = scores.score_by_sn(predict, test, target[:, 0], seed=SCORE_SEED)
    metrics = score_one(members[0], samples) | {
        "ensemble": {"members": len(members), "by_sn": by_sn, "rms": scores.rms_of_all(by_sn)},
        "ensemble_by_kind": by_kind(predict, test, target[:, 0]),
        "ensemble_seconds": time.monotonic() - started,
    }
    curves = {
        f"history_{name}": histories[0].column(name).astype(np.float32)
        for name in ("train_loss", "valid_loss")
    }
    arrays = errors | curves | fit_reference(samples)
    write("zahid2019_mlp1", members[0], metrics, histories[0], options, arrays=arrays)
    return metrics


def by_kind(predict, test, truth) -> dict:
    """Scores at S/N 20 for each kind of held-out history."""
    kinds = test["kind"].values
    return {
        kind: scores.score_by_sn(
            predict, test.isel(galaxy=kinds == kind), truth[kinds == kind], levels=(20.0,), seed=SCORE_SEED
        )["20"]
        for kind in np.unique(kinds).tolist()
    }


def fit_reference(samples) -> dict:
    """What outliers are told by: components of training spectra, statistics of noisy held-out ones."""
    x = samples["valid"]["flux"].values
    rng = np.random.default_rng(CALIBRATION_SEED)
    sigma = (1 / np.exp(rng.uniform(*np.log(OUTLIER_SN), len(x)))).astype("f4")
    noisy = x + sigma[:, None] * rng.standard_normal(x.shape, dtype="f4")
    return fit_bin_outliers(samples["train"]["flux"].values, noisy, sigma)


def train_one(samples, options, *, name, **more) -> dict:
    """A single network of another shape or with other outputs."""
    model, history = train(samples, options, options.seed, **more)
    metrics = score_one(model, samples)
    write(name, model, metrics, history, options)
    return metrics


def train_randomised(samples, options) -> dict:
    """Networks whose training spectra differ from the library's as another library's might."""
    augment = DomainRandomisation(samples["train"]["wavelength"].values)
    amplitudes = {name: getattr(augment, name) for name in ("continuum", "depth", "fwhm", "noise")}
    found = {}
    for k in range(options.members or 3):
        model, history = train(samples, options, options.seed + k, augment=augment)
        found[str(k + 1)] = score_one(model, samples)
        write(
            f"zahid2019_randomised{k + 1}", model, found[str(k + 1)], history, options, randomised=amplitudes
        )
    return found


def train_diverse(samples, options) -> dict:
    """Networks that half of the recipe's galaxies teach, and as many with histories of the held-out kinds."""
    labels = ["flux", "log_z_lw", "age_lw"]
    whole, rng = samples["train"][labels], np.random.default_rng(DIVERSE_SEED)
    n = min(N_DIVERSE, whole.sizes["galaxy"] // 2)
    rows = np.sort(rng.choice(whole.sizes["galaxy"], n, replace=False))
    drawn = make_heldout(n, seed=DIVERSE_SEED, grid=samples["grid"], dtype="float16")[labels]
    joined = xr.concat([whole.isel(galaxy=rows), drawn], "galaxy", coords="minimal", compat="override")
    samples, found = {**samples, "train": joined}, {}
    for k in range(options.members or 3):
        model, history = train(samples, options, options.seed + k)
        found[str(k + 1)] = score_one(model, samples)
        more = {"n_diverse": n, "diverse_seed": DIVERSE_SEED, "n_training": 2 * n}
        write(f"zahid2019_diverse{k + 1}", model, found[str(k + 1)], history, options, **more)
    return found


def compare_rules(samples, options) -> dict:
    """Train on a random 80%, to the last epoch, and score the weights that three rules would have kept."""
    whole, parts = samples["train"], split(samples["train"].sizes["galaxy"], (0.8, 0.2), seed=0)
    watch = paper.Watch({"training_like": whole.isel(galaxy=parts[1][::4])})
    samples = {**samples, "train": whole.isel(galaxy=parts[0])}
    model, history = train(samples, options, options.seed, watch=watch, patience=None)
    found = {"heldout": score_one(model, samples)}
    epochs = {"heldout": history.best_epoch, "last": len(history.records)}
    epochs["training_like"] = int(np.argmin(watch.losses["training_like"])) + 1
    for rule in ("training_like", "last"):
        model.load_state_dict(watch.best[rule])
        found[rule] = score_one(model, samples)
    metrics = {"stopping_rules": {rule: {**found[rule], "epoch": epochs[rule]} for rule in found}}
    model, info = store.load_model(options.out / "zahid2019_mlp1.safetensors")
    curves = {
        "rules_heldout": history.column("valid_loss").astype(np.float32),
        "rules_training_like": np.array(watch.losses["training_like"], np.float32),
    }
    store.save_model(
        options.out / "zahid2019_mlp1",
        model,
        recipe=info.recipe,
        metrics=info.metrics | metrics,
        arrays=info.arrays | curves,
        half=True,
    )
    return metrics


def train_peers(samples, options) -> dict:
    """Ten principal components of single bursts, and a forest, boosting and a small network on them."""
    pca = component_peers.fit_ssp_pca(samples["grid"])
    round_weights(pca)
    x = {part: peers.project(pca, samples[part]["flux"].values) for part in ("train", "valid")}
    y = {
        part: paper.make_labels(samples[part], ("log_z_lw",))[0][:, 0] for part in ("train", "valid", "test")
    }
    small, history = component_peers.train_small_network(
        x["train"], y["train"], x["valid"], y["valid"], seed=options.seed, progress=not options.quiet
    )
    round_weights(small)
    learners = {
        "network": lambda coefficients: small.predict(coefficients)[0][:, 0],
        "forest": peers.train_forest(x["train"], y["train"], seed=options.seed, **FOREST),
        "boosting": peers.train_boosting(x["train"], y["train"], seed=options.seed, **BOOSTING),
    }
    found = {}
    for name, predict in learners.items():

        def of_spectra(spectra, sigma, predict=predict):
            return predict(peers.project(pca, spectra))

        by_sn = scores.score_by_sn(of_spectra, samples["test"], y["test"], seed=SCORE_SEED)
        found[name] = {"by_sn": by_sn, "rms": scores.rms_of_all(by_sn)}
    write("zahid2019_pca", pca, {"peers": found}, None, options)
    write("zahid2019_pca_mlp", small, found["network"], history, options)
    return found


def score_one(model: ChunkedMLP, samples) -> dict:
    """Figures of one network on the test histories, for each output."""
    truth, _ = paper.make_labels(samples["test"], model.outputs)
    found = {}
    for k, output in enumerate(model.outputs):
        by_sn = scores.score_by_sn(
            lambda x, sigma, k=k: model.predict(x)[:, k], samples["test"], truth[:, k], seed=SCORE_SEED
        )
        found[output] = {"by_sn": by_sn, "rms": scores.rms_of_all(by_sn), "spread": float(truth[:, k].std())}
    return found


def write(name, model, metrics, history, options, *, arrays=None, **more) -> None:
    """Store a model with how it was made."""
    recipe = {
        "paper": "zahid2019",
        "grid": options.grid,
        "n_training": options.n or whole_table().sizes["galaxy"],
        "n_heldout": options.n_heldout,
        "heldout_seeds": {"stop": HELDOUT_SEED, "test": HELDOUT_TEST_SEED},
        "seed": options.seed,
        "noise": "S/N inf, 50, 20, 10, 5 per 1-Angstrom pixel, a fifth each, drawn for each batch",
        **more,
    }
    if history is not None:
        metrics = metrics | {
            "training": {
                "best_epoch": history.best_epoch,
                "best_valid_loss": history.best_loss,
                "epochs": len(history.records),
                "seconds": history.seconds,
                "stopped": history.stopped,
            }
        }
    if isinstance(model, ChunkedMLP):
        recipe |= {
            "adam_epochs": options.adam_epochs,
            "sgd_epochs": options.sgd_epochs,
            "l1": paper.L1,
            "l2": paper.L2,
            "lr": paper.LR,
            "sgd_lr": paper.SGD_LR,
            "batch_size": paper.BATCH_SIZE,
            "patience": paper.PATIENCE,
        }
    store.save_model(options.out / name, model, recipe=recipe, metrics=metrics, arrays=arrays, half=True)


if __name__ == "__main__":
    main()
