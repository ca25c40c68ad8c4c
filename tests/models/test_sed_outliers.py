"""Galaxies unlike the training sample: wrong units are flagged, ordinary galaxies are not."""

import numpy as np
import pytest

from spectool.models.bands import BandInputs, read_inputs
from spectool.models.outliers import FALSE_ALARMS, band_statistics, band_values, score_band_outliers
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies
from tools.make.outlier_references import fit_band_outliers


@pytest.fixture(scope="module")
def parts():
    inputs = read_inputs(make_galaxies(6000, seed=3, gaps=0.2), list(BANDS))
    return inputs.take(slice(0, 3000)), inputs.take(slice(3000, 4500)), inputs.take(slice(4500, 6000))


@pytest.fixture(scope="module")
def arrays(parts):
    return fit_band_outliers(*parts[:2])


def scaled(inputs, flux=1.0, error=1.0):
    return BandInputs(inputs.value * flux, inputs.error * error, inputs.mask, inputs.redshift)


def test_false_alarms_are_as_many_as_allowed(parts, arrays):
    score, reason = score_band_outliers(arrays, parts[2])
    for allowed in (FALSE_ALARMS, 0.05):
        assert 0.2 * allowed < (score >= -np.log10(allowed)).mean() < 2 * allowed
    np.testing.assert_array_equal(reason != "", score >= -np.log10(FALSE_ALARMS))


@pytest.mark.parametrize("factor", [1e3, 1e-3, 1e6])
def test_wrong_units_are_flagged(parts, arrays, factor):
    assert (score_band_outliers(arrays, scaled(parts[2], factor, factor))[1] != "").mean() > 0.99


def test_one_band_in_a_wrong_unit_is_flagged(parts, arrays):
    factors = np.where(np.array(list(BANDS)) == "r", 1e3, 1.0)
    assert (score_band_outliers(arrays, scaled(parts[2], factors, factors))[1] != "").mean() > 0.9


def test_errors_of_another_survey_are_told_apart(parts, arrays):
    assert (score_band_outliers(arrays, scaled(parts[2], error=30.0))[1] == "errors").mean() > 0.99


def test_a_missing_value_is_not_looked_at(parts, arrays):
    test = parts[2]
    hidden = test.mask.copy()
    hidden[:, 10:] = True
    nonsense = np.where(hidden, 1e9, test.value)
    a = score_band_outliers(
        arrays, BandInputs(nonsense, np.where(hidden, np.nan, test.error), hidden, test.redshift)
    )
    b = score_band_outliers(arrays, BandInputs(test.value, test.error, hidden, test.redshift))
    np.testing.assert_array_equal(a[0], b[0])
    assert (b[1] != "").mean() < 0.03


def test_the_two_distances_are_those_of_the_whole_covariance(parts, arrays):
    """Distance of the fluxes plus that of the errors given them is the Mahalanobis distance of all values."""
    whole = parts[2].take(~parts[2].mask.any(axis=1))
    found = band_statistics(arrays, whole)
    squares = []
    for name, n in (("fluxes", 22), ("errors", 21)):
        variance = 2 / (9 * n)
        squares.append(n * (found[name] * np.sqrt(variance) + 1 - variance) ** 3)
    away = band_values(arrays, whole) - arrays["outlier_center"]
    direct = np.einsum("ni,ij,nj->n", away, np.linalg.inv(arrays["outlier_covariance"]), away)
    np.testing.assert_allclose(sum(squares), direct, rtol=1e-6)


def test_a_reference_is_needed(parts):
    with pytest.raises(KeyError, match="without a reference"):
        score_band_outliers({}, parts[2])
    with pytest.raises(ValueError, match="have all bands"):
        fit_band_outliers(parts[0].take(slice(0, 20)), parts[1])
