"""Widgets, figures and state of the dashboard of fluxes follow each other, without a browser."""

from datetime import UTC, datetime

import numpy as np
import pytest

from spectool.explore import sed_view
from spectool.explore.sed_figure import LIMIT_SIGMA, SOURCES, band_table, compare_answers
from spectool.explore.sed_view import SedView, open_sed_dashboard, pick_galaxies
from spectool.papers.surana2020.network import UNITS
from tests.explore.sed_fakes import make_library, make_networks, make_sample, make_state

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return SedView(make_state(), export_folder=tmp_path_factory.mktemp("sed") / "exports")


@pytest.fixture
def view(opened):
    """The dashboard as it opens."""
    opened.state.select_galaxy("one")
    opened.state.reset()
    opened.state.select_band("r")
    opened.tell("")
    return opened


@pytest.fixture
def state(view):
    return view.state


def point(view, band, column="y"):
    return view.figure.points.data[column][view.state.bands.index(band)]


def test_the_slider_moves_the_band_and_the_answers(view, state):
    before = point(view, "r")
    view.shift.value = 0.5
    assert state.shifts[state.bands.index("r")] == 0.5
    assert point(view, "r") == pytest.approx(10**0.5 * before, rel=1e-5)
    assert point(view, "r", "before") == pytest.approx(before)
    mean, error = state.answer.predicted["log_mass"]
    assert f"{mean:.2f}&#8239;±&#8239;{error:.2f}" in view.tables.value
    origin = state.original.predicted["log_mass"][0]
    assert view.figure.answers["networks"].data["value"][0] == pytest.approx(mean - origin, abs=1e-5)
    assert view.figure.answers["truth"].data["value"][0] == pytest.approx(
        state.truth["log_mass"][0] - origin, abs=1e-5
    )


def test_a_band_chosen_shows_its_own_shift_and_moves_nothing(view, state):
    state.set_shift(-0.4, band="W3")
    answer = state.answer
    view.band.value = "W3"
    assert view.shift.value == pytest.approx(-0.4)
    view.band.value = "r"
    assert view.shift.value == 0
    assert state.answer is answer
    assert point(view, "r", "size") > point(view, "W3", "size")


def test_a_click_on_a_point_chooses_its_band(view, state):
    view.figure.points.selected.indices = [state.bands.index("K")]
    assert state.band == view.band.value == "K"
    assert view.figure.points.selected.indices == []


def test_the_value_that_a_page_rounds_to_a_step_does_not_move_the_state(view, state):
    state.set_shift(0.1234)
    answer = state.answer
    view.shift.value = 0.12
    assert state.answer is answer


def test_buttons_drop_bands_and_show_what_is_dropped(view, state):
    view.groups["Herschel"].value = True
    assert state.answer.missing.sum() == 5
    assert "16 of 21 bands" in view.status.value
    assert point(view, "S250", "fill") == "white"
    assert point(view, "r", "fill") != "white"
    state.drop("S250", dropped=False)
    assert view.groups["Herschel"].value is False
    view.band.value = "P100"
    assert view.dropped.value is True
    view.dropped.value = False
    assert not state.is_dropped("P100")
    assert state.is_dropped("P160")


def test_the_mistake_is_flagged_and_undone(view, state):
    assert "like the training galaxies" in view.status.value
    assert "sed-warning" not in view.status.value
    before = view.figure.photometry.y_range.end
    view.mistaken.value = True
    assert "unlike the training galaxies" in view.status.value
    assert "sed-warning" in view.status.value
    assert view.figure.photometry.y_range.end > 100 * before
    view.reset.click()
    assert view.mistaken.value is False
    assert state.answer.flux == pytest.approx(state.original.flux)
    # The axis keeps a margin: it does not follow every step.
    assert 0.5 * before < view.figure.photometry.y_range.end < 2 * before


def test_another_galaxy_is_drawn_and_its_gaps_stand_where_the_model_is(view, state):
    view.galaxy.value = "gappy"
    assert state.galaxy == "gappy"
    assert view.figure.points.data["kind"][:2].tolist() == ["missing"] * 2
    np.testing.assert_allclose(
        view.figure.points.data["y"][:2], state.answer.nearest["model_flux"].values[0, :2], rtol=1e-5
    )
    view.band.value = "FUV"
    assert view.shift.disabled
    assert "FUV was not measured" in view.status.value
    state.select_galaxy("one")
    assert view.galaxy.value == "one"
    assert not view.shift.disabled


