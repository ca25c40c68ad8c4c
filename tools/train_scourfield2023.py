"""Train and score the de-noisers of scourfield2023, and write the weights that the package ships.

    for n in 2 4 6 10; do
        python tools/train_scourfield2023.py --model ae --latent $n
        python tools/train_scourfield2023.py --model vae --latent $n; done
    python tools/train_scourfield2023.py --model pca
    python tools/train_scourfield2023.py --model vae --latent 6 --sample star-forming
    python tools/train_scourfield2023.py --model vae --latent 6 --sample null
    python tools/train_scourfield2023.py --model noise-aware
    python tools/train_scourfield2023.py --model vae --latent 6 --search 100

A trained autoencoder is compressed (`tools.make.distillation`) at an unchanged validation loss, and its weights are
rounded to 8 bits; the figures are those of what is written. A killed training goes on where it was when the same
command is given again. Training noise is drawn once, as in the paper.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pooch
import torch

from spectool.models import store
from spectool.models.denoise import denoise, fit_pca, flux_errors
from spectool.models.store import round_weights
from spectool.models.vae import count_parameters
from spectool.papers.scourfield2023 import network as paper
from spectool.papers.scourfield2023.sample import SIGMA, TEST_NOISE_SEED, add_noise, make_sample
from spectool.parallel import n_workers
from tools.make import noise_aware as aware
from tools.make.distillation import compress, measure_layers, refine
from tools.make.flux_errors import fit_flux_errors
from tools.make.noise_aware import SN_RANGE
from tools.make.outlier_references import fit_outliers
from tools.make.random_search import search

NAMES = {"uniform": "", "star-forming": "mzr_", "null": "null_"}
# Shares of the loss that compression is first allowed, in the order in which they are tried.
TOLERANCES = (0.45, 0.6, 0.8, 0.3, 0.2, 0.1, 0.05)
ALLOWED = 0.006
HISTORY = ("epoch", "lr", "train_loss", "valid_loss", "train_reconstruction", "valid_reconstruction")


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or n_workers())
    samples = make_samples(options)
    if options.search:
        return run_search(samples, options)
    started = time.monotonic()
    train = {"pca": train_pca, "noise-aware": train_noise_aware}.get(options.model, train_autoencoder)
    model, metrics, arrays = train(samples, options)
    metrics |= {"n_parameters": count_parameters(model), "seconds": time.monotonic() - started}
    arrays["candidate_test"] = samples["test"]["candidate"].values
    recipe = describe_recipe(options) | {"constant": samples["test"].attrs["constant"]}
    path = store.save_model(options.out, model, recipe=recipe, metrics=metrics, arrays=arrays, int8=True)
    checkpoint_file(options).unlink(missing_ok=True)
    metrics["file"] = {"name": path.name, "mb": path.stat().st_size / 1e6}
    print(json.dumps({"recipe": recipe, "metrics": metrics}))
    return metrics


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("ae", "vae", "pca", "noise-aware"), default="vae")
    parser.add_argument("--latent", type=int, help="default: 6; 10 for pca; noise-aware has its own")
    parser.add_argument("--sample", choices=tuple(NAMES), default="uniform")
    parser.add_argument(
        "--n", type=int, help="use so many spectra of the training and of the test sample (a trial)"
    )
    parser.add_argument("--n-valid", type=int, default=paper.N_VALID)
    parser.add_argument("--epochs", type=int, help="at most; default: 200, noise-aware 60")
    parser.add_argument("--dropout", type=float, default=paper.DROPOUT, help="negative: the paper's tables'")
    parser.add_argument(
        "--search", type=int, metavar="TRIALS", help="random search of Section 3.2; writes no model"
    )
    parser.add_argument("--tolerance", type=float, help="of the compression, in place of the search for one")
    parser.add_argument("--whole", action="store_true", help="do not compress")
    parser.add_argument("--threads", type=int, help="default: what the machine grants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: the package's data folder, named after the model")
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "checkpoints")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    options.latent = options.latent or (10 if options.model == "pca" else 6)
    if options.out is None:
        model = options.model.replace("-", "_")
        size = options.latent if options.model in ("ae", "vae") else ""
        options.out = store.SHIPPED / f"scourfield2023_{NAMES[options.sample]}{model}{size}"
    return options


def make_samples(options) -> dict:
    """Noise-added samples ``train``, ``valid`` and ``test``."""
    samples = {}
    for part in ("train", "test"):
        sample = make_sample(options.sample, split=part, n=options.n, progress=not options.quiet)
        samples[part] = observe(sample, options, TEST_NOISE_SEED if part == "test" else [options.seed, 1])
    whole = samples["train"]
    rows = paper.split_validation(whole.sizes["galaxy"], options.n_valid, seed=options.seed)
    samples["train"], samples["valid"] = (whole.isel(galaxy=index) for index in rows)
    return samples


def observe(sample, options, seed):
    """Uniform noise for the uniform sample, DESI's at z = 0.1 for those of Section 5."""
    if options.sample == "uniform":
        return add_noise(sample, seed=np.random.default_rng(seed), sigma=SIGMA)
    return paper.add_desi_noise(sample, seed=np.random.default_rng(seed))


