"""Weights in 8 bits: how wrong they can be, and that the disk keeps what was scored."""

import numpy as np
import pytest
import torch

from spectool.models import store
from spectool.models.denoise import DenseAutoencoder
from spectool.models.store import quantize_rows, restore_rows, round_weights

LARGE = {"n_pixels": 120, "n_latent": 3, "widths": (100, 90), "dropout": 0.0}


def test_an_entry_is_off_by_half_a_step_at_most():
    matrix = (
        torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 50)[:, None]
    )
    matrix[7] = 0
    again = restore_rows(*quantize_rows(matrix))
    step = matrix.abs().amax(dim=1, keepdim=True) / 127
    assert ((again - matrix).abs() <= 0.5001 * step).all()
    assert (again[7] == 0).all()
    assert torch.equal(again.abs().amax(dim=1), restore_rows(*quantize_rows(again)).abs().amax(dim=1))


def test_what_is_read_is_what_was_rounded(tmp_path):
    model = DenseAutoencoder(**LARGE).eval()
    round_weights(model, int8=True)
    path = store.save_model(tmp_path / "small", model, recipe={}, metrics={}, int8=True)
    again, _ = store.load_model(path, expected="DenseAutoencoder", n_latent=3)
    x = torch.rand(6, 120)
    torch.testing.assert_close(again(x)[0], model(x)[0], rtol=1e-6, atol=1e-7)
    whole = store.save_model(tmp_path / "whole", model, recipe={}, metrics={})
    assert path.stat().st_size < 0.35 * whole.stat().st_size


@pytest.mark.parametrize("ranks", [None, (None, 5, None, None, 4, None)])
def test_whole_and_thin_layers_survive_the_disk(tmp_path, ranks):
    model = DenseAutoencoder(**LARGE, ranks=ranks).eval()
    model.set_statistics(np.linspace(0, 1, 120), 0.2, np.linspace(3700, 7900, 120))
    again, info = store.load_model(store.save_model(tmp_path / "x", model, recipe={}, metrics={}))
    x = torch.rand(6, 120)
    assert torch.equal(again(x)[0], model(x)[0])
    assert info.config["ranks"] == (None if ranks is None else list(ranks))
    assert torch.equal(again.wavelength, model.wavelength)


def test_half_precision_rounds_all_weights_alike():
    model = DenseAutoencoder(**LARGE)
    before = [p.detach().clone() for p in model.parameters()]
    round_weights(model)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(new, old.half().float())
