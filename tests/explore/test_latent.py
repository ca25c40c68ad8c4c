"""The latent dashboard: what follows from a position, and how sliders, figures and tables show it."""

import threading

import numpy as np
import pytest
import torch

from spectool.explore.latent import LatentState, LatentView, bound, name_dimensions, strongest_in_bins
from spectool.models.vae import decode_latent, encode_sample, traverse


@pytest.fixture
def view(state, tmp_path):
    return LatentView(state, export_folder=tmp_path / "exports")


# ---- positions


def test_a_seed_is_where_the_encoder_puts_it_and_its_residual_is_empty_under_the_mask(state, seeds, model):
    network = model().network
    state.set(seed="real")
    np.testing.assert_allclose(state.latent, encode_sample(network, seeds)["latent"].values[2], atol=6e-5)
    np.testing.assert_allclose(state.decoded, decode_latent(network, state.latent), rtol=1e-4, atol=1e-5)
    assert np.isnan(state.residual[:80]).all()
    expected = seeds["flux"].values[2, 80:] - state.decoded[80:]
    np.testing.assert_allclose(state.residual[80:], expected, rtol=1e-6)


def test_a_move_changes_one_dimension_within_its_range_and_reset_undoes_it_exactly(state):
    before = state.latent, state.decoded
    for value, edge in ((99.0, state.upper), (-99.0, state.lower)):
        state.set_dimension(1, value)
        assert state.latent[1] == edge[1]
        assert np.flatnonzero(state.latent != before[0]).tolist() == [1]
    assert not np.array_equal(state.decoded, before[1])
    state.reset()
    np.testing.assert_array_equal(state.latent, before[0])
    np.testing.assert_array_equal(state.decoded, before[1])


def test_a_seed_outside_the_range_is_named_and_moved_to_the_edge(model, seeds, tmp_path):
    narrow = model()
    narrow.info.arrays["latent_max"][:] = 1e-4
    narrow.info.arrays["latent_min"][:] = -1e-4
    view = LatentView(LatentState(narrow, seeds), export_folder=tmp_path)
    assert (np.abs(view.state.latent) <= 1.01e-4).all()
    assert "outside the encoder's range in z0, z1" in view.status.value.replace("&#x27;", "'")


@pytest.mark.parametrize("latent", [np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))])
def test_a_vector_that_is_no_position_is_refused(state, latent):
    with pytest.raises(ValueError, match="6 finite values"):
        state.set(latent=latent)


def test_seeds_without_data_or_of_another_grid_are_refused(model, seeds):
    with pytest.raises(ValueError, match="pixels"):
        LatentState(model(), seeds.isel(wavelength=slice(0, 100)))
    seeds["mask"].values[1] = True
    with pytest.raises(ValueError, match="'two' has no usable pixel"):
        LatentState(model(), seeds)


# ---- what follows


def test_changes_are_differences_of_the_decoder(state):
    half = 0.5 * state.spread[4]
    above, below = state.latent.copy(), state.latent.copy()
    above[4] += half
    below[4] -= half
    expected = state.decode(above[None])[0] - state.decode(below[None])[0]
    changes = state.find_changes()
    assert changes.shape == (3, state.wavelength.size)
    np.testing.assert_allclose(changes[0], expected, rtol=1e-4, atol=1e-6)


def test_the_nearest_galaxy_of_a_galaxy_is_itself_whatever_uninformative_dimensions_are(state):
    state.set(latent=state.model.atlas["latent"].values[17])
    nearest = state.nearest
    assert nearest[0] == 17 and state.distance[0] < 1e-3
    assert (np.diff(state.distance) >= 0).all()
    state.set_dimension(int(state.others[0]), 2.5)
    np.testing.assert_array_equal(state.nearest, nearest)


def test_parameters_follow_the_position_and_are_never_impossible(state):
    state.set_dimension(4, 0.75)
    table = state.predict_parameters().set_index("parameter")
    assert list(table.index) == ["log M*", "log SFR"]
    assert table.loc["log M*", "predicted"] == pytest.approx(10.75)
    assert table.loc["log M*", "error"] == pytest.approx(0.1)
    for value in (-3.0, -0.1, 0.0, 0.1):
        state.set_dimension(1, value)
        assert state.predict_parameters().set_index("parameter").loc["log SFR", "predicted"] >= 0


