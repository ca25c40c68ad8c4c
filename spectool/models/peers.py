"""Classical peers of the networks: forests, support vectors and boosted trees, on fluxes or on components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spectool.models.chunked import SN_LEVELS, assign_levels
from spectool.models.denoise import PCAModel
from spectool.parallel import n_workers

SVM_ROWS = 5000


def train_forest(
    x, labels, *, seed=0, n_trees: int = 100, min_leaf: int = 2, noisy_copies: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """A random forest (Breiman 2001) per property.

    Parameters
    ----------
    x
        (N, column) inputs; rows with a value that is not finite are left out.
    labels
        (N, property) or (N,).
    seed
    n_trees, min_leaf
        Of scikit-learn's forest.
    noisy_copies
        Train on so many copies, with the noise of spectra, of coefficients from `project`; 0: on `x` as it is.

    Returns
    -------
    callable
        From (N, column) to predictions of the labels' shape, NaN where an input is not finite.

    Raises
    ------
    ValueError
        If no row is usable.
    """
    from sklearn.ensemble import RandomForestRegressor

    def make():
        return RandomForestRegressor(
            n_trees, min_samples_leaf=min_leaf, max_features=0.5, random_state=seed, n_jobs=n_workers()
        )

    return _train(make, *_with_noise(x, labels, noisy_copies, seed))


def train_boosting(
    x,
    labels,
    *,
    seed=0,
    n_iterations: int = 500,
    rate: float = 0.08,
    early_stopping: bool = True,
    noisy_copies: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Gradient-boosted trees (scikit-learn's histogram ones) per property; otherwise as `train_forest`.

    With `early_stopping` a tenth of the rows ends the training.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    def make():
        return HistGradientBoostingRegressor(
            max_iter=n_iterations, learning_rate=rate, early_stopping=early_stopping, random_state=seed
        )

    return _train(make, *_with_noise(x, labels, noisy_copies, seed))


def train_svm(x, labels, *, seed=0, n_rows: int = SVM_ROWS) -> Callable[[np.ndarray], np.ndarray]:
    """Support-vector regression with a Gaussian kernel per property, on `n_rows` drawn by `seed`: its time grows as
    their square. Cost 10 and tolerance 0.05 are of labels scaled to unit variance; otherwise as `train_forest`."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    def make():
        return TransformedTargetRegressor(SVR(C=10.0, epsilon=0.05), transformer=StandardScaler())

    rows = np.random.default_rng(seed).permutation(len(x))[:n_rows]
    return _train(make, x[rows], labels[rows])


def _train(make, x, labels):
    """Fit one learner per column of labels."""
    fitted = []
    for column in np.reshape(labels, (len(labels), -1)).T:
        good = np.isfinite(column) & np.isfinite(x).all(axis=1)
        if not good.any():
            raise ValueError("no row has a finite label and finite inputs")
        fitted.append(make().fit(x[good], column[good]))

    def predict(x):
        predicted = np.full((len(x), len(fitted)), np.nan)
        good = np.isfinite(x).all(axis=1)
        if good.any():
            predicted[good] = np.stack([learner.predict(x[good]) for learner in fitted], axis=1)
        return predicted.reshape(len(x), *np.shape(labels)[1:])

    return predict


def _with_noise(coefficients, labels, n_copies, seed):
    if not n_copies:
        return coefficients, labels
    copies = [add_coefficient_noise(coefficients, seed=[seed, k]) for k in range(n_copies)]
    return np.concatenate(copies), np.concatenate([labels] * n_copies)


def project(pca: PCAModel, flux) -> np.ndarray:
    """Coefficients (N, n_components), float32, of prepared spectra (N, n_kept)."""
    coefficients = np.empty((len(flux), pca.n_latent), np.float32)
    with torch.inference_mode():
        for start in range(0, len(flux), 4096):
            part = np.ascontiguousarray(flux[start : start + 4096], dtype=np.float32)
            coefficients[start : start + 4096] = pca.encode(torch.from_numpy(part))[0]
    return coefficients


def add_coefficient_noise(coefficients: np.ndarray, *, seed) -> np.ndarray:
    """Coefficients with the noise of spectra, a fifth at each S/N, once: trees cannot have it drawn afresh."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    sigma = assign_levels(len(coefficients), SN_LEVELS, generator)[:, None]
    noise = torch.randn(coefficients.shape, generator=generator)
    return coefficients + (sigma * noise).numpy()
