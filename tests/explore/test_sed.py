"""What follows from a change of a galaxy's fluxes, and how it is shown: on toy galaxies, which a toy library holds."""

from functools import cache, partial

import numpy as np
import pytest
import xarray as xr

from spectool.explore import sed
from spectool.explore.sed import GROUPS, LIMIT_SIGMA, MISTAKE, MOST_DEX, SedState, SedView, open_sed_dashboard
from spectool.measure.sedfit import PROPERTIES, QUANTILES, fit_library, nearest_models
from spectool.models.bands import read_inputs
from spectool.models.ensemble import BandEnsemble
from spectool.papers.surana2020 import network as paper
from spectool.papers.surana2020.sed import pick_galaxies
from spectool.surveys.gama import BANDS
from spectool.surveys.photometry import REFERENCE_MPC, luminosity_distance
from tests.sed_toy import make_galaxies
from tools.make.references import fit_band_outliers

ONE, GAPPY, NEGATIVE, FOUR = range(4)  # galaxies; the second without GALEX, the third below zero in S500
ANSWERS = ("networks", "library")
HERSCHEL = list(GROUPS["Herschel"])


def make_sample():
    sample = make_galaxies(4, seed=9)
    sample["mask"][GAPPY, :2] = True
    for name in ("flux", "flux_error"):
        sample[name][GAPPY, :2] = np.nan
    sample["flux"][NEGATIVE, -1] = -0.5 * sample["flux_error"].values[NEGATIVE, -1]
    for name in PROPERTIES:
        label = sample[f"{name}_fit"]
        sample = sample.assign({name: label, f"{name}_fit_low": label - 0.1, f"{name}_fit_high": label + 0.1})
    return sample.assign_coords(
        name=("galaxy", ["one", "gappy", "negative", "four"]),
        number=("galaxy", np.arange(4)),
        band_wavelength=("band", np.geomspace(1500.0, 5e6, len(BANDS))),
    )


@cache
def make_networks():
    """Two networks with errors, and the reference for outliers."""
    samples = [make_galaxies(n, seed=k, gaps=0.1) for k, n in enumerate((2000, 1000))]
    parts = [read_inputs(sample, list(BANDS)) for sample in samples]
    labels = [paper.read_labels(sample) for sample in samples]
    data = parts[0], labels[0], parts[1], labels[1]
    options = paper.ensemble_options(epochs=6) | {"recipe": paper.Recipe((32, 32), 6, 6), "progress": False}
    members = [paper.train_network(*data, seed=seed, **options)[0] for seed in range(2)]
    return paper.calibrate(BandEnsemble(members), *data[2:], seed=[0, 2]), fit_band_outliers(*parts)


@cache
def make_library(n=300):
    """Models of `make_galaxies`, by their specific rate of star formation."""
    x, specific = np.linspace(0, 1, len(BANDS)), np.linspace(-13.5, -8, n)
    old = np.exp(-(((x - 0.4) / 0.2) ** 2))
    young = np.exp(-((x / 0.2) ** 2)) + np.exp(-(((x - 0.9) / 0.2) ** 2))
    redshift = np.arange(0.02, 0.325, 0.01)
    scale = (luminosity_distance(redshift) / REFERENCE_MPC / redshift) ** 2
    flux = 1e-15 * scale[:, None, None] * (old + 10 ** (specific[:, None] + 10) * young)
    columns = {"log_mass": 0 * specific, "log_sfr": specific, "log_dust_luminosity": 0.5 * specific}
    columns = {name: ("model", values) for name, values in (columns | {"age_form": specific * 0 + 1}).items()}
    columns["flux"] = (("redshift", "model", "band"), flux.astype("f4"), {"units": "Jy / solMass"})
    return xr.Dataset(columns, coords={"redshift": redshift, "band": list(BANDS)})


