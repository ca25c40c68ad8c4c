"""Galaxies to start from, and a model opened with what is stored beside it or made anew."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.store import save_model
from spectool.models.vae import ConvBetaVAE
from spectool.papers.marziano2024 import latent as latent_data
from spectool.spectra import sps_wavelength
from tools.recipes.marziano2024 import PARAMETERS as STORED


@pytest.fixture(scope="module")
def galaxies():
    return latent_data.draw_galaxies(60, seed=3)


@pytest.fixture(scope="module")
def network(galaxies):
    flux = galaxies["flux"].values
    model = ConvBetaVAE(n_latent=4, channels=(4,), strides=(32,), hidden=(8,), decoder="dense", seed=1)
    model.set_statistics(flux.mean(axis=0), flux.std(axis=0), sps_wavelength())
    return model


def test_the_order_of_the_stored_table_is_the_training_scripts():
    assert tuple(STORED) == latent_data.ATLAS_COLUMNS


def test_galaxies_are_prepared_and_keep_their_truth(galaxies):
    window = (galaxies["wavelength"] > 5000) & (galaxies["wavelength"] < 5500)
    np.testing.assert_allclose(np.median(galaxies["flux"].values[:, window], axis=1), 1, rtol=1e-3)
    assert set(latent_data.PARAMETERS) <= set(galaxies)
    assert not galaxies["mask"].any()


def test_seeds_run_from_star_forming_to_quiescent(galaxies):
    seeds = latent_data.mock_seeds(galaxies, 5)
    rate = (seeds["log_sfr"] - seeds["log_mass"]).values
    assert (np.diff(rate) < 0).all()
    assert len(set(seeds["name"].values)) == 5


def test_real_seeds_have_no_ultraviolet_and_no_truth():
    seeds = latent_data.sdss_seeds()
    assert seeds["mask"].values[:, :200].all()
    assert not seeds["mask"].values[:, 2000].any()
    assert np.isnan(seeds["log_mass"].values).all()


def test_an_atlas_is_read_where_it_is_stored(network, tmp_path):
    table = np.arange(5 * len(STORED), dtype=np.float32).reshape(5, -1)
    latent = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    path = save_model(
        tmp_path / "m",
        network,
        recipe={"parameters": STORED},
        metrics={},
        arrays={"atlas_latent": latent, "atlas_parameters": table},
    )
    model = latent_data.open_model(path)
    assert model.atlas["age_lw"].values.tolist() == table[:, list(STORED).index("age_lw")].tolist()
    mean, sigma = model.predict(model.atlas["latent"].values)
    assert mean.shape == (5, len(model.columns))
    assert (sigma > 0).all()


def test_a_predictor_finds_what_the_latents_tell_and_admits_what_they_do_not(galaxies):
    rng = np.random.default_rng(4)
    latent = rng.normal(size=(1500, 3)).astype(np.float32)
    columns = {name: ("galaxy", rng.normal(size=1500)) for name in latent_data.PARAMETERS}
    columns["log_sfr"] = ("galaxy", 2 * latent[:, 1] + 0.1 * rng.normal(size=1500))
    atlas = xr.Dataset({"latent": (("galaxy", "latent_dim"), latent), **columns})
    predictor = latent_data.fit_predictor(atlas)
    mean, sigma = predictor.predict(latent)
    k = list(latent_data.PARAMETERS).index("log_sfr")
    other = list(latent_data.PARAMETERS).index("dust1")
    assert np.std(mean[:, k] - columns["log_sfr"][1]) < 0.4
    assert 0.8 < np.median(sigma[:, other]) < 1.3


def test_retraining_gives_a_model_with_its_galaxies_and_reports_on_the_way(monkeypatch):
    seen = []
    monkeypatch.setattr(latent_data, "N_GALAXIES", 120)
    monkeypatch.setattr(latent_data, "SECONDS", 0.5)
    model = latent_data.retrain(on_progress=lambda part, loss: seen.append((part, loss)))
    assert model.atlas["latent"].shape == (120, 32)
    assert model.info.arrays["informative"].size >= 1
    assert seen[-1][0] == 1.0
    assert np.isfinite([loss for _, loss in seen]).all()
