"""The de-noisers of scourfield2023: PCA, autoencoders, those of Section 5, and one that reads each pixel's error.

A trained autoencoder is compressed (`tools.make.distillation`) at an unchanged validation loss, and its weights are
rounded to 8 bits. Training noise is drawn once, as in the paper. ``search`` is the random search of Section 3.2: an
hour or two for 100 trials; it writes no model.
"""

from __future__ import annotations

import functools

import numpy as np

from spectool.models.denoise import denoise, fit_pca, flux_errors
from spectool.models.store import round_weights
from spectool.models.vae import count_parameters
from spectool.papers.scourfield2023 import network as paper
from spectool.papers.scourfield2023.sample import SIGMA, TEST_NOISE_SEED, add_noise, make_sample
from tools.make import noise_aware as aware
from tools.make.distillation import compress, measure_layers, refine
from tools.make.references import fit_flux_errors, fit_outliers
from tools.recipes import fit_options, write

# Shares of the loss that compression is first allowed, in the order in which they are tried.
TOLERANCES = (0.45, 0.6, 0.8, 0.3, 0.2, 0.1, 0.05)
ALLOWED = 0.006
CURVES = ("epoch", "lr", "train_loss", "valid_loss", "train_reconstruction", "valid_reconstruction")


def train(options) -> dict:
    """Train, compress and score an AE or a VAE."""
    samples = make_samples(options)
    data = {part: paper.make_arrays(sample) for part, sample in samples.items()}
    flux, wavelength = data["train"]["flux"], samples["train"]["wavelength"].values
    model = paper.make_model(options.model, options.latent, flux, wavelength, seed=options.seed)
    choice = {"seed": options.seed, "epochs": options.epochs} | fit_options(options, options.name)
    history = paper.train(model, data["train"], data["valid"], **choice)
    n_trained = count_parameters(model)
    whole = {part: paper.score(model, data[part])[0]["loss"] for part in ("train", "valid", "test")}
    model, tolerance = make_small(model, data, whole["valid"], options)
    round_weights(model, int8=True)
    metrics, arrays = score(model, samples, data, options)
    metrics |= {
        "loss_train_whole": whole["train"],
        "loss_test_whole": whole["test"],
        "change_by_compression": metrics["loss"] / whole["test"] - 1.0,
        "compression_tolerance": tolerance,
        "n_parameters_trained": n_trained,
    }
    return keep(options, samples, model, metrics, arrays, history, CURVES)


def make_samples(options) -> dict:
    """Noise-added samples ``train``, ``valid`` and ``test``."""
    return dict(_make_samples(options.sample, options.n, options.n_valid, options.seed, options.quiet))


@functools.lru_cache(maxsize=1)
def _make_samples(name, n, n_valid, seed, quiet):
    samples = {}
    for part, noise_seed in (("train", [seed, 1]), ("test", TEST_NOISE_SEED)):
        sample = make_sample(name, split=part, n=n, progress=not quiet)
        rng = np.random.default_rng(noise_seed)
        if name == "uniform":
            samples[part] = add_noise(sample, seed=rng, sigma=SIGMA)
        else:
            samples[part] = paper.add_desi_noise(sample, seed=rng)
    whole = samples["train"]
    rows = paper.split_validation(whole.sizes["galaxy"], n_valid, seed=seed)
    samples["train"], samples["valid"] = (whole.isel(galaxy=index) for index in rows)
    return samples


def make_small(model, data, target, options):
    """The smallest copy, rounded, whose validation loss is within `ALLOWED` of the whole model's."""
    few = [data["train"][name][:4000] for name in ("input", "weight")]
    moments = measure_layers(model, *few, seed=options.seed)
    for tolerance in [options.tolerance] if options.tolerance else TOLERANCES:
        small = compress(model, moments, tolerance=tolerance * target)
        change = refine(small, model, data["train"], data["valid"], target=target, seed=options.seed)
        if not options.quiet:
            ranks = small.config["ranks"]
            print(f"tolerance {tolerance}: validation loss changes by {change:+.2%}, ranks {ranks}")
        if abs(change) < ALLOWED or options.tolerance:
            return small, tolerance
    return model, None


def score(model, samples, data, options):
    """Figures on the test spectra, and the arrays that stand beside a model: errors, outliers' reference, latents."""
    metrics, found = paper.score(model, data["test"], samples["test"]["truth"].values)
    _, valid = paper.score(model, data["valid"])
    residual = valid["predicted"] - samples["valid"]["truth"].values
    errors = fit_flux_errors(valid["latent"], residual, seed=options.seed)
    sizes = flux_errors(errors, valid["latent"])
    arrays = {
        "latent_test": found["latent"].astype(np.float16),
        "loss_test": found["loss"].astype(np.float32),
        **errors,
        **fit_outliers(samples["valid"], valid["predicted"], valid["latent"], sizes),
    }
    return metrics, arrays


