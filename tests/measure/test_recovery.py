"""How recovered fluxes compare with original ones."""

import re

import numpy as np
import pytest
from scipy.stats import binned_statistic

from spectool.measure import stats


def test_percentiles_agree_with_scipys_bins(rng):
    x = rng.normal(size=700)
    y = x + rng.normal(size=700)
    bins = stats.running_percentiles(x, y)
    assert bins["count"].sum() == 700
    for name, percent in (("low", 16), ("middle", 50), ("high", 84)):
        expected = binned_statistic(x, y, lambda v, p=percent: np.percentile(v, p), bins=10).statistic
        np.testing.assert_allclose(bins[name], expected)
    np.testing.assert_array_equal(bins["count"], np.histogram(x, 10)[0])


def test_a_bin_is_filled_with_more_than_its_share_of_eleven():
    # 110 points in ten bins: a bin needs more than 10.
    counts = [60, 11, 10, 9, 4, 4, 4, 4, 3, 1]
    x = np.concatenate([np.full(n, k + 0.5) for k, n in enumerate(counts)])
    x[0], x[-1] = 0.0, 10.0
    bins = stats.running_percentiles(x, x)
    assert bins["count"].tolist() == counts
    assert bins["filled"].tolist() == [True, True] + [False] * 8


def test_pairs_with_a_gap_do_not_count(rng):
    x, y = rng.normal(size=(2, 200))
    gaps_x, gaps_y = np.append(x, [np.nan, 9.0]), np.append(y, [0.0, np.nan])
    with_gaps, without = stats.running_percentiles(gaps_x, gaps_y), stats.running_percentiles(x, y)
    np.testing.assert_array_equal(with_gaps["middle"], without["middle"])
    assert with_gaps["bin"][-2:].tolist() == [-1, -1]


def test_the_scatter_that_was_put_in_comes_out(rng):
    x = rng.uniform(0, 3, 40_000)
    found = stats.summarize(x, x + rng.normal(0.1, 0.3, x.size), stats.running_percentiles(x, x))
    assert found["sigma"] == pytest.approx(0.3, abs=0.005)
    assert found["sigma_fill"] == pytest.approx(0.3, abs=0.01)
    assert found["median"] == pytest.approx(0.1, abs=0.01)
    assert found["n_recovered"] == found["n_original"] == x.size


def test_the_scatter_of_filled_bins_leaves_the_others_out(rng):
    x = np.concatenate([rng.uniform(0, 0.8, 1000), rng.uniform(9, 10, 20)])
    y = x + np.concatenate([rng.normal(0, 0.1, 1000), rng.normal(0, 3.0, 20)])
    found = stats.summarize(x, y, stats.running_percentiles(x, y))
    assert found["sigma_fill"] == pytest.approx(np.std((y - x)[:1000]))
    assert found["sigma"] == pytest.approx(np.std(y - x))


def test_no_pair_is_no_number_and_no_error():
    nothing = np.full(5, np.nan)
    bins = stats.running_percentiles(nothing, nothing)
    found = stats.summarize(nothing, nothing, bins)
    assert found["n_recovered"] == 0
    assert np.isnan([found["sigma"], found["sigma_fill"], found["median"]]).all()
    assert not bins["filled"].any()


def test_the_papers_scatter_is_that_of_its_table(shared):
    text = (shared / "papers/scourfield2023.txt").read_text(encoding="utf-8")
    table = text[text.index("2 dimensions") : text.index("Table 6. The standard deviations")]
    size, found = None, {}
    for row in table.splitlines():
        head = re.match(r"(\d+) dimensions", row)
        size = int(head[1]) if head else size
        values = re.findall(r"\d\.\d\d", row)
        if len(values) == 12:
            found[f"{row.split()[0]} {size}"] = [float(value) for value in values]
    assert set(found) == {f"{kind} {size}" for kind in ("PCA", "AE", "VAE") for size in (2, 4, 6, 10)}
    for source, values in found.items():
        ours = [v for line in stats.PAPER_LINES for v in stats.paper_scatter(source, line)]
        assert ours == values, source


def test_the_paper_says_nothing_of_other_lines_and_sources():
    assert stats.paper_scatter("VAE 4", "Hβ") is None
    assert stats.paper_scatter("noise-added", "Hα") is None
