"""What the beta-VAE says of a spectrum: errors, flags, reasons; bad spectra are never invented. Its mock samples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.models.vae import ConvBetaVAE, fit_statistics, reconstruct
from spectool.papers.marziano2024 import network as marziano2024
from spectool.papers.marziano2024.network import draw_mocks
from spectool.papers.marziano2024.sample import make_sample, normalize_mocks
from spectool.prepare import prepare_spectra
from spectool.spectra import sps_wavelength


@pytest.fixture(scope="module")
def model():
    """Untrained: what is tested is what is done with it."""
    model = ConvBetaVAE(channels=(4, 8), strides=(8, 8), hidden=(32,), decoder="dense", seed=1)
    model.set_statistics(np.ones(4582), np.full(4582, 0.3), sps_wavelength())
    return model


def as_network(model, **arrays):
    wide = {"latent_min": np.full(32, -50.0), "latent_max": np.full(32, 50.0), "informative": np.array([2])}
    return model, SimpleNamespace(arrays=wide | arrays)


def test_vae_answers_with_errors_flags_and_reasons(model, packaged):
    prepared = prepare_spectra(packaged)
    prepared["mask"].values[1] = True
    network = as_network(model, informative=np.array([3, 5]))
    result, again = (marziano2024.predict(prepared, network, n_mock=200, seed=3) for _ in range(2))
    xr.testing.assert_identical(result, again)
    assert result["quantity"].values[-2:].tolist() == ["latent_3", "latent_5"]
    assert (result["error"].values[0] > 0).all() and np.isfinite(result["value"].values[0]).all()
    assert np.isnan(result["value"].values[1]).all() and result["out_of_range"].values[1]
    assert "masked out" in str(result["reason"].values[1])
    assert "per pixel" in str(result["remark"].values[0]) and result["remark"].values[1] == ""


def test_latents_outside_the_training_range_are_flagged(model, packaged):
    network = as_network(model, latent_min=np.full(32, 50.0), latent_max=np.full(32, 60.0))
    result = marziano2024.predict(prepare_spectra(packaged.isel(galaxy=[0])), network, n_mock=100)
    reason = str(result["reason"].values[0])
    assert result["out_of_range"].values[0] and "latent 2 is" in reason and "50.00 to 60.00" in reason


def test_a_spectrum_unlike_any_galaxy_is_flagged(model, packaged):
    """A square wave about the same median is reconstructed far worse than mocks, even untrained."""
    prepared = prepare_spectra(packaged.isel(galaxy=[0]))
    good = ~prepared["mask"].values
    prepared["flux"].values[good] = np.where(np.arange(good.sum()) // 40 % 2, -8.0, 10.0)
    result = marziano2024.predict(prepared, as_network(model), n_mock=100)
    assert result["out_of_range"].values[0] and "worse than 99%" in str(result["reason"].values[0])
    assert result["chi2"].values[0] > result["chi2_limit"].values[0]


def test_mocks_are_seen_as_the_spectrum_is(packaged):
    prepared = prepare_spectra(packaged)
    mask, ivar = prepared["mask"].values[0], prepared["ivar"].values[0]
    mocks = marziano2024.draw_mocks(0.004, mask, ivar, 50, np.random.default_rng(0))
    assert (mocks["mask"].values == mask).all() and (mocks["flux"].values[:, mask] == 0).all()
    assert (mocks["redshift"] < 0.06).all()
    np.testing.assert_allclose(mocks["log_ssfr"], mocks["log_sfr"] - mocks["log_mass"])


def test_the_predictor_asks_the_shipped_network(packaged, monkeypatch):
    monkeypatch.setattr(
        marziano2024, "draw_mocks", lambda z, mask, ivar, n, rng: draw_mocks(z, mask, ivar, 60, rng)
    )
    predictor, latents = marziano2024.make_predictor(), marziano2024.load()[1].arrays["informative"]
    result = predictor.predict(predictor.prepare(packaged.isel(galaxy=[0])))
    assert result.sizes["quantity"] == len(marziano2024.PARAMETERS) + len(latents)


def test_training_is_the_papers_loss_on_hidden_parts(rng):
    flux = rng.normal(1, 0.1, (24, 4582)).astype("f4")
    model = marziano2024.make_autoencoder("light", n_latent=2)
    fit_statistics(model, flux, sps_wavelength(), seed=0)
    options = {"epochs": 1, "batch_size": 8, "progress": False}
    record = marziano2024.train(model, {"flux": flux}, {"flux": flux}, **options).records[0]
    assert record["valid_loss"] == pytest.approx(record["valid_squared_error"] + 0.3 * record["valid_kl"])


def test_configurations_fit_the_pixels_and_the_papers_has_eleven_convolutions_to_512():
    for name in marziano2024.CONFIGURATIONS:
        assert marziano2024.make_autoencoder(name).decode(torch.zeros(1, 32)).shape == (1, 4582)
    model = marziano2024.make_autoencoder("paper")
    for kind in (torch.nn.Conv1d, torch.nn.ConvTranspose1d):
        assert sum(isinstance(module, kind) for module in model.modules()) == 11
    assert np.prod(model.flattened) == model.head_mu.in_features == 512
    recon, mu, log_var = model(torch.ones(2, 4582))
    assert recon.shape == (2, 4582) and mu.shape == log_var.shape == (2, 32)


def test_the_shipped_encoder_takes_all_996_real_spectra(sdss_galaxies):
    seen = reconstruct(marziano2024.load()[0], prepare_spectra(sdss_galaxies(np.arange(996))))
    assert seen.sizes["galaxy"] == 996
    assert np.isfinite(seen["latent"].values).all() and np.isfinite(seen["reconstruction"].values).all()


def test_sample_is_normalised_and_complete(grid):
    sample = make_sample(32, seed=5, grid=grid, progress=False)
    window = (sample.wavelength > 5000) & (sample.wavelength < 5500)
    assert np.allclose(sample.flux[:, window.values].median("wavelength"), 1, rtol=1e-5)
    assert sample.flux.dtype == np.float32 and sample.flux.shape == (32, 4582)
    assert np.allclose(sample.log_ssfr, sample.log_sfr - sample.log_mass)
    assert all("units" in sample[name].attrs for name in ("log_mass", "log_sfr", "age_lw", "log_z_lw"))


def test_the_same_seed_gives_the_same_bytes_and_normalising_works_in_place(grid):
    sample, again = (make_sample(4, seed=5, grid=grid, progress=False) for _ in range(2))
    assert sample.flux.values.tobytes() == again.flux.values.tobytes()
    sample["flux"] = sample.flux * 7
    memory = sample.flux.values
    assert np.shares_memory(normalize_mocks(sample).flux.values, memory)
