"""Errors of other surveys: of another size, and the noise that they say."""

import numpy as np
import pytest

from spectool.models.bands import read_inputs
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies
from tools.make.other_surveys import VARIED, vary_errors

NAMES = list(BANDS)


def test_other_surveys_have_other_errors_and_the_noise_that_they_say():
    inputs = read_inputs(make_galaxies(4000), NAMES)
    true = np.maximum(inputs.value, 0)
    varied = vary_errors(inputs, true, bands=NAMES, seed=0)
    pull = (varied.value - true) / varied.error
    assert pull.std() == pytest.approx(1, abs=0.02) and abs(pull.mean()) < 0.02
    factor = np.log(varied.error / inputs.error)
    assert factor[:, 0].std() == pytest.approx(
        np.hypot(np.diff(np.log(VARIED))[0] / np.sqrt(12), 0.5), rel=0.05
    )
    np.testing.assert_allclose(factor[:, 0], factor[:, 1])
    assert np.corrcoef(factor[:, 0], factor[:, 5])[0, 1] < 0.95
