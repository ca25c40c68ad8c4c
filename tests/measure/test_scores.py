"""Rows against the paper: within, differing as an experiment shows, or out; written, read and shown."""

import numpy as np
import pytest

from spectool.measure import scores
from spectool.measure.scores import ScoreError, compare
from spectool.parallel import Usage
from tests.refusals import refused


def rows_with(*statuses):
    made = {"within": {"ours": 1.0}, "out": {"ours": 9.0}}
    made["differs"] = {"ours": 3.0, "expected": 3.0, "experiment": "the scan of Section 5"}
    return [compare(f"row {i}", paper=1.0, tolerance=0.1, **made[s]) for i, s in enumerate(statuses)]


def test_a_figure_is_within_its_tolerance_or_out():
    within = [(1.1, 0.2), (5, (5, 9)), (0.2, (None, 0.5)), (0.6, (0.5, None)), (True, 0), (np.float32(1), 0)]
    out = [(1.3, 0.2), (4, (5, 9)), (0.6, (None, 0.5)), (False, 0)]
    for status, cases in {"within": within, "out": out}.items():
        for ours, tolerance in cases:
            row = compare("figure", paper=1, ours=ours, tolerance=tolerance)
            assert row["status"] == status, (ours, tolerance)


@pytest.mark.parametrize(
    ("ours", "expected", "status"),
    [(3.05, 3.0, "differs"), (3.2, 3.0, "out"), (3.2, (3, 4), "differs"), (1.05, 3.0, "within")],
)
def test_a_figure_that_differs_names_its_experiment_and_holds_its_own_value(ours, expected, status):
    known = {"expected": expected, "experiment": "e", "note": "Less data."}
    row = compare("x", paper=1, ours=ours, tolerance=0.1, **known)
    note = "Less data." if status == "within" else "Less data. Experiment: e"
    assert (row["status"], row["note"]) == (status, note)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ours": float("nan"), "tolerance": 1}, "finite number"),
        ({"ours": np.ones(2), "tolerance": 1}, "finite number"),
        ({"ours": "3", "tolerance": 1}, "finite number"),
        ({"ours": 1, "tolerance": -1}, "negative"),
        ({"ours": 1, "tolerance": (2, 1)}, "exchanged"),
        ({"ours": 1, "tolerance": (None, None)}, "low, high"),
        ({"ours": 3, "tolerance": 1, "expected": 3}, "name the experiment"),
        ({"ours": 3, "tolerance": 1, "experiment": "e"}, "expected"),
        ({"ours": 3, "tolerance": (0, 1), "expected": 3, "experiment": "e"}, "pair of limits"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments, message):
    refused(message, compare, "figure", paper=1, **arguments)


def test_a_third_of_the_rows_may_differ_names_are_unique_and_seconds_fail_nobody():
    scores.check(rows_with("within", "within", "differs"))
    seconds = compare("200,000 galaxies (s)", paper=60, ours=75, tolerance=(None, 60))
    assert seconds["status"] == "out"
    scores.check([seconds])
    for rows, message in (
        (rows_with("within", "within", "within", "differs", "differs"), "2 of 5 rows differ"),
        (rows_with("within") * 2, "'row 0' occurs 2 times"),
        ([], "not one row"),
    ):
        refused(message, scores.check, rows, error=ScoreError)


def test_what_is_written_is_read_back_even_when_a_row_is_out(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert scores.results_folder() == tmp_path / "notebooks" / "results"
    (tmp_path / "pyproject.toml").touch()
    rows = [*rows_with("within", "out"), compare("limits", paper=7, ours=np.int64(6), tolerance=(5, None))]
    refused("row 1: the paper has 1, we have 9", scores.write, "paper2024", rows, Usage(), error=ScoreError)
    path = tmp_path / "results/paper2024.json"
    result = scores.read(path)
    rows[2]["tolerance"] = [5, None]  # as JSON has it
    assert result["rows"] == rows
    assert list(scores.table(result["rows"]).tolerance) == ["± 0.1", "± 0.1", "at least 5"]
    assert result["peak_rss_mb"] > 10 and result["seconds"] >= 0
    assert result["versions"]["numpy"] == np.__version__
    path.write_text('{"rows": [1]}')
    refused(r"paper2024\.json is not a result", scores.read, path)


def test_the_table_reads_like_the_paper():
    dimensions = compare("dimensions", paper=7, ours=6, tolerance=(5, 9), note="A smaller model.")
    rises = compare("MSE rises", paper=True, ours=True, tolerance=0)
    table = scores.table([dimensions, rises, compare("seconds", paper=60, ours=50, tolerance=(None, 60))])
    assert list(table.loc["dimensions"]) == ["7", "6", "5 to 9", "within", "A smaller model."]
    assert list(table.loc["MSE rises"]) == ["yes", "yes", "exact", "within", ""]
    assert table.loc["seconds"].tolerance == "at most 60"
