import numpy as np
import pytest

from spectool.papers.zahid2019 import network
from spectool.papers.zahid2019.network import perturb_grid, score_on_library
from spectool.papers.zahid2019.sample import make_heldout
from spectool.synth.broadening import smooth_ssps

NOTHING = {"older": 0.0, "depth": 1.0, "depth_scatter": 0.0, "continuum": 0.0, "extra_fwhm": 0.0}


@pytest.fixture(scope="module")
def linear(grid):
    """A predictor that learnt on the embedded grid's histories by ridge regression: no network needed."""
    known = make_heldout(1500, seed=1, grid=grid)
    x, y = known["flux"].values.astype(float), known["log_z_lw"].values
    left = np.hstack([x, np.ones((len(x), 1))])
    weights = np.linalg.solve(left.T @ left + 1e-2 * np.eye(left.shape[1]), left.T @ y)
    return lambda prepared: prepared["flux"].values @ weights[:-1] + weights[-1]


@pytest.fixture(scope="module")
def other(grid):
    return perturb_grid(grid)


def inside(grid, other):
    first = int(np.flatnonzero(grid.edges == other.edges[0])[0])
    return slice(first, first + other.flux.shape[2])


def test_a_grid_that_nothing_was_done_to_is_the_same_or_older_by_the_fraction_asked_for(grid):
    same = perturb_grid(grid, **NOTHING)
    np.testing.assert_allclose(same.flux, grid.flux[..., inside(grid, same)], rtol=1e-5)
    np.testing.assert_allclose(same.surviving_mass, grid.surviving_mass)
    older, age = perturb_grid(grid, **NOTHING | {"older": 0.3}), int(np.abs(grid.age - 2e9).argmin())
    place = np.interp(np.log(grid.age[age] * 1.3), np.log(np.maximum(grid.age, 1)), np.arange(grid.age.size))
    flux, low, share = grid.flux[..., inside(grid, older)], int(place), place % 1
    expected = flux[:, low] * (1 - share) + flux[:, low + 1] * share
    np.testing.assert_allclose(older.flux[:, age], expected, rtol=1e-4)
    np.testing.assert_allclose(older.flux[:, -1], flux[:, -1], rtol=1e-4)


def test_deeper_features_are_deeper_and_the_light_stays(grid):
    deep = perturb_grid(grid, **NOTHING | {"depth": 1.2})
    wavelength = np.arange(4200.0, 7200.0)
    before, after = (smooth_ssps(g, wavelength, 330)[4, 60] for g in (grid, deep))
    smooth = np.convolve(before, np.ones(401) / 401, "same")
    middle = slice(300, -300)
    contrast = [np.std((f / smooth)[middle]) for f in (before, after)]
    assert 1.1 < contrast[1] / contrast[0] < 1.25
    assert after[middle].mean() == pytest.approx(before[middle].mean(), rel=0.01)


def test_the_copy_says_that_it_is_a_mock_and_a_seed_makes_it(grid, other):
    assert other.provenance["name"] == "mock of another library: BC03-MILES, perturbed"
    assert other.provenance["perturbation"]["older"] == 0.1 and other.nebular is None
    np.testing.assert_array_equal(perturb_grid(grid, seed=0).flux, other.flux)
    assert not np.array_equal(perturb_grid(grid, seed=1).flux, other.flux)
    assert (other.flux >= 0).all()


def test_injected_bias_and_scatter_are_found(grid):
    rng = np.random.default_rng(3)

    def predict(prepared):
        truth = prepared["log_z_lw"].values
        found = truth + np.where(truth < -1, 0.3, -0.1) + 0.05 * rng.standard_normal(truth.size)
        found[:4] = np.nan
        return found

    score = score_on_library(predict, grid, n=800)
    np.testing.assert_allclose(score["bias_by_log_z"], [0.3, 0.3, -0.1, -0.1, -0.1], atol=0.03)
    np.testing.assert_allclose(score["scatter_by_log_z"], 0.05, atol=0.015)
    assert score["n_missing"] == 4 and score["n_by_log_z"].sum() == score["n_by_log_age"].sum() == 796


def test_another_library_is_harder_than_ones_own(grid, other, linear):
    table = network.compare_libraries({"linear": linear}, {"own": grid, "other": other}, n=400)
    rms = table["rms"].sel(model="linear")
    assert rms.sel(library="own") < 0.12
    assert rms.sel(library="other") > 1.5 * rms.sel(library="own")
