"""A few galaxies of a few dozen spectra, and predictions of known faults: what the figures show must hold for any."""

import numpy as np
import xarray as xr

from spectool.surveys.jpas import CALIFA_BANDS, FILTERS

CENTRES = np.array([FILTERS[name].wavelength for name in CALIFA_BANDS])
SLOPES = {"log_age": -0.3, "log_z": -0.2}  # dex per effective radius, of every fake galaxy
OFFSET = 0.25  # dex by which Set B misses the ages of galaxies with odd numbers


def make_sample(n_galaxies=5, n_spectra=140, seed=0):
    """Lay out an IFU sample; the last galaxy has too few spectra for a gradient."""
    rng = np.random.default_rng(seed)
    counts = np.full(n_galaxies, n_spectra)
    counts[-1] = 20
    galaxy = np.repeat(np.arange(n_galaxies), counts)
    n = galaxy.size
    inclination = rng.uniform(20, 70, n_galaxies)
    re = rng.uniform(10, 20, n_galaxies)
    radius, angle = 2.0 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    major = radius * np.cos(angle) * re[galaxy]
    minor = radius * np.sin(angle) * re[galaxy] * np.cos(np.deg2rad(inclination))[galaxy]
    turn = rng.uniform(0, np.pi, n_galaxies)[galaxy]
    columns = {
        "x": major * np.cos(turn) - minor * np.sin(turn),
        "y": major * np.sin(turn) + minor * np.cos(turn),
        "radius": radius,
        "log_age": 0.6 + 0.1 * rng.normal(size=n_galaxies)[galaxy] + SLOPES["log_age"] * radius,
        "log_z": 0.1 + 0.1 * rng.normal(size=n_galaxies)[galaxy] + SLOPES["log_z"] * radius,
    }
    columns["log_age_fit"] = columns["log_age"] + 0.02
    columns["log_z_fit"] = columns["log_z"] - 0.02
    units = {"x": "arcsec", "y": "arcsec", "radius": ""}
    flux = 1 + 0.3 * (CENTRES - 5500) / 2000 * (0.2 - columns["log_age"])[:, None]
    mask = np.zeros(flux.shape, dtype=bool)
    mask[:, 3] = galaxy == 1
    table = {
        "log_mass": (rng.uniform(9, 11.5, n_galaxies), "dex(Msun)"),
        "log_ssfr": (rng.uniform(-12, -9.5, n_galaxies), "dex(1/yr)"),
        "inclination": (inclination, "deg"),
        "re": (re, "arcsec"),
        "is_early": (np.arange(n_galaxies) % 2 == 0, ""),
    }
    return xr.Dataset(
        {
            "flux": (("spectrum", "band"), flux, {"units": ""}),
            "flux_error": (("spectrum", "band"), 0.02 * flux, {"units": ""}),
            "mask": (("spectrum", "band"), mask, {"units": ""}),
            "galaxy_index": ("spectrum", galaxy, {"units": ""}),
            **{k: ("spectrum", v, {"units": units.get(k, "dex")}) for k, v in columns.items()},
            "galaxy_name": ("galaxy", [f"mock {k}" for k in range(n_galaxies)]),
            **{k: ("galaxy", v, {"units": unit}) for k, (v, unit) in table.items()},
        },
        coords={"band": list(CALIFA_BANDS)},
    )


def make_predictions(sample, seed=1):
    """Set A is right to 0.03 dex; Set B to 0.15 dex, and wrong by `OFFSET` in galaxies with odd numbers."""
    rng = np.random.default_rng(seed)
    n = sample.sizes["spectrum"]
    odd = sample["galaxy_index"].values % 2 == 1

    def predict(scatter, offset):
        columns = {}
        for name in ("log_age", "log_z"):
            columns[name] = ("spectrum", sample[name].values + offset * odd + scatter * rng.normal(size=n))
            columns[f"{name}_error"] = ("spectrum", np.full(n, scatter))
        return xr.Dataset(columns)

    return {"Set A": predict(0.03, 0.0), "Set B": predict(0.15, OFFSET)}


def rebuild(sample, galaxy):
    """Straight spectra through the bands of one galaxy."""
    rows = np.flatnonzero(sample["galaxy_index"].values == galaxy)
    wavelength = np.arange(3800.0, 7500.0, 2.0)
    f_nu = np.stack([np.interp(wavelength, CENTRES, flux) for flux in sample["flux"].values[rows]])
    flux = 3.0 * f_nu / (wavelength / 5000.0) ** 2
    return xr.Dataset({"flux": (("spectrum", "wavelength"), flux)}, coords={"wavelength": wavelength})
