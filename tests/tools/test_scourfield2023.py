"""Selecting is sampling with known chances; tools go on where they were, and write what `read_products` reads."""

import json

import numpy as np
import pytest
import xarray as xr

from spectool.measure.classes import CLASSES
from spectool.measure.lines_ppxf import MEASURED
from spectool.papers.scourfield2023.sample import draw_block, read_products, rebuild
from tools.make import scourfield2023_lines as lines
from tools.make import scourfield2023_selection as tool

FEW = ((-9.0, 25),)
SAMPLES = {
    "uniform": tool.Recipe(0.2, 3.4, False, True, 2, FEW, n_bin=4, n_top=4),
    "star-forming": tool.Recipe(1.4, 3.2, True, True, 2, FEW, n_bin=4, n_top=3),
    "null": tool.Recipe(1.4, 3.2, True, False, 2, FEW, n_bin=4, n_top=3),
}


@pytest.fixture(scope="module")
def block():
    return draw_block(0)


@pytest.fixture
def table(rng):
    """Candidates whose class and H-alpha flux go together, observed with chances that depend on the flux."""
    log_flux = rng.normal(1.8, 0.8, 40_000)
    forming = rng.random(40_000) < 1 / (1 + np.exp(-3 * (log_flux - 1.2)))
    kind = np.where(forming, 0, rng.integers(1, 3, 40_000))
    kind = np.where(rng.random(40_000) < 0.03, rng.integers(3, 5, 40_000), kind)
    chance = np.clip(1.2 - 0.3 * log_flux, 0.1, 1)
    keep = rng.random(40_000) < chance
    columns = {"candidate": np.arange(40_000), "probability": chance, "h_alpha_flux": 10**log_flux}
    columns |= {"spectral_class": np.array(CLASSES)[kind], "is_star_forming": kind == 0}
    columns["r_magnitude"] = rng.uniform(15, 18.5, 40_000)
    return xr.Dataset({k: ("galaxy", v[keep]) for k, v in columns.items()})


def test_predicted_fluxes_are_those_of_the_spectra_and_chances_level_them(block):
    predicted = tool.predict_h_alpha(block)
    rows = np.concatenate([np.arange(40), np.flatnonzero(block["agn_type"].values != "")[:20]])
    true = rebuild(rows, keep_truth=False)["true_line_flux"].sel(line="Hα").values
    np.testing.assert_allclose(predicted[rows], true, rtol=0.05)
    chance = tool.keep_probability(predicted, 10, ((-9.0, 100), (1.0, 900)))
    assert chance.shape == (27,) and (chance > 0).all() and (chance <= 1).all()
    counts = np.histogram(np.log10(predicted), np.linspace(-1, 4, 26))[0] * 10
    wanted = np.where(np.linspace(-1, 3.8, 25) < 0.99, 100, 900)
    level = (counts > wanted) & (counts * 0.02 < 90)
    np.testing.assert_allclose((counts * chance[1:-1])[level], wanted[level], rtol=1e-6)
    chance = tool.keep_probability(predicted, 4, ((-9.0, 300),))
    kept = tool.screen_block(0, chance)
    assert 300 < kept.sizes["galaxy"] < 4096
    assert float((1 / kept["probability"]).sum()) == pytest.approx(4096, rel=0.15)


def test_weights_give_the_pool_the_papers_proportions(table):
    weights, natural = tool.class_weights(table)
    total = sum(tool.TABLE1.values())
    assert total == 86908 and sum(natural.values()) == pytest.approx(1)
    for kind, number in tool.TABLE1.items():
        share = weights[table["spectral_class"].values == kind].sum() / weights.sum()
        assert share == pytest.approx(number / total, rel=1e-9)
    forming = table["spectral_class"].values == CLASSES[0]
    inverse = weights * table["probability"].values
    assert np.ptp(inverse[forming]) < 1e-9 * inverse[forming].max()


def test_draws_have_exactly_their_chances(rng):
    weights = np.concatenate([rng.uniform(0.5, 3, 60), [500.0]])
    hits = np.zeros(weights.size)
    for seed in range(3000):
        rows = tool.draw_weighted(weights, 12, np.random.default_rng(seed))
        assert rows.size == 12 == np.unique(rows).size
        hits[rows] += 1
    expected = np.append(weights[:-1] / weights[:-1].sum() * 11, 1.0)
    assert hits[-1] == 3000  # too heavy to be left out
    error = np.sqrt(expected * (1 - expected) / 3000)[:-1]
    pull = (hits / 3000 - expected)[:-1] / error
    assert np.abs(pull).max() < 4.5 and pull.std() == pytest.approx(1, abs=0.35)
    assert tool.draw_weighted(weights, 100, rng).tolist() == list(range(61))


