"""Prepared spectra unlike those that the metallicity networks were trained on: quasars, stars, wrong redshifts, lines.

Everything is told from means over eight pixels: broadening correlates the noise of neighbours, and a feature of the
sky or of a nucleus is as wide. Three statistics, each compared with those of ordinary spectra: what is left of a
spectrum after the principal components of the training spectra (chi2; its strongest run), and how far its components
lie from theirs (Mahalanobis 1936).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

BIN = 8
N_COMPONENTS = 12
RUNS = (1, 3, 7, 15, 31)
STATISTICS = ("chi2", "excess", "distance")
MISMATCH = 0.005
"""What real spectra differ from templates by, per bin, relative to the continuum. (What 719 SDSS galaxies with S/N > 40
leave beyond their noise is 0.55% in the median bin.)"""
COHERENCE = 30
"""Bins over which such a difference runs on: components of these galaxies scatter by up to 0.03 beyond their noise."""
_TAIL = 0.1
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
    """Learn what is usual.

    Parameters
    ----------
    clean
        (N, n_kept) prepared spectra without noise, of all that may come: training spectra and held-out histories.
    usual
        (M, n_kept) prepared spectra with noise, of galaxies that shall pass; none of `clean`.
    sigma
        Their noise relative to the continuum: (M,) or (M, n_kept).
    bad
        (M, n_kept) bool, pixels not to look at.
    n_components
        Principal components.
    mismatch
        Relative difference between real spectra and templates that nobody shall be alarmed by, per bin.
    batch_size
        Spectra at a time.

    Returns
    -------
    dict
        Arrays, by names that begin with ``outlier_``, for `score_spectra`.
    """
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
    for name in STATISTICS:
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
        -log10 of the chance of an ordinary spectrum (the three tests allowed for), ``which`` (index into `STATISTICS`
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
    for name in STATISTICS:
        tail = arrays[f"outlier_{name}"][::-1]
        above = len(tail) - np.searchsorted(tail, values[name], side="left")
        chance.append(np.where(above < len(tail), (above + 1) / (n + 1), 1.0))
    chance = np.stack(chance)
    # Bonferroni: three tests, one alarm.
    score = -np.log10(np.minimum(len(STATISTICS) * chance.min(axis=0), 1.0))
    # Of several that are beyond all ordinary spectra, the one that is farthest beyond.
    strength = np.stack([values[name] / arrays[f"outlier_{name}"][0] for name in STATISTICS])
    return {
        "score": score.astype("f4"),
        "which": np.where(chance == chance.min(axis=0), strength, 0).argmax(axis=0),
    }


def bin_spectra(x: torch.Tensor, bad: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the good ones of every `BIN` pixels, and their number; (B, n_bins) each.

    `x` (B, n_kept) must be 0 in bad pixels (B, n_kept; None: there are none).
    """
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
    """The statistics of one batch.

    Parameters
    ----------
    arrays
        Of `fit_metallicity_outliers`.
    x
        (B, n_kept), 0 in bad pixels.
    variance
        (B, n_bins) or (B, 1): noise variance of one pixel, relative to the continuum squared.
    bad
        (B, n_kept) bool, or None.
    """
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
    excess, where = _strongest_run(pull)
    distance = (components.square() / (values + noise.mean(dim=1, keepdim=True))).sum(dim=1).sqrt()
    chi2 = pull.square().sum(dim=1) / (~missing).sum(dim=1).clamp(min=1)
    found = {"chi2": chi2, "excess": excess, "distance": distance, "pixel": where * BIN + BIN // 2}
    return {name: value.numpy() for name, value in found.items()}


def _strongest_run(pull):
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
