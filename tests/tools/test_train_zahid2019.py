"""The training script from end to end, on some hundred spectra."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from spectool.models import store
from spectool.models.outliers import score_bin_outliers
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.network import predict_ensemble
from spectool.papers.zahid2019.sample import make_heldout, make_sample

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_zahid2019.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_zahid2019", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {}

    def once(function):
        # The same spectra for each test.
        def make(*args, **options):
            key = (function.__name__, options.get("seed"))
            if key not in made:
                made[key] = function(*args, **options)
            return made[key]

        return make

    module.make_sample, module.make_heldout = once(make_sample), once(make_heldout)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(tool, folder, command, *more):
    common = ["--n", "600", "--n-heldout", "300", "--adam-epochs", "4", "--sgd-epochs", "2", "--threads", "1"]
    return tool.main([command, *common, "--quiet", "--out", str(folder), *more])


@pytest.fixture(scope="module")
def ensemble(tool, folder):
    return run(tool, folder, "ensemble", "--members", "2")


def test_figures_are_those_of_the_stored_weights(ensemble, folder):
    model, info = store.load_model(folder / "zahid2019_mlp1.safetensors")
    test = make_heldout(300, seed=info.recipe["heldout_seeds"]["test"])
    off = model.predict(test["flux"].values)[:, 0] - test["log_z_lw"].values
    assert info.metrics["log_z_lw"]["by_sn"]["inf"]["rms"] == pytest.approx(
        np.sqrt(np.mean(off**2)), rel=1e-5
    )
    assert info.metrics == ensemble | {"training": info.metrics["training"]}
    assert set(ensemble["ensemble"]["by_sn"]) == {"inf", "50", "20", "10", "5"}


def test_ensemble_is_ready_to_be_asked(ensemble, folder):
    names = [folder / f"zahid2019_mlp{k}.safetensors" for k in (1, 2)]
    members = load_ensemble(*names)
    sample = make_heldout(50, seed=1)
    mean, error, spread = predict_ensemble(members, sample)
    assert np.isfinite(mean).all()
    assert (error > 0).all()
    assert (spread > 0).all()
    x, variance = torch.from_numpy(sample["flux"].values), torch.full((50, 1), 0.05**2)
    assert np.isfinite(score_bin_outliers(members.arrays, x, variance, None)["score"]).all()
    sizes = [path.stat().st_size for path in names]
    assert sizes[1] < 100_000 < sizes[0] + 100_000 < 400_000


def test_rules_are_compared_and_kept(tool, ensemble, folder):
    metrics = run(tool, folder, "rules")["stopping_rules"]
    info = store.load_model(folder / "zahid2019_mlp1.safetensors")[1]
    assert info.metrics["stopping_rules"] == metrics
    assert set(metrics) == {"heldout", "training_like", "last"}
    assert metrics["last"]["epoch"] == len(info.arrays["rules_heldout"]) == 6
    assert metrics["heldout"]["epoch"] == np.argmin(info.arrays["rules_heldout"]) + 1
    assert "error_factor" in info.arrays
    assert "ensemble" in info.metrics


def test_other_shapes_and_outputs(tool, folder):
    run(tool, folder, "wide")
    assert store.load_model(folder / "zahid2019_mlp400.safetensors")[0].n_filters == 16
    metrics = run(tool, folder, "intervals")
    model = store.load_model(folder / "zahid2019_intervals.safetensors")[0]
    assert set(metrics) == set(model.outputs)
    assert model.outputs[:5] == tuple(f"log_z_interval_{k}" for k in range(1, 6))


def test_randomised_members(tool, folder):
    found = run(tool, folder, "randomised", "--members", "1", "--adam-epochs", "2", "--sgd-epochs", "0")
    info = store.load_model(folder / "zahid2019_randomised1.safetensors")[1]
    assert set(found) == {"1"}
    assert info.metrics["training"]["epochs"] == 2
    assert info.recipe["randomised"]["depth"] > 0


def test_peers_are_scored_alike(tool, folder):
    found = run(tool, folder, "peers")
    assert set(found) == {"network", "forest", "boosting"}
    for scores in found.values():
        assert scores["by_sn"]["inf"]["rms"] < scores["by_sn"]["5"]["rms"]
    pca, info = store.load_model(folder / "zahid2019_pca.safetensors")
    assert pca.n_latent == 10
    assert info.metrics["peers"] == found


def test_half_of_the_diverse_networks_spectra_are_of_other_histories(tool, folder):
    found = run(tool, folder, "diverse", "--members", "1")
    info = store.load_model(folder / "zahid2019_diverse1.safetensors")[1]
    assert info.recipe["n_diverse"] == 300
    assert info.recipe["n_training"] == 600
    assert info.recipe["diverse_seed"] not in info.recipe["heldout_seeds"].values()
    assert 0 < found["1"]["log_z_lw"]["rms"] < 1.5
