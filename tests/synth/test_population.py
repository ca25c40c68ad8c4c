"""The population recovers the relations it was made with, and the null population none."""

import numpy as np
import pytest
from astropy import units
from astropy.cosmology import Planck18
from scipy.stats import ks_2samp, spearmanr

from spectool.synth import relations, sfh
from spectool.synth.population import age_of_universe, draw_population
from tests.refusals import refused

AGE = np.geomspace(1e6, 1.4e10, 80)
COLUMNS = ["redshift", "log_mass", "log_z_star", "log_z_gas", "log_u", "dust1", "dust2", "dust_index"]
COLUMNS += ["velocity_dispersion", "qpah", "umin", "gamma"]


@pytest.fixture(scope="module")
def real():
    return draw_population(20_000, grid_age=AGE, seed=1)


@pytest.fixture(scope="module")
def null():
    return draw_population(20_000, grid_age=AGE, seed=2, independent=True)


@pytest.fixture(params=["real", "null"])
def either(request):
    return request.getfixturevalue(request.param)


def specific_sfr(galaxies):
    return galaxies.log_sfr.values - galaxies.log_mass.values


def test_same_seed_gives_the_same_galaxies_and_wrong_arguments_are_told():
    def draw(seed, **options):
        return draw_population(50, grid_age=AGE, seed=seed, **options)

    first, null, rng = draw(3), draw(3, independent=True), np.random.default_rng(3)
    assert draw(3).identical(first) and draw(3, independent=True).identical(null)
    assert not any(other.equals(first) for other in (draw(4), null))
    assert draw(rng).identical(first) and not draw(rng).equals(first)
    refused("at least 1", draw_population, 0, grid_age=AGE, seed=0)
    refused("increasing", draw_population, 5, grid_age=AGE[::-1], seed=0)
    refused("years", draw_population, 5, grid_age=AGE / 1e9, seed=0)
    for limits in ((0.5, 0.1), (-0.1, 0.5)):
        refused("redshift_range", draw_population, 5, grid_age=AGE, seed=0, redshift_range=limits)


def test_columns_are_in_range_with_units_and_histories_hold_rate_and_mass_exactly(either):
    for name in either.data_vars:
        units.Unit(either[name].attrs["units"])
        assert either[name].dtype.kind != "f" or np.isfinite(either[name]).all(), name
    assert (either.mass_formed >= 0).all() and either.log_z_gas.max() <= np.log10(1.2) + 1e-12
    assert either.dust_index.min() >= -1.3 and either.dust_index.max() <= -0.4
    assert either.log_u.min() >= -4 and either.log_u.max() <= -2
    assert set(np.unique(either.spectral_class)) == {"AGN", "quiescent", "star-forming"}
    mass, edges = either.mass_formed.values.astype(float), sfh.age_bin_edges(AGE)
    np.testing.assert_allclose(np.log10(sfh.star_formation_rate(mass, edges)), either.log_sfr, atol=1e-6)
    np.testing.assert_allclose(np.log10(mass @ relations.surviving_fraction(AGE)), either.log_mass, atol=1e-6)
    too_old = edges[:-1] > 1e9 * age_of_universe(either.redshift.values)[:, None]
    assert mass[too_old].sum() == 0
    redshift = np.array([0.0, 0.031, 0.5, 0.999, 2.5])
    np.testing.assert_allclose(age_of_universe(redshift), Planck18.age(redshift).to_value("Gyr"), rtol=1e-4)


def medians(galaxies, values, select):
    """Medians of values in bins of mass with at least 100 galaxies."""
    mass = galaxies.log_mass.values
    bins = (select & (mass >= low) & (mass < low + 0.5) for low in np.arange(9.0, 11.5, 0.5))
    return np.array([np.median(values[inside]) for inside in bins if inside.sum() >= 100])


def rank(first, second):
    return spearmanr(first, second).statistic


def above_sequence(galaxies):
    """log SFR above the star-forming sequence, and where the sequence is."""
    ages = age_of_universe(galaxies.redshift.values)
    sequence = relations.star_forming_sequence(galaxies.log_mass.values, ages)
    return galaxies.log_sfr.values - sequence, sequence


def test_star_formation_is_recovered(real):
    offset, forming = above_sequence(real)[0], ~real.is_quiescent.values
    assert np.abs(medians(real, offset, forming)).max() < 0.05
    assert np.std(offset[forming]) == pytest.approx(0.3, abs=0.03)
    below = medians(real, offset, ~forming)
    assert (below > -2.5).all() and (below < -1.2).all()
    near = forming & (abs(real.log_mass.values - 10.25) < 0.25)
    assert rank(real.redshift.values[near], specific_sfr(real)[near]) > 0.3
    expected = relations.quiescent_fraction(real.log_mass.values, real.redshift.values)
    for low in np.arange(9.0, 11.5, 0.5):
        inside = (real.log_mass.values >= low) & (real.log_mass.values < low + 0.5)
        share = real.is_quiescent.values[inside].mean()
        assert share == pytest.approx(expected[inside].mean(), abs=2 / np.sqrt(inside.sum()))
    at_break = np.log(10) * np.exp(-1) * (3.96e-3 + 0.79e-3)
    assert relations.mass_function(10.66) == pytest.approx(at_break)