def make_state(sample=None, **options):
    ensemble, outliers = make_networks()
    predict = partial(paper.predict_properties, networks=ensemble, outliers=outliers)
    state = SedState(
        make_sample() if sample is None else sample, predict, **{"library": make_library()} | options
    )
    state.set(galaxy=ONE)
    return state


@pytest.fixture
def state():
    return make_state()


@pytest.fixture
def view(state, tmp_path):
    return SedView(state, export_folder=tmp_path / "exports")


def point(view, band, column="y"):
    return view.sources["points"].data[column][view.state.bands.index(band)]


def test_answers_are_those_of_the_public_functions(state):
    for galaxy in (ONE, GAPPY):
        state.set(galaxy=galaxy)
        sample = make_sample()[["flux", "flux_error", "mask", "redshift"]].isel(galaxy=[galaxy])
        ensemble, outliers = make_networks()
        predicted = paper.predict_properties(sample, ensemble, outliers=outliers)
        fitted = fit_library(sample, make_library(), progress=False)
        nearest = nearest_models(sample, make_library(), n=5)
        for name, network, library in zip(PROPERTIES, *map(state.answers.get, ANSWERS), strict=True):
            mean, error = float(predicted[name][0]), float(predicted[f"{name}_error"][0])
            np.testing.assert_allclose(network, [mean, mean - error, mean + error], rtol=1e-6)
            np.testing.assert_allclose(library, [fitted[name + end][0] for end in QUANTILES], atol=1e-6)
        np.testing.assert_array_equal(state.nearest["model"], nearest["model"][0])
        np.testing.assert_allclose(state.model_flux, np.maximum(nearest["model_flux"][0], 1e-12), rtol=1e-6)
        assert state.reason == predicted["reason"][0] and state.score == abs(predicted["outlier_score"][0])


def test_the_library_finds_the_truth_and_scales_with_the_light(state):
    for galaxy in state.numbers:
        state.set(galaxy=galaxy)
        np.testing.assert_allclose(state.answers["library"][:, 0], state.answers["truth"][:, 0], atol=0.1)
    before = state.answers
    state.set(shifts=dict.fromkeys(state.bands, 0.5))
    np.testing.assert_allclose(state.answers["library"][:, 0] - before["library"][:, 0], 0.5, atol=0.02)
    assert (state.answers["networks"][:, 0] > before["networks"][:, 0]).all()


def test_a_shift_moves_one_band_and_is_held_within_the_slider(state):
    observed, answers = state.flux, state.answers
    state.set(band="W1")
    state.set_shift(7.0)
    assert state.shifts == {"W1": MOST_DEX}
    assert [state.bands[i] for i in np.flatnonzero(state.flux != observed)] == ["W1"]
    state.set_shift(0.0)
    assert state.shifts == {}
    np.testing.assert_array_equal(state.answers["networks"], answers["networks"])


def test_dropped_bands_are_missing_to_networks_and_library(state):
    before = state.answers
    state.drop(HERSCHEL, True)
    assert list(np.array(state.bands)[state.missing]) == HERSCHEL
    dropped = state.answers
    assert not np.allclose(dropped["networks"][:, 1:], before["networks"][:, 1:])
    state.set(shifts={"S250": 0.7})  # what a dropped flux is does not matter
    np.testing.assert_array_equal(state.answers["library"], dropped["library"])
    np.testing.assert_array_equal(state.answers["networks"], dropped["networks"])


def test_a_band_without_a_measurement_stays_missing_and_a_negative_flux_is_one(state):
    state.set(galaxy=GAPPY, shifts={"FUV": 0.5})
    assert np.isnan(state.flux[:2]).all() and state.missing[:2].all()
    state.set(galaxy=NEGATIVE, shifts={"S500": 0.3})
    assert state.flux[-1] == pytest.approx(10**0.3 * state.observed[-1]) and not state.missing[-1]
    last = state.photometry().iloc[-1]
    assert state.nearest and last["kind"] == "limit" and np.isnan(last["low"])
    assert last["y"] == pytest.approx(LIMIT_SIGMA * state.error[-1])


