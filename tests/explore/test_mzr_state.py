"""What follows from the choice of samples, scale and cut."""

import threading

import numpy as np
import pytest
import traitlets
import xarray as xr

from spectool.explore.mzr_choices import NONE
from spectool.explore.mzr_data import CLASSES
from spectool.explore.mzr_quantities import TRUTH, measure_oxygen
from spectool.explore.mzr_state import MzrState
from spectool.measure.mzr import RELATIONS
from spectool.spectra import extinction_curve

from .mzr_fakes import OXYGEN_SUN, SFR_SLOPE, fake_rebuild, make_samples

REFERENCE = "Scholte et al. 2024"


@pytest.fixture(scope="module")
def samples():
    return make_samples()


@pytest.fixture
def state(samples):
    return MzrState(samples, rebuild={"fake": fake_rebuild})


def test_it_opens_on_the_first_two_samples_and_the_papers_choices(state):
    assert (state.left, state.right) == ("original", "DESI-like")
    assert (state.calibration, state.min_sn, state.color) == ("PP04 O3N2", 15.0, "log SFR")
    assert [panel.name for panel in state.panels] == ["original", "DESI-like"]


def test_a_panel_holds_who_passes_the_cut_and_has_a_metallicity(state, samples):
    for panel in state.panels:
        oxygen = measure_oxygen(samples[panel.name], "PP04 O3N2")
        expected = np.flatnonzero(np.isfinite(oxygen.value) & (oxygen.sn > 15))
        np.testing.assert_array_equal(panel.index, expected)
        np.testing.assert_allclose(panel.metallicity, oxygen.value[expected], rtol=1e-6)
        assert panel.n_galaxies == 400
        assert panel.n_faint == np.sum(~(oxygen.sn > 15))
        assert panel.n_all.sum() == 400
        assert panel.n_measured.sum() == expected.size


def test_a_higher_cut_keeps_a_part_of_the_galaxies(state):
    before = set(state.panels[1].index)
    state.set(min_sn=20)
    assert 0 < len(state.panels[1].index) < len(before)
    assert set(state.panels[1].index) < before


def test_scatter_and_offset_are_about_the_relation_of_reference(state):
    for reference in (REFERENCE, "Kewley & Ellison 2008"):
        state.set(reference=reference)
        panel = state.panels[0]
        residual = panel.metallicity - RELATIONS[reference](panel.mass)
        assert panel.scatter[0] == pytest.approx(np.nanstd(residual, ddof=1), rel=1e-4)
        assert panel.offset == pytest.approx(np.nanmedian(residual), abs=1e-5)


def test_the_running_median_follows_the_relation_that_was_put_in(state):
    median = state.panels[0].median
    assert median["mass"].size >= 10
    pull = (median["median"] - (8.35 + 0.13 * (median["mass"] - 9))) / median["error"]
    assert np.abs(pull).max() < 5
    assert 0.5 < np.std(pull) < 1.6
    assert ((median["q16"] < median["median"]) & (median["median"] < median["q84"])).all()


def test_the_trend_with_star_formation_has_the_sign_that_was_put_in(state):
    (first, second), agreement = state.correlate()
    assert SFR_SLOPE < 0
    assert first.rho < -0.8
    assert second.rho < -3 * second.error
    assert agreement.rho > 0.5
    assert agreement.n <= second.n + second.n_left_out


def test_panels_of_one_sample_or_of_other_galaxies_agree_on_nothing(state, samples):
    state.set(right="original")
    assert [panel.name for panel in state.panels] == ["original", "original"]
    assert state.correlate()[1] is None
    state.add_sample("another survey", samples["original"].assign_attrs(family="other"))
    state.set(right="another survey")
    assert state.correlate()[1] is None


def test_the_truth_stands_on_the_axis_when_it_is_asked_for(state, samples):
    state.set(calibration=TRUTH, min_sn=0)
    panel = state.panels[0]
    np.testing.assert_allclose(
        panel.metallicity, samples["original"]["log_z_gas"].values + OXYGEN_SUN, rtol=1e-6
    )


def test_colours_are_what_they_say(state, samples):
    panel, sample = state.panels[0], samples["original"]
    np.testing.assert_allclose(panel.color, sample["log_sfr"].values[panel.index], rtol=1e-6)
    state.set(color="error")
    np.testing.assert_array_equal(state.panels[0].color, state.panels[0].error)
    state.set(color="truth")
    expected = sample["log_z_gas"].values[panel.index] + OXYGEN_SUN
    np.testing.assert_allclose(state.panels[0].color, expected, rtol=1e-6)
    state.set(color="class")
    assert (state.panels[0].color == CLASSES.index("emission line galaxy")).all()
    state.set(color="number")
    assert np.nanmin(state.panels[0].color) >= 0


def test_the_range_of_the_colour_does_not_move_with_the_cut(state):
    before = state.color_range
    state.set(min_sn=30)
    assert state.color_range == before


def test_a_colour_that_nobody_knows_is_unknown():
    own = xr.Dataset({"log_mass": ("galaxy", np.linspace(9, 11, 50)), "oxygen": ("galaxy", np.full(50, 8.5))})
    state = MzrState({"own": own})
    assert state.right == NONE
    for color in ("log SFR", "class", "error", "truth"):
        state.set(color=color)
        assert np.isnan(state.panels[0].color).all()
        assert state.color_range == (0.0, 1.0)
    assert np.isnan(state.correlate()[0][0].rho)


