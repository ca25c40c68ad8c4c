"""Spectra and bands unlike the training set: statistics, ranked among those of ordinary ones that a model stores.

Three kinds of input have their own statistics: de-noised spectra, broadband fluxes, and binned spectra of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

FALSE_ALARMS = 0.01  # share of ordinary spectra that may be called outliers
TAIL = 0.1  # share of the ordinary ones whose statistics are stored: the most extreme
STATISTICS = ("chi2", "excess", "latent_distance")
BAND_STATISTICS = ("fluxes", "errors")
BIN_STATISTICS = ("chi2", "excess", "distance")
WIDTHS = (1, 3, 7, 15, 31, 63, 127, 255)
BIN, BIN_WIDTHS = 8, (1, 3, 7, 15, 31)
_LEAST = 4  # good pixels of a bin


def keep_tail(statistics: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """The stored arrays of statistics of n ordinary spectra."""
    n_tail = max(1, round(TAIL * n))
    tails = {f"outlier_{name}": np.sort(values)[::-1][:n_tail] for name, values in statistics.items()}
    return {name: tail.astype(np.float32) for name, tail in tails.items()} | {"outlier_n": np.array(n)}


def rank(arrays, statistics) -> tuple[np.ndarray, np.ndarray]:
    """Share of ordinary spectra at least as extreme (statistic, N), 1 above the stored tail; the chance by all (N,)."""
    chances = []
    for name, values in statistics.items():
        tail = arrays[f"outlier_{name}"][::-1]
        above = len(tail) - np.searchsorted(tail, values, side="left")
        chances.append(np.where(above < len(tail), (above + 1) / (int(arrays["outlier_n"]) + 1), 1.0))
    chance = np.stack(chances)
    # Bonferroni: several tests, one alarm.
    return chance, np.minimum(len(chance) * chance.min(axis=0), 1.0)


def score_outliers(arrays: Mapping[str, np.ndarray], sample: xr.Dataset, denoised: xr.Dataset) -> xr.Dataset:
    """Tell which spectra are unlike the training sample.

    Parameters
    ----------
    arrays
        A model's `ModelInfo.arrays`; KeyError if it came without a reference.
    sample, denoised
        With ``noisy`` and ``noisy_sigma``, and what `spectool.models.denoise.denoise` made of it, with errors.

    Returns
    -------
    Dataset
        Dim galaxy: ``chi2`` per pixel, ``excess`` (in sigma) and ``excess_wavelength`` (where) [Angstrom],
        ``latent_distance``, ``outlier_score`` (-log10 of the chance of an ordinary spectrum, the three tests allowed
        for), ``is_outlier`` and ``reason`` (the statistic that stands out most, or ""). A spectrum that could not be
        de-noised is an outlier, with NaN statistics.
    """
    if "outlier_center" not in arrays:
        raise KeyError("this model came without a reference for outliers")
    predicted, latent, errors = (denoised[name].values for name in ("flux", "latent", "flux_error"))
    values, where = spectrum_statistics(arrays, sample, predicted, latent, errors)
    chance, least = rank(arrays, values)
    known = np.isfinite(latent).all(axis=1)
    outlier = (least <= FALSE_ALARMS) | ~known
    reason = np.where(known, np.array(STATISTICS)[chance.argmin(axis=0)], "not de-noised")
    dim = sample["noisy"].dims[0]
    columns = {
        **{name: (values[name], "") for name in STATISTICS},
        "excess_wavelength": (sample["wavelength"].values[where], "Angstrom"),
        "outlier_score": (np.where(known, -np.log10(least), np.nan), ""),
        "is_outlier": (outlier, ""),
        "reason": (np.where(outlier, reason, ""), ""),
    }
    return xr.Dataset({name: (dim, value, {"units": unit}) for name, (value, unit) in columns.items()})


def spectrum_statistics(arrays, sample, predicted, latent, errors) -> tuple[dict, np.ndarray]:
    """`STATISTICS` (N,), NaN where not de-noised, and the pixel (N,) of the strongest run."""
    flux = sample["noisy"].values.astype(np.float64)
    sigma = np.broadcast_to(sample["noisy_sigma"].values, flux.shape)
    bad = ~np.isfinite(flux) | ~(sigma > 0) | ~np.isfinite(predicted)
    if "mask" in sample:
        bad |= sample["mask"].values.astype(bool)
    weight = np.where(bad, 0.0, 1.0 / (np.where(bad, 1.0, sigma) ** 2 + np.nan_to_num(errors) ** 2))
    flux, model = np.where(bad, 0.0, flux), np.where(bad, 0.0, predicted)
    # The noise changed the sum by which the noisy spectrum was divided: only its shape can be compared.
    scale = (flux * model * weight).sum(axis=1) / np.maximum((model**2 * weight).sum(axis=1), 1e-30)
    pull = (flux - scale[:, None] * model) * np.sqrt(weight)
    excess, where = strongest_run(torch.from_numpy(pull), WIDTHS, torch.from_numpy(~bad))
    away = np.nan_to_num(latent - arrays["outlier_center"])
    square = np.einsum("ni,ij,nj->n", away, arrays["outlier_precision"], away)
    values = {
        "chi2": (pull**2).sum(axis=1) / np.maximum((~bad).sum(axis=1), 1),
        "excess": excess.numpy(),
        "latent_distance": np.sqrt(square.clip(min=0)),
    }
    unknown = ~np.isfinite(latent).all(axis=1)
    return {name: np.where(unknown, np.nan, value) for name, value in values.items()}, where.numpy()


def strongest_run(pull: torch.Tensor, widths, good: torch.Tensor | None = None):
    """Largest absolute sum of pulls over a run of pixels, in units of its noise, and the run's middle pixel; (N,)."""
    total = F.pad(pull.cumsum(dim=1), (1, 0))
    count = None if good is None else F.pad(good.double().cumsum(dim=1), (1, 0))
    best, where = pull.new_zeros(len(pull)), torch.zeros(len(pull), dtype=torch.long)
    for width in widths:
        if width > pull.shape[1]:
            break
        run = (total[:, width:] - total[:, :-width]).abs_()
        if count is not None:
            run /= (count[:, width:] - count[:, :-width]).clamp(min=1).sqrt()
        value, peak = run.max(dim=1)
        value = value if count is not None else value / width**0.5
        where = torch.where(value > best, peak + width // 2, where)
        best = torch.maximum(best, value)
    return best, where


def score_band_outliers(arrays: Mapping[str, np.ndarray], inputs) -> tuple[np.ndarray, np.ndarray]:
    """-log10 of the chance of an ordinary galaxy (N,), both tests allowed for; what stands out in an outlier, or ""."""
    if "outlier_center" not in arrays:
        raise KeyError("these networks came without a reference for outliers")
    values = band_statistics(arrays, inputs)
    known = np.isfinite(values["fluxes"])
    chance, least = rank(arrays, {name: np.where(known, value, -np.inf) for name, value in values.items()})
    # Where both are beyond all ordinary galaxies, the farther one is to blame.
    farther = np.stack(list(values.values())).argmax(axis=0)
    reason = np.array(BAND_STATISTICS)[np.where(chance[0] == chance[1], farther, chance.argmin(axis=0))]
    return -np.log10(least), np.where(least <= FALSE_ALARMS, reason, "")


def band_values(arrays, inputs) -> np.ndarray:
    """log redshift, asinh fluxes and log errors, (N, 2 n_bands + 1); of no meaning where bands are missing."""
    soft = arrays["outlier_softening"]
    flux = np.arcsinh(np.where(inputs.mask, 0.0, inputs.value) / soft)
    error = np.log(np.where(inputs.mask, 1.0, np.maximum(inputs.error, 1e-30)) / soft)
    redshift = np.log10(np.clip(inputs.redshift, 1e-4, None))[:, None]
    return np.concatenate([redshift, flux, error], axis=1)


def band_statistics(arrays, inputs) -> dict[str, np.ndarray]:
    """Squared distances (N,) as normal deviates, whatever the number of bands; NaN without any."""
    away = band_values(arrays, inputs) - arrays["outlier_center"]
    usable = np.isfinite(away).all(axis=1)
    values = {name: np.full(len(away), np.nan) for name in BAND_STATISTICS}
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
            # Sums of squares as normal deviates (Wilson & Hilferty 1931).
            variance = 2 / (9 * len(part))
            cube_root = (part.sum(axis=0) / len(part)) ** (1 / 3)
            values[name][rows] = (cube_root - (1 - variance)) / np.sqrt(variance)
    return values


@torch.inference_mode()
def score_bin_outliers(arrays, x: torch.Tensor, variance: torch.Tensor, bad) -> dict[str, np.ndarray]:
    """`bin_statistics` of prepared spectra, ``score`` (-log10 of the chance of an ordinary one, the three tests allowed
    for) and ``which`` of `BIN_STATISTICS` stands out most; (N,) each."""
    values = bin_statistics(arrays, x, variance, bad)
    chance, least = rank(arrays, {name: values[name] for name in BIN_STATISTICS})
    # Of several that are beyond all ordinary spectra, the one that is farthest beyond.
    strength = np.stack([values[name] / arrays[f"outlier_{name}"][0] for name in BIN_STATISTICS])
    which = np.where(chance == chance.min(axis=0), strength, 0).argmax(axis=0)
    return values | {"score": (-np.log10(least)).astype("f4"), "which": which}


@torch.inference_mode()
def bin_statistics(arrays, x: torch.Tensor, variance: torch.Tensor, bad) -> dict[str, np.ndarray]:
    """`BIN_STATISTICS` and ``pixel``, the middle of the strongest run, of spectra (N, n_kept) with 0 in `bad` pixels;
    `variance` per pixel, of each bin (N, n_bins) or spectrum (N, 1)."""
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
    excess, where = strongest_run(pull, BIN_WIDTHS)
    distance = (components.square() / (values + noise.mean(dim=1, keepdim=True))).sum(dim=1).sqrt()
    chi2 = pull.square().sum(dim=1) / (~missing).sum(dim=1).clamp(min=1)
    result = {"chi2": chi2, "excess": excess, "distance": distance, "pixel": where * BIN + BIN // 2}
    return {name: value.numpy() for name, value in result.items()}


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
