"""Published relations give their numbers; medians, scatter and trends at fixed mass find what was put in."""

import numpy as np
import pytest
from scipy.stats.mstats import mjci

from spectool.measure import mzr
from spectool.measure.mzr import RELATIONS, STELLAR_RELATIONS
from tests.refusals import refused

KEWLEY = RELATIONS["Kewley & Ellison 2008"]


def galaxies(n=4000, *, trend=0.0, seed=0, scatter=0.08):
    """Masses, metallicities and star-formation rates; `trend` is dex of metallicity per dex of SFR at fixed mass."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(8.7, 11.0, n)
    excess = rng.normal(0, 0.3, n)
    sfr = 0.8 * (mass - 10) - 0.25 * (mass - 10) ** 2 + excess  # curved, as the main sequence is
    return mass, KEWLEY(mass) + trend * excess + rng.normal(0, scatter, n), sfr


# By hand from the papers' formulas; Andrews & Martini at 10^8 is the example in the documentation of another code,
# AstroScalingRelations.jl. Of stars: means by hand over the five bins of star-formation rate of Zahid et al. (2017,
# Table 4), with Zsun = 0.02; medians of Gallazzi et al. (2005, Table 2).
VALUES = {
    "Tremonti et al. 2004": {9.0: 8.62994, 10.0: 8.952},
    "Kewley & Ellison 2008": {9.0: 8.3959613, 10.0: 8.685100},
    "Andrews & Martini 2013": {8.0: 8.119245564173369, 8.901: 8.798 - np.log10(2)},
    "Curti et al. 2020": {10.02: 8.793 - 0.28 / 1.2 * np.log10(2), 11.85: 8.7923567},
    "Scholte et al. 2024": {10.49: 8.854 - 0.2439 / 1.2 * np.log10(2)},
    "Zahid et al. 2017": {8.55: -0.652316 - 0.148742, 10.05: -0.039870 - 0.148742},
    "Gallazzi et al. 2005": {8.91: -0.60, 10.11: -0.23, 11.91: 0.15},
}


@pytest.mark.parametrize("name", [*RELATIONS, *STELLAR_RELATIONS])
def test_published_values_within_the_relations_masses(name):
    relation = (RELATIONS | STELLAR_RELATIONS)[name]
    for mass, value in VALUES[name].items():
        assert relation(mass) == pytest.approx(value, abs=2e-6 if name in RELATIONS else 6e-4)
    low, high = relation.mass_range
    inside = relation(np.linspace(low, high, 50))
    assert np.isfinite(inside).all() and relation(10.4) > relation(9.2)
    assert name in STELLAR_RELATIONS or (inside[-1] > 8 and inside.max() < 9.3)
    assert np.isnan(relation([low - 0.01, high + 0.01, np.nan])).all()
    assert relation.name == name and relation.reference and relation.scale


def test_running_median_of_a_known_distribution():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(9, 11, 40_000), rng.normal(8.6, 0.1, 40_000)
    out = mzr.running_median(x, y, bins=np.linspace(9, 11, 5))
    for name, expected in {"median": 8.6, "q16": 8.5006, "q84": 8.6994}.items():
        np.testing.assert_allclose(out[name], expected, atol=0.005 if name == "median" else 0.006)
    # a median of n Gaussian values scatters by sqrt(pi / 2 n) sigma
    np.testing.assert_allclose(out["median_error"], 0.1 * np.sqrt(np.pi / 2 / out["count"]), rtol=0.15)
    assert out["count"].sum() == 40_000


def error_of_median(y):
    return mzr.running_median(np.ones(y.size), y, bins=[0.5, 1.5])["median_error"].item()


def test_the_error_of_the_median_is_the_bootstraps_and_scipys():
    rng = np.random.default_rng(8)
    y = rng.gamma(2.0, size=201)
    drawn = np.median(y[rng.integers(y.size, size=(20_000, y.size))], axis=1).std()
    assert error_of_median(y) == pytest.approx(drawn, rel=0.03)
    for n in (11, 38, 20_001):
        y = np.random.default_rng(n).gamma(2.0, size=n)
        assert error_of_median(y) == pytest.approx(mjci(y, prob=[0.5])[0], rel=1e-6)


def test_few_galaxies_give_no_median_and_bad_ones_are_counted():
    x = np.r_[np.full(9, 9.1), np.full(12, 9.3), np.nan, 9.3, 20.0]
    y = np.r_[np.arange(21.0), 1.0, np.inf, 1.0]
    out = mzr.running_median(x, y, bins=[9.0, 9.2, 9.4], min_count=10)
    assert out["count"].values.tolist() == [9, 12]
    assert np.isnan(out["median"][0]) and out["median"][1] == np.median(np.arange(9.0, 21.0))
    assert out.attrs["n_left_out"] == 3
    refused("no finite value", mzr.running_median, [np.nan], [1.0])
    last_edge = mzr.running_median(np.repeat([1.0, 2.0], 10), np.arange(20.0), bins=[0.0, 1.0, 2.0])
    assert last_edge["count"].values.tolist() == [0, 20]


def test_scatter_and_offset_that_were_put_in():
    mass, oxygen, _ = galaxies(20_000, scatter=0.09)
    found = mzr.scatter_about(KEWLEY, mass, oxygen + 0.2)
    assert found["n"] == 20_000 and found["offset"] == pytest.approx(0.2, abs=0.005)
    assert found["std"] == pytest.approx(0.09, abs=3 * found["std_error"])
    assert found["std_error"] == pytest.approx(0.09 / np.sqrt(2 * 20_000), rel=0.1)
    # Galaxies beyond the relation are left out and counted.
    found = mzr.scatter_about(KEWLEY, [7.0, 9.0, 9.5, np.nan], [8.0, 8.5, 8.6, 8.7])
    assert (found["n"], found["n_left_out"]) == (2, 2)
    nothing = mzr.scatter_about(KEWLEY, [7.0], [8.0])
    assert nothing["n"] == 0 and np.isnan(nothing["std"])


@pytest.mark.parametrize("trend", [-0.15, 0.15])
def test_the_trend_at_fixed_mass_has_the_sign_that_was_put_in(trend):
    found = mzr.spearman_at_fixed_mass(*galaxies(2000, trend=trend), n_bootstrap=100)
    assert found.sign == np.sign(trend)
    # Gaussian: rho_s = 6/pi asin(r/2), r the correlation of the residuals
    r = trend * 0.3 / np.hypot(trend * 0.3, 0.08)
    assert found.rho == pytest.approx(6 / np.pi * np.arcsin(r / 2), abs=0.08)


def test_without_a_trend_none_is_found():
    """Though metallicity and star formation both rise with mass: 16 samples' correlations scatter as their errors."""
    found = [mzr.spearman_at_fixed_mass(*galaxies(800, seed=s), n_bootstrap=60) for s in range(16)]
    pulls = np.array([f.rho / f.error for f in found])
    assert abs(pulls.mean()) < 0.75 and 0.5 < pulls.std() < 1.6
    plain = mzr.spearman(*galaxies(800)[1:], n_bootstrap=0)
    assert plain.rho > 0.5, "the trap that fixing the mass avoids"


