"""Every notebook runs top to bottom, within the memory that Binder grants, and agrees with its paper."""

import json
from pathlib import Path

import pytest

from spectool.measure import scores
from tests.golden.rows import row_differences
from tools.notebook_runner import paper_notebooks, run_notebook

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
MEMORY_MB = 1200


@pytest.mark.notebook
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs(path, record_property):
    key = {notebook: key for key, notebook in paper_notebooks(FOLDER).items()}.get(path)
    result = FOLDER.parent / "results" / f"{key}.json"
    if key:
        result.unlink(missing_ok=True)
    run = run_notebook(path)
    record_property(path.name, f"{run.seconds:.0f} s, peak {run.peak_rss_mb:.0f} MB")
    assert not run.error, run.error
    assert run.peak_rss_mb < MEMORY_MB
    if key:
        scores.check(scores.read(result)["rows"])
        assert not row_differences(key, json.loads(result.read_text())["rows"])
