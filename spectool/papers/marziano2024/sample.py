"""The mock sample of Marziano (2024): galaxies drawn, synthesized and normalised in one call."""

import numpy as np

from spectool.prepare import NORM_WINDOW
from spectool.spectra import sps_wavelength
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize


def make_sample(n, *, seed, independent=False, grid=None, progress=True):
    """Noise-free rest-frame spectra as in Marziano (2024, Section 3.1), with the parameters that made them.

    Parameters
    ----------
    n : int
        Galaxies.
    seed : int or numpy.random.Generator
    independent : bool
        Draw the parameters independently of each other, for null tests.
    grid : SSPGrid, optional
        Default: the embedded one.

    Returns
    -------
    xarray.Dataset
        ``flux`` (galaxy, wavelength: 4582) float32, its median over 5000-5500 A set to 1; per galaxy the columns of
        `draw_population` and `synthesize`, and ``log_ssfr`` (SFR over surviving mass).
    """
    grid = grid or SSPGrid.embedded()
    galaxies = draw_population(n, grid_age=grid.age, seed=seed, independent=independent)
    sample = synthesize(galaxies, grid, wavelength=sps_wavelength(), progress=progress).drop_dims("age")
    return normalize_mocks(
        sample.assign(log_ssfr=(sample["log_sfr"] - sample["log_mass"]).assign_attrs(units="dex(1 / yr)"))
    )


def normalize_mocks(sample):
    """Divide noise-free spectra by their median over 5000-5500 A, in place: no second copy of a large sample."""
    low, high = NORM_WINDOW
    inside = (sample["wavelength"].values >= low) & (sample["wavelength"].values <= high)
    flux = sample["flux"].values
    flux /= np.median(flux[:, inside], axis=1, keepdims=True)
    return sample.assign(flux=(sample["flux"].dims, flux, {"units": ""}))
