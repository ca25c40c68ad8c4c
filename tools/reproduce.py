"""``make reproduce``: execute the paper notebooks and print every figure beside the paper's.

Usage: python -m tools.reproduce [KEY ...]        (all papers, or the named ones, such as marziano2024)
"""

import sys
from pathlib import Path

import pandas as pd

from spectool.measure import scores
from tools.notebook_runner import paper_notebooks, run_notebook

ROOT = Path(__file__).resolve().parents[1]


def reproduce(key: str, notebook: Path, results: Path) -> tuple[pd.DataFrame, list[str]]:
    """Execute one paper's notebook and read the scores that it wrote.

    Parameters
    ----------
    key : str
        The paper.
    notebook : pathlib.Path
        Its notebook.
    results : pathlib.Path
        The folder that the notebook writes ``<key>.json`` to; an older file is removed first.

    Returns
    -------
    rows : pandas.DataFrame
        paper, figure, paper's value, ours, status, seconds, peak memory (the last two of the whole notebook).
    faults : list of str
        Why the paper is not reproduced; empty if it is.
    """
    path = results / f"{key}.json"
    path.unlink(missing_ok=True)
    run = run_notebook(notebook)
    faults = [run.error] if run.error else []
    if not path.is_file():
        return pd.DataFrame(), [*faults, f"{notebook.name} wrote no results/{path.name}"]
    result = scores.read(path)
    try:
        scores.check(result["rows"])
    except scores.ScoreError as error:
        faults.append(f"{key}, {error}")
    table = scores.table(result["rows"]).reset_index()[["figure", "paper", "ours", "status"]]
    table = table.rename(columns={"paper": "paper's value"})
    table.insert(0, "paper", key)
    table["seconds"] = f"{result['seconds']:.0f}"
    table["peak memory"] = f"{result['peak_rss_mb']:.0f} MB"
    return table, faults


def main(keys: list[str], notebooks: Path = ROOT / "notebooks", results: Path = ROOT / "results") -> int:
    """Reproduce the named papers (all of them if none is named) and return the exit status."""
    known = paper_notebooks(notebooks)
    unknown = [key for key in keys if key not in known]
    if unknown or not known:
        print(
            f"no paper notebook for {', '.join(unknown)}; known: {', '.join(known) or 'none'}",
            file=sys.stderr,
        )
        return 2
    tables, faults = [], []
    for key in keys or known:
        print(f"executing {known[key].name} ...", file=sys.stderr, flush=True)
        table, why = reproduce(key, known[key], results)
        tables.append(table)
        faults += why
    print(pd.concat(tables).to_string(index=False))
    for fault in faults:
        print(f"\nNOT REPRODUCED  {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
