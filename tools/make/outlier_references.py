"""What is usual: the arrays that a model stores for `spectool.models.outliers` to rank others among."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.models.bands import BandInputs
from spectool.models.outliers import (
    BIN_STATISTICS,
    band_statistics,
    band_values,
    bin_spectra,
    bin_statistics,
    keep_tail,
    spectrum_statistics,
)

FLOOR = 1e-3
"""Added to the variances of fluxes and errors."""
N_COMPONENTS = 12
MISMATCH = 0.005
"""What real spectra differ from templates by, per bin, relative to the continuum. (What 719 SDSS galaxies with S/N > 40
leave beyond their noise is 0.55% in the median bin.)"""
COHERENCE = 30
"""Bins over which such a difference runs on: components of these galaxies scatter by up to 0.03 beyond their noise."""
BATCH_SIZE = 4096


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
