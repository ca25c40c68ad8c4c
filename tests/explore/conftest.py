"""A small latent space with random weights: what the dashboard does must hold in any."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.explore.latent import LatentState
from spectool.models.store import ModelInfo
from spectool.models.vae import ConvBetaVAE, LatentModel

N_PIXELS, N_LATENT = 240, 6
COLUMNS = ("log_mass", "log_ssfr", "log_sfr")  # the second has no name in the table


def make_model(seed=0, informative=(4, 1, 3), name="small"):
    network = ConvBetaVAE(
        n_pixels=N_PIXELS,
        n_latent=N_LATENT,
        channels=(4,),
        strides=(4,),
        hidden=(16,),
        decoder="dense",
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(200, N_LATENT)).astype(np.float32)
    atlas = xr.Dataset(
        {
            "latent": (("galaxy", "latent_dim"), latent),
            "log_mass": ("galaxy", 10 + latent[:, 4], {"long_name": "log M*", "short_name": "mass"}),
            "log_ssfr": ("galaxy", latent[:, 3]),
            "log_sfr": (
                "galaxy",
                latent[:, 1],
                {"long_name": "log SFR", "short_name": "rate", "valid_min": 0},
            ),
        }
    )
    arrays = {
        "informative": np.array(informative),
        "latent_min": np.full(N_LATENT, -3.0, dtype=np.float32),
        "latent_max": np.full(N_LATENT, 3.0, dtype=np.float32),
    }

    def predict(z):
        return np.stack([10 + z[:, 4], z[:, 3], z[:, 1]], axis=1), np.full((len(z), 3), 0.1)

    info = ModelInfo(name, "ConvBetaVAE", network.config, {}, {}, arrays)
    return LatentModel(network, info, atlas, predict, COLUMNS)


def make_seeds():
    rng = np.random.default_rng(5)
    flux = 1 + 0.3 * rng.normal(size=(3, N_PIXELS)).astype(np.float32)
    mask = np.zeros(flux.shape, dtype=bool)
    mask[2, :80] = True
    return xr.Dataset(
        {
            "flux": (("galaxy", "wavelength"), flux),
            "mask": (("galaxy", "wavelength"), mask),
            "log_mass": ("galaxy", [9.0, 10.0, np.nan]),
        },
        coords={
            "wavelength": np.linspace(3600.0, 7200.0, N_PIXELS),
            "name": ("galaxy", ["one", "two", "real"]),
        },
    )


@pytest.fixture
def model():
    """Build models of the small latent space: ``model(seed=..., informative=...)``."""
    return make_model


@pytest.fixture
def seeds():
    return make_seeds()


@pytest.fixture
def state(seeds):
    torch.manual_seed(0)
    return LatentState(make_model(), seeds)
