"""How the errors of de-noised fluxes are learnt on validation spectra (`spectool.models.denoise.flux_errors`)."""

from __future__ import annotations

import numpy as np

from spectool.models.denoise import flux_errors, latent_features
from spectool.spectra import ONE_SIGMA

_RIDGE = 1e-2
_CLIP = 5.0
_N_MODES = 20


def fit_flux_errors(latent, residual, *, seed) -> dict[str, np.ndarray]:
    """Learn the errors of a model's fluxes."""
    latent, residual = np.asarray(latent, dtype=np.float64), np.asarray(residual, dtype=np.float64)
    center, spread = latent.mean(axis=0), latent.std(axis=0) + 1e-12
    arrays = {
        "error_center": center.astype(np.float32),
        "error_spread": spread.astype(np.float32),
        "error_factor": np.ones(residual.shape[1], dtype=np.float32),
    }
    features = latent_features(latent, arrays)
    if len(latent) < 4 * features.shape[1]:
        raise ValueError(f"{len(latent)} spectra are too few for {features.shape[1]} coefficients per pixel")
    size = np.abs(residual)
    floor = np.nanmedian(size, axis=0) * 1e-2 + 1e-12
    target = np.log(np.fmax(size, floor))
    target = np.where(np.isfinite(residual), target, np.nanmean(target, axis=0))
    order = np.random.default_rng(seed).permutation(len(latent))
    pull = np.empty_like(residual)
    for fitted, scaled in (np.array_split(order, 2), np.array_split(order, 2)[::-1]):
        coefficients = _solve(features[fitted], target[fitted])
        pull[scaled] = size[scaled] / np.exp(features[scaled] @ coefficients)
    arrays["error_coefficients"] = _solve(features, target).astype(np.float16)
    arrays["error_factor"] = np.nanquantile(pull, ONE_SIGMA, axis=0).astype(np.float32)
    arrays["error_modes"] = pull_modes(residual / flux_errors(arrays, latent))
    return arrays


def pull_modes(pull) -> np.ndarray:
    """Leading principal components (n_modes, n_pixels) of pulls (N, n_pixels), each times its standard deviation."""
    pull = np.nan_to_num(pull).clip(-_CLIP, _CLIP)
    _, values, modes = np.linalg.svd(pull / np.sqrt(len(pull)), full_matrices=False)
    return (values[:_N_MODES, None] * modes[:_N_MODES]).astype(np.float16)


def _solve(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    normal = features.T @ features + _RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(normal, features.T @ target)
