"""Spectra, galaxies and binned spectra unlike the training set are found, and ordinary ones are left in peace."""

import numpy as np
import pytest
import torch

from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.models.bands import BandInputs, read_inputs
from spectool.models.denoise import denoise, flux_errors
from spectool.models.outliers import (
    BIN,
    BIN_STATISTICS,
    FALSE_ALARMS,
    STATISTICS,
    band_statistics,
    band_values,
    bin_spectra,
    score_band_outliers,
    score_bin_outliers,
    score_outliers,
)
from spectool.papers.zahid2019.sample import make_heldout, make_sample, training_table
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies
from tools.make.references import fit_band_outliers, fit_bin_outliers, fit_flux_errors, fit_outliers

SIGMA = 0.04  # S/N 25


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
    assert all("units" in v.attrs for v in found.data_vars.values())
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
        assert set(found["reason"].values) <= {*STATISTICS, ""}
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


def test_false_alarms_among_galaxies_are_as_many_as_allowed(bands, of_bands):
    score, reason = score_band_outliers(of_bands, bands[2])
    for allowed in (FALSE_ALARMS, 0.05):
        assert 0.2 * allowed < (score >= -np.log10(allowed)).mean() < 2 * allowed
    np.testing.assert_array_equal(reason != "", score >= -np.log10(FALSE_ALARMS))


def test_wrong_units_and_errors_are_flagged(bands, of_bands):
    one_band, whatever = np.where(np.array(list(BANDS)) == "r", 1e3, 1.0), ["fluxes", "errors"]
    for factor, least in ((1e3, 0.99), (1e-3, 0.99), (1e6, 0.99), (one_band, 0.9)):
        _, reason = score_band_outliers(of_bands, scaled(bands[2], factor, factor))
        assert np.isin(reason, whatever).mean() > least
    _, reason = score_band_outliers(of_bands, scaled(bands[2], error=30.0))
    assert (reason == "errors").mean() > 0.99


def test_a_missing_value_is_not_looked_at(bands, of_bands):
    test = bands[2]
    hidden = test.mask.copy()
    hidden[:, 10:] = True
    nonsense, nothing = np.where(hidden, 1e9, test.value), np.where(hidden, np.nan, test.error)
    a, b = (
        score_band_outliers(of_bands, BandInputs(value, error, hidden, test.redshift))
        for value, error in ((nonsense, nothing), (test.value, test.error))
    )
    np.testing.assert_array_equal(a[0], b[0])
    assert (b[1] != "").mean() < 0.03


def test_the_two_distances_are_those_of_the_whole_covariance(bands, of_bands):
    """Distance of the fluxes plus that of the errors given them is the Mahalanobis distance of all values."""
    whole = bands[2].take(~bands[2].mask.any(axis=1))
    found = band_statistics(of_bands, whole)
    squares = []
    for name, n in (("fluxes", 22), ("errors", 21)):
        variance = 2 / (9 * n)
        squares.append(n * (found[name] * np.sqrt(variance) + 1 - variance) ** 3)
    away = band_values(of_bands, whole) - of_bands["outlier_center"]
    direct = np.einsum("ni,ij,nj->n", away, np.linalg.inv(of_bands["outlier_covariance"]), away)
    np.testing.assert_allclose(sum(squares), direct, rtol=1e-6)


def test_without_a_reference_nothing_is_judged(bands, ordinary):
    for score, arguments in ((score_outliers, (None, None)), (score_band_outliers, (bands[2],))):
        with pytest.raises(KeyError, match="without a reference"):
            score({}, *arguments)
    with pytest.raises(KeyError):
        score_bins({}, ordinary)
    with pytest.raises(ValueError, match="have all bands"):
        fit_band_outliers(bands[0].take(slice(0, 20)), bands[1])


@pytest.fixture(scope="module")
def basis():
    return ContinuumBasis.optical()


@pytest.fixture(scope="module")
def ordinary(grid):
    """Prepared spectra without noise of histories that the reference is not learnt from."""
    return make_heldout(400, seed=5, grid=grid)["flux"].values


@pytest.fixture(scope="module")
def of_bins(grid):
    rng = np.random.default_rng(3)
    table = training_table()
    table = table.isel(galaxy=rng.choice(table.sizes["galaxy"], 3000, replace=False))
    training = make_sample(grid, table=table)["flux"].values
    usual = make_heldout(1500, seed=4, grid=grid)["flux"].values
    sigma = (1 / np.exp(rng.uniform(np.log(5), np.log(40), len(usual)))).astype("f4")
    noisy = usual + sigma[:, None] * rng.standard_normal(usual.shape, dtype="f4")
    return fit_bin_outliers(training, noisy, sigma)


