"""The training script from end to end, on a handful of galaxies."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from spectool.models import store

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_marziano2024.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_marziano2024", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(tool, folder, *more):
    common = ["--n", "120", "--epochs", "1", "--threads", "1", "--quiet", "--cache", str(folder / "spectra")]
    return tool.main([*common, "--out", str(folder / "tiny"), *more])


def test_trains_scores_and_writes(tool, folder, capsys):
    metrics = run(tool, folder)
    _, info = store.load_model(folder / "tiny.safetensors", expected="ConvBetaVAE", n_latent=32)
    assert metrics["n_test"] == 12
    assert info.metrics["mse"] == pytest.approx(metrics["mse"])
    assert info.recipe["galaxies"] == {"n": 120, "seed": 0, "independent": False}
    assert (info.arrays["latent_min"] <= info.arrays["latent_max"]).all()
    assert info.arrays["mse_per_pixel"].mean() == pytest.approx(metrics["mse"], rel=1e-4)
    assert info.arrays["atlas_latent"].shape == (96, 32)
    parameters, _ = store.load_model(
        folder / "tiny_parameters.safetensors", expected="GaussianMLP", n_latent=32
    )
    assert np.isfinite(parameters.predict(info.arrays["atlas_latent"])[0]).all()
    assert json.loads((folder / "tiny.json").read_text())["metrics"]["mse"] == pytest.approx(metrics["mse"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["mse"] == pytest.approx(metrics["mse"])


def test_spectra_are_made_once_and_a_finished_training_leaves_no_checkpoint(tool, folder):
    before = (folder / "spectra" / "marziano2024_realistic_120_0" / "flux.npy").stat().st_mtime_ns
    run(tool, folder, "--no-parameters", "--loss", "tc")
    after = (folder / "spectra" / "marziano2024_realistic_120_0" / "flux.npy").stat().st_mtime_ns
    assert before == after
    assert not list((folder / "checkpoints").iterdir())


def test_spectra_are_normalised_and_whole(tool, folder):
    flux = np.load(folder / "spectra" / "marziano2024_realistic_120_0" / "flux.npy").astype(np.float32)
    wavelength = tool.sps_wavelength()
    inside = (wavelength >= 5000) & (wavelength <= 5500)
    assert np.isfinite(flux).all()
    np.testing.assert_allclose(np.median(flux[:, inside], axis=1), 1.0, atol=1e-3)
