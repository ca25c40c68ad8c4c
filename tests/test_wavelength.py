"""Wavelength grids and rebinning: identities, and agreement with spectres."""

import numpy as np
import pytest
from spectres import spectres

from spectool.spectra import LINES, air_to_vacuum, pixel_edges, rebin_matrix, sps_wavelength, vacuum_to_air


def test_paper_grid_has_4582_pixels_most_of_them_in_the_optical():
    wavelength = sps_wavelength()
    assert wavelength.shape == (4582,)
    assert np.all(np.diff(wavelength) > 0)
    assert wavelength[0] > 1000 and wavelength[-1] < 10000
    assert np.mean((wavelength > 3000) & (wavelength < 8000)) > 0.9


def test_rebinning_conserves_flux(rng):
    edges = np.sort(rng.uniform(4000, 5000, 200))
    flux = rng.normal(size=199)
    coarse = np.concatenate([[edges[0]], np.sort(rng.uniform(edges[0], edges[-1], 30)), [edges[-1]]])
    assert np.isclose((rebin_matrix(edges, coarse) @ flux) @ np.diff(coarse), flux @ np.diff(edges))


def test_rebinning_a_constant_gives_the_constant_even_where_coverage_is_partial(rng):
    operator = rebin_matrix(np.linspace(4000, 5000, 101), np.linspace(3994, 5006, 33))
    assert np.allclose(operator @ np.full(100, 3.0), 3.0)


def test_pixels_without_coverage_are_empty():
    operator = rebin_matrix(np.linspace(4000, 5000, 101), np.linspace(6000, 7000, 11))
    assert operator.nnz == 0 and operator.shape == (10, 100)


def test_rebinning_agrees_with_spectres(rng):
    old, new = np.linspace(4000, 5000, 800), np.linspace(4050, 4950, 133)
    flux, error = rng.normal(1, 0.1, 800), rng.uniform(0.1, 0.2, 800)
    operator = rebin_matrix(pixel_edges(old), pixel_edges(new))
    expected, expected_error = spectres(new, old, flux, spec_errs=error)
    assert np.allclose(operator @ flux, expected, rtol=1e-9)
    assert np.allclose(np.sqrt(operator.power(2) @ error**2), expected_error, rtol=1e-9)


def test_air_and_vacuum_are_inverse_and_right_for_a_known_line():
    assert np.isclose(air_to_vacuum(6562.80), LINES["Hα"], atol=0.02)
    wavelength = np.linspace(3500, 9500, 50)
    assert np.allclose(vacuum_to_air(air_to_vacuum(wavelength)), wavelength, atol=1e-5)


def test_wavelengths_that_do_not_increase_are_named():
    with pytest.raises(ValueError, match=r"after pixel 1 \(2 A\)"):
        pixel_edges([1.0, 2.0, 1.5])
