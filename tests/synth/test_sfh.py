"""Star-formation histories: mass is conserved and the bins hold the analytic integrals."""

import numpy as np
import pytest
from scipy.integrate import quad

from spectool.synth import sfh


@pytest.fixture(scope="module")
def edges(grid):
    return grid.age_edges


def test_edges_and_mass_conserved(edges):
    assert edges[0] == 0 and edges[-1] > 13.8e9
    for age in (1e7, 1e8):
        assert np.abs(edges / age - 1).min() < 1e-9
    for weights in (
        sfh.constant(edges, [1e10, 3e8], [0.0, 1e7]),
        sfh.delayed_tau(edges, [1e10, 3e8], [1e9, 5e7]),
        sfh.delayed_tau(edges, [1e10, 3e8], [1e9, 5e7], end=[1e9, 2e8]),
    ):
        assert np.allclose(weights.sum(1), 1) and (weights >= 0).all()


def test_delayed_tau_agrees_with_quadrature(edges):
    start, tau = 8e9, 2e9
    weights = sfh.delayed_tau(edges, start, tau)[0]
    total = quad(lambda t: t * np.exp(-t / tau), 0, start)[0]
    for k in (20, 50, 70):
        low, high = start - edges[k + 1], start - edges[k]
        assert np.isclose(weights[k], quad(lambda t: t * np.exp(-t / tau), low, high)[0] / total, rtol=1e-6)


def test_ends_rates_and_refusals(edges):
    weights = sfh.delayed_tau(edges, 5e9, 1e9, end=1e9)[0]
    assert weights[edges[:-1] > 5e9].sum() == 0 and weights[edges[1:] < 1e9].sum() == 0
    assert np.allclose(sfh.star_formation_rate(1e10 * sfh.constant(edges, 1e10), edges), 1.0)
    with pytest.raises(ValueError, match="must begin before it ends"):
        sfh.constant(edges, 1e8, 1e9)
    with pytest.raises(ValueError, match="tau > 0"):
        sfh.delayed_tau(edges, 1e9, 0.0)
