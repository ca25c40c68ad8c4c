"""Widgets, figures and state of the mass-metallicity dashboard follow each other, without a browser."""

import time
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr

from spectool.explore import mzr_layer
from spectool.explore.mzr_choices import NONE
from spectool.explore.mzr_figure import MzrFigure, fit_range
from spectool.explore.mzr_spectrum import WINDOWS, SpectrumFigure, choose_spectra
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_tables import galaxy_table, statistics_table
from spectool.explore.mzr_view import MzrView

from .mzr_fakes import fake_rebuild, make_samples

REFERENCE = "Scholte et al. 2024"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def samples():
    return make_samples()


@pytest.fixture(scope="module")
def opened(samples, tmp_path_factory):
    state = MzrState(samples, rebuild={"fake": fake_rebuild})
    return MzrView(state, export_folder=tmp_path_factory.mktemp("mzr") / "exports")


@pytest.fixture
def view(opened):
    """The dashboard as it opens."""
    opened.state.reset()
    opened.figure.fit_axes()
    return opened


@pytest.fixture
def state(view):
    return view.state


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def shown(view, side=0):
    return view.figure.layers[side].points.data


def test_the_slider_moves_the_points(view, state):
    view.controls.min_sn.value = 22.0
    assert state.min_sn == 22.0
    for side, panel in enumerate(state.panels):
        np.testing.assert_array_equal(shown(view, side)["x"], panel.mass)
        np.testing.assert_array_equal(shown(view, side)["y"], panel.metallicity)
        assert shown(view, side)["y"].dtype == np.float32
    assert f"<td>{state.panels[1].mass.size}</td>" in view.statistics.value


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("left", "de-noised"),
        ("right", NONE),
        ("calibration", "PP04 N2"),
        ("color", "error"),
        ("reference", "Kewley & Ellison 2008"),
        ("dust_corrected", True),
        ("overlaid", True),
        ("min_sn", 3.0),
    ],
)
def test_widgets_move_the_state_and_follow_it(view, state, control, value):
    widget, before = getattr(view.controls, control), getattr(state, control)
    widget.value = value
    assert getattr(state, control) == value
    state.set(**{control: before})
    assert widget.value == before


def test_relations_are_drawn_where_they_are_ticked(view, state):
    view.controls.relations["Tremonti et al. 2004"].value = True
    assert state.relations == (REFERENCE, "Tremonti et al. 2004")
    drawn = {name for name, models in view.figure._lines.items() if all(m.visible for m in models)}
    assert drawn == set(state.relations)
    state.set(relations=())
    assert not any(box.value for box in view.controls.relations.values())


def test_a_move_sends_one_patch(view, monkeypatch):
    patches = []
    monkeypatch.setattr(view.figure.widget, "_send_patch", patches.append)
    view.controls.min_sn.value = 18.0
    assert len(patches) == 1


def test_another_colour_sends_colours_alone(view, monkeypatch):
    patches = []
    monkeypatch.setattr(view.figure.widget, "_send_patch", patches.append)
    view.controls.color.value = "error"
    sent = {column for event in patches[0] for column in (getattr(event, "cols", None) or ())}
    assert sent == {"c"}


def test_another_sample_at_the_right_sends_nothing_of_the_left(view, monkeypatch):
    patches = []
    monkeypatch.setattr(view.figure.widget, "_send_patch", patches.append)
    view.controls.right.value = "de-noised"
    assert len(patches) == 1
    sent = {e.column_source.name for e in patches[0] if hasattr(e, "column_source")}
    sent |= {e.model.name for e in patches[0] if getattr(e, "attr", "") == "data"}
    assert "points1" in sent
    assert not sent & {"points0", "median0", "histogram0"}


