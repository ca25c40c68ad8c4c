"""The dashboard on the shipped table: what it shows is what was measured."""

import numpy as np
import pytest

from spectool.explore.mzr_data import read_samples
from spectool.explore.mzr_quantities import TRUTH
from spectool.explore.mzr_spectra import rebuild_galaxy
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_view import open_mzr_dashboard
from spectool.wavelength import LINES


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
