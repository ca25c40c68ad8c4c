"""Wavelength grids and rebinning: identities, agreement with spectres, and batches that are each of their spectra."""

import numpy as np
import pytest
from spectres import spectres

from spectool import spectra
from spectool.spectra import pixel_edges, rebin_matrix, rebin_spectra


@pytest.fixture
def batch(rng):
    edges_in = pixel_edges(10 ** np.arange(3.58, 3.70, 1e-4)) / (1 + rng.uniform(0, 0.3, (5, 1)))
    edges_out = np.broadcast_to(np.linspace(3000.0, 4500.0, 700), (5, 700))
    return rng.lognormal(size=(5, edges_in.shape[1] - 1)), edges_in, edges_out


def test_paper_grid_is_optical_and_air_and_vacuum_are_inverse():
    wavelength = spectra.sps_wavelength()
    assert wavelength.shape == (4582,) and np.all(np.diff(wavelength) > 0)
    assert wavelength[0] > 1000 and wavelength[-1] < 10000
    assert np.mean((wavelength > 3000) & (wavelength < 8000)) > 0.9
    assert np.isclose(spectra.air_to_vacuum(6562.80), spectra.LINES["Hα"], atol=0.02)
    wavelength = np.linspace(3500, 9500, 50)
    assert np.allclose(spectra.vacuum_to_air(spectra.air_to_vacuum(wavelength)), wavelength, atol=1e-5)


def test_wavelengths_that_do_not_increase_are_named():
    with pytest.raises(ValueError, match=r"after pixel 1 \(2 A\)"):
        pixel_edges([1.0, 2.0, 1.5])


def test_rebinning_conserves_flux_and_constants_and_leaves_the_rest_empty(rng):
    edges = np.sort(rng.uniform(4000, 5000, 200))
    flux = rng.normal(size=199)
    coarse = np.concatenate([[edges[0]], np.sort(rng.uniform(edges[0], edges[-1], 30)), [edges[-1]]])
    assert np.isclose((rebin_matrix(edges, coarse) @ flux) @ np.diff(coarse), flux @ np.diff(edges))
    # Coverage of the first and the last pixel is partial.
    operator = rebin_matrix(np.linspace(4000, 5000, 101), np.linspace(3994, 5006, 33))
    assert np.allclose(operator @ np.full(100, 3.0), 3.0)
    nothing = rebin_matrix(np.linspace(4000, 5000, 101), np.linspace(6000, 7000, 11))
    assert nothing.nnz == 0 and nothing.shape == (10, 100)


def test_rebinning_agrees_with_spectres(rng):
    old, new = np.linspace(4000, 5000, 800), np.linspace(4050, 4950, 133)
    flux, error = rng.normal(1, 0.1, 800), rng.uniform(0.1, 0.2, 800)
    operator = rebin_matrix(pixel_edges(old), pixel_edges(new))
    expected, expected_error = spectres(new, old, flux, spec_errs=error)
    assert np.allclose(operator @ flux, expected, rtol=1e-9)
    assert np.allclose(np.sqrt(operator.power(2) @ error**2), expected_error, rtol=1e-9)


def test_a_batch_equals_its_spectra_one_by_one(rng, batch):
    flux, edges_in, edges_out = batch
    variance, good = flux / 10, rng.random(flux.shape) > 0.1
    mean, spread, covered = rebin_spectra(flux, variance, good, edges_in, edges_out)
    for row, (old, new) in enumerate(zip(edges_in, edges_out, strict=True)):
        reach = np.minimum(new[1:], old[-1]) - np.maximum(new[:-1], old[0])
        matrix = rebin_matrix(old, new).toarray() * good[row]
        matrix *= (np.clip(reach, 0, None) / np.diff(new))[:, None]
        share = matrix.sum(axis=1)
        some = share > 1e-9
        np.testing.assert_allclose(covered[row], share, atol=1e-8)
        np.testing.assert_allclose(mean[row][some], (matrix @ flux[row])[some] / share[some], rtol=1e-6)
        expected = (matrix**2 @ variance[row])[some] / share[some] ** 2
        np.testing.assert_allclose(spread[row][some], expected, rtol=1e-6)


def test_a_batch_conserves_flux_and_does_not_look_at_bad_pixels(rng, batch):
    flux, edges_in, edges_out = batch
    wide = np.broadcast_to(np.linspace(2500.0, 5500.0, 1234), (len(flux), 1234))
    out, _, covered = rebin_spectra(flux, flux, np.ones(flux.shape, bool), edges_in, wide)
    total = (out * covered * np.diff(wide)).sum(axis=1)
    np.testing.assert_allclose(total, (flux * np.diff(edges_in)).sum(axis=1), rtol=1e-9)
    good = rng.random(flux.shape) > 0.3
    spoilt = np.where(good, flux, np.nan)
    clean, same = (rebin_spectra(values, values, good, edges_in, edges_out) for values in (flux, spoilt))
    np.testing.assert_array_equal(same, clean)


def test_spectra_with_common_pixels_rebin_alike(rng, batch):
    flux, edges_in, edges_out = batch
    edges_out = edges_out / (1 + rng.uniform(0, 0.2, (len(flux), 1)))
    flux[1, 40:60] = np.nan
    everywhere = np.broadcast_to(edges_in[0], edges_in.shape)
    expected, _, covered = rebin_spectra(flux, flux, np.isfinite(flux), everywhere, edges_out)
    got, got_covered = spectra.rebin_common(flux, edges_in[0], edges_out)
    np.testing.assert_allclose(got_covered, covered, atol=1e-7)
    some = covered > 1e-6
    np.testing.assert_allclose(got[some], expected[some], rtol=1e-6)
    assert (got[got_covered == 0] == 0).all() and 0 < some.sum() < some.size
