"""The population recovers the relations it was made with, and the null population none."""

import hashlib

import numpy as np
import pytest
from astropy.cosmology import Planck18
from scipy.stats import ks_2samp, spearmanr

from spectool.synth import relations, sfh
from spectool.synth.population import age_of_universe, draw_population

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


def digest(galaxies):
    return hashlib.sha256(b"".join(galaxies[name].values.tobytes() for name in sorted(galaxies))).hexdigest()


def specific_sfr(galaxies):
    return galaxies.log_sfr.values - galaxies.log_mass.values


def test_same_seed_gives_the_same_bytes_and_a_generator_moves_on():
    first, again, other, null = (
        digest(draw_population(50, grid_age=AGE, seed=seed, independent=independent))
        for seed, independent in ((3, False), (3, False), (4, False), (3, True))
    )
    assert first == again != other and null != first
    assert null == digest(draw_population(50, grid_age=AGE, seed=3, independent=True))
    rng = np.random.default_rng(3)
    now, later = (digest(draw_population(50, grid_age=AGE, seed=rng)) for _ in range(2))
    assert now == first != later


def test_every_column_is_finite_in_range_and_has_units(either):
    from astropy import units

    for name in either.data_vars:
        assert isinstance(either[name].attrs["units"], str)
        units.Unit(either[name].attrs["units"])
        if either[name].dtype.kind == "f":
            assert np.isfinite(either[name]).all(), name
    assert (either.mass_formed >= 0).all()
    assert either.log_z_gas.max() <= np.log10(1.2) + 1e-12
    assert either.dust_index.min() >= -1.3 and either.dust_index.max() <= -0.4
    assert either.log_u.min() >= -4 and either.log_u.max() <= -2
    assert set(np.unique(either.spectral_class)) == {"AGN", "quiescent", "star-forming"}


def test_history_holds_the_star_formation_rate_and_the_mass_exactly(either):
    mass = either.mass_formed.values.astype(float)
    rate = sfh.star_formation_rate(mass, sfh.age_bin_edges(AGE))
    np.testing.assert_allclose(np.log10(rate), either.log_sfr, atol=1e-6)
    np.testing.assert_allclose(np.log10(mass @ relations.surviving_fraction(AGE)), either.log_mass, atol=1e-6)


def test_no_star_is_older_than_the_universe(either):
    oldest_bin = sfh.age_bin_edges(AGE)[:-1]
    age = 1e9 * age_of_universe(either.redshift.values)
    too_old = oldest_bin[None, :] > age[:, None]
    assert either.mass_formed.values[too_old].sum() == 0


def test_age_of_the_universe_is_astropys():
    redshift = np.array([0.0, 0.031, 0.5, 0.999, 2.5])
    np.testing.assert_allclose(age_of_universe(redshift), Planck18.age(redshift).to_value("Gyr"), rtol=1e-4)


def median_in_mass_bins(galaxies, values, select):
    """Medians of values in bins of mass with at least 100 galaxies."""
    mass = galaxies.log_mass.values
    for low in np.arange(9.0, 11.5, 0.5):
        inside = select & (mass >= low) & (mass < low + 0.5)
        if inside.sum() >= 100:
            yield low, np.median(values[inside])


def test_star_forming_sequence_is_recovered(real):
    sequence = relations.star_forming_sequence(real.log_mass.values, age_of_universe(real.redshift.values))
    offset = real.log_sfr.values - sequence
    forming = ~real.is_quiescent.values
    for low, median in median_in_mass_bins(real, offset, forming):
        assert abs(median) < 0.05, low
    assert np.std(offset[forming]) == pytest.approx(0.3, abs=0.03)
    for low, median in median_in_mass_bins(real, offset, ~forming):
        assert -2.5 < median < -1.2, low
    near = forming & (abs(real.log_mass.values - 10.25) < 0.25)
    assert spearmanr(real.redshift.values[near], specific_sfr(real)[near]).statistic > 0.3


def test_quiescent_fraction_is_recovered_and_rises_with_mass(real):
    expected = relations.quiescent_fraction(real.log_mass.values, real.redshift.values)
    found = []
    for low in np.arange(9.0, 11.5, 0.5):
        inside = (real.log_mass.values >= low) & (real.log_mass.values < low + 0.5)
        error = 0.5 / np.sqrt(inside.sum())
        found.append(real.is_quiescent.values[inside].mean())
        assert found[-1] == pytest.approx(expected[inside].mean(), abs=4 * error)
    assert np.all(np.diff(found) > 0)


def test_gas_metallicity_follows_mass_and_falls_with_star_formation(real):
    forming = ~real.is_quiescent.values
    expected = relations.gas_metallicity(real.log_mass.values, real.log_sfr.values)
    for low, median in median_in_mass_bins(real, real.log_z_gas.values - expected, forming):
        assert abs(median) < 0.02, low
    poor = forming & (abs(real.log_mass.values - 9.5) < 0.25)
    assert spearmanr(real.log_sfr.values[poor], real.log_z_gas.values[poor]).statistic < -0.3


def test_stellar_metallicity_follows_star_formation_as_told_and_nothing_else_changes(real):
    told = draw_population(20_000, grid_age=AGE, seed=1, stellar_metallicity_sfr=-0.25)
    sequence = relations.star_forming_sequence(real.log_mass.values, age_of_universe(real.redshift.values))
    above = real.log_sfr.values - sequence
    change = told.log_z_star.values - real.log_z_star.values
    free = ~real.is_quiescent.values & (np.abs(told.log_z_star.values + 0.75) < 1.1)
    np.testing.assert_allclose(change[free], -0.25 * above[free], atol=1e-12)
    assert free.mean() > 0.5 and np.all(change[real.is_quiescent.values] == 0)
    for name in {*COLUMNS, "log_sfr", "mass_formed", "spectral_class"} - {"log_z_star"}:
        np.testing.assert_array_equal(told[name].values, real[name].values)


