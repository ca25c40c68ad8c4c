"""Small spectra of a few parameters for the de-noisers' tests: a slope, a break and two lines of one ratio."""

import numpy as np
import pytest

from tests.samples import make_spectra

N_PIXELS = 120
CONSTANT = 7.0


def make_toy(n=400, *, seed=0, sigma=0.04, original_sn=40.0):
    """Normalised spectra with truth, own noise and added noise, as `make_sample` and `add_noise` give them."""
    from spectool.papers.scourfield2023.sample import add_noise, normalize_total

    rng = np.random.default_rng(seed)
    wavelength = np.geomspace(3700.0, 7900.0, N_PIXELS)
    x = np.linspace(-1, 1, N_PIXELS)
    slope, jump, line = rng.normal(0, 0.4, n), rng.uniform(0, 0.5, n), 10 ** rng.normal(0.2, 0.4, n)
    profile = np.exp(-0.5 * ((np.arange(N_PIXELS) - 90) / 1.2) ** 2)
    profile += 0.5 * np.exp(-0.5 * ((np.arange(N_PIXELS) - 40) / 1.2) ** 2)
    truth = np.exp(slope[:, None] * x) * (1 - jump[:, None] * (x < -0.7)) + line[:, None] * profile
    error = np.median(truth, axis=1, keepdims=True) / original_sn * np.ones(N_PIXELS)
    columns = {"ivar": error**-2.0, "mask": False, "truth": truth, "line_strength": line}
    flux = truth + error * rng.standard_normal(truth.shape)
    physical = make_spectra(flux, wavelength, candidate=np.arange(n), **columns)
    sample = normalize_total(physical, constant=CONSTANT)
    return add_noise(sample, seed=seed + 1, sigma=sigma)


@pytest.fixture(scope="session")
def toy():
    return make_toy


@pytest.fixture(scope="session")
def trained(toy):
    """A small VAE that has learnt the toy spectra, with its training and validation arrays and samples."""
    from spectool.papers.scourfield2023.network import make_arrays, make_model
    from spectool.papers.scourfield2023.network import train as train_denoiser

    samples = {"train": toy(1500, seed=0), "valid": toy(1000, seed=10), "test": toy(1000, seed=20)}
    data = {part: make_arrays(sample) for part, sample in samples.items()}
    wavelength = samples["train"]["wavelength"].values
    model = make_model("vae", 3, data["train"]["flux"], wavelength, widths=(96, 80, 72, 66))
    history = train_denoiser(model, data["train"], data["valid"], lr=1e-3, epochs=12, progress=False)
    return {"model": model, "history": history, "samples": samples, "data": data}
