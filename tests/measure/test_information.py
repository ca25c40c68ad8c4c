"""Information measured where it can be calculated: Gaussians, mixtures, independence."""

import sys

import numpy as np
import pytest
import xarray as xr

from spectool.measure import information
from spectool.measure.information import informativeness, mutual_information_matrix, n_informative
from tests.refusals import refused

QUICK = {"seed": 1, "n_bootstrap": 0, "n_shuffles": 0, "n_jobs": 1, "progress": False}


def shared(x, y, **options):
    pair = (xr.Dataset({name: ("galaxy", values)}) for name, values in (("x", x), ("y", y)))
    return mutual_information_matrix(*pair, **QUICK | {"n_max": 4000} | options).squeeze()


def gaussian_pair(rho, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    return x, rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(n)


def test_informativeness_is_the_mean_absolute_covariance(rng, monkeypatch):
    z = rng.standard_normal((300, 4)) * [1, 1, 0.5, 1e-3]
    x = z @ rng.standard_normal((4, 50)) + 0.1 * rng.standard_normal((300, 50)) + 5
    latent, flux = xr.DataArray(z, dims=("galaxy", "latent")), xr.DataArray(x, dims=("galaxy", "wavelength"))
    expected = [np.mean([abs(np.cov(z[:, i], x[:, j], ddof=0)[0, 1]) for j in range(50)]) for i in range(4)]
    for batch in (1, 77, 300, 4096):
        monkeypatch.setattr(information, "BATCH", batch)
        found = informativeness(latent + 100, flux - 7)  # shifts do not matter
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert n_informative(xr.DataArray([0.5, 0.01, 0.011, 0.0])) == 2
    refused("300 latent vectors, but 10 spectra", informativeness, latent, flux[:10])
    flux[273, 4] = np.nan
    refused("galaxy 273", informativeness, latent, flux)


@pytest.mark.parametrize("rho", [0.3, 0.6, -0.9])
def test_gaussian_pairs_have_the_known_information(rho):
    truth = -0.5 * np.log(1 - rho**2)
    estimate = shared(*gaussian_pair(rho, 4000, 5)).mi
    # The maximum-likelihood estimate scatters by |rho| / sqrt(n) (delta method).
    assert estimate == pytest.approx(truth, abs=3.5 * abs(rho) / np.sqrt(4000) + 0.002)


def test_mixture_has_the_information_of_its_integral():
    rng, separation = np.random.default_rng(3), 1.2
    sign = rng.choice([-1, 1], 4000)
    x, y = (separation * sign + rng.standard_normal(4000) for _ in range(2))
    grid = np.linspace(-8, 8, 801)
    step = grid[1] - grid[0]
    normal = [np.exp(-0.5 * (grid - s * separation) ** 2) / np.sqrt(2 * np.pi) for s in (-1, 1)]
    joint = 0.5 * sum(np.outer(p, p) for p in normal)
    marginal = 0.5 * sum(normal)
    truth = np.sum(joint * np.log(joint / np.outer(marginal, marginal))) * step**2
    assert shared(x, y).mi == pytest.approx(truth, rel=0.08)


def test_curved_relation_is_seen_where_correlation_sees_none():
    """y = x^2 + noise: the truth from the entropies of y and of the noise."""
    rng = np.random.default_rng(4)
    x, sigma = rng.standard_normal(4000), 0.5
    y = x**2 + sigma * rng.standard_normal(4000)
    grid = np.linspace(-4, 30, 6801)
    nodes = np.linspace(-6, 6, 2401)
    density = np.exp(-0.5 * nodes**2) * (nodes[1] - nodes[0]) / np.sqrt(2 * np.pi)
    p = np.exp(-0.5 * ((grid[:, None] - nodes**2) / sigma) ** 2) @ density / np.sqrt(2 * np.pi) / sigma
    p = np.where(p > 0, p, 1e-300)
    truth = -np.sum(p * np.log(p)) * (grid[1] - grid[0]) - 0.5 * np.log(2 * np.pi * np.e * sigma**2)
    assert shared(x, y).mi == pytest.approx(truth, rel=0.15)


def test_outliers_and_monotonic_changes_do_not_matter():
    x, y = gaussian_pair(0.7, 1000, 9)
    first = float(shared(x, y).mi)
    assert shared(np.exp(3 * x), y**3 + 5).mi == first
    assert shared(y, x).mi == pytest.approx(first, abs=0.02)
    x, y = gaussian_pair(0.6, 2000, 5)
    x[:3], y[3:6] = [1e4, -3e5, 1e6], [1e7, -1e3, 1e5]
    assert shared(x, y).mi == pytest.approx(0.223, abs=0.05)


def test_independent_pairs_share_no_more_than_shuffled_ones_and_errors_are_those_of_correlations():
    x, y = gaussian_pair(0.0, 2000, 8)
    result = shared(np.exp(x), y, seed=2, n_shuffles=10)
    assert result.mi - result.bias < 0.003 and abs(result.bias) < 0.002
    rho = 0.6
    error = shared(*gaussian_pair(rho, 1000, 5), n_bootstrap=20).mi_error
    assert error == pytest.approx(rho / np.sqrt(1000), rel=0.6)


@pytest.fixture
def tables():
    rng = np.random.default_rng(6)
    z = rng.standard_normal((800, 3))
    columns = {"log_mass": z[:, 0] + 0.5 * rng.standard_normal(800), "redshift": rng.random(800)}
    parameters = xr.Dataset({name: ("galaxy", value) for name, value in columns.items()})
    parameters["spectral_class"] = ("galaxy", np.repeat("AGN", 800))
    return xr.DataArray(z, dims=("galaxy", "latent"), coords={"latent": [2, 6, 12]}), parameters


def test_matrix_finds_the_one_pair_that_shares(tables):
    result = mutual_information_matrix(*tables, **QUICK | {"n_shuffles": 4})
    assert result.mi.sel(first=2, second="log_mass") == pytest.approx(0.80, abs=0.1)  # -0.5 ln(1 - 1 / 1.25)
    others = result.mi.where(~((result["first"] == 2) & (result["second"] == "log_mass")))
    assert float((others - result.bias).max()) < 0.01
    assert result.attrs["n_galaxies"] == 800 and result.attrs["interrupted"] == 0


def test_matrix_is_the_same_on_two_processes(tables):
    options = QUICK | {"n_max": 500, "n_bootstrap": 2, "n_shuffles": 3}
    one, two = (mutual_information_matrix(*tables, **options | {"n_jobs": n}) for n in (1, 2))
    xr.testing.assert_identical(one, two)


def test_an_interrupt_keeps_the_pairs_that_are_done(tables, monkeypatch):
    """Of a table with itself, whose matrix is symmetric without diagonal."""
    whole = mutual_information_matrix(tables[0], **QUICK)
    np.testing.assert_array_equal(whole.mi, whole.mi.T)
    assert np.isnan(np.diagonal(whole.mi)).all() and np.isfinite(whole.mi.values[0, 1:]).all()

    def run(function, jobs, take, **_):
        for k, (place, *_) in enumerate(jobs[:2]):
            take((place, (0.1 * (k + 1), 0.01)))
        return False

    monkeypatch.setattr(information, "run_jobs", run)
    with pytest.warns(UserWarning, match="interrupted"):
        result = mutual_information_matrix(tables[0], **QUICK)
    assert result.attrs["interrupted"] == 1
    np.testing.assert_allclose(result.mi.values[0], [np.nan, 0.1, 0.2])
    assert np.isnan(result.mi.values[1, 2])


def test_bad_input_is_told(tables):
    z, columns = tables
    few = columns[["log_mass"]].where(columns["redshift"] < np.sort(columns["redshift"])[50])
    for first, second, message in (
        (z[:500], columns, "a has 500 galaxies and b 800"),
        (z, columns.assign(redshift=("galaxy", np.full(800, 0.1))), "redshift is constant"),
        (z, few, "log_mass: 50 finite pairs"),
        (z, columns[["spectral_class"]], "no numeric"),
        (z.values, columns, "give a Dataset"),
    ):
        refused(message, mutual_information_matrix, first, second, **QUICK)


def test_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gmm_mi", None)
    refused("pip install", shared, np.arange(200.0), np.arange(200.0), error=ImportError)