def test_dust_that_was_put_in_is_taken_out(samples):
    dusty = samples["original"].copy(deep=True)
    curve = extinction_curve(dusty["line_wavelength"].values, law="CCM89")
    dusty["line_flux"] = dusty["line_flux"] * xr.DataArray(10 ** (-0.4 * 0.4 * curve), dims="line")
    state = MzrState({"dusty": dusty, "clean": samples["original"]})
    offsets = []
    for corrected in (True, False):
        state.set(min_sn=0, dust_corrected=corrected)
        first, second = state.panels
        _, a, b = np.intersect1d(first.index, second.index, return_indices=True)
        assert a.size > 350
        offsets.append(first.metallicity[a] - second.metallicity[b])
    np.testing.assert_allclose(offsets[0], 0, atol=1e-3)
    assert np.median(offsets[1]) < -0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": "nothing"}, "left cannot be 'nothing'; there are: original, DESI-like, de-noised"),
        ({"calibration": "guess"}, "there are: PP04 O3N2"),
        ({"relations": ("mine",)}, "relations cannot be 'mine'"),
        ({"min_sn": -1}, "min_sn cannot be -1; there are: 0 to 50"),
        ({"min_sn": float("nan")}, "min_sn cannot be nan"),
        ({"colour": "log SFR"}, "no control 'colour'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(state, changes, message):
    before = state.panels
    with pytest.raises(ValueError, match=message):
        state.set(overlaid=True, **changes)
    assert state.panels is before
    assert not state.overlaid


def test_a_control_is_changed_by_set_alone(state):
    with pytest.raises(traitlets.TraitError):
        state.min_sn = 3.0


def test_what_changes_nothing_is_not_computed_again(state):
    seen = []
    state.observe(seen.append, "panels")
    state.set(min_sn=15.0, left="original")
    state.set(overlaid=True, relations=())
    assert seen == []
    state.set(min_sn=14)
    assert len(seen) == 1


def test_observers_see_controls_and_panels_together(state):
    seen = []
    state.observe(lambda _: seen.append([panel.name for panel in state.panels]), "left")
    state.set(left="de-noised")
    assert seen == [["de-noised", "DESI-like"]]


def test_reset_goes_back(state):
    before = [panel.index for panel in state.panels]
    state.select("original", 3)
    state.set(left="de-noised", right=NONE, min_sn=3, calibration="PP04 N2", relations=(), overlaid=True)
    state.reset()
    for panel, index in zip(state.panels, before, strict=True):
        np.testing.assert_array_equal(panel.index, index)
    assert state.relations == (REFERENCE,)
    assert state.selected == ()


def test_a_galaxy_is_found_in_all_samples_of_its_family(state, samples):
    shuffled = samples["original"].isel(galaxy=np.random.default_rng(2).permutation(400))
    state.add_sample("shuffled", shuffled)
    state.add_sample("another survey", samples["original"].assign_attrs(family="other"))
    state.select("original", 17)
    number = int(samples["original"]["candidate"].values[17])
    assert state.selected == ("fake", number)
    assert state.locate("de-noised") == 17
    assert shuffled["candidate"].values[state.locate("shuffled")] == number
    assert state.locate("another survey") is None
    with pytest.raises(IndexError, match="0 to 399, not 400"):
        state.select("original", 400)


def test_the_spectrum_is_that_of_the_galaxy(state):
    state.select("DESI-like", 5)
    assert state.spectrum is None
    assert "rebuilding" in state.spectrum_status
    state.rebuild_spectrum()
    assert state.spectrum_status == ""
    height = float(state.spectrum["flux"].sel(source="original").max())
    assert height == pytest.approx(state.selected[1], rel=0.05)


def test_a_rebuild_that_fails_says_why(samples):
    def broken(candidate):
        raise OSError(f"no file for {candidate}")

    state = MzrState(samples, rebuild={"fake": broken})
    state.select("original", 0)
    state.rebuild_spectrum()
    assert state.spectrum is None
    assert "cannot be rebuilt: no file for" in state.spectrum_status
    other = MzrState(samples)
    other.select("original", 0)
    other.rebuild_spectrum()
    assert other.spectrum_status == "this sample keeps no spectra"


def test_a_slow_rebuild_does_not_overwrite_the_galaxy_clicked_after_it(samples):
    state = MzrState(samples)

    def slow(candidate):
        if candidate == first[1]:
            state.select("original", 2)
        return fake_rebuild(candidate)

    state.rebuild["fake"] = slow
    state.select("original", 1)
    first = state.selected
    state.rebuild_spectrum()
    assert state.selected != first
    assert state.spectrum is None
    state.rebuild_spectrum()
    assert float(state.spectrum["flux"][0].max()) == pytest.approx(state.selected[1], rel=0.05)


def test_changes_from_several_threads_leave_a_consistent_state(state):
    def move(cuts):
        for cut in cuts:
            state.set(min_sn=float(cut))

    threads = [threading.Thread(target=move, args=[np.arange(i, 48, 9)]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for panel in state.panels:
        oxygen = state.metallicity(panel.name)
        expected = np.isfinite(oxygen.value) & (oxygen.sn > state.min_sn)
        np.testing.assert_array_equal(panel.index, np.flatnonzero(expected))


def test_no_sample_is_refused():
    with pytest.raises(ValueError, match="no sample"):
        MzrState({})
