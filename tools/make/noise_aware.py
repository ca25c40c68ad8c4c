"""How the noise-aware de-noiser is trained, calibrated and scored."""

from __future__ import annotations

import numpy as np
import torch

from spectool.models.denoise import (
    LEVELS,
    ONE_SIGMA,
    SN_RANGE,
    NoiseAwareAutoencoder,
    add_random_noise,
    draw_sigma,
    likelihood_loss,
    noise_batch,
    pull_modes,
)
from spectool.models.training import fit, one_cycle

EPOCHS = 150


def make_arrays(sample) -> dict[str, np.ndarray]:
    """Arrays to train on: ``flux`` and ``variance`` (infinite where masked) of original spectra, float32.

    Parameters
    ----------
    sample : Dataset
        From `spectool.papers.scourfield2023.spectra.normalize_total`. Spectra that are masked out whole are left out.
    """
    mask, ivar = sample["mask"].values.astype(bool), sample["ivar"].values
    with np.errstate(divide="ignore"):
        variance = np.where(mask | ~(ivar > 0), np.inf, 1.0 / ivar.astype(np.float64))
    good = ~mask.all(axis=1)
    return {"flux": sample["flux"].values[good], "variance": variance[good].astype(np.float32)}


def train_noise_aware(train, valid, wavelength=None, *, seed=0, epochs=EPOCHS, options=None, **fit_options):
    """Train on noise drawn afresh for each batch, and scale the errors on validation spectra."""
    model = NoiseAwareAutoencoder(n_pixels=train["flux"].shape[1], seed=seed, **(options or {}))
    model.fit_statistics(train["flux"], wavelength, seed=seed)
    recipe = {
        "loss": likelihood_loss,
        "augment": add_random_noise,
        "epochs": epochs,
        "batch_size": 128,
        "lr": 2e-3,
        "optimizer": "adamw",
        "weight_decay": 1e-3,
        "clip": 50.0,
        "schedule": one_cycle(0.05),
        "patience": None,
        "seed": seed,
    }
    history = fit(model, train, draw_noise(valid, seed=[seed, 1]), **(recipe | fit_options))
    return model, history


def draw_noise(arrays, *, seed, level=None) -> dict[str, np.ndarray]:
    """The arrays with noise of random level and shape, or one S/N per pixel, drawn once: ``input``, ``sigma``."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    batch = {name: torch.from_numpy(value) for name, value in arrays.items()}
    if level is None:
        sigma = draw_sigma(batch["flux"], generator, SN_RANGE)
    else:
        sigma = (batch["flux"].median(dim=1, keepdim=True).values / level).expand(batch["flux"].shape)
    noisy = noise_batch(batch, sigma, generator)
    return arrays | {name: value.numpy() for name, value in noisy.items()}


def apply(model, arrays, *, batch_size: int = 512):
    """Predictions and errors, each (N, n_pixels), of arrays with ``input`` and ``sigma``."""
    predicted, errors = [], []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(arrays["input"]), batch_size):
            some = [torch.from_numpy(arrays[name][start : start + batch_size]) for name in ("input", "sigma")]
            found, error, _, _ = model.answer(*some)
            predicted.append(found.numpy())
            errors.append(error.numpy())
    return np.concatenate(predicted), np.concatenate(errors)


def calibrate(model, arrays, truth, *, seed) -> np.ndarray:
    """Scale the errors so that 68% of the noise-free fluxes of validation spectra lie within one."""
    noisy = draw_noise(arrays, seed=seed)
    model.error_factor.fill_(1.0)
    model.level_factor.fill_(1.0)
    model.error_factor.copy_(torch.from_numpy(_scale(model, noisy, truth, axis=0)))
    factors = [_scale(model, draw_noise(arrays, seed=seed, level=level), truth) for level in LEVELS]
    model.level_factor.copy_(torch.from_numpy(np.array(factors)))
    predicted, errors = apply(model, noisy)
    return pull_modes((predicted - truth) / errors)


def _scale(model, noisy, truth, axis=None):
    predicted, errors = apply(model, noisy)
    return np.quantile(np.abs(predicted - truth) / errors, ONE_SIGMA, axis=axis).astype(np.float32)


def score_levels(model, arrays, truth, *, seed, levels=LEVELS) -> dict:
    """For each S/N per pixel: ``mse_truth``, before it was de-noised ``mse_noisy``, and ``coverage`` of the errors."""
    scores = {}
    for level in levels:
        noisy = draw_noise(arrays, seed=seed, level=level)
        predicted, errors = apply(model, noisy)
        scores[f"{level:g}"] = {
            "mse_truth": float(np.mean((predicted - truth) ** 2, dtype=float)),
            "mse_noisy": float(np.mean((noisy["input"] - truth) ** 2, dtype=float)),
            "coverage": float(np.mean(np.abs(predicted - truth) < errors)),
        }
    return scores
