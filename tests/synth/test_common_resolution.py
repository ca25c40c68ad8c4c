"""Single populations at a common resolution: lines get the width asked for, and keep their flux."""

from dataclasses import replace

import numpy as np
import pytest

from spectool.synth.broadening import grid_fwhm, smooth_ssps
from spectool.synth.grid import SSPGrid
from spectool.synth.sources import ssp_dataset

LINES = np.array([4200.0, 5200.0, 6800.0])


@pytest.fixture(scope="module")
def line_grid():
    """One population whose spectrum is three Gaussian lines of 2.5 Angstrom (FWHM), sampled at 0.9 Angstrom."""
    wavelength = np.arange(3900.0, 7400.0, 0.9)
    sigma = 2.5 / np.sqrt(8 * np.log(2))
    flux = np.exp(-0.5 * ((wavelength - LINES[:, None]) / sigma) ** 2).sum(0)
    arrays = {"flux": np.tile(flux, (1, 2, 1)), "metallicity": [0.02], "age": [1e6, 1e7]}
    arrays["wavelength"] = wavelength
    attrs = {"z_sun": 0.02, "fwhm": 2.5, "provenance": {"name": "lines"}}
    return SSPGrid.from_dataset(ssp_dataset(arrays, attrs))


def widths(wavelength, flux):
    found = []
    for line in LINES:
        near = np.abs(wavelength - line) < 40
        x, y = wavelength[near], flux[near].astype(float)
        centre = (x * y).sum() / y.sum()
        sigma = np.sqrt(((x - centre) ** 2 * y).sum() / y.sum())
        found.append((sigma * np.sqrt(8 * np.log(2)) / line * 299792.458, y.sum() * (x[1] - x[0]), centre))
    return np.array(found).T


@pytest.mark.parametrize("fwhm", [250.0, 330.0])
def test_lines_get_the_width_asked_for_at_all_wavelengths(line_grid, fwhm):
    wavelength = np.arange(4050.0, 7301)
    width, flux, centre = widths(wavelength, smooth_ssps(line_grid, wavelength, fwhm)[0, 0])
    # The width grows along a line too, which makes it 0.1% wider.
    np.testing.assert_allclose(width, fwhm, rtol=4e-3)
    np.testing.assert_allclose(flux, np.sqrt(2 * np.pi) * 2.5 / np.sqrt(8 * np.log(2)), rtol=2e-3)
    np.testing.assert_allclose(centre, LINES, atol=0.02)


def test_it_is_the_direct_convolution(grid):
    """A sum over pixels a thousand times finer, at one wavelength."""
    centre = 5172.0
    one = smooth_ssps(grid, np.array([centre, centre + 1]), 330.0)[4, 70, 0]
    sigma = np.sqrt((centre * 330 / 299792.458) ** 2 - grid.fwhm**2) / np.sqrt(8 * np.log(2))
    sigma = np.sqrt(sigma**2 - 0.9**2 / 12)
    fine = np.arange(centre - 25, centre + 25, 0.0009)
    flux = grid.flux[4, 70, np.searchsorted(grid.edges, fine) - 1].astype(float)
    kernel = np.exp(-0.5 * ((fine - centre) / sigma) ** 2)
    assert one == pytest.approx(flux @ kernel / kernel.sum(), rel=1e-4)


def test_flat_spectra_stay_flat_and_resolutions_are_believed(line_grid):
    flat = replace(line_grid, flux=np.ones_like(line_grid.flux))
    np.testing.assert_allclose(smooth_ssps(flat, np.arange(3901.0, 7398), 330.0), 1, rtol=1e-6)
    assert grid_fwhm(line_grid, LINES).tolist() == [2.5] * 3
    table = {"wavelength": [4000.0, 7000.0], "fwhm": [2.0, 5.0]}
    varying = replace(line_grid, provenance={"resolution": table})
    np.testing.assert_allclose(grid_fwhm(varying, LINES), 2 + 3 * (LINES - 4000) / 3000)
    with pytest.raises(ValueError, match=r"the grid lines has a resolution of 185 km/s \(FWHM\) at 4050 A"):
        smooth_ssps(line_grid, np.arange(4050.0, 7301), 180.0)
    with pytest.raises(ValueError, match=r"3800-7300 A reach beyond the grid's 3900-"):
        smooth_ssps(line_grid, np.arange(3800.0, 7301), 330.0)
