"""Histories conserve mass and hold the analytic integrals; held-out ones are no training galaxy's."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from spectool.synth import histories as recipes
from spectool.synth import sfh
from spectool.synth.histories import KINDS, draw_histories, durations, interval_shares, label_histories
from spectool.synth.synthesis import describe
from tests.refusals import refused


@pytest.fixture(scope="module")
def edges(grid):
    return grid.age_edges


def test_mass_is_conserved_and_histories_begin_and_end(edges):
    assert edges[0] == 0 and edges[-1] > 13.8e9
    for age in (1e7, 1e8):
        assert np.abs(edges / age - 1).min() < 1e-9
    for weights in (
        sfh.constant(edges, [1e10, 3e8], [0.0, 1e7]),
        sfh.delayed_tau(edges, [1e10, 3e8], [1e9, 5e7]),
        sfh.delayed_tau(edges, [1e10, 3e8], [1e9, 5e7], end=[1e9, 2e8]),
    ):
        assert np.allclose(weights.sum(1), 1) and (weights >= 0).all()
    weights = sfh.delayed_tau(edges, 5e9, 1e9, end=1e9)[0]
    assert weights[edges[:-1] > 5e9].sum() == 0 and weights[edges[1:] < 1e9].sum() == 0
    assert np.allclose(sfh.star_formation_rate(1e10 * sfh.constant(edges, 1e10), edges), 1.0)
    refused("must begin before it ends", sfh.constant, edges, 1e8, 1e9)
    refused("tau > 0", sfh.delayed_tau, edges, 1e9, 0.0)


def test_delayed_tau_agrees_with_quadrature(edges):
    start, tau = 8e9, 2e9
    weights = sfh.delayed_tau(edges, start, tau)[0]
    total = quad(lambda t: t * np.exp(-t / tau), 0, start)[0]
    for k in (20, 50, 70):
        low, high = start - edges[k + 1], start - edges[k]
        assert np.isclose(weights[k], quad(lambda t: t * np.exp(-t / tau), low, high)[0] / total, rtol=1e-6)


@pytest.fixture(scope="module")
def histories(grid):
    return draw_histories(500, seed=20190, grid=grid)


def formed_since(histories, grid):
    """Share of the mass older than each age-bin edge, (galaxy, a + 1)."""
    mass = histories["mass_formed"].values
    return 1 - np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)


def test_no_training_galaxy_has_such_a_history(histories, grid):
    """Neither of the same onset nor of any of the recipe's durations."""
    ours = formed_since(histories, grid)
    onset = histories["onset"].values
    same = 1 - np.cumsum(sfh.constant(grid.age_edges, onset * 1e9), axis=1)
    assert np.abs(ours[:, 1:] - same).max(1).min() > 0.02
    recipe = np.cumsum(sfh.constant(grid.age_edges, durations() * 1e9), axis=1)
    distance = np.abs(1 - ours[:, None, 1:] - recipe).max(2)
    assert distance.min() > 0.02


def test_kinds_are_what_they_are_called_in_range_and_in_equal_parts(histories, grid):
    np.testing.assert_allclose(histories["mass_formed"].sum("age"), 1)
    assert (histories["mass_formed"] >= 0).all()
    log_z, rise, kind = (histories[name].values for name in ("log_z_star", "rise", "kind"))
    assert log_z.min() >= -2 - 1e-9 and log_z.max() <= 0.4 + 1e-9
    assert 13 < float(histories["onset"].max()) <= 14
    names, counts = np.unique(kind, return_counts=True)
    assert set(names) == set(KINDS) and set(counts) == {100}
    flat = rise == 0
    assert 0.4 < flat.mean() < 0.6 and rise.max() > 1
    np.testing.assert_array_equal(log_z[flat].min(1), log_z[flat].max(1))
    assert (np.diff(log_z, axis=1) <= 1e-12).all(), "bins are from young to old: metallicity falls along them"
    formed, onset = formed_since(histories, grid), histories["onset"].values[:, None] * 1e9
    young = (grid.age_edges < 0.02 * onset) & (grid.age_edges > 0)
    last = np.where(young, 1 - formed, 0).max(1)
    assert (last[kind == "truncated"] == 0).all() and (last[kind == "rising"] > 0.02).all()
    half = np.array([np.interp(0.5, row[::-1], grid.age_edges[::-1]) for row in formed]) / onset[:, 0]
    assert (half[kind == "rising"] < 0.31).all() and (half[kind == "two populations"] > 0.05).all()
    assert draw_histories(500, seed=20190, grid=grid).identical(histories)
    assert not draw_histories(500, seed=20191, grid=grid).equals(histories)


def test_labels_are_those_of_describe_on_one_solar_scale_for_every_grid(histories, grid):
    ours, theirs = label_histories(histories, grid), describe(histories, grid)
    np.testing.assert_allclose(ours["log_z_lw"][1], theirs["log_z_lw"], atol=1e-6)
    np.testing.assert_allclose(ours["age_lw"][1], theirs["age_lw"], rtol=1e-6)
    other = label_histories(histories, replace(grid, z_sun=0.0142))
    np.testing.assert_array_equal(other["log_z_lw"][1], ours["log_z_lw"][1])
    # beyond the grid's metallicities, its last
    names = ("metallicity", "flux", "surviving_mass", "ionizing_rate")
    arrays = {name: getattr(grid, name)[2:5] for name in names}
    log_z = label_histories(histories, replace(grid, **arrays))["log_z_lw"][1]
    assert log_z.min() >= np.log10(0.004 / 0.02) - 1e-9 and log_z.max() <= 1e-9


def test_intervals_share_out_all_light_and_are_the_recipe_s_for_constant_formation(histories, grid):
    mass = sfh.constant(grid.age_edges, durations() * 1e9)
    formed = (interval_shares(mass, grid) * mass[:, None]).sum(2)
    formed = np.cumsum(formed, axis=1) * durations()[:, None]
    np.testing.assert_allclose(formed, recipes.equal_light_intervals(grid)[:, 1:], rtol=1e-9)
    mass = histories["mass_formed"].values
    np.testing.assert_allclose(interval_shares(mass, grid).sum(1)[mass > 0], 1, rtol=1e-6)
    labels = label_histories(histories, grid)
    np.testing.assert_allclose(labels["light_share"][1].sum(1), 1)
    assert (np.diff(labels["age_interval"][1], axis=1) > -1e-9).all()
    mean = (labels["light_share"][1] * labels["log_z_interval"][1]).sum(1)
    np.testing.assert_allclose(mean, labels["log_z_lw"][1])


def test_what_cannot_be_is_refused(grid):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        draw_histories(0, seed=1, grid=grid)
    arrays = {name: getattr(grid, name)[:, :60] for name in ("flux", "surviving_mass", "ionizing_rate")}
    with pytest.raises(ValueError, match=r"ends at .* Gyr; histories last up to 14 Gyr"):
        draw_histories(3, seed=1, grid=replace(grid, age=grid.age[:60], **arrays))
