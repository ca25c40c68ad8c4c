"""Galaxies unlike the training sample: wrong units are flagged, ordinary galaxies are not."""

import numpy as np
import pytest

from spectool.models.bands import SedInputs, read_inputs
from spectool.models.outliers import fit_sed_outliers, score_sed_outliers
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies


@pytest.fixture(scope="module")
def parts():
    inputs = read_inputs(make_galaxies(6000, seed=3, gaps=0.2), list(BANDS))
    return inputs.take(slice(0, 3000)), inputs.take(slice(3000, 4500)), inputs.take(slice(4500, 6000))


@pytest.fixture(scope="module")
def arrays(parts):
    return fit_sed_outliers(*parts[:2])


def scaled(inputs, flux=1.0, error=1.0):
    return SedInputs(inputs.flux * flux, inputs.error * error, inputs.mask, inputs.redshift)


def test_false_alarms_are_as_many_as_allowed(parts, arrays):
    for allowed in (0.01, 0.05):
        found = score_sed_outliers(arrays, parts[2], false_alarms=allowed)
        assert 0.2 * allowed < found["is_outlier"].mean() < 2 * allowed
        assert ((found["reason"] == "") == ~found["is_outlier"]).all()


@pytest.mark.parametrize("factor", [1e3, 1e-3, 1e6])
def test_wrong_units_are_flagged(parts, arrays, factor):
    found = score_sed_outliers(arrays, scaled(parts[2], factor, factor))
    assert found["is_outlier"].mean() > 0.99


def test_one_band_in_a_wrong_unit_is_flagged(parts, arrays):
    factors = np.where(np.array(list(BANDS)) == "r", 1e3, 1.0)
    assert score_sed_outliers(arrays, scaled(parts[2], factors, factors))["is_outlier"].mean() > 0.9


def test_errors_of_another_survey_are_told_apart(parts, arrays):
    found = score_sed_outliers(arrays, scaled(parts[2], error=30.0))
    assert (found["reason"] == "errors").mean() > 0.99


def test_a_missing_value_is_not_looked_at(parts, arrays):
    test = parts[2]
    hidden = test.mask.copy()
    hidden[:, 10:] = True
    nonsense = np.where(hidden, 1e9, test.flux)
    a = score_sed_outliers(
        arrays, SedInputs(nonsense, np.where(hidden, np.nan, test.error), hidden, test.redshift)
    )
    b = score_sed_outliers(arrays, SedInputs(test.flux, test.error, hidden, test.redshift))
    np.testing.assert_array_equal(a["outlier_score"], b["outlier_score"])
    assert b["is_outlier"].mean() < 0.03


def test_the_two_distances_are_those_of_the_whole_covariance(parts, arrays):
    """Distance of the fluxes plus that of the errors given them is the Mahalanobis distance of all values."""
    from spectool.models import outliers

    whole = parts[2].take(~parts[2].mask.any(axis=1))
    found = outliers._band_statistics(arrays, whole)
    squares = []
    for name, n in (("fluxes", 22), ("errors", 21)):
        variance = 2 / (9 * n)
        squares.append(n * (found[name] * np.sqrt(variance) + 1 - variance) ** 3)
    away = outliers._values(arrays, whole) - arrays["outlier_center"]
    direct = np.einsum("ni,ij,nj->n", away, np.linalg.inv(arrays["outlier_covariance"]), away)
    np.testing.assert_allclose(sum(squares), direct, rtol=1e-6)


def test_a_reference_is_needed(parts):
    with pytest.raises(KeyError, match="without a reference"):
        score_sed_outliers({}, parts[2])
    with pytest.raises(ValueError, match="have all bands"):
        fit_sed_outliers(parts[0].take(slice(0, 20)), parts[1])
