"""What follows from a choice of line, model, filter, brush and noise, without a widget."""

import threading

import numpy as np
import pytest

from spectool.explore import line_data as data
from spectool.explore.line_state import MAX_LIVE, SIGMA, LineState, spread
from spectool.measure.classes import CLASSES

from .line_fakes import make_pipeline, make_product, make_spectra


@pytest.fixture(scope="module")
def product():
    return make_product()


@pytest.fixture
def state(product):
    return LineState(product, make_pipeline(product))


def snapshot(state):
    return {name: np.array(values) for name, values in state.points.items()}


def test_it_opens_on_the_papers_figure_with_something_to_look_at(state):
    assert (state.line, state.quantity, state.source, state.sigma) == ("Hα", "peak", "VAE 4", 0.04)
    assert set(state.galaxy_class[state.brushed]) == set(CLASSES)
    assert state.shown in state.live_index
    assert state.spectra.sizes["galaxy"] == state.live_index.size > 0


def test_points_are_the_tables_own(state, product):
    state.choose(line="[O III] 5007", quantity="integrated", kind="PCA", size=6)
    for name, source in (("original", "original"), ("recovered", "PCA 6")):
        flux = product["line_flux"].sel(source=source, line="[O III] 5007").values
        good = flux > 0
        np.testing.assert_allclose(10 ** state.points[name][good], flux[good], rtol=1e-5)
        assert np.isnan(state.points[name][~good]).all()
    difference = state.points["recovered"] - state.points["original"]
    np.testing.assert_allclose(state.points["residual"], difference, atol=1e-6)


def test_another_model_moves_what_is_recovered_and_not_what_is_original(state):
    before = snapshot(state)
    state.choose(kind="PCA")
    after = state.points
    for name in ("original", "n2", "o3", "oh", "log_mass"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in ("recovered", "residual", "latent_x"):
        assert not np.array_equal(after[name], before[name], equal_nan=True)
    state.choose(diagrams="recovered")
    assert not np.array_equal(state.points["n2"], before["n2"], equal_nan=True)


def test_the_scatter_is_that_of_the_table(state):
    found = {}
    for kind in data.KINDS:
        state.choose(kind=kind, size=10)
        found[kind] = state.summary["sigma"]
    # As the fake table was made: 0.4, 0.3 and 0.2 dex, and 0.01 for the size.
    np.testing.assert_allclose([found[k] for k in data.KINDS], [0.41, 0.31, 0.21], atol=0.04)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"line": "Hγ"}, "line 'Hγ' is none of Hδ, Hβ"),
        ({"quantity": "width"}, "quantity 'width'"),
        ({"size": 3}, "size 3 is none of 2, 4, 6, 10"),
        ({"kind": "GAN"}, "kind 'GAN'"),
        ({"axes": (0, 4)}, "VAE 4 has the dimensions 0 to 3"),
        ({"axes": (0, -1)}, "axes are two dimensions"),
        ({"colour": "red"}, "no option 'colour'"),
    ],
)
def test_a_choice_that_is_none_is_refused_and_changes_nothing(state, options, message):
    before = snapshot(state)
    with pytest.raises(ValueError, match=message):
        state.choose(**options)
    for name, values in before.items():
        np.testing.assert_array_equal(state.points[name], values)
    assert (state.line, state.source) == ("Hα", "VAE 4")


def test_a_model_that_the_table_lacks_is_named(product):
    without = product.drop_sel(source="AE 2", model="AE 2")
    state = LineState(without, make_pipeline(without))
    with pytest.raises(ValueError, match="no model 'AE 2'"):
        state.choose(kind="AE", size=2)


def test_a_smaller_model_brings_back_dimensions_that_it_has(state):
    state.choose(size=10, axes=(7, 3))
    assert state.axes == (7, 3)
    state.choose(size=2)
    assert state.axes == (0, 1)
    assert np.isfinite(state.points["latent_x"]).all()


def test_filters_hide_galaxies_in_every_panel(state):
    state.set_filter(classes=["narrow-line AGN", "emission line galaxy"], sn_range=(3, 50))
    hidden = ~np.isin(state.galaxy_class, state.classes) | (state.sn < 3) | (state.sn > 50)
    assert 0 < hidden.sum() < hidden.size
    for values in state.points.values():
        assert np.isnan(values[hidden]).all()
    assert np.isfinite(state.points["log_mass"][~hidden]).all()
    assert state.summary["n_original"] == np.isfinite(state.points["original"]).sum()
    assert state.classes == ("emission line galaxy", "narrow-line AGN")


