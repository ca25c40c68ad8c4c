"""What the line dashboard writes can be read again, and foreign files are refused."""

import json

import numpy as np
import pandas as pd
import pytest

from spectool.explore.line_files import load_state, save_csv, save_png, save_state
from spectool.explore.line_state import LineState

from .line_fakes import make_pipeline, make_product


@pytest.fixture(scope="module")
def product():
    return make_product()


@pytest.fixture
def state(product):
    return LineState(product, make_pipeline(product))


def move(state):
    state.choose(
        line="[N II] 6583", quantity="integrated", kind="AE", size=10, axes=(9, 3), diagrams="recovered"
    )
    state.set_filter(classes=["emission line galaxy", "broad-line AGN"], sn_range=(2, np.inf))
    state.set_sigma(0.063)
    state.brush(np.flatnonzero(state.passing)[3:12])
    state.step(2)


def test_a_saved_state_comes_back_whole(state, tmp_path):
    move(state)
    points, live, shown = dict(state.points), dict(state.live), state.shown
    path = save_state(state, tmp_path / "state.json")
    state.reset()
    load_state(state, path)
    assert state.shown == shown
    for name in points:
        np.testing.assert_array_equal(state.points[name], points[name])
        np.testing.assert_array_equal(state.live[name], live[name])


def test_a_state_is_plain_json_in_the_fields_words(state, tmp_path):
    move(state)
    saved = json.loads(save_state(state, tmp_path / "state.json").read_text(encoding="utf-8"))
    assert saved["line"] == "[N II] 6583"
    assert saved["sn_range"] == [2.0, None]
    assert saved["brushed"] == state.candidates[state.brushed].tolist()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: "{", "is not a state file"),
        (lambda s: "[]", "is not a state file"),
        (lambda s: {**s, "format": "spectool latent state 1"}, "is not a state file"),
        (lambda s: {k: v for k, v in s.items() if k != "sigma"}, "lacks sigma"),
        (lambda s: {**s, "brushed": [10**9]}, "brushes the galaxy 1000000000"),
        (lambda s: {**s, "line": "Pα"}, "line 'Pα' is none of"),
        (lambda s: {**s, "size": 5}, "size 5 is none of"),
        (lambda s: {**s, "classes": ["dwarf"]}, "no class 'dwarf'"),
        (lambda s: {**s, "sn_range": [9, 3]}, "from low to high"),
    ],
    ids=["torn", "no dict", "another's", "lacking", "galaxy", "line", "size", "class", "range"],
)
def test_a_file_that_does_not_fit_is_explained_and_changes_nothing(state, tmp_path, spoil, message):
    path = save_state(state, tmp_path / "state.json")
    spoilt = spoil(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(spoilt if isinstance(spoilt, str) else json.dumps(spoilt), encoding="utf-8")
    points, brushed = dict(state.points), state.brushed
    with pytest.raises(ValueError, match=message):
        load_state(state, path)
    for name, values in points.items():
        np.testing.assert_array_equal(state.points[name], values)
    np.testing.assert_array_equal(state.brushed, brushed)


def test_the_table_holds_the_galaxies_that_take_part(state, tmp_path):
    move(state)
    path = save_csv(state, tmp_path / "lines.csv")
    head = path.read_text(encoding="utf-8").splitlines()[:2]
    assert head[0] == "# [N II] 6583, integrated flux, AE 10; BPT and metallicity from recovered lines"
    assert f"recovered {state.summary['n_recovered']} of {state.summary['n_original']}" in head[1]
    table = pd.read_csv(path, comment="#")
    assert table["candidate"].tolist() == state.candidates[state.passing].tolist()
    np.testing.assert_allclose(table["difference_dex"], state.points["residual"][state.passing], rtol=1e-5)
    assert np.std(table["difference_dex"].dropna()) == pytest.approx(state.summary["sigma"], rel=1e-4)
    assert table["brushed"].sum() == state.brushed.size
    assert table["live_recovered"].notna().sum() == np.isfinite(state.live["recovered"]).sum()


def test_the_picture_is_one(state, tmp_path):
    move(state)
    path = save_png(state, tmp_path / "lines.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 50_000
    state.brush([])
    assert save_png(state, tmp_path / "empty.png").stat().st_size > 30_000
