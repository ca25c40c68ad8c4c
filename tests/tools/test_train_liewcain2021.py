"""The training script from end to end, on a few galaxies."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from spectool.models import store
from spectool.models.bands import split_spectra
from spectool.papers.liewcain2021 import experiments as checks
from spectool.papers.liewcain2021 import network as paper

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_liewcain2021.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_liewcain2021", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(tool, folder, command, *more):
    small = ["--galaxies", "18", "--spectra", "12", "--many", "16", "--survey", "20", "--epochs", "2"]
    rest = ["--members", "2", "--repeats", "1", "--threads", "1", "--quiet", "--out", str(folder)]
    return tool.main([command, *small, *rest, "--results", str(folder / "figures.json"), *more])


def test_sixteen_networks_are_written_with_their_figures(tool, folder, capsys):
    found = run(tool, folder, "folds")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert len(list(folder.glob("liewcain2021_truth_*.safetensors"))) == 16
    sample = tool.make_sample(tool.parse(["folds", "--galaxies", "18", "--spectra", "12"]))
    for letter, by in paper.SETS.items():
        names = [folder / f"liewcain2021_truth_{letter}_age{k + 1}.safetensors" for k in range(4)]
        loaded = [store.load_model(name, expected="NarrowBandCNN") for name in names]
        models = [model for model, _ in loaded]
        predicted = paper.predict_folds(sample, split_spectra(sample, by=by), models)
        scores = checks.score_spectra(predicted, sample["log_age"].values)
        assert scores["sigma"] == pytest.approx(found[by]["log_age"]["sigma"], rel=1e-6)
        assert loaded[0][1].metrics["sigma"] == found[by]["log_age"]["sigma"]
        assert len(loaded[3][1].arrays["history_valid_mse"]) == 2


def test_the_ensemble_is_written_with_its_calibration_and_curves(tool, folder):
    found = run(tool, folder, "ensemble")
    names = [folder / f"liewcain2021_ensemble{k}.safetensors" for k in (1, 2)]
    ensemble = paper.load_networks(*names)
    assert ensemble.calibration.any() and not ensemble.needs_all_bands
    assert 0 < found["noisy"]["log_age"]["coverage"] <= 1
    curves = checks.read_experiments(folder / "figures.json")["ensemble"]
    assert curves["noise"]["sigma"].dims == ("sn", "property")
    assert curves["missing"].sizes["n_missing"] == 7 and len(curves["importance"]["band"]) == 34
    assert np.isfinite(curves["noise_untrained"]["sigma"].values[-1]).all()


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("nuisances", ["none", "tilt", "dust", "history", "tilt + dust + history"]),
        ("sizes", ["paper", "many"]),
        ("types", ["log_age", "log_z"]),
        ("stopping", ["spectrum", "galaxy"]),
        ("pretrain", ["mixtures alone", "from nothing", "fine-tuned"]),
        ("peers", ["boosting, by spectrum", "boosting, by galaxy", "fit of single bursts"]),
    ],
)
def test_other_commands_write_figures_and_no_networks(tool, folder, command, keys):
    before = set(folder.glob("*.safetensors"))
    found = run(tool, folder, command, "--labels", "fit")
    assert list(found) == [*keys, "seconds"]
    kept = checks.read_experiments(folder / "figures.json")[f"{command}_fit"]
    assert sorted(kept) == sorted(found)
    assert set(folder.glob("*.safetensors")) == before
