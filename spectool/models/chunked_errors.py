"""Errors of the ensemble that mean what they say: scaled on held-out histories, by how noisy the spectrum is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spectool.measure.error_scaling import LEVEL, fit_error_scaling

#: S/N per 1-Angstrom pixel at which errors are scaled; between them the factor is interpolated.
CALIBRATION_LEVELS = (np.inf, 200.0, 100.0, 50.0, 30.0, 20.0, 14.0, 10.0, 7.0, 5.0, 3.5)
_QUIETEST = 1e-3


def fit_errors(ensemble, x, y, *, levels=CALIBRATION_LEVELS, seed=0) -> dict[str, np.ndarray]:
    """Learn a floor and a factor for formal errors, from spectra of known truth with noise added.

    The factor of a noise level is the conformal quantile of the pulls (`spectool.measure.error_scaling`): 68% of new
    spectra drawn alike lie within one error.

    Parameters
    ----------
    ensemble
        `spectool.models.chunked_ensemble.ChunkedEnsemble`.
    x
        (N, n_kept) noise-free prepared spectra of held-out histories.
    y
        (N, n_out) their truths.
    levels
        S/N per pixel, inf for none.
    seed
        Of the noise.

    Returns
    -------
    dict
        ``error_noise`` (level,) 1 / (S/N), increasing; ``error_factor`` (level, n_out); ``error_floor`` (n_out,): the
        median distance from the truth without noise, which no spread knows of.
    """
    rng = np.random.default_rng(seed)
    mean, _, _ = ensemble.predict(x)
    found = {"error_floor": np.median(np.abs(mean - y), axis=0).astype(np.float32)}
    noise = np.sort(1.0 / np.asarray(levels, dtype=np.float32))
    factors = []
    for sigma in noise:
        noisy = x + sigma * rng.standard_normal(x.shape, dtype=np.float32)
        mean, spread, through = evaluate_batches(ensemble, noisy, sigma)
        pull = (mean - y) / formal_error(found["error_floor"], spread, through)
        factors.append([_quantile(column) for column in pull.T])
    return found | {"error_noise": noise, "error_factor": np.array(factors, np.float32)}


def evaluate_batches(ensemble, x, sigma, *, batch_size=4096):
    """Mean, spread and propagated noise, each (N, n_out), not calibrated, of spectra with one noise level."""
    import torch

    found = []
    for start in range(0, len(x), batch_size):
        part = torch.from_numpy(np.ascontiguousarray(x[start : start + batch_size], dtype=np.float32))
        found.append(ensemble.evaluate(part, np.full(len(part), sigma, np.float32)))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def formal_error(floor, spread, noise):
    """Quadrature sum, (N, n_out)."""
    return np.sqrt(np.square(floor) + np.square(spread) + np.square(noise))


def scale_errors(arrays: Mapping[str, np.ndarray], mean, spread, noise, level) -> np.ndarray:
    """Errors (N, n_out) of spectra with a noise `level` (N,); the formal ones if `arrays` hold no factors."""
    if "error_factor" not in arrays:
        return formal_error(0.0, spread, noise)
    known = np.log(np.maximum(arrays["error_noise"], _QUIETEST))
    at = np.log(np.maximum(level, _QUIETEST))
    factor = np.stack([np.interp(at, known, column) for column in arrays["error_factor"].T], axis=1)
    return formal_error(arrays["error_floor"], spread, noise) * factor


def _quantile(pull):
    scaling = fit_error_scaling(pull, np.zeros_like(pull), n_bins=1, correct_bias=False, level=LEVEL)
    return scaling.error[0]
