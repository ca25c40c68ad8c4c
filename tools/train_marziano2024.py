"""Train and score the beta-VAE of marziano2024, and write the weights that the package ships.

    for beta in 0.1 0.3 0.9; do
        python tools/train_marziano2024.py --config light --beta $beta --n 40000 --no-parameters; done
    python tools/train_marziano2024.py --beta 0.3 --start 0 --n 40000 --no-parameters \\
        --out marziano2024_constant_beta0.3
    python tools/train_marziano2024.py --config reference --n 100000 --minutes 38 --out marziano2024_reference

The spectra are synthesized once and kept (float16, about 9 kB each) in a cache folder. A killed training goes
on where it was when the same command is given again. The paper's 20% served for validation and for the test;
here validation and test have 10% each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pooch
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import write_dataset
from spectool.measure.information import informativeness
from spectool.models import store
from spectool.models.chunked import GaussianMLP, gaussian_loss
from spectool.models.training import Rows, fit, in_batches, one_cycle, select, split, take
from spectool.models.vae import BetaLoss, RandomCoverage, count_parameters, fit_statistics, kl_per_dimension
from spectool.papers.marziano2024.network import RECIPES, make_autoencoder
from spectool.papers.marziano2024.sample import normalize_mocks
from spectool.parallel import n_workers
from spectool.prepare import NORM_WINDOW
from spectool.spectra import sps_wavelength
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from tools.make.disentangling import CapacityLoss, TotalCorrelationLoss

PARAMETERS = {
    "log_mass": "log10(Msun)",
    "log_sfr": "log10(Msun/yr)",
    "log_ssfr": "log10(1/yr)",
    "log_z_star": "",
    "log_z_gas": "",
    "redshift": "",
    "dust1": "",
    "dust2": "",
    "dust_index": "",
    "age_lw": "Gyr",
    "log_z_lw": "",
}
SURVEY_REDSHIFTS = (0.0, 0.3)
ATLAS_SIZE = 3000


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(options.threads or n_workers())
    wavelength = sps_wavelength()
    flux, columns = make_spectra(options, wavelength)
    parts = dict(
        zip(("train", "valid", "test"), split(len(flux), (0.8, 0.1, 0.1), seed=options.seed), strict=True)
    )
    model = make_autoencoder(options.config, n_latent=options.latent, seed=options.seed)
    fit_statistics(model, Rows(flux, parts["train"]), wavelength, seed=options.seed)
    history = train(model, flux, parts, wavelength, options)
    if options.half:
        round_to_half(model)
    metrics, arrays = score(model, flux, parts, wavelength, options)
    metrics["training"] = {
        "best_epoch": history.best_epoch,
        "best_valid_loss": history.best_loss,
        "epochs": len(history.records),
        "seconds": history.seconds,
        "spectra_per_second": len(parts["train"]) * len(history.records) / max(history.seconds, 1e-9),
        "stopped": history.stopped,
    }
    metrics["n_parameters"] = count_parameters(model)
    recipe = describe_recipe(options)
    arrays |= {f"history_{k}": history.column(k) for k in ("epoch", "train_loss", "valid_loss", "valid_kl")}
    arrays |= make_atlas(model, flux, columns, parts["train"], options.seed)
    path = store.save_model(
        options.out, model, recipe=recipe, metrics=metrics, arrays=arrays, half=options.half
    )
    checkpoint_file(options).unlink(missing_ok=True)
    if not options.no_parameters:
        metrics["parameters"] = train_parameters(model, flux, columns, parts, wavelength, options, path)
    metrics["file"] = {"name": path.name, "mb": path.stat().st_size / 1e6}
    path.with_suffix(".json").write_text(json.dumps({"recipe": recipe, "metrics": metrics}, indent=1))
    print_table(metrics)
    print(json.dumps(metrics))
    return metrics


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", choices=("light", "reference", "paper"), default="light")
    parser.add_argument("--beta", type=float, default=0.3)
    parser.add_argument("--loss", choices=("beta", "tc", "capacity"), default="beta")
    parser.add_argument("--start", type=float, default=10.0, help="beta at first; 0: never annealed")
    parser.add_argument("--tc", type=float, default=6.0, help="extra weight of the total correlation")
    parser.add_argument("--capacity", type=float, default=25.0, help="final capacity, nat")
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--n", type=int, default=20000, help="galaxies, of which 80%% train")
    parser.add_argument(
        "--independent", action="store_true", help="draw parameters independently (null test)"
    )
    parser.add_argument("--full-coverage", action="store_true", help="mask nothing while training")
    parser.add_argument("--minutes", type=float, help="stop training after so long")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--lr", type=float, help="instead of the recipe's")
    parser.add_argument("--optimizer", choices=("adam", "adamw"), help="instead of the recipe's")
    parser.add_argument("--weight-decay", type=float, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, help="default: what the machine grants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: the package's data folder, named after the loss")
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "spectra")
    parser.add_argument("--float32", dest="half", action="store_false", help="store weights in float32")
    parser.add_argument("--no-parameters", action="store_true", help="do not train the second network")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    options.start = options.start or None
    if options.out is None:
        kind = "" if options.loss == "beta" else f"_{options.loss}"
        options.out = Path(f"marziano2024{kind}_beta{options.beta:g}")
    if options.out.parent == Path():
        options.out = store.SHIPPED / options.out
    if options.out.suffix != ".safetensors":
        options.out = options.out.with_name(options.out.name + ".safetensors")
    return options


def make_spectra(options, wavelength) -> tuple[np.ndarray, xr.Dataset]:
    """Normalised spectra (n, 4582), float16 on disk, and their parameters; made unless the cache has them."""
    kind = "independent" if options.independent else "realistic"
    folder = options.cache / f"marziano2024_{kind}_{options.n}_{options.seed}"
    done = folder / "parameters.nc"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        grid = SSPGrid.embedded("optical")
        galaxies = draw_population(
            options.n, grid_age=grid.age, seed=options.seed, independent=options.independent
        )
        shape = (options.n, len(wavelength))
        flux = np.lib.format.open_memmap(folder / "flux.npy", mode="w+", dtype=np.float16, shape=shape)
        columns = []
        for start in tqdm(range(0, options.n, 2048), desc="synthesis", disable=options.quiet):
            rows = slice(start, start + 2048)
            some = synthesize(galaxies.isel(galaxy=rows), grid, wavelength=wavelength, progress=False)
            flux[rows] = normalize_mocks(some)["flux"].values
            columns.append(some.drop_dims(["wavelength", "age"]))
        flux.flush()
        columns = xr.concat(columns, "galaxy")
        columns["log_ssfr"] = columns["log_sfr"] - columns["log_mass"]
        columns.attrs = {}
        write_dataset(columns, done)
    return np.load(folder / "flux.npy", mmap_mode="r"), xr.load_dataset(done, engine="h5netcdf")


def train(model, flux, parts, wavelength, options):
    """Train the autoencoder."""
    recipe = dict(RECIPES[options.config])
    chosen = {"epochs": "epochs", "batch": "batch_size", "lr": "lr", "optimizer": "optimizer"}
    chosen["weight_decay"] = "weight_decay"
    recipe |= {
        key: getattr(options, name) for name, key in chosen.items() if getattr(options, name) is not None
    }
    losses = {
        "beta": BetaLoss(options.beta, start=options.start),
        "tc": TotalCorrelationLoss(beta=options.beta, tc=options.tc, start=options.start),
        "capacity": CapacityLoss(options.capacity),
    }
    arrays = {"flux": flux}
    valid = dict(select(arrays, parts["valid"]))
    coverage = None
    if not options.full_coverage:
        coverage = RandomCoverage(wavelength)
        generator = torch.Generator().manual_seed(options.seed + 1)
        valid["mask"] = coverage.draw(len(parts["valid"]), generator).numpy()
    return fit(
        model,
        select(arrays, parts["train"]),
        valid,
        loss=losses[options.loss],
        augment=coverage,
        max_seconds=None if options.minutes is None else 60.0 * options.minutes,
        checkpoint=checkpoint_file(options),
        seed=options.seed,
        progress=not options.quiet,
        callbacks=[_report] if options.quiet else (),
        **recipe,
    )


def checkpoint_file(options) -> Path:
    """Where this very training stands: other options, another file."""
    recipe = json.dumps({**describe_recipe(options), "latent": options.latent}, sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return options.cache.parent / "checkpoints" / f"{options.out.stem}_{digest}.safetensors"


def _report(history) -> None:
    record = history.records[-1]
    print(
        f"epoch {record['epoch']} {record['seconds']:.0f} s lr {record['lr']:.2e} train {record['train_loss']:.3f} "
        f"valid {record['valid_loss']:.3f} kl {record['valid_kl']:.2f}",
        flush=True,
    )


def round_to_half(model) -> None:
    """Give the weights the values that they will have when they are read back, so that the figures are theirs."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())


