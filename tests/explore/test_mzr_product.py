"""The dashboard on the shipped table: what it shows is what was measured."""

import numpy as np
import pytest

from spectool.explore.mzr_data import read_samples
from spectool.explore.mzr_quantities import TRUTH
from spectool.explore.mzr_spectra import rebuild_galaxy
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_view import open_mzr_dashboard
from spectool.explore.mzr_zahid import rebuild_zahid2019
from spectool.spectra import LINES


@pytest.fixture(scope="module")
def samples():
    return read_samples("scourfield2023")


@pytest.fixture
def state(samples):
    return MzrState(samples)


def test_it_opens_on_the_papers_samples():
    view = open_mzr_dashboard()
    assert view.state.sample_names[:3] == ("original", "DESI-like", "de-noised")
    assert all(panel.n_galaxies == 1956 for panel in view.state.panels)
    assert view.figure.layers[0].points.data["x"].size == view.state.panels[0].mass.size


def test_noise_takes_galaxies_and_leaves_the_truth_alone(state):
    first, second = state.panels
    assert second.mass.size < 0.8 * first.mass.size
    state.set(calibration=TRUTH, min_sn=0)
    first, second = state.panels
    _, a, b = np.intersect1d(first.index, second.index, return_indices=True)
    assert a.size > 0.9 * first.n_galaxies
    np.testing.assert_array_equal(first.metallicity[a], second.metallicity[b])


def test_measured_metallicities_follow_the_truth(state, samples):
    for calibration in ("PP04 O3N2", "PP04 N2"):
        state.set(calibration=calibration, right="de-noised")
        for panel in state.panels:
            true = samples[panel.name]["log_z_gas"].values[panel.index]
            assert np.corrcoef(true, panel.metallicity)[0, 1] > 0.6


def test_calibrated_errors_are_wider_than_those_of_the_fit(samples):
    formal, calibrated = samples["de-noised"], samples["de-noised, calibrated errors"]
    ratio = calibrated["line_flux_error"] / formal["line_flux_error"]
    assert float(ratio.sel(line="Hα").median()) > 1


@pytest.fixture(scope="module")
def stars():
    return read_samples("zahid2019", "zahid2019 null")


def test_the_main_sample_stands_beside_its_null(stars):
    state = MzrState(stars)
    assert state.quantity == "stars"
    assert [panel.n_galaxies for panel in state.panels] == [200_000, 50_000]
    for panel in state.panels:
        assert panel.mass.size > 0.9 * panel.n_galaxies
        truth = stars[panel.name]["log_z_lw"].values[panel.index]
        assert np.corrcoef(truth, panel.metallicity)[0, 1] > 0.5
    # The same number is another galaxy in the other.
    assert len({sample.attrs["family"] for sample in stars.values()}) == 2


def test_the_truth_has_the_trend_that_the_null_has_not(stars):
    state = MzrState(stars)
    state.set(calibration=TRUTH)
    main, null = state.correlate()[0]
    assert main.rho < -20 * main.error
    assert abs(null.rho) < 4 * null.error


@pytest.mark.parametrize(
    ("name", "sample"), [("SDSS main sample", "galaxies"), ("null: SDSS main sample", "null")]
)
def test_a_rebuilt_spectrum_has_the_noise_of_the_table(stars, name, sample):
    galaxy = stars[name].isel(galaxy=11)
    flux = rebuild_zahid2019(int(galaxy["candidate"]), sample)["flux"]
    seen, true = (flux.sel(source=source) for source in flux["source"].values)
    inside = (flux["wavelength"].values > 4050) & (flux["wavelength"].values < 7290)
    error = ((seen - true) / true).values[inside]
    # Neighbouring pixels share noise: what is "per Angstrom" shows in means over more of them.
    means = np.nanmean(error[: error.size // 20 * 20].reshape(-1, 20), axis=1)
    scatter = 1.4826 * np.nanmedian(np.abs(means)) * np.sqrt(20)
    assert 1 / scatter == pytest.approx(float(galaxy["sn"]), rel=0.3)


@pytest.mark.parametrize("row", [3, 1200, 1900])
def test_a_rebuilt_spectrum_has_the_lines_of_the_table(samples, row):
    original = samples["original"].isel(galaxy=row)
    spectrum = rebuild_galaxy(int(original["candidate"]))
    wavelength = spectrum["wavelength"].values
    near, around = abs(wavelength - LINES["Hα"]) < 8, abs(wavelength - LINES["Hα"] - 60) < 25
    for source in ("original", "DESI-like", "de-noised"):
        flux = spectrum["flux"].sel(source=source).values
        height = np.nanmax(flux[near]) - np.nanmedian(flux[around])
        fitted = samples[source].isel(galaxy=row).sel(line="Hα")
        # The line stands in the stars' absorption line.
        assert height == pytest.approx(float(fitted["line_peak"]), abs=0.012)
