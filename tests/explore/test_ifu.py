"""The galaxy-map dashboard: sources, gradients, cells, photometry, and what its figures show of them."""

import threading

import numpy as np
import pytest
from astropy.stats import mad_std
from matplotlib.path import Path as Outline

from spectool.explore import ifu
from spectool.explore.ifu import KEPT, IfuState, IfuView, open_ifu_dashboard
from spectool.explore.style import MAP_PALETTE, SIGNED_PALETTE
from spectool.measure.gradients import deproject

from .ifu_fakes import CENTRES, OFFSET, SLOPES, make_predictions, make_sample, rebuild


def now(function):
    function()


@pytest.fixture(scope="module")
def sample():
    return make_sample()


@pytest.fixture(scope="module")
def predictions(sample):
    return make_predictions(sample)


@pytest.fixture(scope="module")
def opened(sample, predictions):
    return IfuView(IfuState(sample, predictions, rebuild=rebuild, start=now))


@pytest.fixture
def view(opened):
    """The dashboard as it opens; built once, because Bokeh takes half a second for it."""
    opened.state.reset()
    return opened


@pytest.fixture
def state(view):
    return view.state


# ---- sources, cells, bands


def test_sources_are_the_labels_and_the_predictions(sample, predictions):
    sources, n = ifu.read_sources(sample, predictions), sample.sizes["spectrum"]
    assert sources["source"].values.tolist() == ["truth", "fitted", "Set A", "Set B"]
    np.testing.assert_array_equal(sources["log_z"].sel(source="fitted"), sample["log_z_fit"])
    assert ifu.read_sources(sample.drop_vars("log_z_fit"), {})["source"].values.tolist() == ["truth"]
    with pytest.raises(ValueError, match="sample lacks radius"):
        ifu.read_sources(sample.drop_vars("radius"), {})
    with pytest.raises(ValueError, match=f"Set A needs log_z of all {n} spectra"):
        ifu.read_sources(sample, {"Set A": {"log_age": np.zeros(n), "log_z": np.zeros(3)}})
    with pytest.raises(ValueError, match="'truth'"):
        ifu.read_sources(sample, {"truth": {"log_age": np.zeros(n), "log_z": np.zeros(n)}})


def test_a_cell_holds_what_is_nearer_to_its_spectrum_than_to_any_other(rng):
    x, y = rng.normal(size=(2, 80))
    outlines = [Outline(outline.T) for outline in ifu.cell_outlines(x, y)]
    assert all(outlines[k].contains_point((x[k], y[k])) for k in range(80))
    probes = 0.5 * rng.normal(size=(300, 2))
    nearest = np.argmin(np.hypot(probes[:, :1] - x, probes[:, 1:] - y), axis=1)
    holds = [outlines[k].contains_point(probe) for k, probe in zip(nearest, probes, strict=True)]
    assert np.mean(holds) > 0.99  # a probe beyond the outermost spectra may lie outside the map


@pytest.mark.parametrize("x", [[0.0, 1.0, 2.0], [0.0, 1.0, 0.0], [0.0]])
def test_positions_on_a_line_repeated_or_alone_still_have_cells(x):
    outlines = ifu.cell_outlines(x, x)
    assert len(outlines) == len(x)
    assert all(np.ptp(outline, axis=1).min() > 0 for outline in outlines)


def test_the_ellipse_lies_at_one_effective_radius(rng):
    x, y = 15 * rng.normal(size=(2, 60))
    disc = {"position_angle": 35.0, "inclination": 62.0, "re": 11.0}
    ellipse = ifu.radius_ellipse(x, y, deproject(x, y, **disc))
    np.testing.assert_allclose(deproject(*ellipse, **disc), 1, rtol=1e-6)
    assert ifu.radius_ellipse(x, y, np.full(60, np.nan))[0].size == 0


def test_bands_are_relative_to_their_mean_and_a_spectrum_meets_them_whatever_its_units(sample):
    row = int(np.flatnonzero(sample["galaxy_index"].values == 1)[0])
    flux, error = ifu.bands_of(sample, row)
    assert np.flatnonzero(~np.isfinite(flux)).tolist() == [3], "masked"
    assert np.nanmean(flux) == pytest.approx(1)
    np.testing.assert_allclose(np.delete(error / flux, 3), 0.02)
    spectra, (bands, _) = rebuild(sample, 0), ifu.bands_of(sample, 0)
    for scale in (1.0, 1e-17):
        f_nu = ifu.to_f_nu(spectra.wavelength.values, scale * spectra.flux.values[0], CENTRES, bands)
        np.testing.assert_allclose(np.interp(CENTRES, spectra.wavelength, f_nu), bands, rtol=1e-3)