def encode(model, flux, rows, mask=None) -> list[np.ndarray]:
    """Means and log variances, each (n, n_latent), of some rows; `mask` (n, n_pixels)."""
    return in_batches(model, model.encode, Rows(flux, rows), *([] if mask is None else [mask]))


def survey_mask(wavelength: np.ndarray, redshift, observed=(3800.0, 9200.0)) -> np.ndarray:
    """Masks (n, N), True = outside a survey's range, of galaxies at these redshifts (n,)."""
    seen = np.asarray(wavelength)[None, :] * (1.0 + np.atleast_1d(redshift)[:, None])
    return (seen < observed[0]) | (seen > observed[1])


def score(model, flux, parts, wavelength, options) -> tuple[dict, dict]:
    """Figures on the test galaxies, and the arrays behind them."""
    rows = parts["test"]
    rng = np.random.default_rng(options.seed + 2)
    truth = take(flux, rows).astype(np.float32)
    mu, log_var = encode(model, flux, rows)
    draws = mu + np.exp(0.5 * log_var) * rng.normal(size=mu.shape).astype(np.float32)
    pixel, spectrum, _ = squared_errors(model, mu, truth)
    _, sampled, _ = squared_errors(model, draws, truth)
    hidden = survey_mask(wavelength, rng.uniform(*SURVEY_REDSHIFTS, len(rows)))
    mu_survey, _ = encode(model, flux, rows, hidden)
    _, survey, survey_seen = squared_errors(model, mu_survey, truth, ~hidden)
    kl = kl_per_dimension(torch.from_numpy(mu), torch.from_numpy(log_var)).mean(0).numpy()
    scores = informativeness(
        xr.DataArray(mu, dims=("galaxy", "latent")), xr.DataArray(truth, dims=("galaxy", "wavelength"))
    )
    scores = np.asarray(scores)
    informative = np.argsort(-scores)[: int((scores > 0.01).sum())]
    rms = {name: np.sqrt(x) for name, x in (("full", spectrum), ("survey", survey_seen))}
    metrics = {
        "n_test": len(rows),
        "mse": spectrum.mean(),
        "mse_median_galaxy": np.median(spectrum),
        "mse_of_draws": sampled.mean(),
        "mse_survey_coverage": survey.mean(),
        "mse_survey_coverage_seen": survey_seen.mean(),
        "variance_explained": 1.0 - pixel.sum() / truth.var(axis=0).sum(),
        "rms_p99_full": np.percentile(rms["full"], 99),
        "rms_p99_survey": np.percentile(rms["survey"], 99),
        "kl": kl.sum(),
        "n_active": int((kl > 0.1).sum()),
        "n_informative": len(informative),
        "informative": informative.tolist(),
    }
    seen, _ = encode(model, flux, parts["train"][:20000])
    arrays = {
        "mse_per_pixel": pixel.astype(np.float32),
        "informative": informative,
        "informativeness": scores.astype(np.float32),
        "kl_per_dimension": kl,
        "latent_min": np.minimum(seen.min(0), mu.min(0)),
        "latent_max": np.maximum(seen.max(0), mu.max(0)),
        "latent_low": np.percentile(seen, 0.5, axis=0).astype(np.float32),
        "latent_high": np.percentile(seen, 99.5, axis=0).astype(np.float32),
        "latent_covariance": np.cov(seen.T).astype(np.float32),
        "latent_mean": seen.mean(0),
        "wavelength": wavelength,
    }
    return {
        name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()
    }, arrays