def test_galaxies_without_a_measurement_count_as_no_signal(state):
    unmeasured = state.sn == 0
    assert unmeasured.any()
    assert state.passing[unmeasured].all()
    state.set_filter(sn_range=(1, np.inf))
    assert not state.passing[unmeasured].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": ["dwarf"]}, "no class 'dwarf'"), ({"sn_range": (5, 2)}, "from low to high; got 5 to 2")],
)
def test_a_filter_that_is_none_is_refused(state, options, message):
    with pytest.raises(ValueError, match=message):
        state.set_filter(**options)
    assert state.passing.all()


def test_filtered_to_nothing_there_is_nothing_and_no_error(state):
    state.set_filter(classes=[])
    assert state.summary["n_recovered"] == 0
    assert (state.live, state.spectra, state.shown) == ({}, None, -1)
    state.step(1)
    assert state.shown == -1


def test_a_brush_keeps_all_galaxies_but_makes_spectra_of_some(state):
    state.brush(range(100))
    assert state.brushed.tolist() == list(range(100))
    assert state.live_index.size == MAX_LIVE == state.spectra.sizes["galaxy"]
    assert set(state.live_index) <= set(range(100))
    flux = state.points["original"][state.live_index]
    flux = flux[np.isfinite(flux)]
    assert (np.diff(flux) >= 0).all()


def test_brushed_galaxies_that_are_filtered_out_have_no_spectra(state):
    state.brush(range(60))
    state.set_filter(classes=["quiescent galaxy"])
    assert set(state.galaxy_class[state.live_index]) == {"quiescent galaxy"}
    assert state.brushed.size == 60


def test_galaxies_that_are_not_there_cannot_be_brushed(state):
    before = state.brushed
    with pytest.raises(ValueError, match="from 0 to 299"):
        state.brush([3, 300])
    np.testing.assert_array_equal(state.brushed, before)


def test_stepping_visits_every_spectrum_and_begins_anew(state):
    state.brush(range(5))
    first, seen = state.shown, []
    for _ in range(5):
        seen.append(state.shown)
        state.step(1)
    assert sorted(seen) == list(range(5))
    assert state.shown == first
    state.step(-1)
    assert state.shown == seen[-1]
    with pytest.raises(ValueError, match="not among those"):
        state.show(77)


def test_live_points_are_the_pipelines(state, product):
    state.brush([4, 9, 17])
    at = state.live_index
    pipeline = make_pipeline(product)
    expected = pipeline.run(pipeline.prepare(state.candidates[at]), "VAE", 4, SIGMA)
    np.testing.assert_array_equal(state.live["latent_x"], expected["latent"].values[:, 0].astype("f4"))
    peak = expected["line_peak"].sel(line="Hα").values
    np.testing.assert_allclose(state.live["recovered"], data.log_positive(peak), rtol=1e-6)
    np.testing.assert_array_equal(state.live["log_mass"], state.points["log_mass"][at])


def test_noise_is_scaled_not_drawn_anew(state):
    def added():
        spectra = state.spectra
        # add_noise rescales: undo it by the continuum's level, which noise does not change on average.
        scale = 33.0 / (spectra["original"] + state.sigma * unit).sum("wavelength")
        return spectra["noisy"] / scale - spectra["original"]

    state.brush([1, 2])
    unit = np.stack([state._rebuilt[int(c)]["unit_noise"].values for c in state.candidates[state.live_index]])
    for sigma in (0.01, 0.08):
        state.set_sigma(sigma)
        np.testing.assert_allclose(added(), sigma * unit, atol=1e-5)


def test_more_noise_moves_points_and_the_way_back_is_exact(state):
    before = {name: values.copy() for name, values in state.live.items()}
    state.set_sigma(0.09)
    for name in ("recovered", "latent_x"):
        assert not np.array_equal(state.live[name], before[name], equal_nan=True)
    np.testing.assert_array_equal(state.live["original"], before["original"])
    state.set_sigma(SIGMA)
    for name, values in before.items():
        np.testing.assert_array_equal(state.live[name], values)


def test_noise_stays_within_its_range(state):
    state.set_sigma(7)
    assert state.sigma == 0.1
    state.set_sigma(0)
    assert state.sigma == 0.005
    with pytest.raises(ValueError, match="must be a number"):
        state.set_sigma(np.nan)


