import numpy as np
import pytest
import xarray as xr

from spectool.continuum import ContinuumBasis, kept_pixels, optical_wavelength
from spectool.measure import offset
from spectool.measure.offset import (
    add_noise,
    distort_calibration,
    explain_offset,
    flux_predictor,
    observed_views,
    stellar_fwhm,
)
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
    flux = level * np.where(DIP, 1 - 0.3 * 10 ** (0.5 * log_z[:, None]), 1.0)
    return mass, log_z, flux.astype("f4")


def test_steps_add_up_to_the_offset_of_the_last_view():
    mass, log_z, flux = make_galaxies()
    views = {"clean": flux, "noisier": lambda: add_noise(flux, np.full((len(flux), 5), 0.1), seed=1)}
    found = explain_offset(views, log_z, mass, lambda f: np.log10(depth(f)), edges=EDGES, n_bootstrap=10)
    np.testing.assert_allclose(found["contribution"].sum("step"), found["offset"], atol=1e-12)
    np.testing.assert_allclose(found["offset"], found["median_answer"] - found["stack_answer"], atol=1e-12)
    np.testing.assert_allclose(
        found["mean"].sum(), (found["offset"] * found["count"]).sum() / 240, atol=1e-12
    )
    np.testing.assert_allclose(found["mean"].sum(), found["mean_offset"], atol=1e-12)
    assert found["count"].sum() == 240 and found.attrs["n_left_out"] == 0
    assert list(found["step"].values) == [offset.MEDIAN, offset.NONLINEAR, "noisier"]


def test_what_is_linear_in_light_has_no_step_for_labels_and_shifts_as_its_labels_do():
    mass, _, flux = make_galaxies()
    light = flux[:, ~DIP].mean(axis=1)
    found = explain_offset({"clean": flux}, depth(flux), mass, depth, edges=EDGES, light=light, n_bootstrap=5)
    np.testing.assert_allclose(found["contribution"].sel(step=offset.NONLINEAR), 0, atol=1e-5)
    np.testing.assert_allclose(found["offset"], found["label_offset"], atol=1e-5)
    np.testing.assert_allclose(found["stack_answer"], found["stack_label"], atol=1e-5)
    assert (abs(found["label_offset"]) > 1e-4).all()  # medians are not light-weighted means


def test_a_logarithm_makes_individuals_lower_than_their_stack():
    # Jensen's inequality: the mean of logarithms is below the logarithm of the mean.
    mass, log_z, flux = make_galaxies(600)
    light = flux[:, ~DIP].mean(axis=1)
    predict = lambda f: 2 * np.log10(depth(f) / 0.3)  # noqa: E731
    found = explain_offset({"clean": flux}, log_z, mass, predict, edges=EDGES, light=light, n_bootstrap=20)
    step = found["contribution"].sel(step=offset.NONLINEAR)
    assert (step < -3 * found["contribution_error"].sel(step=offset.NONLINEAR)).all()


def test_the_error_of_a_step_is_how_much_it_differs_between_samples():
    options = {"edges": [9.0, 10.5], "n_bootstrap": 100}
    runs = []
    for seed in range(40):
        mass, _, flux = make_galaxies(150, seed=seed)
        runs.append(explain_offset({"clean": flux}, depth(flux), mass, depth, **options))
    scatter = np.std([float(r["offset"][0]) for r in runs])
    assert np.median([float(r["offset_error"][0]) for r in runs]) == pytest.approx(scatter, rel=0.4)


def test_galaxies_without_an_answer_are_counted_and_thin_bins_are_empty():
    mass, log_z, flux = make_galaxies(100)
    flux[:3] = np.nan
    mass[:3] = 9.1
    mass[3:30] = 9.2
    mass[30:] = 10.2
    found = explain_offset({"clean": flux}, log_z, mass, depth, edges=EDGES, n_bootstrap=4)
    assert found.attrs["n_left_out"] == 3
    assert found["count"].values.tolist() == [27, 0, 70]
    assert np.isfinite(found["offset"].values).tolist() == [True, False, True]
    assert np.isfinite(found["mean"]).all()


