"""Spectra and bands unlike the training set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from spectool.models.bands import SedInputs
from spectool.models.denoise import flux_errors

WIDTHS = (1, 3, 7, 15, 31, 63, 127, 255)
STATISTICS = ("chi2", "excess", "latent_distance")
_TAIL = 0.1


def fit_outliers(
    sample: xr.Dataset, predicted, latent, errors, *, variable: str = "noisy"
) -> dict[str, np.ndarray]:
    """Learn what is usual from validation spectra."""
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
        A model's `ModelInfo.arrays`, with those of `fit_outliers` and `spectool.models.denoise.fit_flux_errors`.
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


BAND_STATISTICS = ("fluxes", "errors")
_FLOOR = 1e-3


def fit_sed_outliers(train: SedInputs, valid: SedInputs) -> dict[str, np.ndarray]:
    """Learn what is usual."""
    whole = ~train.mask.any(axis=1) & (train.redshift > 0)
    n_values = 2 * train.flux.shape[1] + 1
    if whole.sum() < 2 * n_values:
        raise ValueError(f"only {whole.sum()} galaxies have all bands: at least {2 * n_values} are needed")
    found = {"outlier_softening": np.nanmedian(np.where(train.mask, np.nan, train.error), axis=0)}
    values = _values(found, train.take(whole))
    found |= {"outlier_center": values.mean(axis=0), "outlier_covariance": np.cov(values.T)}
    found["outlier_covariance"] += _FLOOR * np.eye(n_values)
    statistics = _band_statistics(found, valid)
    n_tail = max(1, round(_TAIL * len(valid)))
    for name in BAND_STATISTICS:
        known = statistics[name][np.isfinite(statistics[name])]
        found[f"outlier_{name}"] = np.sort(known)[::-1][:n_tail].astype(np.float32)
    found["outlier_n"] = np.array(len(valid))
    return found


def score_sed_outliers(
    arrays: Mapping[str, np.ndarray], inputs: SedInputs, *, false_alarms: float = 0.01
) -> dict[str, np.ndarray]:
    """Tell which galaxies are unlike the training sample."""
    if "outlier_center" not in arrays:
        raise KeyError("these networks came without a reference for outliers (fit_sed_outliers makes it)")
    statistics = _band_statistics(arrays, inputs)
    chance = np.stack([_band_chance(arrays, name, statistics[name]) for name in BAND_STATISTICS])
    # Bonferroni: two tests, one alarm.
    least = np.minimum(len(BAND_STATISTICS) * chance.min(axis=0), 1.0)
    outlier = least <= false_alarms
    farthest = np.where(np.isfinite(statistics["fluxes"]), np.stack(list(statistics.values())), -np.inf)
    reason = np.array(BAND_STATISTICS)[_blame(chance, farthest)]
    return {"outlier_score": -np.log10(least), "is_outlier": outlier, "reason": np.where(outlier, reason, "")}


def _blame(chance, statistic):
    """The less likely of the two statistics; the farther one where both are beyond all validation galaxies."""
    return np.where(chance[0] == chance[1], statistic.argmax(axis=0), chance.argmin(axis=0))


def _band_chance(arrays, name, value):
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


def _band_statistics(arrays, inputs: SedInputs) -> dict[str, np.ndarray]:
    """Both statistics (N,): squared distances as normal deviates, whatever the number of bands; NaN without any."""
    away = _values(arrays, inputs) - arrays["outlier_center"]
    usable = np.isfinite(away).all(axis=1)
    found = {name: np.full(len(away), np.nan) for name in BAND_STATISTICS}
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
        for name, part in zip(BAND_STATISTICS, (white[:n_first], white[n_first:]), strict=True):
            found[name][rows] = _normal(part.sum(axis=0), len(part))
    return found


def _normal(squares, n):
    """Sums of n squares as normal deviates (Wilson & Hilferty 1931)."""
    variance = 2 / (9 * n)
    return ((squares / n) ** (1 / 3) - (1 - variance)) / np.sqrt(variance)


BIN = 8
N_COMPONENTS = 12
RUNS = (1, 3, 7, 15, 31)
CHUNK_STATISTICS = ("chi2", "excess", "distance")
MISMATCH = 0.005
"""What real spectra differ from templates by, per bin, relative to the continuum. (What 719 SDSS galaxies with S/N > 40
leave beyond their noise is 0.55% in the median bin.)"""
COHERENCE = 30
"""Bins over which such a difference runs on: components of these galaxies scatter by up to 0.03 beyond their noise."""
_LEAST = 4  # good pixels of a bin


def fit_metallicity_outliers(
    clean,
    usual,
    sigma,
    *,
    bad=None,
    n_components: int = N_COMPONENTS,
    mismatch: float = MISMATCH,
    batch_size: int = 4096,
) -> dict[str, np.ndarray]:
    """Learn what is usual."""
    n, total, product = 0, 0.0, 0.0
    for start in range(0, len(clean), batch_size):
        binned = bin_spectra(_tensor(clean[start : start + batch_size]), None)[0].double()
        n, total, product = n + len(binned), total + binned.sum(dim=0), product + binned.T @ binned
    mean = total / n
    values, vectors = torch.linalg.eigh(product / n - torch.outer(mean, mean))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :n_components]
    left = (product / n - torch.outer(mean, mean)).diagonal() - (vectors**2 * values[:n_components]).sum(
        dim=1
    )
    found = {
        "outlier_mean": mean.numpy().astype("f4"),
        "outlier_vectors": vectors.numpy().astype("f4"),
        "outlier_values": (values[:n_components].numpy() + COHERENCE * mismatch**2).astype("f4"),
        "outlier_variance": (left.clamp(min=0).numpy() + mismatch**2).astype("f4"),
        "outlier_n": np.array(len(usual)),
    }
    parts = [
        statistics(found, *_batch(usual, sigma, bad, slice(start, start + batch_size)))
        for start in range(0, len(usual), batch_size)
    ]
    n_tail = max(1, round(_TAIL * len(usual)))
    for name in CHUNK_STATISTICS:
        values = np.concatenate([part[name] for part in parts])
        found[f"outlier_{name}"] = np.sort(values)[::-1][:n_tail].astype("f4")
    return found


def score_spectra(
    arrays: Mapping[str, np.ndarray], x, sigma, bad=None, *, batch_size: int = 4096
) -> dict[str, np.ndarray]:
    """Tell how unusual prepared spectra are.

    Parameters
    ----------
    arrays
        Of `fit_metallicity_outliers`.
    x
        (N, n_kept) prepared spectra.
    sigma
        Noise relative to the continuum: a number, (N,) or (N, n_kept).
    bad
        (N, n_kept) bool, or None.
    batch_size
        Spectra at a time.

    Returns
    -------
    dict
        ``chi2`` per bin, ``excess`` [sigma] and ``pixel`` (the middle of the strongest run), ``distance``, ``score``:
        -log10 of the chance of an ordinary spectrum (the three tests allowed for), ``which`` (index into
        `CHUNK_STATISTICS`
        of the one that stands out most); each (N,).

    Raises
    ------
    KeyError
        If the arrays hold no reference.
    """
    if "outlier_mean" not in arrays:
        raise KeyError(
            "these networks came without a reference for outliers (fit_metallicity_outliers makes it)"
        )
    sigma = np.full(len(x), sigma, np.float32) if np.ndim(sigma) == 0 else sigma
    parts = []
    for start in range(0, len(x), batch_size):
        values = statistics(arrays, *_batch(x, sigma, bad, slice(start, start + batch_size)))
        parts.append(values | rank_statistics(arrays, values))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rank_statistics(arrays, values) -> dict[str, np.ndarray]:
    """``score`` and ``which`` of `score_spectra` from the statistics of a batch."""
    n = int(arrays["outlier_n"])
    chance = []
    for name in CHUNK_STATISTICS:
        tail = arrays[f"outlier_{name}"][::-1]
        above = len(tail) - np.searchsorted(tail, values[name], side="left")
        chance.append(np.where(above < len(tail), (above + 1) / (n + 1), 1.0))
    chance = np.stack(chance)
    # Bonferroni: three tests, one alarm.
    score = -np.log10(np.minimum(len(CHUNK_STATISTICS) * chance.min(axis=0), 1.0))
    # Of several that are beyond all ordinary spectra, the one that is farthest beyond.
    strength = np.stack([values[name] / arrays[f"outlier_{name}"][0] for name in CHUNK_STATISTICS])
    return {
        "score": score.astype("f4"),
        "which": np.where(chance == chance.min(axis=0), strength, 0).argmax(axis=0),
    }


def bin_spectra(x: torch.Tensor, bad: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the good ones of every `BIN` pixels, and their number; (B, n_bins) each."""
    if bad is None:
        bad = torch.zeros(1, x.shape[1])
    count = BIN - _sum_bins(bad.float(), 1.0)
    return _sum_bins(x, 0.0) / count.clamp(min=1), count


