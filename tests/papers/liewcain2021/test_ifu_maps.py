"""What the galaxy-map dashboard opens with: sample and predictions, here of a few galaxies."""

from functools import partial

import numpy as np
import pytest

from spectool.papers.liewcain2021 import ifu, network
from spectool.papers.liewcain2021.sample import make_liewcain2021


def test_maps_are_those_of_the_notebook_and_every_prediction_is_explained(monkeypatch):
    few = partial(make_liewcain2021, 8, spectra_per_galaxy=30)
    monkeypatch.setattr(ifu, "make_liewcain2021", few)
    sample, predictions = ifu.open_maps()
    assert list(predictions) == ["with errors", "Set B", "Set A"] and predictions.keys() == ifu.ABOUT.keys()
    fold = ifu.split_spectra(sample, by="galaxy")
    one = network.predict_folds(sample, fold, network.load_folds("log_z", by="galaxy", suffix="_fit"))
    np.testing.assert_array_equal(predictions["Set B"]["log_z"], one)
    assert np.isfinite(predictions["with errors"]["log_age_error"]).all()
    spectra = ifu.rebuild(sample, 3)
    assert spectra.sizes["spectrum"] == (sample["galaxy_index"].values == 3).sum()
    difference = predictions["with errors"]["log_age"].values - sample["log_age"].values
    assert np.median(np.abs(difference)) == pytest.approx(0, abs=0.2)
