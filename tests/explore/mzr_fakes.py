"""A small product of the kind that the mass-metallicity dashboard opens, made backwards from its answers.

Line ratios are those that the O3N2 and N2 calibrations of Pettini & Pagel (2004, MNRAS 348, L59, eqs. 1 and 3)
turn into the galaxy's own metallicity, so what the dashboard must show is known.
"""

import numpy as np
import xarray as xr

from spectool.measure.mzr import STELLAR_RELATIONS
from spectool.spectra import LINES

MEASURED = ("[O II] 3726", "[O II] 3729", "Hδ", "Hγ", "Hβ", "[O III] 4959", "[O III] 5007")
MEASURED += ("[N II] 6548", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
SOURCES = ("original", "DESI-like", "de-noised")
OXYGEN_SUN = 8.91
SFR_SLOPE = -0.25  # dex of metallicity per dex of star-formation rate at fixed mass
STAR_SLOPE = -0.3  # the same of the stars


def line_ratios(oxygen):
    """Intrinsic fluxes relative to Hβ, by line."""
    n2 = 10 ** ((oxygen - 8.90) / 0.57)
    o3 = 10 ** ((8.73 - oxygen) / 0.32) * n2
    ratios = {
        "Hα": np.full_like(oxygen, 2.86),
        "Hβ": np.ones_like(oxygen),
        "Hγ": np.full_like(oxygen, 0.469),
        "Hδ": np.full_like(oxygen, 0.259),
        "[O III] 5007": o3,
        "[O III] 4959": o3 / 2.98,
        "[N II] 6583": 2.86 * n2,
        "[N II] 6548": 2.86 * n2 / 3.05,
        "[S II] 6716": 0.5 + 0 * oxygen,
        "[S II] 6731": 0.4 + 0 * oxygen,
        "[O II] 3726": 1.0 + 0 * oxygen,
        "[O II] 3729": 1.3 + 0 * oxygen,
    }
    return np.stack([ratios[name] for name in MEASURED], axis=-1)


def make_product(n=400, *, seed=0, noise=(0.004, 0.15, 0.02)):
    """Star-forming galaxies in three versions, the noise of each relative to the median Hα flux.

    The S/N of Hα falls with its flux, so a cut in it removes the faint ones first.
    """
    rng = np.random.default_rng(seed)
    mass = rng.uniform(8.6, 11.2, n)
    excess = rng.normal(0, 0.3, n)  # of the star-formation rate over the main sequence
    oxygen = 8.35 + 0.13 * (mass - 9) + SFR_SLOPE * excess + rng.normal(0, 0.03, n)
    h_beta = 10 ** (0.35 * rng.normal(size=n) - 0.3 * (mass - 10) ** 2)
    true = h_beta[:, None] * line_ratios(oxygen)
    sigma = np.asarray(noise)[:, None, None] * np.median(true[:, MEASURED.index("Hα")])
    flux = true + sigma * rng.normal(size=(len(SOURCES), *true.shape))
    flux[0] = true
    error = np.broadcast_to(sigma, flux.shape)
    units, cube = {"units": "Angstrom"}, ("source", "galaxy", "line")
    columns = {
        "log_mass": (mass, "dex(Msun)"),
        "log_sfr": (mass - 10 + excess, "dex(Msun / yr)"),
        "log_z_gas": (oxygen - OXYGEN_SUN, "dex"),
        "redshift": (rng.uniform(0.024, 0.05, n), ""),
        "norm": (np.full(n, 2.5), "1e-17 erg / (s cm2 Angstrom)"),
        "candidate": (1000 + rng.permutation(n), ""),
        "spectral_class": (np.full(n, "emission line galaxy"), ""),
    }
    product = xr.Dataset(
        {name: ("galaxy", values, {"units": unit}) for name, (values, unit) in columns.items()},
        coords={
            "source": list(SOURCES),
            "line": list(MEASURED),
            "line_wavelength": ("line", [LINES[name] for name in MEASURED], {"units": "Angstrom"}),
        },
    )
    product["log_z_gas"].attrs["oxygen_sun"] = OXYGEN_SUN
    calibrated = np.full_like(flux, np.nan)
    calibrated[2] = 3 * error[2]
    return product.assign(
        line_flux=(cube, flux.astype(np.float32), units),
        line_flux_error=(cube, error.astype(np.float32), units),
        line_flux_error_calibrated=(cube, calibrated.astype(np.float32), units),
        fit_status=(("source", "galaxy"), np.zeros((len(SOURCES), n), dtype=np.int8), {"units": ""}),
    )


def fake_rebuild(candidate):
    """A spectrum with one bump whose height is the candidate's number."""
    wavelength = np.geomspace(3700.0, 7900.0, 825)
    bump = candidate * np.exp(-0.5 * ((wavelength - LINES["Hα"]) / 8) ** 2)
    flux = np.stack([bump, bump + 1, bump + 2]).astype(np.float32)
    return xr.Dataset(
        {"flux": (("source", "wavelength"), flux, {"units": ""})},
        coords={"source": list(SOURCES), "wavelength": ("wavelength", wavelength, {"units": "Angstrom"})},
    )


def make_stellar_product(n=400, *, seed=0, trend=STAR_SLOPE):
    """A table like ``zahid2019_galaxies.nc``: the network errs as it says, but for a twentieth that it flags."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(8.5, 11.0, n)
    excess = rng.normal(0, 0.3, n)
    truth = STELLAR_RELATIONS["Zahid et al. 2017"].curve(mass) + trend * excess
    truth += rng.normal(0, 0.05, n)
    sn = 10 ** rng.normal(1.1, 0.25, n)
    error = 0.03 + 1.5 / sn
    outlier = rng.random(n) < 0.05
    columns = {
        "candidate": (10_000 + rng.permutation(n), ""),
        "redshift": (rng.uniform(0.027, 0.25, n), ""),
        "log_mass": (mass, "dex(Msun)"),
        "log_sfr": (0.8 * (mass - 10) + excess, "dex(Msun / yr)"),
        "log_z_lw": (truth, "dex"),
        "log_age_lw": (rng.normal(0, 0.3, n), "dex(Gyr)"),
        "log_z_predicted": (truth + error * rng.normal(size=n) + 2 * outlier, "dex"),
        "log_z_error": (error, "dex"),
        "sn": (sn, ""),
        "h_alpha_sn": (10 ** rng.normal(1.6, 0.3, n), ""),
        "outlier": (outlier, ""),
    }
    return xr.Dataset({name: ("galaxy", values, {"units": unit}) for name, (values, unit) in columns.items()})


def make_stellar_samples(n=400):
    """Two of them, as the reader gives them: with a trend at fixed mass, and without."""
    return {
        "SDSS main sample": make_stellar_product(n).assign_attrs(family="stars", spectrum="as SDSS sees it"),
        "null: SDSS main sample": make_stellar_product(n, seed=1, trend=0.0).assign_attrs(
            family="null stars"
        ),
    }


def make_samples(n=400, **options):
    """The product as the reader gives it: samples that share their candidates."""
    product = make_product(n, **options).drop_vars("line_flux_error_calibrated")
    return {
        str(name): product.sel(source=name, drop=True).assign_attrs(family="fake")
        for name in product["source"].values
    }
