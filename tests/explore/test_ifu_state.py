"""The galaxy-map dashboard's state, without a widget."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.stats import mad_std

from spectool.explore.ifu_files import load_state, save_csv, save_png, save_state
from spectool.explore.ifu_state import KEPT, IfuState

from .ifu_fakes import OFFSET, SLOPES, make_predictions, make_sample, rebuild


@pytest.fixture(scope="module")
def sample():
    return make_sample()


@pytest.fixture(scope="module")
def predictions(sample):
    return make_predictions(sample)


@pytest.fixture
def state(sample, predictions):
    return IfuState(sample, predictions, rebuild=rebuild)


def test_it_opens_on_the_last_prediction_at_the_centre(state, sample, predictions):
    assert (state.galaxy, state.source, state.quantity, state.view) == (0, "Set B", "log_age", "value")
    rows = np.flatnonzero(sample["galaxy_index"].values == 0)
    np.testing.assert_array_equal(state.index, rows)
    np.testing.assert_allclose(state.points["shown"], predictions["Set B"]["log_age"].values[rows], rtol=1e-6)
    assert sample["radius"].values[state.spectrum] == sample["radius"].values[rows].min()
    assert all(values.dtype == np.float32 for values in state.points.values())


def test_gradients_follow_the_chosen_quantity_and_the_galaxy(state):
    assert state.gradients["truth"].slope == pytest.approx(SLOPES["log_age"], abs=1e-9)
    state.choose(quantity="log_z")
    assert state.gradients["truth"].slope == pytest.approx(SLOPES["log_z"], abs=1e-9)
    assert 0 < state.gradients["Set A"].error < state.gradients["Set B"].error
    state.choose(galaxy=4)
    assert not state.gradients["truth"].known
    assert "spectra inside 1 Re" in state.gradients["Set B"].reason


def test_scatter_and_offset_are_those_of_the_galaxy(state, sample, predictions):
    for galaxy, offset in ((0, 0.0), (1, OFFSET)):
        state.choose(galaxy=galaxy)
        rows = sample["galaxy_index"].values == galaxy
        apart = (predictions["Set B"]["log_age"].values - sample["log_age"].values)[rows]
        np.testing.assert_allclose(state.scatter(), [np.median(apart), mad_std(apart)], rtol=1e-4)
        assert abs(state.scatter()[0] - offset) < 0.05
    state.choose(reference="fitted")
    assert state.scatter()[0] == pytest.approx(np.median(apart) - 0.02, abs=1e-5)


def test_a_view_is_the_value_its_difference_or_its_error(state):
    points = state.points
    state.choose(view="difference")
    np.testing.assert_allclose(state.points["shown"], points["value"] - points["reference"], atol=1e-6)
    assert state.limits[0] == -state.limits[1]
    state.choose(view="error")
    np.testing.assert_allclose(state.points["shown"], 0.15, rtol=1e-6)
    assert state.limits[0] == 0
    state.choose(source="truth")
    assert np.isnan(state.points["shown"]).all()


@pytest.mark.parametrize("view", ["value", "difference", "error"])
def test_all_sources_of_a_galaxy_share_one_scale_of_colours(state, view):
    limits = set()
    for source in state.sources:
        state.choose(source=source, view=view)
        limits.add(state.limits)
    assert len(limits) == 1


def test_wrong_choices_change_nothing(state):
    before = state.source, state.galaxy, dict(state.points)
    for wrong, what in (
        ({"galaxy": 99}, "galaxy 99 is none of 0, 1"),
        ({"source": "Set C"}, "source 'Set C' is none of truth"),
        ({"source": "Set A", "view": "ratio"}, "view 'ratio'"),
        ({"reference": "Set A"}, "reference 'Set A' is none of truth, fitted"),
        ({"color": "red"}, "no option 'color'"),
    ):
        with pytest.raises(ValueError, match=what):
            state.choose(**wrong)
    assert (state.source, state.galaxy) == before[:2]
    assert all(state.points[name] is values for name, values in before[2].items())


def test_stepping_goes_round(state):
    state.step(-1)
    assert state.galaxy == 4
    state.step(1)
    assert state.galaxy == 0


def test_a_spectrum_of_another_galaxy_cannot_be_looked_at(state):
    state.select(int(state.index[7]))
    assert state.spectrum == state.index[7]
    with pytest.raises(ValueError, match="not of the galaxy"):
        state.select(int(state.index[-1]) + 1)
    state.choose(galaxy=1)
    assert state.spectrum in state.index


def test_spectrum_and_bands_are_those_of_the_same_cell(state, sample):
    state.choose(galaxy=2)
    for row in (3, 40):
        state.select(int(state.index[row]))
        drawn = state.photometry()
        flux = sample["flux"].values[state.index[row]]
        np.testing.assert_allclose(drawn["band_flux"], flux / flux.mean())
        there = np.interp(drawn["band_wavelength"], drawn["wavelength"], drawn["flux"])
        np.testing.assert_allclose(there, drawn["band_flux"], rtol=1e-3)


def test_without_spectra_there_are_still_bands(sample, predictions):
    state = IfuState(sample, predictions)
    assert state.spectra is None
    assert state.photometry()["wavelength"].size == 0
    assert np.isfinite(state.photometry()["band_flux"]).all()


def test_spectra_that_come_late_are_not_drawn_for_another_galaxy(state):
    waiting = []
    state.start = lambda function, *arguments: waiting.append((function, arguments))
    state.choose(galaxy=1)
    state.choose(galaxy=2)
    assert state.busy
    assert state.spectra is None
    first, second = waiting
    second[0](*second[1])
    late = state.spectra
    first[0](*first[1])
    assert state.spectra is late
    assert not state.busy
    state.choose(galaxy=1)
    assert len(waiting) == 2, "what was rebuilt is kept"
    assert state.spectra is not None


def test_only_some_galaxies_spectra_stay_in_memory(predictions):
    sample = make_sample(n_galaxies=KEPT + 3, n_spectra=30)
    state = IfuState(sample, {}, rebuild=rebuild)
    for _ in range(KEPT + 3):
        state.step(1)
    assert len(state._rebuilt) == KEPT


@pytest.mark.parametrize("fault", ["raises", "too few"])
def test_spectra_that_cannot_be_rebuilt_are_told_of(sample, predictions, fault):
    def broken(sample, galaxy):
        if fault == "raises":
            raise FileNotFoundError("no grid")
        return rebuild(sample, galaxy).isel(spectrum=slice(2))

    state = IfuState(sample, predictions, rebuild=broken)
    assert ("no grid" if fault == "raises" else "2 spectra came back") in state.problem
    assert state.spectra is None
    assert not state.busy


def test_predictions_that_miss_spectra_are_left_out_of_scores(sample, predictions):
    partial = predictions["Set A"].copy(deep=True)
    partial["log_age"][:100] = np.nan
    state = IfuState(sample, {"some": partial})
    assert np.isfinite(state.scatter()).all()
    assert np.isfinite(state.limits).all()
    partial["log_age"][:] = np.nan
    state = IfuState(sample, {"none": partial})
    assert np.isnan(state.scatter()).all()
    assert state.gradients["truth"].known


# ---- files


def test_a_saved_state_comes_back(state, tmp_path):
    state.choose(galaxy=3, source="Set A", quantity="log_z", view="difference", reference="fitted")
    state.select(int(state.index[11]))
    path = save_state(state, tmp_path / "state.json")
    spectrum = state.spectrum
    state.reset()
    load_state(state, path)
    assert (state.galaxy, state.source, state.quantity) == (3, "Set A", "log_z")
    assert (state.view, state.reference, state.spectrum) == ("difference", "fitted", spectrum)


def test_a_state_that_does_not_fit_changes_nothing(state, tmp_path):
    path = save_state(state, tmp_path / "state.json")
    saved = json.loads(path.read_text())
    for change, what in (
        ({"spectrum": 10**6}, "spectrum 1000000 is not of galaxy 0"),
        ({"galaxy": 77}, "is not of galaxy 77"),
        ({"source": "Set Z"}, "Set Z"),
        ({"format": "else"}, "not a state file"),
    ):
        path.write_text(json.dumps(saved | change))
        with pytest.raises(ValueError, match=what):
            load_state(state, path)
        assert (state.galaxy, state.source) == (0, "Set B")


def test_the_table_holds_what_is_mapped(state, tmp_path):
    state.choose(galaxy=1)
    path = save_csv(state, tmp_path / "galaxy.csv")
    table = pd.read_csv(path, comment="#")
    assert len(table) == state.index.size
    np.testing.assert_array_equal(table["spectrum"], state.index)
    np.testing.assert_allclose(table["log_age Set B"], state.points["value"], atol=2e-5)
    np.testing.assert_allclose(table["log_z Set A error"], 0.03)
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert "mock 1" in comments[0]
    assert any("truth: −0.30 ± 0.00 dex/Re" in line for line in comments)


def test_a_picture_is_written(state, tmp_path):
    state.choose(view="difference", galaxy=4)  # which has no gradient
    assert save_png(state, tmp_path / "galaxy.png").stat().st_size > 20_000
