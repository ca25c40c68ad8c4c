"""The training script from end to end, on a few dozen spectra."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from spectool.models import store
from spectool.models.denoise import denoise
from spectool.models.outliers import score_outliers
from spectool.papers.scourfield2023.network import make_arrays, score
from spectool.papers.scourfield2023.sample import make_sample

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "train_scourfield2023.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_scourfield2023", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {}

    def few(sample, *, split, n, progress):
        # Rebuilding the same galaxies for each test would take most of its time.
        if (sample, split, n) not in made:
            made[sample, split, n] = make_sample(sample, split=split, n=n, cache=False, progress=progress)
        return made[sample, split, n]

    module.make_sample = few
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


def run(tool, folder, name, *more):
    common = [
        "--n",
        "120",
        "--n-valid",
        "60",
        "--threads",
        "1",
        "--quiet",
        "--cache",
        str(folder / "checkpoints"),
    ]
    return tool.main([*common, "--out", str(folder / name), *more])


def test_trains_compresses_scores_and_writes(tool, folder, capsys):
    metrics = run(
        tool, folder, "vae2", "--model", "vae", "--latent", "2", "--epochs", "2", "--tolerance", "0.05"
    )
    model, info = store.load_model(folder / "vae2.safetensors", expected="DenseAutoencoder", n_latent=2)
    assert info.config["widths"] == [1000, 900, 600, 200]
    assert any(info.config["ranks"])
    assert metrics["n"] == 120
    options = tool.parse(["--n", "120", "--n-valid", "60", "--quiet"])
    test = tool.make_samples(options)["test"]
    # The figures are those of the file.
    assert score(model, make_arrays(test))[0]["loss"] == pytest.approx(info.metrics["loss"], rel=1e-4)
    np.testing.assert_array_equal(info.arrays["candidate_test"], test["candidate"])
    assert info.arrays["latent_test"].shape == (120, 2)
    assert len(info.arrays["history_valid_loss"]) == 2
    assert not list((folder / "checkpoints").iterdir())
    denoised = denoise(model, test, errors=info.arrays)
    assert (denoised["flux_error"] > 0).all()
    assert score_outliers(info.arrays, test, denoised)["outlier_score"].notnull().all()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]["loss"] == metrics["loss"]


def test_pca_serves_all_numbers_of_components(tool, folder):
    metrics = run(tool, folder, "pca", "--model", "pca", "--latent", "4")
    assert list(metrics["by_components"]) == ["2", "4"]
    model, _ = store.load_model(folder / "pca.safetensors", expected="PCAModel", n_latent=4)
    assert model.use(2).n_latent == 2


def test_noise_aware(tool, folder):
    metrics = run(tool, folder, "aware", "--model", "noise-aware", "--epochs", "2")
    _, info = store.load_model(folder / "aware.safetensors", expected="NoiseAwareAutoencoder")
    assert set(metrics["by_sn"]) == {"0.5", "1", "2", "5", "10", "20", "50"}
    assert info.recipe["epochs"] == 2


def test_the_search_prints_its_best_and_writes_no_model(tool, folder, capsys):
    before = set(folder.iterdir())
    found = run(tool, folder, "none", "--latent", "2", "--search", "2", "--epochs", "1")
    assert len(found["trials"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert set(folder.iterdir()) == before


def test_the_sample_of_section_5_has_desis_noise(tool):
    options = tool.parse(["--sample", "star-forming", "--n", "60", "--n-valid", "20", "--quiet"])
    assert options.out.name == "scourfield2023_mzr_vae6"
    samples = tool.make_samples(options)
    sigma = samples["test"]["noisy_sigma"].values
    assert samples["train"].sizes["galaxy"] == 40
    assert sigma[:, 0].mean() > 1.5 * sigma[:, 600].mean()
    assert tool.parse(["--sample", "null"]).out.name == "scourfield2023_null_vae6"
    assert tool.parse(["--model", "noise-aware"]).out.name == "scourfield2023_noise_aware"
    assert tool.parse(["--model", "ae", "--latent", "10"]).out.name == "scourfield2023_ae10"
