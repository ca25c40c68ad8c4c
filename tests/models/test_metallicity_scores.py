"""Scores by S/N: numbers that can be written down beforehand."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.chunked import add_white_noise, rms_of_all, score_by_sn


@pytest.fixture(scope="module")
def sample():
    x = np.random.default_rng(0).normal(0, 0.01, (4000, 25)).astype("f4")
    return xr.Dataset({"flux": (("galaxy", "wavelength"), x)})


def test_noise_has_the_asked_for_size(sample):
    x = sample["flux"].values
    assert (add_white_noise(x, 20.0, seed=1) - x).std() == pytest.approx(0.05, rel=0.02)
    np.testing.assert_array_equal(add_white_noise(x, np.inf, seed=1), x)


def test_mean_of_pixels_has_the_error_of_a_mean(sample):
    """The predictor is the mean of 25 pixels plus 0.1: noise of 1/SN moves it by a fifth of that."""
    truth = sample["flux"].values.mean(axis=1, dtype=float)

    def predict(x, sigma):
        return x.mean(axis=1) + 0.1, sigma / 5

    found = score_by_sn(lambda x, s: (predict(x, s)[0] - 0.1, s / 5), sample, truth, levels=(50.0, 5.0))
    for sn, name in ((50.0, "50"), (5.0, "5")):
        assert found[name]["rms"] == pytest.approx(0.2 / sn, rel=0.05)
        assert found[name]["median_error"] == pytest.approx(0.2 / sn)
        assert abs(found[name]["coverage"] - 0.6827) < 4 * found[name]["coverage_error"]
    biased = score_by_sn(lambda x, s: predict(x, s)[0], sample, truth, levels=(np.inf,))
    assert biased["inf"]["bias"] == pytest.approx(0.1, rel=1e-4)
    assert "coverage" not in biased["inf"]
    assert rms_of_all(found) == pytest.approx(np.sqrt((found["50"]["rms"] ** 2 + found["5"]["rms"] ** 2) / 2))


def test_all_are_asked_about_the_same_noise(sample):
    seen = []
    for _ in range(2):
        score_by_sn(lambda x, s: seen.append(x) or x[:, 0], sample, np.zeros(4000), levels=(10.0,), seed=3)
    np.testing.assert_array_equal(*seen)