def test_another_line_moves_live_points_without_a_new_fit(product):
    runs = []

    def measure(sample):
        runs.append(sample.sizes["galaxy"])
        return make_pipeline(product).measure(sample)

    state = LineState(product, make_pipeline(product, measure=measure))
    before, n = state.live["recovered"], len(runs)
    state.choose(line="Hδ")
    assert not np.array_equal(state.live["recovered"], before, equal_nan=True)
    assert len(runs) == n
    state.choose(kind="AE")
    assert len(runs) == n + 1


def test_a_spectrum_is_rebuilt_once(product):
    asked = []

    def rebuild(candidates):
        asked.extend(int(c) for c in candidates)
        return make_spectra(product, candidates)

    state = LineState(product, make_pipeline(product, rebuild=rebuild))
    state.brush(range(12))
    state.brush(range(6, 18))
    state.choose(line="Hβ", kind="PCA", size=2)
    state.set_sigma(0.02)
    assert len(asked) == len(set(asked))
    assert {*state.candidates[:18].tolist()} <= set(asked)


def test_spectra_that_cannot_be_rebuilt_are_explained_and_the_table_still_works(product):
    def rebuild(_):
        raise ValueError("no such candidate")

    state = LineState(product, make_pipeline(product, rebuild=rebuild))
    assert state.problem == "the spectra could not be rebuilt: no such candidate"
    assert state.live == {}
    assert not state.busy
    state.choose(line="Hβ")
    assert state.summary["n_recovered"] > 100


def test_a_model_that_is_not_shipped_is_explained_and_another_one_works(product):
    def denoise(kind, size, sample):
        if kind == "AE":
            raise FileNotFoundError("no model file 'ae4'")
        return make_pipeline(product).denoise(kind, size, sample)

    state = LineState(product, make_pipeline(product, denoise=denoise))
    state.choose(kind="AE")
    assert state.problem == "no model file 'ae4'"
    assert state.live == {}
    assert state.summary["n_recovered"] > 100
    state.choose(kind="PCA")
    assert state.problem == ""
    assert state.live["recovered"].size == state.live_index.size


def test_spectra_that_come_too_late_are_not_drawn(product):
    waiting = []
    state = LineState(product, make_pipeline(product), start=lambda *job: waiting.append(job))
    assert state.busy
    assert state.spectra is None
    state.brush([1, 2, 3])
    state.brush([7, 8])
    for function, *arguments in reversed(waiting):
        function(*arguments)
    assert not state.busy
    assert sorted(state.live_index) == [7, 8]
    assert state.spectra.sizes["galaxy"] == 2
    state.brush([1, 2, 3])
    assert len(waiting) == 3, "spectra that came late are kept"


def test_reset_brings_back_the_beginning(state):
    points, brushed, live = snapshot(state), state.brushed, dict(state.live)
    state.choose(line="Hβ", kind="AE", size=10, axes=(3, 4), diagrams="recovered", quantity="integrated")
    state.set_filter(classes=CLASSES[:2], sn_range=(5, 100))
    state.set_sigma(0.07)
    state.brush([0, 1])
    state.reset()
    for name, values in points.items():
        np.testing.assert_array_equal(state.points[name], values)
    np.testing.assert_array_equal(state.brushed, brushed)
    for name, values in live.items():
        np.testing.assert_array_equal(state.live[name], values)


def test_observers_see_points_and_scatter_together(state):
    seen = []
    state.observe(
        lambda _: seen.append(
            state.summary["n_recovered"] == int(np.isfinite(state.points["residual"]).sum())
        ),
        "points",
    )
    for line in ("Hβ", "Hδ", "Hα"):
        state.choose(line=line)
    assert seen == [True] * 3


def test_changes_from_several_threads_leave_a_consistent_state(state):
    def noise():
        for sigma in np.linspace(0.01, 0.09, 12):
            state.set_sigma(sigma)

    def lines():
        for line in state.lines * 2:
            state.choose(line=line)

    def brush():
        for n in range(2, 14):
            state.brush(range(n))

    threads = [threading.Thread(target=work) for work in (noise, lines, brush)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (state.sigma, state.line, state.brushed.size) == (0.09, state.lines[-1], 13)
    last = {name: values.copy() for name, values in state.live.items()}
    state._run()
    for name, values in last.items():
        np.testing.assert_array_equal(state.live[name], values)


def test_spread_takes_both_ends_and_all_where_there_are_few():
    values = np.array([5.0, 1.0, 3.0, np.nan, 2.0, 4.0])
    assert spread(np.arange(6), values, 3).tolist() == [1, 2, 3]
    assert spread(np.array([0, 2, 4]), values, 9).tolist() == [4, 2, 0]
