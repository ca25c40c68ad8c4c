"""The rows of the papers' results, as they were."""

import json
from pathlib import Path

import numpy as np

from spectool.measure.scores import is_clocked

ROWS = Path(__file__).parent / "rows.json"
TOLERANCE = 1e-6
COLUMNS = ("name", "paper", "tolerance", "status")


def read_rows():
    """Stored rows by paper."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}


def update_rows(results):
    """Keep the rows of all results in a folder."""
    known = read_rows()
    for path in sorted(results.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        known[path.stem] = [{column: row[column] for column in (*COLUMNS, "ours")} for row in rows]
    ROWS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def row_differences(key, rows, tolerance=TOLERANCE):
    """What of a paper's rows (dicts) is not as stored; of rows in seconds, only the claim."""
    known = read_rows()[key]
    names, wanted = ([row["name"] for row in some] for some in (rows, known))
    faults = [] if names == wanted else ["other names or another order"]
    for row, old in zip(rows, known, strict=False):
        clocked = is_clocked(row)
        columns = [c for c in COLUMNS if not (clocked and c == "status")]
        faults += [f"{old['name']}: {c} {row[c]} was {old[c]}" for c in columns if row[c] != old[c]]
        if not clocked and not np.isclose(row["ours"], old["ours"], rtol=tolerance, atol=0):
            faults.append(f"{old['name']}: ours {row['ours']!r} was {old['ours']!r}")
    return faults
