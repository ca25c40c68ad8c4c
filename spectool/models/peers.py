"""Classical peers of the networks: forests, support vectors and boosted trees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spectool.parallel import n_workers

SVM_ROWS = 5000
Predict = Callable[[np.ndarray], np.ndarray]


def train_forest(x, labels, *, seed=0, n_trees: int = 100, min_leaf: int = 2) -> Predict:
    """A random forest (Breiman 2001) per property: a function of (N, column), NaN where an input is not finite.

    Parameters
    ----------
    x, labels
        (N, column) inputs, and (N, property) or (N,); rows with a value that is not finite are left out.
    n_trees, min_leaf
        Of scikit-learn's forest.
    """
    from sklearn.ensemble import RandomForestRegressor

    options = {"min_samples_leaf": min_leaf, "max_features": 0.5, "random_state": seed, "n_jobs": n_workers()}
    return _train(lambda: RandomForestRegressor(n_trees, **options), x, labels)


def train_boosting(
    x, labels, *, seed=0, n_iterations: int = 500, rate: float = 0.08, early_stopping: bool = True
) -> Predict:
    """As `train_forest`: gradient-boosted histogram trees; with `early_stopping` a tenth of the rows ends it."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    options = {"learning_rate": rate, "early_stopping": early_stopping, "random_state": seed}
    return _train(lambda: HistGradientBoostingRegressor(max_iter=n_iterations, **options), x, labels)


def train_svm(x, labels, *, seed=0, n_rows: int = SVM_ROWS) -> Predict:
    """As `train_forest`: support vectors with a Gaussian kernel, on `n_rows` drawn by `seed`: their time grows as
    the square. Cost 10 and tolerance 0.05 are of labels scaled to unit variance."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    rows = np.random.default_rng(seed).permutation(len(x))[:n_rows]
    learner = SVR(C=10.0, epsilon=0.05)
    return _train(
        lambda: TransformedTargetRegressor(learner, transformer=StandardScaler()), x[rows], labels[rows]
    )


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