def test_millijansky_taken_for_jansky_are_flagged(state):
    for galaxy in state.numbers:
        state.set(galaxy=galaxy)
        before = state.answers
        assert state.reason == state.fit_reason == ""
        state.set(mistaken=True)
        assert "unlike the training galaxies" in state.reason and state.score >= 2
        gain = state.answers["library"][1:, 0] - before["library"][1:, 0]  # masses end at 14
        np.testing.assert_allclose(gain, np.log10(MISTAKE), atol=0.01)


def test_without_an_answer_there_is_a_reason(state):
    state.set(shifts={"g": 1.0, "K": -1.0})
    assert "no model of the library is near" in state.fit_reason
    state.set(dropped=state.bands)
    view, reasons = SedView(state), [state.reason]
    state.observed[:], state.observed_error[:] = 20.0, 0.1
    state.set(dropped=[], shifts={"r": 0.1})
    for reason, words in zip([*reasons, state.reason], ("fewer than 3 bands", "magnitudes"), strict=True):
        assert words in reason
    assert np.isnan(state.answers["networks"]).all() and np.isnan(state.answers["library"]).all()
    assert not state.nearest and view.describe()[1].startswith(state.reason)


def test_another_galaxy_starts_as_it_was_observed_and_reset_keeps_it(state):
    state.set(shifts={"r": 0.5}, dropped=["u"], mistaken=True)
    state.set(galaxy=FOUR)
    assert (state.shifts, state.dropped, state.mistaken) == ({}, (), False)
    state.set(shifts={"r": 0.2, "W3": -0.9})
    state.reset()
    assert (state.galaxy, state.shifts) == (FOUR, {})
    np.testing.assert_array_equal(state.flux, state.observed)


@pytest.mark.parametrize("shifts", [{"V": 0.1}, {"r": np.nan}, {"r": "far"}, ["r"], {"r": None}])
def test_shifts_that_cannot_be_are_refused(state, shifts):
    with pytest.raises(ValueError, match=r"no band 'V'; there are: FUV|finite|dex by band"):
        state.set(shifts=shifts, dropped=["u"])
    assert (state.shifts, state.dropped) == ({}, ())


def test_samples_that_cannot_be_shown_are_refused():
    with pytest.raises(ValueError, match="band_wavelength"):
        make_state(make_sample().drop_vars("band_wavelength"))
    sample = make_sample()
    sample["flux"].attrs["units"] = "mJy"
    with pytest.raises(ValueError, match="in Jy, not 'mJy'"):
        make_state(sample)


def test_it_opens_on_a_galaxy_to_which_nobody_objects():
    sample = make_sample()
    assert make_state(sample).ordinary == ONE  # the first that is seen in all bands
    sample["flux"][ONE] *= MISTAKE
    assert make_state(sample).ordinary == FOUR


def test_the_table_and_what_stands_above_it(state):
    state.set(galaxy=GAPPY, shifts={"r": 0.5})
    table = state.table().set_index("band")
    np.testing.assert_array_equal(table["flux_jy"], state.flux)
    np.testing.assert_array_equal(table["missing"], state.missing)
    assert table.index[table["shift_dex"] != 0].tolist() == ["r"]
    text = "\n".join(state.about())
    assert f"networks: log_mass {state.answers['networks'][0, 0]:.3f} (" in text
    assert "galaxy: gappy" in text and f"truth: log_mass {state.answers['truth'][0, 0]:.3f}\n" in text


def test_truths_without_star_formation_are_no_obstacle():
    sample = make_sample()
    sample["log_sfr"] = xr.full_like(sample["log_sfr"], -np.inf)
    view = SedView(make_state(sample))
    assert "none" in view.tables.value and np.isnan(view.sources["truth"].data["value"][1])


# ---- the view


