"""Trainings of Liew-Cain et al. (2021) on toy galaxies, and their figures."""

import numpy as np
import pytest

from spectool.models.bands import hold_out, read_bands
from spectool.papers.liewcain2021 import network as paper
from tests.ifu_toy import BANDS, make_galaxies

QUICK = {"live": True, "epochs": 8, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def sample():
    return make_galaxies(32, 40)


@pytest.fixture(scope="module")
def folds(sample):
    return paper.train_folds(sample, "log_age", by="galaxy", **QUICK)


def test_the_training_is_the_papers_or_the_short_one(sample, monkeypatch):
    seen = {}
    monkeypatch.setattr(paper, "fit", lambda model, train, valid, **options: seen.update(options))
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample, outputs=["log_z"])
    for live, expected in ((False, (5000, 25, 1e-3, 128)), (True, (80, 25, 2e-3, 256))):
        paper.train_cnn(inputs, labels, inputs, labels, outputs=["log_z"], bands=BANDS, live=live)
        assert tuple(seen[name] for name in ("epochs", "patience", "lr", "batch_size")) == expected
    assert seen["schedule"] is not None


def test_every_spectrum_is_predicted_by_the_network_that_has_not_seen_it(sample, folds):
    assert len(folds.models) == len(folds.histories) == 4 and np.isfinite(folds.predicted).all()
    np.testing.assert_array_equal(paper.predict_folds(sample, folds.fold, folds.models), folds.predicted)
    for k, model in enumerate(folds.models):
        # Its statistics are of spectra of other folds.
        labels = sample["log_age"].values
        train, _ = hold_out(sample, np.flatnonzero(folds.fold != k), by="galaxy", seed=[0, k])
        assert float(model.out_mean) == pytest.approx(labels[train].mean(), rel=1e-4)
    scores = paper.score_spectra(folds.predicted, sample["log_age"].values)
    assert scores["sigma"] < 0.5 * sample["log_age"].values.std()


def test_stopping_by_the_test_fold_changes_only_what_stops(sample, monkeypatch):
    seen, toy = [], paper.NarrowBandCNN(bands=BANDS, outputs=["log_age"], units=["dex(Gyr)"])
    monkeypatch.setattr(paper, "train_cnn", lambda *data, **options: seen.append(data) or (toy, None))
    for stop_on in ("inner", "test"):
        found = paper.train_folds(sample, "log_age", by="galaxy", only=[1], stop_on=stop_on)
    assert len(seen[0][0]) == len(seen[1][0]) and len(seen[0][3]) != len(seen[1][3])
    np.testing.assert_array_equal(seen[1][3][:, 0], sample["log_age"].values[found.fold == 1])


def test_fine_tuning_starts_from_a_network_and_leaves_it_alone(sample, folds):
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample, outputs=["log_age"])
    start = folds.models[0]
    before = {name: value.clone() for name, value in start.state_dict().items()}
    options = {"outputs": ["log_age"], "bands": BANDS, "start": start} | QUICK | {"epochs": 1, "lr": 1e-6}
    tuned, _ = paper.train_cnn(inputs, labels, inputs, labels, **options)
    for name, value in start.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
        np.testing.assert_allclose(tuned.state_dict()[name], value, atol=1e-3)
    assert tuned is not start


def test_spectra_that_cannot_train_are_left_out(sample):
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample, outputs=["log_age"])
    options = {"outputs": ["log_age"], "bands": BANDS} | QUICK | {"epochs": 1}
    with pytest.raises(ValueError, match="nothing for training"):
        paper.train_cnn(inputs.hide(np.array(BANDS) == BANDS[3]), labels, inputs, labels, **options)
    labels[5:] = np.nan
    model, _ = paper.train_cnn(inputs, labels, inputs, labels, **options)
    assert float(model.out_mean) == pytest.approx(labels[:5].mean(), rel=1e-5)


def test_scores_are_robust_and_leave_out_what_is_not_known():
    rng = np.random.default_rng(0)
    label = rng.normal(size=20000)
    off = rng.normal(0.02, 0.1, 20000)
    predicted = label + off
    predicted[:500] += 50
    label[-3:] = np.nan
    scores = paper.score_spectra(predicted, label, error=np.full(20000, 0.1))
    assert scores["n"] == 19997 and scores["sigma"] == pytest.approx(0.1, rel=0.06)
    assert scores["bias"] == pytest.approx(0.02, abs=0.006) and scores["rmse"] > 5
    assert scores["coverage"] == pytest.approx(0.67 * 0.975, abs=0.02)
    assert scores["mse"] == pytest.approx(scores["rmse"] ** 2)
    assert paper.score_spectra([np.nan], [1.0]) == {"n": 0}
    off = np.array([1, 2, 3, np.nan])
    assert paper.correlate_residuals(off, np.array([-1, -2, -3, 5.0])) == pytest.approx(-1)