def keep(options, samples, model, metrics, arrays, history=None, curves=()) -> dict:
    """Write a model with what all of them store."""
    test = samples["test"]
    arrays |= {"candidate_test": test["candidate"].values, "wavelength": test["wavelength"].values}
    metrics["n_parameters"] = count_parameters(model)
    about = {
        "constant": test.attrs["constant"],
        "noise": f"uniform, {SIGMA}" if options.sample == "uniform" else "DESI-like, z = 0.1",
        "test_noise_seed": TEST_NOISE_SEED,
    }
    figures = {"metrics": metrics, "arrays": arrays, "curves": curves}
    return write(options, options.name, model, history, int8=True, **figures, **about)


def train_pca(options) -> dict:
    """Fit PCA to the noise-added training spectra; score it with each of the paper's numbers of components."""
    samples = make_samples(options)
    data = {part: paper.make_arrays(sample) for part, sample in samples.items()}
    wavelength = samples["train"]["wavelength"].values
    model = fit_pca(data["train"]["input"], wavelength, n_latent=options.latent, seed=options.seed)
    metrics, arrays = score(model, samples, data, options)
    truth = samples["test"]["truth"].values
    sizes = [k for k in paper.LATENT_SIZES if k <= options.latent]
    metrics["by_components"] = {str(k): paper.score(model.use(k), data["test"], truth)[0] for k in sizes}
    return keep(options, samples, model, metrics, arrays)


def train_noise_aware(options) -> dict:
    """Train the model that reads the error of each pixel, on noise drawn afresh for each batch."""
    samples = make_samples(options)
    data = {part: aware.make_arrays(sample) for part, sample in samples.items()}
    choice = {"seed": options.seed, "epochs": options.epochs} | fit_options(options, options.name)
    wavelength = samples["train"]["wavelength"].values
    model, history = aware.train_noise_aware(data["train"], data["valid"], wavelength, **choice)
    round_weights(model, int8=True)
    modes = aware.calibrate(model, data["valid"], samples["valid"]["truth"].values, seed=[options.seed, 2])
    valid, test = (denoise(model, samples[part]) for part in ("valid", "test"))
    truth = samples["test"]["truth"].values
    off = test["flux"].values - truth
    residual = test["flux"].values - samples["test"]["flux"].values
    weight = paper.make_arrays(samples["test"])["weight"]
    metrics = {
        "n": len(off),
        "loss": float(0.5 * (weight * residual**2).sum(axis=1).mean(dtype=float)),
        "mse": float(np.mean(residual**2, dtype=float)),
        "mse_truth": float(np.mean(off**2, dtype=float)),
        "coverage": float(np.mean(np.abs(off) < test["flux_error"].values)),
        "by_sn": aware.score_levels(model, data["test"], truth, seed=[options.seed, 3]),
        "training_sn": list(aware.SN_RANGE),
    }
    usual = [valid[name].values for name in ("flux", "latent", "flux_error")]
    arrays = {
        "latent_test": test["latent"].values.astype(np.float16),
        "error_modes": modes,
        **fit_outliers(samples["valid"], *usual),
    }
    return keep(options, samples, model, metrics, arrays, history, CURVES[:4])


def search(options) -> dict:
    """Networks with random hyperparameters, ranked by their validation loss."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samples = make_samples(options)
    train, valid = (paper.make_arrays(samples[part]) for part in ("train", "valid"))
    choice = {"seed": options.seed, "epochs": options.epochs, "progress": False}

    def objective(trial):
        drawn = paper.suggest(trial)
        model = paper.make_model(options.model, options.latent, train["flux"], seed=options.seed, **drawn)
        try:
            history = paper.train(model, train, valid, **choice)
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("epochs", len(history.records))
        return float(history.column("valid_reconstruction").min())

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=options.seed))
    study.optimize(objective, n_trials=options.trials, show_progress_bar=not options.quiet)
    trials = []
    for trial in study.trials:
        drawn = paper.suggest(optuna.trial.FixedTrial(trial.params))
        trials.append(drawn | {"loss": trial.value, "epochs": trial.user_attrs.get("epochs")})
    trials.sort(key=lambda trial: np.inf if trial["loss"] is None else trial["loss"])
    if trials[0]["loss"] is None:
        raise ValueError("no network of the search learnt anything: look for NaN in the training arrays")
    best = {name: trials[0][name] for name in ("dropout", "widths")}
    return {"best": best, "loss": trials[0]["loss"], "trials": trials}


RECIPES = {
    **{f"ae{size}": {"model": "ae", "latent": size} for size in paper.LATENT_SIZES},
    **{f"vae{size}": {"latent": size} for size in paper.LATENT_SIZES},
    "pca": {"run": train_pca, "latent": 10},
    "mzr_vae6": {"sample": "star-forming"},
    "null_vae6": {"sample": "null"},
    "noise_aware": {"run": train_noise_aware, "epochs": aware.EPOCHS},
    "search": {"run": search, "epochs": 25},
}
OPTIONS = {
    "model": ("vae", "ae or vae"),
    "latent": (6, "dimensions; noise_aware has its own"),
    "sample": ("uniform", "uniform, star-forming or null"),
    "n": (None, "use so many spectra of the training and of the test sample"),
    "n_valid": (paper.N_VALID, "of the training sample's"),
    "epochs": (200, "at most"),
    "trials": (100, "of the search"),
    "tolerance": (None, "of the compression, in place of the search for one"),
}
QUICK = {"n": 120, "n_valid": 60, "epochs": 2, "tolerance": 0.05, "trials": 2}
