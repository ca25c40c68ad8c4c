"""The networks that the package ships, on the sample that they were split on and on galaxies that none has seen."""

import numpy as np
import pytest

from spectool.models.bands import read_bands, split_spectra
from spectool.papers.liewcain2021 import network as paper
from spectool.papers.liewcain2021.sample import make_liewcain2021
from spectool.surveys.califa import draw_califa


@pytest.fixture(scope="module")
def sample():
    return make_liewcain2021()


@pytest.mark.parametrize("suffix", ["", "_fit"])
def test_the_split_decides_the_answer(sample, suffix):
    experiments = paper.read_experiments()
    known = experiments["folds" + suffix]
    for output in paper.UNITS:
        sigma = {}
        for by in paper.SETS.values():
            fold, models = split_spectra(sample, by=by), paper.load_folds(output, by=by, suffix=suffix)
            predicted = paper.predict_folds(sample, fold, models)
            sigma[by] = paper.score_spectra(predicted, sample[output + suffix].values)["sigma"]
            # What was written down is what the weights that came with it do.
            assert sigma[by] == pytest.approx(known[by][output]["sigma"], rel=1e-3)
        # Fitted labels have 0.07 dex of their own per spectrum, which no split can know.
        assert sigma["galaxy"] > (1.4 if suffix else 3) * sigma["spectrum"]
        assert sigma["spectrum"] < (0.085 if suffix else 0.03) and sigma["galaxy"] < 0.16


def test_errors_hold_on_noisy_spectra_of_new_galaxies():
    sample = draw_califa(600, spectra_per_galaxy=5, seed=77, progress=False)
    ensemble = paper.load_networks()
    labels = paper.read_labels(sample)
    noisy = paper.add_noise(ensemble.members[0], read_bands(sample, ensemble.bands), seed=3)
    mean, error = ensemble.predict(noisy)
    share = np.mean(np.abs(mean - labels) <= error, axis=0)
    # 600 galaxies whose spectra err alike: 0.03, widened by a sampling error of 0.02.
    assert share == pytest.approx(0.68, abs=0.05)