def squared_errors(model, latent, truth, seen=None):
    """Mean squared error per pixel (eq. 9), per spectrum, and per spectrum over the pixels `seen`."""
    pixel, spectrum, partial = np.zeros(truth.shape[1]), [], []
    with torch.inference_mode():
        for k in range(0, len(truth), 512):
            part = slice(k, k + 512)
            square = (model.decode(torch.from_numpy(latent[part])).numpy() - truth[part]) ** 2
            pixel += square.sum(axis=0, dtype=np.float64) / len(truth)
            spectrum.append(square.mean(axis=1))
            use = np.ones(square.shape, bool) if seen is None else seen[part]
            partial.append((square * use).sum(axis=1) / use.sum(axis=1))
    return pixel, np.concatenate(spectrum), np.concatenate(partial)


def make_atlas(model, flux, columns, train, seed) -> dict[str, np.ndarray]:
    """Latent vectors and parameters of some training galaxies; the seed and n of the recipe draw them again."""
    rows = np.sort(np.random.default_rng(seed + 3).choice(train, min(ATLAS_SIZE, len(train)), replace=False))
    mu, _ = encode(model, flux, rows)
    table = np.stack([columns[name].values[rows] for name in PARAMETERS], axis=1).astype(np.float32)
    return {"atlas_index": rows, "atlas_latent": mu.astype(np.float16), "atlas_parameters": table}


