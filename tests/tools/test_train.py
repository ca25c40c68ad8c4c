"""The training command, from end to end on tiny samples: a contract over recipes, and what is a paper's own."""

import importlib
import json
import re

import numpy as np
import pytest
import torch

from spectool.models import store
from spectool.models.bands import split_spectra
from spectool.models.denoise import denoise
from spectool.models.outliers import score_outliers
from spectool.models.training import _Run
from spectool.papers import liewcain2021, list_papers, scourfield2023, zahid2019
from spectool.papers.liewcain2021.network import read_experiments
from spectool.papers.surana2020 import network as surana2020
from spectool.papers.surana2020 import sample as surana2020_sample
from tools import train
from tools.recipes import liewcain2021 as liewcain2021_recipes
from tools.recipes import scourfield2023 as scourfield2023_recipes

SINGLE, OTHERS = ("--members", "1"), ("mlp400", "intervals", "randomised1", "diverse1")
FEW_EPOCHS = ("--adam-epochs", "2", "--sgd-epochs", "0")
NETWORKS = {
    ("marziano2024", "beta0.3", "--parameters"): {"": "ConvBetaVAE", "_parameters": "GaussianMLP"},
    ("marziano2024", "constant_beta0.3", "--no-parameters"): {"": "ConvBetaVAE"},
    ("scourfield2023", "vae2"): {"": "DenseAutoencoder"},
    ("scourfield2023", "pca", "--latent", "4"): {"": "PCAModel"},
    ("scourfield2023", "noise_aware"): {"": "NoiseAwareAutoencoder"},
    ("surana2020", "sfr"): {"": "SedMLP"},
    ("surana2020", "truth_together"): {"": "SedMLP"},
    ("surana2020", "ensemble"): {"1": "SedMLP", "2": "SedMLP"},
    ("liewcain2021", "ensemble"): {"1": "NarrowBandCNN", "2": "NarrowBandCNN"},
    ("zahid2019", "mlp"): {"1": "ChunkedMLP", "2": "ChunkedMLP"},
    ("zahid2019", "mlp400"): {"": "ChunkedMLP"},
    ("zahid2019", "intervals"): {"": "ChunkedMLP"},
    ("zahid2019", "randomised", *SINGLE, *FEW_EPOCHS): {"1": "ChunkedMLP"},
    ("zahid2019", "diverse", *SINGLE): {"1": "ChunkedMLP"},
}
FIGURES = {
    ("surana2020", "sample"): ["left", "parts", "teacher_on_truth"],
    ("surana2020", "peers"): ["forest", "svm", "boosting"],
    ("scourfield2023", "search", "--latent", "2", "--epochs", "1"): ["trials"],
    ("liewcain2021", "nuisances"): ["none", "tilt", "dust", "history", "tilt + dust + history"],
    ("liewcain2021", "sizes_fit"): ["paper", "many"],
    ("liewcain2021", "types_fit"): ["log_age", "log_z"],
    ("liewcain2021", "stopping"): ["spectrum", "galaxy"],
    ("liewcain2021", "pretrain"): ["mixtures alone", "from nothing", "fine-tuned"],
    ("liewcain2021", "peers"): ["boosting, by spectrum", "boosting, by galaxy", "fit of single bursts"],
}
RESUMED = [case for case in NETWORKS if case[1] in ("constant_beta0.3", "vae2", "sfr")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def run(folder):
    """Run a recipe, once however many tests ask for its figures."""
    figures = {}
    where = ["--cache", str(folder / "cache"), "--threads", "1", "--quiet", "--quick"]

    def run(key, recipe, *more, out=folder):
        if (key, recipe, more, out) not in figures:
            results = ["--results", str(folder / "figures.json")] if key == "liewcain2021" else []
            made = train.main([key, recipe, "--out", str(out), *where, *results, *more])
            figures[key, recipe, more, out] = made[recipe]
        return figures[key, recipe, more, out]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surana2020_sample, "BLOCK", 500)
        yield run


@pytest.mark.parametrize("case", NETWORKS, ids=lambda case: "-".join(case[:2]))
def test_a_recipe_writes_networks_that_load_and_say_how_they_were_made(run, folder, case):
    key, recipe = case[:2]
    run(*case)
    stem = f"{key}_{recipe}"
    written = {p.stem for p in folder.glob("*.safetensors") if re.fullmatch(rf"{stem}(\d|_par.*)?", p.stem)}
    assert written == {stem + end for end in NETWORKS[case]}
    for end, kind in NETWORKS[case].items():
        model, info = store.load_model(folder / f"{stem}{end}.safetensors", expected=kind)
        assert info.recipe["paper"] == key and info.recipe["recipe"] == recipe and info.recipe["seed"] == 0
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())
        if kind not in ("PCAModel", "GaussianMLP"):
            training = info.metrics["training"]
            assert 1 <= training["best_epoch"] <= training["epochs"] and training["seconds"] > 0
    assert not list((folder / "cache").glob(f"checkpoints/{stem}*"))


