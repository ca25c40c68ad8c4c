"""Toy galaxies, networks that know them, and a library that holds them exactly."""

from functools import cache

import numpy as np
import xarray as xr

from spectool.explore.sed_state import SedState
from spectool.models.bands import read_inputs
from spectool.models.ensemble import BandEnsemble
from spectool.papers.surana2020 import network as paper
from spectool.surveys.gama import BANDS
from spectool.surveys.photometry import REFERENCE_MPC, luminosity_distance
from tests.sed_toy import make_galaxies
from tools.make.references import fit_band_outliers

WAVELENGTH = np.geomspace(1500.0, 5e6, len(BANDS))
GAPPY, NEGATIVE = 1, 2
"""Rows of `make_sample`: without GALEX; with a flux below zero in S500."""


def make_sample():
    """Four galaxies with labels and truths; see `GAPPY` and `NEGATIVE`."""
    sample = make_galaxies(4, seed=9)
    sample["mask"][GAPPY, :2] = True
    for name in ("flux", "flux_error"):
        sample[name][GAPPY, :2] = np.nan
    sample["flux"][NEGATIVE, -1] = -0.5 * sample["flux_error"].values[NEGATIVE, -1]
    for name in paper.UNITS:
        label = sample[f"{name}_fit"]
        sample = sample.assign({name: label, f"{name}_fit_low": label - 0.1, f"{name}_fit_high": label + 0.1})
    return sample.assign_coords(name=("galaxy", ["one", "gappy", "negative", "four"]))


@cache
def make_networks():
    """Two networks with errors, and the reference for outliers."""
    samples = [make_galaxies(n, seed=k, gaps=0.1) for k, n in enumerate((2000, 1000))]
    parts = [read_inputs(sample, list(BANDS)) for sample in samples]
    labels = [paper.read_labels(sample) for sample in samples]
    data = parts[0], labels[0], parts[1], labels[1]
    recipe = paper.Recipe((32, 32), 6, 6)
    options = paper.ensemble_options(epochs=6) | {"recipe": recipe, "progress": False}
    members = [paper.train_network(*data, seed=seed, **options)[0] for seed in range(2)]
    ensemble = paper.calibrate(BandEnsemble(members), *data[2:], seed=[0, 2])
    return ensemble, fit_band_outliers(*parts)


@cache
def make_library(n=300):
    """Models of `make_galaxies`, by their specific rate of star formation."""
    x = np.linspace(0, 1, len(BANDS))
    old = np.exp(-(((x - 0.4) / 0.2) ** 2))
    young = np.exp(-((x / 0.2) ** 2)) + np.exp(-(((x - 0.9) / 0.2) ** 2))
    specific = np.linspace(-13.5, -8, n)
    redshift = np.arange(0.02, 0.325, 0.01)
    light = 1e-15 * (old + 10 ** (specific[:, None] + 10) * young)
    scale = (luminosity_distance(redshift) / REFERENCE_MPC / redshift) ** 2
    return xr.Dataset(
        {
            "flux": (
                ("redshift", "model", "band"),
                (scale[:, None, None] * light).astype("f4"),
                {"units": "Jy / solMass"},
            ),
            "age_form": ("model", np.full(n, 1.0), {"units": "Gyr"}),
            "log_mass": ("model", np.zeros(n)),
            "log_sfr": ("model", specific),
            "log_dust_luminosity": ("model", 0.5 * specific),
        },
        coords={
            "redshift": redshift,
            "band": list(BANDS),
            "band_wavelength": ("band", WAVELENGTH, {"units": "Angstrom"}),
        },
    )


def make_state(**options):
    """The dashboard's state on all of these."""
    ensemble, outliers = make_networks()
    return SedState(make_sample(), ensemble, **{"outliers": outliers, "library": make_library()} | options)
