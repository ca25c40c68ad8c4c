"""What comes with the package, held to what it says: on histories that nothing was chosen by."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.chunked import score_by_sn
from spectool.papers.zahid2019.network import ENSEMBLE
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.sample import HELDOUT_TEST_SEED, make_heldout

LEVELS = (np.inf, 50.0, 20.0, 10.0, 5.0)


def test_rms_is_the_stated_one_and_errors_cover_68_percent_at_each_noise():
    """On another draw of the noise: 5,000 squares have a sampling error of 2% or so."""
    sample, ensemble = make_heldout(5000, seed=HELDOUT_TEST_SEED), load_ensemble()

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    scores = score_by_sn(predict, sample, sample["log_z_lw"].values, levels=LEVELS, seed=20195)
    stated = store.load_model(ENSEMBLE[0])[1].metrics
    assert scores.keys() == stated["ensemble"]["by_sn"].keys() and len(scores) == 5
    for sn, row in scores.items():
        assert row["coverage"] == pytest.approx(0.68, abs=0.03)
        assert row["rms"] == pytest.approx(stated["ensemble"]["by_sn"][sn]["rms"], rel=0.06)
    for name in ("rms", "median_error"):
        values = [row[name] for row in scores.values()]
        assert values == sorted(values)
    assert stated["ensemble"]["rms"] < stated["log_z_lw"]["rms"], "members together are better than one"
    assert stated["ensemble"]["members"] == len(ENSEMBLE) >= 5


def test_all_weigh_less_than_two_megabytes():
    files = sorted(store.SHIPPED.glob("zahid2019_*.safetensors"))
    assert {f"{name}.safetensors" for name in ENSEMBLE} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < 2e6
