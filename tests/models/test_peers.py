"""Classical peers learn, leave out what is not finite, and say when nothing is left."""

import numpy as np
import pytest

from spectool.models.peers import train_boosting, train_forest, train_svm

SMALLER = {train_forest: {"n_trees": 15}, train_svm: {"n_rows": 1000}, train_boosting: {"n_iterations": 60}}


@pytest.mark.parametrize("train", SMALLER)
def test_peers_learn(train):
    x = np.random.default_rng(0).normal(size=(4000, 5))
    labels = np.stack([np.tanh(x[:, 0]) + 0.1 * x[:, 1], x[:, 2]], axis=1)
    labels[::5, 1] = np.nan
    predict = train(x[:2000], labels[:2000], **SMALLER[train])
    asked = x[2000:].copy()
    asked[0, 3] = np.nan
    mean = predict(asked)
    assert np.isnan(mean[0]).all() and np.isfinite(mean[1:]).all()
    assert (np.nanstd(mean - labels[2000:], axis=0) < 0.5 * np.nanstd(labels, axis=0)).all()
    assert train(x[:500], labels[:500, 0], **SMALLER[train])(asked).shape == (2000,)
    with pytest.raises(ValueError, match="no row"):
        train(x, np.full((4000, 1), np.nan))
