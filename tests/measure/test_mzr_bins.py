import numpy as np
import pytest
from scipy.stats import spearmanr

from spectool.measure.mzr import bin_mass_and_sfr, equal_bins, trend_at_fixed_mass


def draw(n, slope, seed=1):
    rng = np.random.default_rng(seed)
    mass = rng.normal(10, 0.5, n)
    off = rng.normal(0, 0.3, n)
    return mass, 0.7 * mass - 7 + off, 0.4 * (mass - 10) + slope * off + rng.normal(0, 0.1, n)


@pytest.mark.parametrize("n", [150, 157, 1000])
def test_bins_hold_the_same_number_to_within_one_and_are_sorted(n):
    values = np.random.default_rng(0).normal(size=n)
    bins = equal_bins(values, 15)
    count = np.bincount(bins, minlength=15)
    assert count.max() - count.min() <= 1 and count.sum() == n
    assert all(values[bins == i].max() <= values[bins == i + 1].min() for i in range(14))


def test_ties_are_still_shared_out():
    assert np.bincount(equal_bins(np.zeros(20), 4)).tolist() == [5, 5, 5, 5]


def test_medians_are_those_of_a_plain_loop():
    mass, sfr, metal = draw(4000, -0.3)
    found = bin_mass_and_sfr(mass, sfr, metal)
    assert found.sizes == {"mass_bin": 15, "sfr_bin": 10}
    assert found["count"].sum() == 4000 and np.ptp(found["count"].values) <= 1
    order = np.argsort(mass)
    chunk = order[: int((equal_bins(mass, 15) == 0).sum())]
    inner = chunk[np.argsort(sfr[chunk])][: int(found["count"][0, 0])]
    assert float(found["log_z"][0, 0]) == pytest.approx(np.median(metal[inner]))
    assert float(found["log_sfr"][0, 0]) == pytest.approx(np.median(sfr[inner]))
    line = np.polynomial.Polynomial.fit(mass[chunk], metal[chunk], 1)
    assert float(found["excess"][0, 0]) == pytest.approx(np.median((metal - line(mass))[inner]))


def test_the_trend_of_a_bin_without_width_is_the_plain_rank_correlation():
    _, sfr, metal = draw(3000, -0.3)
    flat = np.repeat(np.arange(15.0), 200) + 1e-9 * np.arange(3000)
    found = bin_mass_and_sfr(flat, sfr, metal)
    for i in (0, 14):
        rows = slice(200 * i, 200 * (i + 1))
        assert float(found["rho"][i]) == pytest.approx(spearmanr(sfr[rows], metal[rows]).statistic, abs=0.02)


def test_an_injected_trend_is_found_and_its_absence_too():
    found = trend_at_fixed_mass(bin_mass_and_sfr(*draw(30_000, -0.3)))
    # the lowest and highest tenth of a normal of width 0.3 lie 2 x 1.645 x 0.3 apart in the median
    assert found["change"] == pytest.approx(-0.3 * 2 * 1.645 * 0.3, abs=4 * found["change_error"] + 0.02)
    assert found["n_negative"] == found["n"] == 15 and found["rho"] < -0.4
    # The mass-metallicity relation alone, in bins that have a width, is no trend with SFR.
    none = trend_at_fixed_mass(bin_mass_and_sfr(*draw(30_000, 0.0)))
    assert abs(none["rho"]) < 4 * none["rho_error"] and abs(none["change"]) < 4 * none["change_error"]
    assert none["n_negative"] + none["n_positive"] <= 1


def test_missing_values_are_counted_and_too_few_refused():
    mass, sfr, metal = draw(2000, 0.0)
    metal[:7] = np.nan
    sfr[7] = -np.inf
    assert bin_mass_and_sfr(mass, sfr, metal).attrs["n_left_out"] == 8
    with pytest.raises(ValueError, match="too few for 15 x 10"):
        bin_mass_and_sfr(mass[:1000], sfr[:1000], metal[:1000])
    with pytest.raises(ValueError, match="cannot fill"):
        equal_bins(mass[:3], 4)
