"""What the beta-VAE says of a spectrum: errors, flags and reasons. Bad spectra are flagged, never invented."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.store import save_model
from spectool.models.vae import ConvBetaVAE
from spectool.papers.marziano2024 import network as marziano2024
from spectool.prepare import prepare_spectra
from spectool.spectra import sps_wavelength
from spectool.surveys import packaged_spectra, read_sdss


@pytest.fixture(scope="module")
def galaxies():
    return read_sdss(list(packaged_spectra().values()))


@pytest.fixture(scope="module")
def model():
    """Untrained: what is tested is what is done with it."""
    model = ConvBetaVAE(channels=(4, 8), strides=(8, 8), hidden=(32,), decoder="dense", seed=1)
    model.set_statistics(np.ones(4582), np.full(4582, 0.3), sps_wavelength())
    return model


def test_vae_answers_with_errors_flags_and_reasons(model, galaxies):
    prepared = prepare_spectra(galaxies)
    prepared["mask"].values[1] = True
    result = marziano2024.predict_sample(
        model, {"informative": np.array([3, 5])}, prepared, n_mock=200, seed=3
    )
    again = marziano2024.predict_sample(
        model, {"informative": np.array([3, 5])}, prepared, n_mock=200, seed=3
    )
    xr.testing.assert_identical(result, again)
    assert result["quantity"].values[-2:].tolist() == ["latent_3", "latent_5"]
    assert (result["error"].values[0] > 0).all() and np.isfinite(result["value"].values[0]).all()
    assert np.isnan(result["value"].values[1]).all() and result["out_of_range"].values[1]
    assert "masked out" in str(result["reason"].values[1])
    assert "per pixel" in str(result["remark"].values[0]) and result["remark"].values[1] == ""


def test_latents_outside_the_training_range_are_flagged(model, galaxies):
    arrays = {"latent_min": np.full(32, 50.0), "latent_max": np.full(32, 60.0), "informative": np.array([2])}
    prepared = prepare_spectra(galaxies.isel(galaxy=[0]))
    result = marziano2024.predict_sample(model, arrays, prepared, n_mock=100)
    assert result["out_of_range"].values[0]
    assert "latent 2 is" in str(result["reason"].values[0]) and "50.00 to 60.00" in str(
        result["reason"].values[0]
    )


def test_a_spectrum_unlike_any_galaxy_is_flagged(model, galaxies):
    """A square wave about the same median is reconstructed far worse than mocks, even untrained."""
    prepared = prepare_spectra(galaxies.isel(galaxy=[0]))
    good = ~prepared["mask"].values
    prepared["flux"].values[good] = np.where(np.arange(good.sum()) // 40 % 2, -8.0, 10.0)
    result = marziano2024.predict_sample(model, {}, prepared, n_mock=100)
    assert result["out_of_range"].values[0] and "worse than 99%" in str(result["reason"].values[0])
    assert result["chi2"].values[0] > result["chi2_limit"].values[0]


def test_mocks_are_seen_as_the_spectrum_is(galaxies):
    prepared = prepare_spectra(galaxies)
    mask, ivar = prepared["mask"].values[0], prepared["ivar"].values[0]
    mocks = marziano2024.draw_mocks(0.004, mask, ivar, 50, np.random.default_rng(0))
    assert (mocks["mask"].values == mask).all() and (mocks["flux"].values[:, mask] == 0).all()
    assert (mocks["redshift"] < 0.06).all()
    np.testing.assert_allclose(mocks["log_ssfr"], mocks["log_sfr"] - mocks["log_mass"])


def test_the_predictor_reads_a_stored_model(model, galaxies, tmp_path):
    path = save_model(tmp_path / "m", model, recipe={}, metrics={}, arrays={"informative": np.array([0])})
    predictor = marziano2024.make_predictor(path, n_mock=60)
    result = predictor.predict(predictor.prepare(galaxies.isel(galaxy=[0])))
    assert result.sizes["quantity"] == len(marziano2024.PARAMETERS) + 1


def test_the_shipped_encoder_takes_all_996_real_spectra(shared, capsys):
    from spectool.models.store import load_model
    from spectool.models.vae import reconstruct

    with np.load(shared / "data" / "sdss_galaxies.npz") as data:
        flux, ivar, first, step = (data[k] for k in ("flux", "ivar", "loglam0", "dloglam"))
    redshift = np.genfromtxt(
        shared / "data" / "sdss_galaxies.csv", delimiter=",", names=True, usecols=("z",)
    )["z"]
    dims = ("galaxy", "wavelength")
    sample = xr.Dataset(
        {"flux": (dims, flux), "ivar": (dims, ivar), "redshift": ("galaxy", redshift)},
        coords={"observed_wavelength": ("wavelength", 10 ** (first + step * np.arange(flux.shape[1])))},
    )
    model, info = load_model(marziano2024.WEIGHTS)
    prepared = prepare_spectra(sample)
    seen = reconstruct(model, prepared)
    assert np.isfinite(seen["latent"].values).all() and np.isfinite(seen["reconstruction"].values).all()
    good = ~prepared["mask"].values
    residual = np.where(good, (seen["reconstruction"] - prepared["flux"]).values, 0.0)
    rms = np.sqrt((residual**2).sum(1) / good.sum(1))
    chi2 = (residual**2 * np.where(good, prepared["ivar"].values, 0.0)).sum(1) / good.sum(1)
    latent = seen["latent"].values[:, info.arrays["informative"]]
    low, high = (info.arrays[k][info.arrays["informative"]] for k in ("latent_min", "latent_max"))
    outside = ((latent < low) | (latent > high)).any(axis=1)
    with capsys.disabled():
        print(
            f"\n996 real SDSS spectra: rms residual {np.median(rms):.3f} (median), {np.quantile(rms, 0.9):.3f} (90%); "
            f"chi2 per pixel {np.median(chi2):.1f} (median); {outside.mean():.1%} outside the training range"
        )
    assert len(rms) == 996 and np.isfinite(rms).all()
