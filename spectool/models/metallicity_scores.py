"""How far predictions for held-out histories are off, and whether their errors say so, by S/N."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from spectool.measure.error_scaling import coverage
from spectool.models.chunked_noise import SN_LEVELS


def add_white_noise(x, sn: float, *, seed) -> np.ndarray:
    """Prepared spectra (N, n_kept) with white noise of a S/N per pixel; inf: as they are."""
    x = np.asarray(x, dtype=np.float32)
    if np.isinf(sn):
        return x
    return x + np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32) / np.float32(sn)


def score_by_sn(
    predict: Callable, prepared: xr.Dataset, truth, *, levels=SN_LEVELS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Score predictions of one quantity at several noise levels.

    Parameters
    ----------
    predict
        ``predict(x, sigma)`` -> (N,) predictions, or predictions and errors, for spectra (N, n_kept) and their noise
        (N,).
    prepared
        Noise-free ``flux`` (galaxy, wavelength).
    truth
        (N,).
    levels
        S/N per pixel; inf for none.
    seed
        Of the noise, the same for all who are compared.

    Returns
    -------
    dict
        By level ("inf", "50", ...): ``rms`` and ``bias`` (mean) of prediction - truth in its unit;
        with errors, ``coverage`` (share within one error), ``coverage_error`` (of sampling), ``median_error``.
    """
    found = {}
    for k, sn in enumerate(levels):
        x = add_white_noise(prepared["flux"].values, sn, seed=[seed, k])
        given = predict(x, np.full(len(x), 1.0 / sn, np.float32))
        value, error = given if isinstance(given, tuple) else (given, None)
        off = np.asarray(value, float) - truth
        found[f"{sn:g}"] = {"rms": float(np.sqrt(np.mean(off**2))), "bias": float(off.mean())}
        if error is not None:
            share, sampling = coverage(value, error, truth)
            found[f"{sn:g}"] |= {
                "coverage": share,
                "coverage_error": sampling,
                "median_error": float(np.median(error)),
            }
    return found


def rms_of_all(scores: dict[str, dict[str, float]]) -> float:
    """Root of the mean over levels of the squared rms, which training minimises."""
    return float(np.sqrt(np.mean([entry["rms"] ** 2 for entry in scores.values()])))
