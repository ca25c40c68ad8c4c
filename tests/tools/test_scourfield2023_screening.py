"""Selecting is sampling with known chances: predictions, weights and draws come out as they should."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.classes import CLASSES
from spectool.papers.scourfield2023.sample import draw_block, rebuild
from tools.make import scourfield2023_selection as selection


@pytest.fixture(scope="module")
def block():
    return draw_block(0)


def make_table(rng, n=40_000):
    """Candidates whose class and H-alpha flux go together, observed with chances that depend on the flux."""
    log_flux = rng.normal(1.8, 0.8, n)
    kind = np.where(rng.random(n) < 1 / (1 + np.exp(-3 * (log_flux - 1.2))), 0, rng.integers(1, 3, n))
    kind = np.where(rng.random(n) < 0.03, rng.integers(3, 5, n), kind)
    chance = np.clip(1.2 - 0.3 * log_flux, 0.1, 1)
    keep = rng.random(n) < chance
    columns = {
        "candidate": np.arange(n),
        "probability": chance,
        "r_magnitude": rng.uniform(15, 18.5, n),
        "h_alpha_flux": 10**log_flux,
        "spectral_class": np.array(CLASSES)[kind],
        "is_star_forming": kind == 0,
    }
    return xr.Dataset({k: ("galaxy", v[keep]) for k, v in columns.items()})


def test_predicted_fluxes_are_those_of_the_spectra(block):
    """To a few per cent, before anything is synthesized; nuclei included."""
    predicted = selection.predict_h_alpha(block)
    rows = np.concatenate([np.arange(40), np.flatnonzero(block["agn_type"].values != "")[:20]])
    true = rebuild(rows, keep_truth=False)["true_line_flux"].sel(line="Hα").values
    np.testing.assert_allclose(predicted[rows], true, rtol=0.05)


def test_chances_level_the_predicted_fluxes(block):
    predicted = selection.predict_h_alpha(block)
    wanted = ((-9.0, 100), (1.0, 900))
    chance = selection.keep_probability(predicted, 10, wanted)
    assert chance.shape == (27,) and (chance > 0).all() and (chance <= 1).all()
    counts = np.histogram(np.log10(predicted), np.linspace(-1, 4, 26))[0] * 10
    expected = counts * chance[1:-1]
    low = np.linspace(-1, 3.8, 25) < 0.99
    many = counts * 0.02 < 90
    np.testing.assert_allclose(expected[low & (counts > 100) & many], 100, rtol=1e-6)
    np.testing.assert_allclose(expected[~low & (counts > 900) & many], 900, rtol=1e-6)


def test_screened_candidates_carry_their_chance(block):
    chance = selection.keep_probability(selection.predict_h_alpha(block), 4, ((-9.0, 300),))
    kept = selection.screen_block(0, chance)
    assert 300 < kept.sizes["galaxy"] < 4096
    assert float((1 / kept["probability"]).sum()) == pytest.approx(4096, rel=0.15)
    again = selection.screen_block(0, chance)
    np.testing.assert_array_equal(kept["candidate"], again["candidate"])


def test_weights_give_the_pool_the_papers_proportions(rng):
    table = make_table(rng)
    weights, natural = selection.class_weights(table)
    total = sum(selection.TABLE1.values())
    assert total == 86908 and sum(natural.values()) == pytest.approx(1)
    for kind, number in selection.TABLE1.items():
        share = weights[table["spectral_class"].values == kind].sum() / weights.sum()
        assert share == pytest.approx(number / total, rel=1e-9)
    forming = table["spectral_class"].values == CLASSES[0]
    inverse = weights * table["probability"].values
    assert np.ptp(inverse[forming]) < 1e-9 * inverse[forming].max()


def test_draws_have_exactly_their_chances(rng):
    weights = np.concatenate([rng.uniform(0.5, 3, 60), [500.0]])
    hits = np.zeros(weights.size)
    for seed in range(3000):
        rows = selection.draw_weighted(weights, 12, np.random.default_rng(seed))
        assert rows.size == 12 == np.unique(rows).size
        hits[rows] += 1
    expected = np.append(weights[:-1] / weights[:-1].sum() * 11, 1.0)
    assert hits[-1] == 3000  # too heavy to be left out
    error = np.sqrt(expected * (1 - expected) / 3000)[:-1]
    pull = (hits / 3000 - expected)[:-1] / error
    assert np.abs(pull).max() < 4.5 and pull.std() == pytest.approx(1, abs=0.35)
    assert selection.draw_weighted(weights, 100, rng).tolist() == list(range(61))


def test_selection_fills_its_bins_and_keeps_the_proportions_within_them(rng):
    table = make_table(rng)
    recipe = selection.Recipe(0.8, 2.8, False, True, 1, ((-9.0, 1),), n_bin=150, n_top=90)
    chosen = selection.select(table, recipe, seed=3)
    per_bin = np.bincount(chosen["h_alpha_bin"].values, minlength=10)
    assert per_bin.tolist() == [150] * 9 + [90]
    assert (chosen["split"] == "test").sum() == round(0.2 * 1440)
    inside = np.isin(table["candidate"].values, chosen["candidate"].values)
    assert (table["r_magnitude"].values[inside] < selection.MAGNITUDE_LIMIT).all()
    weights, _ = selection.class_weights(table)
    bright = table["r_magnitude"].values < selection.MAGNITUDE_LIMIT
    kinds, log_flux = table["spectral_class"].values, np.log10(table["h_alpha_flux"].values)
    here = bright & (log_flux > 1.2) & (log_flux < 1.4)
    expected = weights[here & (kinds == CLASSES[0])].sum() / weights[here].sum()
    in_bin = chosen["spectral_class"].values[chosen["h_alpha_bin"].values == 2]
    assert (in_bin == CLASSES[0]).mean() == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / 150)
    )
    again = selection.select(table, recipe, seed=3)
    assert chosen.identical(again)


def test_star_forming_selections_hold_nothing_else(rng):
    table = make_table(rng)
    recipe = selection.Recipe(0.8, 2.8, True, True, 1, ((-9.0, 1),), n_bin=100)
    chosen = selection.select(table, recipe)
    assert set(chosen["spectral_class"].values) == {CLASSES[0]}


def test_candidates_are_measured_and_classified(block):
    some = block.isel(galaxy=slice(60)).assign(probability=("galaxy", np.ones(60)))
    table = selection.measure_candidates(some)
    assert set(table["spectral_class"].values) <= set(CLASSES)
    true = rebuild(np.arange(60), keep_truth=False)["true_line_flux"].sel(line="Hα").values
    bright = true > 200
    assert bright.sum() > 10
    ratio = table["h_alpha_flux"].values[bright] / true[bright]
    assert np.median(ratio) == pytest.approx(1, abs=0.02) and (np.abs(ratio - 1) < 0.15).mean() > 0.9
    forming = table["is_star_forming"].values
    population = some["population_class"].values
    assert forming[(population == "star-forming") & bright].mean() > 0.8
    assert forming[true < 5].mean() < 0.2
