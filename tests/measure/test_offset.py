"""The steps of the offset between stacks and galaxies add up, and each is there only where its cause is."""

import numpy as np
import pytest
import xarray as xr

from spectool.continuum import ContinuumBasis, kept_pixels, optical_wavelength
from spectool.measure import offset
from spectool.surveys.spectrograph import resolving_power

EDGES = np.arange(9.0, 10.6, 0.5)
WAVELENGTH = optical_wavelength()
DIP = (WAVELENGTH > 5160) & (WAVELENGTH < 5195)


def depth(flux):
    """Share of the light that a line takes away: linear in the share of light of what is mixed."""
    return 1 - flux[:, DIP].mean(axis=1) / flux[:, ~DIP].mean(axis=1)


def make_galaxies(n=240, seed=0):
    rng = np.random.default_rng(seed)
    mass, log_z = rng.uniform(9.0, 10.5, n), rng.normal(-0.4, 0.3, n)
    level = np.exp(rng.normal(0, 0.4, n))[:, None]
    flux = (level * np.where(DIP, 1 - 0.3 * 10 ** (0.5 * log_z[:, None]), 1.0)).astype("f4")
    return mass, log_z, flux, flux[:, ~DIP].mean(axis=1)


def test_steps_add_up_to_the_offset_of_the_last_view():
    mass, log_z, flux, _ = make_galaxies()
    views = {"clean": flux, "noisier": lambda: offset.add_noise(flux, np.full((len(flux), 5), 0.1), seed=1)}
    found = offset.explain_offset(
        views, log_z, mass, lambda f: np.log10(depth(f)), edges=EDGES, n_bootstrap=10
    )
    mean, whole = found["mean"].sum(), found["offset"]
    np.testing.assert_allclose(found["contribution"].sum("step"), whole, atol=1e-12)
    np.testing.assert_allclose(found["median_answer"] - found["stack_answer"], whole, atol=1e-12)
    np.testing.assert_allclose([mean, mean], [(whole * found["count"]).sum() / 240, found["mean_offset"]])
    assert found["count"].sum() == 240 and found.attrs["n_left_out"] == 0
    assert list(found["step"].values) == [offset.MEDIAN, offset.NONLINEAR, "noisier"]


def test_what_is_linear_in_light_has_no_step_for_labels_and_a_logarithm_has():
    mass, log_z, flux, light = make_galaxies(600)
    options = {"edges": EDGES, "light": light, "n_bootstrap": 20}
    found = offset.explain_offset({"clean": flux}, depth(flux), mass, depth, **options)
    np.testing.assert_allclose(found["contribution"].sel(step=offset.NONLINEAR), 0, atol=1e-5)
    np.testing.assert_allclose(found["offset"], found["label_offset"], atol=1e-5)
    np.testing.assert_allclose(found["stack_answer"], found["stack_label"], atol=1e-5)
    assert (abs(found["label_offset"]) > 1e-4).all()  # medians are not light-weighted means
    # Jensen's inequality: the mean of logarithms is below the logarithm of the mean.
    found = offset.explain_offset(
        {"clean": flux}, log_z, mass, lambda f: 2 * np.log10(depth(f) / 0.3), **options
    )
    step, error = (found[name].sel(step=offset.NONLINEAR) for name in ("contribution", "contribution_error"))
    assert (step < -3 * error).all()


def test_the_error_of_a_step_is_how_much_it_differs_between_samples():
    runs = []
    for seed in range(40):
        mass, _, flux, _ = make_galaxies(150, seed=seed)
        options = {"edges": [9.0, 10.5], "n_bootstrap": 100}
        runs.append(offset.explain_offset({"clean": flux}, depth(flux), mass, depth, **options))
    scatter = np.std([float(r["offset"][0]) for r in runs])
    assert np.median([float(r["offset_error"][0]) for r in runs]) == pytest.approx(scatter, rel=0.4)


