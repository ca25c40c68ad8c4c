"""Learners beside the networks: the forest and the support vectors that the paper tried, and boosted trees.

All take encoded inputs (`SedMLP.encode`) and return a function from these to properties (N, n_out). Rows with an input
that is not finite, and labels that are not, are left out. Trees do not care about scalings; support vectors do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spectool.parallel import n_workers

SVM_ROWS = 5000


def train_forest(
    x, labels, *, seed=0, n_trees: int = 100, min_leaf: int = 2
) -> Callable[[np.ndarray], np.ndarray]:
    """A random forest (Breiman 2001) per property."""
    from sklearn.ensemble import RandomForestRegressor

    def make():
        return RandomForestRegressor(
            n_trees, min_samples_leaf=min_leaf, max_features=0.5, random_state=seed, n_jobs=n_workers()
        )

    return _train(make, x, labels)


def train_svm(
    x, labels, *, seed=0, n_rows: int = SVM_ROWS, cost: float = 10.0, tolerance: float = 0.05
) -> Callable[[np.ndarray], np.ndarray]:
    """Support-vector regression with a Gaussian kernel per property, on some rows: its time grows as their square.

    Parameters
    ----------
    x, labels
    seed
        Of the choice of rows.
    n_rows
    cost, tolerance
        Of labels scaled to unit variance.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    def make():
        return TransformedTargetRegressor(SVR(C=cost, epsilon=tolerance), transformer=StandardScaler())

    rows = np.random.default_rng(seed).permutation(len(x))[:n_rows]
    return _train(make, x[rows], labels[rows])


def train_boosting(
    x, labels, *, seed=0, n_iterations: int = 500, rate: float = 0.08
) -> Callable[[np.ndarray], np.ndarray]:
    """Gradient-boosted trees (scikit-learn's histogram ones) per property; stops by a tenth of the rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def make():
        return HistGradientBoostingRegressor(
            max_iter=n_iterations, learning_rate=rate, early_stopping=True, random_state=seed
        )

    return _train(make, x, labels)


def _train(make, x, labels):
    """Fit one learner per column of labels."""
    fitted = []
    for column in np.asarray(labels).T:
        good = np.isfinite(column) & np.isfinite(x).all(axis=1)
        if not good.any():
            raise ValueError("no row has a finite label and finite inputs")
        fitted.append(make().fit(x[good], column[good]))

    def predict(x):
        found = np.full((len(x), len(fitted)), np.nan)
        good = np.isfinite(x).all(axis=1)
        if good.any():
            found[good] = np.stack([one.predict(x[good]) for one in fitted], axis=1)
        return found

    return predict
