"""Rank correlations, percentiles in bins, and how recovered fluxes compare with original ones."""

import numpy as np
import pytest
from scipy.stats import binned_statistic, pearsonr, rankdata

from spectool.measure import stats


def correlated(n):
    x, y, z = np.random.default_rng(0).normal(size=(3, n))
    return x + 0.8 * z, 0.5 * x + y + z, z


def test_bootstrap_and_formula_agree_on_the_error_whatever_the_batches(monkeypatch):
    x, y, z = correlated(3000)
    for control in (None, z):
        drawn = stats.spearman(x, y, control=control, n_bootstrap=400, seed=1)
        formula = stats.spearman(x, y, control=control, n_bootstrap=0)
        assert drawn.rho == formula.rho
        assert drawn.error == pytest.approx(formula.error, rel=0.15)
    monkeypatch.setattr(stats, "_CHUNK", 30_000)
    assert stats.spearman(x, y, control=z, n_bootstrap=400, seed=1) == drawn


def test_the_partial_correlation_is_scipys_of_rank_residuals():
    columns = correlated(500)
    *ranks, control = (rankdata(v) for v in columns)
    left = [r - np.polyval(np.polyfit(control, r, 1), control) for r in ranks]
    found = stats.spearman(*columns[:2], control=columns[2], n_bootstrap=0)
    assert found.rho == pytest.approx(pearsonr(*left)[0], abs=1e-12) and found.sign == 1


def test_missing_values_are_counted_and_few_give_no_correlation():
    x, y, z = correlated(1000)
    x[:100], y[50:150], z[150:160] = np.nan, np.inf, np.nan
    found = stats.spearman(x, y, control=z, n_bootstrap=20)
    assert (found.n, found.n_left_out) == (840, 160)
    few = stats.spearman(x[95:105], y[95:105])
    assert np.isnan(few.rho) and few.sign == 0 and few.n_left_out == 10


def test_percentiles_agree_with_scipys_bins_and_a_bin_is_filled_with_more_than_its_share(rng):
    x = rng.normal(size=700)
    y = x + rng.normal(size=700)
    bins = stats.running_percentiles(np.append(x, [np.nan, 9.0]), np.append(y, [0.0, np.nan]))
    assert bins["count"].sum() == 700 and bins["bin"][-2:].tolist() == [-1, -1]
    for name, percent in (("low", 16), ("middle", 50), ("high", 84)):
        expected = binned_statistic(x, y, lambda v, p=percent: np.percentile(v, p), bins=10).statistic
        np.testing.assert_allclose(bins[name], expected)
    # 110 points in ten bins: a bin needs more than 10.
    counts = [60, 11, 10, 9, 4, 4, 4, 4, 3, 1]
    x = np.concatenate([np.full(n, k + 0.5) for k, n in enumerate(counts)])
    x[0], x[-1] = 0.0, 10.0
    bins = stats.running_percentiles(x, x)
    assert bins["count"].tolist() == counts
    assert bins["filled"].tolist() == [True, True] + [False] * 8


def test_the_scatter_that_was_put_in_comes_out(rng):
    x = rng.uniform(0, 3, 40_000)
    found = stats.summarize(x, x + rng.normal(0.1, 0.3, x.size), stats.running_percentiles(x, x))
    assert found["sigma"] == pytest.approx(0.3, abs=0.005)
    assert found["sigma_fill"] == pytest.approx(0.3, abs=0.01)
    assert found["median"] == pytest.approx(0.1, abs=0.01)
    assert found["n_recovered"] == found["n_original"] == x.size
    x = np.concatenate([rng.uniform(0, 0.8, 1000), rng.uniform(9, 10, 20)])
    y = x + np.concatenate([rng.normal(0, 0.1, 1000), rng.normal(0, 3.0, 20)])
    found = stats.summarize(x, y, stats.running_percentiles(x, y))
    assert found["sigma_fill"] == pytest.approx(np.std((y - x)[:1000]))
    assert found["sigma"] == pytest.approx(np.std(y - x))
    nothing = np.full(5, np.nan)
    bins = stats.running_percentiles(nothing, nothing)
    found = stats.summarize(nothing, nothing, bins)
    assert found["n_recovered"] == 0 and not bins["filled"].any()
    assert np.isnan([found["sigma"], found["sigma_fill"], found["median"]]).all()