def test_galaxies_without_an_answer_are_counted_and_thin_bins_are_empty():
    mass, log_z, flux, _ = make_galaxies(100)
    flux[:3] = np.nan
    mass[:] = np.repeat([9.1, 9.2, 10.2], [3, 27, 70])
    found = offset.explain_offset({"clean": flux}, log_z, mass, depth, edges=EDGES, n_bootstrap=4)
    assert found.attrs["n_left_out"] == 3
    assert found["count"].values.tolist() == [27, 0, 70]
    assert np.isfinite(found["offset"].values).tolist() == [True, False, True]
    assert np.isfinite(found["mean"]).all()


def test_the_right_correction_is_no_step_and_views_are_the_same_each_time():
    flux, fwhm = make_galaxies(8)[2], np.full(8, 200.0)
    options = {"relative_sigma": np.full((8, 25), 0.1), "seed": 3, "fwhm": fwhm}
    views = offset.observed_views(flux, WAVELENGTH, assumed_fwhm=fwhm, **options)
    first, same, distorted, noisy = (view() for view in views.values())
    np.testing.assert_array_equal(first, same)
    assert np.abs(distorted / same - 1).max() > 0.03
    np.testing.assert_array_equal(noisy, views[offset.SIGNAL_TO_NOISE]())
    too_sharp = offset.observed_views(flux, WAVELENGTH, assumed_fwhm=fwhm + 130, **options)
    np.testing.assert_allclose(too_sharp[offset.RESOLUTION](), flux, rtol=1e-4)


def test_noise_has_the_size_of_its_chunk_of_the_networks_pixels_and_calibration_errors_are_smooth():
    flux = np.full((400, 3251), 2.0, "f4")
    sigma = np.tile(np.linspace(0.02, 0.3, 25), (400, 1))
    noise = offset.add_noise(flux, sigma, seed=0) / 2 - 1
    kept = np.array_split(np.flatnonzero(kept_pixels(WAVELENGTH)), 25)
    np.testing.assert_allclose([noise[:, part].std() for part in kept], sigma[0], rtol=0.02)
    assert noise[:, [0, -1]].std(axis=0) == pytest.approx([0.02, 0.3], rel=0.1)
    sigma[0, 3] = np.nan
    assert np.isnan(offset.add_noise(flux, sigma, seed=0)[0, kept[3]]).all()
    error = np.log(offset.distort_calibration(flux.astype(float), WAVELENGTH, seed=0) / 2)
    at_nodes = error[:, np.isin(WAVELENGTH, np.arange(4050, 7301, 300))]
    assert at_nodes.std() == pytest.approx(0.03, rel=0.05)
    assert np.abs(np.diff(error, axis=1)).max() < 0.03 * 6 / 300 * 3


def test_the_width_of_stellar_lines_adds_instrument_and_galaxy_in_quadrature(monkeypatch):
    columns = {"redshift": ("galaxy", [0.02, 0.2]), "velocity_dispersion": ("galaxy", [0.0, 100.0])}
    instrument = 299792.458 / resolving_power(5500 * np.array([1.02, 1.2]))
    monkeypatch.setattr(offset, "TEMPLATE_FWHM", 0.0)
    expected = [instrument[0], np.hypot(instrument[1], 235.48)]
    np.testing.assert_allclose(offset.stellar_fwhm(xr.Dataset(columns)), expected, rtol=1e-4)
    monkeypatch.setattr(offset, "TEMPLATE_FWHM", 10.0)
    assert offset.stellar_fwhm(xr.Dataset(columns))[0] == pytest.approx(299792.458 / 550)


class Dips:
    """Answers with minus the mean of prepared flux in the line."""

    def predict(self, prepared):
        return -prepared[:, DIP[ContinuumBasis.optical().keep]].mean(axis=1, keepdims=True)


def test_the_continuum_takes_smooth_calibration_errors_away_and_bad_spectra_are_nan(monkeypatch):
    flux, predict = make_galaxies(30)[2], offset.flux_predictor(Dips())
    before = predict(flux)
    monkeypatch.setattr(offset, "ERROR_SCALE", 1000.0)
    smooth = offset.distort_calibration(flux, WAVELENGTH, seed=1)
    assert np.abs(predict(smooth) - before).max() < 0.05 * before.std()
    flux[2] = np.nan
    assert np.isnan(predict(flux)).nonzero()[0].tolist() == [2]
    np.testing.assert_allclose(offset.flux_predictor([Dips()] * 2)(flux), predict(flux))
