"""What papers share: verbs, networks that load, galaxies rebuilt from their numbers, small files, words of refusal."""

import importlib
import inspect

import numpy as np
import pytest
import xarray as xr

from spectool import papers
from spectool.models import store
from spectool.papers import liewcain2021, marziano2024, scourfield2023, surana2020, zahid2019
from tests.refusals import refused

VERBS = ("make_sample", "train", "load", "predict")
WHERE_THERE_IS_SOMETHING = {"rebuild", "read_products", "make_predictor"}
BYTES = {"surana2020": 3e6, "zahid2019": 2e6}

NULL = {"scourfield2023": {"metallicity_sfr": False}, "zahid2019": {"null": True}}
RENEWED = {"scourfield2023": "log_z_gas", "zahid2019": "log_z_star"}
TOLERANCE = {"scourfield2023": 2e-4, "zahid2019": 3e-4}
IDS = [5, 4097, 7, 5000, 3]


@pytest.mark.parametrize("key", papers.list_papers())
def test_each_paper_has_the_same_verbs_and_what_loads_predicts(key):
    paper = importlib.import_module(f"spectool.papers.{key}")
    assert set(VERBS) <= set(paper.__all__) <= set(VERBS) | WHERE_THERE_IS_SOMETHING
    for verb in paper.__all__:
        function = getattr(paper, verb)
        assert callable(function) and function.__doc__, f"{key}.{verb}"
    first, second = list(inspect.signature(paper.predict).parameters.values())[:2]
    assert first.name == "sample" and second.kind is second.POSITIONAL_OR_KEYWORD
    assert paper.load() is not None


@pytest.mark.parametrize("key", BYTES)
def test_all_files_together_are_small(key):
    assert 0 < sum(file.stat().st_size for file in store.SHIPPED.glob(f"{key}_*.safetensors")) < BYTES[key]


@pytest.fixture(scope="module", params=list(NULL))
def key(request):
    return request.param


@pytest.fixture(scope="module")
def rebuild(key):
    return importlib.import_module(f"spectool.papers.{key}").rebuild


@pytest.fixture(scope="module")
def some(rebuild):
    return rebuild(IDS)


def test_a_candidate_is_the_same_alone_and_in_company_with_units_and_no_weight_where_bad(key, rebuild, some):
    alone, near = rebuild([7, 5000], batch_size=1), {"rtol": TOLERANCE[key], "atol": TOLERANCE[key]}
    for name in ("flux", "ivar", "truth", "true_line_flux"):
        for row, other in ((0, 2), (1, 3)):
            np.testing.assert_allclose(alone[name][row], some[name][other], **near)
    for name in ("redshift", "log_mass", "fibre_fraction", "candidate", "log_z_gas"):
        np.testing.assert_allclose(alone[name], some[name][[2, 3]], rtol=1e-8)
    np.testing.assert_array_equal(alone["mask"], some["mask"][[2, 3]])
    np.testing.assert_array_equal(some["candidate"], IDS)
    for ids in ([], [-1, 3]):
        refused("numbers of the candidates", rebuild, ids)
    assert (some["ivar"].values[some["mask"].values] == 0).all()
    assert all("units" in some[name].attrs for name in some.data_vars)


def test_other_seeds_are_other_galaxies_and_the_null_test_knows_mass_only(key, rebuild, some):
    assert rebuild([5], seed=1)["log_mass"].values[0] != some["log_mass"].values[0]
    null, rows = rebuild([5, 7], keep_truth=False, **NULL[key]), [0, 2]
    np.testing.assert_allclose(null["log_mass"], some["log_mass"][rows], atol=1e-4)
    np.testing.assert_array_equal(null["dust2"], some["dust2"][rows])
    assert (null[RENEWED[key]].values != some[RENEWED[key]].values[rows]).all() and "truth" not in null


NOTHING, SPECTRA = xr.Dataset(), np.ones((3, 825))
# What is said -> what is asked, of a grid.
REFUSALS = {
    "no configuration 'papper'": lambda grid: marziano2024.network.make_autoencoder("papper"),
    "no sample 'all'; choose from uniform": lambda grid: scourfield2023.sample.read_products("all"),
    "no sample 'null'; choose from uniform, star-f": lambda grid: scourfield2023.sample.read_real("null"),
    "or None, not 'valid'": lambda grid: scourfield2023.make_sample(split="valid"),
    "or None, not 'validation'": lambda grid: scourfield2023.sample.read_real(split="validation"),
    "leave none": lambda grid: scourfield2023.network.split_validation(100, 100, seed=0),
    "'ae' or 'vae'": lambda grid: scourfield2023.network.make_model("pca", 2, SPECTRA),
    "no model of 5 dimensions": lambda grid: scourfield2023.network.make_model("ae", 5, SPECTRA),
    "at least 1, not 0": lambda grid: surana2020.sample.make_surana2020(0),
    "the sample lacks": lambda grid: surana2020.sample.select_galaxies(NOTHING),
    "no property age": lambda grid: surana2020.network.train_network(*[None] * 4, outputs=["age"]),
    "not 'luck'": lambda grid: liewcain2021.network.train_folds(NOTHING, "", by="", stop_on="luck"),
    "choose from main, null": lambda grid: zahid2019.read_products("all"),
    "no variable `flux`": lambda grid: zahid2019.reader.prepare_zahid2019(NOTHING),
    "must not be negative": lambda grid: zahid2019.network.perturb_grid(grid, older=-0.1),
    "shape": lambda grid: zahid2019.network.score_on_library(lambda seen: np.zeros(3), grid, n=20),
    "at least one": lambda grid: zahid2019.network.compare_libraries({}, {"own": grid}),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_cannot_be_is_refused_in_words(grid, message):
    refused(message, REFUSALS[message], grid)
