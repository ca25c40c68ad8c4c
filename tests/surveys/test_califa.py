"""The mock CALIFA sample: what it counts, what its labels mean, and what its galaxies keep to themselves."""

import numpy as np
import pytest

from spectool.measure.gradients import deproject
from spectool.surveys import califa
from spectool.surveys.jpas import band_matrix
from spectool.synth import describe, sfh, synthesize
from tests.stars import bare_stars


@pytest.fixture(scope="module")
def sample():
    return califa.draw_califa(seed=1, progress=False)


def test_counts_and_ages_are_the_papers_and_radii_those_of_the_positions(sample):
    assert (sample.sizes["galaxy"], sample.sizes["spectrum"]) == (190, 19_727) and sample[
        "is_early"
    ].sum() == 44
    galaxy, radius = sample["galaxy_index"].values, sample["radius"].values
    inside, outside = np.bincount(galaxy, radius < 1), np.bincount(galaxy, radius > 1)
    # The paper fits gradients where 25 spectra lie inside Re and one outside.
    assert np.bincount(galaxy).min() >= 20 and ((inside >= 25) & (outside >= 1)).mean() > 0.9
    assert califa.label_spread(sample["log_age"]) == pytest.approx(0.199, abs=0.02)
    early = sample["is_early"].values[galaxy]
    for name in ("log_age", "log_z"):
        assert sample[name].values[early].mean() > sample[name].values[~early].mean()
    assert all(np.isfinite(column).all() for column in sample.data_vars.values() if column.dtype.kind == "f")
    np.testing.assert_allclose(sample["flux"].mean("band"), 1, rtol=1e-5)
    # of guesses that are other galaxies' labels
    values = np.random.default_rng(0).normal(0, 0.3, 4000)
    guesses = np.random.default_rng(1).permutation(values)
    assert califa.label_spread(values) == pytest.approx(np.mean((values - guesses) ** 2), rel=0.05)
    table = sample.isel(galaxy=sample["galaxy_index"])
    disc = {name: table[name].values for name in ("position_angle", "inclination", "re")}
    radius = deproject(sample["x"].values, sample["y"].values, **disc)
    np.testing.assert_allclose(radius, sample["radius"], rtol=1e-6)
    assert sample["radius"].max() <= 2.5


@pytest.mark.parametrize("off", califa.NUISANCES)
def test_switching_off_a_nuisance_leaves_the_rest(few_califa, off):
    kept = [name for name in califa.NUISANCES if name != off]
    less = califa.draw_califa(12, spectra_per_galaxy=30, seed=3, nuisances=kept, progress=False)
    columns = {"tilt": ("tilt", "calibration"), "dust": ("dust_index", "dust1_ratio")}
    columns["history"] = ("onset", "tau", "young_begin", "metal_rise")
    for nuisance, names in columns.items():
        for name in names:
            assert few_califa[name].std("galaxy").max() > 0
            if nuisance == off:
                assert less[name].std("galaxy").max() == pytest.approx(0)
            else:
                np.testing.assert_array_equal(less[name], few_califa[name])
    assert np.abs(2.5 * np.log10(less["flux"] / few_califa["flux"])).max() > 0.005
    for name in ("log_mass", "x", "y", "a_v"):
        np.testing.assert_array_equal(less[name], few_califa[name])
    inside = (few_califa["log_age"] > califa.AGE_TARGETS[0]) & (few_califa["log_age"] < califa.AGE_TARGETS[1])
    free = (less["young_light"] > 0) & (few_califa["young_light"] > 0) & inside
    assert free.mean() > 0.9
    np.testing.assert_allclose(less["log_age"][free], few_califa["log_age"][free], atol=2e-3)
    np.testing.assert_allclose(less["log_z"], few_califa["log_z"], atol=2e-3)


def test_without_scatter_spectra_follow_their_profile(monkeypatch):
    monkeypatch.setattr(califa, "WITHIN", dict.fromkeys(califa.WITHIN, 0.0))
    plain = califa.draw_califa(12, spectra_per_galaxy=30, seed=5, nuisances=(), progress=False)
    galaxy, radius = plain["galaxy_index"].values, plain["radius"].values
    columns = {name: plain[name].values for name in plain if plain[name].dims == ("galaxy",)}
    ages = ("log_age", "age_at_re", "age_gradient", califa.AGE_TARGETS)
    metals = ("log_z", "z_at_re", "metallicity_gradient", califa.LOG_Z_TARGETS)
    for label, at_re, gradient, limits in (ages, metals):
        expected = califa.profile(columns, galaxy, radius, at_re, gradient)
        free = (expected > limits[0]) & (expected < limits[1]) & (plain["young_light"].values > 0)
        assert free.mean() > 0.9
        np.testing.assert_allclose(plain[label].values[free], expected[free], atol=2e-3)
        inside = free & (radius < 1)
        for k in range(3):
            rows = inside & (galaxy == k)
            slope = np.polyfit(radius[rows], plain[label].values[rows], 1)[0]
            assert slope == pytest.approx(columns[gradient][k], abs=5e-3)


