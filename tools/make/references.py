"""What is learnt on spectra of known truth and stored beside a network: how errors are sized, and what is usual.

The arrays are read by `spectool.models.denoise.flux_errors`, `spectool.models.chunked` and `spectool.models.outliers`.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.models.bands import BandInputs
from spectool.models.calibration import fit_error_scaling
from spectool.models.chunked import formal_error
from spectool.models.denoise import flux_errors, latent_features
from spectool.models.outliers import (
    BIN_STATISTICS,
    band_statistics,
    band_values,
    bin_spectra,
    bin_statistics,
    keep_tail,
    spectrum_statistics,
)
from spectool.spectra import ONE_SIGMA

FLOOR = 1e-3
"""Added to the variances of fluxes and errors."""
N_COMPONENTS = 12
MISMATCH = 0.005
"""What real spectra differ from templates by, per bin, relative to the continuum. (What 719 SDSS galaxies with S/N > 40
leave beyond their noise is 0.55% in the median bin.)"""
COHERENCE = 30
"""Bins over which such a difference runs on: components of these galaxies scatter by up to 0.03 beyond their noise."""
BATCH_SIZE = 4096
LEVELS = (np.inf, 200.0, 100.0, 50.0, 30.0, 20.0, 14.0, 10.0, 7.0, 5.0, 3.5)
"""S/N per 1-Angstrom pixel at which errors are scaled; between them the factor is interpolated."""
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


def fit_errors(ensemble, x, y, *, levels=LEVELS, seed=0) -> dict[str, np.ndarray]:
    """Learn a floor and a factor for formal errors, from spectra of known truth with noise added."""
    rng = np.random.default_rng(seed)
    mean, _, _ = ensemble.predict(x)
    arrays = {"error_floor": np.median(np.abs(mean - y), axis=0).astype(np.float32)}
    noise = np.sort(1.0 / np.asarray(levels, dtype=np.float32))
    factors = []
    for sigma in noise:
        noisy = x + sigma * rng.standard_normal(x.shape, dtype=np.float32)
        mean, spread, through = evaluate_batches(ensemble, noisy, sigma)
        pull = (mean - y) / formal_error(arrays["error_floor"], spread, through)
        scalings = [fit_error_scaling(p, np.zeros_like(p), n_bins=1, correct_bias=False) for p in pull.T]
        factors.append([scaling.error[0] for scaling in scalings])
    return arrays | {"error_noise": noise, "error_factor": np.array(factors, np.float32)}


def evaluate_batches(ensemble, x, sigma):
    """Mean, spread and propagated noise, each (N, n_out), not calibrated, of spectra with one noise level."""
    parts = []
    for start in range(0, len(x), BATCH_SIZE):
        part = _tensor(x[start : start + BATCH_SIZE])
        parts.append(ensemble.evaluate(part, np.full(len(part), sigma, np.float32)))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def fit_outliers(sample: xr.Dataset, predicted, latent, errors) -> dict[str, np.ndarray]:
    """Learn from de-noised validation spectra what is usual."""
    latent = np.asarray(latent, dtype=np.float64)
    reference = {
        "outlier_center": latent.mean(axis=0),
        "outlier_precision": np.linalg.pinv(np.atleast_2d(np.cov(latent.T))),
    }
    values, _ = spectrum_statistics(reference, sample, predicted, latent, errors)
    return reference | keep_tail(values, len(latent))


def fit_band_outliers(train: BandInputs, valid: BandInputs) -> dict[str, np.ndarray]:
    """Learn mean and covariance from training galaxies with all bands, what is usual from validation galaxies."""
    whole = ~train.mask.any(axis=1) & (train.redshift > 0)
    n_values = 2 * train.value.shape[1] + 1
    if whole.sum() < 2 * n_values:
        raise ValueError(f"only {whole.sum()} galaxies have all bands: at least {2 * n_values} are needed")
    reference = {"outlier_softening": np.nanmedian(np.where(train.mask, np.nan, train.error), axis=0)}
    values = band_values(reference, train.take(whole))
    reference |= {
        "outlier_center": values.mean(axis=0),
        "outlier_covariance": np.cov(values.T) + FLOOR * np.eye(n_values),
    }
    values = band_statistics(reference, valid)
    known = {name: value[np.isfinite(value)] for name, value in values.items()}
    return reference | keep_tail(known, len(valid))


def fit_bin_outliers(clean, usual, sigma) -> dict[str, np.ndarray]:
    """Learn components from noise-free spectra (N, n_kept), what is usual from noisy ones of deviations `sigma`."""
    n, total, product = 0, 0.0, 0.0
    for start in range(0, len(clean), BATCH_SIZE):
        binned = bin_spectra(_tensor(clean[start : start + BATCH_SIZE]), None)[0].double()
        n, total, product = n + len(binned), total + binned.sum(dim=0), product + binned.T @ binned
    mean = total / n
    covariance = product / n - torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0)[:N_COMPONENTS], vectors.flip(1)[:, :N_COMPONENTS]
    left = (covariance.diagonal() - (vectors**2 * values).sum(dim=1)).clamp(min=0)
    reference = {
        "outlier_mean": mean.numpy().astype("f4"),
        "outlier_vectors": vectors.numpy().astype("f4"),
        "outlier_values": (values.numpy() + COHERENCE * MISMATCH**2).astype("f4"),
        "outlier_variance": (left.numpy() + MISMATCH**2).astype("f4"),
    }
    parts = []
    for start in range(0, len(usual), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        variance = _tensor(sigma[rows]).square()[:, None]
        parts.append(bin_statistics(reference, _tensor(usual[rows]), variance, None))
    tails = {name: np.concatenate([part[name] for part in parts]) for name in BIN_STATISTICS}
    return reference | keep_tail(tails, len(usual))


def _tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