def test_one_sample_has_the_figure_for_itself_and_two_share_it_when_overlaid(view, state):
    first, second = view.figure.sides
    assert (first.visible, second.visible) == (True, True)
    state.set(right=NONE)
    assert not second.visible
    assert view.controls.overlaid.disabled
    state.set(right="de-noised", overlaid=True)
    assert not second.visible
    assert not view.controls.overlaid.disabled
    assert all(renderer.visible for renderer in view.figure._over)
    assert "original" in view.key.value and "de-noised" in view.key.value
    assert view.figure.layers[0]._dots[0].glyph.fill_color != view.figure.layers[1]._dots[0].glyph.fill_color


def test_no_galaxy_covers_a_median(view):
    drawn = [renderer.level for renderer in view.figure.layers[0]._dots + view.figure.layers[1]._dots]
    assert set(drawn) == {"underlay"}
    assert {stroke.level for layer in view.figure.layers for stroke in layer._strokes} == {"glyph"}


def test_axes_are_fitted_to_another_scale_and_stay_for_another_cut(view, state):
    view.figure.x_range.update(start=9.0, end=9.5)
    window = view.figure.window
    state.set(min_sn=16)
    assert view.figure.window == window
    state.set(calibration="PP04 N2")
    assert view.figure.window != window
    panel = state.panels[0]
    inside = (panel.metallicity > view.figure.window[2]) & (panel.metallicity < view.figure.window[3])
    assert inside.mean() > 0.98


def test_a_click_on_a_point_shows_its_lines_and_its_spectrum(view, state):
    panel = state.panels[0]
    assert view.figure.pick(0, float(panel.mass[7]), float(panel.metallicity[7]))
    number = int(state.samples["original"]["candidate"].values[panel.index[7]])
    assert state.selected == ("fake", number)
    assert f"galaxy {number}" in view.galaxy.value
    assert list(view.figure.layers[0].mark.data["x"]) == [panel.mass[7]]
    wait_for(lambda: state.spectrum is not None and len(view.spectrum.source.data["wavelength"]) == 825)
    wait_for(lambda: "de-noised" in view.spectrum_key.value)
    assert np.nanmax(view.spectrum.source.data["flux0"]) == pytest.approx(number, rel=0.05)


def test_a_click_far_from_any_galaxy_picks_none(view, state):
    assert not view.figure.pick(0, 8.0, 9.9)
    assert state.selected == ()
    state.set(right=NONE)
    assert not view.figure.pick(1, 9.0, 8.4)


def test_the_nearest_of_both_is_picked_when_they_are_overlaid(view, state):
    state.set(overlaid=True)
    panel = state.panels[1]
    assert view.figure.pick(0, float(panel.mass[3]), float(panel.metallicity[3]))
    assert state.locate("DESI-like") == panel.index[3]


def test_many_galaxies_are_an_image_that_follows_the_window(state, monkeypatch):
    monkeypatch.setattr(mzr_layer, "MAX_POINTS", 100)
    figure = MzrFigure(state)
    layer = figure.layers[0]
    assert layer.points.data["x"].size == 0
    image = layer.image.data["image"][0]
    low, high = state.panels[0].color.min(), state.panels[0].color.max()
    assert low <= np.nanmin(image) and np.nanmax(image) <= high
    state.set(color="number")
    figure.show_panels()
    window = figure.window
    panel = state.panels[0]
    inside = (panel.mass >= window[0]) & (panel.mass < window[1])
    inside &= (panel.metallicity >= window[2]) & (panel.metallicity < window[3])
    assert np.nansum(10 ** layer.image.data["image"][0]) == pytest.approx(inside.sum(), rel=1e-3)
    figure.x_range.update(start=9.5, end=10.0)
    assert (layer.image.data["x"], layer.image.data["dw"]) == ([9.5], [0.5])
    assert figure.pick(0, float(panel.mass[0]), float(panel.metallicity[0]))
    assert state.locate("original") == panel.index[0]
    monkeypatch.setattr(mzr_layer, "MAX_POINTS", 20_000)
    figure.show_panels()
    assert layer.image.data["image"] == []
    assert layer.points.data["x"].size == panel.mass.size