def train_autoencoder(samples, options):
    """Train, compress and score an AE or a VAE."""
    data = {part: paper.make_arrays(sample) for part, sample in samples.items()}
    choice = {} if options.dropout >= 0 else {"dropout": None}
    choice = choice or {"dropout": options.dropout}
    model = paper.make_model(
        options.model,
        options.latent,
        data["train"]["flux"],
        samples["train"]["wavelength"].values,
        seed=options.seed,
        **choice,
    )
    history = paper.train(
        model,
        data["train"],
        data["valid"],
        seed=options.seed,
        checkpoint=checkpoint_file(options),
        progress=not options.quiet,
        callbacks=[_report] if options.quiet else (),
        **({"epochs": options.epochs} if options.epochs else {}),
    )
    n_trained = count_parameters(model)
    whole = {part: paper.score(model, data[part])[0]["loss"] for part in ("train", "valid", "test")}
    tolerance = None
    if not options.whole:
        model, tolerance = make_small(model, data, whole["valid"], options)
    round_weights(model, int8=True)
    metrics, arrays = finish(model, samples, data, options)
    metrics |= {
        "loss_train_whole": whole["train"],
        "loss_test_whole": whole["test"],
        "change_by_compression": metrics["loss"] / whole["test"] - 1.0,
        "compression_tolerance": tolerance,
        "n_parameters_trained": n_trained,
        "training": summarize(history),
    }
    arrays |= {f"history_{name}": history.column(name).astype(np.float32) for name in HISTORY}
    return model, metrics, arrays


def make_small(model, data, target, options):
    """The smallest copy, rounded, whose validation loss is within `ALLOWED` of the whole model's."""
    moments = measure_layers(
        model, data["train"]["input"][:4000], data["train"]["weight"][:4000], seed=options.seed
    )
    for tolerance in [options.tolerance] if options.tolerance else TOLERANCES:
        small = compress(model, moments, tolerance=tolerance * target)
        change = refine(small, model, data["train"], data["valid"], target=target, seed=options.seed)
        if not options.quiet:
            print(
                f"tolerance {tolerance}: validation loss changes by {change:+.2%}, ranks {small.config['ranks']}"
            )
        if abs(change) < ALLOWED or options.tolerance:
            return small, tolerance
    return model, None


def finish(model, samples, data, options):
    """Figures on the test spectra, and the arrays that stand beside a model: errors, outliers' reference, latents."""
    metrics, found = paper.score(model, data["test"], samples["test"]["truth"].values)
    _, valid = paper.score(model, data["valid"])
    residual = valid["predicted"] - samples["valid"]["truth"].values
    errors = fit_flux_errors(valid["latent"], residual, seed=options.seed)
    sizes = flux_errors(errors, valid["latent"])
    arrays = {
        "latent_test": found["latent"].astype(np.float16),
        "loss_test": found["loss"].astype(np.float32),
        "wavelength": samples["test"]["wavelength"].values,
        **errors,
        **fit_outliers(samples["valid"], valid["predicted"], valid["latent"], sizes),
    }
    return metrics, arrays


