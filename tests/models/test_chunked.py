"""The network of narrow-band filters on chunks, the one with a Gaussian head, and scores by S/N."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.models.chunked import ChunkedMLP, add_white_noise, score_by_sn
from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.training import fit, one_cycle

WAVELENGTH = np.arange(4050.0, 4050.0 + 263)


@pytest.fixture(scope="module")
def model():
    model = ChunkedMLP(wavelength=WAVELENGTH, outputs=("log_z_lw", "age_lw"), units=("dex", "Gyr"), seed=3)
    rng = np.random.default_rng(0)
    model.set_statistics(rng.normal(0, 0.05, (500, 263)), rng.normal([-1, 5], [0.5, 2], (500, 2)))
    return model.eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(0, 0.05, (40, 263)).astype(np.float32)


def test_equals_the_network_written_out(model, x):
    assert model.filters().shape == (25, 4, 11) and (model.filters()[13:, :, 10] == 0).all()
    parts, nodes = np.array_split(np.arange(263), 25), []
    for k, curves in enumerate(model.filters()):
        inside = model.chunk_index == k
        np.testing.assert_array_equal(np.flatnonzero(inside), parts[k])
        through = x[:, inside].astype(float) @ curves[:, : inside.sum()].T + model.bias[k].detach().numpy()
        nodes.append(1 / (1 + np.exp(-through)))
    h = np.concatenate(nodes, axis=1)
    found = torch.sigmoid(model.preactivations(torch.from_numpy(x))).flatten(1)
    np.testing.assert_allclose(found.detach().numpy(), h, atol=2e-6)
    layers = [(w.weight.detach().numpy(), w.bias.detach().numpy()) for w in model.dense[::2]]
    assert [len(bias) for _, bias in layers] == [64, 32, 2]
    for weight, bias in layers[:-1]:
        h = 1 / (1 + np.exp(-(h @ weight.T + bias)))
    expected = (h @ layers[-1][0].T + layers[-1][1]) * model.out_scale.numpy() + model.out_mean.numpy()
    np.testing.assert_allclose(model.predict(x), expected, atol=2e-5)


def test_a_filter_sees_its_chunk_alone_and_padding_learns_nothing(model, x):
    changed, copy = x.copy(), ChunkedMLP(**model.config)
    changed[:, model.chunk_index == 7] += 0.3
    before, after = (model.preactivations(torch.from_numpy(a)).detach() for a in (x, changed))
    moved = (before != after).any(dim=2).any(dim=0).numpy()
    np.testing.assert_array_equal(np.flatnonzero(moved), [7])
    copy(torch.from_numpy(x)).square().sum().backward()
    assert (copy.weight.grad[:13] != 0).any(dim=(0, 1)).all()
    assert (copy.weight.grad[13:, :, 10] == 0).all()


def data(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    noise = 0.1 + 0.4 * (x[:, :1] > 0)
    first = 100 + 10 * (np.sin(2 * x[:, :1]) + noise * rng.normal(size=(n, 1)))
    return {"x": x, "y": np.hstack([first, rng.normal(size=(n, 1))]).astype(np.float32)}


def test_finds_the_mean_and_the_noise_of_two_thirds():
    train, valid = data(4000, 0), data(2000, 1)
    train["y"][::7, 1] = np.nan
    gaussian = GaussianMLP(n_in=2, n_out=2, hidden=(32,))
    gaussian.set_statistics(train["x"], train["y"])
    how = {"epochs": 15, "batch_size": 64, "lr": 1e-2, "schedule": one_cycle(), "progress": False}
    fit(gaussian, train, valid, loss=gaussian_loss, **how)
    gaussian.calibrate(valid["x"], valid["y"])
    test = data(4000, 3)
    x, (mean, sigma) = test["x"][:, 0], gaussian.predict(test["x"])
    assert np.abs(mean[:, 0] - 100 - 10 * np.sin(2 * x)).mean() < 0.6
    assert np.median(sigma[x < -0.1, 0]) == pytest.approx(1.0, rel=0.25)
    assert np.median(sigma[x > 0.1, 0]) == pytest.approx(5.0, rel=0.25)
    # The other output is pure noise, and is said to be.
    assert np.abs(mean[:, 1]).max() < 0.35 and np.median(sigma[:, 1]) == pytest.approx(1.0, rel=0.1)
    covered = (np.abs(mean - test["y"]) < sigma).mean(axis=0)
    # 68.27% scaled on 2000 galaxies, asserted on 4000: three times both samples' errors.
    allowed = 3 * np.sqrt(0.6827 * 0.3173 * (1 / 2000 + 1 / 4000))
    np.testing.assert_allclose(covered, 0.6827, atol=allowed)
    assert [values.shape for values in gaussian.predict(np.zeros((0, 2)))] == [(0, 2)] * 2
    assert np.isnan(gaussian.predict(np.array([[0.0, np.nan]]))).all()


def test_the_mean_of_pixels_has_the_error_of_a_mean():
    """The predictor is the mean of 25 pixels plus 0.1: noise of 1/SN moves it by a fifth of that."""
    x = np.random.default_rng(0).normal(0, 0.01, (4000, 25)).astype("f4")
    quiet = xr.Dataset({"flux": (("galaxy", "wavelength"), x)})
    truth, seen = x.mean(axis=1, dtype=float), []
    assert (add_white_noise(x, 20.0, seed=1) - x).std() == pytest.approx(0.05, rel=0.02)
    scores = score_by_sn(lambda x, s: (x.mean(axis=1), s / 5), quiet, truth, levels=(50.0, 5.0))
    for sn, name in ((50.0, "50"), (5.0, "5")):
        assert scores[name]["rms"] == pytest.approx(0.2 / sn, rel=0.05)
        assert scores[name]["median_error"] == pytest.approx(0.2 / sn)
        assert abs(scores[name]["coverage"] - 0.6827) < 4 * scores[name]["coverage_error"]
    biased = score_by_sn(lambda x, s: x.mean(axis=1) + 0.1, quiet, truth, levels=(np.inf,))
    assert biased["inf"]["bias"] == pytest.approx(0.1, rel=1e-4) and "coverage" not in biased["inf"]
    for _ in range(2):
        score_by_sn(lambda x, s: seen.append(x) or x[:, 0], quiet, truth, levels=(10.0,), seed=3)
    np.testing.assert_array_equal(*seen)
