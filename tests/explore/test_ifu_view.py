"""Widgets, figures and state of the galaxy-map dashboard follow each other, without a browser."""

import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from spectool.explore.ifu_state import IfuState
from spectool.explore.ifu_view import IfuView, describe_sources, describe_spectrum, open_ifu_dashboard
from spectool.explore.style import MAP_PALETTE, SIGNED_PALETTE

from .ifu_fakes import make_predictions, make_sample, rebuild

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sample():
    return make_sample()


@pytest.fixture(scope="module")
def opened(sample):
    return IfuView(IfuState(sample, make_predictions(sample), rebuild=rebuild))


@pytest.fixture
def view(opened, tmp_path, monkeypatch):
    """The dashboard as it opens; built once, because Bokeh takes half a second for it."""
    opened.state.reset()
    opened.export_folder = tmp_path / "exports"
    monkeypatch.setattr(opened.figure.widget, "_send_patch", lambda events: None)
    return opened


@pytest.fixture
def state(view):
    return view.state


def cells(view):
    return view.figure.source.data


def key(view):
    """Texts of the legend above the profile that are shown."""
    return [item.label.value for item in view.figure.key if item.visible]


def test_it_shows_what_the_state_opened_with(view, state):
    assert (view.galaxy.value, view.source.value) == (0, "Set B")
    assert (view.quantity.value, view.view.value, view.reference.value) == ("log_age", "value", "truth")
    assert len(view.galaxy.options) == 5
    assert len(cells(view)["xs"]) == state.index.size
    for name in ("value", "reference", "shown", "radius"):
        np.testing.assert_array_equal(cells(view)[name], state.points[name])
    assert key(view)[0] == "truth −0.30 ± 0.00 dex/Re"
    assert key(view)[1].startswith("Set B −0.")


def test_choices_redraw_the_map_and_the_gradients(view, state):
    set_b = key(view)[1]
    view.source.value = "Set A"
    assert state.source == "Set A"
    np.testing.assert_array_equal(cells(view)["shown"], state.points["shown"])
    assert key(view)[1] != set_b
    view.quantity.value = "log_z"
    assert key(view)[0] == "truth −0.20 ± 0.00 dex/Re"
    assert view.figure.map.title.text == "Set A: log Z/Z☉"
    assert view.figure.profile.yaxis.axis_label == "log Z/Z☉"
    view.reference.value = "fitted"
    assert key(view)[0].startswith("fitted −0.20")


def test_the_drawn_lines_have_the_fitted_slopes(view, state):
    for part, name in (("reference", "truth"), ("source", "Set B")):
        line = view.figure.lines[part].data
        slope = (line["mean"][-1] - line["mean"][0]) / (line["radius"][-1] - line["radius"][0])
        assert slope == pytest.approx(state.gradients[name].slope, abs=1e-5)
        assert (line["low"] <= line["mean"]).all()
        assert (line["mean"] <= line["high"]).all()


def test_a_difference_has_a_signed_scale_of_colours(view, state):
    assert view.figure.mapper.palette == list(MAP_PALETTE)
    view.view.value = "difference"
    assert view.figure.mapper.palette == list(SIGNED_PALETTE)
    assert (view.figure.mapper.low, view.figure.mapper.high) == state.limits
    assert view.figure.map.title.text == "Set B − truth: log age (dex)"
    view.view.value = "error"
    assert "predicted error" in view.figure.map.title.text


def test_labels_alone_are_drawn_once(view, state):
    view.source.value = "truth"
    assert key(view) == ["truth −0.30 ± 0.00 dex/Re"]
    assert not any(renderer.visible for renderer in view.figure.fits["source"])
    view.view.value = "error"
    assert "choose a prediction" in describe_sources(state)
    state.choose(source="Set A")
    assert all(renderer.visible for renderer in view.figure.fits["source"])
    assert len(key(view)) == 2


def test_a_galaxy_without_a_gradient_says_why(view):
    view.galaxy.value = 4
    assert "no gradient: only" in view.figure.note.text
    assert not any(r.visible for renderers in view.figure.fits.values() for r in renderers)
    view.next.click()
    assert view.galaxy.value == 0
    assert view.figure.note.text == ""


