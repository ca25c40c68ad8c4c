"""What the mass-metallicity dashboard writes can be read, and what it reads is checked."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from spectool.explore.mzr_choices import NONE
from spectool.explore.mzr_files import load_state, save_csv, save_state
from spectool.explore.mzr_png import save_png
from spectool.explore.mzr_state import MzrState

from .mzr_fakes import OXYGEN_SUN, make_samples


@pytest.fixture(scope="module")
def samples():
    return make_samples(150)


@pytest.fixture
def state(samples):
    return MzrState(samples)


def test_a_saved_state_comes_back(state, samples, tmp_path):
    state.set(left="de-noised", right=NONE, min_sn=7.5, color="class", relations=("Curti et al. 2020",))
    state.select("de-noised", 31)
    path = save_state(state, tmp_path / "state.json")
    other = MzrState(samples)
    load_state(other, path)
    for name in ("left", "right", "min_sn", "color", "relations", "reference", "selected"):
        assert getattr(other, name) == getattr(state, name)
    np.testing.assert_array_equal(other.panels[0].metallicity, state.panels[0].metallicity)


def changed(state, tmp_path, **changes):
    saved = json.loads(save_state(state, tmp_path / "state.json").read_text())
    return json.dumps({k: v for k, v in (saved | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": "someone else's"}, "left cannot be"),
        ({"calibration": "guess"}, "calibration cannot be 'guess'"),
        ({"min_sn": 1e9}, "min_sn cannot be"),
        ({"min_sn": "many"}, "upload.json: "),
        ({"relations": 3}, "upload.json: "),
        ({"selected": ["fake", -5]}, "the galaxy -5 of 'fake', which is not here"),
        ({"selected": 7}, "upload.json"),
        ({"color": None}, "lacks color"),
        ({"format": "something else"}, "not a state file"),
    ],
)
def test_a_damaged_state_says_what_is_wrong_and_changes_nothing(state, tmp_path, changes, message):
    content = changed(state, tmp_path, overlaid=True, **changes)
    before = state.panels
    with pytest.raises(ValueError, match=message):
        load_state(state, content, name="upload.json")
    assert state.panels is before
    assert not state.overlaid


@pytest.mark.parametrize("content", [b"galaxy,mass\n1,2\n", b"\xff\xfe\x00", b"[1, 2]", b""])
def test_a_file_that_is_no_state_is_named(state, content):
    with pytest.raises(ValueError, match=r"upload\.json is not a state file"):
        load_state(state, content, name="upload.json")


def test_the_table_holds_every_galaxy_of_both_samples(state, samples, tmp_path):
    table = pd.read_csv(save_csv(state, tmp_path / "galaxies.csv"), comment="#")
    assert table["sample"].value_counts().to_dict() == {"original": 150, "DESI-like": 150}
    first = table[table["sample"] == "original"]
    measured = np.zeros(150, dtype=bool)
    measured[state.panels[0].index] = True
    np.testing.assert_array_equal(first["measured"], measured)
    np.testing.assert_allclose(first["oxygen"][measured], state.panels[0].metallicity, rtol=1e-5)
    np.testing.assert_allclose(first["true_oxygen"], samples["original"]["log_z_gas"] + OXYGEN_SUN, rtol=1e-5)
    np.testing.assert_array_equal(first["candidate"], samples["original"]["candidate"])
    assert "PP04 O3N2, not corrected for dust" in (tmp_path / "galaxies.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"overlaid": True}, {"right": NONE, "color": "class"}, {"min_sn": 50.0}, {"color": "number"}],
)
def test_the_picture_is_drawn(state, tmp_path, changes):
    state.set(**changes)
    image = imread(save_png(state, tmp_path / "mzr.png", window=(9, 11, 8, 9)))
    assert min(image.shape[:2]) > 500
    assert image[..., :3].std() > 0.02
