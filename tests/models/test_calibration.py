import numpy as np
import pytest

from spectool.models.calibration import coverage, fit_error_scaling


def draw(n, seed):
    """Predictions that are biased and loose where they are small."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-2, 1, n)
    bias, scatter = np.where(truth < -1, 0.4, 0.0), 0.05 + 0.2 * (truth < -0.5)
    return truth + bias + scatter * rng.standard_normal(n), truth


@pytest.mark.parametrize("correct_bias", [True, False])
def test_errors_learnt_on_half_the_galaxies_cover_the_others(correct_bias):
    scaling, (predicted, truth) = fit_error_scaling(*draw(4000, 1), correct_bias=correct_bias), draw(4000, 2)
    value, error = scaling.apply(predicted)
    share, sampling = coverage(value, error, truth)
    assert share == pytest.approx(0.68, abs=0.03 + sampling)
    assert coverage(predicted, np.full(predicted.shape, 0.05), truth)[0] < 0.6
    assert scaling.error[0] > 2 * scaling.error[-1]
    if correct_bias:
        faint = predicted < -1.2
        assert np.median((predicted - truth)[faint]) > 0.2 and abs(np.median((value - truth)[faint])) < 0.1
    else:
        np.testing.assert_array_equal(value, predicted)
        biased = fit_error_scaling(*draw(4000, 1))
        assert (scaling.bias == 0).all() and scaling.error[0] > 1.3 * biased.error[0]


def test_missing_values_do_not_disturb_and_few_galaxies_make_fewer_bins():
    predicted, truth = draw(1000, 4)
    holes = predicted.copy()
    holes[::7] = np.nan
    kept = np.isfinite(holes)
    scaling, same = fit_error_scaling(holes, truth), fit_error_scaling(predicted[kept], truth[kept])
    np.testing.assert_array_equal(scaling.error, same.error)
    for values in scaling.apply(holes):
        np.testing.assert_array_equal(np.isnan(values), ~kept)
    assert np.isnan(coverage([np.nan], [1.0], [1.0])[0])
    assert fit_error_scaling(*draw(100, 5)).bias.size == 3
    with pytest.raises(ValueError, match="30 are needed"):
        fit_error_scaling(*draw(12, 5))
