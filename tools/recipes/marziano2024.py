"""The beta-VAE of marziano2024. Spectra are synthesized once and kept in the cache (float16, about 9 kB each).

The paper's 20% served for validation and for the test; here validation and test have 10% each.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import write_dataset
from spectool.measure.information import informativeness
from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.store import round_weights
from spectool.models.training import Rows, fit, in_batches, one_cycle, select, split, take
from spectool.models.vae import BetaLoss, RandomCoverage, count_parameters, fit_statistics, kl_per_dimension
from spectool.papers.marziano2024 import network as paper
from spectool.papers.marziano2024.sample import normalize_mocks
from spectool.prepare import NORM_WINDOW
from spectool.spectra import sps_wavelength
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from tools.make.disentangling import CapacityLoss, TotalCorrelationLoss
from tools.recipes import fit_options, write

OPTIONS = {
    "config": ("light", "of the autoencoder and its training: light, reference or paper"),
    "latent": (32, "dimensions"),
    "loss": ("beta", "beta, tc or capacity"),
    "beta": (0.3, "weight of the divergence"),
    "start": (10.0, "beta at first; 0: never annealed"),
    "tc": (6.0, "extra weight of the total correlation"),
    "capacity": (25.0, "final capacity, nat"),
    "n": (20_000, "galaxies, of which 0.8 train"),
    "independent": (False, "draw parameters independently (null test)"),
    "full_coverage": (False, "mask nothing while training"),
    "minutes": (None, "stop training after so long"),
    "epochs": (None, "in place of the configuration's, as the next four"),
    "batch_size": (None, ""),
    "lr": (None, ""),
    "optimizer": (None, "adam or adamw"),
    "weight_decay": (None, ""),
    "half": (True, "store weights in float16"),
    "parameters": (True, "train the second network, from latents to parameters"),
}
RECIPES = {
    "beta0.1": {"beta": 0.1, "n": 40_000, "parameters": False},
    "beta0.3": {"beta": 0.3, "n": 40_000, "parameters": False},
    "beta0.9": {"beta": 0.9, "n": 40_000, "parameters": False},
    "constant_beta0.3": {"beta": 0.3, "start": 0.0, "n": 40_000, "parameters": False},
    "reference": {"config": "reference", "n": 100_000, "minutes": 38.0},
    "tc_beta0.3": {"loss": "tc"},
    "capacity_beta0.3": {"loss": "capacity"},
}
QUICK = {"n": 120, "epochs": 1, "config": "light"}

REPLACED = ("epochs", "batch_size", "lr", "optimizer", "weight_decay")
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
CURVES = ("epoch", "train_loss", "valid_loss", "valid_kl")


def train(options) -> dict:
    """The autoencoder and, if asked, the network from its latents to parameters."""
    wavelength = sps_wavelength()
    flux, columns = make_spectra(options, wavelength)
    rows = split(len(flux), (0.8, 0.1, 0.1), seed=options.seed)
    parts = dict(zip(("train", "valid", "test"), rows, strict=True))
    model = paper.make_autoencoder(options.config, n_latent=options.latent, seed=options.seed)
    fit_statistics(model, Rows(flux, parts["train"]), wavelength, seed=options.seed)
    history = train_autoencoder(model, flux, parts, wavelength, options)
    if options.half:
        round_weights(model)
    metrics, arrays = score(model, flux, parts, wavelength, options)
    metrics["n_parameters"] = count_parameters(model)
    arrays |= make_atlas(model, flux, columns, parts["train"], options.seed)
    about = describe_sample()
    metrics = write(
        options,
        options.name,
        model,
        history,
        metrics=metrics,
        arrays=arrays,
        curves=CURVES,
        half=options.half,
        **about,
    )
    if options.parameters:
        mlp, metrics["parameters"] = train_parameters(model, flux, columns, parts, wavelength, options)
        name = f"{options.name}_parameters"
        write(options, name, mlp, metrics=metrics["parameters"], half=False, inputs=options.name, **about)
    return metrics


def make_spectra(options, wavelength) -> tuple[np.ndarray, xr.Dataset]:
    """Normalised spectra (n, 4582), float16 on disk, and their parameters; made unless the cache has them."""
    kind = "independent" if options.independent else "realistic"
    folder = options.cache / "spectra" / f"marziano2024_{kind}_{options.n}_{options.seed}"
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


def train_autoencoder(model, flux, parts, wavelength, options):
    """Train it on spectra of which random parts are hidden; its history."""
    start = options.start or None
    losses = {
        "beta": BetaLoss(options.beta, start=start),
        "tc": TotalCorrelationLoss(beta=options.beta, tc=options.tc, start=start),
        "capacity": CapacityLoss(options.capacity),
    }
    arrays = {"flux": flux}
    valid = dict(select(arrays, parts["valid"]))
    if options.full_coverage:
        replaced = {"augment": None}
    else:
        generator = torch.Generator().manual_seed(options.seed + 1)
        valid["mask"] = RandomCoverage(wavelength).draw(len(parts["valid"]), generator).numpy()
        replaced = {}
    replaced |= {name: getattr(options, name) for name in REPLACED if getattr(options, name) is not None}
    return paper.train(
        model,
        select(arrays, parts["train"]),
        valid,
        configuration=options.config,
        loss=losses[options.loss],
        max_seconds=None if options.minutes is None else 60.0 * options.minutes,
        seed=options.seed,
        **fit_options(options, options.name),
        **replaced,
    )


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
    metrics = {
        "mse": spectrum.mean(),
        "mse_median_galaxy": np.median(spectrum),
        "mse_of_draws": sampled.mean(),
        "mse_survey_coverage": survey.mean(),
        "mse_survey_coverage_seen": survey_seen.mean(),
        "variance_explained": 1.0 - pixel.sum() / truth.var(axis=0).sum(),
        "rms_p99_full": np.percentile(np.sqrt(spectrum), 99),
        "rms_p99_survey": np.percentile(np.sqrt(survey_seen), 99),
        "kl": kl.sum(),
        "n_active": (kl > 0.1).sum(),
    }
    metrics = {name: value.item() for name, value in metrics.items()}
    metrics |= {
        "n_test": len(rows),
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
    return metrics, arrays


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
    """Latent vectors and parameters of some training galaxies; seed and n of the recipe draw them again."""
    rows = np.sort(np.random.default_rng(seed + 3).choice(train, min(ATLAS_SIZE, len(train)), replace=False))
    mu, _ = encode(model, flux, rows)
    table = stack_parameters(columns)[rows]
    return {"atlas_index": rows, "atlas_latent": mu.astype(np.float16), "atlas_parameters": table}


def stack_parameters(columns) -> np.ndarray:
    """What the second network predicts, (n, parameter) float32."""
    return np.stack([columns[name].values for name in PARAMETERS], axis=1).astype(np.float32)


def train_parameters(model, flux, columns, parts, wavelength, options) -> tuple[GaussianMLP, dict]:
    """A network from latents to parameters, for whole and for survey-like spectra alike, and its figures."""
    rng = np.random.default_rng(options.seed + 4)
    truth = stack_parameters(columns)
    arrays = {}
    for part, rows in parts.items():
        rows = rows[:30000]
        hidden = survey_mask(wavelength, rng.uniform(*SURVEY_REDSHIFTS, len(rows)))
        latents = [encode(model, flux, rows)[0], encode(model, flux, rows, hidden)[0]]
        arrays[part] = {"x": np.concatenate(latents), "y": np.tile(truth[rows], (2, 1))}
    names, units = list(PARAMETERS), list(PARAMETERS.values())
    mlp = GaussianMLP(n_in=model.n_latent, n_out=len(names), names=names, units=units, seed=options.seed)
    mlp.set_statistics(arrays["train"]["x"], arrays["train"]["y"])
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
    y, metrics = arrays["test"]["y"], {name: {} for name in names}
    for coverage, rows in zip(("full", "survey"), np.split(np.arange(len(y)), 2), strict=True):
        for k, name in enumerate(names):
            error = mean[rows, k] - y[rows, k]
            metrics[name][coverage] = {
                "r2": float(1.0 - np.mean(error**2) / np.var(y[rows, k])),
                "rms": float(np.sqrt(np.mean(error**2))),
                "within_one_sigma": float(np.mean(np.abs(error) < sigma[rows, k])),
            }
    return mlp, metrics


def describe_sample() -> dict:
    """What of the recipe is no option."""
    provenance = SSPGrid.embedded("optical").provenance
    return {
        "split": [0.8, 0.1, 0.1],
        "normalised_by": list(NORM_WINDOW),
        "survey_redshifts": list(SURVEY_REDSHIFTS),
        "parameters": PARAMETERS,
        "grid": {k: provenance[k] for k in ("name", "stars", "source") if k in provenance},
    }
