"""Trainings and predictions of Liew-Cain et al. (2021) on toy galaxies; what shipped networks must be."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.bands import hold_out, read_bands
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.papers.liewcain2021 import network as paper
from tests.models.ifu_toy import BANDS, make_galaxies

QUICK = {"live": True, "epochs": 8, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def sample():
    return make_galaxies(32, 40)


@pytest.fixture(scope="module")
def ensemble():
    sample = make_galaxies(2400, 1, seed=5)
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample)
    train, valid = np.split(np.random.default_rng(0).permutation(2400), [1680])
    data = inputs.take(train), labels[train], inputs.take(valid), labels[valid]
    options = {"n_members": 2, "epochs": 12, "batch_size": 64, "progress": False}
    return paper.train_ensemble(*data, bands=BANDS, **options)[0]


@pytest.fixture(scope="module")
def folds(sample):
    return paper.train_folds(sample, "log_age", by="galaxy", **QUICK)


def test_labels_are_truth_or_fit_and_a_missing_one_is_named(sample):
    truth, fit = (paper.read_labels(sample, suffix=end) for end in ("", "_fit"))
    np.testing.assert_array_equal(truth[:, 0], sample["log_age"])
    np.testing.assert_array_equal(fit[:, 1], sample["log_z_fit"])
    with pytest.raises(ValueError, match="lacks log_z_fit"):
        paper.read_labels(sample.drop_vars("log_z_fit"), suffix="_fit")


def test_the_training_is_the_papers_or_the_short_one(sample, monkeypatch):
    seen = {}
    monkeypatch.setattr(paper, "fit", lambda model, train, valid, **options: seen.update(options))
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample, outputs=["log_z"])
    for live, expected in ((False, (5000, 25, 1e-3, 128)), (True, (80, 25, 2e-3, 256))):
        paper.train_cnn(inputs, labels, inputs, labels, outputs=["log_z"], bands=BANDS, live=live)
        assert tuple(seen[name] for name in ("epochs", "patience", "lr", "batch_size")) == expected
    assert seen["schedule"] is not None


def test_a_network_learns_what_labels_of_a_galaxy_are_off_by_if_it_has_seen_the_galaxy():
    sample, found = make_galaxies(24, 40, tilt=1.0, seed=2), {}
    for by in paper.SETS.values():
        folds = paper.train_folds(
            sample, "log_age", suffix="_fit", by=by, only=[0], **QUICK | {"epochs": 16, "batch_size": 32}
        )
        found[by] = paper.score_spectra(folds.predicted, sample["log_age_fit"].values)["sigma"]
    assert found["galaxy"] > 1.3 * found["spectrum"]


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


def test_some_folds_leave_the_others_without_prediction(sample):
    found = paper.train_folds(sample, "log_z", by="spectrum", only=[2], **QUICK | {"epochs": 1})
    np.testing.assert_array_equal(np.isfinite(found.predicted), found.fold == 2)
    assert len(found.models) == 1


def test_stopping_by_the_test_fold_changes_only_what_stops(sample, monkeypatch):
    seen = []

    def spy(train, labels, valid, valid_labels, **options):
        seen.append((len(train), valid_labels))
        return paper.NarrowBandCNN(bands=BANDS, outputs=["log_age"], units=["dex(Gyr)"]), None

    monkeypatch.setattr(paper, "train_cnn", spy)
    for stop_on in ("inner", "test"):
        found = paper.train_folds(sample, "log_age", by="galaxy", only=[1], stop_on=stop_on)
    (n_inner, inner), (n_test, test) = seen
    assert n_inner == n_test and len(inner) != len(test)
    np.testing.assert_array_equal(test[:, 0], sample["log_age"].values[found.fold == 1])
    with pytest.raises(ValueError, match="not 'luck'"):
        paper.train_folds(sample, "log_age", by="galaxy", stop_on="luck")


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
    gaps = np.zeros(inputs.mask.shape, bool)
    gaps[:, 3] = True
    with pytest.raises(ValueError, match="nothing for training"):
        paper.train_cnn(inputs.hide(gaps), labels, inputs, labels, outputs=["log_age"], bands=BANDS)
    labels[5:] = np.nan
    model, _ = paper.train_cnn(
        inputs, labels, inputs, labels, outputs=["log_age"], bands=BANDS, **QUICK | {"epochs": 1}
    )
    assert float(model.out_mean) == pytest.approx(labels[:5].mean(), rel=1e-5)


def test_errors_of_the_ensemble_hold_their_share_of_new_noisy_galaxies(ensemble):
    sample = make_galaxies(3000, 1, seed=9)
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample)
    noisy = paper.add_noise(ensemble.members[0], inputs, seed=4)
    mean, error = ensemble.predict(noisy)
    for k in range(2):
        scores = paper.score_spectra(mean[:, k], labels[:, k], error=error[:, k])
        assert scores["coverage"] == pytest.approx(0.68, abs=0.05)
    curve = paper.score_noise(ensemble, inputs, labels, sn=(5.0, 20.0, 100.0))
    assert (np.diff(curve["sigma"], axis=0) < 0).all() and (np.diff(curve["error"], axis=0) < 0).all()
    missing = paper.score_missing(ensemble, inputs, labels, counts=(0, 10, 20))
    assert (np.diff(missing["error"], axis=0) > 0).all() and (missing["kept"] == 1).all()


def test_networks_without_noise_lose_spectra_with_gaps(ensemble, folds):
    sample = make_galaxies(20, 20, seed=9)
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample, outputs=["log_age"])
    plain = BandEnsemble(folds.models)
    curve = paper.score_noise(plain, inputs, labels, sn=(2.0, 1000.0), noiser=ensemble.members[0])
    assert curve["kept"].values[0] < 0.5 and curve["kept"].values[1] == 1
    assert np.isnan(curve["coverage"]).all() or (curve["coverage"] == 0).all()


def test_any_sample_is_predicted_in_batches_with_what_is_wrong(ensemble, monkeypatch):
    sample = make_galaxies(10, 30, seed=7, noise=0.02)
    sample["flux"].values[3, : len(BANDS) - 5] = np.nan
    sample["mask"].values[4, 7] = True
    sample.attrs["history"] = "toy"
    whole = paper.predict_populations(sample, ensemble)
    monkeypatch.setattr(paper, "_BATCH", 64)
    parts = paper.predict_populations(sample, ensemble)
    xr.testing.assert_allclose(whole, parts)
    assert whole.attrs["history"] == parts.attrs["history"]
    reason = f"fewer than {paper.MIN_BANDS} bands"
    assert whole["reason"].values[3] == reason and np.isnan(whole["log_age"].values[3])
    assert (whole["reason"].values[4:] == "").all() and whole["n_missing"].values[4] == 1
    told = whole.attrs["history"]
    assert told.startswith("toy\n") and "fluxes masked: 1" in told and f"{reason}: 1 spectra" in told
    assert "fluxes no data: 29" in told
    good = whole["reason"] == ""
    off = (whole["log_age"] - sample["log_age"])[good]
    assert np.median(np.abs(off)) < 0.1 and (whole["log_age_error"][good] > 0).all()


def test_networks_without_a_mask_channel_say_that_bands_are_missing(sample, folds):
    found = paper.predict_populations(sample.drop_sel(band="J0500"), BandEnsemble(folds.models[:1]))
    assert (found["reason"] == "bands missing").all() and np.isnan(found["log_age"]).all()


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
    assert paper.correlate_residuals(
        np.array([1, 2, 3, np.nan]), np.array([-1, -2, -3, 5.0])
    ) == pytest.approx(-1)


def test_bands_that_tell_nothing_have_no_importance(ensemble):
    sample = make_galaxies(30, 20, seed=8)
    inputs, labels = read_bands(sample, BANDS), paper.read_labels(sample)
    found = band_importance(ensemble.members[0], inputs, labels, dim="band")
    assert found["importance"].dims == ("band", "property") and found.sizes == {
        "band": len(BANDS),
        "property": 2,
    }
    # The dip at the middle is of metallicity alone.
    dip = [BANDS[k] for k in (18, 19)]
    share = found["importance"] / found["importance"].sum("band")
    assert float(share.sel(band=dip, property="log_z").sum()) > 2 * float(
        share.sel(band=dip, property="log_age").sum()
    )


def test_names_of_shipped_networks_tell_labels_set_property_and_fold():
    assert paper.fold_name("log_age", by="spectrum", fold=0) == "liewcain2021_truth_a_age1"
    assert paper.fold_name("log_z", by="galaxy", suffix="_fit", fold=3) == "liewcain2021_fit_b_z4"