def test_a_tap_on_a_cell_shows_its_bands_and_marks_it(view, state):
    before = np.array(view.figure.bands.data["flux"])
    view.figure.source.selected.indices = [17]
    assert state.spectrum == state.index[17]
    assert not np.array_equal(view.figure.bands.data["flux"], before)
    drawn = state.photometry()
    np.testing.assert_allclose(view.figure.bands.data["flux"], drawn["band_flux"], rtol=1e-6)
    np.testing.assert_allclose(view.figure.spectrum.data["flux"], drawn["flux"], rtol=1e-6)
    ring = view.figure.ring.data
    np.testing.assert_array_equal(ring["xs"][0], cells(view)["xs"][17])
    assert ring["radius"][0] == state.points["radius"][17]
    assert f"spectrum {state.spectrum}</b>" in view.which.value


def test_the_mark_stays_when_the_page_unselects(view, state):
    before = state.spectrum
    view.figure.source.selected.indices = []
    assert state.spectrum == before
    assert len(view.figure.ring.data["xs"]) == 1
    state.select(int(state.index[5]))
    assert view.figure.source.selected.indices == [5], "else a tap on it would go unnoticed"


def test_another_galaxy_is_marked_at_its_own_centre(view, state):
    view.figure.source.selected.indices = [100]
    state.choose(galaxy=4)
    state.choose(galaxy=1)
    assert len(view.figure.ring.data["xs"]) == 1
    assert view.figure.source.selected.indices == np.flatnonzero(state.index == state.spectrum).tolist()
    assert view.figure.empty.text == "1 band missing"
    assert len(view.figure.bands.data["flux"]) == state.photometry()["band_flux"].size - 1


def test_another_source_sends_only_the_columns_that_changed(view, monkeypatch):
    events = []
    monkeypatch.setattr(view.figure.widget, "_send_patch", events.extend)
    view.source.value = "Set A"
    columns = set()
    for event in events:
        if getattr(event, "model", None) is view.figure.source:
            columns |= set(event.cols or ())
    assert {"value", "shown"} <= columns
    assert not columns & {"xs", "ys", "radius", "reference"}


def test_axes_hold_what_is_drawn(view, state):
    for galaxy in range(5):
        state.choose(galaxy=galaxy)
        x, y = view.figure.profile.x_range, view.figure.profile.y_range
        values, radius = state.points["value"], state.points["radius"]
        inside = (values >= y.start) & (values <= y.end) & (radius >= x.start) & (radius <= x.end)
        assert inside.mean() > 0.97
        flux = view.figure.bands.data["flux"]
        assert view.figure.below.y_range.start <= flux.min()
        assert flux.max() <= view.figure.below.y_range.end


def test_the_state_moves_the_widgets(view, state):
    state.choose(galaxy=2, source="fitted", quantity="log_z", view="difference", reference="fitted")
    assert (view.galaxy.value, view.source.value, view.quantity.value) == (2, "fitted", "log_z")
    assert (view.view.value, view.reference.value) == ("difference", "fitted")
    view.reset.click()
    assert (view.galaxy.value, view.source.value, view.view.value) == (0, "Set B", "value")


def test_exports_are_written_and_linked(view, tmp_path):
    for button in (view.png, view.csv, view.json):
        button.click()
        assert "download=" in view.message.value
    assert {path.suffix for path in (tmp_path / "exports").iterdir()} == {".png", ".csv", ".json"}


def test_a_foreign_file_is_answered_in_words(view):
    upload = {"name": "x.json", "content": memoryview(b"{}"), "size": 2, "type": "", "last_modified": NOW}
    view.load.value = (upload,)
    assert "x.json is not a state file" in view.message.value


def test_the_readout_tells_what_is_wrong(state, sample):
    assert "Set B" in describe_spectrum(state)
    assert "±" in describe_spectrum(state)
    state.problem = "no <grid>"
    assert "no &lt;grid&gt;" in describe_spectrum(state)
    state.problem = ""
    bare = {"Set A": make_predictions(sample)["Set A"][["log_age", "log_z"]]}
    other = IfuState(sample, bare)
    other.choose(view="error")
    assert "no predicted errors" in describe_sources(other)


def test_it_opens_with_a_spectrum_and_rebuilds_others_in_a_thread(sample):
    threads = []

    def slow(sample, galaxy):
        threads.append(threading.current_thread())
        return rebuild(sample, galaxy)

    view = open_ifu_dashboard(sample, make_predictions(sample), rebuild=slow)
    assert view.figure.spectrum.data["flux"].size > 0
    view.next.click()
    for thread in threads[1:]:
        thread.join()
    assert threads[0] is threading.main_thread()
    assert threads[1:] != [threading.main_thread()]
