from functools import partial

import numpy as np
import pytest

from benchmarks import narrowband
from tests.models.ifu_toy import BANDS, make_galaxies


def test_seconds_count_only_for_networks_as_good_as_the_papers():
    narrowband.require_scatter({"spectrum": 0.02, "galaxy": 0.15}, narrowband.LIMITS)
    with pytest.raises(ValueError, match=r"by galaxy 0\.200 dex \(paper 0\.160\)"):
        narrowband.require_scatter({"spectrum": 0.02, "galaxy": 0.2}, narrowband.LIMITS)


def test_a_million_spectra_are_those_of_the_sample_in_other_brightness():
    sample = make_galaxies(3, 4)
    many = narrowband.repeat(sample, 30)
    assert many.sizes == {"spectrum": 30, "band": len(BANDS)}
    ratio = many["flux"].values[12:24] / sample["flux"].values
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(len(BANDS)), rtol=1e-5)
    np.testing.assert_allclose(
        narrowband.trees_inputs(many, BANDS)[:12], narrowband.trees_inputs(sample, BANDS), atol=1e-5
    )


def test_both_rows_are_measured_on_the_same_galaxies(monkeypatch):
    monkeypatch.setattr(narrowband, "train_boosting", partial(narrowband.train_boosting, n_iterations=5))
    rows = narrowband.measure(make_galaxies(8, 20), n=1000, n_peer=100, limits={}, epochs=1)
    assert [row["name"] for row in rows] == ["cnn_training_seconds", "narrowband_1e6_seconds"]
    assert "same sixteen tasks" in rows[0]["peer"] and "of 100 spectra" in rows[1]["peer"]
    assert all(row["value"] > 0 and row["peer_value"] > 0 for row in rows)
