"""The network with a Gaussian head: it knows what it does not know."""

import numpy as np
import pytest

from spectool.models.chunked import GaussianMLP, gaussian_loss
from spectool.models.training import fit, one_cycle


def data(n, seed):
    """One output with noise that grows with the input, one that is pure noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    noise = 0.1 + 0.4 * (x[:, :1] > 0)
    first = 100 + 10 * (np.sin(2 * x[:, :1]) + noise * rng.normal(size=(n, 1)))
    return {"x": x, "y": np.hstack([first, rng.normal(size=(n, 1))]).astype(np.float32)}


@pytest.fixture(scope="module")
def trained():
    train, valid = data(4000, 0), data(2000, 1)
    train["y"][::7, 1] = np.nan
    mlp = GaussianMLP(n_in=2, n_out=2, hidden=(32,))
    mlp.set_statistics(train["x"], train["y"])
    fit(
        mlp,
        train,
        valid,
        loss=gaussian_loss,
        epochs=15,
        batch_size=64,
        lr=1e-2,
        schedule=one_cycle(),
        progress=False,
    )
    mlp.calibrate(valid["x"], valid["y"])
    return mlp


def test_finds_the_mean_and_the_noise(trained):
    test = data(2000, 2)
    mean, sigma = trained.predict(test["x"])
    assert np.abs(mean[:, 0] - 100 - 10 * np.sin(2 * test["x"][:, 0])).mean() < 0.6
    quiet = test["x"][:, 0] < -0.1
    loud = test["x"][:, 0] > 0.1
    assert np.median(sigma[quiet, 0]) == pytest.approx(1.0, rel=0.25)
    assert np.median(sigma[loud, 0]) == pytest.approx(5.0, rel=0.25)


def test_cannot_predict_noise_and_says_so(trained):
    test = data(2000, 2)
    mean, sigma = trained.predict(test["x"])
    assert np.abs(mean[:, 1]).max() < 0.35
    assert np.median(sigma[:, 1]) == pytest.approx(1.0, rel=0.1)


def test_errors_cover_two_thirds(trained):
    test = data(4000, 3)
    mean, sigma = trained.predict(test["x"])
    covered = (np.abs(mean - test["y"]) < sigma).mean(axis=0)
    # 68.27% scaled on 2000 galaxies, asserted on 4000: three times both samples' errors.
    allowed = 3 * np.sqrt(0.6827 * 0.3173 * (1 / 2000 + 1 / 4000))
    np.testing.assert_allclose(covered, 0.6827, atol=allowed)


def test_bad_input_is_told(trained):
    with pytest.raises(ValueError, match=r"takes \(N, 2\)"):
        trained.predict(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="3 names for 2 outputs"):
        GaussianMLP(n_in=2, n_out=2, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="column 1 of the outputs has no finite value"):
        trained.set_statistics(np.zeros((3, 2)), np.array([[1.0, np.nan]] * 3))


def test_an_input_that_is_not_finite_gives_nan(trained):
    mean, sigma = trained.predict(np.array([[0.0, np.nan], [0.0, 0.0]]))
    assert np.isnan(mean[0]).all()
    assert np.isnan(sigma[0]).all()
    assert np.isfinite(mean[1]).all()


def test_nothing_in_nothing_out(trained):
    mean, sigma = trained.predict(np.zeros((0, 2)))
    assert mean.shape == sigma.shape == (0, 2)