def test_the_right_correction_is_no_step_and_views_are_the_same_each_time():
    _, _, flux = make_galaxies(8)
    fwhm = np.full(8, 200.0)
    options = {"relative_sigma": np.full((8, 25), 0.1), "seed": 3}
    views = observed_views(flux, WAVELENGTH, fwhm=fwhm, assumed_fwhm=fwhm, **options)
    first, same, distorted, noisy = (view() for view in views.values())
    np.testing.assert_array_equal(first, same)
    assert np.abs(distorted / same - 1).max() > 0.03
    np.testing.assert_array_equal(noisy, views[offset.SIGNAL_TO_NOISE]())
    too_sharp = observed_views(flux, WAVELENGTH, fwhm=fwhm, assumed_fwhm=fwhm + 130, **options)
    np.testing.assert_allclose(too_sharp[offset.RESOLUTION](), flux, rtol=1e-4)


def test_noise_has_the_size_of_its_chunk_and_calibration_errors_are_smooth():
    flux = np.full((400, 3251), 2.0, "f4")
    sigma = np.tile(np.linspace(0.02, 0.3, 25), (400, 1))
    noise = add_noise(flux, sigma, seed=0) - flux
    assert noise[:, [0, -1]].std(axis=0) == pytest.approx([2 * 0.02, 2 * 0.3], rel=0.1)
    error = np.log(distort_calibration(flux.astype(float), WAVELENGTH, seed=0) / 2)
    at_nodes = error[:, np.isin(WAVELENGTH, np.arange(4050, 7301, 300))]
    assert at_nodes.std() == pytest.approx(0.03, rel=0.05)
    assert np.abs(np.diff(error, axis=1)).max() < 0.03 * 6 / 300 * 3


def test_chunks_are_those_of_the_networks_pixels():
    sigma = np.tile(np.linspace(0.02, 0.3, 25), (300, 1))
    noise = add_noise(np.ones((300, 3251), "f4"), sigma, seed=0) - 1
    kept = np.array_split(np.flatnonzero(kept_pixels(WAVELENGTH)), 25)
    np.testing.assert_allclose([noise[:, part].std() for part in kept], sigma[0], rtol=0.02)
    sigma[0, 3] = np.nan
    assert np.isnan(add_noise(np.ones((300, 3251), "f4"), sigma, seed=0)[0, kept[3]]).all()


def test_the_width_of_stellar_lines_adds_instrument_and_galaxy_in_quadrature(monkeypatch):
    sample = xr.Dataset(
        {"redshift": ("galaxy", [0.02, 0.2]), "velocity_dispersion": ("galaxy", [0.0, 100.0])}
    )
    instrument = 299792.458 / resolving_power(5500 * np.array([1.02, 1.2]))
    monkeypatch.setattr(offset, "TEMPLATE_FWHM", 0.0)
    expected = [instrument[0], np.hypot(instrument[1], 235.48)]
    np.testing.assert_allclose(stellar_fwhm(sample), expected, rtol=1e-4)
    monkeypatch.setattr(offset, "TEMPLATE_FWHM", 10.0)
    assert stellar_fwhm(sample)[0] == pytest.approx(299792.458 / 550)


class Dips:
    """Answers with minus the mean of prepared flux in the line."""

    def __init__(self, keep):
        self.inside = DIP[keep]

    def predict(self, prepared):
        return -prepared[:, self.inside].mean(axis=1, keepdims=True)


def test_the_continuum_takes_smooth_calibration_errors_away_and_bad_spectra_are_nan(monkeypatch):
    _, _, flux = make_galaxies(30)
    predict = flux_predictor(Dips(ContinuumBasis.optical().keep))
    before = predict(flux)
    monkeypatch.setattr(offset, "ERROR_SCALE", 1000.0)
    smooth = distort_calibration(flux, WAVELENGTH, seed=1)
    assert np.abs(predict(smooth) - before).max() < 0.05 * before.std()
    flux[2] = np.nan
    assert np.isnan(predict(flux)).nonzero()[0].tolist() == [2]
    np.testing.assert_allclose(flux_predictor([Dips(ContinuumBasis.optical().keep)] * 2)(flux), predict(flux))
