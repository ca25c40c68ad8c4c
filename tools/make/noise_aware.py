"""How the noise-aware de-noiser is trained, calibrated and scored."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA

from spectool.models.denoise import LEVELS, NoiseAwareAutoencoder
from spectool.models.layers import seed_torch
from spectool.models.training import fit, in_batches, one_cycle
from spectool.models.vae import kl_per_dimension
from spectool.spectra import ONE_SIGMA
from tools.make.references import pull_modes

EPOCHS = 150
#: S/N per pixel (median flux over noise) that training covers; the paper's noise of 0.04 is below 1.
SN_RANGE = (0.4, 60.0)
_DEAD = 0.02


def make_arrays(sample) -> dict[str, np.ndarray]:
    """``flux`` and ``variance`` (infinite where masked) of original spectra that are not masked out whole."""
    mask, ivar = sample["mask"].values.astype(bool), sample["ivar"].values
    with np.errstate(divide="ignore"):
        variance = np.where(mask | ~(ivar > 0), np.inf, 1.0 / ivar.astype(np.float64))
    good = ~mask.all(axis=1)
    return {"flux": sample["flux"].values[good], "variance": variance[good].astype(np.float32)}


def train_noise_aware(train, valid, wavelength=None, *, seed=0, epochs=EPOCHS, options=None, **fit_options):
    """Train on noise drawn afresh for each batch, and scale the errors on validation spectra."""
    model = NoiseAwareAutoencoder(n_pixels=train["flux"].shape[1], seed=seed, **(options or {}))
    fit_statistics(model, train["flux"], wavelength, seed=seed)
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


def fit_statistics(model, flux, wavelength=None, *, seed=0) -> None:
    """Measure mean, scale and principal components of original training spectra (N, n_pixels)."""
    flux = np.asarray(flux, dtype=np.float64)
    pca = PCA(model.n_components, svd_solver="randomized", random_state=seed).fit(flux)
    scale = flux.std(axis=0)
    model.set_statistics(pca.mean_, np.maximum(scale, 0.01 * np.median(scale) + 1e-12), wavelength)
    with torch.no_grad():
        components = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
        model.components.copy_(torch.from_numpy(components))
        n = min(model.n_components, model.to_flux.in_features)
        model.to_flux.weight[:, :n] = (model.components[:n] / model.pixel_scale).T
        model.to_flux.bias.zero_()


def likelihood_loss(model: NoiseAwareAutoencoder, batch: dict, step) -> dict[str, torch.Tensor]:
    """Negative log likelihood of the original spectra given prediction and predicted error, and the divergence."""
    generator = step.generator if step.training else None
    predicted, mu, log_var = model(batch["input"], batch["sigma"], generator)
    known = torch.isfinite(batch["variance"])
    variance = model.predict_error(mu, log_var).square() + torch.where(known, batch["variance"], 0.0)
    residual = torch.where(known, predicted - batch["flux"], 0.0).square()
    terms = 0.5 * torch.where(known, residual / variance + torch.log(variance), 0.0)
    nll = terms.sum(dim=1).mean()
    kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
    return {"loss": nll + kl, "squared_error": residual.mean(), "kl": kl}


def draw_sigma(flux: torch.Tensor, generator: torch.Generator, sn_range=SN_RANGE) -> torch.Tensor:
    """Errors (B, n_pixels) to add noise with: level, run with wavelength and dead pixels (infinite) at random."""
    n, n_pixels = flux.shape
    low, high = np.log(sn_range)
    level = torch.exp(low + (high - low) * torch.rand(n, 1, generator=generator))
    x = torch.linspace(-1.0, 1.0, n_pixels)
    shape = torch.stack([x, 1.5 * x**2 - 0.5, 2.5 * x**3 - 1.5 * x, torch.exp(-4.0 * (x + 1.0))])
    curve = (0.35 * torch.randn(n, 4, generator=generator)) @ shape
    median = flux.abs().median(dim=1, keepdim=True).values.clamp(min=1e-6)
    # Half of the spectra as the paper has them: the same noise in all pixels.
    curve = curve * (torch.rand(n, 1, generator=generator) < 0.5)
    sigma = median / level * torch.exp(curve)
    dead = torch.rand(n, n_pixels, generator=generator) < _DEAD * torch.rand(n, 1, generator=generator) * 2
    return sigma.masked_fill(dead, torch.inf)


def add_random_noise(batch: dict, step) -> dict:
    """An augmentation for `spectool.models.training.fit`: ``input`` and ``sigma`` of freshly noised spectra."""
    return batch | noise_batch(batch, draw_sigma(batch["flux"], step.generator), step.generator)


def noise_batch(batch: dict, sigma: torch.Tensor, generator: torch.Generator) -> dict:
    """Noise of these errors added, the sum restored, as `spectool.papers.scourfield2023.sample.add_noise` does."""
    flux = batch["flux"]
    noise = torch.randn(flux.shape, generator=generator)
    dead = ~torch.isfinite(sigma) | ~torch.isfinite(batch["variance"])
    noisy = flux + torch.where(dead, 0.0, sigma) * noise
    total = flux.sum(dim=1, keepdim=True)
    scale = total / torch.maximum(noisy.sum(dim=1, keepdim=True), 0.1 * total)
    own = torch.where(dead, torch.inf, sigma.square() + batch["variance"]).sqrt()
    return {"input": noisy * scale, "sigma": own * scale}


def draw_noise(arrays, *, seed, level=None) -> dict[str, np.ndarray]:
    """The arrays with noise of random level and shape, or one S/N per pixel, drawn once: ``input``, ``sigma``."""
    generator = seed_torch(seed)
    batch = {name: torch.from_numpy(value) for name, value in arrays.items()}
    if level is None:
        sigma = draw_sigma(batch["flux"], generator, SN_RANGE)
    else:
        sigma = (batch["flux"].median(dim=1, keepdim=True).values / level).expand(batch["flux"].shape)
    noisy = noise_batch(batch, sigma, generator)
    return arrays | {name: value.numpy() for name, value in noisy.items()}


def apply(model, arrays):
    """Predictions and errors, each (N, n_pixels), of arrays with ``input`` and ``sigma``."""
    return in_batches(model, model.answer, arrays["input"], arrays["sigma"])[2:]


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


def score_levels(model, arrays, truth, *, seed) -> dict:
    """For each S/N per pixel: ``mse_truth``, before it was de-noised ``mse_noisy``, and ``coverage`` of the errors."""
    scores = {}
    for level in LEVELS:
        noisy = draw_noise(arrays, seed=seed, level=level)
        predicted, errors = apply(model, noisy)
        scores[f"{level:g}"] = {
            "mse_truth": float(np.mean((predicted - truth) ** 2, dtype=float)),
            "mse_noisy": float(np.mean((noisy["input"] - truth) ** 2, dtype=float)),
            "coverage": float(np.mean(np.abs(predicted - truth) < errors)),
        }
    return scores