def test_bounds_are_the_moments_of_a_truncated_gaussian():
    draws = np.random.default_rng(0).normal(0.2, 0.5, 400_000)
    kept = draws[(draws > 0) & (draws < 1)]
    means, sigmas, low = np.array([0.2, 3.0, -0.4]), np.array([0.5, 0.1, 0.05]), np.array([0.0, -np.inf, 0.0])
    mean, sigma = bound(means, sigmas, low, np.array([1.0, np.inf, np.inf]))
    np.testing.assert_allclose([mean[0], sigma[0]], [kept.mean(), kept.std()], atol=3e-3)
    # Eight sigma below what is possible, an exponential tail is left: its mean is its spread.
    np.testing.assert_allclose([mean[1], sigma[1], mean[2] / sigma[2]], [3.0, 0.1, 1.0], rtol=0.02)


def test_a_dimension_is_named_by_what_it_follows(state):
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(300, 2))
    parameters = {"age": np.exp(latent[:, 1]), "dust": -latent[:, 0] + 0.1 * rng.normal(size=300)}
    assert name_dimensions(latent, parameters) == ["dust", "age"]
    assert list(state.labels.items())[:2] == [(4, "1 · mass (z4)"), (1, "2 · rate (z1)")]


def test_a_traversal_stops_before_the_first_negative_flux():
    def decode(latents):
        return np.stack([1 - latents[:, 0], np.ones(len(latents))], axis=1)

    values, spectra = traverse(decode, np.zeros(2), 0, np.linspace(0, 3, 31))
    assert values[-1] == pytest.approx(1.0)
    assert (spectra >= 0).all()
    values, _ = traverse(lambda z: z[:, :1] - 10, np.zeros(2), 0, np.linspace(0, 3, 31))
    assert values.size == 31


# ---- animation


def test_an_animation_visits_both_ends_comes_home_and_is_one_step_of_undo(state):
    start = state.latent
    values = list(state.animate(1))
    assert (min(values), max(values)) == (state.lower[1], state.upper[1])
    np.testing.assert_array_equal(state.latent, start)
    steps = state.animate(1)
    value = [next(steps) for _ in range(3)][-1]
    state.playing = False
    assert list(steps) == []
    assert state.latent[1] == pytest.approx(value, abs=1e-4)
    state.undo()
    np.testing.assert_array_equal(state.latent, start)


def test_an_animation_ends_when_something_else_moves_and_needs_a_range(state):
    steps = state.animate(1)
    next(steps)
    state.set(seed="two")
    assert list(steps) == [] and not state.playing
    np.testing.assert_allclose(state.latent, state.encoded, atol=6e-5)
    state.upper[2] = state.lower[2]
    with pytest.raises(ValueError, match="no range"):
        next(state.animate(2))


# ---- models


def test_another_model_keeps_the_seed_and_changes_the_rest(state, model):
    state.set(seed="two")
    old = state.model_id, state.decoded.copy()
    state.set_model(model(seed=3, informative=(0, 5)))
    assert state.seed == "two"
    assert state.model_id != old[0]
    assert state.informative.tolist() == [0, 5]
    assert not np.array_equal(state.decoded, old[1])
    assert state.can_undo == (False, False)


def test_informative_dimensions_may_be_flags_and_the_others_come_by_what_they_move(model, seeds):
    state = LatentState(model(informative=np.array([True, False, False, True, False, False])), seeds)
    assert state.informative.tolist() == [0, 3]
    assert sorted(state.others) == [1, 2, 4, 5]
    moves = np.diag(state.spread)[state.others].astype(np.float32)
    moved = np.mean((state.decode(moves) - state.decode(-moves)) ** 2, axis=1)
    assert (np.diff(moved) <= 0).all()