def test_labels_are_those_of_describe(grid, few_califa):
    """Histories written down here anew, from the sample's columns alone."""
    galaxy = few_califa["galaxy_index"].values
    table = few_califa.isel(galaxy=galaxy)
    populations = califa.Populations({name: few_califa[name].values for name in califa.SHAPE_COLUMNS}, grid)
    histories = populations.histories(galaxy, few_califa["log_z"].values, few_califa["young_light"].values)
    described = describe(histories, grid)
    np.testing.assert_allclose(np.log10(described["age_lw"]), few_califa["log_age"], atol=1e-3)
    np.testing.assert_allclose(described["log_z_lw"], few_califa["log_z"], atol=1e-3)
    mass = histories["mass_formed"].values
    began = grid.age_edges[:-1] > 1e9 * table["onset"].values[:, None]
    assert (mass[began] == 0).all() and (mass >= 0).all()


def test_a_rebuilt_galaxy_has_the_samples_photometry(grid, few_califa):
    spectra = califa.rebuild_galaxy(few_califa, 4, grid=grid)
    rows = spectra["row"].values
    assert (few_califa["galaxy_index"].values[rows] == 4).all()
    assert spectra["wavelength"].values[[0, -1]] == pytest.approx([3746, 7500], abs=2)
    seen = spectra["flux"].values @ band_matrix(spectra["wavelength"].values)
    seen /= seen.mean(1, keepdims=True)
    # Photometry is made from pixels of 12 A, and without the stars' velocities.
    assert np.abs(2.5 * np.log10(seen / few_califa["flux"].values[rows])).max() < 0.006
    np.testing.assert_array_equal(spectra["log_age"], few_califa["log_age"][rows])


def test_calibration_errors_have_the_size_stated_and_are_factors(sample, grid, few_califa):
    nodes, errors = sample["node"].values, sample["calibration"].values
    green, red = (np.array([np.interp(x, nodes, row) for row in errors]) for x in (4770, 6231))
    # Ripples add to the tilt: two of 0.02 mag between nodes.
    assert 0.03 < np.std(green - red) < 0.05
    assert sample["tilt"].std() == pytest.approx(0.03, rel=0.2)
    plain = few_califa.assign(calibration=0 * few_califa["calibration"])
    centres, wavelength = np.arange(3746, 7500, 5.0), np.arange(4000.0, 7000.0, 5.0)
    options = {"wavelength": centres, "grid": grid}
    seen, clean = (califa.rebuild_galaxy(table, 2, **options)["flux"] for table in (few_califa, plain))
    ratio = (seen / clean).interp(wavelength=wavelength)
    expected = 10 ** (-0.4 * np.interp(wavelength, few_califa["node"], few_califa["calibration"][2]))
    expected = np.tile(expected / expected.mean(), (ratio.sizes["spectrum"], 1))
    np.testing.assert_allclose(ratio / ratio.mean("wavelength"), expected, rtol=2e-3)


def test_batches_do_not_matter_and_bands_that_are_not_reached_are_masked(few_califa, monkeypatch):
    monkeypatch.setattr(califa, "_BATCH", 101)
    again = califa.draw_califa(12, spectra_per_galaxy=30, seed=3, progress=False)
    np.testing.assert_allclose(again["flux"], few_califa["flux"], rtol=2e-5)
    monkeypatch.setattr(califa, "CALIFA_BANDS", ("J0500", "J0900"))
    wide = califa.draw_califa(2, spectra_per_galaxy=3, seed=1, progress=False)
    np.testing.assert_array_equal(wide["mask"], [[False, True]] * wide.sizes["spectrum"])
    assert np.isnan(wide["flux"][:, 1]).all()
    least = califa.draw_califa(1, spectra_per_galaxy=1, seed=0, progress=False)
    assert least.sizes["spectrum"] == 1 and np.isfinite(least["flux"][:, 0]).all()


def test_a_spectrum_of_one_population_is_its_synthesis(grid):
    """Where all light is old, the spectrum is a delayed-tau history that ends where the young stars begin."""
    shapes = {"onset": [12.0], "tau": [1.0], "young_begin": [1.0], "young_end": [0.0], "metal_rise": [0.2]}
    populations = califa.Populations(shapes, grid)
    one = populations.histories(np.zeros(1, int), np.array([-0.2]), np.zeros(1))
    edge = grid.age_edges[np.abs(np.log(grid.age_edges[1:] / 1e9)).argmin() + 1]
    mass = sfh.delayed_tau(grid.age_edges, 12e9, 1e9, edge)
    made = one["mass_formed"].values
    np.testing.assert_allclose(made / made.sum(), mass, atol=1e-12)
    ready, wavelength = bare_stars(made, one["log_z_star"].values), np.arange(4050.5, 7300, 1.0)
    spectrum = synthesize(ready, grid, wavelength=wavelength, nebular=False, progress=False)
    # One unit of light in 4050-7300 A.
    assert float(spectrum["flux"].sum()) == pytest.approx(1, rel=2e-3)
