import numpy as np
import pytest

from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.papers.zahid2019.sample import make_heldout
from tools.make.randomised_domain import randomise

NOTHING = {"continuum": 0.0, "depth": 0.0, "noise": 0.0, "fwhm": (330.0, 330.0)}


@pytest.fixture(scope="module")
def heldout(grid):
    return make_heldout(40, seed=5, grid=grid)


def draw(heldout, seed=0, **options):
    return randomise(heldout, seed=seed, **(NOTHING | options))["flux"].values - heldout["flux"].values


@pytest.mark.parametrize("fwhm", [305.0, 365.0])
def test_another_width_is_that_of_spectra_made_with_it(heldout, grid, fwhm, monkeypatch):
    monkeypatch.setattr("spectool.papers.zahid2019.sample.FWHM", fwhm)
    truth = make_heldout(40, seed=5, grid=grid)["flux"].values - heldout["flux"].values
    assert np.std(draw(heldout, fwhm=(fwhm, fwhm)) - truth) < 0.35 * np.std(truth)


def test_continua_and_depths_are_distorted_as_much_as_asked_and_normalisation_takes_nothing_out(heldout):
    change = draw(heldout, continuum=0.02) / (1 + heldout["flux"].values)
    # Three scales, each with an rms drawn evenly from 0 to 0.02: 0.02 together, but for what polynomials take.
    assert 0.4 < np.sqrt((change**2).mean()) / 0.02 < 1.0
    basis = ContinuumBasis.optical()
    assert np.abs(change @ basis.vectors.numpy()).max() < 1e-5
    spectra = 1 + heldout["flux"].values + draw(heldout, continuum=0.005)
    again = normalize_continuum(spectra, None, basis)[0]
    assert np.std(again - (spectra - 1)) < 0.1 * np.std(again)
    x = heldout["flux"].values
    change = draw(heldout, depth=0.1)
    factor = (change * x).sum(axis=1) / (x * x).sum(axis=1)
    assert 0.06 < factor.std() < 0.2
    flat = np.abs(x) < 1e-5
    assert np.abs(change[flat]).max() < 1e-5


def test_noise_is_correlated_over_the_line_width(heldout):
    noise = draw(heldout, noise=0.01) / (1 + heldout["flux"].values)
    assert 0.3 < noise.std() / 0.01 < 0.8
    # A white series through a Gaussian of sigma s has correlation exp(-d^2 / 4 s^2) at distance d.
    wavelength = heldout["wavelength"].values
    near = np.flatnonzero(np.abs(wavelength - 5300) < 300)
    steady = near[wavelength[near] - wavelength[near - 6] == 6]
    sigma = 5300 * 330 / 299792.458 / 2.3548
    for lag in (1, 3, 6):
        found = np.mean(noise[:, steady] * noise[:, steady - lag]) / np.mean(noise[:, steady] ** 2)
        assert found == pytest.approx(np.exp(-(lag**2) / 4 / sigma**2), abs=0.08)


def test_a_seed_is_a_distortion_and_masked_pixels_and_the_input_stay(heldout):
    assert not draw(heldout).any(), "nothing asked for changes nothing"
    masked = heldout.assign(mask=heldout["mask"].copy())
    masked["mask"][:, 100:140] = True
    before = masked.copy(deep=True)
    first, second, other = (randomise(masked, seed=k)["flux"].values for k in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any() and np.isfinite(first).all() and first.dtype == np.float32
    assert not first[:, 100:140].any() and masked.identical(before)
