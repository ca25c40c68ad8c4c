"""Floor and factors of the formal errors of metallicity networks, from spectra of known truth."""

import numpy as np
import torch

from spectool.models.calibration import fit_error_scaling
from spectool.models.chunked import formal_error

LEVELS = (np.inf, 200.0, 100.0, 50.0, 30.0, 20.0, 14.0, 10.0, 7.0, 5.0, 3.5)
"""S/N per 1-Angstrom pixel at which errors are scaled; between them the factor is interpolated."""
BATCH_SIZE = 4096


def fit_errors(ensemble, x, y, *, levels=LEVELS, seed=0) -> dict[str, np.ndarray]:
    """Learn a floor and a factor for formal errors, from spectra of known truth with noise added."""
    rng = np.random.default_rng(seed)
    mean, _, _ = ensemble.predict(x)
    arrays = {"error_floor": np.median(np.abs(mean - y), axis=0).astype(np.float32)}
    noise = np.sort(1.0 / np.asarray(levels, dtype=np.float32))
    factors = []
    for sigma in noise:
        noisy = x + sigma * rng.standard_normal(x.shape, dtype=np.float32)
        mean, spread, through = evaluate_batches(ensemble, noisy, sigma)
        pull = (mean - y) / formal_error(arrays["error_floor"], spread, through)
        scalings = [fit_error_scaling(p, np.zeros_like(p), n_bins=1, correct_bias=False) for p in pull.T]
        factors.append([scaling.error[0] for scaling in scalings])
    return arrays | {"error_noise": noise, "error_factor": np.array(factors, np.float32)}


def evaluate_batches(ensemble, x, sigma):
    """Mean, spread and propagated noise, each (N, n_out), not calibrated, of spectra with one noise level."""
    parts = []
    for start in range(0, len(x), BATCH_SIZE):
        part = torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH_SIZE], dtype=np.float32))
        parts.append(ensemble.evaluate(part, np.full(len(part), sigma, np.float32)))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))