def test_moves_from_several_threads_leave_a_consistent_state_and_torch_its_threads(state):
    threads_of_torch = torch.get_num_threads()

    def move(dimension):
        for value in np.linspace(-1, 1, 25):
            with state.lock:
                state.set_dimension(dimension, value)

    threads = [threading.Thread(target=move, args=[d]) for d in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(state.latent[:4], np.ones(4, dtype=np.float32))
    np.testing.assert_allclose(state.decoded, state.decode(state.latent[None])[0], rtol=1e-6)
    assert torch.get_num_threads() == threads_of_torch


# ---- the view


def test_there_is_a_slider_for_every_dimension_and_the_informative_come_first(view, state):
    assert [s.description[-3:-1] for s in view.slider_box.children] == ["z4", "z1", "z3"]
    assert sorted(s.description[-3:-1] for s in view.other_box.children) == ["z0", "z2", "z5"]
    assert view.other_box.layout.display == "none"
    view.more.value = True
    assert view.other_box.layout.display is None
    assert (view.sliders[4].min, view.sliders[4].max) == (state.lower[4], state.upper[4])


def test_a_slider_moves_spectrum_and_table_and_the_state_moves_the_slider(view, state):
    view.sliders[4].value = 1.5
    assert state.latent[4] == np.float32(1.5)
    for column in ("decoded", "residual"):
        np.testing.assert_array_equal(view.spectrum.data[column], getattr(state, column))
    assert view.spectrum.data["decoded"].dtype == np.float32
    assert "11.50 ± 0.10" in view.tables.value
    state.set_dimension(1, -0.9)
    assert view.sliders[1].value == pytest.approx(-0.9, abs=view.sliders[1].step)
    view.controls["seed"].value = "real"
    np.testing.assert_array_equal(view.galaxy.data["flux"], state.seed_flux)


def test_the_value_that_a_page_rounds_to_a_step_does_not_move_the_state(view, state):
    state.set_dimension(1, 0.1234)
    before, slider = state.latent.copy(), view.sliders[1]
    slider.value = slider.min + slider.step * round((0.1234 - slider.min) / slider.step)
    np.testing.assert_array_equal(state.latent, before)


def test_a_move_sends_one_patch_with_only_what_changed(view):
    patches = []
    view.figure._send_patch = patches.append
    view.sliders[4].value = 0.3
    assert len(patches) == 1
    columns = {column for event in patches[0] for column in (getattr(event, "cols", None) or ())}
    assert "wavelength" not in columns
    assert {"decoded", "residual"} <= columns


def test_windows_zoom_and_labels_follow(view):
    view.controls["window"].value = "Hα"
    assert (view.x_range.start, view.x_range.end) == (6480.0, 6800.0)
    assert "Hα" in view.lines.labels.data["label"]
    assert "[O II]" not in view.lines.labels.data["label"]
    view.controls["window"].value = "All"
    assert (view.x_range.start, view.x_range.end) == view.full_range


def test_a_held_axis_stays(view, state):
    axis = view.panels[0][0].y_range
    state.network.pixel_mean[:] = 30.0
    for held, moves in ((True, False), (False, True)):
        before = axis.end
        state.set(hold_axis=held)
        state.set_dimension(4, 0.2 + held)
        assert (axis.end != before) is moves


def test_retraining_asks_first_then_swaps_the_model_and_can_go_back(model, seeds, tmp_path):
    def retrain(on_progress):
        on_progress(0.5, 12.0)
        return model(seed=7, informative=(2, 0), name="fresh")

    state = LatentState(model(), seeds, start=lambda function: function())
    view = LatentView(state, retrain=retrain, export_folder=tmp_path)
    before = state.model_id
    view.train.value = True
    assert view.confirm.layout.display is None
    assert state.model_id == before
    view.confirm.click()
    assert state.model_id != before
    assert [s.description[-3:-1] for s in view.slider_box.children] == ["z2", "z0"]
    assert view.progress.layout.display == "none"
    assert view.back.layout.display is None
    view.back.click()
    assert state.model_id == before
    assert [s.description[-3:-1] for s in view.slider_box.children] == ["z4", "z1", "z3"]


def test_what_is_no_galaxy_is_flagged_and_far_from_all_mocks_the_table_is_grey(view, state):
    assert 'class="dim"' not in view.tables.value
    state.network.pixel_mean[:] = -5.0
    for dimension, value in ((4, 3.0), (1, -3.0), (3, 3.0)):
        state.set_dimension(dimension, value)
    assert "240 pixels below zero" in view.status.value
    assert "the table is a guess" in view.status.value
    assert 'class="dim"' in view.tables.value
    state.set(seed="real")
    assert "–" in view.tables.value


def test_a_narrow_line_survives_the_strip():
    wavelength = np.linspace(3000.0, 9000.0, 4000)
    rows = np.zeros((2, 4000))
    rows[0, 1234], rows[1, 2345] = 5.0, -3.0
    strip = strongest_in_bins(rows, wavelength, (3000.0, 9000.0), n_bins=100)
    assert strip.shape == (2, 100)
    assert (strip[0].max(), strip[1].min()) == (5.0, -3.0)
    strip = strongest_in_bins(np.arange(10.0)[None], np.arange(10.0), (4.1, 4.2), n_bins=5)
    assert (strip == strip[0, 0]).all()
