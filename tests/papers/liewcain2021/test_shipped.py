"""The networks that the package ships, on the sample that they were split on and on galaxies that none has seen."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.bands import read_bands, split_spectra
from spectool.models.ensemble import BandEnsemble
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


@pytest.fixture(scope="module")
def unseen():
    return draw_califa(600, spectra_per_galaxy=5, seed=77, progress=False)


@pytest.fixture(scope="module")
def ensemble():
    return paper.load_networks()


def test_errors_hold_on_noisy_spectra_of_new_galaxies_and_grow(unseen, ensemble):
    inputs, labels = read_bands(unseen, ensemble.bands), paper.read_labels(unseen)
    mean, error = ensemble.predict(paper.add_noise(ensemble.members[0], inputs, seed=3))
    for k in range(2):
        # 600 galaxies whose spectra err alike: 0.03, widened by a sampling error of 0.02.
        scores = paper.score_spectra(mean[:, k], labels[:, k], error=error[:, k])
        assert scores["coverage"] == pytest.approx(0.68, abs=0.05)
    curve = paper.score_noise(ensemble, inputs, labels, sn=(5.0, 20.0, 100.0))
    assert (np.diff(curve["sigma"], axis=0) < 0).all() and (np.diff(curve["error"], axis=0) < 0).all()
    missing = paper.score_missing(ensemble, inputs, labels, counts=(0, 10, 20))
    assert (np.diff(missing["error"], axis=0) > 0).all() and (missing["kept"] == 1).all()


def test_networks_without_noise_lose_spectra_with_gaps(unseen, ensemble):
    plain = BandEnsemble(paper.load_folds("log_age", by="galaxy"))
    inputs, labels = read_bands(unseen, plain.bands), paper.read_labels(unseen, outputs=["log_age"])
    curve = paper.score_noise(plain, inputs, labels, sn=(2.0, 1000.0), noiser=ensemble.members[0])
    assert curve["kept"].values[0] < 0.5 and curve["kept"].values[1] > 0.99
    found = paper.predict_populations(unseen.drop_sel(band="J0500"), plain)
    assert (found["reason"] == "bands missing").all() and np.isnan(found["log_age"]).all()


def test_any_sample_is_predicted_in_batches_with_what_is_wrong(unseen, ensemble, monkeypatch):
    sample = unseen.isel(spectrum=slice(0, 300)).copy(deep=True)
    sample["flux"].values[3, :29] = np.nan
    sample = sample.assign(mask=sample["flux"] * 0 > 0)
    sample["mask"].values[4, 7] = True
    whole = paper.predict_populations(sample, ensemble)
    monkeypatch.setattr(paper, "_BATCH", 64)
    xr.testing.assert_allclose(whole, paper.predict_populations(sample, ensemble))
    reason = f"fewer than {paper.MIN_BANDS} bands"
    assert whole["reason"].values[3] == reason and np.isnan(whole["log_age"].values[3])
    assert (whole["reason"].values[4:] == "").all() and whole["n_missing"].values[4] == 1
    for words in ("fluxes masked: 1", "fluxes no data: 29", f"{reason}: 1 spectra"):
        assert words in whole.attrs["history"]
    off = (whole["log_age"] - sample["log_age"]).values[4:]
    assert np.median(np.abs(off)) < 0.1 and (whole["log_age_error"].values[4:] > 0).all()
