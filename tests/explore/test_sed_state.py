"""What follows from a change of a galaxy's fluxes, and what the dashboard writes and reads; without a widget."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.image import imread

from spectool.explore.sed_files import load_state, save_csv, save_png, save_state
from spectool.explore.sed_state import GROUPS, MISTAKE, MOST_DEX, N_NEAREST, SedState
from spectool.measure.sedfit import fit_library
from spectool.papers.surana2020.network import UNITS, predict_properties
from spectool.surveys.gama import BANDS
from tests.explore.sed_fakes import make_library, make_networks, make_sample, make_state


@pytest.fixture
def state():
    return make_state()


def assert_alike(answer, other):
    np.testing.assert_array_equal(answer.flux, other.flux)
    np.testing.assert_array_equal(answer.error, other.error)
    np.testing.assert_array_equal(answer.missing, other.missing)
    assert (answer.predicted, answer.reason) == (other.predicted, other.reason)
    np.testing.assert_equal(answer.fitted, other.fitted)


def test_untouched_the_answers_are_those_of_the_public_functions(state):
    sample, (ensemble, outliers) = make_sample(), make_networks()
    predicted = predict_properties(sample, ensemble, outliers=outliers)
    fitted = fit_library(sample, make_library(), progress=False)
    for row, name in enumerate(state.names):
        state.select_galaxy(name)
        for key in UNITS:
            expected = predicted[key].values[row], predicted[f"{key}_error"].values[row]
            np.testing.assert_allclose(state.answer.predicted[key], expected, rtol=1e-4)
            expected = [fitted[key + end].values[row] for end in ("_fit", "_fit_low", "_fit_high")]
            # Networks and library see the same numbers, alone or in company: float32 sums apart.
            np.testing.assert_allclose(state.answer.fitted[key], expected, atol=0.011)
        assert state.answer.reason == predicted["reason"].values[row]
        assert state.answer.outlier_score == predicted["outlier_score"].values[row]


def test_the_library_finds_the_injected_truth(state):
    for name in state.names:
        state.select_galaxy(name)
        for key, (truth, _, _) in state.truth.items():
            assert state.answer.fitted[key][0] == pytest.approx(truth, abs=0.1)


def test_a_galaxy_n_times_as_bright_in_all_bands_has_n_times_the_mass(state):
    state.change(shifts=dict.fromkeys(state.bands, 0.5), dropped=(), mistaken=False)
    np.testing.assert_allclose(state.answer.flux, 10**0.5 * state.original.flux, rtol=1e-12)
    for key in UNITS:
        gain = state.answer.fitted[key][0] - state.original.fitted[key][0]
        assert gain == pytest.approx(0.5, abs=0.02)
        assert state.answer.predicted[key][0] > state.original.predicted[key][0]


def test_a_shift_moves_one_band_and_undone_nothing(state):
    state.set_shift(0.4, band="W1")
    moved = np.flatnonzero(state.answer.flux != state.original.flux)
    assert [state.bands[i] for i in moved] == ["W1"]
    assert state.answer.flux[moved] == pytest.approx(10**0.4 * state.original.flux[moved])
    assert state.answer.predicted != state.original.predicted
    state.set_shift(0.0, band="W1")
    assert_alike(state.answer, state.original)


def test_noise_stays_and_the_error_of_the_calibration_follows_the_flux(state):
    k = state.bands.index("W1")
    before = state.original.error[k] ** 2 - (BANDS["W1"].calibration * state.original.flux[k]) ** 2
    for shift in (-0.3, 0.8):
        state.set_shift(shift, band="W1")
        after = state.answer.error[k] ** 2 - (BANDS["W1"].calibration * state.answer.flux[k]) ** 2
        assert after == pytest.approx(before)


def test_an_error_never_falls_below_a_point_sources_noise(state):
    state._error[:] = 1e-3 * np.abs(state._flux)
    errors = np.array([state.move_fluxes(np.full(21, shift))[1] for shift in (0.0, -0.5, -1.0)])
    least = np.minimum(state._error, [band.noise for band in BANDS.values()])
    assert (errors >= least * (1 - 1e-12)).all()


def test_a_shift_is_held_within_the_sliders_range(state):
    for shift in (7.0, -7.0):
        state.set_shift(shift)
        assert state.shifts[state.bands.index(state.band)] == np.sign(shift) * MOST_DEX


def test_dropped_bands_are_missing_to_networks_and_library(state):
    before = {key: error for key, (_, error) in state.original.predicted.items()}
    state.drop(*GROUPS["Herschel"])
    assert state.answer.missing.sum() == len(GROUPS["Herschel"])
    assert state.is_dropped(*state.group_bands("Herschel"))
    assert not state.is_dropped("r", *GROUPS["Herschel"])
    sample = make_sample().isel(galaxy=[0])
    sample["mask"][:] = state.answer.missing
    expected = predict_properties(sample, state.networks)
    for key in UNITS:
        assert state.answer.predicted[key][0] == pytest.approx(float(expected[key][0]), rel=1e-5)
        assert state.answer.predicted[key][1] != before[key]
    # What a dropped flux is does not matter.
    fitted = state.answer.fitted
    state.set_shift(0.7, band="S250")
    assert state.answer.fitted == fitted
    state.drop(*GROUPS["Herschel"], dropped=False)
    state.set_shift(0.0, band="S250")
    assert_alike(state.answer, state.original)


def test_a_band_that_was_never_measured_stays_missing(state):
    state.select_galaxy("gappy")
    state.set_shift(0.5, band="FUV")
    assert not state.measured[:2].any()
    assert np.isnan(state.answer.flux[:2]).all()
    assert state.answer.missing[:2].all()
    assert state.answer.predicted == state.original.predicted


def test_a_negative_flux_is_a_measurement(state):
    state.select_galaxy("negative")
    assert state.measured.all()
    state.set_shift(0.3, band="S500")
    assert state.answer.flux[-1] == pytest.approx(10**0.3 * state.original.flux[-1])
    assert not state.answer.missing[-1]
    assert state.answer.nearest is not None


def test_millijansky_taken_for_jansky_are_flagged(state):
    for name in state.names:
        state.select_galaxy(name)
        assert state.original.reason == ""
        state.set_mistaken(True)
        np.testing.assert_allclose(state.answer.flux, MISTAKE * state.original.flux)
        assert "unlike the training galaxies" in state.answer.reason
        assert state.answer.outlier_score >= 2
        gain = state.answer.fitted["log_sfr"][0] - state.original.fitted["log_sfr"][0]
        assert gain == pytest.approx(np.log10(MISTAKE), abs=0.01)
        state.set_mistaken(False)
        assert_alike(state.answer, state.original)


def test_fluxes_that_look_like_magnitudes_are_answered_in_words(state):
    state._flux[:], state._error[:] = 20.0, 0.1
    state.set_shift(0.1)
    assert "look like magnitudes" in state.answer.reason
    assert np.isnan(state.answer.predicted["log_mass"]).all()


def test_without_any_band_there_is_no_answer_but_a_reason(state):
    state.drop(*state.bands)
    assert "fewer than 3 bands" in state.answer.reason
    assert "fewer than 3 bands" in state.answer.fit_reason
    assert np.isnan(list(state.answer.predicted.values())).all()
    assert np.isnan(list(state.answer.fitted.values())).all()
    assert state.answer.nearest is None


def test_without_a_library_only_networks_answer():
    sample = make_sample().assign_coords(band_wavelength=make_library()["band_wavelength"])
    state = SedState(sample, make_networks()[0])
    assert state.answer.fitted == {}
    assert state.answer.nearest is None
    assert np.isnan(state.answer.outlier_score)
    assert np.isfinite(list(state.answer.predicted.values())).all()


def test_the_nearest_models_are_sorted_and_the_first_fits(state):
    nearest = state.answer.nearest
    assert nearest.sizes["nearest"] == N_NEAREST
    assert (np.diff(nearest["chi2"].values) >= 0).all()
    away = (nearest["model_flux"].values[0] - state.answer.flux) / np.hypot(
        state.answer.error, 0.1 * state.answer.flux
    )
    assert np.abs(away).max() < 5


def test_another_galaxy_starts_as_it_was_observed(state):
    state.set_shift(0.5)
    state.drop("u")
    state.set_mistaken(True)
    state.select_galaxy("four")
    assert not state.shifts.any()
    assert not state.dropped.any()
    assert not state.mistaken
    assert_alike(state.answer, state.original)
    assert state.labels["log_mass"][0] == pytest.approx(state.truth["log_mass"][0])


def test_reset_undoes_everything(state):
    state.change(shifts={"r": 0.2, "W3": -0.9}, dropped=["u", "g"], mistaken=True)
    assert np.flatnonzero(state.dropped).tolist() == [2, 3]
    state.reset()
    assert_alike(state.answer, state.original)


def test_observers_see_changes_and_answer_together(state):
    seen = []

    def note(_):
        flux, _ = state.move_fluxes(state.shifts)
        seen.append(np.array_equal(flux, state.answer.flux))

    state.observe(note, ["shifts", "answer", "galaxy"])
    for value in (0.1, -0.4):
        state.set_shift(value)
    state.select_galaxy("four")
    assert len(seen) >= 5
    assert all(seen)


def test_moves_from_several_threads_leave_a_consistent_state(state):
    def move(band):
        for value in np.linspace(-0.5, 0.5, 6):
            state.set_shift(value, band=band)

    threads = [threading.Thread(target=move, args=[band]) for band in ("u", "g", "r", "i")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(state.shifts[2:6], 0.5)
    np.testing.assert_array_equal(state.move_fluxes(state.shifts)[0], state.answer.flux)


def test_slider_work_gives_torch_its_threads_back(state):
    before = torch.get_num_threads()
    state.set_shift(0.5)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda s: s.select_galaxy("five"), KeyError, "there are: one, gappy"),
        (lambda s: s.select_band("V"), KeyError, "no band 'V'"),
        (lambda s: s.drop("V"), KeyError, "no band 'V'"),
        (lambda s: s.set_shift(np.nan), ValueError, "finite"),
        (lambda s: s.change(shifts={"r": np.inf}, dropped=(), mistaken=False), ValueError, "finite"),
        (lambda s: s.change(shifts={}, dropped=["V"], mistaken=False), KeyError, "no band 'V'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(state, act, error, message):
    with pytest.raises(error, match=message):
        act(state)
    assert_alike(state.answer, state.original)


def test_samples_that_cannot_be_shown_are_refused():
    sample, (ensemble, _) = make_sample(), make_networks()
    with pytest.raises(ValueError, match="band_wavelength"):
        SedState(sample, ensemble)
    with pytest.raises(ValueError, match="same name"):
        SedState(sample.assign_coords(name=("galaxy", ["one"] * 4)), ensemble, library=make_library())
    sample["flux"].attrs["units"] = "mJy"
    with pytest.raises(ValueError, match="in Jy, not 'mJy'"):
        SedState(sample, ensemble, library=make_library())


# ---- files


def test_a_saved_state_comes_back(state, tmp_path):
    state.select_galaxy("negative")
    state.change(shifts={"r": 0.25, "W4": -0.125}, dropped=["u", "S250"], mistaken=True)
    state.select_band("W4")
    path = save_state(state, tmp_path / "state.json")
    other = make_state()
    load_state(other, path)
    assert (other.galaxy, other.band, other.mistaken) == ("negative", "W4", True)
    assert_alike(other.answer, state.answer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"galaxy": "five"}, "'five', which is not in this sample"),
        ({"dropped": ["V"]}, "bands V, which are not"),
        ({"shifts": {"V": 0.1}}, "bands V, which are not"),
        ({"shifts": {"r": "far"}}, "does not hold shifts"),
        ({"shifts": {"r": float("nan")}}, "not finite"),
        ({"dropped": 3}, "does not hold shifts"),
        ({"band": None}, "lacks band"),
        ({"format": "something else"}, "not a state file"),
    ],
)
def test_a_state_that_does_not_fit_says_why_and_nothing_moves(state, tmp_path, changes, message):
    state.set_shift(0.3)
    saved = json.loads(save_state(state, tmp_path / "state.json").read_text())
    content = json.dumps({k: v for k, v in (saved | changes).items() if v is not None}).encode()
    before = state.answer
    with pytest.raises(ValueError, match=message):
        load_state(state, content, name="upload.json")
    assert state.answer is before


def test_the_table_holds_the_photometry_and_the_answers(state, tmp_path):
    state.select_galaxy("gappy")
    state.set_shift(0.5, band="r")
    path = save_csv(state, tmp_path / "sed.csv")
    table = pd.read_csv(path, comment="#")
    np.testing.assert_allclose(table["flux_jy"], state.answer.flux, rtol=1e-5)
    np.testing.assert_allclose(table["model_flux_jy"], state.answer.nearest["model_flux"][0], rtol=1e-5)
    assert table["missing"].tolist() == state.answer.missing.tolist()
    assert table["band"][table["shift_dex"] != 0].tolist() == ["r"]
    text = path.read_text()
    assert f"networks: log_mass {state.answer.predicted['log_mass'][0]:.3f} (" in text
    assert f"truth: log_mass {state.truth['log_mass'][0]:.3f}\n" in text


@pytest.mark.parametrize("library", [True, False])
def test_the_picture_is_drawn(state, tmp_path, library):
    if not library:
        sample = make_sample().assign_coords(band_wavelength=make_library()["band_wavelength"])
        state = SedState(sample.drop_vars(list(UNITS)), make_networks()[0])
    state.set_shift(-0.5, band="W2")
    state.drop("FUV")
    image = imread(save_png(state, tmp_path / "sed.png"))
    assert image.shape[1] > image.shape[0] > 500
    assert image[..., :3].std() > 0.01


def test_truths_without_star_formation_are_no_obstacle(tmp_path):
    sample = make_sample()
    sample["log_sfr"] = xr.full_like(sample["log_sfr"], -np.inf)
    state = SedState(sample, make_networks()[0], library=make_library())
    assert state.truth["log_sfr"][0] == -np.inf
    assert "log_sfr -inf" in save_csv(state, tmp_path / "sed.csv").read_text()
    assert save_png(state, tmp_path / "sed.png").exists()
