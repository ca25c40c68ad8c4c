"""Probes find what is there, do not find what is not, and say how sure they are."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.probes import compress_pca, measure_degeneracy, probe_latents
from tests.refusals import refused


def latents(values):
    return xr.DataArray(values, dims=("galaxy", "latent"))


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((1500, 4))
    noise = rng.standard_normal((3, 1500))
    columns = {"straight": 2 * z[:, 0] - z[:, 1] + np.sqrt(5 / 4) * noise[0]}  # R^2 = 0.8
    columns |= {"curled": z[:, 2] ** 2, "absent": noise[1]}
    return latents(z), xr.Dataset({name: ("galaxy", value) for name, value in columns.items()})


@pytest.fixture(scope="module")
def probes(sample):
    return probe_latents(*sample, seed=3)


def test_linear_probe_reaches_what_noise_allows_and_only_the_network_finds_what_is_curled_up(probes, sample):
    straight = probes.sel(kind="linear", parameter="straight")
    assert straight.r2 == pytest.approx(0.8, abs=4 * float(straight.r2_error))
    assert 0.005 < straight.r2_error < 0.05
    linear, network = (probes.r2.sel(kind=kind, parameter="curled") for kind in ("linear", "mlp"))
    assert linear < 0.05 and network > 0.85
    assert (probes.r2.sel(parameter="absent") < 0.03).all()
    # Scores are of galaxies that were not fitted.
    rows = probes.test_galaxy.values
    assert len(rows) == len(set(rows)) == probes.attrs["n_test"] == 375
    np.testing.assert_array_equal(probes.truth.sel(parameter="curled"), sample[1].curled.values[rows])


def test_galaxies_that_are_not_finite_are_left_out_and_counted(sample):
    z, parameters = (part.isel(galaxy=slice(300)) for part in sample)
    found = probe_latents(z, parameters.where(np.arange(300) >= 40), seed=3, n_bootstrap=10)
    assert found.attrs["n_left_out"] == 40 and found.test_galaxy.min() >= 40


def test_what_cannot_be_probed_or_compressed_is_refused(sample, spectra):
    z, columns = sample
    refused("100 latent vectors", probe_latents, z[:100], columns, seed=0)
    refused("needs 50", probe_latents, z[:20], columns.isel(galaxy=slice(20)), seed=0)
    refused("absent is constant", probe_latents, z, columns.assign(absent=0 * columns["absent"] + 1), seed=0)
    refused("no numeric per-galaxy column", probe_latents, z, columns.astype(str), seed=0)
    spoilt = spectra.copy(deep=True)
    spoilt[17, 3] = np.nan
    refused("galaxy 17", compress_pca, spoilt, 2, seed=0)
    refused("cannot give 39", compress_pca, spectra[:20], 39, seed=0)


@pytest.fixture(scope="module")
def spectra():
    rng = np.random.default_rng(2)
    z = rng.standard_normal((600, 3)) * [3, 2, 1]
    basis = np.linalg.qr(rng.standard_normal((40, 3)))[0].T
    flux = 1 + z @ basis + 0.1 * rng.standard_normal((600, 40))
    return xr.DataArray(flux, dims=("galaxy", "wavelength"), coords={"wavelength": np.arange(40.0)})


def test_pca_error_is_eq_9_the_lost_variance_and_the_noise_with_all_components(spectra):
    one, two, three = (compress_pca(spectra, n, seed=1) for n in (1, 2, 3))
    assert one.mse > two.mse > three.mse
    assert float(two.mse) == pytest.approx((1 + 0.01 * 38) / 40, rel=0.2)
    back = two.latent.values @ two.component.values + two["mean"].values
    squares = (back - spectra.values)[two.is_test.values] ** 2
    np.testing.assert_allclose(two.mse_per_pixel, squares.mean(0), rtol=1e-8)
    # Of 40 noisy pixels, 3 directions are fitted.
    assert float(three.mse) == pytest.approx(0.01 * 37 / 40, rel=0.05)
    np.testing.assert_allclose(three.explained, np.array([9, 4, 1]) / 14.4, rtol=0.15)
    assert three.latent.shape == (600, 3)


def test_degenerate_parameters_have_opposite_errors(probes):
    rng = np.random.default_rng(5)
    age, metallicity = rng.standard_normal((2, 2000))
    parameters = xr.Dataset({"age": ("galaxy", age), "metallicity": ("galaxy", metallicity)})

    def degeneracy(seen):
        found = probe_latents(latents(seen), parameters, seed=1, n_bootstrap=0)
        return measure_degeneracy(found, "age", "metallicity", "linear")

    noisy_difference = 0.1 * (age - metallicity) + 0.3 * rng.standard_normal(2000)
    result = degeneracy(np.stack([age + metallicity, noisy_difference], axis=1))
    assert result.correlation < -0.95
    assert abs(result.correlation_truth) < 0.1
    # Where both are seen with noise of their own, the errors have nothing to do with each other.
    clear = degeneracy(np.stack([age, metallicity], axis=1) + 0.3 * rng.standard_normal((2000, 2)))
    assert abs(clear.correlation) < 4 * clear.correlation_error
    refused("no parameter 'age', but straight", measure_degeneracy, probes, "age", "absent")