def train_pca(samples, options):
    """Fit PCA to the noise-added training spectra; score it with each of the paper's numbers of components."""
    data = {part: paper.make_arrays(sample) for part, sample in samples.items()}
    model = fit_pca(
        data["train"]["input"],
        samples["train"]["wavelength"].values,
        n_latent=options.latent,
        seed=options.seed,
    )
    metrics, arrays = finish(model, samples, data, options)
    truth = samples["test"]["truth"].values
    metrics["by_components"] = {
        str(k): paper.score(model.use(k), data["test"], truth)[0]
        for k in paper.LATENT_SIZES
        if k <= options.latent
    }
    return model, metrics, arrays


def train_noise_aware(samples, options):
    """Train the model that reads the error of each pixel, on noise drawn afresh for each batch."""
    data = {part: aware.make_arrays(sample) for part, sample in samples.items()}
    model, history = aware.train_noise_aware(
        data["train"],
        data["valid"],
        samples["train"]["wavelength"].values,
        seed=options.seed,
        epochs=options.epochs or aware.EPOCHS,
        checkpoint=checkpoint_file(options),
        progress=not options.quiet,
        callbacks=[_report] if options.quiet else (),
    )
    round_weights(model, int8=True)
    modes = aware.calibrate(model, data["valid"], samples["valid"]["truth"].values, seed=[options.seed, 2])
    denoised = {part: denoise(model, samples[part]) for part in ("valid", "test")}
    valid, test = denoised["valid"], denoised["test"]
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
        "training": summarize(history),
    }
    arrays = {
        "latent_test": test["latent"].values.astype(np.float16),
        "wavelength": samples["test"]["wavelength"].values,
        "error_modes": modes,
        **fit_outliers(
            samples["valid"], valid["flux"].values, valid["latent"].values, valid["flux_error"].values
        ),
        **{f"history_{name}": history.column(name).astype(np.float32) for name in HISTORY[:4]},
    }
    return model, metrics, arrays


def summarize(history) -> dict:
    """How a training went."""
    return {
        "best_epoch": history.best_epoch,
        "best_valid_loss": history.best_loss,
        "epochs": len(history.records),
        "seconds": history.seconds,
        "stopped": history.stopped,
    }


def run_search(samples, options) -> dict:
    """The random search of Section 3.2; prints the best trials."""
    data = {part: paper.make_arrays(samples[part]) for part in ("train", "valid")}
    found = search(
        data["train"],
        data["valid"],
        kind=options.model,
        n_latent=options.latent,
        n_trials=options.search,
        epochs=options.epochs or 25,
        seed=options.seed,
        progress=not options.quiet,
    )
    print(json.dumps(found))
    return found


def checkpoint_file(options) -> Path:
    """Where this very training stands: other options, another file."""
    recipe = json.dumps(describe_recipe(options) | {"n": options.n, "epochs": options.epochs}, sort_keys=True)
    return (
        options.cache / f"{options.out.stem}_{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    )


def describe_recipe(options) -> dict:
    """What has to be known to make the model again."""
    recipe = {
        "paper": "scourfield2023",
        "model": options.model,
        "sample": options.sample,
        "n_valid": options.n_valid,
        "seed": options.seed,
        "noise": f"uniform, {SIGMA}" if options.sample == "uniform" else "DESI-like, z = 0.1",
        "test_noise_seed": TEST_NOISE_SEED,
    }
    if options.model == "noise-aware":
        noise = f"S/N {' to '.join(map(str, SN_RANGE))} per pixel, drawn for each batch"
        return recipe | {"training_noise": noise, "epochs": options.epochs or aware.EPOCHS}
    recipe["n_latent"] = options.latent
    if options.model == "pca":
        return recipe
    return recipe | {
        "dropout": options.dropout if options.dropout >= 0 else "as in Tables 4 and 5",
        "training": f"Adam 1e-4, batches of 64, plateau rule, at most {options.epochs or 200} epochs",
    }


def _report(history) -> None:
    record = history.records[-1]
    print(
        f"epoch {record['epoch']} {record['seconds']:.0f} s lr {record['lr']:.1e} "
        f"train {record['train_loss']:.1f} valid {record['valid_loss']:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
