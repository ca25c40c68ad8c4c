"""The de-noisers of Scourfield et al. (2023), Section 3: what they are trained on, how, and how well they do."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from spectool.models.denoise import DenseAutoencoder, denoise
from spectool.models.store import load_model
from spectool.models.training import History, fit, in_batches
from spectool.models.vae import kl_per_dimension
from spectool.papers.scourfield2023.sample import normalize_total
from spectool.surveys.desi_spectrograph import observe_desi_like

LATENT_SIZES = (2, 4, 6, 10)
#: Table 4, the AE: latent size -> dropout rate and widths of the encoder's layers.
TABLE4 = {
    2: {"dropout": 0.8, "widths": (900, 800, 400, 300)},
    4: {"dropout": 0.5, "widths": (900, 900, 500, 400)},
    6: {"dropout": 0.7, "widths": (1000, 900, 800, 800)},
    10: {"dropout": 0.9, "widths": (900, 800, 800, 600)},
}
#: Table 5, the VAE.
TABLE5 = {
    2: {"dropout": 0.8, "widths": (1000, 900, 600, 200)},
    4: {"dropout": 0.7, "widths": (1000, 1000, 700, 500)},
    6: {"dropout": 0.5, "widths": (800, 800, 700, 600)},
    10: {"dropout": 0.9, "widths": (900, 900, 600, 400)},
}
N_VALID = 2000
#: The rates of Tables 4 and 5, 0.5 to 0.9, leave a network of these widths that has learnt little more than the
#: mean spectrum when the plateau rule ends its training. The paper's losses are those of networks that did learn.
DROPOUT = 0.0
#: Of what the networks read and write, about their mean spectrum, in normalised flux: the flux itself, about 0.03,
#: is so small that the first epochs are spent on growing weights.
SCALE = 0.2
#: Added to the variance of a pixel, normalised flux squared (Section 3.2, after Portillo et al. 2020).
SOFTENING = 2e-6
#: Where the galaxies of Section 5 are moved to.
DESI_REDSHIFT = 0.1


def pixel_weights(sigma, mask) -> np.ndarray:
    """Weights of eq. 3: 1 / (sigma^2 + softening), 0 where there is no data."""
    sigma = np.asarray(sigma, dtype=np.float64)
    bad = mask | ~(np.isfinite(sigma) & (sigma > 0))
    return np.where(bad, 0.0, 1.0 / (np.where(bad, 1.0, sigma) ** 2 + SOFTENING)).astype(np.float32)


def weighted_squares(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Half the weighted sum of squared residuals of each spectrum, (B,): eq. 3 before it is summed over spectra."""
    return 0.5 * (weight * (predicted - target).square()).sum(dim=1)


def weighted_loss(model, batch, step) -> dict[str, torch.Tensor]:
    """Eq. 3 (an AE), or minus eq. 4 (a VAE): reconstruction + KL. Means over the batch's spectra."""
    flux = batch["flux"]
    predicted, mu, log_var = model(batch["input"], None, step.generator)
    reconstruction = weighted_squares(predicted, flux, batch["weight"]).mean()
    if not model.variational:
        return {"loss": reconstruction, "reconstruction": reconstruction}
    kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
    return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def make_arrays(sample: xr.Dataset) -> dict[str, np.ndarray]:
    """Arrays for `spectool.models.training.fit`, from a sample that went through `add_noise`.

    ``flux`` (target), ``input``, ``weight`` (eq. 3), ``sigma`` (of the noise in the input): (galaxy, wavelength),
    float32. Spectra that are masked out whole, or drowned in noise, are left out; ValueError if none is left.
    """
    for name in ("flux", "ivar", "noisy", "noisy_sigma"):
        if name not in sample:
            raise ValueError(
                f"the sample has no {name!r}: pass it through normalize_total and add_noise first"
            )
    mask = sample["mask"].values.astype(bool) if "mask" in sample else np.zeros(sample["flux"].shape, bool)
    ivar = np.where(mask, 0.0, sample["ivar"].values)
    sigma = 1.0 / np.sqrt(np.where(ivar > 0, ivar, np.nan))
    arrays = {
        "flux": sample["flux"].values,
        "input": sample["noisy"].values,
        "weight": pixel_weights(sigma, mask),
        "sigma": sample["noisy_sigma"].values,
    }
    good = ~mask.all(axis=1)
    for name in ("input", "flux"):
        good &= np.isfinite(arrays[name]).all(axis=1)
    if not good.any():
        raise ValueError("no spectrum of the sample can be trained on: all are masked out")
    return {name: np.ascontiguousarray(value[good], dtype=np.float32) for name, value in arrays.items()}


