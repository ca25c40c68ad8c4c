"""What the paper's de-noisers are trained on, and how they are scored."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Normal

from spectool.models.denoise import DenseAutoencoder
from spectool.models.training import Step
from spectool.papers.scourfield2023.network import (
    TABLE4,
    TABLE5,
    add_desi_noise,
    make_arrays,
    make_model,
    pixel_weights,
    score,
    split_validation,
    weighted_loss,
    weighted_squares,
)

TINY = {"n_pixels": 30, "n_latent": 2, "widths": (12, 8), "dropout": 0.0}


def step():
    return Step(0.0, 0.0, True, torch.Generator().manual_seed(0))


def test_arrays_are_target_input_and_weights_of_the_original(toy):
    sample = toy(20)
    sample["mask"][3, 5] = True
    sample["mask"][7] = True
    arrays = make_arrays(sample)
    assert {name: a.shape for name, a in arrays.items()} == dict.fromkeys(arrays, (19, 120))
    assert arrays["weight"][3, 5] == 0
    expected = 1 / (1 / sample["ivar"].values[0] + 2e-6)
    np.testing.assert_allclose(arrays["weight"][0], expected, rtol=1e-4)
    np.testing.assert_array_equal(arrays["input"][0], sample["noisy"].values[0])
    with pytest.raises(ValueError, match="no 'noisy'"):
        make_arrays(sample.drop_vars("noisy"))
    sample["mask"][:] = True
    with pytest.raises(ValueError, match="all are masked"):
        make_arrays(sample)


def test_validation_is_drawn_by_seed_and_disjoint():
    train, valid = split_validation(8000, seed=1)
    assert (len(train), len(valid)) == (6000, 2000) and not set(train) & set(valid)
    assert not np.array_equal(valid, split_validation(8000, seed=2)[1])
    with pytest.raises(ValueError, match="leave none"):
        split_validation(100, 100, seed=0)


def test_training_learns_and_models_of_other_sizes_are_refused(trained):
    history = trained["history"]
    assert history.records[-1]["train_reconstruction"] < 0.3 * history.records[0]["train_reconstruction"]
    with pytest.raises(ValueError, match="'ae' or 'vae'"):
        make_model("pca", 2, np.ones((3, 825)))
    with pytest.raises(ValueError, match="no model of 5 dimensions"):
        make_model("ae", 5, np.ones((3, 825)))


def test_scores_are_those_of_the_definition(trained):
    model, data = trained["model"], trained["data"]["test"]
    truth = trained["samples"]["test"]["truth"].values
    metrics, arrays = score(model, data, truth)
    off = arrays["predicted"] - data["flux"]
    assert metrics["mse"] == pytest.approx(np.mean(off**2), rel=1e-4)
    assert metrics["mse_truth"] == pytest.approx(np.mean((arrays["predicted"] - truth) ** 2), rel=1e-4)
    assert metrics["loss"] == pytest.approx(0.5 * (data["weight"] * off**2).sum(axis=1).mean(), rel=1e-4)
    assert metrics["loss"] == pytest.approx(arrays["loss"].mean(), rel=1e-5)
    assert metrics["kl"] > 0


def test_desi_noise_is_normalised_known_and_repeatable(toy):
    sample = toy(30).drop_vars(["noisy", "noisy_sigma", "noisy_scale"])
    unit = "1e-17 erg / (Angstrom s cm2)"
    for name in ("norm", "truth_norm"):
        sample[name] = sample[name].assign_attrs(units=unit) * xr.ones_like(sample[name]) * 20
        sample[name].attrs["units"] = unit
    sample["redshift"] = ("galaxy", np.full(30, 0.04), {"units": ""})
    seen = add_desi_noise(sample, seed=3)
    np.testing.assert_allclose(seen["noisy"].sum("wavelength"), sample.attrs["constant"], rtol=1e-4)
    pull = (
        seen["noisy"] - seen["flux"] * seen["noisy"].sum("wavelength") / seen["flux"].sum("wavelength")
    ) / seen["noisy_sigma"]
    assert float(pull.std()) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_array_equal(seen["noisy"], add_desi_noise(sample, seed=3)["noisy"])
    np.testing.assert_array_equal(seen["flux"], sample["flux"])
    assert len(make_arrays(seen)["input"]) == 30


def test_weights_soften_the_best_pixels_and_leave_out_the_bad():
    sigma = np.array([[0.0, 0.001, 0.1, np.nan, np.inf, 0.1]])
    mask = np.array([[False, False, False, False, False, True]])
    weight = pixel_weights(sigma, mask)
    np.testing.assert_allclose(weight, [[0, 1 / 3e-6, 1 / 0.010002, 0, 0, 0]], rtol=1e-6)
    assert weight.dtype == np.float32


def test_reconstruction_is_the_gaussian_log_likelihood_of_the_softened_errors():
    rng = np.random.default_rng(0)
    target, predicted = (torch.from_numpy(rng.normal(size=(4, 30))) for _ in range(2))
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (4, 30)))
    weight = torch.from_numpy(pixel_weights(sigma.numpy(), False)).double()
    softened = Normal(target, (sigma**2 + 2e-6).sqrt())
    expected = (softened.log_prob(target) - softened.log_prob(predicted)).sum(dim=1)
    torch.testing.assert_close(weighted_squares(predicted, target, weight), expected, rtol=1e-5, atol=0)


def test_a_vae_adds_the_divergence_and_masked_pixels_do_not_count():
    batch = {"flux": torch.rand(5, 30), "input": torch.rand(5, 30), "weight": torch.ones(5, 30)}
    vae = weighted_loss(DenseAutoencoder(**TINY), batch, step())
    assert vae["loss"] == vae["reconstruction"] + vae["kl"]
    model = DenseAutoencoder(**TINY, variational=False)
    ae, predicted = weighted_loss(model, batch, step()), model(batch["input"])[0]
    assert ae["loss"] == ae["reconstruction"] and "kl" not in ae
    torch.testing.assert_close(ae["loss"], 0.5 * (predicted - batch["flux"]).square().sum(dim=1).mean())
    batch["weight"][:, 7] = 0
    before = weighted_loss(model, batch, step())["loss"]
    batch["flux"][:, 7] = 1e3
    assert weighted_loss(model, batch, step())["loss"] == before


def linears(part):
    return [layer for layer in part if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("kind", "table", "coded"), [("ae", TABLE4, 1), ("vae", TABLE5, 2)])
def test_layers_are_those_of_the_tables_and_start_as_in_keras(kind, table, coded):
    for n_latent in (2, 4, 6, 10):
        model = make_model(kind, n_latent, np.ones((3, 825)), dropout=None)
        widths, rate = table[n_latent]["widths"], table[n_latent]["dropout"]
        encoder, decoder = linears(model.encoder), linears(model.decoder)
        assert [x.out_features for x in encoder] == [*widths, coded * n_latent]
        assert [x.out_features for x in decoder] == [*widths[::-1], 825]
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [rate] * 8
        assert [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)] == [0.3] * 8
        assert model.encoder[-1] is encoder[-1] and model.decoder[-1] is decoder[-1]
        limit = np.sqrt(6 / (825 + widths[0]))
        assert 0.95 * limit < encoder[0].weight.abs().max() <= limit
        assert not any(layer.bias.any() for layer in encoder)