def test_the_slider_moves_the_band_and_the_answers_in_one_patch(view, state):
    before, patches = point(view, "r"), []
    view.figure._send_patch = patches.append
    view.controls["shifts"].value = 0.5
    assert len(patches) == 1
    assert point(view, "r") == pytest.approx(10**0.5 * before) and point(view, "r", "before") == before
    mean, low, _ = state.answers["networks"][0]
    assert f"{mean:.2f}&#8239;±&#8239;{mean - low:.2f}" in view.tables.value
    assert view.sources["networks"].data["value"][0] == pytest.approx(mean - state.origin[0])
    answers = state.answers
    view.controls["shifts"].value = 0.502  # what a page rounds to a step
    assert state.answers is answers


def test_a_click_on_a_point_chooses_its_band_and_shows_its_shift(view, state):
    state.set(shifts={"K": -0.4})
    view.sources["points"].selected.indices = [state.bands.index("K")]
    assert state.band == view.controls["band"].value == "K" and view.sources["chosen"].data["band"] == ["K"]
    assert view.controls["shifts"].value == -0.4 and view.sources["points"].selected.indices == []


def test_buttons_drop_bands_and_show_what_is_dropped(view, state):
    view.drops["Herschel"].value = True
    assert "16 of 21 bands" in view.status.value and point(view, "S250", "kind") == "missing"
    state.drop(["S250"], False)
    assert view.drops["Herschel"].value is False
    state.set(band="P100")
    assert view.drops[""].value is True and view.drops[""].description == "no P100"
    view.drops[""].value = False
    assert set(state.dropped) == set(HERSCHEL) - {"S250", "P100"}


def test_the_mistake_is_flagged_greyed_and_undone(view):
    assert "like the training galaxies" in view.status.value and "dim" not in view.tables.value
    before = view.panels[0][0].y_range.end
    view.controls["mistaken"].value = True
    assert "unlike the training galaxies" in view.status.value
    assert 'class="dim" title="errors unlike' in view.tables.value
    assert view.panels[0][0].y_range.end > 100 * before
    view.undo.click()
    assert 0.4 * before < view.panels[0][0].y_range.end < 2.5 * before


def test_gaps_stand_where_the_model_is_and_cannot_be_moved(view, state):
    state.set(galaxy=GAPPY, band="FUV")
    np.testing.assert_allclose([point(view, band) for band in ("FUV", "NUV")], state.model_flux[0, :2])
    assert view.controls["shifts"].disabled and "FUV was not measured" in view.status.value
    shown = [item.label.value for item in view.panels[0][0].legend[0].items if item.visible]
    assert shown == ["flux", "2σ limit", "missing", "best model", "next four"]


def test_it_opens_on_what_is_given_and_on_what_is_drawn(monkeypatch):
    class Part:
        draw = staticmethod(lambda: (make_sample(), make_library()))
        load_networks = staticmethod(make_networks)
        predict_properties = staticmethod(paper.predict_properties)
        pick_galaxies = staticmethod(pick_galaxies)

    monkeypatch.setattr(sed, "find_parts", lambda name: {"toy": Part})
    view = open_sed_dashboard()
    assert view.opener == "open_sed_dashboard()" and view.state.nearest
    bare = make_sample()[["flux", "flux_error", "redshift", "mask"]].drop_vars("name")
    monkeypatch.setattr(sed, "N_GALAXIES", 2)
    view = open_sed_dashboard(bare, networks=(make_networks()[0], {}))
    assert view.opener == "open_sed_dashboard(sample=sample, networks=networks)"
    assert view.state.list_sources() == ["networks"] and "outlier" not in view.status.value
    assert view.state.names == [f"{k}: z {bare['redshift'].values[k]:.2f}" for k in range(2)]


def test_galaxies_are_picked_from_the_most_to_the_least_star_forming():
    sample = make_sample().drop_vars("name")
    specific = (sample["log_sfr_fit"] - sample["log_mass_fit"]).values
    number = pick_galaxies(sample, 3)["number"].values
    assert (number[0], number[-1]) == (specific.argmax(), specific.argmin())
    assert (np.diff(specific[number]) < 0).all()
