import json
import sys
from types import ModuleType

import pytest

from benchmarks import run
from benchmarks.row import make_row


@pytest.fixture
def stand_ins(monkeypatch):
    module = ModuleType("stand_in_benchmarks")
    row = make_row("good", 3.0, "spectra/s", "peer 1.0", 2.0, higher_is_better=True)
    module.good = lambda: print("a peer prints") or row
    module.pair = lambda: [row | {"name": "first"}, row | {"name": "second"}]
    module.bad = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = {"bad": "bad", "good": "good", "first": "pair", "second": "pair"}
    monkeypatch.setattr(run, "BENCHMARKS", {k: f"{module.__name__}:{v}" for k, v in names.items()})


def test_the_ratio_says_how_many_times_better_and_every_registered_benchmark_is_there():
    assert make_row("rate", 30, "1/s", "peer", 10, higher_is_better=True)["ratio"] == 3
    assert make_row("time", 10, "ms", "peer", 30, higher_is_better=False)["ratio"] == 3
    for target in set(run.BENCHMARKS.values()):
        module, function = target.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_stdout_holds_rows_alone_and_one_failure_stops_no_other(stand_ins, capsys):
    assert run.main([]) == 1
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [row["name"] for row in rows] == ["good", "first", "second"]
    assert all(list(row) == ["name", "value", "unit", "peer", "peer_value", "ratio"] for row in rows)
    assert "ZeroDivisionError" in shown.err
    assert "a peer prints" in shown.err


def test_one_benchmark_can_be_named(stand_ins, capsys):
    assert run.main(["second"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run.main(["nothing"]) == 2