def add_desi_noise(sample: xr.Dataset, *, seed) -> xr.Dataset:
    """The galaxies of `make_sample` as DESI would see them at z = 0.1, normalised: "DESI-like" (Section 5).

    The sample with ``noisy`` and ``noisy_sigma`` (galaxy, wavelength), and ``noisy_norm``: flux units at the new
    redshift per normalised unit. Spectra that drown in the noise are masked out.
    """
    seen = observe_desi_like(sample, seed=seed, redshift=DESI_REDSHIFT)
    seen = normalize_total(seen, constant=sample.attrs["constant"])
    norm, dims = seen["norm"].values, ("galaxy", "wavelength")
    lost = ~np.isfinite(norm)
    sigma = seen["desi_sigma"].values / np.where(lost, 1.0, norm)[:, None]
    return sample.assign(
        noisy=(dims, seen["flux"].values, {"units": ""}),
        noisy_sigma=(dims, sigma.astype(np.float32), {"units": ""}),
        noisy_norm=("galaxy", norm, {"units": seen["norm"].attrs["units"]}),
        mask=(dims, sample["mask"].values | lost[:, None], sample["mask"].attrs),
    )


def split_validation(n: int, n_valid: int = N_VALID, *, seed) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and to validate with, each sorted; 2,000 of the paper's 8,000 are validation."""
    if not 0 < n_valid < n:
        raise ValueError(f"{n_valid} of {n} spectra for validation leave none to train on")
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[n_valid:]), np.sort(order[:n_valid])


def make_model(kind: str, n_latent: int, flux, wavelength=None, *, seed=0, **options) -> DenseAutoencoder:
    """An untrained AE or VAE with the widths of Tables 4 and 5, and the statistics of its training spectra.

    Parameters
    ----------
    kind : {"ae", "vae"}
    n_latent : int
        2, 4, 6 or 10; others need ``widths``.
    flux : ndarray, shape (N, n_pixels)
        Original training spectra, at `wavelength` [Angstrom].
    options
        Of `DenseAutoencoder`, in place of the tables'; ``dropout`` is `DROPOUT` unless given, the table's if None.
    """
    if kind not in ("ae", "vae"):
        raise ValueError(f"kind must be 'ae' or 'vae', not {kind!r}")
    table = {"ae": TABLE4, "vae": TABLE5}[kind].get(n_latent, {})
    options = {**table, "dropout": DROPOUT, **options}
    if options["dropout"] is None:
        options["dropout"] = table["dropout"]
    if "widths" not in options:
        raise ValueError(f"the paper has no model of {n_latent} dimensions: give widths")
    options |= {"n_pixels": flux.shape[1], "n_latent": n_latent, "variational": kind == "vae"}
    model = DenseAutoencoder(seed=seed, **options)
    model.set_statistics(np.mean(flux, axis=0, dtype=float), SCALE, wavelength)
    return model


def train(model: DenseAutoencoder, arrays, valid, *, seed=0, **options) -> History:
    """Train as Section 3.2 of the paper: Adam at 1e-4, batches of 64, the plateau rule, 200 epochs at most.

    Parameters
    ----------
    model : DenseAutoencoder
        From `make_model`.
    arrays, valid : dict
        From `make_arrays`: to learn from, and to tell when to stop.
    options
        Of `spectool.models.training.fit`, to replace these.
    """
    recipe = {"loss": weighted_loss, "lr": 1e-4, "optimizer": "fused adam", "batch_size": 64, "epochs": 200}
    return fit(model, arrays, valid, **(recipe | {"patience": None, "plateau": True, "seed": seed} | options))


