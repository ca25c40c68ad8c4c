import numpy as np
import pytest

from spectool import papers
from spectool.measure import scores
from spectool.parallel import Usage
from tools.notebook_runner import paper_notebooks

CLAIMS = """
["pixels"]
paper = 4582
tolerance = 0

["scatter (dex)"]
paper = 0.3
at_most = 0.1
expected = [0.2, 0.25]
experiment = "section 2"
note = "Seen at 3 sigma: {detected:.2f}."

["it rises"]
paper = true
tolerance = 0
"""
VALUES = {"it rises": np.bool_(True), "scatter (dex)": np.float32(0.22), "pixels": 4582}
NOTES = {"detected": 0.123}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    (tmp_path / "paper2024").mkdir()
    (tmp_path / "paper2024/claims.toml").write_text(CLAIMS, encoding="utf-8")
    monkeypatch.setattr(papers, "FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_values_become_rows_in_the_order_of_the_claims(checkout):
    table = papers.check_claims("paper2024", VALUES, Usage(), notes=NOTES)
    rows = scores.read(checkout / "results/paper2024.json")["rows"]
    assert [row["name"] for row in rows] == ["pixels", "scatter (dex)", "it rises"] == list(table.index)
    assert rows[1] == {
        "name": "scatter (dex)",
        "paper": 0.3,
        "ours": float(np.float32(0.22)),
        "tolerance": [None, 0.1],
        "status": "differs",
        "note": "Seen at 3 sigma: 0.12. Experiment: section 2",
    }
    assert rows[2]["ours"] is True and table.loc["it rises", "paper"] == "yes"


@pytest.mark.parametrize(
    ("key", "values", "notes", "message"),
    [
        ("nobody1999", VALUES, NOTES, "no paper 'nobody1999'; there are paper2024"),
        ("paper2024", {**VALUES, "pixel": 1}, NOTES, "'pixel' is not a claim; the nearest is 'pixels'"),
        ("paper2024", {"pixels": 1}, NOTES, r"missing for 'scatter \(dex\)', 'it rises'"),
        ("paper2024", {**VALUES, "pixels": np.nan}, NOTES, "'pixels': ours must be one finite number"),
        ("paper2024", VALUES, None, r"note of 'scatter \(dex\)' needs notes=\{'detected': ...\}"),
    ],
)
def test_what_does_not_fit_the_claims_is_refused_and_nothing_written(checkout, key, values, notes, message):
    with pytest.raises(ValueError, match=message):
        papers.check_claims(key, values, Usage(), notes=notes)
    assert not (checkout / "results").exists()


def test_every_claim_of_a_retold_paper_makes_sense(root, monkeypatch):
    monkeypatch.undo()
    assert papers.list_papers() == sorted(paper_notebooks(root / "notebooks"))
    for key in papers.list_papers():
        for name, claim in papers.read_claims(key).items():
            expected = claim.get("expected", claim["paper"])
            ours = np.mean(expected) if isinstance(expected, list) else expected
            status = scores.compare(name, ours=ours, **claim)["status"]
            assert status == "differs" or "expected" not in claim, f"{key}: {name} is {status} as expected"
