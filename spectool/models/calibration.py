"""Predicted errors scaled until they hold for the stated share of the truth, and scores of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.stats import mad_std

LEVEL = 0.68


@dataclass(frozen=True)
class ErrorScaling:
    """What predictions are off by, in bins of the prediction."""

    edges: np.ndarray
    bias: np.ndarray
    error: np.ndarray
    count: np.ndarray
    level: float = LEVEL

    def apply(self, predicted) -> tuple[np.ndarray, np.ndarray]:
        """Predictions less their bias, and their errors; NaN for NaN."""
        predicted = np.asarray(predicted, float)
        known, which = np.isfinite(predicted), np.searchsorted(self.edges[1:-1], predicted, side="right")
        value, error = predicted - self.bias[which], self.error[which]
        return np.where(known, value, np.nan), np.where(known, error, np.nan)


def fit_error_scaling(predicted, reference, *, n_bins: int = 10, correct_bias: bool = True) -> ErrorScaling:
    """Learn bias and error of predictions from validation data.

    Bins hold equal numbers, 30 pairs at least. The half width of a bin is the ceil(0.68 (n + 1))-th smallest distance
    from the bias, the conformal quantile (Vovk et al. 2005; Lei et al. 2018), which covers at least that share.

    Parameters
    ----------
    predicted, reference : array_like, shape (galaxy,)
        Say log fluxes from de-noised and from original spectra; of pairs that are both finite, 30 are needed.
    n_bins
        At most so many.
    correct_bias
        False: predictions stay as they are (``bias`` is 0), and errors are about them.
    """
    predicted, reference = np.asarray(predicted, float), np.asarray(reference, float)
    both = np.isfinite(predicted) & np.isfinite(reference)
    predicted, reference = predicted[both], reference[both]
    if predicted.size < 30:
        raise ValueError(f"{predicted.size} galaxies have both values: 30 are needed to learn an error")
    n_bins = max(1, min(n_bins, predicted.size // 30))
    edges = np.quantile(predicted, np.linspace(0, 1, n_bins + 1))
    which = np.searchsorted(edges[1:-1], predicted, side="right")
    bias, error = np.full((2, n_bins), np.nan)
    count = np.bincount(which, minlength=n_bins)
    for k in np.flatnonzero(count):
        off = (predicted - reference)[which == k]
        bias[k] = np.median(off) if correct_bias else 0.0
        rank = min(int(np.ceil((off.size + 1) * LEVEL)), off.size) - 1
        error[k] = np.sort(np.abs(off - bias[k]))[rank]
    return ErrorScaling(edges, bias, error, count)


def coverage(value, error, reference) -> tuple[float, float]:
    """Share of references within one error, and its binomial standard error, where all are finite; NaN without data."""
    value, error, reference = (np.asarray(a, float) for a in (value, error, reference))
    good = np.isfinite(value) & np.isfinite(error) & np.isfinite(reference)
    if not good.any():
        return np.nan, np.nan
    share = float(np.mean(np.abs(value - reference)[good] <= error[good]))
    return share, float(np.sqrt(max(share * (1 - share), 1e-12) / good.sum()))


def figures_of_merit(predicted, reference, error=None) -> dict[str, float]:
    """Figures of merit of predictions (N,) of one quantity, in its unit; where either is not finite, it does not count.

    ``n``, and of prediction - reference: ``bias`` (mean), ``median``, ``sigma`` (standard deviation), ``robust_sigma``
    (1.4826 times the median absolute deviation), ``rmse``, ``mse``, ``mad`` (mean absolute); ``r2``; with errors
    ``coverage`` and ``error`` (median). Without data, ``n`` alone.
    """
    predicted, reference = np.asarray(predicted, float), np.asarray(reference, float)
    used = np.isfinite(predicted) & np.isfinite(reference)
    off, truth = (predicted - reference)[used], reference[used]
    if off.size == 0:
        return {"n": 0}
    figures = {
        "n": int(off.size),
        "bias": float(off.mean()),
        "median": float(np.median(off)),
        "sigma": float(off.std()),
        "robust_sigma": float(mad_std(off)),
        "rmse": float(np.sqrt(np.mean(off**2))),
        "mse": float(np.mean(off**2)),
        "mad": float(np.abs(off).mean()),
        "r2": float(1 - np.mean(off**2) / truth.var() if truth.var() > 0 else np.nan),
    }
    if error is not None:
        share, _ = coverage(predicted, error, reference)
        figures |= {"coverage": share, "error": float(np.median(np.asarray(error, float)[used]))}
    return figures
