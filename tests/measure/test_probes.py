"""Probes find what is there, do not find what is not, and say how sure they are."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.probes import compress_pca, measure_degeneracy, probe_latents


def latents(values):
    return xr.DataArray(values, dims=("galaxy", "latent"))


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((1500, 4))
    noise = rng.standard_normal((3, 1500))
    columns = {
        "straight": 2 * z[:, 0] - z[:, 1] + np.sqrt(5 / 4) * noise[0],  # R^2 = 0.8
        "curled": z[:, 2] ** 2,
        "absent": noise[1],
    }
    return latents(z), xr.Dataset({name: ("galaxy", value) for name, value in columns.items()})


@pytest.fixture(scope="module")
def probes(sample):
    return probe_latents(*sample, seed=3)


def test_linear_probe_reaches_the_r2_that_noise_allows(probes):
    r2 = probes.r2.sel(kind="linear", parameter="straight")
    assert r2 == pytest.approx(0.8, abs=4 * float(probes.r2_error.sel(kind="linear", parameter="straight")))
    assert 0.005 < probes.r2_error.sel(kind="linear", parameter="straight") < 0.05


def test_only_the_network_finds_what_is_curled_up(probes):
    assert probes.r2.sel(kind="linear", parameter="curled") < 0.05
    assert probes.r2.sel(kind="mlp", parameter="curled") > 0.85


def test_nothing_is_found_where_nothing_is(probes):
    assert (probes.r2.sel(parameter="absent") < 0.03).all()


def test_scores_are_of_galaxies_that_were_not_fitted(probes, sample):
    rows = probes.test_galaxy.values
    assert len(rows) == len(set(rows)) == probes.attrs["n_test"] == 375
    np.testing.assert_array_equal(probes.truth.sel(parameter="curled"), sample[1].curled.values[rows])


def test_same_seed_gives_the_same_probe(sample):
    few = [part.isel(galaxy=slice(300)) for part in sample]
    first, again = (probe_latents(*few, seed=3, n_bootstrap=10) for _ in range(2))
    xr.testing.assert_identical(first, again)


def test_galaxies_that_are_not_finite_are_left_out_and_counted(sample):
    z, parameters = sample
    spoilt = parameters.copy(deep=True)
    spoilt["straight"][:40] = np.nan
    result = probe_latents(z, spoilt, seed=3, n_bootstrap=0)
    assert result.attrs["n_left_out"] == 40
    assert result.test_galaxy.min() >= 40


def test_bad_input_is_told(sample):
    z, parameters = sample
    with pytest.raises(ValueError, match="100 latent vectors"):
        probe_latents(z[:100], parameters, seed=0)
    with pytest.raises(ValueError, match="needs 50"):
        probe_latents(z[:20], parameters.isel(galaxy=slice(20)), seed=0)
    with pytest.raises(ValueError, match="absent is constant"):
        probe_latents(z, parameters.assign(absent=("galaxy", np.ones(1500))), seed=0)


@pytest.fixture(scope="module")
def spectra():
    rng = np.random.default_rng(2)
    z = rng.standard_normal((600, 3)) * [3, 2, 1]
    basis = np.linalg.qr(rng.standard_normal((40, 3)))[0].T
    flux = 1 + z @ basis + 0.1 * rng.standard_normal((600, 40))
    return xr.DataArray(flux, dims=("galaxy", "wavelength"), coords={"wavelength": np.arange(40.0)})


def test_pca_leaves_the_noise_when_it_has_all_components(spectra):
    result = compress_pca(spectra, 3, seed=1)
    # Of 40 noisy pixels, 3 directions are fitted.
    assert float(result.mse) == pytest.approx(0.01 * 37 / 40, rel=0.05)
    np.testing.assert_allclose(result.explained, np.array([9, 4, 1]) / 14.4, rtol=0.15)
    assert result.latent.shape == (600, 3)


def test_pca_error_falls_with_components_and_is_the_lost_variance(spectra):
    errors = [float(compress_pca(spectra, n, seed=1).mse) for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] == pytest.approx((1 + 0.01 * 38) / 40, rel=0.2)


def test_pca_reconstruction_error_is_eq_9(spectra):
    result = compress_pca(spectra, 2, seed=1)
    back = result.latent.values @ result.component.values + result["mean"].values
    squares = (back - spectra.values)[result.is_test.values] ** 2
    np.testing.assert_allclose(result.mse_per_pixel, squares.mean(0), rtol=1e-8)


def test_pca_refuses_what_it_cannot_mask(spectra):
    spoilt = spectra.copy(deep=True)
    spoilt[17, 3] = np.nan
    with pytest.raises(ValueError, match="galaxy 17"):
        compress_pca(spoilt, 2, seed=0)
    with pytest.raises(ValueError, match="cannot give 39"):
        compress_pca(spectra[:20], 39, seed=0)


def test_degenerate_parameters_have_opposite_errors():
    rng = np.random.default_rng(5)
    age, metallicity = rng.standard_normal((2, 2000))
    seen = np.stack([age + metallicity, 0.1 * (age - metallicity) + 0.3 * rng.standard_normal(2000)], axis=1)
    parameters = xr.Dataset({"age": ("galaxy", age), "metallicity": ("galaxy", metallicity)})
    result = measure_degeneracy(
        probe_latents(latents(seen), parameters, seed=1, n_bootstrap=0), "age", "metallicity", "linear"
    )
    assert result.correlation < -0.95
    assert abs(result.correlation_truth) < 0.1
    # Where both are seen with noise of their own, the errors have nothing to do with each other.
    clear = latents(np.stack([age, metallicity], axis=1) + 0.3 * rng.standard_normal((2000, 2)))
    apart = measure_degeneracy(
        probe_latents(clear, parameters, seed=1, n_bootstrap=0), "age", "metallicity", "linear"
    )
    assert abs(apart.correlation) < 4 * apart.correlation_error


def test_unknown_parameter_is_named(probes):
    with pytest.raises(ValueError, match="no parameter 'age', but straight"):
        measure_degeneracy(probes, "age", "absent")
