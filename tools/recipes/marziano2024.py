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
from tools.recipes import fit_options, write

OPTIONS = {
    "config": ("light", "of the autoencoder and its training: light, reference or paper"),
    "latent": (32, "dimensions"),
    "beta": (0.3, "weight of the divergence"),
    "start": (10.0, "beta at first; 0: never annealed"),
    "n": (20_000, "galaxies, of which 0.8 train"),
    "minutes": (None, "stop training after so long"),
    "epochs": (None, "in place of the configuration's"),
    "parameters": (True, "train the second network, from latents to parameters"),
}
RECIPES = {
    **{f"beta{beta}": {"beta": beta, "n": 40_000, "parameters": False} for beta in (0.1, 0.3, 0.9)},
    "constant_beta0.3": {"beta": 0.3, "start": 0.0, "n": 40_000, "parameters": False},
    "reference": {"config": "reference", "n": 100_000, "minutes": 38.0},
}
QUICK = {"n": 120, "epochs": 1, "config": "light"}
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
    round_weights(model)
    metrics, arrays = score(model, flux, parts, wavelength, options)
    metrics["n_parameters"] = count_parameters(model)
    about = {
        "arrays": arrays | make_atlas(model, flux, columns, parts["train"], options.seed),
        "curves": CURVES,
    }
    metrics = write(options, options.name, model, history, metrics=metrics, **about, **describe_sample())
    if options.parameters:
        mlp, metrics["parameters"] = train_parameters(model, flux, columns, parts, wavelength, options)
        about = {"half": False, "inputs": options.name} | describe_sample()
        write(options, f"{options.name}_parameters", mlp, metrics=metrics["parameters"], **about)
    return metrics


def make_spectra(options, wavelength) -> tuple[np.ndarray, xr.Dataset]:
    """Normalised spectra (n, 4582), float16 on disk, and their parameters; made unless the cache has them."""
    folder = options.cache / "spectra" / f"marziano2024_{options.n}_{options.seed}"
    done = folder / "parameters.nc"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        grid = SSPGrid.embedded("optical")
        galaxies = draw_population(options.n, grid_age=grid.age, seed=options.seed)
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
    arrays, generator = {"flux": flux}, torch.Generator().manual_seed(options.seed + 1)
    valid = dict(select(arrays, parts["valid"]))
    valid["mask"] = RandomCoverage(wavelength).draw(len(parts["valid"]), generator).numpy()
    replaced = {"loss": BetaLoss(options.beta, start=options.start or None), "configuration": options.config}
    replaced |= {"max_seconds": options.minutes and 60.0 * options.minutes, "seed": options.seed}
    replaced |= {"epochs": options.epochs} if options.epochs else {}
    train = select(arrays, parts["train"])
    return paper.train(model, train, valid, **replaced, **fit_options(options, options.name))


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
    metrics |= {"n_test": len(rows), "n_informative": len(informative), "informative": informative.tolist()}
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
    (predicted,) = in_batches(model, lambda z: (model.decode(z),), latent)
    square = (predicted - truth) ** 2
    use = np.ones(square.shape, bool) if seen is None else seen
    partial = (square * use).sum(axis=1) / use.sum(axis=1)
    return square.mean(axis=0, dtype=np.float64), square.mean(axis=1), partial


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
    recipe = {"epochs": 40, "batch_size": 256, "lr": 2e-3, "schedule": one_cycle(0.1), "loss": gaussian_loss}
    about = {"seed": options.seed, "progress": not options.quiet}
    fit(mlp, arrays["train"], arrays["valid"], **recipe, **about)
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
