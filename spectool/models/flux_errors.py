"""Errors of de-noised fluxes, learnt from what a model gets wrong on validation spectra.

The error of a pixel depends on the galaxy: an [O III] line is missed by more where it is strong. So the logarithm of
the residual's size is fitted, pixel by pixel, as a quadratic function of the latent vector (E ln|r| is ln sigma and a
constant), and the fit is then scaled so that 68% of the residuals of other validation spectra lie within it.
Neighbouring pixels are wrong together; the leading principal components of the pulls carry that into draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ONE_SIGMA = 0.6827
_RIDGE = 1e-2
_REACH = 3.0
_CLIP = 5.0


def fit_flux_errors(latent, residual, *, n_modes: int = 20, seed) -> dict[str, np.ndarray]:
    """Learn the errors of a model's fluxes.

    Parameters
    ----------
    latent
        (N, n_latent) latent vectors of validation spectra.
    residual
        (N, n_pixels) predicted minus true (noise-free) flux; NaN where the truth is not known.
    n_modes
        Principal components of the pulls to keep for draws.
    seed
        Of the halves that are fitted and scaled in turn: an int or a `numpy.random.Generator`.

    Returns
    -------
    dict
        Arrays, by names that begin with ``error_``: what `flux_errors` and `draw_errors` read, and what
        `spectool.models.store.save_model` keeps beside the model.

    Raises
    ------
    ValueError
        If there are fewer spectra than the fit has coefficients.
    """
    latent, residual = np.asarray(latent, dtype=np.float64), np.asarray(residual, dtype=np.float64)
    center, spread = latent.mean(axis=0), latent.std(axis=0) + 1e-12
    found = {
        "error_center": center.astype(np.float32),
        "error_spread": spread.astype(np.float32),
        "error_factor": np.ones(residual.shape[1], dtype=np.float32),
    }
    features = _features(latent, found)
    if len(latent) < 4 * features.shape[1]:
        raise ValueError(f"{len(latent)} spectra are too few for {features.shape[1]} coefficients per pixel")
    size = np.abs(residual)
    floor = np.nanmedian(size, axis=0) * 1e-2 + 1e-12
    target = np.log(np.fmax(size, floor))
    target = np.where(np.isfinite(residual), target, np.nanmean(target, axis=0))
    order = np.random.default_rng(seed).permutation(len(latent))
    pull = np.empty_like(residual)
    for fitted, scaled in (np.array_split(order, 2), np.array_split(order, 2)[::-1]):
        coefficients = _solve(features[fitted], target[fitted])
        pull[scaled] = size[scaled] / np.exp(features[scaled] @ coefficients)
    found["error_coefficients"] = _solve(features, target).astype(np.float16)
    found["error_factor"] = np.nanquantile(pull, ONE_SIGMA, axis=0).astype(np.float32)
    found["error_modes"] = pull_modes(residual / flux_errors(found, latent), n_modes=n_modes)
    return found


def pull_modes(pull, *, n_modes: int = 20) -> np.ndarray:
    """Leading principal components (n_modes, n_pixels) of pulls (N, n_pixels), each times its standard deviation."""
    pull = np.nan_to_num(pull).clip(-_CLIP, _CLIP)
    _, values, modes = np.linalg.svd(pull / np.sqrt(len(pull)), full_matrices=False)
    n_modes = min(n_modes, len(values))
    return (values[:n_modes, None] * modes[:n_modes]).astype(np.float16)


def flux_errors(arrays: Mapping[str, np.ndarray], latent) -> np.ndarray:
    """Errors (N, n_pixels), 1 sigma in normalised flux, of the fluxes predicted from latent vectors (N, n_latent).

    Parameters
    ----------
    arrays
        From `fit_flux_errors`; a model's `ModelInfo.arrays` has them.
    latent
        A row that is not finite gives NaN.

    Raises
    ------
    KeyError
        If the model came without errors.
    """
    if "error_coefficients" not in arrays:
        raise KeyError("this model came without errors of its fluxes (fit_flux_errors makes them)")
    latent = np.asarray(latent, dtype=np.float64)
    known = np.isfinite(latent).all(axis=1)
    errors = np.full((len(latent), len(arrays["error_factor"])), np.nan, dtype=np.float32)
    log_error = _features(latent[known], arrays) @ arrays["error_coefficients"].astype(np.float64)
    errors[known] = np.exp(log_error) * arrays["error_factor"]
    return errors


def draw_errors(arrays: Mapping[str, np.ndarray], errors, *, n: int, seed) -> np.ndarray:
    """Draws of what the predicted fluxes may be off by: of the size of the errors, correlated as residuals are.

    Parameters
    ----------
    arrays
        From `fit_flux_errors`.
    errors
        (N, n_pixels) from `flux_errors`.
    n
        Draws per spectrum.
    seed
        An int or a `numpy.random.Generator`.

    Returns
    -------
    ndarray
        (n, N, n_pixels), float32.
    """
    rng, errors = np.random.default_rng(seed), np.asarray(errors, dtype=np.float32)
    modes = arrays["error_modes"].astype(np.float32)
    # Pulls have unit variance by their scale: what the modes do not carry is drawn for each pixel alone.
    together = np.sqrt((modes**2).sum(axis=0))
    modes = modes / np.maximum(together, 1.0)
    rest = np.sqrt(np.clip(1.0 - (modes**2).sum(axis=0), 0.0, None)).astype(np.float32)
    draws = np.empty((n, *errors.shape), dtype=np.float32)
    for k in range(n):
        shared = rng.standard_normal((len(errors), len(modes)), dtype=np.float32) @ modes
        draws[k] = errors * (shared + rest * rng.standard_normal(errors.shape, dtype=np.float32))
    return draws


def _solve(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    normal = features.T @ features + _RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(normal, features.T @ target)


def _features(latent: np.ndarray, arrays) -> np.ndarray:
    """1, z, and all products of two, of standardised latents that stay in the range that was seen."""
    z = ((latent - arrays["error_center"]) / arrays["error_spread"]).clip(-_REACH, _REACH)
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, i] * z[:, j]], axis=1)
