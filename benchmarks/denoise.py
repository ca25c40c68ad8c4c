"""De-noised spectra per second on one thread: the shipped, compressed VAE beside the network that was trained."""

from importlib.metadata import version

import numpy as np
import torch
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.models import store
from spectool.models.denoise import DenseAutoencoder, denoise
from spectool.papers.scourfield2023.sample import rest_wavelength

N_SPECTRA = 20_000
REPEATS = 3
NAME = "scourfield2023_vae6"


def run():
    """Spectra per second through `denoise`, from a Dataset to a Dataset, of the shipped six-dimensional VAE.

    The peer is the same network whole, as the paper has it (Table 5): what compression gains beside disk space.
    """
    model, info = store.load_model(NAME)
    peer = DenseAutoencoder(**info.config | {"ranks": None})
    rng = np.random.default_rng(0)
    flux = 0.04 * (1 + rng.standard_normal((N_SPECTRA, model.n_pixels), dtype=np.float32))
    sample = xr.Dataset(
        {"noisy": (("galaxy", "wavelength"), flux, {"units": ""})},
        coords={"wavelength": ("wavelength", rest_wavelength(), {"units": "Angstrom"})},
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = []
        for network in (model, peer):
            denoise(network, sample.isel(galaxy=slice(0, 2048)))
            rates.append(N_SPECTRA / min(seconds(denoise, network, sample) for _ in range(REPEATS)))
    finally:
        torch.set_num_threads(threads)
    name = f"the same network uncompressed, torch {version('torch')}, one thread each"
    return make_row(
        "denoise_spectra_per_second", rates[0], "spectra/s", name, rates[1], higher_is_better=True
    )
