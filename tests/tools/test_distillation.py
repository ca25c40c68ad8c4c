"""Compression keeps what the loss sees: exactly where it can, and to a percent where it must choose."""

import copy

import numpy as np
import pytest
import torch

from spectool.models.denoise import DenseAutoencoder
from spectool.models.store import round_weights
from spectool.papers.scourfield2023.network import score
from tools.make.distillation import compress, dense_layers, measure_layers, refine


@pytest.fixture(scope="module")
def moments(trained):
    train = trained["data"]["train"]
    return measure_layers(trained["model"], train["input"], train["weight"], seed=0)


def test_a_matrix_of_low_rank_is_found_and_nothing_is_lost():
    model = DenseAutoencoder(n_pixels=100, n_latent=2, widths=(90, 80), dropout=0.0, variational=False).eval()
    with torch.no_grad():
        u, s, v = torch.linalg.svd(model.encoder[3].weight, full_matrices=False)
        model.encoder[3].weight.copy_((u[:, :5] * s[:5]) @ v[:5])
    x = np.random.default_rng(0).normal(size=(600, 100)).astype(np.float32)
    before = model(torch.from_numpy(x))[0]
    scale = before.square().sum(dim=1).mean().item()
    small = compress(model, measure_layers(model, x, np.ones_like(x), seed=0), tolerance=1e-6 * scale)
    # Encoder 100-90-80-2, decoder 2-80-90-100; the second layer has rank 5, the narrow ones stay whole.
    assert small.config["ranks"][1] == 5
    assert small.config["ranks"][2:4] == [None, None]
    torch.testing.assert_close(small(torch.from_numpy(x))[0], before, rtol=0, atol=1e-3 * scale**0.5)


def test_the_estimate_of_the_loss_is_that_of_a_small_cut(trained, moments):
    model, train = trained["model"], trained["data"]["train"]
    before = copy.deepcopy(model.state_dict())
    whole = score(model, train)[0]["loss"]
    small = compress(model, moments, tolerance=0.03 * whole)
    assert any(small.config["ranks"]) and len(dense_layers(small)) == 10
    assert score(small, train)[0]["loss"] < 1.06 * whole
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="compressed already"):
        compress(small, moments, tolerance=1.0)


def test_test_loss_changes_by_less_than_a_percent(trained, moments):
    model, data = trained["model"], trained["data"]
    valid, test = (score(model, data[part])[0]["loss"] for part in ("valid", "test"))
    small = compress(model, moments, tolerance=0.4 * valid)
    refine(small, model, data["train"], data["valid"], target=valid, lr=1e-3, seed=0)
    round_weights(small, int8=True)
    n = [sum(p.numel() for p in m.parameters()) for m in (model, small)]
    assert n[1] < 0.5 * n[0]
    assert score(small, data["test"])[0]["loss"] == pytest.approx(test, rel=0.01)


def test_refining_mends_a_cut_that_went_too_far(trained, moments):
    model, data = trained["model"], trained["data"]
    valid = score(model, data["valid"])[0]["loss"]
    small = compress(model, moments, tolerance=2.0 * valid)
    before = score(small, data["valid"])[0]["loss"] / valid - 1
    change = refine(small, model, data["train"], data["valid"], target=valid, n_steps=6, lr=1e-3, seed=0)
    assert change < 0.5 * before
    rounded = copy.deepcopy(small)
    round_weights(rounded, int8=True)
    assert score(rounded, data["valid"])[0]["loss"] / valid - 1 == pytest.approx(change, abs=1e-5)