def test_metallicities_are_recovered(real):
    forming = ~real.is_quiescent.values
    expected = relations.gas_metallicity(real.log_mass.values, real.log_sfr.values)
    assert np.abs(medians(real, real.log_z_gas.values - expected, forming)).max() < 0.02
    poor = forming & (abs(real.log_mass.values - 9.5) < 0.25)
    assert rank(real.log_sfr.values[poor], real.log_z_gas.values[poor]) < -0.3
    middle, below, above = relations.stellar_metallicity(real.log_mass.values)
    stars = real.log_z_star.values
    assert np.abs(medians(real, stars - middle, np.ones(20_000, bool))).max() < 0.15
    inside = (stars > middle - below) & (stars < middle + above)
    assert inside.mean() == pytest.approx(0.68, abs=0.1)
    assert relations.stellar_metallicity(10.31) == pytest.approx((-0.11, 0.54, 0.28))
    assert rank(real.log_z_star, real.log_z_gas) > 0.4 and rank(real.log_u, real.log_z_gas) < -0.5


def test_dust_dispersion_and_age_follow_mass(real):
    forming, mass = ~real.is_quiescent.values, real.log_mass.values
    assert np.all(np.diff(medians(real, real.dust2.values, forming)) > 0)
    assert rank(real.dust2, real.dust_index) > 0.5
    at_ten = forming & (abs(mass - 10) < 0.1)
    attenuation = 1.086 * (real.dust1 + real.dust2).values[at_ten] * (5500 / 6564.6) ** 0.7
    assert np.median(attenuation) == pytest.approx(0.91, abs=0.08)
    offset = np.log10(real.velocity_dispersion.values) - relations.velocity_dispersion(mass)
    assert np.abs(medians(real, offset, ~forming)).max() < 0.02
    mean_age = real.mass_formed.values @ np.log10(AGE) / real.mass_formed.values.sum(1)
    assert rank(mass, mean_age) > 0.3


def test_stellar_metallicity_follows_star_formation_as_asked_and_nothing_else_changes(real):
    asked = draw_population(20_000, grid_age=AGE, seed=1, stellar_metallicity_sfr=-0.25)
    change = asked.log_z_star.values - real.log_z_star.values
    free = ~real.is_quiescent.values & (np.abs(asked.log_z_star.values + 0.75) < 1.1)
    np.testing.assert_allclose(change[free], -0.25 * above_sequence(real)[0][free], atol=1e-12)
    assert free.mean() > 0.5 and np.all(change[real.is_quiescent.values] == 0)
    for name in {*COLUMNS, "log_sfr", "mass_formed", "spectral_class"} - {"log_z_star"}:
        np.testing.assert_array_equal(asked[name].values, real[name].values)


def test_null_population_has_no_correlations_and_the_same_marginal_distributions(real, null):
    values = np.stack([null[name].values for name in COLUMNS] + [specific_sfr(null)], axis=1)
    matrix = spearmanr(values).statistic
    off_diagonal = matrix[np.triu_indices_from(matrix, k=1)]
    # 78 pairs of 20,000 galaxies: each scatters by 0.0071.
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(20_000)
    assert np.std(off_diagonal) == pytest.approx(1 / np.sqrt(20_000), rel=0.3)
    for name in COLUMNS:
        assert ks_2samp(real[name], null[name]).pvalue > 1e-4, name
    assert ks_2samp(specific_sfr(real), specific_sfr(null)).pvalue > 1e-4
    # nor do histories know of mass and redshift
    fraction = null.mass_formed.values / null.mass_formed.values.sum(1, keepdims=True)
    oldest = np.array([AGE[row > 0].max() for row in fraction])
    for name in ("log_mass", "redshift", "log_z_star", "log_z_gas", "dust2"):
        for shape in (fraction @ np.log10(AGE), oldest):
            assert abs(rank(null[name], shape)) < 4.5 / np.sqrt(20_000), name


def test_gas_metallicity_may_know_of_mass_alone():
    options = {"grid_age": AGE, "seed": 8, "redshift_range": (0.02, 0.05)}
    with_sfr, without = (draw_population(8000, metallicity_sfr=knows, **options) for knows in (True, False))
    for name in ("log_mass", "log_sfr", "dust1", "dust2", "mass_formed", "spectral_class"):
        np.testing.assert_array_equal(with_sfr[name], without[name])
    assert with_sfr.redshift.min() >= 0.02 and with_sfr.redshift.max() <= 0.05
    forming = ~with_sfr.is_quiescent.values & (with_sfr.log_mass.values < 10)

    def trend(galaxies):
        excess, sequence = above_sequence(galaxies)
        residual = galaxies.log_z_gas - relations.gas_metallicity(galaxies.log_mass, sequence)
        return rank(residual[forming], excess[forming])

    assert trend(with_sfr) < -0.3 and abs(trend(without)) < 4 / np.sqrt(forming.sum())
    at_fixed = (with_sfr.log_z_gas - without.log_z_gas)[forming]
    assert abs(float(at_fixed.median())) < 0.01