def _sum_bins(values, beyond):
    """Sums over every `BIN` pixels; `beyond` fills the last ones. As a product it is several times quicker."""
    padded = F.pad(values, (0, -values.shape[1] % BIN), value=beyond)
    return (padded.view(-1, BIN) @ padded.new_ones(BIN)).view(len(values), -1)


@torch.inference_mode()
def statistics(
    arrays, x: torch.Tensor, variance: torch.Tensor, bad: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """The statistics of one batch."""
    mean, vectors, values = (torch.from_numpy(arrays[f"outlier_{n}"]) for n in ("mean", "vectors", "values"))
    binned, good = bin_spectra(x, bad)
    away = binned - mean
    missing = (good < _LEAST).expand_as(away)
    away = away.masked_fill(missing, 0)
    components = away @ vectors
    if missing.any():
        # Missing bins were taken to be the mean: once more, with what the components say of them.
        components += (components @ vectors.T * missing) @ vectors
    left = (away - components @ vectors.T).masked_fill_(missing, 0)
    noise = variance / good.clamp(min=1)
    pull = left / (noise + torch.from_numpy(arrays["outlier_variance"])).sqrt()
    excess, where = _chunk_strongest_run(pull)
    distance = (components.square() / (values + noise.mean(dim=1, keepdim=True))).sum(dim=1).sqrt()
    chi2 = pull.square().sum(dim=1) / (~missing).sum(dim=1).clamp(min=1)
    found = {"chi2": chi2, "excess": excess, "distance": distance, "pixel": where * BIN + BIN // 2}
    return {name: value.numpy() for name, value in found.items()}


def _chunk_strongest_run(pull):
    """Largest absolute sum of pulls over a run of bins, in units of its noise, and the run's middle bin."""
    total = F.pad(pull.cumsum(dim=1), (1, 0))
    best, where = pull.new_zeros(len(pull)), torch.zeros(len(pull), dtype=torch.long)
    for width in RUNS:
        run = (total[:, width:] - total[:, :-width]).abs_()
        value, peak = run.max(dim=1)
        value = value / width**0.5
        where = torch.where(value > best, peak + width // 2, where)
        best = torch.maximum(best, value)
    return best, where


def _tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _batch(x, sigma, bad, rows):
    """Tensors of some rows: spectra, 0 in bad pixels; variance per bin; bad pixels."""
    x, variance = _tensor(x[rows]), _tensor(sigma[rows]).square()
    if bad is not None:
        bad = torch.from_numpy(np.ascontiguousarray(bad[rows], bool))
        x = x.masked_fill(bad, 0)
    if variance.ndim == 1:
        return x, variance[:, None], bad
    return x, bin_spectra(variance if bad is None else variance.masked_fill(bad, 0), bad)[0], bad
