"""What follows from a position in the latent space."""

import threading

import numpy as np
import pytest
import torch

from spectool.explore.latent_state import LatentState, fingerprint
from spectool.models.vae import decode_latent, encode_sample, traverse


def test_a_seed_is_where_the_encoder_puts_it(state, seeds, model):
    expected = encode_sample(model().network, seeds)["latent"].values[1]
    state.select_seed("two")
    np.testing.assert_allclose(state.latent, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.decoded, decode_latent(model().network, expected), rtol=1e-4, atol=1e-5)


def test_the_residual_is_galaxy_minus_decoded_and_empty_under_the_mask(state, seeds):
    state.select_seed("real")
    assert np.isnan(state.residual[:80]).all()
    expected = seeds["flux"].values[2, 80:] - state.decoded[80:]
    np.testing.assert_allclose(state.residual[80:], expected, rtol=1e-6)


def test_what_is_under_the_mask_does_not_matter(model, seeds):
    spoilt = seeds.copy(deep=True)
    spoilt["flux"].values[2, :80] = np.nan
    states = [LatentState(model(), s) for s in (seeds, spoilt)]
    for state in states:
        state.select_seed("real")
    np.testing.assert_array_equal(states[0].latent, states[1].latent)


def test_a_move_changes_one_dimension_and_reset_undoes_it_exactly(state):
    before = state.latent.copy(), state.decoded.copy()
    state.set_dimension(4, 1.25)
    changed = np.flatnonzero(state.latent != before[0])
    assert changed.tolist() == [4]
    assert not np.array_equal(state.decoded, before[1])
    state.reset()
    np.testing.assert_array_equal(state.latent, before[0])
    np.testing.assert_array_equal(state.decoded, before[1])


def test_a_position_stays_within_the_range_that_the_encoder_has_seen(state):
    state.set_dimension(1, 99.0)
    assert state.latent[1] == state.upper[1]
    state.set_dimension(1, -99.0)
    assert state.latent[1] == state.lower[1]


def test_a_seed_outside_the_range_is_named_and_moved_to_the_edge(model, seeds):
    narrow = model()
    narrow.info.arrays["latent_max"][:] = 1e-4
    narrow.info.arrays["latent_min"][:] = -1e-4
    state = LatentState(narrow, seeds)
    assert state.out_of_range.size == state.latent.size
    assert (np.abs(state.latent) <= 1.01e-4).all()


@pytest.mark.parametrize("latent", [np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))])
def test_a_vector_that_is_no_position_is_refused(state, latent):
    with pytest.raises(ValueError, match="6 finite values"):
        state.set_latent(latent)


def test_an_unknown_seed_lists_those_there_are(state):
    with pytest.raises(KeyError, match="one, two, real"):
        state.select_seed("three")


def test_a_seed_without_data_is_refused(model, seeds):
    seeds["mask"].values[1] = True
    with pytest.raises(ValueError, match="'two' has no usable pixel"):
        LatentState(model(), seeds)


def test_seeds_of_another_grid_are_refused(model, seeds):
    with pytest.raises(ValueError, match="pixels"):
        LatentState(model(), seeds.isel(wavelength=slice(0, 100)))


def test_changes_are_differences_of_the_decoder(state):
    half = 0.5 * state.spread[4]
    above, below = state.latent.copy(), state.latent.copy()
    above[4] += half
    below[4] -= half
    expected = state.decode(above[None])[0] - state.decode(below[None])[0]
    changes = state.changes(step=0.5)
    assert changes.shape == (3, state.wavelength.size)
    np.testing.assert_allclose(changes[0], expected, rtol=1e-4, atol=1e-6)


def test_the_nearest_galaxy_of_a_galaxy_is_itself(state):
    state.set_latent(state.model.atlas["latent"].values[17])
    index, distance = state.nearest(3)
    assert index[0] == 17
    assert distance[0] < 1e-5
    assert (np.diff(distance) >= 0).all()


def test_uninformative_dimensions_do_not_count_as_distance(state):
    before = state.nearest(4)[0]
    state.set_dimension(int(state.others[0]), 2.5)
    np.testing.assert_array_equal(state.nearest(4)[0], before)


def test_parameters_follow_the_position(state):
    state.set_dimension(4, 0.75)
    mean, sigma = state.predict_parameters()["log_mass"]
    assert mean == pytest.approx(10.75)
    assert sigma == pytest.approx(0.1)


def test_a_traversal_stops_before_the_first_negative_flux():
    def decode(latents):
        return np.stack([1 - latents[:, 0], np.ones(len(latents))], axis=1)

    values, spectra = traverse(decode, np.zeros(2), 0, np.linspace(0, 3, 31))
    assert values[-1] == pytest.approx(1.0)
    assert (spectra >= 0).all()


def test_a_traversal_of_a_spectrum_that_is_negative_already_goes_all_the_way():
    values, _ = traverse(lambda z: z[:, :1] - 10, np.zeros(2), 0, np.linspace(0, 3, 31))
    assert values.size == 31


def test_an_animation_visits_both_ends_and_comes_home(state):
    start = state.latent.copy()
    values = list(state.animate(1, n_steps=12))
    assert max(values) == pytest.approx(state.upper[1])
    assert min(values) == pytest.approx(state.lower[1])
    np.testing.assert_array_equal(state.latent, start)
    assert not state.playing


def test_an_animation_can_be_stopped_where_it_is(state):
    steps = state.animate(1, n_steps=12)
    value = [next(steps) for _ in range(3)][-1]
    state.stop()
    assert list(steps) == []
    assert state.latent[1] == np.float32(value)


def test_a_dimension_without_range_cannot_be_animated(state):
    state.upper[2] = state.lower[2]
    with pytest.raises(ValueError, match="no range"):
        next(state.animate(2))


def test_another_model_keeps_the_seed_and_changes_the_rest(state, model):
    state.select_seed("two")
    old = state.model_id, state.decoded.copy()
    state.set_model(model(seed=3, informative=(0, 5)))
    assert state.seed_name == "two"
    assert state.model_id != old[0]
    assert state.informative.tolist() == [0, 5]
    assert not np.array_equal(state.decoded, old[1])


def test_a_fingerprint_knows_weights(model):
    assert fingerprint(model(seed=1).network) == fingerprint(model(seed=1).network)
    assert fingerprint(model(seed=1).network) != fingerprint(model(seed=2).network)


def test_informative_dimensions_may_be_flags(model, seeds):
    flags = np.array([True, False, False, True, False, False])
    state = LatentState(model(informative=flags), seeds)
    assert state.informative.tolist() == [0, 3]
    assert state.others.tolist() == [1, 2, 4, 5]


def test_observers_see_position_and_spectrum_together(state):
    seen = []
    state.observe(
        lambda _: seen.append(np.array_equal(state.decoded, state.decode(state.latent[None])[0])), "latent"
    )
    for value in (0.1, 0.7, -1.2):
        state.set_dimension(3, value)
    assert seen == [True] * 3


def test_moves_from_several_threads_leave_a_consistent_state(state):
    def move(dimension):
        for value in np.linspace(-1, 1, 25):
            state.set_dimension(dimension, value)

    threads = [threading.Thread(target=move, args=[d]) for d in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(state.latent[:4], np.ones(4, dtype=np.float32))
    np.testing.assert_allclose(state.decoded, state.decode(state.latent[None])[0], rtol=1e-6)


def test_slider_work_gives_torch_its_threads_back(state):
    before = torch.get_num_threads()
    state.set_dimension(0, 0.5)
    assert torch.get_num_threads() == before
