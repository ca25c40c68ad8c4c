"""Mixtures of single bursts: sums of the grid's populations, and labels as everywhere."""

import numpy as np
import pytest

from spectool.surveys.jpas import CALIFA_BANDS, FILTERS, band_matrix
from spectool.synth import synthesize
from tests.stars import bare_stars
from tools.make.ssp_mixtures import AGE_RANGE, draw_mixtures, draw_ssp_mixtures, mixture_bands


@pytest.fixture(scope="module")
def histories(grid):
    return draw_mixtures(np.random.default_rng(0), 40, grid)


def synthesized(histories, grid, wavelength, dust=0.0):
    ready = bare_stars(histories["mass_formed"].values, histories["log_z_star"].values, dust2=dust)
    return synthesize(ready, grid, wavelength=wavelength, nebular=False, progress=False)["flux"]


def test_bands_are_those_of_the_spectra_of_one_to_six_populations_with_one_unit_of_light(grid, histories):
    wavelength, bands = np.arange(3750.5, 7510.0), mixture_bands(histories, grid)
    spectra = (synthesized(histories, grid, wavelength, dust).values for dust in (0.0, 0.5))
    bare, dusty = (flux @ band_matrix(wavelength) for flux in spectra)
    np.testing.assert_allclose(bands, bare, rtol=1e-3)
    centres = np.array([FILTERS[name].wavelength for name in CALIFA_BANDS])
    behind = bands * np.exp(-0.5 * (centres / 5500.0) ** -0.7)
    assert np.abs(2.5 * np.log10(behind / dusty)).max() < 0.005
    mass = histories["mass_formed"].values
    count = (mass > 0).sum(axis=1)
    assert count.min() == 1 and count.max() <= 6
    assert (mass[:, (grid.age < AGE_RANGE[0]) | (grid.age > AGE_RANGE[1])] == 0).all()
    light = synthesized(histories, grid, np.arange(4050.5, 7300.0)).sum("wavelength")
    np.testing.assert_allclose(light, 1, rtol=3e-3)


def test_the_sample_covers_what_galaxies_have():
    sample = draw_ssp_mixtures(3000, seed=1)
    assert np.isfinite(sample["flux"]).all() and not sample["mask"].any()
    for name, young, old in (("log_age", -0.3, 0.93), ("log_z", -1.0, 0.2)):
        low, high = np.percentile(sample[name], [10, 95])
        assert low < young and high > old
    again = draw_ssp_mixtures(3000, seed=1)
    assert again["flux"].values.tobytes() == sample["flux"].values.tobytes()
