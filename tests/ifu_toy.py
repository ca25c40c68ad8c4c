"""Toy IFU galaxies for the tests of networks on narrow bands: shapes in closed form, and a tilt of each galaxy."""

import numpy as np
import xarray as xr

BANDS = [f"J{n:04d}" for n in range(390, 730, 10)]


def make_galaxies(n_galaxies=40, n_spectra=50, *, seed=0, tilt=0.3, noise=0.0):
    """Spectra whose break tells of age, a dip of metallicity, and a slope of both and of the galaxy's own tilt.

    Labels with the suffix ``_fit`` are off by 0.1 dex, alike for all spectra of a galaxy.
    """
    rng = np.random.default_rng(seed)
    n = n_galaxies * n_spectra
    which = np.repeat(np.arange(n_galaxies), n_spectra)
    radius = rng.uniform(0, 2, n)
    log_age = rng.normal(0.5, 0.25, n_galaxies)[which] - 0.15 * radius + rng.normal(0, 0.05, n)
    log_z = rng.normal(-0.2, 0.15, n_galaxies)[which] - 0.2 * radius + rng.normal(0, 0.05, n)
    x = np.linspace(-1, 1, len(BANDS))
    slope = log_age + 0.5 * log_z + tilt * rng.standard_normal(n_galaxies)[which]
    magnitude = -slope[:, None] * x - 0.5 * log_age[:, None] * np.tanh(20 * (x + 0.85))
    magnitude += 0.5 * np.exp(log_z)[:, None] * np.exp(-(((x - 0.1) / 0.05) ** 2))
    flux = 10 ** (-0.4 * (magnitude + rng.uniform(15, 20, (n, 1))))
    error = noise * flux.mean(axis=1, keepdims=True) * np.ones(len(BANDS))
    dims, off = ("spectrum", "band"), 0.1 * rng.standard_normal((2, n_galaxies))
    labels = {"log_age": log_age, "log_z": log_z, "radius": radius}
    labels |= {"log_age_fit": log_age + off[0][which], "log_z_fit": log_z + off[1][which]}
    columns = {
        "flux": (dims, (flux + error * rng.standard_normal(flux.shape)).astype("f4"), {"units": ""}),
        "mask": (dims, np.zeros(flux.shape, bool), {"units": ""}),
        "galaxy_index": ("spectrum", which, {"units": ""}),
        "is_early": ("galaxy", np.arange(n_galaxies) % 4 == 0, {"units": ""}),
    }
    columns |= {name: ("spectrum", values, {"units": "dex"}) for name, values in labels.items()}
    if noise:
        columns["flux_error"] = (dims, error.astype("f4"), {"units": ""})
    return xr.Dataset(columns, coords={"band": BANDS})