def test_a_measurement_that_knows_mass_alone_has_uncorrelated_residuals():
    mass, truth, _ = galaxies(3000)
    rng = np.random.default_rng(6)
    seen = mzr.spearman_at_fixed_mass(mass, truth, truth + rng.normal(0, 0.05, 3000), n_bootstrap=50)
    prior = KEWLEY(mass) + rng.normal(0, 0.02, 3000)
    guessed = mzr.spearman_at_fixed_mass(mass, truth, prior, n_bootstrap=50)
    assert seen.rho > 0.75 and abs(guessed.rho) < 3 * guessed.error


def test_residuals_are_those_of_the_smooth_curve():
    mass, oxygen, _ = galaxies(8000)
    left = mzr.residuals(mass, oxygen)
    assert np.nanstd(left - oxygen + KEWLEY(mass)) < 0.02
    lonely = mzr.residuals(np.r_[mass, 12.5], np.r_[oxygen, 9.0])
    assert np.isnan(lonely[-1]) and np.isfinite(lonely[:-1]).all()
    assert np.isnan(mzr.residuals([np.nan, 9.0], [1.0, np.nan])).all()


def draw(n, slope):
    rng = np.random.default_rng(1)
    mass = rng.normal(10, 0.5, n)
    off = rng.normal(0, 0.3, n)
    return mass, 0.7 * mass - 7 + off, 0.4 * (mass - 10) + slope * off + rng.normal(0, 0.1, n)


