"""Mixtures of single stellar populations seen through narrow bands: what a network may learn before galaxies."""

import numpy as np
import xarray as xr

from spectool.surveys.jpas import CALIFA_BANDS, FILTERS, band_matrix
from spectool.synth.grid import embedded_grid
from spectool.synth.histories import metallicity_operator, optical_light
from spectool.synth.synthesis import describe

MOST = 6
AGE_RANGE = (3e7, 1.34e10)
LOG_Z_RANGE = (-1.4, 0.4)
MAX_A_V = 1.2
_BATCH = 4096


def draw_ssp_mixtures(n, *, seed):
    """Sums of one to six single bursts behind dust, with nothing that a galaxy's spectra would share."""
    grid, rng, bands = embedded_grid(), np.random.default_rng(seed), CALIFA_BANDS
    age, metal, flux = np.empty(n), np.empty(n), np.empty((n, len(bands)))
    for start in range(0, n, _BATCH):
        part = slice(start, min(start + _BATCH, n))
        histories = draw_mixtures(rng, part.stop - start, grid)
        described = describe(histories, grid)
        age[part], metal[part] = np.log10(described["age_lw"].values), described["log_z_lw"].values
        flux[part] = mixture_bands(histories, grid)
    a_v, index = rng.uniform(0.0, MAX_A_V, n), -0.7 + 0.2 * rng.standard_normal(n)
    centres = np.array([float(FILTERS[name].wavelength) for name in bands])
    # Dust is smooth over a band, so that its value in the middle will do.
    depth = (a_v / 1.086)[:, None] * (centres / 5500.0) ** index[:, None]
    flux *= np.exp(-depth)
    flux = (flux / np.nanmean(flux, axis=1, keepdims=True)).astype("f4")
    return xr.Dataset(
        {
            "flux": (("spectrum", "band"), flux, {"units": "", "long_name": "f_nu over its mean"}),
            "mask": (("spectrum", "band"), ~np.isfinite(flux), {"units": ""}),
            "galaxy_index": ("spectrum", np.arange(n), {"units": ""}),
            "log_age": ("spectrum", age, {"units": "dex(Gyr)"}),
            "log_z": ("spectrum", metal, {"units": "dex", "z_sun": grid.z_sun}),
            "a_v": ("spectrum", a_v, {"units": "mag"}),
        },
        coords={
            "band": ("band", np.array(bands)),
            "band_wavelength": ("band", centres, {"units": "Angstrom"}),
        },
    )


def draw_mixtures(rng, n, grid):
    """Histories of the mixtures: ``mass_formed`` and ``log_z_star`` (galaxy, age), one unit of light each."""
    old_enough = np.flatnonzero((grid.age >= AGE_RANGE[0]) & (grid.age <= AGE_RANGE[1]))
    # Of two ages drawn the older: without that most mixtures would be younger than galaxies are.
    age = rng.choice(old_enough, (2, n, MOST)).max(axis=0)
    share = rng.dirichlet(np.ones(MOST), n) * (np.arange(MOST) < rng.integers(1, MOST + 1, (n, 1)))
    share /= share.sum(axis=1, keepdims=True)
    mean = rng.uniform(*LOG_Z_RANGE, n)
    log_z = np.clip(mean[:, None] + 0.15 * rng.standard_normal((n, grid.age.size)), -2.0, 0.5)
    light = (metallicity_operator(log_z, grid) * optical_light(grid).T).sum(-1)
    mass = np.zeros((n, grid.age.size))
    rows = np.arange(n)[:, None]
    np.add.at(mass, (rows, age), share / light[rows, age])
    return xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), mass, {"units": "Msun"}),
            "log_z_star": (("galaxy", "age"), log_z, {"units": "dex", "z_sun": 0.02}),
        },
        coords={"age": ("age", grid.age, {"units": "yr"})},
    )


def mixture_bands(histories, grid):
    """f_nu of stars without dust through bands: masses times a matrix of populations by bands."""
    populations = (grid.flux @ band_matrix(grid.wavelength)).reshape(-1, len(CALIFA_BANDS))
    operator = metallicity_operator(histories["log_z_star"].values, grid)
    weights = operator * histories["mass_formed"].values[:, :, None]
    return weights.transpose(0, 2, 1).reshape(len(weights), -1) @ populations