def train_parameters(model, flux, columns, parts, wavelength, options, path) -> dict:
    """Train latents -> parameters, for whole and for survey-like spectra alike, and store it beside the model."""
    rng = np.random.default_rng(options.seed + 4)
    truth = np.stack([columns[name].values for name in PARAMETERS], axis=1).astype(np.float32)
    data = {}
    for part, rows in parts.items():
        rows = rows[:30000]
        hidden = survey_mask(wavelength, rng.uniform(*SURVEY_REDSHIFTS, len(rows)))
        latents = [encode(model, flux, rows)[0], encode(model, flux, rows, hidden)[0]]
        data[part] = {"x": np.concatenate(latents), "y": np.tile(truth[rows], (2, 1)), "n": len(rows)}
    names, units = list(PARAMETERS), list(PARAMETERS.values())
    mlp = GaussianMLP(n_in=model.n_latent, n_out=len(names), names=names, units=units, seed=options.seed)
    mlp.set_statistics(data["train"]["x"], data["train"]["y"])
    arrays = {part: {name: data[part][name] for name in ("x", "y")} for part in data}
    fit(
        mlp,
        arrays["train"],
        arrays["valid"],
        loss=gaussian_loss,
        epochs=40,
        batch_size=256,
        lr=2e-3,
        schedule=one_cycle(0.1),
        seed=options.seed,
        progress=not options.quiet,
    )
    mlp.calibrate(arrays["valid"]["x"], arrays["valid"]["y"])
    mean, sigma = mlp.predict(arrays["test"]["x"])
    n, y, metrics = data["test"]["n"], arrays["test"]["y"], {}
    for k, name in enumerate(names):
        for coverage, rows in (("full", slice(0, n)), ("survey", slice(n, None))):
            error, spread = mean[rows, k] - y[rows, k], sigma[rows, k]
            metrics.setdefault(name, {})[coverage] = {
                "r2": float(1.0 - np.mean(error**2) / np.var(y[rows, k])),
                "rms": float(np.sqrt(np.mean(error**2))),
                "within_one_sigma": float(np.mean(np.abs(error) < spread)),
            }
    recipe = {"inputs": path.stem, "galaxies": describe_recipe(options)["galaxies"]}
    store.save_model(path.with_name(f"{path.stem}_parameters"), mlp, recipe=recipe, metrics=metrics)
    return metrics


def describe_recipe(options) -> dict:
    """What has to be known to make the model again."""
    grid = SSPGrid.embedded("optical")
    training = {k: v for k, v in RECIPES[options.config].items() if k != "schedule"}
    given = ["loss", "beta", "start", "tc", "capacity", "minutes", "epochs", "batch", "lr", "optimizer"]
    training |= {k: getattr(options, k) for k in [*given, "weight_decay"] if getattr(options, k) is not None}
    return {
        "paper": "marziano2024",
        "configuration": options.config,
        "galaxies": {"n": options.n, "seed": options.seed, "independent": options.independent},
        "split": {"fractions": [0.8, 0.1, 0.1], "seed": options.seed},
        "normalised_by": list(NORM_WINDOW),
        "masked_in_training": not options.full_coverage,
        "survey_redshifts": list(SURVEY_REDSHIFTS),
        "training": training,
        "parameters": PARAMETERS,
        "grid": {k: grid.provenance[k] for k in ("name", "stars", "source") if k in grid.provenance},
    }


def print_table(metrics: dict) -> None:
    """The figures, for people."""
    for name, value in metrics.items():
        if isinstance(value, (int, float)):
            print(f"{name:28s} {value:.6g}")
    for name, value in metrics["training"].items():
        print(f"training {name:19s} {value}")
    for name, by_coverage in metrics.get("parameters", {}).items():
        text = "  ".join(
            f"{c}: R2 {m['r2']:6.3f} rms {m['rms']:.3f} 1 sigma {m['within_one_sigma']:.3f}"
            for c, m in by_coverage.items()
        )
        print(f"{name:14s} {text}")


if __name__ == "__main__":
    main()
