"""Galaxies whose fluxes, or errors, are unlike those that networks were trained on: wrong units, other surveys.

Two statistics, each compared with that of validation galaxies: the distance (Mahalanobis 1936) of asinh fluxes and the
logarithm of the redshift from where galaxies lie, and that of the logarithms of the errors given the fluxes. Missing
bands are left out of both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spectool.models.sed_inputs import SedInputs

STATISTICS = ("fluxes", "errors")
_TAIL = 0.1
_FLOOR = 1e-3


def fit_sed_outliers(train: SedInputs, valid: SedInputs) -> dict[str, np.ndarray]:
    """Learn what is usual.

    Parameters
    ----------
    train
        Tells where galaxies lie; those without any missing band are used.
    valid
        Tells how far from there ordinary ones are; those with gaps are used, too.

    Returns
    -------
    dict
        Arrays, by names that begin with ``outlier_``, for `score_sed_outliers`.

    Raises
    ------
    ValueError
        If fewer training galaxies than twice the number of values have all bands.
    """
    whole = ~train.mask.any(axis=1) & (train.redshift > 0)
    n_values = 2 * train.flux.shape[1] + 1
    if whole.sum() < 2 * n_values:
        raise ValueError(f"only {whole.sum()} galaxies have all bands: at least {2 * n_values} are needed")
    found = {"outlier_softening": np.nanmedian(np.where(train.mask, np.nan, train.error), axis=0)}
    values = _values(found, train.take(whole))
    found |= {"outlier_center": values.mean(axis=0), "outlier_covariance": np.cov(values.T)}
    found["outlier_covariance"] += _FLOOR * np.eye(n_values)
    statistics = _statistics(found, valid)
    n_tail = max(1, round(_TAIL * len(valid)))
    for name in STATISTICS:
        known = statistics[name][np.isfinite(statistics[name])]
        found[f"outlier_{name}"] = np.sort(known)[::-1][:n_tail].astype(np.float32)
    found["outlier_n"] = np.array(len(valid))
    return found


def score_sed_outliers(
    arrays: Mapping[str, np.ndarray], inputs: SedInputs, *, false_alarms: float = 0.01
) -> dict[str, np.ndarray]:
    """Tell which galaxies are unlike the training sample.

    Parameters
    ----------
    arrays
        Those of `fit_sed_outliers`.
    inputs
        In the same bands.
    false_alarms
        Share of ordinary galaxies that may be called outliers, at most.

    Returns
    -------
    dict of str to ndarray, shape (galaxy,)
        ``outlier_score`` (-log10 of the chance of an ordinary galaxy, the two tests allowed for), ``is_outlier``, and
        ``reason`` ("fluxes", "errors", or "").

    Raises
    ------
    KeyError
        If the arrays hold no reference.
    """
    if "outlier_center" not in arrays:
        raise KeyError("these networks came without a reference for outliers (fit_sed_outliers makes it)")
    statistics = _statistics(arrays, inputs)
    chance = np.stack([_chance(arrays, name, statistics[name]) for name in STATISTICS])
    # Bonferroni: two tests, one alarm.
    least = np.minimum(len(STATISTICS) * chance.min(axis=0), 1.0)
    outlier = least <= false_alarms
    farthest = np.where(np.isfinite(statistics["fluxes"]), np.stack(list(statistics.values())), -np.inf)
    reason = np.array(STATISTICS)[_blame(chance, farthest)]
    return {"outlier_score": -np.log10(least), "is_outlier": outlier, "reason": np.where(outlier, reason, "")}


def _blame(chance, statistic):
    """The less likely of the two statistics; the farther one where both are beyond all validation galaxies."""
    return np.where(chance[0] == chance[1], statistic.argmax(axis=0), chance.argmin(axis=0))


def _chance(arrays, name, value):
    """Share of validation galaxies at least as far; 1 where it is above the stored tail, or nothing is known."""
    tail = arrays[f"outlier_{name}"][::-1]
    above = len(tail) - np.searchsorted(tail, np.nan_to_num(value, nan=-np.inf), side="left")
    return np.where(above < len(tail), (above + 1) / (int(arrays["outlier_n"]) + 1), 1.0)


def _values(arrays, inputs: SedInputs) -> np.ndarray:
    """log redshift, asinh fluxes and log errors, (N, 2 n_bands + 1); of no meaning where bands are missing."""
    soft = arrays["outlier_softening"]
    flux = np.arcsinh(np.where(inputs.mask, 0.0, inputs.flux) / soft)
    error = np.log(np.where(inputs.mask, 1.0, np.maximum(inputs.error, 1e-30)) / soft)
    redshift = np.log10(np.clip(inputs.redshift, 1e-4, None))[:, None]
    return np.concatenate([redshift, flux, error], axis=1)


def _statistics(arrays, inputs: SedInputs) -> dict[str, np.ndarray]:
    """Both statistics (N,): squared distances as normal deviates, whatever the number of bands; NaN without any."""
    away = _values(arrays, inputs) - arrays["outlier_center"]
    usable = np.isfinite(away).all(axis=1)
    found = {name: np.full(len(away), np.nan) for name in STATISTICS}
    patterns, which = np.unique(inputs.mask, axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        rows = np.flatnonzero((which.ravel() == k) & usable)
        if pattern.all() or not len(rows):
            continue
        there = np.flatnonzero(np.concatenate([[True], ~pattern, ~pattern]))
        n_first = 1 + int((~pattern).sum())
        covariance = arrays["outlier_covariance"][np.ix_(there, there)]
        # With the Cholesky factor of all, the first values whiten fluxes, the rest errors given the fluxes.
        white = np.linalg.solve(np.linalg.cholesky(covariance), away[rows][:, there].T) ** 2
        for name, part in zip(STATISTICS, (white[:n_first], white[n_first:]), strict=True):
            found[name][rows] = _normal(part.sum(axis=0), len(part))
    return found


def _normal(squares, n):
    """Sums of n squares as normal deviates (Wilson & Hilferty 1931)."""
    variance = 2 / (9 * n)
    return ((squares / n) ** (1 / 3) - (1 - variance)) / np.sqrt(variance)
