"""The training set is the paper's recipe, each spectrum what `synthesize` makes of the same history."""

import json

import numpy as np
import pytest

from spectool.continuum import N_KEPT, ContinuumBasis, normalize_continuum
from spectool.papers.zahid2019 import sample as paper
from spectool.papers.zahid2019.sample import training_table
from spectool.synth import sfh
from spectool.synth.histories import draw_histories, durations, equal_light_intervals, metallicities
from spectool.synth.synthesis import describe, synthesize
from tests.stars import bare_stars

STARS = {"wavelength": np.arange(4062.5, 7300, 25.0), "nebular": False, "progress": False}


def compare(ours, theirs):
    """Half a pixel of 1 Angstrom lies between the two grids, and kernels reach over the bins' edges."""
    ratio = ours[:, 1:-1] / theirs[:, 1 : ours.shape[1] - 1]
    assert np.abs(ratio.mean(1) - 1).max() < 5e-4 and ratio.std() < 6e-3


def compose(basis, table):
    flux = {"flux": (("galaxy", "wavelength"), paper.composer(basis)(table), dict(basis["flux"].attrs))}
    labels = paper.label_galaxies(basis, table)
    return table.assign(**flux, **labels).assign_coords(wavelength=basis["wavelength"])


@pytest.fixture(scope="module")
def basis(grid):
    return paper.make_basis(grid)


@pytest.fixture(scope="module")
def table():
    return training_table()


@pytest.fixture(scope="module")
def some(table):
    return table.isel(galaxy=np.random.default_rng(2).choice(table.sizes["galaxy"], 24, replace=False))


def two_histories(rows, grid):
    """Each training galaxy as two of one metallicity: the four intervals, and the fifth."""
    edges = equal_light_intervals(grid)[rows["duration_index"].values]
    k, number = rows["interval_index"].values, np.arange(rows.sizes["galaxy"])
    duration = durations()[rows["duration_index"].values]
    end, start = edges[number, k], edges[number, k + 1]
    one = sfh.constant(grid.age_edges, start * 1e9, end * 1e9) * ((start - end) / duration)[:, None]
    four = sfh.constant(grid.age_edges, duration * 1e9) - one
    base, varied = (metallicities()[rows[f"{name}_index"].values] for name in ("metallicity", "varied"))
    return bare_stars(np.clip(four, 0, None), base), bare_stars(one, varied)


def test_the_grid_of_the_recipe_and_one_interval_of_another_metallicity(table, basis, some):
    assert durations().size == metallicities().size == 21
    assert durations()[[0, -1]] == pytest.approx([0.1, 14])
    np.testing.assert_allclose(np.diff(np.log(durations())), np.log(140) / 20)
    np.testing.assert_allclose(metallicities(), -2 + 0.12 * np.arange(21), atol=1e-12)
    assert table.sizes["galaxy"] == 46305
    rows = np.stack([table[name].values for name in table.data_vars])
    assert np.unique(rows, axis=1).shape == (4, 46305)
    assert rows.max(axis=1).tolist() == [20, 20, 4, 20]
    made, z = compose(basis, some), metallicities()
    expected = np.repeat(z[some["metallicity_index"].values][:, None], 5, axis=1)
    expected[np.arange(24), some["interval_index"].values] = z[some["varied_index"].values]
    np.testing.assert_allclose(made["log_z_interval"].values, expected)
    assert (np.diff(made["age_interval"].values, axis=1) > 0).all()


def test_intervals_give_equal_light(grid):
    """As `synthesize` says: each interval's solar spectrum, summed over 4050-7300 Angstrom."""
    edges, options = equal_light_intervals(grid), STARS | {"wavelength": np.arange(4050.5, 7300)}
    np.testing.assert_allclose(edges[:, -1], durations())
    for row in (0, 9, 20):
        low, high = edges[row, :-1], edges[row, 1:]
        mass = sfh.constant(grid.age_edges, high * 1e9, low * 1e9) * (high - low)[:, None]
        light = synthesize(bare_stars(mass, np.zeros(5)), grid, **options)["flux"].sum("wavelength")
        np.testing.assert_allclose(light / light.mean(), 1, rtol=3e-4)


def test_training_spectra_are_those_of_synthesize(basis, some, grid):
    """Summed over 25 Angstrom, so that resolution does not matter."""
    ours = compose(basis, some)["flux"].values[:, :-1].reshape(24, -1, 25).mean(2)
    compare(ours, sum(synthesize(part, grid, **STARS)["flux"].values for part in two_histories(some, grid)))


def test_labels_are_those_of_describe(basis, some, grid):
    inside = (grid.wavelength >= 4050) & (grid.wavelength <= 7300)
    width, made, sums = np.diff(grid.edges)[inside], compose(basis, some), np.zeros((3, some.sizes["galaxy"]))
    for part in two_histories(some, grid):
        flux = synthesize(part, grid, nebular=False, progress=False)["flux"].values
        light, known = flux[:, inside] @ width, describe(part, grid)
        sums += light, light * known["log_z_lw"].values, light * np.log10(known["age_lw"].values)
    np.testing.assert_allclose(made["log_z_lw"], sums[1] / sums[0], atol=3e-4)
    np.testing.assert_allclose(np.log10(made["age_lw"]), sums[2] / sums[0], atol=3e-4)
    np.testing.assert_allclose(made["light_share"].sum("interval"), 1)
    again = (made["light_share"] * made["log_z_interval"]).sum("interval")
    np.testing.assert_allclose(again, made["log_z_lw"], atol=1e-12)


def test_training_set_is_the_composed_spectra_without_continuum(basis, some, grid, monkeypatch):
    monkeypatch.setattr("spectool.papers.zahid2019.sample._BATCH", 7)
    made = paper.make_sample(grid, table=some)
    whole = ContinuumBasis.optical()
    expected = normalize_continuum(compose(basis, some)["flux"].values[:, whole.keep], None, whole)[0]
    assert made["flux"].dtype == np.float16 and made["flux"].shape == (24, N_KEPT)
    np.testing.assert_allclose(made["flux"].values.astype("f4"), expected, atol=6e-5)
    np.testing.assert_allclose(made["wavelength"], whole.kept_wavelength)
    assert json.loads(made.attrs["ssp_grid"])["name"] == "BC03-MILES"


def test_heldout_spectra_are_those_of_synthesize(grid):
    histories = draw_histories(8, seed=1, grid=grid)
    ours = paper.synthesize_histories(histories, grid, np.arange(4050.0, 7301))
    compare(ours[:, :-1].reshape(8, -1, 25).mean(2), synthesize(histories, grid, **STARS)["flux"].values)
