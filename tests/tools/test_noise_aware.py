"""The model that knows the noise: its Wiener filter is exact, its errors cover, and a good spectrum stays good."""

import numpy as np
import pytest
import torch

from spectool.models import store
from spectool.models.denoise import LEVELS, NoiseAwareAutoencoder, denoise
from spectool.models.store import round_weights
from spectool.papers.scourfield2023.sample import add_noise
from tools.make import noise_aware as training

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


def test_drawn_noise_spans_the_levels_and_is_even_for_half():
    sigma = training.draw_sigma(torch.ones(4000, 60), torch.Generator().manual_seed(0), (2.0, 50.0))
    dead = torch.isinf(sigma)
    spread = sigma.masked_fill(dead, torch.nan)
    level = 1 / spread.nanmedian(dim=1).values
    assert 0.01 < dead.float().mean() < 0.03 and level.min() < 2.5 and level.max() > 40
    even = torch.tensor([torch.unique(row[~torch.isnan(row)]).numel() == 1 for row in spread[:500]])
    assert even.float().mean() == pytest.approx(0.5, abs=0.1)


def test_errors_cover_at_any_noise_no_spectrum_gets_worse_and_more_signal_gives_better_answers(aware):
    truth = aware["samples"]["test"]["truth"].values
    scores = list(training.score_levels(aware["model"], aware["data"]["test"], truth, seed=9).values())
    assert len(scores) == len(LEVELS)
    for score in scores[1:]:
        assert score["coverage"] == pytest.approx(0.68, abs=0.03)
        assert score["mse_truth"] < score["mse_noisy"]
    mse = [score["mse_truth"] for score in scores]
    assert mse == sorted(mse, reverse=True)


def test_it_reads_errors_from_the_sample_and_comes_back_from_a_file(aware, tmp_path):
    model, test = aware["model"], aware["samples"]["test"].isel(galaxy=slice(0, 50))
    # What lies under the mask does not matter.
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
    round_weights(model, int8=True)
    path = store.save_model(tmp_path / "aware", model, recipe={}, metrics={}, int8=True)
    again, _ = store.load_model(path, expected="NoiseAwareAutoencoder", n_latent=6)
    both = denoise(again, test), denoise(model, test)
    for name in ("flux", "flux_error"):
        np.testing.assert_allclose(both[0][name], both[1][name], rtol=1e-4, atol=1e-6)