def test_stellar_metallicity_is_recovered(real):
    middle, below, above = relations.stellar_metallicity(real.log_mass.values)
    for low, median in median_in_mass_bins(real, real.log_z_star.values - middle, np.ones(20_000, bool)):
        assert abs(median) < 0.15, low
    inside = (real.log_z_star.values > middle - below) & (real.log_z_star.values < middle + above)
    assert inside.mean() == pytest.approx(0.68, abs=0.1)
    assert spearmanr(real.log_z_star, real.log_z_gas).statistic > 0.4


def test_dust_grows_with_mass_and_flattens_its_own_curve(real):
    forming = ~real.is_quiescent.values
    medians = [m for _, m in median_in_mass_bins(real, real.dust2.values, forming)]
    assert np.all(np.diff(medians) > 0)
    assert spearmanr(real.dust2, real.dust_index).statistic > 0.5
    at_ten = forming & (abs(real.log_mass.values - 10) < 0.1)
    attenuation = 1.086 * (real.dust1 + real.dust2).values[at_ten] * (5500 / 6564.6) ** 0.7
    assert np.median(attenuation) == pytest.approx(0.91, abs=0.08)


def test_velocity_dispersion_of_quiescent_galaxies_is_recovered(real):
    offset = np.log10(real.velocity_dispersion.values) - relations.velocity_dispersion(real.log_mass.values)
    for low, median in median_in_mass_bins(real, offset, real.is_quiescent.values):
        assert abs(median) < 0.02, low


def test_massive_galaxies_are_older_and_ionisation_falls_with_metallicity(real):
    assert spearmanr(real.log_u, real.log_z_gas).statistic < -0.5
    mean_age = real.mass_formed.values @ np.log10(AGE) / real.mass_formed.values.sum(1)
    assert spearmanr(real.log_mass, mean_age).statistic > 0.3


def test_null_population_has_no_correlations(null):
    values = np.stack([null[name].values for name in COLUMNS] + [specific_sfr(null)], axis=1)
    matrix = spearmanr(values).statistic
    off_diagonal = matrix[np.triu_indices_from(matrix, k=1)]
    # 78 pairs of 20,000 galaxies: each scatters by 0.0071.
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(20_000)
    assert np.std(off_diagonal) == pytest.approx(1 / np.sqrt(20_000), rel=0.3)


def test_null_histories_know_neither_mass_nor_redshift(null):
    fraction = null.mass_formed.values / null.mass_formed.values.sum(1, keepdims=True)
    mean_age = fraction @ np.log10(AGE)
    oldest = np.array([AGE[row > 0].max() for row in fraction])
    for name in ("log_mass", "redshift", "log_z_star", "log_z_gas", "dust2"):
        for shape in (mean_age, oldest):
            assert abs(spearmanr(null[name], shape).statistic) < 4.5 / np.sqrt(20_000), name


def test_null_population_keeps_the_marginal_distributions(real, null):
    for name in COLUMNS:
        assert ks_2samp(real[name], null[name]).pvalue > 1e-4, name
    assert ks_2samp(specific_sfr(real), specific_sfr(null)).pvalue > 1e-4


def test_metallicity_can_be_told_of_mass_alone():
    told, untold = (
        draw_population(8000, grid_age=AGE, seed=8, metallicity_sfr=told, redshift_range=(0.02, 0.05))
        for told in (True, False)
    )
    for name in ("log_mass", "log_sfr", "dust1", "dust2", "mass_formed", "spectral_class"):
        np.testing.assert_array_equal(told[name], untold[name])
    forming = ~told.is_quiescent.values & (told.log_mass.values < 10)
    excess = told.log_sfr - relations.star_forming_sequence(told.log_mass, age_of_universe(told.redshift))

    def trend(galaxies):
        on_sequence = relations.star_forming_sequence(galaxies.log_mass, age_of_universe(galaxies.redshift))
        residual = galaxies.log_z_gas - relations.gas_metallicity(galaxies.log_mass, on_sequence)
        return spearmanr(residual[forming], excess[forming]).statistic

    assert trend(told) < -0.3
    assert abs(trend(untold)) < 4 / np.sqrt(forming.sum())
    at_fixed = (told.log_z_gas - untold.log_z_gas)[forming]
    assert abs(float(at_fixed.median())) < 0.01


def test_redshift_range_is_kept():
    galaxies = draw_population(500, grid_age=AGE, seed=6, redshift_range=(0.02, 0.05))
    assert galaxies.redshift.min() >= 0.02 and galaxies.redshift.max() <= 0.05


def test_relations_are_the_published_ones():
    assert relations.stellar_metallicity(10.31) == pytest.approx((-0.11, 0.54, 0.28))
    at_break = np.log(10) * np.exp(-1) * (3.96e-3 + 0.79e-3)
    assert relations.mass_function(10.66) == pytest.approx(at_break)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "at least 1"),
        ({"redshift_range": (0.5, 0.1)}, "redshift_range"),
        ({"redshift_range": (-0.1, 0.5)}, "redshift_range"),
        ({"grid_age": AGE[::-1]}, "increasing"),
        ({"grid_age": AGE / 1e9}, "years"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_population(**{"n": 5, "grid_age": AGE, "seed": 0} | arguments)
