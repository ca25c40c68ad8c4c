"""Broadening is a convolution in velocity that loses no flux, whatever the shape in which it is computed."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from spectool.broaden import broaden, fill_bad, make_broadening
from spectool.spectra import KM_S, pixel_edges
from tests.refusals import refused

WAVELENGTH = np.arange(4050.0, 7301.0)


def draw_line(centre, sigma):
    """A line of unit flux that is a Gaussian in velocity [km/s], as means over pixels."""
    edges = np.log(pixel_edges(WAVELENGTH) / centre) * KM_S / sigma
    return np.diff(norm.cdf(edges)) / np.diff(pixel_edges(WAVELENGTH))


@pytest.mark.parametrize("sigma", [15.0, 25.0, 60.0, 125.0, 300.0])
def test_a_line_becomes_the_line_of_the_summed_variance(sigma):
    centres, own = (4200.3, 5500.0, 7150.7), 90.0
    lines = np.stack([draw_line(c, own) for c in centres])
    wanted = np.stack([draw_line(c, np.hypot(own, sigma)) for c in centres])
    got = broaden(lines, sigma, WAVELENGTH)
    np.testing.assert_allclose(got, wanted, atol=4e-3 * wanted.max())
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_agrees_with_direct_convolution_on_fine_pixels(rng):
    # An oversampled spectrum of smoothed noise, convolved point by point in ln(wavelength).
    fine = np.exp(np.arange(np.log(4000.0), np.log(7360.0), 1e-5))
    knots = np.linspace(3990, 7370, 700)
    values = np.interp(fine, knots, 1 + 0.3 * rng.standard_normal(700))
    sigma = 110.0
    reach = int(6 * sigma / KM_S / 1e-5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * 1e-5 * KM_S / sigma) ** 2)
    exact = np.convolve(values, kernel / kernel.sum(), mode="same")

    def to_pixels(spectrum):
        within = np.concatenate([[0], np.cumsum(0.5 * (spectrum[1:] + spectrum[:-1]) * np.diff(fine))])
        return np.diff(np.interp(pixel_edges(WAVELENGTH), fine, within))

    got = broaden(to_pixels(values)[None], sigma, WAVELENGTH)[0]
    np.testing.assert_allclose(got[40:-40], to_pixels(exact)[40:-40], atol=5e-4)


def test_galaxies_do_not_meet_constants_stay_and_kept_pixels_are_those_of_the_whole(rng):
    flux, sigma = rng.random((6, WAVELENGTH.size)), np.array([80.0, 0.0, 120.0, 80.0, 33.0, 120.0])
    together = broaden(flux, sigma, WAVELENGTH)
    for row in range(6):
        alone = broaden(flux[row], sigma[row], WAVELENGTH)[0]
        np.testing.assert_allclose(together[row], alone, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(together[1], flux[1].astype("f4"))
    np.testing.assert_allclose(broaden(np.full((2, 3251), 3.0), [50, 250], WAVELENGTH), 3, rtol=1e-5)
    flux, keep = rng.random((2, WAVELENGTH.size)), np.ones(WAVELENGTH.size, bool)
    keep[100:175] = keep[2000:2030] = keep[-3:] = False
    whole = broaden(flux, 100.0, WAVELENGTH)
    np.testing.assert_allclose(broaden(flux, 100.0, WAVELENGTH, keep=keep), whole[:, keep], rtol=1e-6)
    np.testing.assert_allclose(broaden(flux, [99.6, 100.4], WAVELENGTH, step=1.0), whole, rtol=1e-6)


def test_bad_pixels_are_straight_lines_whatever_they_hold(rng):
    flux = rng.random((3, 3251))
    bad = rng.random(flux.shape) < 0.1
    bad[0, :5] = bad[1, -4:] = True
    spoilt = np.where(bad, np.nan, flux)
    got = fill_bad(spoilt.copy(), bad)
    for row in range(3):
        good = np.flatnonzero(~bad[row])
        np.testing.assert_allclose(got[row], np.interp(np.arange(3251), good, flux[row, good]), rtol=1e-12)
    other = broaden(np.where(bad, 1e3, flux), 90.0, WAVELENGTH, bad=bad)
    np.testing.assert_array_equal(broaden(spoilt, 90.0, WAVELENGTH), other)
    nothing = np.full((1, 9), np.nan)
    assert (fill_bad(nothing, np.isnan(nothing)) == 0).all()


def test_the_transpose_is_that_of_the_same_operator(rng):
    operator = make_broadening(120.0, WAVELENGTH, keep=WAVELENGTH > 4500)
    x, y = rng.standard_normal((1, 3251)), rng.standard_normal((1, operator.n_out))
    forward = operator.apply(torch.from_numpy(x.astype("f4"))).numpy()
    np.testing.assert_allclose((forward * y).sum(), (x * operator.transpose(y)).sum(), rtol=1e-4)


def test_log_pixels_too():
    wavelength = 10 ** np.arange(3.6, 3.8, 1e-4)
    line = np.exp(-0.5 * (np.log(wavelength / 5000) * KM_S / 100) ** 2) / wavelength
    wanted = np.exp(-0.5 * (np.log(wavelength / 5000) * KM_S / 125) ** 2) / wavelength * 100 / 125
    np.testing.assert_allclose(broaden(line[None], 75.0, wavelength)[0], wanted, atol=1e-3 * wanted.max())


@pytest.mark.parametrize("sigma", [-1.0, np.nan, np.inf])
def test_widths_and_shapes_that_make_no_sense_are_named(sigma):
    refused("galaxy 1", broaden, np.ones((3, 3251)), [10, sigma, 10], WAVELENGTH)
    refused("0 or more", make_broadening, sigma, WAVELENGTH)
    refused("12 pixels, but 3251", broaden, np.ones((3, 12)), 10.0, WAVELENGTH)
