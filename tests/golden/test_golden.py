"""The fence: what must not move has not moved."""

import numpy as np
import pytest

from tests.golden import fence, rows


@pytest.mark.parametrize("name", fence.PARTS)
def test_nothing_moved(name, request):
    if name == "real":
        request.getfixturevalue("shared")
    assert not fence.differences(name, fence.compute(name))


def test_what_moves_is_seen_and_other_processors_are_given_more(tmp_path, monkeypatch):
    monkeypatch.setattr(fence, "FOLDER", tmp_path)
    kept = {"x": np.linspace(1, 2, 9), "gap": np.array([np.nan, 1]), "n": np.arange(3), "s": np.array("a")}
    fence.write("toy", kept)
    assert not fence.differences("toy", kept | {"x": kept["x"] * (1 + 1e-7)})
    moved = [("x", kept["x"] * (1 + 5e-6)), ("x", kept["x"][:-1]), ("gap", np.array([1.0, np.nan]))]
    moved += [("n", np.array([0, 1, 3])), ("s", np.array("b")), ("new", np.zeros(2))]
    for name, values in moved:
        assert len(fence.differences("toy", kept | {name: values})) == 1, (name, values)
    assert fence.differences("toy", {"x": kept["x"]}) == ["gap is gone", "n is gone", "s is gone"]
    fence.write("toy", {"x": np.ones(9)})
    assert fence.differences("toy", {"x": np.full(9, 1.0005)})
    monkeypatch.setattr(fence, "instructions", lambda: "another")
    assert not fence.differences("toy", {"x": np.full(9, 1.0005)})
    assert fence.differences("toy", {"x": np.full(9, 1.005)})


def test_rows_that_move_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "ROWS", tmp_path / "rows.json")
    row = {"name": "scatter", "paper": 0.1, "ours": 0.11, "tolerance": 0.02, "status": "within"}
    rows.ROWS.write_text('{"key": [' + str(row).replace("'", '"') + "]}")
    assert not rows.row_differences("key", [row | {"ours": 0.11 * (1 + 1e-7)}])
    for moved in ([row | {"ours": 0.1101}], [row | {"status": "differs"}], [row | {"name": "offset"}], []):
        assert rows.row_differences("key", moved), moved
