"""The network whose first layer is a bank of narrow-band filters."""

import numpy as np
import pytest
import torch

from spectool.models.chunked import ChunkedMLP
from spectool.models.store import load_model, save_model

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


def test_chunks_are_numpys(model):
    parts = np.array_split(np.arange(263), 25)
    for k, part in enumerate(parts):
        np.testing.assert_array_equal(np.flatnonzero(model.chunk_index == k), part)
    assert model.filters().shape == (25, 4, 11)
    assert (model.filters()[13:, :, 10] == 0).all()


def test_equals_the_network_written_out(model, x):
    nodes = []
    for k, curves in enumerate(model.filters()):
        inside = model.chunk_index == k
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


def test_a_filter_sees_its_chunk_alone(model, x):
    changed = x.copy()
    changed[:, model.chunk_index == 7] += 0.3
    before, after = (model.preactivations(torch.from_numpy(a)).detach() for a in (x, changed))
    moved = (before != after).any(dim=2).any(dim=0).numpy()
    np.testing.assert_array_equal(np.flatnonzero(moved), [7])


def test_paper_s_two_readings():
    wavelength = np.arange(4050.0, 4050.0 + 2500)
    x = torch.zeros(1, 2500)
    assert ChunkedMLP(wavelength=wavelength).preactivations(x).shape == (1, 25, 4)
    assert ChunkedMLP(wavelength=wavelength, n_filters=16).preactivations(x).shape == (1, 25, 16)


def test_padding_learns_nothing(model, x):
    copy = ChunkedMLP(**model.config)
    copy(torch.from_numpy(x)).square().sum().backward()
    assert (copy.weight.grad[:13] != 0).any(dim=(0, 1)).all()
    assert (copy.weight.grad[13:, :, 10] == 0).all()


def test_comes_back_from_a_file(model, x, tmp_path):
    path = save_model(tmp_path / "chunked", model, recipe={}, metrics={})
    again, info = load_model(path, expected="ChunkedMLP")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(again.wavelength, WAVELENGTH)
    assert info.config["outputs"] == ["log_z_lw", "age_lw"]
    assert again.units == ("dex", "Gyr")


def test_batches_and_bad_rows(model, x):
    bad = x.copy()
    bad[5, 100] = np.nan
    found = model.predict(bad, batch_size=7)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found).any(axis=1)), [5])
    keep = np.arange(40) != 5
    np.testing.assert_allclose(found[keep], model.predict(x)[keep], atol=1e-6)


def test_same_seed_same_weights():
    one, two, other = (ChunkedMLP(wavelength=WAVELENGTH, seed=seed).filters() for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_bad_options_are_told(model):
    with pytest.raises(ValueError, match="increasing row"):
        ChunkedMLP(wavelength=WAVELENGTH[::-1])
    with pytest.raises(ValueError, match="20 pixels cannot be cut into 25 chunks"):
        ChunkedMLP(wavelength=WAVELENGTH[:20])
    with pytest.raises(ValueError, match="1 units for 2 outputs"):
        ChunkedMLP(wavelength=WAVELENGTH, outputs=("a", "b"))
    with pytest.raises(ValueError, match=r"takes \(N, 263\)"):
        model.predict(np.zeros((3, 100)))
    with pytest.raises(ValueError, match="age_lw has no finite label"):
        model.set_statistics(np.zeros((3, 263)), np.array([[1.0, np.nan]] * 3))
