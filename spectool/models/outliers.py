"""Spectra unlike those that a de-noiser was trained on, or with artefacts that it cannot reproduce.

Three statistics, each compared with those of validation spectra: chi2 of the noisy spectrum about the prediction; the
strongest excess of any run of pixels, from one (a cosmic ray) to hundreds (a step, a wrong flux calibration; the
rising blue edge of Scourfield et al. 2023, Section 4.2, lies between); the distance of the latent vector from where
galaxies lie (Mahalanobis 1936).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from spectool.models.flux_errors import flux_errors

WIDTHS = (1, 3, 7, 15, 31, 63, 127, 255)
STATISTICS = ("chi2", "excess", "latent_distance")
_TAIL = 0.1


def fit_outliers(
    sample: xr.Dataset, predicted, latent, errors, *, variable: str = "noisy"
) -> dict[str, np.ndarray]:
    """Learn what is usual from validation spectra.

    Parameters
    ----------
    sample
        With `variable` and ``<variable>_sigma`` (galaxy, wavelength), and optionally ``mask``.
    predicted, errors
        (N, n_pixels) de-noised fluxes and their errors.
    latent
        (N, n_latent).
    variable
        What the model read.

    Returns
    -------
    dict
        Arrays, by names that begin with ``outlier_``, for `score_outliers`.
    """
    latent = np.asarray(latent, dtype=np.float64)
    found = {
        "outlier_center": latent.mean(axis=0),
        "outlier_precision": np.linalg.pinv(np.atleast_2d(np.cov(latent.T))),
        "outlier_n": np.array(len(latent)),
    }
    values = _statistics(found, sample, predicted, latent, errors, variable)
    n_tail = max(1, round(_TAIL * len(latent)))
    for name in STATISTICS:
        found[f"outlier_{name}"] = np.sort(values[name])[::-1][:n_tail].astype(np.float32)
    return found


def score_outliers(
    arrays: Mapping[str, np.ndarray],
    sample: xr.Dataset,
    denoised: xr.Dataset,
    *,
    variable: str = "noisy",
    false_alarms: float = 0.01,
) -> xr.Dataset:
    """Tell which spectra are unlike the training sample.

    Parameters
    ----------
    arrays
        A model's `ModelInfo.arrays`, with those of `fit_outliers` and `spectool.models.flux_errors.fit_flux_errors`.
    sample, variable
        As for `spectool.models.denoise.denoise`, with ``<variable>_sigma``.
    denoised
        What `denoise` made of it.
    false_alarms
        Share of ordinary spectra that may be called outliers, at most.

    Returns
    -------
    Dataset
        Dim galaxy: ``chi2`` per pixel, ``excess`` (in sigma) and ``excess_wavelength`` (where) [Angstrom],
        ``latent_distance``, ``outlier_score`` (-log10 of the chance of an ordinary spectrum, the three tests allowed
        for), ``is_outlier`` and ``reason`` (the statistic that stands out most, or ""). A spectrum that could not be
        de-noised is an outlier, with NaN statistics.

    Raises
    ------
    KeyError
        If the model came without a reference.
    """
    if "outlier_center" not in arrays:
        raise KeyError("this model came without a reference for outliers (fit_outliers makes it)")
    latent = denoised["latent"].values
    errors = denoised["flux_error"].values if "flux_error" in denoised else flux_errors(arrays, latent)
    values = _statistics(arrays, sample, denoised["flux"].values, latent, errors, variable)
    chance = np.stack([_chance(arrays, name, values[name]) for name in STATISTICS])
    # Bonferroni: three tests, one alarm.
    least = np.minimum(len(STATISTICS) * chance.min(axis=0), 1.0)
    known = np.isfinite(latent).all(axis=1)
    outlier = (least <= false_alarms) | ~known
    reason = np.where(known, np.array(STATISTICS)[chance.argmin(axis=0)], "not de-noised")
    dim = sample[variable].dims[0]
    columns = {
        **{name: (values[name], "") for name in STATISTICS},
        "excess_wavelength": (sample["wavelength"].values[values["where"]], "Angstrom"),
        "outlier_score": (np.where(known, -np.log10(least), np.nan), ""),
        "is_outlier": (outlier, ""),
        "reason": (np.where(outlier, reason, ""), ""),
    }
    return xr.Dataset({name: (dim, value, {"units": unit}) for name, (value, unit) in columns.items()})


def _chance(arrays, name, value):
    """Share of validation spectra at least as extreme; 1 where it is above the stored tail."""
    tail = arrays[f"outlier_{name}"][::-1]
    above = len(tail) - np.searchsorted(tail, value, side="left")
    chance = (above + 1) / (int(arrays["outlier_n"]) + 1)
    return np.where(above < len(tail), chance, 1.0)


def _statistics(arrays, sample, predicted, latent, errors, variable) -> dict[str, np.ndarray]:
    flux = sample[variable].values.astype(np.float64)
    sigma = np.broadcast_to(sample[f"{variable}_sigma"].values, flux.shape)
    bad = ~np.isfinite(flux) | ~(sigma > 0) | ~np.isfinite(predicted)
    if "mask" in sample:
        bad |= sample["mask"].values.astype(bool)
    weight = np.where(bad, 0.0, 1.0 / (np.where(bad, 1.0, sigma) ** 2 + np.nan_to_num(errors) ** 2))
    flux, model = np.where(bad, 0.0, flux), np.where(bad, 0.0, predicted)
    # The noise changed the sum by which the noisy spectrum was divided: only its shape can be compared.
    scale = (flux * model * weight).sum(axis=1) / np.maximum((model**2 * weight).sum(axis=1), 1e-30)
    pull = (flux - scale[:, None] * model) * np.sqrt(weight)
    excess, where = _strongest_run(pull, ~bad)
    away = np.nan_to_num(latent - arrays["outlier_center"])
    distance = np.sqrt(np.einsum("ni,ij,nj->n", away, arrays["outlier_precision"], away).clip(min=0))
    unknown = ~np.isfinite(latent).all(axis=1)
    found = {
        "chi2": (pull**2).sum(axis=1) / np.maximum((~bad).sum(axis=1), 1),
        "excess": excess,
        "latent_distance": distance,
    }
    return {name: np.where(unknown, np.nan, value) for name, value in found.items()} | {"where": where}


def _strongest_run(pull, good):
    """Largest absolute sum of pulls over a run of pixels, in units of its noise, and the run's middle pixel."""
    best, where = np.zeros(len(pull)), np.zeros(len(pull), dtype=int)
    total = np.pad(np.cumsum(pull, axis=1), ((0, 0), (1, 0)))
    count = np.pad(np.cumsum(good, axis=1), ((0, 0), (1, 0)))
    for width in WIDTHS:
        if width > pull.shape[1]:
            break
        n = count[:, width:] - count[:, :-width]
        run = np.abs(total[:, width:] - total[:, :-width]) / np.sqrt(np.maximum(n, 1))
        peak = run.argmax(axis=1)
        value = run[np.arange(len(run)), peak]
        where = np.where(value > best, peak + width // 2, where)
        best = np.maximum(best, value)
    return best, where
