"""The networks of zahid2019 for stellar metallicity.

``mlp`` is the ensemble, with errors and the outliers' reference in the first file; ``rules``, where other rules would
have stopped, is added to that file. ``mlp400`` (16 filters per chunk) and ``intervals`` (five intervals of equal light,
and the age) are one network each. ``randomised`` learns spectra that are distorted as another library's might be,
``diverse`` half the recipe and half other histories. ``peers`` writes zahid2019_pca and _pca_mlp, and scores trees.

Training stops on held-out histories; errors are calibrated on them; all figures are those of other held-out histories,
which nothing was chosen by.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import xarray as xr

from spectool.models import chunked as scores
from spectool.models import peers, store
from spectool.models.chunked import ChunkedEnsemble, ChunkedMLP
from spectool.models.store import round_weights
from spectool.models.training import split
from spectool.papers.zahid2019 import network as paper
from spectool.papers.zahid2019.sample import HELDOUT_SEED, HELDOUT_TEST_SEED, make_heldout, make_sample
from spectool.papers.zahid2019.sample import training_table as whole_table
from spectool.synth.grid import SSPGrid
from tools.make import component_peers
from tools.make.metallicity_errors import fit_errors
from tools.make.outlier_references import fit_bin_outliers
from tools.make.randomised_domain import DomainRandomisation
from tools.recipes import write

CALIBRATION_SEED, SCORE_SEED, DIVERSE_SEED = 20192, 20193, 20194
FOREST = {"n_trees": 60, "min_leaf": 20}
BOOSTING = {"n_iterations": 300, "rate": 0.05, "early_stopping": False}
FOREST_COPIES, BOOSTING_COPIES = 2, 4
N_DIVERSE = 20_000
OUTLIER_SN = (5.0, 40.0)


def train(options) -> dict:
    """One network."""
    samples = make_samples(options)
    model, history = train_one(samples, options, **options.network)
    return keep(options, options.name, model, score(model, samples), history)


def make_samples(options) -> dict:
    """Prepared spectra ``train``, ``valid`` (to stop and calibrate on) and ``test``."""
    return dict(_make_samples(options.grid, options.n, options.n_heldout, options.quiet))


@functools.lru_cache(maxsize=1)
def _make_samples(grid, n, n_heldout, quiet):
    grid = SSPGrid.from_fsps() if grid == "fsps" else SSPGrid.embedded()
    table = whole_table()
    if n:
        rows = np.random.default_rng(0).choice(table.sizes["galaxy"], n, replace=False)
        table = table.isel(galaxy=np.sort(rows))
    return {
        "grid": grid,
        "train": make_sample(grid, table=table, progress=not quiet),
        "valid": make_heldout(n_heldout, seed=HELDOUT_SEED, grid=grid),
        "test": make_heldout(n_heldout, seed=HELDOUT_TEST_SEED, grid=grid),
    }


def train_one(samples, options, *, member=0, **more):
    """One network, its weights rounded as they will be stored, and how its training went."""
    choice = {"adam_epochs": options.adam_epochs, "sgd_epochs": options.sgd_epochs}
    choice |= {"seed": options.seed + member, "progress": not options.quiet, **more}
    model, history = paper.train(samples["train"], samples["valid"], **choice)
    round_weights(model)
    return model, history


def train_ensemble(options) -> dict:
    """Train the members, write each, then the first once more with the calibration and the figures of all."""
    samples = make_samples(options)
    started, members, histories = time.monotonic(), [], []
    for k in range(options.members):
        model, history = train_one(samples, options, member=k)
        members.append(model)
        histories.append(history)
        keep(options, f"{options.name}{k + 1}", model, score(model, samples), history)
    valid, test = samples["valid"], samples["test"]
    truth, _ = paper.make_labels(valid, paper.OUTPUTS)
    errors = fit_errors(ChunkedEnsemble(members), valid["flux"].values, truth, seed=CALIBRATION_SEED)
    ensemble = ChunkedEnsemble(members, errors)

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    target = paper.make_labels(test, paper.OUTPUTS)[0][:, 0]
    metrics = score(members[0], samples) | {
        "ensemble": {"members": len(members), **score_levels(predict, test, target)},
        "ensemble_by_kind": by_kind(predict, test, target),
        "ensemble_seconds": time.monotonic() - started,
    }
    arrays = errors | fit_reference(samples)
    curves = ("train_loss", "valid_loss")
    keep(options, f"{options.name}1", members[0], metrics, histories[0], arrays=arrays, curves=curves)
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


def train_several(options, samples, *, about, **more) -> dict:
    """Networks that differ in their seeds."""
    found = {}
    for k in range(options.members):
        model, history = train_one(samples, options, member=k, **more)
        found[str(k + 1)] = score(model, samples)
        keep(options, f"{options.name}{k + 1}", model, found[str(k + 1)], history, **about)
    return found


def train_randomised(options) -> dict:
    """Networks whose training spectra differ from the library's as another library's might."""
    samples = make_samples(options)
    augment = DomainRandomisation(samples["train"]["wavelength"].values)
    amplitudes = {name: getattr(augment, name) for name in ("continuum", "depth", "fwhm", "noise")}
    return train_several(options, samples, augment=augment, about={"randomised": amplitudes})


def train_diverse(options) -> dict:
    """Networks that half of the recipe's galaxies teach, and as many with histories of the held-out kinds."""
    samples, labels = make_samples(options), ["flux", "log_z_lw", "age_lw"]
    whole, rng = samples["train"][labels], np.random.default_rng(DIVERSE_SEED)
    n = min(N_DIVERSE, whole.sizes["galaxy"] // 2)
    rows = np.sort(rng.choice(whole.sizes["galaxy"], n, replace=False))
    drawn = make_heldout(n, seed=DIVERSE_SEED, grid=samples["grid"], dtype="float16")[labels]
    joined = xr.concat([whole.isel(galaxy=rows), drawn], "galaxy", coords="minimal", compat="override")
    about = {"n_diverse": n, "diverse_seed": DIVERSE_SEED, "n_training": 2 * n}
    return train_several(options, samples | {"train": joined}, about=about)


def compare_rules(options) -> dict:
    """Train on a random 80%, to the last epoch, and score the weights that three rules would have kept."""
    samples = make_samples(options)
    whole, parts = samples["train"], split(samples["train"].sizes["galaxy"], (0.8, 0.2), seed=0)
    watch = paper.Watch({"training_like": whole.isel(galaxy=parts[1][::4])})
    samples["train"] = whole.isel(galaxy=parts[0])
    model, history = train_one(samples, options, watch=watch, patience=None)
    found = {"heldout": score(model, samples)}
    epochs = {"heldout": history.best_epoch, "last": len(history.records)}
    epochs["training_like"] = int(np.argmin(watch.losses["training_like"])) + 1
    for rule in ("training_like", "last"):
        model.load_state_dict(watch.best[rule])
        found[rule] = score(model, samples)
    metrics = {"stopping_rules": {rule: found[rule] | {"epoch": epochs[rule]} for rule in found}}
    curves = {
        "rules_heldout": history.column("valid_loss").astype(np.float32),
        "rules_training_like": np.array(watch.losses["training_like"], np.float32),
    }
    path = options.out / f"{options.beside}.safetensors"
    model, info = store.load_model(path)
    kept = {"recipe": info.recipe, "metrics": info.metrics | metrics, "arrays": info.arrays | curves}
    store.save_model(path, model, half=True, **kept)
    return metrics


def train_peers(options) -> dict:
    """Ten principal components of single bursts, and a forest, boosting and a small network on them."""
    samples = make_samples(options)
    pca = component_peers.fit_ssp_pca(samples["grid"])
    round_weights(pca)
    x = {part: paper.project(pca, samples[part]["flux"].values) for part in ("train", "valid")}
    y = {
        part: paper.make_labels(samples[part], ("log_z_lw",))[0][:, 0] for part in ("train", "valid", "test")
    }
    small, history = component_peers.train_small_network(
        x["train"], y["train"], x["valid"], y["valid"], seed=options.seed, progress=not options.quiet
    )
    round_weights(small)
    copies = functools.partial(paper.copy_with_noise, x["train"], y["train"], seed=options.seed)
    learners = {
        "network": lambda coefficients: small.predict(coefficients)[0][:, 0],
        "forest": peers.train_forest(*copies(FOREST_COPIES), seed=options.seed, **FOREST),
        "boosting": peers.train_boosting(*copies(BOOSTING_COPIES), seed=options.seed, **BOOSTING),
    }
    found = {}
    for name, predict in learners.items():

        def of_spectra(spectra, sigma, predict=predict):
            return predict(paper.project(pca, spectra))

        found[name] = score_levels(of_spectra, samples["test"], y["test"])
    write(options, "zahid2019_pca", pca, metrics={"peers": found}, **describe_sample())
    write(options, "zahid2019_pca_mlp", small, history, metrics=found["network"], **describe_sample())
    return found


def score(model: ChunkedMLP, samples) -> dict:
    """Figures of one network on the test histories, for each output."""
    truth, _ = paper.make_labels(samples["test"], model.outputs)
    found = {}
    for k, output in enumerate(model.outputs):
        levels = score_levels(lambda x, sigma, k=k: model.predict(x)[:, k], samples["test"], truth[:, k])
        found[output] = levels | {"spread": float(truth[:, k].std())}
    return found


def score_levels(predict, test, truth) -> dict:
    """Scores by S/N, and the rms of all."""
    by_sn = scores.score_by_sn(predict, test, truth, seed=SCORE_SEED)
    return {"by_sn": by_sn, "rms": float(np.sqrt(np.mean([entry["rms"] ** 2 for entry in by_sn.values()])))}


def keep(options, name, model, metrics, history, *, arrays=(), curves=(), **more) -> dict:
    """Write a network."""
    names = ("l1", "l2", "lr", "sgd_lr", "batch_size", "patience")
    about = describe_sample() | {name: getattr(paper, name.upper()) for name in names} | more
    return write(options, name, model, history, metrics=metrics, arrays=arrays, curves=curves, **about)


def describe_sample() -> dict:
    """What of the recipe is no option."""
    return {
        "heldout_seeds": {"stop": HELDOUT_SEED, "test": HELDOUT_TEST_SEED},
        "noise": "S/N inf, 50, 20, 10, 5 per 1-Angstrom pixel, a fifth each, drawn for each batch",
    }


RECIPES = {
    "mlp": {"run": train_ensemble},
    "rules": {"run": compare_rules, "beside": "zahid2019_mlp1"},
    "mlp400": {"network": {"n_filters": 16}},
    "intervals": {"network": {"outputs": paper.TIME_RESOLVED}},
    # An epoch of distorted spectra takes twenty times as long: all pixels are drawn and read.
    "randomised": {"run": train_randomised, "members": 3, "adam_epochs": 20, "sgd_epochs": 0},
    "diverse": {"run": train_diverse, "members": 3},
    "peers": {"run": train_peers},
}
OPTIONS = {
    "members": (6, "networks"),
    "grid": ("embedded", "of stars: embedded or fsps"),
    "n": (None, "use so many of the 46,305 training spectra"),
    "n_heldout": (5000, "histories to stop on, and to test on"),
    "adam_epochs": (paper.ADAM_EPOCHS, ""),
    "sgd_epochs": (paper.SGD_EPOCHS, "at most"),
}
QUICK = {"n": 600, "n_heldout": 300, "adam_epochs": 4, "sgd_epochs": 2, "members": 2}
