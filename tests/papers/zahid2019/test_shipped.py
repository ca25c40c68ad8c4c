"""What comes with the package, held to what it says: on histories that nothing was chosen by."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.chunked import score_by_sn
from spectool.papers.zahid2019.network import ENSEMBLE
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.sample import HELDOUT_TEST_SEED, make_heldout


@pytest.fixture(scope="module")
def ensemble():
    return load_ensemble()


@pytest.fixture(scope="module")
def scores(ensemble):
    sample = make_heldout(5000, seed=HELDOUT_TEST_SEED)

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    levels = (np.inf, 50.0, 20.0, 10.0, 5.0)
    return score_by_sn(predict, sample, sample["log_z_lw"].values, levels=levels, seed=20195)


@pytest.fixture(scope="module")
def info():
    return store.load_model(ENSEMBLE[0])[1]


@pytest.mark.parametrize("sn", ["inf", "50", "20", "10", "5"])
def test_errors_cover_68_percent_at_each_noise(scores, sn):
    assert scores[sn]["coverage"] == pytest.approx(0.68, abs=0.03)


def test_rms_is_the_stated_one(scores, info):
    """On another draw of the noise: 5,000 squares have a sampling error of 2% or so."""
    for sn, stated in info.metrics["ensemble"]["by_sn"].items():
        assert scores[sn]["rms"] == pytest.approx(stated["rms"], rel=0.06)


def test_better_spectra_give_better_metallicities_and_smaller_errors(scores):
    for name in ("rms", "median_error"):
        values = [scores[sn][name] for sn in ("inf", "50", "20", "10", "5")]
        assert values == sorted(values)


def test_members_together_are_better_than_one(info):
    assert info.metrics["ensemble"]["rms"] < info.metrics["log_z_lw"]["rms"]
    assert info.metrics["ensemble"]["members"] == len(ENSEMBLE) >= 5


def test_all_weigh_less_than_two_megabytes():
    files = sorted(store.SHIPPED.glob("zahid2019_*.safetensors"))
    assert {f"{name}.safetensors" for name in ENSEMBLE} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < 2e6
