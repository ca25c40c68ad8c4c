"""Our figures beside the paper's: rows with a tolerance, a table, and ``results/<key>.json``."""

import json
import math
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

import pandas as pd

from spectool.parallel import Usage

WITHIN, DIFFERS, OUT = "within", "differs", "out"
PACKAGES = (
    "spectool", "numpy", "scipy", "torch", "xarray", "astropy", "scikit-learn", "gmm-mi", "ppxf", "bokeh",
    "ipywidgets", "jupyterlab",
)  # fmt: skip
_COLUMNS = ("name", "paper", "ours", "tolerance", "status", "note")


class ScoreError(AssertionError):
    """A figure is out of its tolerance, or too many differ from the paper."""


def _agrees(value, target, tolerance):
    """Whether ``value`` lies within a distance of ``target``, or between two limits."""
    if not isinstance(tolerance, tuple):
        return abs(value - target) <= tolerance
    low, high = tolerance
    return (low is None or value >= low) and (high is None or value <= high)


def _number(name, what, value):
    """Return ``value`` as a plain int, float or bool; a clear error for anything else."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise ValueError(f"score {name!r}: {what} must be one finite number, not {value!r}")
    return value


def _limits(name, what, value):
    """Return a tolerance as a number or as a pair of limits; a clear error for anything else."""
    if not isinstance(value, (tuple, list)):
        distance = _number(name, what, value)
        if distance < 0:
            raise ValueError(f"score {name!r}: {what} must not be negative, but it is {distance}")
        return distance
    if len(value) != 2 or all(limit is None for limit in value):
        raise ValueError(f"score {name!r}: {what} must be a number or (low, high), not {value!r}")
    low, high = (None if limit is None else _number(name, what, limit) for limit in value)
    if low is not None and high is not None and low > high:
        raise ValueError(f"score {name!r}: {what} has its limits exchanged: {value!r}")
    return low, high


def compare(name, *, paper, ours, tolerance, note="", expected=None, experiment=""):
    """One row: the paper's figure and ours, within a distance or between limits, or differing as ``expected``."""
    paper, ours = _number(name, "paper", paper), _number(name, "ours", ours)
    tolerance = _limits(name, "tolerance", tolerance)
    if expected is not None and not experiment.strip():
        raise ValueError(f"score {name!r} expects another figure: name the experiment that shows why")
    if expected is None and experiment:
        raise ValueError(f"score {name!r} names an experiment but not the figure expected=... from it")
    status = WITHIN if _agrees(ours, paper, tolerance) else OUT
    if status == OUT and expected is not None and _holds(name, ours, expected, tolerance):
        status = DIFFERS
    if status != WITHIN and experiment:
        note = f"{note} Experiment: {experiment}".strip()
    return dict(zip(_COLUMNS, (name, paper, ours, tolerance, status, note), strict=True))


def _holds(name, ours, expected, tolerance):
    """Whether our figure is still the one that we found when we last looked into it."""
    if isinstance(expected, (tuple, list)):
        return _agrees(ours, None, _limits(name, "expected", expected))
    if isinstance(tolerance, tuple):
        raise ValueError(f"score {name!r}: its tolerance is a pair of limits, so expected must be one too")
    return _agrees(ours, _number(name, "expected", expected), tolerance)


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"


def _tolerance_text(tolerance):
    if not isinstance(tolerance, (tuple, list)):
        return f"± {_text(tolerance)}" if tolerance else "exact"
    low, high = tolerance
    if low is None:
        return f"at most {_text(high)}"
    if high is None:
        return f"at least {_text(low)}"
    return f"{_text(low)} to {_text(high)}"


def table(rows: list[dict]) -> pd.DataFrame:
    """The rows as a table of text for the reader, one line per figure."""
    texts = {"paper": _text, "ours": _text, "tolerance": _tolerance_text}
    shown = pd.DataFrame([{k: texts.get(k, str)(row[k]) for k in _COLUMNS} for row in rows], columns=_COLUMNS)
    return shown.rename(columns={"name": "figure", "note": "why they may differ"}).set_index("figure")


def is_clocked(row: dict) -> bool:
    """Whether a row is in seconds, which say as much of the machine: it is shown, and `make bench` holds the speed."""
    return "(s)" in row["name"] or "(s;" in row["name"]


def check(rows: list[dict]) -> None:
    """Raise `ScoreError` if there is no row, a name occurs twice, a row is out (but for seconds), or a third differ."""
    faults = [] if rows else ["there is not one row"]
    counts = Counter(row["name"] for row in rows)
    faults += [f"the name {name!r} occurs {n} times" for name, n in counts.items() if n > 1]
    faults += [
        f"{row['name']}: the paper has {_text(row['paper'])}, we have {_text(row['ours'])}, "
        f"outside the tolerance ({_tolerance_text(row['tolerance'])})"
        for row in rows
        if row["status"] == OUT and not is_clocked(row)
    ]
    n_differ = sum(row["status"] == DIFFERS for row in rows)
    if n_differ > len(rows) / 3:
        faults.append(f"{n_differ} of {len(rows)} rows differ from the paper; at most a third may")
    if faults:
        raise ScoreError("against the paper:\n- " + "\n- ".join(faults))


def results_folder() -> Path:
    """``results/`` of the checkout around the working folder, else of the working folder itself."""
    here = Path.cwd()
    top = next((f for f in (here, *here.parents) if (f / "pyproject.toml").is_file()), here)
    return top / "results"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a figure may depend on."""
    values = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            values[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            values[name] = "not installed"
    return values


def write(key: str, rows: list[dict], usage: Usage) -> Path:
    """Stop ``usage``, write a paper's rows to ``<key>.json`` in `results_folder`, and `check` them."""
    usage.stop()
    path = results_folder() / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    cost = {"seconds": round(usage.seconds, 1), "peak_rss_mb": round(usage.peak_rss_mb, 1)}
    result = {"paper": key, "rows": rows, **cost, "versions": versions()}
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    check(rows)
    return path


def read(path: Path) -> dict:
    """What `write` wrote; a ``ValueError`` for any other file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if set(result["rows"][0]) != set(_COLUMNS):
            raise KeyError("rows")
    except (json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is not a result written by spectool.measure.scores: {error}") from error
    return result
