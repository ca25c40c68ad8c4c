"""Networks that are trained to be scored: seen and asked galaxies apart, figures kept beside each other."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.liewcain2021 import network as paper
from tests.models.ifu_toy import make_galaxies
from tools.make import training_experiments as experiments

QUICK = {"live": True, "epochs": 8, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def sample():
    return make_galaxies(32, 40)


def test_a_type_is_predicted_by_the_networks_of_both(monkeypatch):
    sample = make_galaxies(16, 6)
    early = sample["is_early"].values[sample["galaxy_index"].values]
    truth, asked_of = sample["log_age"].values, []

    def ask(sample, output, seen, asked, **options):
        galaxy = sample["galaxy_index"].values
        assert len(np.intersect1d(galaxy[seen], galaxy[asked])) == 0
        assert len(np.unique(early[seen])) == 1
        asked_of.append(early[seen][0])
        # Late types' networks are off by 1 dex, and scatter for early types.
        off = np.where(early[asked], 1.0, 0.1) * np.where(np.arange(len(asked)) % 2, 1, -1)
        return truth[asked] + (off if not early[seen][0] else 0.0)

    monkeypatch.setattr(experiments, "train_and_ask", ask)
    table = experiments.train_types(sample, "log_age")
    assert asked_of == [True] * 4 + [False] * 4
    assert (table["sigma"].sel(training="early") < 1e-6).all()
    late = table["sigma"].sel(training="late")
    assert float(late.sel(application="early")) > 5 * float(late.sel(application="late")) > 0.1


def test_larger_training_sets_are_counted_and_scored(sample):
    for by in paper.SETS.values():
        curve = experiments.train_sizes(
            sample, "log_age", by=by, sizes=(0.1, 0.75), repeats=1, n_asked=200, **QUICK
        )
        assert curve["sigma"].shape == (2, 1)
        assert float(curve["sigma"][1, 0]) < float(curve["sigma"][0, 0])
        np.testing.assert_allclose(curve["n_spectra"], [0.1 * 1280, 0.75 * 1280], rtol=0.1)
    np.testing.assert_allclose(curve["n_galaxies"], [3, 24])


def test_experiments_are_kept_beside_each_other_and_come_back(tmp_path):
    path = tmp_path / "figures.json"
    curve = xr.Dataset({"sigma": ("size", [0.123456789, 0.2], {"units": "dex"})}, coords={"size": [0.1, 0.5]})
    experiments.write_experiment(path, "sizes", {"curve": curve.to_dict()})
    experiments.write_experiment(path, "folds", {"sigma": 0.1, "names": ["a", "b"]})
    found = paper.read_experiments(path)
    assert found["folds"] == {"sigma": 0.1, "names": ["a", "b"]}
    xr.testing.assert_allclose(found["sizes"]["curve"], curve, rtol=1e-4)
    assert found["sizes"]["curve"]["sigma"].attrs["units"] == "dex"
