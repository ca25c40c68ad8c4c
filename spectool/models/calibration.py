"""Predicted errors scaled until they hold for the stated share of the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.models.chunked import SN_LEVELS

LEVEL = 0.68
ONE_SIGMA = 0.6827


@dataclass(frozen=True)
class ErrorScaling:
    """What predictions are off by, in bins of the prediction."""

    edges: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    count: np.ndarray
    level: float = LEVEL

    def find(self, predicted):
        """Bin of each predicted value, -1 for NaN."""
        predicted = np.asarray(predicted, float)
        inner = np.searchsorted(
            self.edges[1:-1], np.where(np.isfinite(predicted), predicted, 0), side="right"
        )
        return np.where(np.isfinite(predicted), inner, -1)

    def apply(self, predicted):
        """Correct predictions and give them errors."""
        predicted, which = np.asarray(predicted, float), self.find(predicted)
        known = which >= 0
        corrected = np.where(known, predicted - self.bias[which], np.nan)
        return corrected, np.where(known, self.error[which], np.nan)


def fit_error_scaling(predicted, reference, *, n_bins=10, min_count=30, correct_bias=True, level=LEVEL):
    """Learn bias and error of predictions from validation data.

    Bins hold equal numbers. The half width of a bin is the ceil((n + 1) level)-th smallest distance from the bias, the
    conformal quantile (Vovk et al. 2005; Lei et al. 2018, JASA 113, 1094), which covers at least `level` of
    exchangeable new galaxies.

    Parameters
    ----------
    predicted, reference : array_like, shape (galaxy,)
        Say log fluxes from de-noised and from original spectra; pairs that are not both finite are left out.
    n_bins : int
        At most so many.
    min_count : int
        Pairs per bin, at least.
    correct_bias : bool
        False: predictions stay as they are (``bias`` is 0), and errors are about them.
    level : float
        Between 0 and 1.

    Returns
    -------
    ErrorScaling

    Raises
    ------
    ValueError
        If there are fewer than `min_count` pairs, or the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a share between 0 and 1, not {level}")
    predicted, reference = np.asarray(predicted, float), np.asarray(reference, float)
    both = np.isfinite(predicted) & np.isfinite(reference)
    predicted, reference = predicted[both], reference[both]
    if predicted.size < min_count:
        raise ValueError(
            f"{predicted.size} galaxies have both values: {min_count} are needed to learn an error"
        )
    n_bins = max(1, min(n_bins, predicted.size // min_count))
    edges = np.quantile(predicted, np.linspace(0, 1, n_bins + 1))
    which = np.searchsorted(edges[1:-1], predicted, side="right")
    bias, error, count = (
        np.full(n_bins, np.nan),
        np.full(n_bins, np.nan),
        np.bincount(which, minlength=n_bins),
    )
    for k in np.flatnonzero(count):
        off = (predicted - reference)[which == k]
        bias[k] = np.median(off) if correct_bias else 0.0
        rank = min(int(np.ceil((off.size + 1) * level)), off.size) - 1
        error[k] = np.sort(np.abs(off - bias[k]))[rank]
    return ErrorScaling(edges, bias, error, count, level)


def coverage(value, error, reference):
    """Share of references within one error, and its binomial standard error.

    Parameters
    ----------
    value, error, reference : array_like
        Of one shape; what is not finite in all is left out.

    Returns
    -------
    share, sampling_error : float
        NaN without data.
    """
    value, error, reference = (np.asarray(a, float) for a in (value, error, reference))
    good = np.isfinite(value) & np.isfinite(error) & np.isfinite(reference)
    if not good.any():
        return np.nan, np.nan
    share = float(np.mean(np.abs(value - reference)[good] <= error[good]))
    return share, float(np.sqrt(max(share * (1 - share), 1e-12) / good.sum()))


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
