"""Bins, normalisation and noise of the de-noising paper: sums, variances and counts come out as stated."""

import numpy as np
import pytest

from spectool.papers.scourfield2023 import sample as denoising
from spectool.prepare import PrepareWarning
from tests.refusals import refused
from tests.samples import FLUX_UNIT, make_spectra
from tools.make.scourfield2023_selection import fit_constant


def make_sample(rng, n=200, noise=0.0):
    """Power laws of different slope and level, with a line, in physical units."""
    wavelength = denoising.rest_wavelength()
    slope, level = rng.normal(0, 0.7, n), 10 ** rng.normal(1.3, 0.4, n)
    truth = level[:, None] * (wavelength / 5500) ** slope[:, None]
    truth += (level * rng.exponential(1, n))[:, None] * np.exp(-0.5 * ((wavelength - 6564) / 5) ** 2)
    flux = truth + noise * level[:, None] * rng.standard_normal(truth.shape)
    columns = {"ivar": np.float32(4.0), "mask": False, "truth": truth.astype("f4")}
    return make_spectra(flux.astype("f4"), wavelength, **columns)


@pytest.fixture
def sample(rng):
    return make_sample(rng, noise=0.03)


def test_bins_are_the_papers():
    wavelength = denoising.rest_wavelength()
    step = np.diff(np.log(wavelength))
    assert wavelength.size == 825 and np.ptp(step) < 1e-12
    assert wavelength[0] * np.exp(-step[0] / 2) == pytest.approx(3700)
    assert wavelength[-1] * np.exp(step[0] / 2) == pytest.approx(7900)
    assert step[0] * 299792.458 == pytest.approx(276, abs=0.5)


def test_the_constant_sets_the_total_variance_and_units_and_signal_to_noise_come_back(sample):
    constant = fit_constant(sample)
    normal = denoising.normalize_total(sample, constant=constant)
    assert denoising.total_variance(normal.truth) == pytest.approx(0.060, rel=1e-4)
    np.testing.assert_allclose(normal.flux.sum("wavelength"), constant, rtol=1e-4)
    np.testing.assert_allclose(normal.truth.sum("wavelength"), constant, rtol=1e-4)
    assert normal.flux.attrs["units"] == "" and normal.norm.attrs["units"] == FLUX_UNIT
    normal = denoising.normalize_total(sample, constant=33.0)
    np.testing.assert_allclose(normal.flux * normal.norm, sample.flux, rtol=1e-5)
    np.testing.assert_allclose(normal.truth * normal.truth_norm, sample.truth, rtol=1e-5)
    np.testing.assert_allclose(normal.ivar * normal.flux**2, sample.ivar * sample.flux**2, rtol=1e-4)


def test_total_variance_is_what_pca_shares_out(rng):
    from sklearn.decomposition import PCA

    x = rng.normal(size=(60, 9)) @ rng.normal(size=(9, 9))
    expected = PCA().fit(x).explained_variance_.sum() * 59 / 60
    assert denoising.total_variance(x) == pytest.approx(expected)
    with_gap = np.vstack([x, np.full(9, np.nan)])
    assert denoising.total_variance(with_gap) == pytest.approx(expected)


def test_masked_pixels_are_filled_and_stay_masked(rng):
    sample = make_sample(rng)
    whole = denoising.normalize_total(sample, constant=33.0)
    sample.mask[3, :4] = True
    sample.flux[3, :4] = np.nan
    sample.mask[5, 100:110] = True
    sample.flux[5, 100:110] = 1e6
    normal = denoising.normalize_total(sample, constant=33.0)
    np.testing.assert_allclose(normal.norm, whole.norm, rtol=2e-3)
    np.testing.assert_allclose(normal.flux[5, 100:110], whole.flux[5, 100:110], rtol=5e-3)
    assert np.ptp(normal.flux[3, :5].values) == 0 and normal.flux[3, 0] > 0
    assert normal.mask[3, :4].all() and (normal.ivar.values[normal.mask.values] == 0).all()
    assert normal.mask.values.sum() == 14


