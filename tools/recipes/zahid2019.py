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
import torch
import xarray as xr

from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.models import peers, store
from spectool.models.chunked import SN_LEVELS, ChunkedEnsemble, ChunkedMLP, assign_levels, score_by_sn
from spectool.models.denoise import PCAModel, fit_pca
from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.store import round_weights
from spectool.models.training import History, Step, fit, one_cycle, split
from spectool.papers.zahid2019 import network as paper
from spectool.papers.zahid2019.sample import (
    FWHM,
    HELDOUT_SEED,
    HELDOUT_TEST_SEED,
    make_heldout,
    make_sample,
    training_table,
)
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import embedded_grid
from spectool.synth.histories import metallicities, metallicity_operator
from tools.make.randomised_domain import DomainRandomisation
from tools.make.references import fit_bin_outliers, fit_errors
from tools.recipes import write

CALIBRATION_SEED, SCORE_SEED, DIVERSE_SEED = 20192, 20193, 20194
FOREST = {"n_trees": 60, "min_leaf": 20}
BOOSTING = {"n_iterations": 300, "rate": 0.05, "early_stopping": False}
FOREST_COPIES, BOOSTING_COPIES = 2, 4
N_DIVERSE = 20_000
EVALUATED = 8192  # spectra at once
OUTLIER_SN = (5.0, 40.0)
YOUNGEST, OLDEST = 1e6, 14e9


def train(options) -> dict:
    """One network."""
    samples = make_samples(options)
    model, history = train_one(samples, options, **options.network)
    return keep(options, options.name, model, score(model, samples), history)


def make_samples(options) -> dict:
    """Prepared spectra ``train``, ``valid`` (to stop and calibrate on) and ``test``."""
    return dict(_make_samples(options.n, options.n_heldout, options.quiet))


@functools.lru_cache(maxsize=1)
def _make_samples(n, n_heldout, quiet):
    grid, table = embedded_grid(), training_table()
    if n:
        rows = np.random.default_rng(0).choice(table.sizes["galaxy"], n, replace=False)
        table = table.isel(galaxy=np.sort(rows))
    return {
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
    samples, started, trained = make_samples(options), time.monotonic(), []
    for k in range(options.members):
        trained.append(train_one(samples, options, member=k))
        model, history = trained[-1]
        keep(options, f"{options.name}{k + 1}", model, score(model, samples), history)
    members = [model for model, _ in trained]
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
    stored = {"arrays": errors | fit_reference(samples), "curves": ("train_loss", "valid_loss")}
    keep(options, f"{options.name}1", members[0], metrics, trained[0][1], **stored)
    return metrics


def by_kind(predict, test, truth) -> dict:
    """Scores at S/N 20 for each kind of held-out history."""
    found, kinds = {}, test["kind"].values
    for kind in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == kind)
        part = predict, test.isel(galaxy=rows), truth[rows]
        found[kind] = score_by_sn(*part, levels=(20.0,), seed=SCORE_SEED)["20"]
    return found


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
    drawn = make_heldout(n, seed=DIVERSE_SEED, dtype="float16")[labels]
    joined = xr.concat([whole.isel(galaxy=rows), drawn], "galaxy", coords="minimal", compat="override")
    about = {"n_diverse": n, "diverse_seed": DIVERSE_SEED, "n_training": 2 * n}
    return train_several(options, samples | {"train": joined}, about=about)


def evaluate(model, loss, arrays) -> float:
    """Squared error, in units of the labels' variance, on arrays from `paper.arrays_with_noise`, noise always alike."""
    step = Step(0.0, 0.0, False, torch.Generator().manual_seed(0))
    total, n = 0.0, len(arrays["y"])
    with torch.inference_mode():
        for start in range(0, n, EVALUATED):
            rows = np.arange(start, min(start + EVALUATED, n))
            batch = {name: torch.from_numpy(np.asarray(a[rows], np.float32)) for name, a in arrays.items()}
            total += float(loss(model, batch, step)["squared_error"]) * len(rows)
    return total / n


class Watch:
    """A callback that looks at other data after each epoch, and remembers where it would have stopped on them."""

    def __init__(self, data) -> None:
        self.data, self.losses = data, []

    def start(self, model: ChunkedMLP, loss: paper.NoisyLoss, outputs) -> None:
        """Called by `paper.train` before the first epoch."""
        self.model, self.loss = model, loss
        self.arrays = paper.arrays_with_noise(self.data, model, outputs, loss)

    def __call__(self, history: History) -> None:
        """After an epoch."""
        self.last = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        value = evaluate(self.model, self.loss, self.arrays)
        if not self.losses or value < min(self.losses):
            self.best = self.last
        self.losses.append(value)