@pytest.mark.parametrize("n", [150, 157, 1000])
def test_bins_hold_the_same_number_to_within_one_and_are_sorted(n):
    values = np.random.default_rng(0).normal(size=n)
    bins = mzr.equal_bins(values, 15)
    count = np.bincount(bins, minlength=15)
    assert count.max() - count.min() <= 1 and count.sum() == n
    assert all(values[bins == i].max() <= values[bins == i + 1].min() for i in range(14))
    assert np.bincount(mzr.equal_bins(np.zeros(20), 4)).tolist() == [5, 5, 5, 5]  # ties, too


def test_medians_are_those_of_a_plain_loop():
    mass, sfr, metal = draw(4000, -0.3)
    found = mzr.bin_mass_and_sfr(mass, sfr, metal)
    assert found.sizes == {"mass_bin": 15, "sfr_bin": 10}
    assert found["count"].sum() == 4000 and np.ptp(found["count"].values) <= 1
    order = np.argsort(mass)
    chunk = order[: int((mzr.equal_bins(mass, 15) == 0).sum())]
    inner = chunk[np.argsort(sfr[chunk])][: int(found["count"][0, 0])]
    line = np.polynomial.Polynomial.fit(mass[chunk], metal[chunk], 1)
    for name, values in {"log_z": metal, "log_sfr": sfr, "excess": metal - line(mass)}.items():
        assert float(found[name][0, 0]) == pytest.approx(np.median(values[inner]))
    partial = mzr.spearman(sfr[chunk], metal[chunk], control=mass[chunk], n_bootstrap=0)
    assert float(found["rho"][0]) == pytest.approx(partial.rho)


def test_an_injected_trend_is_found_and_its_absence_too():
    found = mzr.trend_at_fixed_mass(mzr.bin_mass_and_sfr(*draw(30_000, -0.3)))
    # the lowest and highest tenth of a normal of width 0.3 lie 2 x 1.645 x 0.3 apart in the median
    assert found["change"] == pytest.approx(-0.3 * 2 * 1.645 * 0.3, abs=4 * found["change_error"] + 0.02)
    assert found["n_negative"] == found["n"] == 15 and found["rho"] < -0.4
    # The mass-metallicity relation alone, in bins that have a width, is no trend with SFR.
    none = mzr.trend_at_fixed_mass(mzr.bin_mass_and_sfr(*draw(30_000, 0.0)))
    assert abs(none["rho"]) < 4 * none["rho_error"] and abs(none["change"]) < 4 * none["change_error"]
    assert none["n_negative"] + none["n_positive"] <= 1


def test_missing_values_are_counted_and_too_few_refused():
    mass, sfr, metal = draw(2000, 0.0)
    metal[:7] = np.nan
    sfr[7] = -np.inf
    assert mzr.bin_mass_and_sfr(mass, sfr, metal).attrs["n_left_out"] == 8
    refused("too few for 15 x 10", mzr.bin_mass_and_sfr, mass[:1000], sfr[:1000], metal[:1000])
    refused("cannot fill", mzr.equal_bins, mass[:3], 4)
