"""The line-flux dashboard's own: points, brushes, spectra made anew, and how its figures show them."""

import numpy as np
import pandas as pd
import pytest
from bokeh.events import SelectionGeometry

from spectool.explore.line import (
    CLASS_STYLE,
    MOST_LIVE,
    PANELS,
    LineState,
    LineView,
    read_numbers,
    write_numbers,
)
from spectool.measure.classes import CLASSES, kewley2001

from .line_fakes import FakePipeline, make_product


@pytest.fixture(scope="module")
def product():
    return make_product()


@pytest.fixture
def state(product):
    return LineState(product, FakePipeline(product), start=lambda function: function())


@pytest.fixture(scope="module")
def opened(product):
    return LineView(LineState(product, FakePipeline(product), start=lambda function: function()))


@pytest.fixture
def view(opened, monkeypatch):
    """The dashboard as it opens; built once, because Bokeh takes half a second for it."""
    opened.state.reset()
    monkeypatch.setattr(opened.figure, "_send_patch", lambda events: None)
    return opened


# ---- points


def test_it_opens_on_the_papers_figure_with_something_to_look_at(state):
    assert (state.line, state.quantity, state.source, state.sigma) == ("Hα", "peak", "VAE 4", 0.04)
    assert set(state.galaxy_class[state.brushed]) == set(CLASSES)
    assert state.spectra.sizes["galaxy"] == state.live_index.size == state.brushed.size
    assert state.shown == state.live_index[-1]


def test_points_are_the_tables_own(state, product):
    state.set(line="[O III] 5007", quantity="integrated", kind="PCA", size=6)
    for name, source in (("original", "original"), ("recovered", "PCA 6")):
        flux = product["line_flux"].sel(source=source, line="[O III] 5007").values
        good = flux > 0
        np.testing.assert_allclose(10 ** state.points[name][good], flux[good], rtol=1e-5)
        assert np.isnan(state.points[name][~good]).all()


def test_metallicities_are_pettini_and_pagels_of_star_forming_galaxies(state):
    n2, o3, oh = (state.points[name].to_numpy(float) for name in ("n2", "o3", "oh"))
    given = np.isfinite(oh)
    np.testing.assert_allclose(oh[given], 8.73 - 0.32 * (o3 - n2)[given], rtol=1e-5)
    assert set(state.galaxy_class[given]) == {CLASSES[0]}


def test_another_model_moves_what_is_recovered_and_not_what_is_original(state):
    before = state.points
    state.set(kind="PCA")
    for name in ("original", "n2", "o3", "oh", "log_mass"):
        np.testing.assert_array_equal(state.points[name], before[name])
    assert not np.array_equal(state.points["recovered"], before["recovered"], equal_nan=True)
    state.set(diagrams="recovered")
    assert not np.array_equal(state.points["n2"], before["n2"], equal_nan=True)


def test_the_scatter_is_that_of_the_table(state):
    for kind, scatter in (("PCA", 0.41), ("AE", 0.31), ("VAE", 0.21)):
        state.set(kind=kind, size=10)
        assert state.summary["sigma"] == pytest.approx(scatter, abs=0.04)


def test_models_and_ranges_that_are_none_are_refused(product, state):
    without = product.drop_sel(source="AE 4", model="AE 4")
    with pytest.raises(ValueError, match="no model 'AE 4'"):
        LineState(without, FakePipeline(without)).set(kind="AE")
    with pytest.raises(ValueError, match="axis_x cannot be 4"):
        state.set(axis_x=4)
    for wrong in ((5.0, 2.0), (0.0, 4.0), (1.0,)):
        with pytest.raises(ValueError, match="sn_range runs from"):
            state.set(sn_range=wrong)


def test_a_smaller_model_brings_back_dimensions_that_it_has(state):
    state.set(size=10, axis_x=7, axis_y=3)
    state.set(size=2)
    assert (state.axis_x, state.axis_y) == (0, 1)
    assert np.isfinite(state.points["latent_x"]).all()


def test_filters_hide_galaxies_in_every_panel(state):
    state.set(classes=["narrow-line AGN", "emission line galaxy"], sn_range=(3.0, 50.0))
    hidden = ~np.isin(state.galaxy_class, state.classes) | (state.sn < 3) | (state.sn > 50)
    assert 0 < hidden.sum() < hidden.size
    assert state.points[hidden].isna().all(axis=None)
    assert (state.sn[np.isnan(state.product["line_flux"].sel(source="original", line="Hα"))] == 0).all()
    state.set(classes=[])
    assert (state.summary["n_recovered"], state.live.empty, state.spectra, state.shown) == (0, True, None, -1)


