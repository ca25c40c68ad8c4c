import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from spectool import papers
from tools import reproduce

CLAIMS = """
["pixels"]
paper = 4582
tolerance = 0

["it rises"]
paper = true
tolerance = 0
"""


def write_notebook(path, *cells):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(c) for c in cells], metadata=metadata), path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    for key in ("paper2024", "paper2020"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    monkeypatch.setattr(papers, "FOLDER", tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    return tmp_path


def write_paper(checkout, *cells):
    write_notebook(
        checkout / "notebooks/10_paper2024.ipynb",
        "from pathlib import Path\nfrom spectool import papers\nfrom spectool.measure import scores",
        f"from spectool.parallel import Usage\npapers.FOLDER = Path({str(checkout)!r})",
        *cells,
    )


@pytest.mark.parametrize("pixels", [4582, 4000])
def test_a_paper_is_one_table_and_a_figure_that_is_out_fails(checkout, capsys, pixels):
    values, holds = {"pixels": pixels, "it rises": True}, pixels == 4582
    write_paper(checkout, f"papers.check_claims('paper2024', {values}, Usage())")
    assert reproduce.main([] if holds else ["paper2024"]) == (0 if holds else 1)
    shown = capsys.readouterr()
    head, *lines = shown.out.splitlines()
    assert " ".join(head.split()) == "paper figure paper's value ours status seconds peak memory"
    assert lines[0].split()[:5] == ["paper2024", "pixels", "4582", str(pixels), "within" if holds else "out"]
    assert lines[1].split()[:6] == ["paper2024", "it", "rises", "yes", "yes", "within"]
    assert ("NOT REPRODUCED" in shown.err) is not holds


def test_a_claim_that_the_result_lacks_is_named(checkout, capsys):
    row = "scores.compare('pixels', paper=4582, ours=4582, tolerance=0)"
    write_paper(checkout, f"scores.write('paper2024', [{row}], Usage())")
    assert reproduce.main([]) == 1
    assert "results/paper2024.json has no row for 'it rises'" in capsys.readouterr().err


def test_an_old_result_does_not_stand_in_for_a_notebook_that_fails_and_unknown_papers_are_named(
    checkout, capsys
):
    write_notebook(checkout / "notebooks/20_paper2020.ipynb", "1 / 0")
    (checkout / "results").mkdir()
    (checkout / "results/paper2020.json").write_text("{}")
    assert reproduce.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    write_notebook(checkout / "notebooks/10_paper2024.ipynb", "pass")
    assert reproduce.main(["nobody1999"]) == 2
    assert "nobody1999; known: paper2024" in capsys.readouterr().err
