"""Spectra with artefacts are found, and ordinary ones are left in peace."""

import numpy as np
import pytest

from spectool.models.denoise import denoise, flux_errors
from spectool.models.outliers import score_outliers
from tools.make.flux_errors import fit_flux_errors
from tools.make.outlier_references import fit_outliers


@pytest.fixture(scope="module")
def reference(trained):
    valid = trained["samples"]["valid"]
    denoised = denoise(trained["model"], valid)
    flux, latent = denoised["flux"].values, denoised["latent"].values
    errors = fit_flux_errors(latent, flux - valid["truth"].values, seed=0)
    return errors | fit_outliers(valid, flux, latent, flux_errors(errors, latent))


def judge(trained, reference, sample):
    return score_outliers(reference, sample, denoise(trained["model"], sample, errors=reference))


def test_ordinary_spectra_raise_few_alarms(trained, reference):
    test = trained["samples"]["test"]
    found = judge(trained, reference, test)
    assert found["is_outlier"].mean() < 0.03
    assert float(found["chi2"].mean()) == pytest.approx(1.0, abs=0.05)
    assert all("units" in v.attrs for v in found.data_vars.values())


def spoil(sample, kind):
    """The paper's rising blue edge, a step in the calibration, or a cosmic ray."""
    wavelength, noisy = sample["wavelength"].values, sample["noisy"].values.copy()
    if kind == "blue edge":
        noisy += 0.25 * (wavelength < 3780)  # as high as the lines
    elif kind == "step":
        noisy *= np.where(wavelength > 6000, 1.6, 1.0)
    else:
        noisy[:, 60] += 12 * sample["noisy_sigma"].values[:, 60]
    return sample.assign(noisy=(("galaxy", "wavelength"), noisy.astype(np.float32), {"units": ""}))


@pytest.mark.parametrize(("kind", "where"), [("blue edge", (3700, 3900)), ("cosmic ray", (5350, 5500))])
def test_local_artefacts_are_found_where_they_are(trained, reference, kind, where):
    found = judge(trained, reference, spoil(trained["samples"]["test"].isel(galaxy=slice(0, 100)), kind))
    assert found["is_outlier"].mean() > 0.95
    at = found["excess_wavelength"].values
    assert ((at >= where[0]) & (at <= where[1])).mean() > 0.9
    assert set(found["reason"].values) <= {"chi2", "excess", "latent_distance", ""}


def test_a_step_is_found_where_the_noise_allows_it(trained, reference, toy):
    # With the paper's noise of 0.04 a step of 60% hides in the freedom of a slope; a quarter of that noise shows it.
    quiet = toy(100, seed=40, sigma=0.01)
    plain, step = (judge(trained, reference, s)["excess"].values for s in (quiet, spoil(quiet, "step")))
    assert np.median(step) > np.quantile(plain, 0.95)


def test_a_spectrum_that_cannot_be_read_is_an_outlier(trained, reference):
    test = trained["samples"]["test"].isel(galaxy=slice(0, 3)).copy(deep=True)
    test["noisy"][1] = np.nan
    found = judge(trained, reference, test)
    assert found["is_outlier"].values[1]
    assert found["reason"].values[1] == "not de-noised"
    assert np.isnan(found["outlier_score"].values[1])
    with pytest.raises(KeyError, match="without a reference"):
        score_outliers({}, test, found)
