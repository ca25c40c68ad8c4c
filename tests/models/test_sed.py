"""The network on fluxes: the paper's layers, what it standardises, what missing bands and labels count for."""

import numpy as np
import pytest
import torch

from spectool.models import chunked, store
from spectool.models.bands import KERNEL_SIGMA, SedMLP, read_inputs, sed_loss
from spectool.papers.surana2020.network import RECIPES, read_labels
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies

ALL = ("log_mass", "log_sfr", "log_dust_luminosity")


def make(outputs=("log_mass",), hidden=(44, 66, 66), **options):
    return SedMLP(bands=list(BANDS), hidden=hidden, outputs=outputs, units=["dex"] * len(outputs), **options)


@pytest.fixture(scope="module")
def data():
    sample = make_galaxies(800, gaps=0.2)
    return read_inputs(sample, list(BANDS)), read_labels(sample)


def widths(model):
    layers = [layer for layer in model.dense if isinstance(layer, torch.nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def test_layers_are_those_of_table_1():
    found = {name: widths(make(hidden=recipe.hidden)) for name, recipe in RECIPES.items()}
    assert found == {
        "log_mass": [22, 44, 66, 66, 1],
        "log_sfr": [22, 110, 220, 110, 1],
        "log_dust_luminosity": [22, 66, 110, 220, 110, 66, 1],
    }
    assert chunked.SedMLP is SedMLP


def test_initial_weights_are_normal_and_follow_the_seed():
    model = make(hidden=(400, 400))
    assert model.dense[2].weight.std().item() == pytest.approx(KERNEL_SIGMA, rel=0.02)
    assert not model.dense[2].bias.any()
    assert torch.equal(model.dense[0].weight, make(hidden=(400, 400)).dense[0].weight)
    assert not torch.equal(model.dense[0].weight, make(hidden=(400, 400), seed=1).dense[0].weight)


@pytest.mark.parametrize("scaling", ["linear", "asinh"])
def test_what_is_there_is_standardised(data, scaling):
    inputs, labels = data
    model = make(ALL, scaling=scaling, with_errors=True, with_mask=True)
    model.set_statistics(inputs, labels)
    x, n = model.encode(inputs), len(BANDS)
    there = np.concatenate([np.zeros((len(x), 1), bool), np.tile(inputs.mask, 2)], axis=1)
    values = np.where(there, np.nan, x[:, : 2 * n + 1])
    np.testing.assert_allclose(np.nanmean(values, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(values, axis=0), 1, atol=1e-4)
    assert not x[:, : 2 * n + 1][there].any()
    np.testing.assert_array_equal(x[:, -n:], inputs.mask)


def test_linear_inputs_are_the_fluxes_themselves(data):
    inputs, labels = data
    model = make()
    model.set_statistics(inputs, labels[:, :1])
    x = model.encode(inputs)
    for band in ("r", "W4"):
        j = list(BANDS).index(band)
        assert model.groups[band] == [1 + j]
        assert np.corrcoef(x[:, 1 + j], inputs.flux[:, j])[0, 1] == pytest.approx(1)
    np.testing.assert_array_equal(np.isnan(x).any(axis=1), inputs.mask.any(axis=1))


def test_a_hidden_band_is_as_good_as_a_missing_one(data):
    inputs, labels = data
    model = make(ALL, scaling="asinh", with_errors=True, with_mask=True)
    model.set_statistics(inputs, labels)
    hidden = np.random.default_rng(0).random(inputs.mask.shape) < 0.3
    gone = inputs.mask | hidden
    direct = model.encode(
        type(inputs)(np.where(hidden, np.nan, inputs.flux), inputs.error, gone, inputs.redshift)
    )
    x = model.encode(inputs)
    np.testing.assert_array_equal(model.hide(x, hidden), direct)
    np.testing.assert_array_equal(model.hide(torch.from_numpy(x), torch.from_numpy(hidden)).numpy(), direct)
    with pytest.raises(ValueError, match="no mask channel"):
        make().hide(x, hidden)


def test_errors_beyond_the_training_galaxies_are_taken_for_the_least_and_largest(data):
    inputs, labels = data
    model = make(ALL, with_errors=True, with_mask=True)
    model.set_statistics(inputs, labels)
    low, high = 10 ** model.error_range.numpy().astype(float)
    for factor, limit in ((1e-4, low), (1e4, high)):
        far = type(inputs)(inputs.flux, inputs.error * factor, inputs.mask, inputs.redshift)
        edge = type(inputs)(
            inputs.flux, np.broadcast_to(limit, far.error.shape), inputs.mask, inputs.redshift
        )
        np.testing.assert_allclose(model.encode(far), model.encode(edge), atol=1e-4)
    x = model.encode(inputs)[:, 22:43][~inputs.mask]
    assert len(np.unique(x)) > 0.9 * x.size


def test_predictions_are_in_units_of_the_labels_and_batches_do_not_matter(data):
    inputs, labels = data
    model = make(ALL, gaussian=True, with_mask=True)
    model.set_statistics(inputs, labels)
    x = model.encode(inputs)
    mean, sigma = model.predict(x)
    again = model.predict(x, batch_size=100)
    # Small initial weights: the mean of all labels.
    np.testing.assert_allclose(mean, np.broadcast_to(labels.mean(axis=0), mean.shape), atol=0.3)
    np.testing.assert_allclose(sigma, np.broadcast_to(labels.std(axis=0), sigma.shape), rtol=0.3)
    np.testing.assert_allclose(again[0], mean, rtol=1e-6)
    np.testing.assert_allclose(again[1], sigma, rtol=1e-6)


def test_the_loss_is_the_mean_absolute_error_of_what_is_known(data):
    inputs, labels = data
    model = make(ALL, with_mask=True)
    model.set_statistics(inputs, labels)
    x = torch.from_numpy(model.encode(inputs))
    y = torch.from_numpy(labels.astype("f4"))
    y[::3, 1] = torch.nan
    values = {name: value.detach() for name, value in sed_loss(model, {"x": x, "y": y}, None).items()}
    off = np.abs(model.predict(x.numpy())[0] - y.numpy())
    assert float(values["mae"]) == pytest.approx(np.nanmean(off), rel=1e-5)
    assert float(values["loss"]) == pytest.approx(np.nanmean(off / labels.std(axis=0)), rel=1e-4)


def test_the_gaussian_loss_is_least_at_the_true_deviation():
    model = make(gaussian=True, hidden=(4,))
    y = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0)) * 0.5
    x, last = torch.zeros(len(y), model.n_in), model.dense[-1]
    losses = []
    for variance in (0.5, 0.25, 0.125):
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, np.log(variance)]))
        losses.append(float(sed_loss(model, {"x": x, "y": y}, None)["loss"].detach()))
    assert losses[1] < min(losses[0], losses[2])


def test_a_stored_network_says_the_same(data, tmp_path):
    inputs, labels = data
    model = make(ALL, scaling="asinh", gaussian=True, with_errors=True, with_mask=True)
    model.set_statistics(inputs, labels)
    path = store.save_model(tmp_path / "sed", model, recipe={}, metrics={})
    again, info = store.load_model(path, expected="SedMLP")
    assert info.config == model.config
    for a, b in zip(model.predict(model.encode(inputs)), again.predict(again.encode(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_be_is_said(data):
    inputs = data[0]
    with pytest.raises(ValueError, match="comes twice"):
        SedMLP(bands=["r", "r"], hidden=(4,), outputs=("a",), units=("",))
    with pytest.raises(ValueError, match="scaling must be"):
        make(scaling="log")
    with pytest.raises(ValueError, match="1 units for 2"):
        SedMLP(bands=["r"], hidden=(4,), outputs=("a", "b"), units=("",))
    with pytest.raises(ValueError, match="output log_mass has no finite value"):
        make().set_statistics(inputs, np.full((len(inputs), 1), np.nan))
    with pytest.raises(ValueError, match="do not fit"):
        make().predict(np.zeros((3, 5), "f4"))
