"""Compression keeps what the loss sees; the model that knows the noise has exact filters and errors that cover."""

import copy

import numpy as np
import pytest
import torch

from spectool.models.denoise import LEVELS, DenseAutoencoder, NoiseAwareAutoencoder, denoise
from spectool.models.store import round_weights
from spectool.papers.scourfield2023.network import score
from spectool.papers.scourfield2023.sample import add_noise
from tools.make import noise_aware as training
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


SMALL = {"n_latent": 6, "n_components": 12, "encoder": (64,), "decoder": (64,), "errors": (32,)}


@pytest.fixture(scope="module")
def aware(trained):
    samples = trained["samples"]
    data = {part: training.make_arrays(sample) for part, sample in samples.items()}
    wavelength, options = samples["train"]["wavelength"].values, {"epochs": 30, "progress": False}
    model, _ = training.train_noise_aware(data["train"], data["valid"], wavelength, options=SMALL, **options)
    training.calibrate(model, data["valid"], samples["valid"]["truth"].values, seed=2)
    return {"model": model, "data": data, "samples": samples}


def test_coefficients_are_the_posterior_of_a_linear_gaussian_model():
    model = NoiseAwareAutoencoder(n_pixels=50, **SMALL)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        model.components.copy_(torch.from_numpy(rng.normal(size=(12, 50))))
    flux, sigma = rng.normal(size=(3, 50)), rng.uniform(0.5, 2.0, (3, 50))
    sigma[:, 7] = np.inf
    mean, variance = model.solve(*(torch.from_numpy(x.astype(np.float32)) for x in (flux, sigma)))
    u = model.components.detach().numpy().astype(float)
    for k in range(3):
        good = np.isfinite(sigma[k])
        covariance = u[:, good].T @ u[:, good] + np.diag(sigma[k, good] ** 2)
        gain = u[:, good] @ np.linalg.inv(covariance)
        np.testing.assert_allclose(mean[k].detach().numpy(), gain @ flux[k, good], atol=1e-4)
        posterior = np.eye(12) - gain @ u[:, good].T
        np.testing.assert_allclose(variance[k].detach().numpy(), np.diag(posterior), atol=1e-4)


def test_errors_cover_at_any_noise_no_spectrum_gets_worse_and_more_signal_gives_better_answers(aware):
    truth = aware["samples"]["test"]["truth"].values
    levels = list(training.score_levels(aware["model"], aware["data"]["test"], truth, seed=9).values())
    assert len(levels) == len(LEVELS)
    for level in levels[1:]:
        assert level["coverage"] == pytest.approx(0.68, abs=0.03)
        assert level["mse_truth"] < level["mse_noisy"]
    mse = [level["mse_truth"] for level in levels]
    assert mse == sorted(mse, reverse=True)


def test_it_reads_errors_from_the_sample(aware):
    model, test = aware["model"], aware["samples"]["test"].isel(galaxy=slice(0, 50))
    masked = test.copy(deep=True)
    masked["mask"][:, 20:25] = True
    other = masked.copy(deep=True)
    other["noisy"][:, 20:25] = 1e3
    louder = add_noise(test, seed=1, sigma=0.2)
    plain, hidden, changed, loud = (denoise(model, sample) for sample in (test, masked, other, louder))
    np.testing.assert_allclose(hidden["flux"], changed["flux"], atol=1e-6)
    assert np.isfinite(plain["flux_error"]).all() and (hidden["flux_error"].values[:, 20:25] > 0).all()
    assert float(loud["flux_error"].median()) > float(plain["flux_error"].median())
    with pytest.raises(ValueError, match="no 'noisy_sigma'"):
        denoise(model, test.drop_vars("noisy_sigma"))
