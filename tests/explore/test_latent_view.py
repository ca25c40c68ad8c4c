"""Widgets and state follow each other, without a browser."""

from datetime import UTC, datetime

import numpy as np
import pytest

from spectool.explore.latent_figure import strongest_in_bins
from spectool.explore.latent_view import LatentView, neighbour_table, parameter_table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def view(state, tmp_path):
    return LatentView(state, export_folder=tmp_path / "exports")


def test_there_is_a_slider_for_every_dimension_and_the_informative_come_first(view, state):
    shown = [slider.description for slider in view.slider_box.children]
    folded = [slider.description for slider in view.other_box.children]
    assert shown == ["z4", "z1", "z3"]
    assert sorted(folded) == ["z0", "z2", "z5"]
    assert view.others.selected_index is None
    assert (view.sliders[4].min, view.sliders[4].max) == (state.lower[4], state.upper[4])


def test_a_slider_moves_the_spectrum(view, state):
    view.sliders[4].value = 1.5
    assert state.latent[4] == np.float32(1.5)
    np.testing.assert_array_equal(view.figure.spectrum.data["decoded"], state.decoded)
    np.testing.assert_array_equal(view.figure.spectrum.data["residual"], state.residual)
    assert view.figure.spectrum.data["decoded"].dtype == np.float32
    assert "11.50 ± 0.10" in view.tables.value


def test_the_state_moves_the_sliders(view, state):
    state.set_dimension(1, -0.9)
    assert view.sliders[1].value == pytest.approx(-0.9, abs=view.sliders[1].step)


def test_the_value_that_a_page_rounds_to_a_step_does_not_move_the_state(view, state):
    state.set_dimension(1, 0.1234)
    before = state.latent.copy()
    slider = view.sliders[1]
    slider.value = slider.min + slider.step * round((0.1234 - slider.min) / slider.step)
    np.testing.assert_array_equal(state.latent, before)


def test_reset_goes_back_exactly(view, state):
    before = state.latent.copy()
    view.sliders[3].value = 2.0
    view.reset.click()
    np.testing.assert_array_equal(state.latent, before)


def test_another_seed_redraws_the_galaxy(view, state):
    view.seed.value = "real"
    assert state.seed_name == "real"
    np.testing.assert_array_equal(view.figure.galaxy.data["flux"], state.seed_flux)
    state.select_seed("two")
    assert view.seed.value == "two"


def test_a_move_sends_one_patch_with_only_what_changed(view):
    patches = []
    view.figure.widget._send_patch = patches.append
    view.sliders[4].value = 0.3
    assert len(patches) == 1
    columns = {column for event in patches[0] for column in (getattr(event, "cols", None) or ())}
    assert "wavelength" not in columns
    assert {"decoded", "residual"} <= columns


def test_buttons_zoom_and_labels_follow(view):
    view.windows.value = "Hα"
    assert (view.figure.x_range.start, view.figure.x_range.end) == (6480.0, 6800.0)
    assert "Hα" in view.figure.lines.labels.data["label"]
    assert "[O II]" not in view.figure.lines.labels.data["label"]
    view.windows.value = "All"
    assert (view.figure.x_range.start, view.figure.x_range.end) == view.figure.full_range


def test_exports_are_written_and_linked(view, tmp_path):
    for button in (view.png, view.csv, view.json):
        button.click()
        assert "download=" in view.message.value
    suffixes = {path.suffix for path in (tmp_path / "exports").iterdir()}
    assert suffixes == {".png", ".csv", ".json"}


def test_a_state_file_of_another_model_is_answered_in_words(view):
    upload = {"name": "x.json", "content": memoryview(b"{}"), "size": 2, "type": "", "last_modified": NOW}
    view.load.value = (upload,)
    assert "x.json is not a state file" in view.message.value


def test_retraining_asks_first_then_swaps_the_model_and_can_go_back(state, model, tmp_path):
    class Now:
        """A thread that runs at once."""

        def __init__(self, target, args=(), daemon=None):
            self.start = lambda: target(*args)

    def retrain(on_progress):
        on_progress(0.5, 12.0)
        return model(seed=7, informative=(2, 0), name="fresh")

    view = LatentView(state, retrain=retrain, export_folder=tmp_path)
    before = state.model_id
    view.train.click()
    assert view.ask.layout.display is None
    assert state.model_id == before
    import spectool.explore.latent_view as module

    threads, module.threading = module.threading, type("Threads", (), {"Thread": Now})
    try:
        view.confirm.click()
    finally:
        module.threading = threads
    assert state.model_id != before
    assert [slider.description for slider in view.slider_box.children] == ["z2", "z0"]
    assert view.progress.layout.display == "none"
    view.train.click()
    assert state.model_id == before
    assert [slider.description for slider in view.slider_box.children] == ["z4", "z1", "z3"]


def test_a_negative_flux_is_flagged(view, state):
    state.network.pixel_mean[:] = -5.0
    state.set_dimension(4, 0.2)
    assert "240 pixels below zero" in view.status.value


def test_tables_say_what_is_not_known(state):
    state.select_seed("real")
    assert "–" in parameter_table(state)
    assert neighbour_table(state, n=2).count("<tr>") == 3


def test_a_narrow_line_survives_the_strip():
    wavelength = np.linspace(3000.0, 9000.0, 4000)
    rows = np.zeros((2, 4000))
    rows[0, 1234], rows[1, 2345] = 5.0, -3.0
    strip = strongest_in_bins(rows, wavelength, (3000.0, 9000.0), n_bins=100)
    assert strip.shape == (2, 100)
    assert strip[0].max() == 5.0
    assert strip[1].min() == -3.0


def test_the_strip_of_a_window_narrower_than_a_pixel_repeats_it():
    strip = strongest_in_bins(np.arange(10.0)[None], np.arange(10.0), (4.1, 4.2), n_bins=5)
    assert (strip == strip[0, 0]).all()
