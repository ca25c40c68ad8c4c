"""Widgets, figures and state of the line dashboard follow each other, without a browser."""

from datetime import UTC, datetime

import numpy as np
import pytest

from spectool.explore.line_panels import CLASS_STYLE, axis_limits, percentile_columns
from spectool.explore.line_state import LineState
from spectool.explore.line_view import SN_STEPS, LineView, describe_recovery, describe_shown
from spectool.measure.classes import CLASSES, kewley2001

from .line_fakes import make_pipeline, make_product

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def product():
    return make_product()


@pytest.fixture(scope="module")
def opened(product):
    return LineView(LineState(product, make_pipeline(product)))


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


def drawn(view):
    """What the shared source holds, by column."""
    return view.figure.points.data


def test_it_shows_what_the_state_opened_with(view, state):
    assert (view.line.value, view.quantity.value, view.kind.value, view.size.value) == (
        "Hα",
        "peak",
        "VAE",
        4,
    )
    assert view.sn.value == (0.0, np.inf)
    assert [len(axis.options) for axis in view.axes] == [4, 4]
    for name, values in state.points.items():
        np.testing.assert_array_equal(drawn(view)[name], values)
        assert drawn(view)[name].dtype == np.float32
    assert view.figure.points.selected.indices == state.brushed.tolist()


def test_choices_redraw_the_points(view, state):
    view.line.value = "[O III] 5007"
    view.kind.value = "PCA"
    view.size.value = 10
    view.quantity.value = "integrated"
    view.diagrams.value = "recovered"
    assert (state.line, state.source, state.quantity) == ("[O III] 5007", "PCA 10", "integrated")
    for name, values in state.points.items():
        np.testing.assert_array_equal(drawn(view)[name], values)
    axis = view.figure.scatter["residual"].plot.xaxis.axis_label
    assert axis == "log original [O III] 5007 flux (norm. Å)"
    assert view.figure.scatter["latent"].plot.xaxis.axis_label == "PCA 10: z0"
    assert "[O III] 5007 integrated, PCA 10" in view.summary.value
    assert "paper" not in view.summary.value


def test_the_latent_axes_follow_their_menus_and_the_model(view, state):
    view.size.value = 10
    view.axes[0].value = 8
    assert state.axes == (8, 1)
    assert view.figure.scatter["latent"].plot.xaxis.axis_label == "VAE 10: z8"
    view.size.value = 2
    assert [axis.value for axis in view.axes] == [0, 1]
    assert len(view.axes[0].options) == 2


def test_the_state_moves_the_widgets(view, state):
    state.choose(line="Hδ", kind="AE", size=6, axes=(5, 2), quantity="integrated", diagrams="recovered")
    state.set_filter(classes=["quiescent galaxy"], sn_range=(3, 50))
    state.set_sigma(0.071)
    assert (view.line.value, view.kind.value, view.size.value) == ("Hδ", "AE", 6)
    assert (view.quantity.value, view.diagrams.value) == ("integrated", "recovered")
    assert [axis.value for axis in view.axes] == [5, 2]
    assert [name for name, toggle in view.classes.items() if toggle.value] == ["quiescent galaxy"]
    assert view.sn.value == (3.0, 50.0)
    assert view.sigma.value == 0.071


def test_class_buttons_and_the_signal_slider_filter(view, state):
    view.classes["absorption galaxy"].value = False
    assert "absorption galaxy" not in state.classes
    view.sn.index = (SN_STEPS.index(10.0), SN_STEPS.index(100.0))
    assert state.sn_range == (10.0, 100.0)
    hidden = ~state.passing
    assert np.isnan(drawn(view)["n2"][hidden]).all()
    assert (
        sum(f"({(state.galaxy_class == name).sum()})" in view.classes[name].description for name in CLASSES)
        == 5
    )


def test_a_brush_in_the_page_reaches_the_state_and_all_panels(view, state):
    view.figure.points.selected.indices = [30, 4, 11]
    assert state.brushed.tolist() == [4, 11, 30]
    live = view.figure.sources["live"].data
    assert len(live["n2"]) == 3
    at = state.live_index
    axis = view.figure.scatter["latent"].plot.x_range
    inside = (state.live["latent_x"] >= axis.start) & (state.live["latent_x"] <= axis.end)
    assert (state.points["latent_x"][at] == live["from_latent_x"]).any()
    np.testing.assert_array_equal(live["latent_x"][inside], state.live["latent_x"][inside])
    for panel in view.figure.scatter.values():
        glyphs = [r for r in panel.plot.renderers if r.data_source is view.figure.points]
        assert len(glyphs) == 1, "all panels share the brushed source"


def test_a_brush_from_code_is_marked_in_the_page(view, state):
    state.brush([9, 3])
    assert view.figure.points.selected.indices == [3, 9]
    view.clear.click()
    assert state.brushed.size == 0
    assert view.figure.points.selected.indices == []
    assert "drag a box" in view.which.value
    assert np.isnan(view.figure.spectrum.source.data["original"]).all()


def test_the_spectrum_is_that_of_the_galaxy_with_the_ring(view, state):
    state.brush([4, 11, 30])
    for _ in range(3):
        view.next.click()
        at = int(np.flatnonzero(state.live_index == state.shown)[0])
        one = state.spectra.isel(galaxy=at)
        for column in ("original", "noisy", "denoised", "fit"):
            np.testing.assert_array_equal(
                view.figure.spectrum.source.data[column], one[column].values.astype("f4")
            )
        ring, stars = (view.figure.sources[name].data["latent_x"] for name in ("ring", "live"))
        assert ring.tolist() == [stars[at]]
        assert f"galaxy {state.candidates[state.shown]} " in view.which.value
    view.back.click()
    assert "<b>3/3</b>" in view.which.value