def test_the_table_holds_the_galaxies_that_take_part(state, tmp_path):
    state.set(classes=CLASSES[:2], sn_range=(2.0, 1e9), kind="AE")
    state.save_csv(tmp_path / "lines.csv")
    table = pd.read_csv(tmp_path / "lines.csv", comment="#")
    assert table["candidate"].tolist() == state.candidates[state.passing].tolist()
    assert np.std(table["residual"].dropna()) == pytest.approx(state.summary["sigma"], rel=1e-4)
    assert table["live_recovered"].notna().sum() == np.isfinite(state.live["recovered"]).sum()
    assert "Hα, peak flux, AE 4" in (tmp_path / "lines.csv").read_text(encoding="utf-8")


# ---- brushes


def test_numbers_come_back_from_their_text_and_others_are_refused(rng):
    index = np.unique(rng.integers(0, 300, 80))
    np.testing.assert_array_equal(read_numbers(write_numbers(index), 300), index)
    assert write_numbers([4, 2, 3, 9]) == "2-4, 9"
    wrong = {"3, x": "not 'x'", "-3": "not '-3'", "7-5": "from 0 to 299", "300": "to 299", "0xg": "not '0xg'"}
    for text, words in (wrong | {f"{1 << 300:#x}": "galaxies are numbers"}).items():
        with pytest.raises(ValueError, match=words):
            read_numbers(text, 300)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_any_brush_fits_into_a_shared_line_and_stays_when_something_else_is_drawn(rng, share):
    product = make_product(n=2000)
    state = LineState(product, FakePipeline(product), start=lambda function: None)
    index = np.flatnonzero(rng.random(2000) < share)
    state.brush(index)
    line = state.share()
    state.set(line="Hβ", kind="PCA", classes=CLASSES[:2])
    np.testing.assert_array_equal(state.brushed, index)
    state.brush([])
    state.load(line)
    np.testing.assert_array_equal(state.brushed, index)
    with pytest.raises(ValueError, match="not among those"):
        state.set(shown=2001)


def test_of_many_brushed_galaxies_some_have_spectra_and_stepping_visits_them(state):
    state.brush(range(100))
    assert state.live_index.size == MOST_LIVE == state.spectra.sizes["galaxy"]
    flux = state.points["original"][state.live_index]
    assert (np.diff(flux[np.isfinite(flux)]) >= 0).all()
    visited = []
    for _ in range(MOST_LIVE):
        visited.append(state.shown)
        state.step(1)
    assert sorted(visited) == sorted(state.live_index) and state.shown == visited[0]
    state.set(classes=["quiescent galaxy"])
    assert set(state.galaxy_class[state.live_index]) == {"quiescent galaxy"}
    assert state.brushed.size == 100


# ---- spectra


def test_live_points_are_the_pipelines(state, product):
    state.brush([4, 9, 17])
    pipeline = FakePipeline(product)
    expected = pipeline.run(pipeline.prepare(state.candidates[state.live_index]), "VAE", 4, 0.04)
    np.testing.assert_array_equal(state.live["latent_x"], expected["latent"].values[:, 0].astype("f4"))
    before = state.live
    state.set(sigma=0.09)
    assert not np.array_equal(state.live["latent_x"], before["latent_x"])
    np.testing.assert_array_equal(state.live["original"], before["original"])
    state.set(sigma=0.04)
    np.testing.assert_array_equal(state.live["latent_x"], before["latent_x"])


def test_a_spectrum_is_rebuilt_once_even_if_it_came_late(product):
    jobs = []
    state = LineState(product, FakePipeline(product), start=jobs.append)
    state.brush(range(12))
    state.brush(range(20, 25))
    for job in reversed(jobs):
        job()
    assert sorted(state.live_index) == [20, 21, 22, 23, 24] and not state.busy
    n, asked = len(jobs), len(state.pipeline.asked)
    state.brush(range(12))
    assert len(jobs) == n and state.spectra.sizes["galaxy"] == 12
    assert len(state.pipeline.asked) == asked


def test_what_fails_is_explained_and_the_table_still_works(product, monkeypatch):
    def fail(*arguments):
        raise FileNotFoundError("no model file 'ae4'")

    state = LineState(product, FakePipeline(product), start=lambda function: function())
    monkeypatch.setattr(state.pipeline, "denoise", fail)
    state.set(kind="AE")
    assert (state.problem, state.live.empty) == ("no model file 'ae4'", True)
    assert state.summary["n_recovered"] > 100
    monkeypatch.undo()
    state.set(kind="PCA")
    assert state.problem == "" and state.live["recovered"].size == state.live_index.size
    monkeypatch.setattr(state.pipeline, "rebuild", fail)
    state.brush([77])
    assert (state.problem, state.live.empty, state.busy) == ("no model file 'ae4'", True, False)


