"""The model that knows the noise: its Wiener filter is exact, its errors cover, and a good spectrum stays good."""

import numpy as np
import pytest
import torch

from spectool.models import store
from spectool.models.denoise import LEVELS, NoiseAwareAutoencoder, denoise
from spectool.models.store import round_weights
from spectool.models.vae import count_parameters
from spectool.papers.scourfield2023.sample import add_noise
from tools.make import noise_aware as training

SMALL = {"n_latent": 6, "n_components": 12, "encoder": (64,), "decoder": (64,), "errors": (32,)}


@pytest.fixture(scope="module")
def aware(trained):
    samples = trained["samples"]
    data = {part: training.make_arrays(sample) for part, sample in samples.items()}
    model, history = training.train_noise_aware(
        data["train"],
        data["valid"],
        samples["train"]["wavelength"].values,
        epochs=30,
        options=SMALL,
        progress=False,
    )
    modes = training.calibrate(model, data["valid"], samples["valid"]["truth"].values, seed=2)
    return {"model": model, "data": data, "history": history, "modes": modes, "samples": samples}


def test_the_shipped_size_is_small():
    assert count_parameters(NoiseAwareAutoencoder()) < 600_000


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


def test_drawn_noise_spans_the_levels_and_is_even_for_half():
    flux = torch.ones(4000, 60)
    sigma = training.draw_sigma(flux, torch.Generator().manual_seed(0), (2.0, 50.0))
    dead = torch.isinf(sigma)
    assert 0.01 < dead.float().mean() < 0.03
    level = 1 / sigma.masked_fill(dead, torch.nan).nanmedian(dim=1).values
    assert level.min() < 2.5
    assert level.max() > 40
    spread = sigma.masked_fill(dead, torch.nan)
    even = torch.tensor([torch.unique(row[~torch.isnan(row)]).numel() == 1 for row in spread[:500]])
    assert even.float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("level", [1.0, 5.0, 20.0, 50.0])
def test_errors_cover_at_any_noise_and_no_spectrum_gets_worse(aware, level):
    truth = aware["samples"]["test"]["truth"].values
    found = training.score_levels(aware["model"], aware["data"]["test"], truth, seed=9, levels=[level])
    score = found[f"{level:g}"]
    assert score["coverage"] == pytest.approx(0.68, abs=0.03)
    assert score["mse_truth"] < score["mse_noisy"]


def test_more_signal_gives_better_answers(aware):
    truth = aware["samples"]["test"]["truth"].values
    found = training.score_levels(aware["model"], aware["data"]["test"], truth, seed=9, levels=LEVELS)
    mse = [found[f"{level:g}"]["mse_truth"] for level in LEVELS]
    assert mse == sorted(mse, reverse=True)


def test_it_reads_errors_from_the_sample(aware):
    model, test = aware["model"], aware["samples"]["test"].isel(galaxy=slice(0, 50))
    found = denoise(model, test)
    assert np.isfinite(found["flux_error"]).all()
    # What lies under the mask does not matter.
    masked = test.copy(deep=True)
    masked["mask"][:, 20:25] = True
    other = masked.copy(deep=True)
    other["noisy"][:, 20:25] = 1e3
    np.testing.assert_allclose(denoise(model, masked)["flux"], denoise(model, other)["flux"], atol=1e-6)
    assert (denoise(model, masked)["flux_error"].values[:, 20:25] > 0).all()
    louder = add_noise(test, seed=1, sigma=0.2)
    assert float(denoise(model, louder)["flux_error"].median()) > float(found["flux_error"].median())
    with pytest.raises(ValueError, match="no 'noisy_sigma'"):
        denoise(model, test.drop_vars("noisy_sigma"))


def test_round_trip(aware, tmp_path):
    model = aware["model"]
    round_weights(model, int8=True)
    path = store.save_model(tmp_path / "aware", model, recipe={}, metrics={}, int8=True)
    again, _ = store.load_model(path, expected="NoiseAwareAutoencoder", n_latent=6)
    test = aware["samples"]["test"].isel(galaxy=slice(0, 20))
    for name in ("flux", "flux_error"):
        np.testing.assert_allclose(
            denoise(again, test)[name], denoise(model, test)[name], rtol=1e-4, atol=1e-6
        )