def compare_rules(options) -> dict:
    """Train on a random 80%, to the last epoch, and score the weights that three rules would have kept."""
    samples = make_samples(options)
    whole, parts = samples["train"], split(samples["train"].sizes["galaxy"], (0.8, 0.2), seed=0)
    watch = Watch(whole.isel(galaxy=parts[1][::4]))
    samples["train"] = whole.isel(galaxy=parts[0])
    model, history = train_one(samples, options, watch=watch, patience=None)
    found = {"heldout": score(model, samples)}
    epochs = {"heldout": history.best_epoch, "last": len(history.records)}
    epochs["training_like"] = int(np.argmin(watch.losses)) + 1
    for rule, weights in (("training_like", watch.best), ("last", watch.last)):
        model.load_state_dict(weights)
        found[rule] = score(model, samples)
    metrics = {"stopping_rules": {rule: found[rule] | {"epoch": epochs[rule]} for rule in found}}
    curves = {
        "rules_heldout": history.column("valid_loss").astype(np.float32),
        "rules_training_like": np.array(watch.losses, np.float32),
    }
    path = options.out / f"{options.beside}.safetensors"
    model, info = store.load_model(path)
    kept = {"recipe": info.recipe, "metrics": info.metrics | metrics, "arrays": info.arrays | curves}
    store.save_model(path, model, half=True, **kept)
    return metrics


def fit_ssp_pca(n_components: int = 10) -> PCAModel:
    """Principal components of prepared single bursts: all of the grid's ages from 1 Myr to 14 Gyr, 21 metallicities."""
    grid, continuum = embedded_grid(), ContinuumBasis.optical()
    ages = (grid.age >= YOUNGEST) & (grid.age <= OLDEST)
    ssps = smooth_ssps(grid, continuum.kept_wavelength, FWHM)[:, ages]
    bursts = np.tensordot(metallicity_operator(metallicities(), grid), ssps, 1)
    prepared = normalize_continuum(bursts.reshape(-1, bursts.shape[-1]), None, continuum)[0]
    return fit_pca(prepared, continuum.kept_wavelength, n_latent=n_components)


def train_small_network(
    train, labels, valid, valid_labels, *, seed=0, **options
) -> tuple[GaussianMLP, History]:
    """A network of two layers on coefficients, noise drawn afresh, stopped on held-out histories."""
    model = GaussianMLP(
        n_in=train.shape[1], n_out=1, hidden=(64, 32), names=["log_z_lw"], units=["dex"], seed=seed
    )
    model.set_statistics(paper.add_coefficient_noise(train, seed=[seed, 0]), labels[:, None])
    valid_x = paper.add_coefficient_noise(np.tile(valid, (len(SN_LEVELS), 1)), seed=[seed, 1])
    valid_y = np.tile(valid_labels[:, None], (len(SN_LEVELS), 1)).astype("f4")

    def add_noise(batch, step):
        x = batch["x"]
        sigma = assign_levels(len(x), SN_LEVELS, step.generator)[:, None]
        return {**batch, "x": x + sigma * torch.randn(x.shape, generator=step.generator)}

    recipe = {"epochs": 40, "lr": 1e-2, "batch_size": 512, "schedule": one_cycle(), "patience": None}
    recipe |= {"loss": gaussian_loss, "augment": add_noise, "seed": seed} | options
    arrays = {"x": train, "y": labels[:, None].astype("f4")}
    history = fit(model, arrays, {"x": valid_x, "y": valid_y}, **recipe)
    model.calibrate(valid_x, valid_y)
    return model, history


def train_peers(options) -> dict:
    """Ten principal components of single bursts, and a forest, boosting and a small network on them."""
    samples, pca = make_samples(options), fit_ssp_pca()
    round_weights(pca)
    y = {part: paper.make_labels(sample, ("log_z_lw",))[0][:, 0] for part, sample in samples.items()}
    x = {part: paper.project(pca, samples[part]["flux"].values) for part in ("train", "valid")}
    choice = {"seed": options.seed, "progress": not options.quiet}
    small, history = train_small_network(x["train"], y["train"], x["valid"], y["valid"], **choice)
    round_weights(small)
    copies = functools.partial(paper.copy_with_noise, x["train"], y["train"], seed=options.seed)
    learners = {
        "network": lambda coefficients: small.predict(coefficients)[0][:, 0],
        "forest": peers.train_forest(*copies(FOREST_COPIES), seed=options.seed, **FOREST),
        "boosting": peers.train_boosting(*copies(BOOSTING_COPIES), seed=options.seed, **BOOSTING),
    }
    found = {}
    for name, learner in learners.items():

        def predict(spectra, sigma, learner=learner):
            return learner(paper.project(pca, spectra))

        found[name] = score_levels(predict, samples["test"], y["test"])
    write(options, "zahid2019_pca", pca, metrics={"peers": found}, **SAMPLE)
    write(options, "zahid2019_pca_mlp", small, history, metrics=found["network"], **SAMPLE)
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
    by_sn = score_by_sn(predict, test, truth, seed=SCORE_SEED)
    return {"by_sn": by_sn, "rms": float(np.sqrt(np.mean([entry["rms"] ** 2 for entry in by_sn.values()])))}


def keep(options, name, model, metrics, history, *, arrays=(), curves=(), **more) -> dict:
    """Write a network."""
    names = ("l1", "l2", "lr", "sgd_lr", "batch_size", "patience")
    about = SAMPLE | {name: getattr(paper, name.upper()) for name in names} | more
    return write(options, name, model, history, metrics=metrics, arrays=arrays, curves=curves, **about)


SAMPLE = {
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
    "n": (None, "use so many of the 46,305 training spectra"),
    "n_heldout": (5000, "histories to stop on, and to test on"),
    "adam_epochs": (paper.ADAM_EPOCHS, ""),
    "sgd_epochs": (paper.SGD_EPOCHS, "at most"),
}
QUICK = {"n": 600, "n_heldout": 300, "adam_epochs": 4, "sgd_epochs": 2, "members": 2}
