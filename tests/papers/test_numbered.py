"""Candidates are rebuilt from their numbers, alone or in company, in any order, in each paper that has some."""

import importlib

import numpy as np
import pytest

NULL = {"scourfield2023": {"metallicity_sfr": False}, "zahid2019": {"null": True}}
RENEWED = {"scourfield2023": "log_z_gas", "zahid2019": "log_z_star"}
TOLERANCE = {"scourfield2023": 2e-4, "zahid2019": 3e-4}
IDS = [5, 4097, 7, 5000, 3]


@pytest.fixture(scope="module", params=list(NULL))
def key(request):
    return request.param


@pytest.fixture(scope="module")
def rebuild(key):
    return importlib.import_module(f"spectool.papers.{key}").rebuild


@pytest.fixture(scope="module")
def some(rebuild):
    return rebuild(IDS)


def test_a_candidate_is_the_same_alone_and_in_company(key, rebuild, some):
    alone, near = rebuild([7, 5000], batch_size=1), {"rtol": TOLERANCE[key], "atol": TOLERANCE[key]}
    for name in ("flux", "ivar", "truth", "true_line_flux"):
        for row, other in ((0, 2), (1, 3)):
            np.testing.assert_allclose(alone[name][row], some[name][other], **near)
    for name in ("redshift", "log_mass", "fibre_fraction", "candidate", "log_z_gas"):
        np.testing.assert_allclose(alone[name], some[name][[2, 3]], rtol=1e-8)
    np.testing.assert_array_equal(alone["mask"], some["mask"][[2, 3]])
    np.testing.assert_array_equal(some["candidate"], IDS)
    for ids in ([], [-1, 3]):
        with pytest.raises(ValueError, match="numbers of the candidates"):
            rebuild(ids)


def test_other_seeds_are_other_galaxies_and_the_null_test_knows_mass_only(key, rebuild, some):
    assert rebuild([5], seed=1)["log_mass"].values[0] != some["log_mass"].values[0]
    null, rows = rebuild([5, 7], keep_truth=False, **NULL[key]), [0, 2]
    np.testing.assert_allclose(null["log_mass"], some["log_mass"][rows], atol=1e-4)
    np.testing.assert_array_equal(null["dust2"], some["dust2"][rows])
    assert (null[RENEWED[key]].values != some[RENEWED[key]].values[rows]).all() and "truth" not in null


def test_bad_pixels_have_no_weight_and_columns_have_units(some):
    assert (some["ivar"].values[some["mask"].values] == 0).all()
    assert all("units" in some[name].attrs for name in some.data_vars)
