"""Held-out histories: what they are, that training galaxies are none of them, and how they are labelled."""

from dataclasses import replace

import numpy as np
import pytest

from spectool.synth import sfh
from spectool.synth.histories import (
    KINDS,
    draw_histories,
    durations,
    equal_light_intervals,
    interval_shares,
    label_histories,
)
from spectool.synth.synthesis import describe


@pytest.fixture(scope="module")
def histories(grid):
    return draw_histories(500, seed=20190, grid=grid)


def formed_since(histories, grid):
    """Share of the mass older than each age-bin edge, (galaxy, a + 1)."""
    mass = histories["mass_formed"].values
    return 1 - np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)


def test_masses_and_metallicities_are_in_range(histories):
    np.testing.assert_allclose(histories["mass_formed"].sum("age"), 1)
    assert (histories["mass_formed"] >= 0).all()
    log_z = histories["log_z_star"].values
    assert log_z.min() >= -2 - 1e-9 and log_z.max() <= 0.4 + 1e-9
    assert float(histories["onset"].max()) <= 14 and float(histories["onset"].max()) > 13


def test_every_kind_is_there_in_equal_parts(histories):
    names, counts = np.unique(histories["kind"], return_counts=True)
    assert set(names) == set(KINDS) and set(counts) == {100}


def test_no_training_galaxy_has_such_a_history(histories, grid):
    """Neither of the same onset nor of any of the recipe's durations."""
    ours = formed_since(histories, grid)
    onset = histories["onset"].values
    same = 1 - np.concatenate(
        [[[0]] * 500, np.cumsum(sfh.constant(grid.age_edges, onset * 1e9), axis=1)], axis=1
    )
    assert np.abs(ours - same).max(1).min() > 0.02
    recipe = np.cumsum(sfh.constant(grid.age_edges, durations() * 1e9), axis=1)
    distance = np.abs(1 - ours[:, None, 1:] - recipe).max(2)
    assert distance.min() > 0.02


def test_half_the_metallicities_rise_with_time(histories):
    log_z, rise = histories["log_z_star"].values, histories["rise"].values
    flat = rise == 0
    assert 0.4 < flat.mean() < 0.6
    np.testing.assert_array_equal(log_z[flat].min(1), log_z[flat].max(1))
    assert (np.diff(log_z, axis=1) <= 1e-12).all(), "bins are from young to old: metallicity falls along them"
    assert rise.max() > 1


def test_kinds_are_what_they_are_called(histories, grid):
    kind = histories["kind"].values
    formed = formed_since(histories, grid)
    onset = histories["onset"].values[:, None] * 1e9
    young = (grid.age_edges < 0.02 * onset) & (grid.age_edges > 0)
    last = np.where(young, 1 - formed, 0).max(1)
    assert (last[kind == "truncated"] == 0).all() and (last[kind == "rising"] > 0.02).all()
    half = np.array([np.interp(0.5, row[::-1], grid.age_edges[::-1]) for row in formed]) / onset[:, 0]
    assert (half[kind == "rising"] < 0.31).all()
    assert (half[kind == "two populations"] > 0.05).all()


def test_the_same_seed_gives_the_same_histories(histories, grid):
    assert draw_histories(500, seed=20190, grid=grid).identical(histories)
    assert not draw_histories(500, seed=20191, grid=grid).equals(histories)


def test_labels_are_those_of_describe(histories, grid):
    ours, theirs = label_histories(histories, grid), describe(histories, grid)
    np.testing.assert_allclose(ours["log_z_lw"][1], theirs["log_z_lw"], atol=1e-6)
    np.testing.assert_allclose(ours["age_lw"][1], theirs["age_lw"], rtol=1e-6)


def test_labels_are_on_one_solar_scale_for_every_grid(histories, grid):
    other = replace(grid, z_sun=0.0142)
    np.testing.assert_array_equal(
        label_histories(histories, other)["log_z_lw"][1], label_histories(histories, grid)["log_z_lw"][1]
    )


def test_intervals_of_constant_star_formation_are_the_recipe_s(grid):
    mass = sfh.constant(grid.age_edges, durations() * 1e9)
    shares = interval_shares(mass, grid)
    formed = np.cumsum((shares * mass[:, None]).sum(2), axis=1) * durations()[:, None]
    np.testing.assert_allclose(formed, equal_light_intervals(grid)[:, 1:], rtol=1e-9)


def test_intervals_share_out_all_light(histories, grid):
    mass = histories["mass_formed"].values
    total = interval_shares(mass, grid).sum(1)
    np.testing.assert_allclose(total[mass > 0], 1, rtol=1e-6)
    labels = label_histories(histories, grid)
    np.testing.assert_allclose(labels["light_share"][1].sum(1), 1)
    assert (np.diff(labels["age_interval"][1], axis=1) > -1e-9).all()
    mean = (labels["light_share"][1] * labels["log_z_interval"][1]).sum(1)
    np.testing.assert_allclose(mean, labels["log_z_lw"][1])


def test_metallicities_beyond_the_grid_are_the_grid_s_last(histories, grid):
    narrow = replace(
        grid,
        metallicity=grid.metallicity[2:5],
        flux=grid.flux[2:5],
        surviving_mass=grid.surviving_mass[2:5],
        ionizing_rate=grid.ionizing_rate[2:5],
    )
    log_z = label_histories(histories, narrow)["log_z_lw"][1]
    assert log_z.min() >= np.log10(0.004 / 0.02) - 1e-9 and log_z.max() <= 1e-9


def test_what_cannot_be_is_refused(grid):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        draw_histories(0, seed=1, grid=grid)
    young = replace(
        grid,
        age=grid.age[:60],
        flux=grid.flux[:, :60],
        surviving_mass=grid.surviving_mass[:, :60],
        ionizing_rate=grid.ionizing_rate[:, :60],
    )
    with pytest.raises(ValueError, match=r"ends at .* Gyr; histories last up to 14 Gyr"):
        draw_histories(3, seed=1, grid=young)