# ---- the view


def test_classes_differ_in_colour_and_in_shape_and_empty_ones_cannot_be_pressed(view, product):
    assert tuple(CLASS_STYLE) == CLASSES
    assert [len(set(column)) for column in zip(*CLASS_STYLE.values(), strict=True)] == [5, 5, 5]
    few = product.isel(galaxy=product["spectral_class"].values != "broad-line AGN")
    ticks = LineView(LineState(few, FakePipeline(few))).controls["classes"].ticks
    assert [tick.disabled for tick in ticks.values()] == [False] * 4 + [True]
    view.controls["classes"].ticks["quiescent galaxy"].value = False
    assert "quiescent galaxy" not in view.state.classes


def test_the_signal_slider_and_the_text_of_galaxies_reach_the_state(view):
    view.controls["sn_range"].index = (3, 9)
    view.controls["numbers"].value = "7, 5-6"
    assert (view.state.sn_range, view.state.brushed.tolist()) == ((3.0, 50.0), [5, 6, 7])
    view.controls["numbers"].value = "7; 8"
    assert "not &#x27;7;&#x27;" in view.message.value
    assert view.controls["numbers"].value == "5-7"


def test_what_the_page_marked_is_brushed_when_the_mouse_is_let_go(view):
    state, points = view.state, view.points
    for final in (False, True):
        points.selected.indices = [9, 4]
        view.scatter["bpt"]._trigger_event(SelectionGeometry(view.scatter["bpt"], {"type": "poly"}, final))
        assert (state.brushed.tolist() == [4, 9]) == final
    points.selected.indices = []
    assert state.brushed.size == 0
    assert "no galaxy is marked" in view.which.value
    assert np.isnan(view.spectrum.data["original"]).all()


def test_the_noise_slider_moves_stars_and_the_spectrum_in_one_patch(view, monkeypatch):
    view.state.brush(range(20))
    patches = []
    monkeypatch.setattr(view.figure, "_send_patch", patches.append)
    view.controls["sigma"].value = 0.06
    sources = {getattr(event.model, "name", None) for event in patches[0] if hasattr(event, "model")}
    assert len(patches) == 1 and {"live", "spectrum"} <= sources
    assert "points" not in sources, "a move sends what moved, not two thousand points"
    galaxy = view.state.spectra.sel(galaxy=view.state.shown)
    for column in ("original", "noisy", "denoised", "fit"):
        np.testing.assert_array_equal(view.spectrum.data[column], galaxy[column].values.astype("f4"))
    assert view.sources["live"].data["ring"].tolist() == (view.state.live_index == view.state.shown).tolist()


def test_stars_outside_a_frame_stand_at_its_edge(view):
    view.state.brush(range(20))
    axis, x = view.ranges["latent_x"], view.state.live["latent_x"]
    middle = float(np.median(x))
    axis.update(start=middle - 1e-4, end=middle + 1e-4)
    drawn = view.sources["live"].data["latent_x"]
    np.testing.assert_array_equal(drawn, np.clip(x, np.float32(axis.start), np.float32(axis.end)))
    view.state.set(axis_x=1)  # as it is drawn anew, it is fitted anew


def test_percentiles_are_solid_in_filled_bins_and_nearly_all_points_are_in_the_frames(view):
    bins, points = view.state.bins, view.state.points
    for name, filled in (("filled", True), ("sparse", False)):
        rows = (bins["count"] > 0) & (bins["filled"] == filled)
        np.testing.assert_array_equal(view.sources[name].data["middle"], bins["middle"][rows].astype("f4"))
    for title, *columns in PANELS.values():
        shown = points[columns].dropna()
        inside = [shown[c].between(view.ranges[c].start, view.ranges[c].end) for c in columns]
        assert (inside[0] & inside[1]).mean() > 0.97, title
    curves = {i.label.value: i.renderers[0].data_source.data for i in view.scatter["bpt"].legend[0].items}
    np.testing.assert_allclose(curves["Kewley 2001"]["y"], kewley2001(np.asarray(curves["Kewley 2001"]["x"])))


def test_the_words_tell_what_is_recovered_and_the_papers_own(view):
    text, _ = view.describe()
    assert "Hα peak, VAE 4" in text and "paper: σ 0.36, σ_fill 0.29 (as drawn)" in text
    view.state.set(quantity="integrated")
    assert "paper" not in view.describe()[0]
    view.state.set(classes=[])
    assert "no galaxy chosen" in view.describe()[0]
    assert "filtered out" in view.which.value
