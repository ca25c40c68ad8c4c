"""Spectra, galaxies and binned spectra unlike the training set are found, and ordinary ones are left in peace."""

import numpy as np
import pytest
import torch

from spectool.models import outliers
from spectool.models.bands import BandInputs, read_inputs
from spectool.models.denoise import denoise, flux_errors
from spectool.models.outliers import score_band_outliers, score_bin_outliers, score_outliers
from spectool.surveys.gama import BANDS
from tests.refusals import refused
from tests.sed_toy import make_galaxies
from tools.make.references import fit_band_outliers, fit_flux_errors, fit_outliers


@pytest.fixture(scope="module")
def reference(trained):
    valid = trained["samples"]["valid"]
    denoised = denoise(trained["model"], valid)
    flux, latent = denoised["flux"].values, denoised["latent"].values
    errors = fit_flux_errors(latent, flux - valid["truth"].values, seed=0)
    return errors | fit_outliers(valid, flux, latent, flux_errors(errors, latent))


def judge(trained, reference, sample):
    return score_outliers(reference, sample, denoise(trained["model"], sample, errors=reference))


def test_ordinary_spectra_raise_few_alarms_and_what_cannot_be_read_is_an_outlier(trained, reference):
    test = trained["samples"]["test"].copy(deep=True)
    test["noisy"][1] = np.nan
    found = judge(trained, reference, test)
    assert found["is_outlier"].mean() < 0.03
    assert float(found["chi2"].mean()) == pytest.approx(1.0, abs=0.05)
    found = found.isel(galaxy=1)
    assert found["is_outlier"] and found["reason"] == "not de-noised" and np.isnan(found["outlier_score"])


def test_local_artefacts_are_found_where_they_are(trained, reference, toy):
    test = trained["samples"]["test"].isel(galaxy=slice(0, 100))
    blue_edge = 0.25 * (test["wavelength"] < 3780)  # as high as the lines
    cosmic_ray = 12 * test["noisy_sigma"] * (np.arange(test.sizes["wavelength"]) == 60)
    for artefact, low, high in ((blue_edge, 3700, 3900), (cosmic_ray, 5350, 5500)):
        found = judge(trained, reference, test.assign(noisy=test["noisy"] + artefact))
        assert found["is_outlier"].mean() > 0.95
        assert ((found["excess_wavelength"] >= low) & (found["excess_wavelength"] <= high)).mean() > 0.9
        assert set(found["reason"].values) <= {*outliers.STATISTICS, ""}
    # With the paper's noise of 0.04 a step of 60% hides in the freedom of a slope; a quarter of that noise shows it.
    quiet = toy(100, seed=40, sigma=0.01)
    step = quiet.assign(noisy=quiet["noisy"] * (1 + 0.6 * (quiet["wavelength"] > 6000)))
    plain, step = (judge(trained, reference, s)["excess"].values for s in (quiet, step))
    assert np.median(step) > np.quantile(plain, 0.95)


@pytest.fixture(scope="module")
def bands():
    inputs = read_inputs(make_galaxies(6000, seed=3, gaps=0.2), list(BANDS))
    return inputs.take(slice(0, 3000)), inputs.take(slice(3000, 4500)), inputs.take(slice(4500, 6000))


@pytest.fixture(scope="module")
def of_bands(bands):
    return fit_band_outliers(*bands[:2])


def scaled(inputs, flux=1.0, error=1.0):
    return BandInputs(inputs.value * flux, inputs.error * error, inputs.mask, inputs.redshift)


def test_false_alarms_are_as_many_as_allowed_and_wrong_units_and_errors_are_flagged(bands, of_bands):
    score, reason = score_band_outliers(of_bands, bands[2])
    for allowed in (outliers.FALSE_ALARMS, 0.05):
        assert 0.2 * allowed < (score >= -np.log10(allowed)).mean() < 2 * allowed
    np.testing.assert_array_equal(reason != "", score >= -np.log10(outliers.FALSE_ALARMS))
    one_band, whatever = np.where(np.array(list(BANDS)) == "r", 1e3, 1.0), ["fluxes", "errors"]
    for factor, least in ((1e3, 0.99), (1e-3, 0.99), (1e6, 0.99), (one_band, 0.9)):
        _, reason = score_band_outliers(of_bands, scaled(bands[2], factor, factor))
        assert np.isin(reason, whatever).mean() > least
    _, reason = score_band_outliers(of_bands, scaled(bands[2], error=30.0))
    assert (reason == "errors").mean() > 0.99


def test_a_missing_value_is_not_looked_at_and_without_a_reference_nothing_judged(bands, of_bands):
    test = bands[2]
    hidden = test.mask.copy()
    hidden[:, 10:] = True
    nonsense, nothing = np.where(hidden, 1e9, test.value), np.where(hidden, np.nan, test.error)
    a = score_band_outliers(of_bands, BandInputs(nonsense, nothing, hidden, test.redshift))
    b = score_band_outliers(of_bands, BandInputs(test.value, test.error, hidden, test.redshift))
    np.testing.assert_array_equal(a[0], b[0])
    assert (b[1] != "").mean() < 0.03
    for score, arguments in ((score_outliers, (None, None)), (score_band_outliers, (bands[2],))):
        refused("without a reference", score, {}, *arguments, error=KeyError)
    with pytest.raises(KeyError):
        score_bin_outliers({}, torch.zeros(1, 2468), torch.ones(1, 1), None)
    refused("have all bands", fit_band_outliers, bands[0].take(slice(0, 20)), bands[1])


def test_the_two_distances_are_those_of_the_whole_covariance(bands, of_bands):
    """Distance of the fluxes plus that of the errors given them is the Mahalanobis distance of all values."""
    whole = bands[2].take(~bands[2].mask.any(axis=1))
    found = outliers.band_statistics(of_bands, whole)
    squares = []
    for name, n in (("fluxes", 22), ("errors", 21)):
        variance = 2 / (9 * n)
        squares.append(n * (found[name] * np.sqrt(variance) + 1 - variance) ** 3)
    away = outliers.band_values(of_bands, whole) - of_bands["outlier_center"]
    direct = np.einsum("ni,ij,nj->n", away, np.linalg.inv(of_bands["outlier_covariance"]), away)
    np.testing.assert_allclose(sum(squares), direct, rtol=1e-6)


def test_bins_are_means_of_good_pixels(rng):
    x, bad = rng.random((3, 2468)).astype("f4"), rng.random((3, 2468)) < 0.3
    x[bad] = 0
    means, count = outliers.bin_spectra(torch.from_numpy(x), torch.from_numpy(bad))
    for k in (0, 100, 308):
        part = slice(outliers.BIN * k, outliers.BIN * k + outliers.BIN)
        np.testing.assert_array_equal(count[:, k], (~bad[:, part]).sum(axis=1))
        wanted = [row[part][~b[part]].mean() for row, b in zip(x, bad, strict=True)]
        np.testing.assert_allclose(means[:, k], wanted, rtol=1e-5)