# ---- the state


def test_gradients_are_those_put_in_and_their_bands_hold_the_errors(state):
    for quantity, slope in SLOPES.items():
        state.set(quantity=quantity)
        assert state.gradients["truth"]["slope"] == pytest.approx(slope, abs=1e-9)
        line = state.gradients["Set B"]["line"]
        np.testing.assert_allclose(
            np.diff(line["mean"]) / np.diff(ifu.REACH), state.gradients["Set B"]["slope"]
        )
        width = line["high"] - line["low"]
        assert 0 < width.min() < width[[0, -1]].min(), "a line is best known between its points"
    state.set(galaxy=4)
    assert "spectra inside 1 Re" in state.gradients["Set B"]["problem"]
    assert state.gradients["Set B"]["text"] == "no gradient"


def test_scatter_and_offset_are_those_of_the_galaxy(state, sample, predictions):
    for galaxy, offset in ((0, 0.0), (1, OFFSET)):
        state.set(galaxy=galaxy)
        rows = sample["galaxy_index"].values == galaxy
        apart = (predictions["Set B"]["log_age"].values - sample["log_age"].values)[rows]
        np.testing.assert_allclose(state.scatter("Set B"), [np.median(apart), mad_std(apart)])
        assert abs(state.scatter("Set B")[0] - offset) < 0.05
    state.set(reference="fitted")
    assert state.scatter("Set B")[0] == pytest.approx(np.median(apart) - 0.02)


@pytest.mark.parametrize("what", ["value", "difference", "error"])
def test_all_sources_of_a_galaxy_share_one_scale_of_colours(state, what):
    scales = {state.set(source=source, view=what) or state.limits for source in state.names}
    low, high = state.limits
    assert len(scales) == 1
    assert {"value": low < high, "difference": low == -high, "error": low == 0}[what]


def test_stepping_goes_round_and_outwards_and_a_spectrum_belongs_to_its_galaxy(state):
    radius = state.sample["radius"].values
    state.step("galaxy", -1)
    assert (state.galaxy, radius[state.spectrum]) == (4, radius[state.index].min())
    state.step("galaxy", 1)
    state.step("spectrum", 1)
    assert radius[state.spectrum] == np.sort(radius[state.index])[1]
    with pytest.raises(ValueError, match="spectrum cannot be 300"):
        state.set(spectrum=300)
    state.set(galaxy=2, spectrum=300)
    assert state.spectrum == 300


def test_spectra_that_come_late_are_not_drawn_for_another_galaxy(sample):
    waiting = []
    state = IfuState(sample, rebuild=rebuild, start=waiting.append)
    assert state.spectra is not None, "the first are there before the page draws"
    state.set(galaxy=1)
    state.set(galaxy=4)
    for job in reversed(waiting):
        job()
    assert state.spectra["flux"].shape[0] == 20 and not state.busy


def test_only_some_galaxies_spectra_stay_in_memory_and_those_are_not_made_again():
    made = []
    sample = make_sample(n_galaxies=KEPT + 3, n_spectra=30)
    state = IfuState(sample, rebuild=lambda s, g: made.append(g) or rebuild(s, g), start=now)
    for by in (*[1] * (KEPT + 2), -1, 1, 1):
        state.step("galaxy", by)
    assert made == [*range(KEPT + 3), 0]


@pytest.mark.parametrize("fault", ["raises", "too few"])
def test_spectra_that_cannot_be_rebuilt_leave_the_bands_and_a_sentence(sample, fault):
    def broken(sample, galaxy):
        if fault == "raises":
            raise FileNotFoundError("no <grid>")
        return rebuild(sample, galaxy).isel(spectrum=slice(2))

    view = IfuView(IfuState(sample, rebuild=broken, start=now))
    assert ("no &lt;grid&gt;" if fault == "raises" else "2 spectra came back") in view.status.value
    assert np.isfinite(view.bands.data["flux"]).all() and not view.spectrum.data["flux"].size


def test_a_prediction_that_misses_all_spectra_has_no_score(sample, predictions):
    partial = predictions["Set A"].copy(deep=True)
    partial["log_age"][:] = np.nan
    state = IfuState(sample, {"none": partial})
    assert np.isnan(state.scatter("none")).all() and np.isfinite(state.limits).all()
    assert state.gradients["none"]["problem"] == "only 0 spectra inside 1 Re"