@pytest.mark.parametrize("case", RESUMED, ids=lambda case: "-".join(case[:2]))
def test_a_killed_training_goes_on_where_it_was(run, folder, tmp_path, monkeypatch, case):
    run(*case)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_model", lambda *args, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*case, out=tmp_path)
    assert list((folder / "cache").glob("checkpoints/*"))
    monkeypatch.setattr(_Run, "one_epoch", lambda *given: pytest.fail("trained again"))
    run(*case, out=tmp_path)
    name = f"{case[0]}_{case[1]}.safetensors"
    states = [store.load_model(place / name)[0].state_dict() for place in (folder, tmp_path)]
    assert all(torch.equal(states[1][weight], value) for weight, value in states[0].items())


@pytest.mark.parametrize("case", FIGURES, ids=lambda case: "-".join(case[:2]))
def test_a_recipe_without_networks_prints_its_figures(run, folder, capsys, case):
    before = set(folder.glob("*.safetensors"))
    found = run(*case)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == json.loads(json.dumps({case[1]: found}))
    assert set(FIGURES[case]) <= set(found)
    assert set(folder.glob("*.safetensors")) == before
    if case[0] == "liewcain2021":
        kept = read_experiments(folder / "figures.json")[case[1]]
        assert set(kept) == {*FIGURES[case], "seconds"}


def test_every_shipped_network_has_its_recipe():
    for name in store.shipped_models():
        key, rest = name.split("_", 1)
        known = importlib.import_module(f"tools.recipes.{key}").RECIPES
        folds = (
            {"truth": "folds", "fit": "folds_fit"}.get(rest.split("_")[0]) if key == "liewcain2021" else None
        )
        names = {rest, re.sub(r"\d$", "", rest), rest.removesuffix("_parameters"), folds}
        assert names & set(known) or rest in ("pca", "pca_mlp"), name


