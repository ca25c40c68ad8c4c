"""What the dashboard writes can be read, and what it reads is checked."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from spectool.explore.latent_files import load_state, save_csv, save_png, save_state
from spectool.explore.latent_state import LatentState


def test_a_saved_position_comes_back(state, model, seeds, tmp_path):
    state.select_seed("two")
    state.set_dimension(3, -0.4321)
    path = save_state(state, tmp_path / "state.json")
    other = LatentState(model(), seeds)
    load_state(other, path)
    assert other.seed_name == "two"
    np.testing.assert_array_equal(other.latent, state.latent)
    np.testing.assert_allclose(other.decoded, state.decoded, rtol=1e-4, atol=1e-6)


def test_a_position_of_another_model_is_refused_and_nothing_moves(state, model, seeds, tmp_path):
    path = save_state(LatentState(model(seed=9, name="other"), seeds), tmp_path / "state.json")
    before = state.latent.copy()
    with pytest.raises(ValueError, match=r"state\.json belongs to the model other .* but small .* is loaded"):
        load_state(state, path)
    np.testing.assert_array_equal(state.latent, before)


def changed(state, tmp_path, **changes):
    saved = json.loads(save_state(state, tmp_path / "state.json").read_text())
    return json.dumps({k: v for k, v in (saved | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": [0.0] * 5}, "6 finite latent values"),
        ({"latent": [float("nan")] * 6}, "6 finite latent values"),
        ({"seed": "three"}, "'three'"),
        ({"latent": None}, "lacks latent"),
        ({"format": "something else"}, "not a state file"),
    ],
)
def test_a_damaged_state_says_what_is_wrong(state, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_state(state, changed(state, tmp_path, **changes), name="upload.json")


@pytest.mark.parametrize("content", [b"wavelength,flux\n1,2\n", b"\xff\xfe\x00", b"[1, 2]", b""])
def test_a_file_that_is_no_state_is_named(state, content):
    with pytest.raises(ValueError, match=r"upload\.json is not a state file"):
        load_state(state, content, name="upload.json")


def test_the_table_holds_the_spectra_with_gaps_left_empty(state, tmp_path):
    state.select_seed("real")
    table = pd.read_csv(save_csv(state, tmp_path / "spectrum.csv"), comment="#")
    np.testing.assert_allclose(table["wavelength_angstrom"], state.wavelength, rtol=1e-6)
    np.testing.assert_allclose(table["decoded"], state.decoded, rtol=1e-5)
    np.testing.assert_allclose(table["residual"], state.residual, rtol=1e-4, atol=1e-6)
    assert table["galaxy"][:80].isna().all()


def test_the_picture_is_drawn(state, tmp_path):
    image = imread(save_png(state, tmp_path / "spectrum.png", wavelength_range=(4000, 5000)))
    assert image.shape[1] > image.shape[0] > 500
    assert image[..., :3].std() > 0.01
