"""``make reproduce``: execute the paper notebooks and print every figure beside the paper's.

Usage: python -m tools.reproduce [KEY ...]        (all papers, or the named ones, such as marziano2024)
"""

import sys
from pathlib import Path

import pandas as pd

from spectool.measure import scores
from spectool.papers import list_papers, read_claims
from tools.notebook_runner import paper_notebooks, run_notebook

ROOT = Path(__file__).resolve().parents[1]


def reproduce(key: str, notebook: Path) -> tuple[pd.DataFrame, list[str]]:
    """Execute one paper's notebook; its rows, with seconds and memory of the whole, and why it is not reproduced."""
    path = ROOT / "results" / f"{key}.json"
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
    if missing := read_claims(key).keys() - {row["name"] for row in result["rows"]}:
        faults.append(f"{key}: results/{path.name} has no row for {', '.join(map(repr, sorted(missing)))}")
    table = scores.table(result["rows"]).reset_index()[["figure", "paper", "ours", "status"]]
    table = table.rename(columns={"paper": "paper's value"})
    table.insert(0, "paper", key)
    table["seconds"] = f"{result['seconds']:.0f}"
    table["peak memory"] = f"{result['peak_rss_mb']:.0f} MB"
    return table, faults


def main(keys: list[str]) -> int:
    """Reproduce the named papers (all of them if none is named) and return the exit status."""
    known = {key: path for key, path in paper_notebooks(ROOT / "notebooks").items() if key in list_papers()}
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
        table, why = reproduce(key, known[key])
        tables.append(table)
        faults += why
    print(pd.concat(tables).to_string(index=False))
    for fault in faults:
        print(f"\nNOT REPRODUCED  {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
