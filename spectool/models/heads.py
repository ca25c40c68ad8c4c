"""What networks with a mean and, if they have it, a Gaussian head say of a whole sample, batch by batch."""

from __future__ import annotations

import numpy as np
import torch


def predict_normal(model, x: np.ndarray, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (N, n_out) in the outputs' units, for encoded inputs (N, n_in).

    Parameters
    ----------
    model
        A module that maps (B, ``n_in``) to mean and log variance (or None) of outputs standardised by ``out_mean`` and
        ``out_scale``.
    x
        NaN in a row makes its answer NaN: a maximum over bands, and max(0, x), need not pass it on.
    batch_size

    Returns
    -------
    mean, deviation : ndarray
        The deviation is NaN without a Gaussian head.

    Raises
    ------
    ValueError
        If the inputs have another width than the model's.
    """
    if np.ndim(x) != 2 or x.shape[1] != model.n_in:
        raise ValueError(f"inputs of shape {np.shape(x)} do not fit this model: it takes (N, {model.n_in})")
    model.eval()
    means = np.empty((len(x), model.n_out), np.float32)
    sigmas = np.full((len(x), model.n_out), np.nan, np.float32)
    with torch.inference_mode():
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            mean, log_var = model(torch.from_numpy(np.ascontiguousarray(x[rows], dtype=np.float32)))
            means[rows] = (mean * model.out_scale + model.out_mean).numpy()
            if log_var is not None:
                sigmas[rows] = (torch.exp(0.5 * log_var) * model.out_scale).numpy()
    bad = np.isnan(x).any(axis=1)
    means[bad], sigmas[bad] = np.nan, np.nan
    return means, sigmas
