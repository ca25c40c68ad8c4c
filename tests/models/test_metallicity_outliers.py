"""Ordinary noisy spectra pass; quasars, shifted spectra, lines and other strangers do not."""

import numpy as np
import pytest
import torch

from spectool.models.outliers import BIN, BIN_STATISTICS, bin_spectra, score_bin_outliers
from spectool.papers.zahid2019.sample import make_heldout, make_sample, training_table
from spectool.prepare import ContinuumBasis, normalize_continuum
from tools.make.outlier_references import fit_bin_outliers

SIGMA = 0.04  # S/N 25


@pytest.fixture(scope="module")
def basis():
    return ContinuumBasis.optical()


@pytest.fixture(scope="module")
def ordinary(grid):
    """Prepared spectra without noise of histories that the reference is not learnt from."""
    return make_heldout(400, seed=5, grid=grid)["flux"].values


@pytest.fixture(scope="module")
def arrays(grid):
    rng = np.random.default_rng(3)
    table = training_table()
    table = table.isel(galaxy=rng.choice(table.sizes["galaxy"], 3000, replace=False))
    training = make_sample(grid, table=table)["flux"].values
    usual = make_heldout(1500, seed=4, grid=grid)["flux"].values
    sigma = (1 / np.exp(rng.uniform(np.log(5), np.log(40), len(usual)))).astype("f4")
    noisy = usual + sigma[:, None] * rng.standard_normal(usual.shape, dtype="f4")
    return fit_bin_outliers(training, noisy, sigma)


def add_noise(x, sigma=SIGMA, seed=8):
    return x + sigma * np.random.default_rng(seed).standard_normal(x.shape, dtype="f4")


def score(arrays, x, sigma=SIGMA, bad=None):
    x, bad = (None if a is None else torch.from_numpy(a) for a in (x.astype("f4"), bad))
    x = x if bad is None else x.masked_fill(bad, 0)
    return score_bin_outliers(arrays, x, torch.full((len(x), 1), sigma**2), bad)


def flagged(arrays, x, sigma=SIGMA, bad=None):
    return score(arrays, x, sigma, bad)["score"] > 2


@pytest.mark.parametrize("sigma", [0.2, 0.1, 0.05, 0.02, 0.0])
def test_ordinary_spectra_pass_at_any_noise(arrays, ordinary, sigma):
    assert flagged(arrays, add_noise(ordinary, sigma), sigma).mean() < 0.04


def test_missing_pixels_are_no_reason(arrays, ordinary, rng):
    bad = rng.random(ordinary.shape) < 0.02
    bad[:, 600:640] = True
    x = np.where(bad, 77, add_noise(ordinary, 0.02))
    assert flagged(arrays, x, 0.02, bad).mean() < 0.04
    per_bin = torch.full((len(x), len(arrays["outlier_mean"])), 0.02**2)
    given = torch.from_numpy(np.where(bad, 0, x).astype("f4")), per_bin, torch.from_numpy(bad)
    again = score_bin_outliers(arrays, *given)
    np.testing.assert_allclose(again["chi2"], score(arrays, x, 0.02, bad)["chi2"], rtol=1e-3)


def make_quasar(wavelength, fwhm=4500.0):
    """A power law with the emission lines of Vanden Berk et al. (2001, Table 2), Fe II as three bumps."""
    flux = wavelength**-1.5 / 5000.0**-1.5
    lines = ((4102.9, 5.1), (4341.7, 12.6), (4862.7, 46.2), (6564.6, 194.5), (5877.2, 4.8))
    for centre, width in lines:
        sigma = fwhm / 2.355 / 299792.458 * centre
        flux = flux + width / (np.sqrt(2 * np.pi) * sigma) * np.exp(
            -0.5 * ((wavelength - centre) / sigma) ** 2
        )
    for centre, width, sigma in ((4570.0, 20.0, 50.0), (5190.0, 10.0, 40.0), (5320.0, 10.0, 40.0)):
        flux = flux + width / (np.sqrt(2 * np.pi) * sigma) * np.exp(
            -0.5 * ((wavelength - centre) / sigma) ** 2
        )
    return flux


def test_quasars_are_flagged(arrays, basis):
    spectra = np.stack([make_quasar(basis.kept_wavelength, fwhm) for fwhm in (2500, 4500, 8000)])
    x, _ = normalize_continuum(spectra, None, basis)
    assert flagged(arrays, add_noise(x)).all()


def test_stars_with_molecular_bands_are_flagged(arrays, basis):
    """TiO bands of an M star, sharp to the red: 4761, 4954, 5167, 5448, 5862, 6159, 6651, 7053 A."""
    wavelength = basis.kept_wavelength
    flux = (wavelength / 6000) ** 3
    for head in (4761, 4954, 5167, 5448, 5862, 6159, 6651, 7053):
        flux = flux * np.where(wavelength > head, 1 - 0.5 * np.exp(-(wavelength - head) / 80), 1)
    x, _ = normalize_continuum(flux[None], None, basis)
    result = score(arrays, add_noise(x))
    assert result["score"][0] > 2 and result["chi2"][0] > 3


def test_a_wrong_redshift_is_flagged_where_there_are_features(arrays, ordinary, basis):
    wavelength = basis.kept_wavelength
    strong = ordinary[ordinary.std(axis=1) > 0.02]
    moved = np.stack([np.interp(wavelength * 1.02, wavelength, row) for row in strong]).astype("f4")
    assert len(strong) > 40
    assert flagged(arrays, add_noise(moved)).mean() > 0.8


def test_an_unmasked_line_is_flagged_and_found(arrays, ordinary, basis):
    wavelength = basis.kept_wavelength
    line = 4.0 / (np.sqrt(2 * np.pi) * 2.4) * np.exp(-0.5 * ((wavelength - 5412.0) / 2.4) ** 2)
    result = score(arrays, add_noise(ordinary + line.astype("f4")))
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


def test_networks_without_a_reference_say_so(ordinary):
    with pytest.raises(KeyError):
        score({}, ordinary)