def test_options_are_the_recipes_unless_given(capsys):
    assert [train.choose("marziano2024", "reference", **o).minutes for o in ({}, {"minutes": 1})] == [38, 1]
    parser = train.make_parser("surana2020", importlib.import_module("tools.recipes.surana2020"))
    given = vars(parser.parse_args(["mass", "--epochs", "3", "--no-live", "--labels", "truth"]))
    assert given == {"what": ["mass"], "quick": False, "epochs": 3, "live": False, "labels": "truth"}
    with pytest.raises(SystemExit, match=", ".join(list_papers())):
        train.main(["nobody2000"])
    with pytest.raises(SystemExit):
        train.main(["surana2020", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_marziano2024(run, folder):
    metrics = run("marziano2024", "beta0.3", "--parameters")
    info = store.load_model(folder / "marziano2024_beta0.3.safetensors", n_latent=32)[1]
    assert metrics["n_test"] == 12 and info.metrics["mse"] == pytest.approx(metrics["mse"])
    assert info.arrays["mse_per_pixel"].mean() == pytest.approx(metrics["mse"], rel=1e-4)
    assert (info.arrays["latent_min"] <= info.arrays["latent_max"]).all()
    parameters, _ = store.load_model(folder / "marziano2024_beta0.3_parameters.safetensors", n_latent=32)
    assert np.isfinite(parameters.predict(info.arrays["atlas_latent"])[0]).all()


def test_scourfield2023(run, folder):
    run("scourfield2023", "vae2")
    model, info = store.load_model(folder / "scourfield2023_vae2.safetensors", n_latent=2)
    assert info.config["widths"] == [1000, 900, 600, 200] and any(info.config["ranks"])
    options = train.choose("scourfield2023", "vae2", n=120, n_valid=60, quiet=True)
    test = scourfield2023_recipes.make_samples(options)["test"]
    scored = scourfield2023.network.score(model, scourfield2023.network.make_arrays(test))[0]
    assert scored["loss"] == pytest.approx(info.metrics["loss"], rel=1e-4)
    np.testing.assert_array_equal(info.arrays["candidate_test"], test["candidate"])
    denoised = denoise(model, test, errors=info.arrays)
    assert score_outliers(info.arrays, test, denoised)["outlier_score"].notnull().all()
    assert list(run("scourfield2023", "pca", "--latent", "4")["by_components"]) == ["2", "4"]
    assert set(run("scourfield2023", "noise_aware")["by_sn"]) == {"0.5", "1", "2", "5", "10", "20", "50"}
    ranked = run("scourfield2023", "search", "--latent", "2", "--epochs", "1")
    losses = [trial["loss"] for trial in ranked["trials"]]
    assert losses == sorted(losses) and ranked["best"].items() <= ranked["trials"][0].items()


def test_surana2020(run, folder):
    run("surana2020", "sfr")
    path = folder / "surana2020_sfr.safetensors"
    info = store.load_model(path)[1]
    choice = {"n_models": 1500, "cache": folder / "cache" / "surana2020", "progress": False}
    sample = surana2020_sample.make_surana2020(500, **choice)
    taught, _ = surana2020_sample.select_taught(sample)
    test = taught.isel(galaxy=surana2020.split_galaxies(taught.sizes["galaxy"])["test"])
    predicted = surana2020.predict_properties(test, surana2020.load_networks(path)[0])["log_sfr"].values
    np.testing.assert_allclose(predicted, info.arrays["predicted_test"][:, 0], rtol=1e-5)
    off = predicted - test["log_sfr_fit"].values
    assert info.metrics["log_sfr"]["sigma"] == pytest.approx(np.nanstd(off), rel=1e-4)
    together = run("surana2020", "truth_together")
    assert together["on_truth"]["log_mass"] == pytest.approx(together["log_mass"])
    metrics = run("surana2020", "ensemble")
    paths = [folder / f"surana2020_ensemble{k}.safetensors" for k in (1, 2)]
    ensemble, arrays = surana2020.load_networks(*paths)
    np.testing.assert_array_equal(ensemble.calibration, arrays["error_calibration"])
    assert 0 < metrics["log_mass"]["coverage"] < 1 and len(metrics["missing"]["sigma"]) == 11


def test_liewcain2021(run, folder):
    figures, network = run("liewcain2021", "folds"), liewcain2021.network
    assert len(list(folder.glob("liewcain2021_truth_*.safetensors"))) == 16
    options = train.choose("liewcain2021", "folds", galaxies=18, spectra=12.0)
    sample = liewcain2021_recipes.make_sample(options)
    for letter, by in network.SETS.items():
        names = [folder / f"liewcain2021_truth_{letter}_age{k + 1}.safetensors" for k in range(4)]
        models, infos = zip(*(store.load_model(name) for name in names), strict=True)
        predicted = network.predict_folds(sample, split_spectra(sample, by=by), models)
        sigma = network.score_spectra(predicted, sample["log_age"].values)["sigma"]
        assert sigma == pytest.approx(figures[by]["log_age"]["sigma"], rel=1e-6)
        assert infos[0].metrics["sigma"] == figures[by]["log_age"]["sigma"]
    figures = run("liewcain2021", "ensemble")
    ensemble = network.load_networks(*(folder / f"liewcain2021_ensemble{k}.safetensors" for k in (1, 2)))
    assert ensemble.calibration.any() and 0 < figures["noisy"]["log_age"]["coverage"] <= 1
    curves = read_experiments(folder / "figures.json")["ensemble"]
    assert curves["missing"].sizes["n_missing"] == 7 and len(curves["importance"]["band"]) == 34


def test_zahid2019(run, folder):
    figures = run("zahid2019", "mlp")
    paths = [folder / f"zahid2019_mlp{k}.safetensors" for k in (1, 2)]
    model, info = store.load_model(paths[0])
    test = zahid2019.sample.make_heldout(300, seed=info.recipe["heldout_seeds"]["test"])
    off = model.predict(test["flux"].values)[:, 0] - test["log_z_lw"].values
    rms = info.metrics["log_z_lw"]["by_sn"]["inf"]["rms"]
    assert rms == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-5)
    assert set(figures["ensemble"]["by_sn"]) == {"inf", "50", "20", "10", "5"}
    found = zahid2019.predict(test.isel(galaxy=slice(50)), networks=zahid2019.network.load(*paths))
    assert (found["log_z_error"] > 0).all() and np.isfinite(found["outlier_chi2"]).all()
    rules = run("zahid2019", "rules")["stopping_rules"]
    info = store.load_model(paths[0])[1]
    assert info.metrics == figures | {"stopping_rules": rules, "training": info.metrics["training"]}
    assert rules["last"]["epoch"] == len(info.arrays["rules_heldout"]) == 6
    assert rules["heldout"]["epoch"] == np.argmin(info.arrays["rules_heldout"]) + 1


def test_zahid2019s_other_networks(run, folder):
    more = {"randomised": SINGLE + FEW_EPOCHS, "diverse": SINGLE}
    for recipe in ("mlp400", "intervals", "randomised", "diverse"):
        run("zahid2019", recipe, *more.get(recipe, ()))
    made = {name: store.load_model(folder / f"zahid2019_{name}.safetensors") for name in OTHERS}
    assert made["mlp400"][0].n_filters == 16
    assert made["intervals"][0].outputs[:5] == tuple(f"log_z_interval_{k}" for k in range(1, 6))
    assert made["randomised1"][1].recipe["randomised"]["depth"] > 0
    recipe = made["diverse1"][1].recipe
    assert (recipe["n_diverse"], recipe["n_training"]) == (300, 600)
    assert recipe["diverse_seed"] not in recipe["heldout_seeds"].values()
    figures = run("zahid2019", "peers")
    assert set(figures) == {"network", "forest", "boosting"}
    assert all(scores["by_sn"]["inf"]["rms"] < scores["by_sn"]["5"]["rms"] for scores in figures.values())
    assert store.load_model(folder / "zahid2019_pca.safetensors")[1].metrics["peers"] == figures