def test_a_sample_that_is_added_can_be_chosen(view, state, samples):
    state.set(left="de-noised")
    state.add_sample("another", samples["original"])
    assert "another" in view.controls.left.options and "another" in view.controls.right.options
    assert (
        (view.controls.left.value, view.controls.right.value)
        == ("de-noised", "DESI-like")
        == (state.left, state.right)
    )
    view.controls.right.value = "another"
    assert state.panels[1].name == "another"


def test_a_sample_of_which_nothing_is_measured_is_shown_empty(view, state):
    faint = state.samples["DESI-like"]
    state.add_sample("faint", faint.assign(line_flux=0.01 * faint["line_flux"]))
    state.set(left="faint", right="faint")
    assert state.panels[0].mass.size == 0
    assert shown(view)["x"].size == 0
    assert "<td>0</td>" in view.statistics.value
    state.set(color="number", calibration="PP04 N2")
    view.show_correlations()
    assert "–" in view.statistics.value


def test_correlations_come_when_the_slider_rests(view, state):
    assert "…" in statistics_table(state)
    view.show_correlations()
    trend = state.correlate()[0][0].rho
    assert f"{abs(trend):.2f}" in view.statistics.value
    assert "left and right agree" in view.statistics.value


def test_the_table_of_a_galaxy_has_every_scale_of_both_samples(state):
    state.select("original", 11)
    table = galaxy_table(state)
    assert all(calibration in table for calibration in state.choices("calibration"))
    assert "original" in table and "DESI-like" in table
    flux = float(state.samples["original"]["line_flux"].sel(line="Hα")[11])
    assert f"{flux:.3g} ±" in table
    state.clear()
    assert galaxy_table(state) == ""


def test_exports_are_written_and_linked(view):
    for button in (view.png, view.csv, view.json):
        button.click()
        assert "download=" in view.message.value
    suffixes = {path.suffix for path in view.export_folder.iterdir()}
    assert suffixes == {".png", ".csv", ".json"}


def test_a_file_that_is_no_state_is_answered_in_words(view):
    upload = {"name": "x.json", "content": memoryview(b"{}"), "size": 2, "type": "", "last_modified": NOW}
    view.load.value = (upload,)
    assert "x.json is not a state file" in view.message.value
    assert "mzr-warning" in view.message.value


def test_buttons_zoom_the_spectrum(view):
    view.windows.value = "Hα, [N II]"
    assert (view.spectrum.x_range.start, view.spectrum.x_range.end) == WINDOWS["gas"]["Hα, [N II]"]
    assert any("Hα" in label for label in view.spectrum.lines.labels.data["label"])


def test_the_noisiest_spectrum_is_drawn_behind():
    spectrum = fake_rebuild(3)
    noise = np.random.default_rng(1).normal(size=825)
    spectrum["flux"].values[1] += noise
    spectrum["flux"].values[0] += 0.2 * noise
    assert list(choose_spectra(spectrum)) == ["DESI-like", "original", "de-noised"]


def test_spectra_of_the_samples_that_are_shown_come_first():
    spectrum = fake_rebuild(3)
    more = spectrum.assign_coords(source=["a", "b", "c"])
    spectrum = xr.concat([spectrum, more], "source")
    assert set(choose_spectra(spectrum, ["c", "a"])) == {"c", "a", "original"}


def test_a_galaxy_without_a_spectrum_says_so(samples):
    state = MzrState(samples)
    figure = SpectrumFigure(state)
    assert "click a galaxy above" in figure.note.text
    state.select("original", 0)
    figure.show()
    assert "keeps no spectra" in figure.note.text


def test_a_range_holds_all_but_the_outermost():
    values = np.append(np.linspace(8, 9, 1000), [np.nan, 30.0])
    low, high = fit_range(values, margin=0.1, at_least=(0, 1))
    assert 7.8 < low < 8 and 9 < high < 9.2
    assert fit_range(np.array([np.nan, 8.0]), margin=0.1, at_least=(0, 1)) == (0, 1)