def noisy(x, sigma=SIGMA, seed=8):
    return x + sigma * np.random.default_rng(seed).standard_normal(x.shape, dtype="f4")


def score_bins(of_bins, x, sigma=SIGMA, bad=None):
    x, bad = (None if a is None else torch.from_numpy(a) for a in (x.astype("f4"), bad))
    x = x if bad is None else x.masked_fill(bad, 0)
    return score_bin_outliers(of_bins, x, torch.full((len(x), 1), sigma**2), bad)


def flagged(of_bins, x, sigma=SIGMA, bad=None):
    return score_bins(of_bins, x, sigma, bad)["score"] > 2


def test_ordinary_binned_spectra_pass_at_any_noise_with_pixels_missing(of_bins, ordinary, rng):
    for sigma in (0.2, 0.1, 0.05, 0.02, 0.0):
        assert flagged(of_bins, noisy(ordinary, sigma), sigma).mean() < 0.04
    bad = rng.random(ordinary.shape) < 0.02
    bad[:, 600:640] = True
    x = np.where(bad, 77, noisy(ordinary, 0.02))
    assert flagged(of_bins, x, 0.02, bad).mean() < 0.04
    per_bin = torch.full((len(x), len(of_bins["outlier_mean"])), 0.02**2)
    given = torch.from_numpy(np.where(bad, 0, x).astype("f4")), per_bin, torch.from_numpy(bad)
    again = score_bin_outliers(of_bins, *given)
    np.testing.assert_allclose(again["chi2"], score_bins(of_bins, x, 0.02, bad)["chi2"], rtol=1e-3)


def make_quasar(wavelength, fwhm=4500.0):
    """A power law with the emission lines of Vanden Berk et al. (2001, Table 2), Fe II as three bumps."""
    flux = wavelength**-1.5 / 5000.0**-1.5
    broad = ((4102.9, 5.1), (4341.7, 12.6), (4862.7, 46.2), (6564.6, 194.5), (5877.2, 4.8))
    lines = [(centre, width, fwhm / 2.355 / 299792.458 * centre) for centre, width in broad]
    lines += [(4570.0, 20.0, 50.0), (5190.0, 10.0, 40.0), (5320.0, 10.0, 40.0)]
    for centre, width, sigma in lines:
        profile = np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
        flux = flux + width / (np.sqrt(2 * np.pi) * sigma) * profile
    return flux


def make_star(wavelength):
    """TiO bands of an M star, sharp to the red: 4761, 4954, 5167, 5448, 5862, 6159, 6651, 7053 A."""
    flux = (wavelength / 6000) ** 3
    for head in (4761, 4954, 5167, 5448, 5862, 6159, 6651, 7053):
        flux = flux * np.where(wavelength > head, 1 - 0.5 * np.exp(-(wavelength - head) / 80), 1)
    return flux


def test_quasars_stars_wrong_redshifts_and_lines_are_flagged(of_bins, ordinary, basis):
    wavelength = basis.kept_wavelength
    spectra = [*(make_quasar(wavelength, fwhm) for fwhm in (2500, 4500, 8000)), make_star(wavelength)]
    strange = score_bins(of_bins, noisy(normalize_continuum(np.stack(spectra), None, basis)[0]))
    assert (strange["score"] > 2).all() and strange["chi2"][-1] > 3
    strong = ordinary[ordinary.std(axis=1) > 0.02]
    moved = np.stack([np.interp(wavelength * 1.02, wavelength, row) for row in strong]).astype("f4")
    assert len(strong) > 40 and flagged(of_bins, noisy(moved)).mean() > 0.8
    line = 4.0 / (np.sqrt(2 * np.pi) * 2.4) * np.exp(-0.5 * ((wavelength - 5412.0) / 2.4) ** 2)
    result = score_bins(of_bins, noisy(ordinary + line.astype("f4")))
    assert (result["score"] > 2).mean() > 0.9
    assert (result["which"] == BIN_STATISTICS.index("excess")).mean() > 0.9
    where = wavelength[np.minimum(result["pixel"], len(wavelength) - 1)]
    assert (np.abs(where - 5412) < 2 * BIN).mean() > 0.9


def test_bins_are_means_of_good_pixels(rng):
    x, bad = rng.random((3, 2468)).astype("f4"), rng.random((3, 2468)) < 0.3
    x[bad] = 0
    means, count = bin_spectra(torch.from_numpy(x), torch.from_numpy(bad))
    for k in (0, 100, 308):
        part = slice(BIN * k, BIN * k + BIN)
        np.testing.assert_array_equal(count[:, k], (~bad[:, part]).sum(axis=1))
        wanted = [row[part][~b[part]].mean() for row, b in zip(x, bad, strict=True)]
        np.testing.assert_allclose(means[:, k], wanted, rtol=1e-5)