def test_spectra_without_light_are_masked_and_counted(rng):
    sample = make_sample(rng, n=6)
    sample.flux[1] = -sample.flux[1]
    sample.mask[2, :200] = True
    sample.flux[4] = np.nan
    with pytest.warns(PrepareWarning, match="galaxy number"):
        normal = denoising.normalize_total(sample, constant=33.0)
    assert np.flatnonzero(np.isnan(normal.norm)).tolist() == [1, 2, 4]
    assert normal.mask.all("wavelength").values.tolist() == [False, True, True, False, True, False]
    assert (normal.flux.values[[1, 2, 4]] == 0).all()
    assert "3 spectra masked out" in normal.attrs["history"]


def test_noise_has_its_size_and_the_sum_stays(sample):
    normal = denoising.normalize_total(sample, constant=33.0)
    noisy = denoising.add_noise(normal, seed=1)
    np.testing.assert_allclose(noisy.noisy.sum("wavelength"), 33.0, rtol=1e-4)
    pull = (noisy.noisy / noisy.noisy_scale - noisy.flux) / 0.04
    assert float(pull.mean()) == pytest.approx(0, abs=4 / np.sqrt(pull.size))
    assert float(pull.std()) == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size))
    np.testing.assert_allclose(noisy.noisy_sigma, 0.04 * noisy.noisy_scale + pull * 0, rtol=1e-5)
    gain = denoising.total_variance(noisy.noisy) - denoising.total_variance(noisy.flux)
    assert gain == pytest.approx(825 * 0.04**2, rel=0.05)
    np.testing.assert_array_equal(noisy.noisy, denoising.add_noise(normal, seed=1).noisy)
    assert (noisy.noisy != denoising.add_noise(normal, seed=2).noisy).any()


def test_one_noise_may_be_scaled_instead_of_drawn_and_vary(sample):
    normal = denoising.normalize_total(sample, constant=33.0)
    unit = np.random.default_rng(8).standard_normal(normal["flux"].shape, dtype="f4")
    drawn = denoising.add_noise(normal, seed=8, sigma=0.02)["noisy"].values
    scaled = denoising.add_noise(normal, seed=1, sigma=0.02, unit_noise=unit)["noisy"].values
    np.testing.assert_array_equal(scaled, drawn)
    alone = denoising.add_noise(normal.isel(galaxy=[3]), seed=1, sigma=0.02, unit_noise=unit[[3]])
    np.testing.assert_allclose(alone["noisy"].values[0], drawn[3], rtol=1e-6)
    falling = np.geomspace(0.1, 0.01, 825)
    for sigma in (falling, falling * np.linspace(0.5, 2, 200)[:, None]):
        noisy = denoising.add_noise(normal, seed=1, sigma=sigma)
        pull = (noisy.noisy / noisy.noisy_scale - noisy.flux).values / sigma
        assert pull[:, :100].std() == pytest.approx(1, abs=0.03) == pull[:, -100:].std()
    clean = denoising.add_noise(normal, seed=1, sigma=0.0)
    np.testing.assert_allclose(clean.noisy, clean.flux, rtol=1e-5)


def test_galaxies_that_drown_are_counted(rng):
    normal = denoising.normalize_total(make_sample(rng, n=40), constant=33.0)
    with pytest.warns(PrepareWarning, match="larger than the galaxy's light"):
        noisy = denoising.add_noise(normal, seed=3, sigma=3.0)
    lost = np.isnan(noisy.noisy_scale.values)
    assert 0 < lost.sum() < 40
    assert noisy.mask.values[lost].all() and not noisy.mask.values[~lost].any()
    assert (noisy.noisy.values[lost] == 0).all()


def test_bad_input_is_refused(rng):
    sample = make_sample(rng, n=3)
    normal = denoising.normalize_total(sample, constant=33.0)
    bare = sample.drop_vars("wavelength")
    refused("constant must be positive", denoising.normalize_total, sample, constant=0.0)
    refused("common rest-frame grid", denoising.normalize_total, bare, constant=1.0)
    refused("normalize_total before", denoising.add_noise, sample, seed=0)
    refused("negative or not finite", denoising.add_noise, normal, seed=0, sigma=-0.1)
    refused("positive summed flux", fit_constant, sample * -1)
