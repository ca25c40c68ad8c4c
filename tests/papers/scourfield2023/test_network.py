"""What the paper's de-noisers are trained on, and how they are scored."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.scourfield2023.network import (
    add_desi_noise,
    make_arrays,
    make_model,
    score,
    split_validation,
)


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
    assert (len(train), len(valid)) == (6000, 2000)
    assert not set(train) & set(valid)
    assert not np.array_equal(valid, split_validation(8000, seed=2)[1])
    with pytest.raises(ValueError, match="leave none"):
        split_validation(100, 100, seed=0)


def test_training_is_the_papers(trained):
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
