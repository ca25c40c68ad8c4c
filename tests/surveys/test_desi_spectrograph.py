"""DESI's noise has the size and the run with wavelength of a photon budget, and fluxes fall with the distance."""

import numpy as np
import pytest
from astropy.cosmology import Planck18

from spectool.surveys import desi_spectrograph as desi
from tests.surveys.conftest import make_observed


def test_electrons_are_photons_times_throughput_and_noise_falls_with_exposure_and_width():
    """By hand: 1e-17 erg/s/cm2/A for 180 s on 8.66 m2 at 6500 A, photons of 1.907 eV, 39% of them detected."""
    energy = 1.907 * 1.602e-12
    assert desi.electrons_per_flux(6500.0) == pytest.approx(1e-17 * 8.66e4 * 180 / energy * 0.39, rel=2e-3)
    wavelength = np.array([4000.0, 6500.0, 9000.0])
    once = desi.noise_sigma(wavelength)
    wide = desi.noise_sigma(wavelength, width=3.2)
    assert (wide > 0.5 * once - 1e-9).all()  # four pixels; only the sky's subtraction does not average
    np.testing.assert_allclose(wide[:2], 0.5 * once[:2], rtol=0.05)
    long = desi.noise_sigma(wavelength, exposure=720.0)
    assert (long < 0.5 * once + 0.02).all()  # photons as 1 / 2, read-out as 1 / 4
    assert (desi.noise_sigma(wavelength, flux=100.0) > 2 * once).all()
    np.testing.assert_array_equal(desi.noise_sigma(wavelength, flux=-5.0), once)


def test_a_bright_galaxy_survey_exposure_sees_r_20_5_in_the_fibre_at_a_few_per_pixel():
    """And the blue end, where the detectors' noise wins, is several times noisier than the red."""
    flux = 10 ** (-0.4 * (20.5 + 48.6)) * 2.998e18 / 6450**2 / 1e-17
    sigma = desi.noise_sigma(np.array([6450.0]), flux=np.array([flux]))
    assert 1.5 < flux / sigma[0] < 5
    blue, red, clear, line = desi.noise_sigma(np.array([3900.0, 7000.0, 8190.0, 8828.8]))
    assert 3 < blue / red < 8 and line > 1.3 * clear


def test_flux_falls_with_the_square_of_the_distance():
    sample = make_observed()
    moved = desi.observe_desi_like(sample, seed=0)
    distance = Planck18.luminosity_distance([0.03, 0.045, 0.1]).value
    expected = 20 * (distance[:2] / distance[2]) ** 2
    np.testing.assert_allclose(moved.truth, np.broadcast_to(expected[:, None], (2, 825)), rtol=1e-4)
    np.testing.assert_allclose(moved.flux.mean("wavelength"), expected, rtol=0.05)
    assert (moved.redshift == 0.1).all() and moved.redshift_original.values.tolist() == [0.03, 0.045]
    assert "DESI" in moved.attrs["survey"] and (moved.candidate == sample.candidate).all()


def test_noise_varies_with_wavelength_and_what_was_there_stays():
    """The latter scaled with the flux, and part of ivar."""
    moved = desi.observe_desi_like(make_observed(sn=1e4, n=100), seed=4)
    measured = (moved.flux - moved.truth)[:100].std("galaxy")
    np.testing.assert_allclose(measured, moved.desi_sigma[0], rtol=0.5)
    assert float(moved.desi_sigma[0, 0] / moved.desi_sigma[0, 600]) > 3
    moved = desi.observe_desi_like(make_observed(sn=5.0), seed=0, exposure=1e9)
    assert np.median(moved.truth * np.sqrt(moved.ivar)) == pytest.approx(5.0, rel=0.02)


def test_normalised_samples_come_back_to_flux(rng):
    sample = make_observed()
    sample["truth"] *= np.linspace(0.5, 1.5, 825).astype("f4")
    sample["flux"] = sample["truth"] * (1 + 0.01 * rng.standard_normal(sample.flux.shape).astype("f4"))
    sample.flux.attrs["units"] = sample.truth.attrs["units"] = desi.FLUX_UNIT
    sample.mask[0, :3] = True
    expected = desi.observe_desi_like(sample, seed=2)
    normal = sample.copy()
    for name, norm in (("flux", "norm"), ("truth", "truth_norm")):
        normal[norm] = sample[name].sum("wavelength")
        normal[name] = (sample[name] / normal[norm]).assign_attrs(units="")
    got = desi.observe_desi_like(normal, seed=2)
    np.testing.assert_allclose(got.truth, expected.truth, rtol=1e-4)
    np.testing.assert_allclose(got.flux, expected.flux, atol=2e-3)
    assert got.mask[0, :3].all() and (got.ivar.values[0, :3] == 0).all() and "norm" not in got
