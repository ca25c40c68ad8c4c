"""Our figures beside the paper's: rows with a tolerance, a table, and ``results/<key>.json``.

A row is *within* when our figure agrees with the paper's within the tolerance. It *differs* when honest work
gives another answer: the row then names the experiment that explains why, and holds our own figure from then
on. Anything else is *out*, and fails the run.
"""

import json
import math
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from spectool.measure.usage import Usage

WITHIN, DIFFERS, OUT = "within", "differs", "out"
PACKAGES = (
    "spectool", "numpy", "scipy", "torch", "xarray", "astropy", "scikit-learn", "gmm-mi", "ppxf", "bokeh",
    "ipywidgets", "jupyterlab",
)  # fmt: skip

Tolerance = float | tuple[float | None, float | None]


class ScoreError(AssertionError):
    """A figure is out of its tolerance, or too many differ from the paper."""


@dataclass(frozen=True)
class Score:
    """One figure of a paper beside ours.

    Attributes
    ----------
    name : str
        What the figure is, unique within a paper.
    paper, ours : float
        The paper's value and ours, in the same unit (said in ``name``).
    tolerance : float or (float or None, float or None)
        The largest distance from the paper's value, or the limits that ours must lie between (None: open).
    status : {"within", "differs", "out"}
        What the comparison came to.
    note : str
        Why the two may differ; for a row that differs it names the experiment which shows it.
    """

    name: str
    paper: float
    ours: float
    tolerance: Tolerance
    status: str
    note: str = ""


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


def score(
    name: str,
    *,
    paper: float,
    ours: float,
    tolerance: Tolerance,
    note: str = "",
    expected: float | tuple[float | None, float | None] | None = None,
    experiment: str = "",
) -> Score:
    """Compare one figure with the paper's.

    Parameters
    ----------
    name : str
        What the figure is, with its unit.
    paper, ours : float
        The paper's value and ours; ``True`` and ``False`` are allowed, for a claim that holds or does not.
    tolerance : float or (low, high)
        Ours may be this far from the paper's value, or must lie between these limits (None: open).
    note : str
        Why the two may differ.
    expected : float or (low, high), optional
        Where honest work gives another answer than the paper: our own figure, kept within ``tolerance`` of
        this number, or between these limits. Needs ``experiment``.
    experiment : str
        The experiment in the notebook that explains why our answer is another.

    Returns
    -------
    Score
        With status "within", else (only if ``expected`` is given and met) "differs", else "out".

    Raises
    ------
    ValueError
        If a value is not a finite number, a tolerance makes no sense, or ``expected`` names no experiment.

    Examples
    --------
    >>> score("informative dimensions at beta = 0.3", paper=7, ours=6, tolerance=(5, 9)).status
    'within'
    >>> score("pixels", paper=1, ours=3, tolerance=0.5, expected=3.1, experiment="Section 4").status
    'differs'
    """
    paper, ours = _number(name, "paper", paper), _number(name, "ours", ours)
    tolerance = _limits(name, "tolerance", tolerance)
    if expected is not None and not experiment.strip():
        raise ValueError(
            f"score {name!r} expects another figure than the paper's: name the experiment that shows why"
        )
    if expected is None and experiment:
        raise ValueError(
            f"score {name!r} names an experiment but not the figure expected from it (expected=...)"
        )
    status = WITHIN if _agrees(ours, paper, tolerance) else OUT
    if status == OUT and expected is not None and _holds(name, ours, expected, tolerance):
        status = DIFFERS
    if status != WITHIN and experiment:
        note = f"{note} Experiment: {experiment}".strip()
    return Score(name, paper, ours, tolerance, status, note)


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


def table(rows: Iterable[Score]) -> pd.DataFrame:
    """Return the rows as a table of text for the reader, one line per figure."""
    return pd.DataFrame(
        [
            {
                "figure": row.name,
                "paper": _text(row.paper),
                "ours": _text(row.ours),
                "tolerance": _tolerance_text(row.tolerance),
                "status": row.status,
                "why they may differ": row.note,
            }
            for row in rows
        ],
        columns=["figure", "paper", "ours", "tolerance", "status", "why they may differ"],
    ).set_index("figure")


def check(rows: Iterable[Score]) -> None:
    """Raise if the rows do not pass.

    Raises
    ------
    ScoreError
        If there is no row, a name occurs twice, a row is out, or more than a third of the rows differ.
    """
    rows = list(rows)
    faults = [] if rows else ["there is not one row"]
    faults += [
        f"the name {name!r} occurs {n} times" for name, n in Counter(r.name for r in rows).items() if n > 1
    ]
    faults += [
        f"{row.name}: the paper has {_text(row.paper)}, we have {_text(row.ours)}, "
        f"outside the tolerance ({_tolerance_text(row.tolerance)})"
        for row in rows
        if row.status == OUT
    ]
    n_differ = sum(row.status == DIFFERS for row in rows)
    if n_differ > len(rows) / 3:
        faults.append(f"{n_differ} of {len(rows)} rows differ from the paper; at most a third may")
    if faults:
        raise ScoreError("against the paper:\n- " + "\n- ".join(faults))


def results_folder() -> Path:
    """Return ``results/`` of the checkout around the working folder, else of the working folder itself."""
    here = Path.cwd()
    top = next((f for f in (here, *here.parents) if (f / "pyproject.toml").is_file()), here)
    return top / "results"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a figure may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(key: str, rows: Iterable[Score], usage: Usage, *, folder: str | Path | None = None) -> Path:
    """Write ``<key>.json`` and raise if a row is out.

    Parameters
    ----------
    key : str
        The paper, such as "marziano2024".
    rows : iterable of Score
        From :func:`score`.
    usage : Usage
        Made in the notebook's first cell; it is stopped here.
    folder : path, optional
        Where to write; :func:`results_folder` by default.

    Returns
    -------
    pathlib.Path
        The file: {"paper", "rows", "seconds", "peak_rss_mb", "versions"}.

    Raises
    ------
    ScoreError
        After the file is written, as :func:`check` does.
    """
    rows = list(rows)
    usage.stop()
    folder = Path(folder) if folder is not None else results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.json"
    result = {
        "paper": key,
        "rows": [asdict(row) for row in rows],
        "seconds": round(usage.seconds, 1),
        "peak_rss_mb": round(usage.peak_rss_mb, 1),
        "versions": versions(),
    }
    path.write_text(
        json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    check(rows)
    return path


def read(path: str | Path) -> dict:
    """Read what :func:`write` wrote; rows come back as :class:`Score`.

    Raises
    ------
    ValueError
        If the file is not such a result.
    """
    path = Path(path)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        rows = [Score(**{**row, "tolerance": _from_json(row["tolerance"])}) for row in result["rows"]]
        return {**result, "rows": rows}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result written by spectool.measure.scores: {error}") from error


def _from_json(tolerance):
    return tuple(tolerance) if isinstance(tolerance, list) else tolerance