def test_selection_fills_its_bins_and_keeps_the_proportions_within_them(table):
    recipe = tool.Recipe(0.8, 2.8, False, True, 1, ((-9.0, 1),), n_bin=150, n_top=90)
    chosen = tool.select(table, recipe, seed=3)
    assert np.bincount(chosen["h_alpha_bin"].values, minlength=10).tolist() == [150] * 9 + [90]
    assert (chosen["split"] == "test").sum() == round(0.2 * 1440)
    bright = table["r_magnitude"].values < tool.MAGNITUDE_LIMIT
    assert bright[np.isin(table["candidate"].values, chosen["candidate"].values)].all()
    weights, log_flux = tool.class_weights(table)[0], np.log10(table["h_alpha_flux"].values)
    here = bright & (log_flux > 1.2) & (log_flux < 1.4)
    expected = weights[here & (table["spectral_class"].values == CLASSES[0])].sum() / weights[here].sum()
    in_bin = chosen["spectral_class"].values[chosen["h_alpha_bin"].values == 2]
    sampling = np.sqrt(expected * (1 - expected) / 150)
    assert (in_bin == CLASSES[0]).mean() == pytest.approx(expected, abs=4 * sampling)
    assert chosen.identical(tool.select(table, recipe, seed=3))
    recipe = tool.Recipe(0.8, 2.8, True, True, 1, ((-9.0, 1),), n_bin=100)
    assert set(tool.select(table, recipe)["spectral_class"].values) == {CLASSES[0]}


def test_the_tool_writes_what_the_reader_reads_and_goes_on_with_the_missing_block(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "SAMPLES", SAMPLES)
    arguments = ["--out", str(tmp_path / "selection.nc"), "--cache", str(tmp_path / "cache"), "--quiet"]
    report = tool.main(arguments)
    made = {name: read_products(name, path=tmp_path / "selection.nc") for name in SAMPLES}
    for name, sample in made.items():
        assert sample.sizes["galaxy"] == report[name]["galaxies"] > 20
        assert json.loads(sample.attrs["recipe"])["metallicity_sfr"] == SAMPLES[name].metallicity_sfr
        assert sample.attrs["constant"] == report["uniform"]["constant"] > 10
        per_bin = np.bincount(sample["h_alpha_bin"].values, minlength=10)
        assert per_bin.tolist() == report[name]["per_bin"] and per_bin.max() <= 4
        assert (sample["split"] == "test").sum() == report[name]["test"]
    lost = sorted((tmp_path / "cache").rglob("block_0001.nc"))
    assert len(lost) == 2  # the uniform and the star-forming sample share their candidates
    lost[0].unlink()
    measured, original = [], tool.screen_block
    monkeypatch.setattr(tool, "screen_block", lambda k, *a, **o: measured.append(k) or original(k, *a, **o))
    assert tool.main(arguments) == report and measured == [1]
    assert read_products("uniform", path=tmp_path / "selection.nc").identical(made["uniform"])


def test_a_trial_is_written_resumed_and_counted(tmp_path, capsys):
    arguments = ["lines", "--n", "3", "--quiet", "--out", str(tmp_path), "--cache", str(tmp_path / "fits")]
    lines.main(arguments)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])["lines"]
    assert sum(report["failed"].values()) == 0
    first = xr.load_dataset(tmp_path / "scourfield2023_lines.nc", engine="h5netcdf")
    assert first.sizes["galaxy"] == 3 and first["line"].values.tolist() == list(MEASURED)
    assert len(first["source"]) == 14 and len(first["model"]) == 12
    assert len(list((tmp_path / "fits").glob("*.npz"))) == 14
    lines.main(arguments)
    again = xr.load_dataset(tmp_path / "scourfield2023_lines.nc", engine="h5netcdf")
    xr.testing.assert_identical(first, again)
    with xr.open_dataset(lines.DATA / "scourfield2023_lines.nc", engine="h5netcdf") as shipped:
        same = np.isin(first["candidate"].values, shipped["candidate"].values)
    assert same.all(), "the trial's galaxies are among the shipped ones"
