"""The line-flux dashboard's own: points, brushes, spectra made anew, and how its figures show them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from spectool.explore.line import (
    CLASS_STYLE,
    MOST_CORNERS,
    MOST_LIVE,
    PANELS,
    LineState,
    LineView,
    in_polygon,
    read_numbers,
    thin_polygon,
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
    n2, o3, oh = (state.points[name].astype(float) for name in ("n2", "o3", "oh"))
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
    for values in state.points.values():
        assert np.isnan(values[hidden]).all()
    assert (state.sn[np.isnan(state.product["line_flux"].sel(source="original", line="Hα"))] == 0).all()
    state.set(classes=[])
    assert (state.summary["n_recovered"], state.live, state.spectra, state.shown) == (0, {}, None, -1)


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
    for text, words in (("3, x", "not 'x'"), ("-3", "not '-3'"), ("7-5", "from 0 to 299"), ("300", "to 299")):
        with pytest.raises(ValueError, match=words):
            read_numbers(text, 300)


def test_a_thinned_lasso_holds_what_the_lasso_held(rng):
    turn = np.linspace(0, 2 * np.pi, 400)
    lasso = (2 + 0.3 * np.cos(5 * turn)) * np.stack([np.cos(turn), np.sin(turn)])
    thin = thin_polygon(*lasso)
    x, y = rng.uniform(-3, 3, (2, 4000))
    both = [in_polygon(x, y, *corners) for corners in (lasso, thin)]
    assert thin.shape[1] == MOST_CORNERS
    assert (both[0] != both[1]).mean() < 0.02
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    assert (both[0] == (radius < 2 + 0.3 * np.cos(5 * angle))).mean() > 0.99
    assert not in_polygon(np.array([np.nan]), np.array([0.0]), *lasso)[0]


def test_an_outline_keeps_its_galaxies_when_something_else_is_drawn(state):
    outline = state.make_outline("flux", (-2, -1, -1, -2), (-3, -3, 0, 0))
    state.set(outlines=[outline])
    x, y = state.points["original"], state.points["recovered"]
    inside = np.flatnonzero((x > -2) & (x < -1) & (y > -3) & (y < 0))
    np.testing.assert_array_equal(state.brushed, inside)
    shared = state.share()
    state.set(line="Hβ", kind="PCA", classes=CLASSES[:2])
    np.testing.assert_array_equal(state.brushed, inside)
    state.set(numbers="3-5")
    assert (state.outlines, state.brushed.tolist()) == ((), [3, 4, 5])
    state.load(shared)
    np.testing.assert_array_equal(state.brushed, inside)


def test_a_brush_that_fits_no_shared_line_is_refused(state, rng):
    before = state.state()
    with pytest.raises(ValueError, match="begin anew"):
        corners = rng.normal(size=(9, 2, MOST_CORNERS))
        state.set(outlines=[state.make_outline("bpt", *xy) for xy in corners])
    with pytest.raises(ValueError, match="an outline has a panel"):
        state.set(outlines=[{"panel": "bpt", "x": [1, 2, 3]}])
    with pytest.raises(ValueError, match="not among those"):
        state.set(shown=77)
    assert state.state() == before
    state.set(numbers=write_numbers(range(0, 300, 2)), sn_range=(1.0, 200.0), line="[O III] 5007")
    assert len(state.share()) < 2048


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
    before = dict(state.live)
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
    assert (state.problem, state.live) == ("no model file 'ae4'", {})
    assert state.summary["n_recovered"] > 100
    monkeypatch.undo()
    state.set(kind="PCA")
    assert state.problem == "" and state.live["recovered"].size == state.live_index.size
    monkeypatch.setattr(state.pipeline, "rebuild", fail)
    state.brush([77])
    assert (state.problem, state.live, state.busy) == ("no model file 'ae4'", {}, False)


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


def drag(view, panel, marked, **geometry):
    """Report a brush as the page does: the galaxies that it marked, then the shape."""
    view.points.selected.indices = list(marked)
    view._brushed(panel, SimpleNamespace(geometry=geometry))


def test_a_box_a_shifted_lasso_and_a_tap_from_the_page(view):
    state = view.state
    n2, mass, oh = (state.points[name] for name in ("n2", "log_mass", "oh"))
    box = np.flatnonzero((mass > 9.5) & (mass < 10) & np.isfinite(oh))
    drag(view, "mzr", box, type="rect", x0=9.5, x1=10, y0=0, y1=20)
    assert len(state.outlines) == 1 and state.numbers == ""
    np.testing.assert_array_equal(state.brushed, box)
    more = np.flatnonzero((n2 < -0.9) & np.isfinite(state.points["o3"]))
    drag(view, "bpt", [*box, *more], type="poly", x=[-9, -0.9, -0.9, -9], y=[-9, -9, 9, 9])
    assert len(state.outlines) == 2
    np.testing.assert_array_equal(state.brushed, np.union1d(box, more))
    assert sorted(view.points.selected.indices) == state.brushed.tolist()
    drag(view, "bpt", [8], type="point", x=0, y=0)
    assert (state.numbers, state.outlines) == ("8", ())
    view.points.selected.indices = []
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
    galaxy = view.state.spectra.isel(galaxy=int(view.state.shown_row[0]))
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
    for panel in PANELS.values():
        inside = [(points[c] >= view.ranges[c].start) & (points[c] <= view.ranges[c].end) for c in panel[1:3]]
        both = np.isfinite(points[panel.x]) & np.isfinite(points[panel.y])
        assert (inside[0] & inside[1])[both].mean() > 0.97, panel.title
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
