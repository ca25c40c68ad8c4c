import numpy as np
import pytest

from spectool.models.calibration import coverage, fit_error_scaling


def draw(n, seed):
    """Predictions that are biased and loose where they are small."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-2, 1, n)
    predicted = (
        truth + np.where(truth < -1, 0.4, 0.0) + (0.05 + 0.2 * (truth < -0.5)) * rng.standard_normal(n)
    )
    return predicted, truth


def test_errors_learnt_on_one_half_cover_the_other():
    scaling = fit_error_scaling(*draw(4000, 1))
    predicted, truth = draw(4000, 2)
    share, sampling = coverage(*scaling.apply(predicted), truth)
    assert share == pytest.approx(0.68, abs=0.03 + sampling)
    unscaled, _ = coverage(predicted, np.full(predicted.shape, 0.05), truth)
    assert unscaled < 0.6


def test_the_bias_of_the_faint_end_is_found_and_taken_off():
    scaling = fit_error_scaling(*draw(4000, 1))
    predicted, truth = draw(4000, 3)
    corrected, _ = scaling.apply(predicted)
    faint = predicted < -1.2
    assert np.median((predicted - truth)[faint]) > 0.2
    assert abs(np.median((corrected - truth)[faint])) < 0.1
    assert scaling.error[0] > 2 * scaling.error[-1]


def test_missing_values_stay_missing_and_do_not_disturb():
    predicted, truth = draw(1000, 4)
    holes = predicted.copy()
    holes[::7] = np.nan
    kept = np.isfinite(holes)
    scaling, same = fit_error_scaling(holes, truth), fit_error_scaling(predicted[kept], truth[kept])
    np.testing.assert_array_equal(scaling.error, same.error)
    corrected, error = scaling.apply(holes)
    np.testing.assert_array_equal(np.isnan(corrected), ~kept)
    np.testing.assert_array_equal(np.isnan(error), ~kept)


def test_few_galaxies_make_fewer_bins_and_too_few_are_refused():
    assert fit_error_scaling(*draw(100, 5)).bias.size == 3
    with pytest.raises(ValueError, match="30 are needed"):
        fit_error_scaling(*draw(12, 5))


def test_coverage_of_nothing_is_unknown():
    assert np.isnan(coverage([np.nan], [1.0], [1.0])[0])


def test_without_correction_the_bias_counts_as_error():
    corrected = fit_error_scaling(*draw(4000, 1))
    scaling = fit_error_scaling(*draw(4000, 1), correct_bias=False)
    assert (scaling.bias == 0).all() and scaling.error[0] > 1.3 * corrected.error[0]
    predicted, truth = draw(4000, 2)
    value, error = scaling.apply(predicted)
    np.testing.assert_array_equal(value, predicted)
    share, sampling = coverage(value, error, truth)
    assert share == pytest.approx(0.68, abs=0.03 + sampling)