def load(kind: str = "vae", n_latent: int = 6):
    """A shipped de-noiser that was trained as in the paper: "ae", "vae" or "pca" of `n_latent` dimensions.

    Model and info as of `spectool.models.store.load_model`; ``info.arrays`` of AEs and VAEs hold errors and the
    training's course.
    """
    if kind == "pca":
        model, info = load_model("scourfield2023_pca", expected="PCAModel")
        return model.use(n_latent), info
    return load_model(f"scourfield2023_{kind}{n_latent}", expected="DenseAutoencoder", n_latent=n_latent)


def predict(sample: xr.Dataset, network=None) -> xr.Dataset:
    """De-noise spectra of `add_noise` or `add_desi_noise`, as `spectool.models.denoise.denoise`.

    `network` is what `load` returns; default: the VAE with six latent dimensions.
    """
    model, info = network or load()
    return denoise(model, sample, errors=info.arrays)


def score(model, arrays, truth=None) -> tuple[dict, dict]:
    """How well a model de-noises what `make_arrays` gives; `truth` (N, n_pixels) are the spectra without noise.

    Means over the spectra, ``loss`` (eq. 3), ``mse`` (per pixel, against the original: Fig. 7), ``mse_truth``, ``kl``
    (nat); and float32 arrays: ``predicted`` (N, n_pixels), ``latent``, ``latent_sigma`` (N, n_latent), ``loss`` (N,).
    """

    def answer(flux):
        mu, log_var = model.encode(flux)
        return model.decode(mu), mu, log_var

    predicted, latent, log_var = in_batches(model, answer, arrays["input"], batch_size=1024)
    squares = (predicted - arrays["flux"]) ** 2
    loss = 0.5 * (arrays["weight"] * squares).sum(axis=1)
    metrics = {"n": len(loss), "loss": float(loss.mean(dtype=float)), "mse": float(squares.mean(dtype=float))}
    if truth is not None:
        metrics["mse_truth"] = float(np.mean((predicted - truth) ** 2, dtype=float))
    if model.variational:
        kl = kl_per_dimension(torch.from_numpy(latent), torch.from_numpy(log_var))
        metrics["kl"] = float(kl.sum(dim=1).mean())
    sigma = np.exp(0.5 * log_var)
    return metrics, {"predicted": predicted, "latent": latent, "latent_sigma": sigma, "loss": loss}


def suggest(trial) -> dict:
    """Hyperparameters of an Optuna trial from the paper's ranges: ``dropout`` 0 to 0.9 in steps of 0.1; 2 to 4
    ``widths``, from 100 to 1000, or to the previous one, in steps of 100.
    """
    dropout = trial.suggest_float("dropout", 0.0, 0.9, step=0.1)
    widths, largest = [], 1000
    for k in range(trial.suggest_int("layers", 2, 4)):
        # Optuna wants one range per name: a fraction of what the previous layer leaves.
        share = trial.suggest_float(f"share_{k + 1}", 0.0, 1.0)
        n = (largest - 100) // 100 + 1
        largest = 100 + 100 * min(int(share * n), n - 1)
        widths.append(largest)
    return {"dropout": round(dropout, 1), "widths": tuple(widths)}


PAPER_LINES = ("Hα", "Hδ", "[O III] 4363", "[S II] 6716", "[O III] 5007", "[N II] 6583")


def paper_scatter(source, line):
    """Scatter [dex] of peak fluxes in Table 6, over all points and over filled bins, for "VAE 4", "Hα"; or None."""
    table = pd.read_csv(Path(__file__).with_name("table_6.csv"), index_col=["source", "line"])
    return tuple(table.loc[source, line].tolist()) if (source, line) in table.index else None