def test_the_table_holds_what_is_mapped(state):
    state.set(galaxy=1)
    table = state.table()
    np.testing.assert_array_equal(table["spectrum"], state.index)
    np.testing.assert_allclose(table["log_age Set B"], state.points["value"], rtol=1e-5)
    np.testing.assert_allclose(table["log_z_error Set A"], 0.03)
    assert "log_z_error truth" not in table
    assert any("truth: −0.30 ± 0.00 dex/Re" in line for line in state.about())


# ---- the view


def key(view):
    """Texts of the legend above the profile that are shown."""
    return [item.label.value for item in view.key if item.visible]


def test_the_panels_show_the_choices(view, state):
    for name in ("value", "reference"):
        np.testing.assert_array_equal(view.cells.data[name], state.points[name])
    assert key(view)[0] == "truth: −0.30 ± 0.00 dex/Re" and key(view)[1].startswith("Set B: −0.")
    assert view.mapper.palette == list(MAP_PALETTE)
    view.controls["view"].value = "difference"
    np.testing.assert_array_equal(view.cells.data["shown"], state.points["difference"])
    assert view.mapper.palette == list(SIGNED_PALETTE)
    assert (view.mapper.low, view.mapper.high) == state.limits
    assert view.map.title.text == "Set B − truth: log age (dex)"
    state.set(quantity="log_z", view="error")
    assert view.map.title.text == "Set B: predicted error of log Z/Z☉ (dex)"
    assert view.profile.yaxis.axis_label == "log Z/Z☉"


def test_labels_alone_are_drawn_once(view, state):
    state.set(source="truth", view="error")
    assert key(view) == ["truth: −0.30 ± 0.00 dex/Re"]
    assert not any(renderer.visible for renderer in view.fits["source"])
    assert "choose a prediction" in view.status.value
    state.set(source="fitted")
    assert "fitted has no predicted errors" in view.status.value and len(key(view)) == 2


def test_a_galaxy_without_a_gradient_says_why(view):
    select, _, next_galaxy = view.controls["galaxy"].children
    select.value = 4
    assert "no gradient: only" in view.note.text
    assert not any(renderer.visible for renderers in view.fits.values() for renderer in renderers)
    next_galaxy.click()
    assert (select.value, view.note.text) == (0, "")


def test_a_tap_on_a_cell_shows_its_bands_and_spectrum_and_marks_it(view, state, sample):
    view.cells.selected.indices = [17]
    assert state.spectrum == state.index[17]
    bands, line = view.bands.data, view.spectrum.data
    flux = sample["flux"].values[state.spectrum]
    np.testing.assert_allclose(bands["flux"], flux / flux.mean(), rtol=1e-6)
    there = np.interp(bands["wavelength"], line["wavelength"], line["flux"])
    np.testing.assert_allclose(there, bands["flux"], rtol=1e-3)
    np.testing.assert_array_equal(view.ring.data["xs"][0], view.cells.data["xs"][17])
    view.cells.selected.indices = []  # the page unselects
    assert state.spectrum == state.index[17] and len(view.ring.data["xs"]) == 1
    view.controls["spectrum"].children[0].value = int(state.index[5])  # without a mouse
    assert view.cells.selected.indices == [5], "else a tap on it would go unnoticed"
    state.set(galaxy=1)
    assert "1 band missing" in view.below.title.text


def test_each_source_is_explained_and_compared_in_place(sample, predictions):
    about = {"Set A": "sees <this> galaxy"}
    view = IfuView(IfuState(sample, predictions, about=about))
    assert "<b>Set A</b>: sees &lt;this&gt; galaxy" in view.tables.value
    assert view.controls["source"].tooltips[2] == "sees <this> galaxy"
    assert view.tables.value.count("<tr>") == len(view.state.names) and "± 0.15" in view.tables.value


def test_with_a_sample_it_rebuilds_others_in_a_thread(sample, predictions):
    elsewhere = threading.Event()

    def watched(sample, galaxy):
        if threading.current_thread() is not threading.main_thread():
            elsewhere.set()
        return rebuild(sample, galaxy)

    view = open_ifu_dashboard(sample, predictions, rebuild=watched)
    assert view.spectrum.data["flux"].size > 0 and not elsewhere.is_set()
    view.state.step("galaxy", 1)
    assert elsewhere.wait(30)
    assert "open_ifu_dashboard(sample, predictions" in view.code_cell()
