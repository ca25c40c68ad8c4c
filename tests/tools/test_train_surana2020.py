"""The training script from end to end, on some hundred galaxies."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from spectool.models import store
from spectool.papers.surana2020 import sample as surana2020
from spectool.papers.surana2020.network import load_networks, predict_properties, split_galaxies

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_surana2020.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_surana2020", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surana2020, "BLOCK", 500)
        yield module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(tool, folder, command, *more):
    common = ["--n", "500", "--n-models", "1500", "--epochs", "3", "--threads", "1", "--quiet", "--live"]
    return tool.main([command, *common, "--cache", str(folder / "cache"), "--out", str(folder), *more])


def test_the_papers_networks_are_written_with_their_figures(tool, folder, capsys):
    metrics = run(tool, folder, "networks")
    assert list(metrics) == ["surana2020_mass", "surana2020_sfr", "surana2020_dust"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == metrics
    model, info = store.load_model(folder / "surana2020_sfr.safetensors", expected="SedMLP")
    assert info.recipe["galaxies"]["n"] == 500 and model.config["hidden"] == [110, 220, 110]
    # What is stored says what was scored.
    sample, _ = surana2020.select_taught(
        surana2020.make_surana2020(500, n_models=1500, cache=folder / "cache", progress=False)
    )
    test = sample.isel(galaxy=split_galaxies(sample.sizes["galaxy"])["test"])
    off = info.arrays["predicted_test"][:, 0] - test["log_sfr_fit"].values
    assert info.metrics["log_sfr"]["sigma"] == pytest.approx(np.nanstd(off), rel=1e-4)
    found = predict_properties(test, load_networks(folder / "surana2020_sfr.safetensors")[0])
    np.testing.assert_allclose(found["log_sfr"], info.arrays["predicted_test"][:, 0], rtol=1e-5)
    assert not list((folder / "cache" / "checkpoints").iterdir())


def test_the_ensemble_is_written_with_its_calibration(tool, folder):
    metrics = run(tool, folder, "ensemble", "--members", "2")
    paths = [folder / f"surana2020_ensemble{k}.safetensors" for k in (1, 2)]
    ensemble, arrays = load_networks(*paths)
    np.testing.assert_array_equal(ensemble.calibration, arrays["error_calibration"])
    assert 0 < metrics["log_mass"]["coverage"] < 1 and len(metrics["missing"]["sigma"]) == 11
    sample = surana2020.make_surana2020(500, n_models=1500, cache=folder / "cache", progress=False)
    found = predict_properties(sample, ensemble, outliers=arrays)
    assert np.isfinite(found["log_mass_error"]).all() and "outlier_score" in found
    weights = [store.load_model(path)[0].dense[0].weight for path in paths]
    assert not np.array_equal(*[w.detach().numpy() for w in weights])


def test_other_commands_say_what_they_measured(tool, folder):
    written = set(folder.glob("*.safetensors"))
    described = run(tool, folder, "sample")
    assert sum(described["parts"].values()) == described["left"]["signal-to-noise"] <= 500
    assert set(run(tool, folder, "scalings")) == {"linear", "asinh"}
    peers = run(tool, folder, "peers")
    assert set(peers) == {"forest", "svm", "boosting"} and peers["forest"]["log_mass"]["r2"] > 0.5
    assert json.loads((folder / "surana2020_peers.json").read_text()) == peers
    assert set(folder.glob("*.safetensors")) == written
    together = run(tool, folder, "together", "--labels", "truth")
    assert list(together) == ["surana2020_truth_together"]
    assert together["surana2020_truth_together"]["on_truth"]["log_mass"] == pytest.approx(
        together["surana2020_truth_together"]["log_mass"]
    )