def test_a_flux_below_its_error_is_drawn_as_a_limit(view, state):
    state.select_galaxy("negative")
    table = band_table(state)
    assert table["kind"][-1] == "limit"
    assert table["y"][-1] == pytest.approx(LIMIT_SIGMA * state.answer.error[-1])
    assert np.isnan(table["low"][-1])
    assert point(view, "S500", "marker") == "inverted_triangle"
    measured = table["kind"] == "flux"
    np.testing.assert_allclose((table["high"] - table["y"])[measured], state.answer.error[measured])


def test_nearest_models_are_drawn_and_listed(view, state):
    nearest = state.answer.nearest
    order = np.argsort(state.wavelength)
    np.testing.assert_allclose(
        view.figure.best.data["flux"], nearest["model_flux"].values[0, order], rtol=1e-5
    )
    assert len(view.figure.models.data["ys"]) == nearest.sizes["nearest"] - 1
    for model in nearest["model"].values:
        assert f"<td>{model}</td>" in view.tables.value


def test_every_known_answer_has_its_row_and_sign(view, state):
    for text, color, _ in SOURCES.values():
        assert f"</span> {text}" in view.tables.value
        assert f'<span style="color:{color}">' in view.key.value
    assert list(compare_answers(state)["truth"]) == list(UNITS)


def test_a_move_sends_one_patch(view):
    patches = []
    widget = view.figure.widget
    original, widget._send_patch = widget._send_patch, patches.append
    try:
        view.shift.value = 0.33
    finally:
        widget._send_patch = original
    assert len(patches) == 1


def test_exports_are_written_and_a_state_is_loaded(view, state):
    view.shift.value = 0.25
    for button in (view.png, view.csv, view.json):
        button.click()
        assert "download=" in view.message.value
    files = {path.suffix: path for path in view.export_folder.iterdir()}
    assert set(files) == {".png", ".csv", ".json"}
    view.reset.click()
    content = memoryview(files[".json"].read_bytes())
    upload = {"name": "x.json", "size": len(content), "type": "", "last_modified": NOW}
    view.load.value = (upload | {"content": content},)
    assert view.message.value == '<span class="">Loaded x.json</span>'
    assert view.shift.value == pytest.approx(0.25)
    view.load.value = (upload | {"content": memoryview(b"{}")},)
    assert "x.json is not a state file" in view.message.value


def test_galaxies_are_picked_from_the_most_to_the_least_star_forming():
    sample = make_sample().drop_vars("name")
    specific = (sample["log_sfr_fit"] - sample["log_mass_fit"]).values
    picked = pick_galaxies(sample, n=3)
    found = (picked["log_sfr_fit"] - picked["log_mass_fit"]).values
    assert found[0] == specific.max()
    assert found[-1] == specific.min()
    assert (np.diff(found) < 0).all()
    assert str(picked["name"].values[0]).startswith(f"no. {specific.argmax()}: z = ")


def test_galaxies_without_labels_are_the_first_ones():
    sample = make_sample()[["flux", "flux_error", "redshift", "mask"]].drop_vars("name")
    picked = pick_galaxies(sample, n=2)
    assert picked["name"].values.tolist() == [
        f"no. {row}: z = {sample['redshift'].values[row]:.3f}" for row in (0, 1)
    ]


def test_it_opens_on_the_shipped_ensemble_unless_told_otherwise(monkeypatch):
    asked = []

    def load(*names):
        asked.extend(names)
        return make_networks()

    monkeypatch.setattr(sed_view, "load_networks", load)
    view = open_sed_dashboard(make_sample(), library=make_library())
    assert asked == list(sed_view.NETWORKS)
    assert view.state.outliers is not None
    asked.clear()
    view = open_sed_dashboard(make_sample(), networks=(make_networks()[0], {}), library=make_library())
    assert asked == []
    assert view.status.value == "21 of 21 bands"


def test_without_library_labels_and_truth_the_networks_stand_alone():
    sample = make_sample()[["flux", "flux_error", "redshift", "mask"]].assign_coords(
        band_wavelength=make_library()["band_wavelength"]
    )
    view = open_sed_dashboard(sample, networks=make_networks())
    assert "networks" in view.tables.value
    assert "teacher" not in view.tables.value
    assert "nearest" not in view.tables.value
    assert "best model" not in view.key.value
    view.galaxy.value = "gappy"
    assert np.isnan(view.figure.points.data["y"][:2]).all()
    view.state.drop(*view.state.bands)
    assert "fewer than 3 bands" in view.status.value
    assert "–" in view.tables.value
