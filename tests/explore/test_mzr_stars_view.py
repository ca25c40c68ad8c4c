"""Widgets, figures and files of the dashboard when the metals of stars are on its axis."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from spectool.explore import mzr_layer, mzr_png
from spectool.explore.mzr_choices import NONE
from spectool.explore.mzr_figure import RELATIONS, MzrFigure, relation_style
from spectool.explore.mzr_files import load_state, save_csv, save_state
from spectool.explore.mzr_png import save_png
from spectool.explore.mzr_quantities import PREDICTED, QUANTITIES, TRUTH
from spectool.explore.mzr_spectrum import WINDOWS, fit_absorption, fit_emission, lines_of
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_view import MzrView
from spectool.measure.indices import LICK
from spectool.measure.mzr import STELLAR_RELATIONS
from spectool.spectra import air_to_vacuum

from .mzr_fakes import make_samples, make_stellar_samples

MAIN, NULL = "SDSS main sample", "null: SDSS main sample"


@pytest.fixture(scope="module")
def samples():
    return make_samples() | make_stellar_samples(3000)


@pytest.fixture
def state(samples):
    state = MzrState(samples)
    state.set(quantity="stars")
    return state


@pytest.fixture(scope="module")
def opened(samples, tmp_path_factory):
    return MzrView(MzrState(samples), export_folder=tmp_path_factory.mktemp("stars"))


@pytest.fixture
def view(opened):
    """The dashboard as it opens: on the gas."""
    opened.state.reset()
    return opened


# ---- the view


def test_the_button_puts_the_stars_on_the_axis_and_changes_what_can_be_chosen(view):
    controls, state = view.controls, view.state
    controls.quantity.value = "stars"
    assert state.quantity == "stars"
    assert view.figure.plots[0].yaxis.axis_label == "log Z* / Z☉, network's prediction"
    np.testing.assert_array_equal(view.figure.layers[0].points.data["y"], state.panels[0].metallicity)
    assert controls.left.options == (MAIN, NULL) and controls.left.value == MAIN
    assert controls.calibration.value == PREDICTED
    assert controls.min_sn.description == "S/N above"
    assert controls.dust_corrected.layout.display == "none"
    assert {n for n, box in controls.relations.items() if box.layout.display != "none"} == set(
        STELLAR_RELATIONS
    )
    assert list(view.windows.options) == list(WINDOWS["stars"])
    controls.quantity.value = "gas"
    assert view.figure.plots[0].yaxis.axis_label == "12 + log(O/H), PP04 O3N2"
    assert controls.left.value == "original" and controls.dust_corrected.layout.display is None


@pytest.mark.parametrize(
    ("control", "value"),
    [("left", NULL), ("right", NONE), ("calibration", TRUTH), ("color", "S/N"), ("min_sn", 12.0)],
)
def test_widgets_move_the_state_and_follow_it(view, control, value):
    view.state.set(quantity="stars")
    widget, before = getattr(view.controls, control), getattr(view.state, control)
    widget.value = value
    assert getattr(view.state, control) == value
    view.state.set(**{control: before})
    assert widget.value == before


def test_another_quantity_is_derived_once(view):
    seen = []
    view.state.observe(seen.append, "panels")
    view.controls.quantity.value = "stars"
    assert len(seen) == 1


def test_relations_of_the_other_quantity_are_not_drawn(view):
    view.state.set(quantity="stars")
    view.controls.relations["Gallazzi et al. 2005"].value = True
    assert view.state.relations == ("Zahid et al. 2017", "Gallazzi et al. 2005")
    drawn = {name for name, models in view.figure._lines.items() if all(m.visible for m in models)}
    assert drawn == set(STELLAR_RELATIONS)
    assert len({relation_style(name) for name in STELLAR_RELATIONS}) == len(STELLAR_RELATIONS)
    assert set(RELATIONS) == {name for q in QUANTITIES.values() for name in q.relations}


def test_a_click_names_the_galaxy_and_its_metallicity(view, samples):
    view.state.set(quantity="stars")
    panel = view.state.panels[0]
    assert view.figure.pick(0, float(panel.mass[3]), float(panel.metallicity[3]))
    galaxy = samples[MAIN].isel(galaxy=panel.index[3])
    assert f"galaxy {galaxy['candidate'].item()}" in view.galaxy.value
    assert f"{galaxy['log_z_lw'].item():.2f}".replace("-", "−") in view.galaxy.value


def test_lick_bands_are_marked_where_they_are(view):
    marks = lines_of("stars")
    for name in ("Mg b", "Fe5270", "Na D"):
        assert marks[name] == pytest.approx(float(air_to_vacuum(np.mean(LICK[name][0]))), abs=0.05)
    assert "[O III] 5007" in lines_of("gas") and "[O III] 5007" not in marks
    view.state.set(quantity="stars")
    assert "Mg b" in view.spectrum.lines.marks.data["name"]
    view.windows.value = "Mg b, Fe"
    assert (view.spectrum.x_range.start, view.spectrum.x_range.end) == WINDOWS["stars"]["Mg b, Fe"]
    view.state.set(quantity="gas")
    assert (view.spectrum.x_range.start, view.spectrum.x_range.end) == WINDOWS["gas"]["All"]


def test_absorption_fills_the_frame_and_emission_may_leave_it():
    flux = 1 - 0.05 * np.exp(-0.5 * ((np.arange(400) - 200) / 20) ** 2)
    flux[100:103] = 9.0
    low, high = fit_absorption([np.where(np.arange(400) < 5, np.nan, flux)])
    assert 0.9 < low < 0.952 and 1.0 < high < 1.05
    assert fit_absorption([np.full(9, np.nan)]) == (0.0, 1.0)
    assert fit_emission([flux])[1] > 9
    assert fit_emission([flux])[0] <= 0


def test_many_galaxies_are_an_image_of_their_metallicities(state, monkeypatch):
    monkeypatch.setattr(mzr_layer, "MAX_POINTS", 100)
    state.set(color="truth")
    figure = MzrFigure(state)
    layer, panel = figure.layers[0], state.panels[0]
    image = layer.image.data["image"][0]
    assert layer.points.data["x"].size == 0
    assert set(np.unique(image[np.isfinite(image)])) <= set(np.unique(panel.color))


# ---- files


def test_a_saved_state_comes_back_and_one_from_before_is_of_the_gas(state, samples, tmp_path):
    state.set(left=NULL, calibration=TRUTH, min_sn=4)
    path = save_state(state, tmp_path / "state.json")
    other = MzrState(samples)
    load_state(other, path)
    assert (other.quantity, other.left, other.calibration, other.min_sn) == ("stars", NULL, TRUTH, 4.0)
    state.set(quantity="gas", left="de-noised")
    text = save_state(state, path).read_text().replace('"quantity": "gas",', "")
    load_state(other, text.encode())
    assert (other.quantity, other.left) == ("gas", "de-noised")


def test_the_table_says_whose_metals_it_holds(state, samples, tmp_path):
    state.set(min_sn=5)
    path = save_csv(state, tmp_path / "galaxies.csv")
    table = pd.read_csv(path, comment="#")
    main = table[table["sample"] == MAIN]
    np.testing.assert_allclose(main["true_log_z_star"], samples[MAIN]["log_z_lw"], rtol=1e-4, atol=1e-5)
    assert main["log_z_star"].isna().sum() == samples[MAIN]["outlier"].sum()
    assert main["measured"].sum() == state.panels[0].mass.size
    assert "log Z* / Z☉ by network's prediction; measured: S/N above 5" in path.read_text().splitlines()[0]


@pytest.mark.parametrize("changes", [{}, {"overlaid": True}, {"color": "number"}])
def test_many_galaxies_are_an_image_on_paper_too(state, tmp_path, monkeypatch, changes):
    state.set(**changes)
    points = imread(save_png(state, tmp_path / "points.png"))
    monkeypatch.setattr(mzr_png, "MAX_POINTS", 100)
    image = imread(save_png(state, tmp_path / "image.png"))
    assert min(image.shape[:2]) > 500
    # Galaxies stand in the same places, whichever way they are drawn.
    inked = [np.mean((picture[..., :3] < 0.97).any(axis=-1)) for picture in (points, image)]
    assert 0.5 < inked[1] / inked[0] < 2
    assert np.abs(points - image).max() > 0.2
