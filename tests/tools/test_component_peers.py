"""Learners on principal components, as Section 8 of Zahid et al. (2019) tried them."""

import numpy as np
import pytest

from spectool.continuum import N_KEPT
from spectool.models import peers
from spectool.models.chunked import SN_LEVELS
from spectool.papers.zahid2019.network import add_coefficient_noise, copy_with_noise, project
from spectool.papers.zahid2019.sample import HELDOUT_SEED, make_heldout
from spectool.synth.grid import SSPGrid
from tools.make.component_peers import fit_ssp_pca, train_small_network


@pytest.fixture(scope="module")
def pca():
    return fit_ssp_pca()


def make_coefficients(n, seed):
    """Ten numbers, the first of which the label is a curve of."""
    x = np.random.default_rng(seed).normal(0, 1, (n, 10)).astype("f4")
    return x, np.tanh(x[:, 0]) + 0.1 * x[:, 1]


def test_ten_components_hold_nearly_all_variance(pca):
    """The paper's statement, for ours; components are orthonormal."""
    assert pca.components.shape == (10, N_KEPT)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(10), atol=1e-4)
    grid = SSPGrid.embedded()
    more = fit_ssp_pca(grid, n_components=60).variance
    assert float(more[:10].sum() / more.sum()) > 0.98


def test_bursts_stand_for_galaxies(pca):
    sample = make_heldout(100, seed=HELDOUT_SEED)
    flux = sample["flux"].values
    again = pca.components.T.numpy() @ project(pca, flux).T + pca.pixel_mean.numpy()[:, None]
    left = np.sqrt(np.mean((again.T - flux) ** 2))
    assert left < 0.15 * np.sqrt(np.mean(flux**2))


def test_noise_of_coefficients_is_that_of_pixels(pca):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2000, N_KEPT)).astype("f4")
    through = project(pca, pca.pixel_mean.numpy() + noise)
    assert through.std(axis=0) == pytest.approx(0.1, rel=0.08)
    drawn = add_coefficient_noise(np.zeros((5000, 10), "f4"), seed=1)
    deviation = np.sqrt(np.mean(np.square(1 / np.array(SN_LEVELS))))
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.05)
    assert (drawn == 0).all(axis=1).mean() == 0.2


@pytest.mark.parametrize("kind", ["forest", "boosting", "network"])
def test_every_learner_learns(kind):
    train, y = make_coefficients(4000, 0)
    test, truth = make_coefficients(1000, 1)
    if kind == "forest":
        predict = peers.train_forest(*copy_with_noise(train, y, 1, seed=0), n_trees=20, min_leaf=20)
    elif kind == "boosting":
        predict = peers.train_boosting(
            *copy_with_noise(train, y, 1, seed=0), n_iterations=60, rate=0.1, early_stopping=False
        )
    else:
        valid = make_coefficients(1000, 2)
        model, history = train_small_network(train, y, *valid, epochs=8, progress=False)
        assert history.best_loss == history.column("valid_loss").min()

        def predict(x):
            return model.predict(x)[0][:, 0]

    assert np.sqrt(np.mean((predict(test) - truth) ** 2)) < 0.25 * truth.std()
