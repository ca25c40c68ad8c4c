"""Toy galaxies for the tests of networks on fluxes: 21 bands, two shapes, mass and SFR in closed form."""

import numpy as np
import xarray as xr

from spectool.surveys.gama import BANDS


def make_galaxies(n, *, seed=0, gaps=0.0):
    """Galaxies whose flux is a mass times an old spectrum plus a rate times a young one, over distance squared.

    A share `gaps` of them has no GALEX bands. Labels carry the suffix of the teacher.
    """
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, len(BANDS))
    old, young = np.exp(-(((x - 0.4) / 0.2) ** 2)), np.exp(-((x / 0.2) ** 2))
    young = young + np.exp(-(((x - 0.9) / 0.2) ** 2))
    log_mass = rng.uniform(9, 11.5, n)
    log_sfr = 0.7 * (log_mass - 10) + rng.normal(0, 0.4, n)
    redshift = rng.uniform(0.02, 0.3, n)
    light = 10 ** (log_mass[:, None] - 10) * old + 10 ** log_sfr[:, None] * young
    flux = 1e-5 * light / redshift[:, None] ** 2
    error = np.broadcast_to(1e-5 * np.geomspace(0.5, 20, len(BANDS)), flux.shape) + 0.03 * flux
    flux = flux + error * rng.standard_normal(flux.shape)
    mask, dims = np.zeros(flux.shape, bool), ("galaxy", "band")
    mask[rng.random(n) < gaps, :2] = True
    columns = {
        "flux": (dims, np.where(mask, np.nan, flux), {"units": "Jy"}),
        "flux_error": (dims, np.where(mask, np.nan, error), {"units": "Jy"}),
        "mask": (dims, mask, {"units": ""}),
        "redshift": ("galaxy", redshift, {"units": ""}),
    }
    labels = {"log_mass": log_mass, "log_sfr": log_sfr, "log_dust_luminosity": 0.5 * (log_mass + log_sfr)}
    columns |= {f"{name}_fit": ("galaxy", values, {"units": "dex"}) for name, values in labels.items()}
    return xr.Dataset(columns, coords={"band": list(BANDS)})
