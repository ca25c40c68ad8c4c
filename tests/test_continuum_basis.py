"""The pseudo-continuum is the least-squares polynomial of the good pixels, whatever is bad."""

import numpy as np
import pytest

from spectool import continuum
from spectool.continuum import N_KEPT, ContinuumBasis, kept_pixels, normalize_continuum
from spectool.spectra import LINES
from tests.refusals import refused


@pytest.fixture(scope="module")
def basis():
    return ContinuumBasis.optical()


@pytest.fixture
def spectra(basis, rng):
    """Sloping continua with lines and noise, and bad pixels: scattered, a gap, an end, every other one, none."""
    x = np.linspace(-1, 1, basis.kept_wavelength.size)
    shape = 1 + rng.uniform(-0.4, 0.4, (10, 1)) * x + 0.1 * np.sin(7 * x)
    flux = (shape * (1 + 0.05 * rng.standard_normal((10, x.size)))).astype("f4")
    bad = rng.random(flux.shape) < 0.03
    bad[1, 500:560] = bad[2, :300] = bad[3, ::2] = True
    bad[4] = False
    return flux, bad


def exact_fit(flux, good, basis):
    """The polynomial by numpy's own least squares, one spectrum at a time."""
    x = np.interp(basis.kept_wavelength, basis.kept_wavelength[[0, -1]], [-1, 1])
    return np.polynomial.Legendre.fit(x[good], flux[good].astype(float), basis.degree)(x)


def test_pixels_and_windows_are_those_of_the_paper():
    optical, stacks = continuum.optical_wavelength(), continuum.stack_wavelength()
    assert optical[[0, -1]].tolist() == [4050, 7300] and optical.size == 3251
    assert stacks[[0, -1]].tolist() == [3700, 7360] and stacks.size == 3661
    assert kept_pixels(optical).sum() == N_KEPT and abs(N_KEPT - 2500) < 50
    windows = continuum.line_windows()
    for names, width in ((continuum.BALMER_LINES, 75.0), (continuum.ISM_LINES, 30.0)):
        assert {round(windows[name][1] - windows[name][0], 6) for name in names} == {width}
    inside = {name: w for name, w in LINES.items() if 4050 < w < 7300}
    assert not kept_pixels(list(inside.values())).any(), inside


def test_good_pixels_alone_decide_and_are_divided_by_their_polynomial(basis, spectra):
    flux, bad = spectra
    clean = normalize_continuum(flux, None, basis)
    np.testing.assert_allclose(clean[0], flux / clean[1] - 1, atol=1e-6)
    flux = np.where(bad, np.nan, flux)
    normalized, polynomial = normalize_continuum(flux, bad, basis)
    assert np.all(normalized[bad] == 0) and np.isfinite(normalized).all()
    good = np.ones(flux.shape[1], bool)
    for row in range(len(flux)):
        expected = exact_fit(spectra[0][row], good, basis)
        np.testing.assert_allclose(clean[1][row], expected, rtol=1e-5)
        some, expected = ~bad[row], exact_fit(flux[row], ~bad[row], basis)
        np.testing.assert_allclose(polynomial[row][some], expected[some], rtol=1e-3 if row == 2 else 1e-5)


def test_a_polynomial_of_the_degree_leaves_nothing(basis):
    x = (basis.kept_wavelength - 5675) / 1625
    normalized, _ = normalize_continuum((2 + x**3 - 0.5 * x**20)[None], None, basis)
    assert np.abs(normalized).max() < 1e-5


def test_it_is_the_limit_of_filling_bad_pixels_with_the_fit(basis, spectra):
    flux, bad = (values[[0, 3]] for values in spectra)
    vectors = basis.vectors.numpy().astype(float)
    filled = np.where(bad, 1.0, flux)
    for _ in range(60):
        filled = np.where(bad, (filled @ vectors) @ vectors.T, flux)
    limit = (filled @ vectors) @ vectors.T
    np.testing.assert_allclose(normalize_continuum(flux, bad, basis)[1], limit, rtol=3e-5)


def test_the_number_of_bad_pixels_around_does_not_matter(basis, spectra):
    """Batches with few and with many bad pixels take different ways."""
    flux, bad = spectra
    few, many = normalize_continuum(flux[:1], bad[:1], basis), normalize_continuum(flux, bad, basis)
    np.testing.assert_allclose(few[0][0], many[0][0], atol=2e-6)


def test_spectra_without_continuum_are_blanked_and_other_shapes_refused(basis, spectra):
    flux, bad = spectra
    flux[0] *= -1
    bad[1] = True
    bad[2] = np.arange(flux.shape[1]) >= basis.degree + 1
    flux[3] = 1 - np.linspace(0, 0.99, flux.shape[1])  # falls to 1%: dividing by it makes anything huge
    normalized, polynomial = normalize_continuum(flux, bad, basis)
    assert np.isnan(polynomial[:4]).all() and not normalized[:4].any()
    assert np.isfinite(polynomial[4:]).all()
    assert np.isnan(normalize_continuum(flux[[0, 3]], None, basis)[1]).all()
    with pytest.raises(ValueError, match=r"flux has shape \(2, 7\); the basis has 2468 pixels"):
        normalize_continuum(np.ones((2, 7)), None, basis)
    refused("bad has shape", normalize_continuum, np.ones((2, N_KEPT)), np.zeros((1, N_KEPT), bool), basis)
    refused("needs more than 21 pixels, not 5", ContinuumBasis, np.arange(5.0), np.ones(5, bool))
