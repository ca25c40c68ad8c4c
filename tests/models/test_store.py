"""Models on disk: what is written beside the weights, in 32, 16 or 8 bits, and a wrong file says so."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectool.models import store
from spectool.models.denoise import DenseAutoencoder
from spectool.models.store import load_model, quantize_rows, restore_rows, round_weights, save_model
from tests.refusals import refused


@pytest.fixture
def model():
    dense = DenseAutoencoder(n_pixels=120, n_latent=3, widths=(100, 90), dropout=0.0)
    dense.set_statistics(np.linspace(0, 1, 120), 0.2, np.linspace(3700, 7900, 120))
    return dense.eval()


def write(folder, model, **options):
    return save_model(folder / "dense", model, **{"recipe": {}, "metrics": {}} | options)


def test_what_is_known_of_a_model_is_stored_with_it(tmp_path, model):
    arrays = {"latent_min": -np.ones(3), "informative": np.array([0, 2])}
    recipe = {"n": 10, "seeds": np.array([1, 2]), "file": tmp_path}
    about = {"recipe": recipe, "metrics": {"mse": np.float32(0.5)}, "arrays": arrays}
    _, info = load_model(write(tmp_path, model, **about))
    assert (info.name, info.model_class, info.metrics) == ("dense", "DenseAutoencoder", {"mse": 0.5})
    assert info.recipe == {"n": 10, "seeds": [1, 2], "file": str(tmp_path)}
    for name, values in arrays.items():
        np.testing.assert_array_equal(info.arrays[name], values, strict=True)
    refused("set is not JSON", write, tmp_path, model, error=TypeError, recipe={"n": {1}})


def test_fewer_bits_make_smaller_files_and_nearly_the_same_model(tmp_path, model):
    whole, x = write(tmp_path, model).stat().st_size, torch.rand(6, 120)
    for form, share, error in (("half", 0.55, 1e-3), ("int8", 0.35, 0.02)):
        path = write(tmp_path, model, **{form: True})
        assert path.stat().st_size < share * whole
        again, _ = load_model(path)
        torch.testing.assert_close(again(x)[0], model(x)[0], atol=error, rtol=0)
    before = [p.detach().clone() for p in model.parameters()]
    round_weights(model)
    assert all(torch.equal(p, old.half().float()) for p, old in zip(model.parameters(), before, strict=True))
    model.decoder[0].weight.data[0, 0] = 1e6
    refused(r"decoder\.0\.weight does not fit", write, tmp_path, model, half=True)


def test_an_entry_is_off_by_half_a_step_at_most():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 40, generator=generator) * torch.logspace(-4, 4, 50)[:, None]
    matrix[7] = 0
    again = restore_rows(*quantize_rows(matrix))
    step = matrix.abs().amax(dim=1, keepdim=True) / 127
    assert ((again - matrix).abs() <= 0.5001 * step).all() and (again[7] == 0).all()
    assert torch.equal(again.abs().amax(dim=1), restore_rows(*quantize_rows(again)).abs().amax(dim=1))


def test_wrong_files_and_models_are_named(tmp_path, model, monkeypatch):
    path = write(tmp_path, model)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    monkeypatch.delitem(store.CLASSES, "DenseAutoencoder")
    refused("holds a DenseAutoencoder, which this version does not know", load_model, path)
    refused("cannot store a DenseAutoencoder", write, tmp_path, model)
    monkeypatch.undo()
    model.config["n_latent"] = 5
    misfit = save_model(tmp_path / "misfit", model, recipe={}, metrics={})
    for name, options, message in (
        (path, {"expected": "GaussianMLP"}, "not the GaussianMLP"),
        (path, {"n_latent": 32}, "3 latent dimensions, not 32"),
        (tmp_path / "cut.safetensors", {}, r"cut\.safetensors is not a whole safetensors file"),
        (tmp_path / "text.safetensors", {}, "not a whole safetensors file"),
        (tmp_path / "other.safetensors", {}, "not one that"),
        (misfit, {}, "do not fit its own configuration"),
    ):
        refused(message, load_model, name, **options)
    refused("no shipped model of that name", load_model, "no_such_model", error=FileNotFoundError)
