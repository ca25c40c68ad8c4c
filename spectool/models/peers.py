"""Classical peers of the networks: forests, support vectors and boosted trees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spectool.parallel import n_workers

SVM_ROWS = 5000


def train_forest(
    x, labels, *, seed=0, n_trees: int = 100, min_leaf: int = 2
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

    return _train(make, x, labels)


def train_boosting(
    x,
    labels,
    *,
    seed=0,
    n_iterations: int = 500,
    rate: float = 0.08,
    early_stopping: bool = True,
) -> Callable[[np.ndarray], np.ndarray]:
    """Gradient-boosted trees (scikit-learn's histogram ones) per property; otherwise as `train_forest`.

    With `early_stopping` a tenth of the rows ends the training.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    def make():
        return HistGradientBoostingRegressor(
            max_iter=n_iterations, learning_rate=rate, early_stopping=early_stopping, random_state=seed
        )

    return _train(make, x, labels)


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
