"""Models on disk: what is read is what was written, in 32, 16 or 8 bits, and a wrong file says so."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectool.models import store
from spectool.models.denoise import DenseAutoencoder, fit_pca
from spectool.models.layers import GaussianMLP
from spectool.models.store import quantize_rows, restore_rows, round_weights
from spectool.models.vae import ConvBetaVAE, decode_latent

TINY = {"n_pixels": 60, "n_latent": 3, "channels": (4,), "strides": (4,), "hidden": (8,), "decoder": "dense"}

LARGE = {"n_pixels": 120, "n_latent": 3, "widths": (100, 90), "dropout": 0.0}


@pytest.fixture
def model():
    vae = ConvBetaVAE(**TINY, seed=4)
    vae.set_statistics(np.linspace(1, 2, 60), np.linspace(0.1, 0.3, 60), np.linspace(1000, 10000, 60))
    return vae.eval()


def write(tmp_path, model, **options):
    return store.save_model(
        tmp_path / "vae",
        model,
        recipe={"n": 10, "seeds": [1, 2]},
        metrics={"mse": np.float32(0.5)},
        arrays={"latent_min": -np.ones(3), "informative": np.array([0, 2])},
        **options,
    )


def test_round_trip(tmp_path, model):
    path = write(tmp_path, model)
    again, info = store.load_model(path)
    z = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_array_equal(decode_latent(again, z), decode_latent(model, z))
    assert info.model_class == "ConvBetaVAE"
    assert info.recipe == {"n": 10, "seeds": [1, 2]}
    assert info.metrics == {"mse": 0.5}
    assert info.name == "vae"
    np.testing.assert_array_equal(info.arrays["informative"], [0, 2])
    assert info.arrays["latent_min"].dtype == np.float64
    assert not again.training


def test_half_precision_halves_the_file_and_keeps_the_statistics(tmp_path, model):
    whole = write(tmp_path, model).stat().st_size
    path = write(tmp_path, model, half=True)
    again, _ = store.load_model(path)
    assert path.stat().st_size < whole
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.equal(again.pixel_mean, model.pixel_mean)
    assert torch.equal(again.wavelength, model.wavelength)
    z = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(decode_latent(again, z), decode_latent(model, z), atol=1e-3)


def test_a_weight_too_large_for_half_precision_is_told(tmp_path, model):
    with torch.no_grad():
        model.head_mu.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"head_mu\.weight does not fit"):
        write(tmp_path, model, half=True)


def test_networks_for_parameters_are_stored_alike(tmp_path):
    mlp = GaussianMLP(n_in=3, n_out=2, hidden=(4,), names=["a", "b"], units=["", "Gyr"])
    again, info = store.load_model(store.save_model(tmp_path / "mlp", mlp, recipe={}, metrics={}))
    assert again.names == ("a", "b")
    assert info.model_class == "GaussianMLP"
    x = np.ones((2, 3))
    np.testing.assert_array_equal(again.predict(x)[0], mlp.predict(x)[0])


def test_wrong_files_are_told(tmp_path, model):
    path = write(tmp_path, model)
    with pytest.raises(FileNotFoundError, match="no shipped model of that name"):
        store.load_model("no_such_model")
    with pytest.raises(ValueError, match="not the GaussianMLP"):
        store.load_model(path, expected="GaussianMLP")
    with pytest.raises(ValueError, match="3 latent dimensions, not 32"):
        store.load_model(path, n_latent=32)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors is not a whole safetensors file"):
        store.load_model(cut)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        store.load_model(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not one that"):
        store.load_model(tmp_path / "other.safetensors")


def test_weights_that_do_not_fit_their_configuration_are_told(tmp_path, model):
    model.config["n_latent"] = 5
    path = store.save_model(tmp_path / "x", model, recipe={}, metrics={})
    with pytest.raises(ValueError, match="do not fit its own configuration"):
        store.load_model(path)


def test_unknown_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot store a Linear"):
        store.save_model(tmp_path / "x", torch.nn.Linear(1, 1), recipe={}, metrics={})


def test_shipped_models_load():
    for name in store.shipped_models():
        model, info = store.load_model(name)
        assert info.recipe
        assert info.metrics
        assert all(torch.isfinite(p).all() for p in model.parameters())


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


def test_components_are_not_rounded(tmp_path):
    flux = np.random.default_rng(0).normal(size=(80, 30)).astype(np.float32)
    model = fit_pca(flux, np.linspace(3700, 7900, 30), n_latent=4)
    path = store.save_model(tmp_path / "pca", model, recipe={}, metrics={}, int8=True)
    again, info = store.load_model(path, expected="PCAModel", n_latent=4)
    assert info.config == {"n_pixels": 30, "n_latent": 4}
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