def test_the_noise_slider_moves_live_points_in_one_patch(view, state):
    state.brush(range(20))
    before = np.array(view.figure.sources["live"].data["recovered"])
    patches = []
    view.figure.widget._send_patch = patches.append
    view.sigma.value = 0.06
    assert state.sigma == 0.06
    assert not np.array_equal(view.figure.sources["live"].data["recovered"], before, equal_nan=True)
    assert len(patches) == 1
    sources = {event.model.name for event in patches[0] if hasattr(event, "model")}
    assert {"live", "spectrum"} <= sources
    assert "points" not in sources, "a move sends what moved, not two thousand points"


def test_stars_outside_a_frame_stand_at_its_edge(view, state):
    state.brush(range(20))
    axis = view.figure.scatter["latent"].plot.x_range
    middle = float(np.median(state.live["latent_x"]))
    axis.update(start=middle - 1e-4, end=middle + 1e-4)
    drawn = view.figure.sources["live"].data["latent_x"]
    np.testing.assert_array_equal(
        drawn, np.clip(state.live["latent_x"], np.float32(axis.start), np.float32(axis.end))
    )
    axis.update(start=-1e6, end=1e6)
    np.testing.assert_array_equal(view.figure.sources["live"].data["latent_x"], state.live["latent_x"])
    state.choose(axes=(1, 0))  # as it is drawn anew, it is fitted anew


def test_another_line_sends_only_the_columns_that_changed(view):
    events = []
    view.figure.widget._send_patch = events.extend
    view.line.value = "Hβ"
    columns = set()
    for event in events:
        if getattr(event, "model", None) is view.figure.points:
            columns |= set(event.cols or ())
    assert {"original", "recovered", "residual"} <= columns
    assert not columns & {"marker", "color", "candidate", "n2", "log_mass", "latent_x"}


def test_percentile_marks_are_solid_only_in_filled_bins(view, state):
    columns = percentile_columns(state.bins)
    occupied = state.bins["count"] > 0
    solid = np.array([fill == "black" for fill in columns["fill"]])
    np.testing.assert_array_equal(solid, state.bins["filled"][occupied])
    np.testing.assert_array_equal(view.figure.sources["bins"].data["middle"], columns["middle"])


def test_the_border_of_star_formation_is_in_the_diagram(view):
    curves = {item.label.value: item.renderers[0] for item in view.figure.scatter["bpt"].plot.legend[0].items}
    data = curves["Kewley 2001"].data_source.data
    np.testing.assert_allclose(data["y"], kewley2001(np.asarray(data["x"])))
    assert "Kauffmann 2003" in curves


def test_axes_hold_nearly_all_points(view, state):
    for name, panel in view.figure.scatter.items():
        x, y = state.points[panel.panel.x], state.points[panel.panel.y]
        both = np.isfinite(x) & np.isfinite(y)
        ranges = panel.plot.x_range, panel.plot.y_range
        inside = np.ones(both.sum(), dtype=bool)
        for values, axis in zip((x[both], y[both]), ranges, strict=True):
            inside &= (values >= axis.start) & (values <= axis.end)
        assert inside.mean() > 0.98, name


def test_axis_limits_survive_nothing_and_outliers(rng):
    assert axis_limits(np.full(3, np.nan), least=(1, 2))[0] < 1
    assert axis_limits(np.append(rng.normal(size=1000), 1e6))[1] < 10
    assert axis_limits([0.0], least=(-3, 3))[1] > 3


def test_classes_differ_in_colour_and_in_shape():
    colours, shapes = zip(*CLASS_STYLE.values(), strict=True)
    assert len(set(colours)) == len(set(shapes)) == len(CLASSES)
    assert tuple(CLASS_STYLE) == CLASSES


def test_a_choice_that_the_table_lacks_is_answered_in_words(product, tmp_path):
    without = product.drop_sel(source="AE 4", model="AE 4")
    view = LineView(LineState(without, make_pipeline(without)), export_folder=tmp_path)
    view.kind.value = "AE"
    assert "no model" in view.message.value
    assert view.kind.value == view.state.kind == "VAE"


def test_reset_brings_back_points_and_widgets(view, state):
    before = {name: np.array(values) for name, values in drawn(view).items() if name in state.points}
    view.line.value, view.sigma.value = "Hβ", 0.09
    view.classes["quiescent galaxy"].value = False
    view.reset.click()
    for name, values in before.items():
        np.testing.assert_array_equal(drawn(view)[name], values)
    assert (view.line.value, view.sigma.value) == ("Hα", 0.04)
    assert view.classes["quiescent galaxy"].value


def test_exports_are_written_and_linked(view, tmp_path):
    for button in (view.png, view.csv, view.json):
        button.click()
        assert "download=" in view.message.value
    suffixes = {path.suffix for path in (tmp_path / "exports").iterdir()}
    assert suffixes == {".png", ".csv", ".json"}


def test_a_foreign_file_is_answered_in_words(view):
    upload = {"name": "x.json", "content": memoryview(b"{}"), "size": 2, "type": "", "last_modified": NOW}
    view.load.value = (upload,)
    assert "x.json is not a state file" in view.message.value


def test_the_readout_tells_what_is_wrong(product):
    state = LineState(product, make_pipeline(product))
    assert describe_shown(state).startswith("<b>6/6</b>")
    state.problem = "no <model>"
    assert "no &lt;model&gt;" in describe_shown(state)
    state.problem = ""
    state.set_filter(classes=[])
    assert "filtered out" in describe_shown(state)
    assert "no galaxy chosen" in describe_recovery(state)
