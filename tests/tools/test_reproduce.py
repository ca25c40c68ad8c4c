import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import reproduce
from tools.notebook_runner import paper_notebooks, run_notebook

FIRST = "from spectool.measure import scores\nfrom spectool.measure.usage import Usage\nusage = Usage()"


def write_notebook(path, *cells):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(c) for c in cells], metadata=metadata), path)


def row(ours):
    return f"rows = [scores.score('pixels', paper=4582, ours={ours}, tolerance=0)]"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def run_main(checkout, *keys):
    return reproduce.main(list(keys), checkout / "notebooks", checkout / "results")


def test_a_paper_that_holds_is_one_table_and_exit_0(checkout, capsys):
    write_notebook(
        checkout / "notebooks/10_paper2024.ipynb", FIRST, row(4582), "scores.write('paper2024', rows, usage)"
    )
    assert run_main(checkout) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "paper",
        "figure",
        "paper's",
        "value",
        "ours",
        "status",
        "seconds",
        "peak",
        "memory",
    ]
    assert line.split()[:5] == ["paper2024", "pixels", "4582", "4582", "within"]


def test_a_figure_that_is_out_fails_and_is_shown(checkout, capsys):
    write_notebook(
        checkout / "notebooks/10_paper2024.ipynb", FIRST, row(4000), "scores.write('paper2024', rows, usage)"
    )
    assert run_main(checkout, "paper2024") == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[:5] == ["paper2024", "pixels", "4582", "4000", "out"]
    assert "NOT REPRODUCED" in shown.err


def test_an_old_result_does_not_stand_in_for_a_notebook_that_fails(checkout, capsys):
    write_notebook(checkout / "notebooks/20_paper2020.ipynb", "1 / 0")
    (checkout / "results").mkdir()
    (checkout / "results/paper2020.json").write_text("{}")
    assert run_main(checkout) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_unknown_paper_is_named_with_the_known_ones(checkout, capsys):
    write_notebook(checkout / "notebooks/10_paper2024.ipynb", "pass")
    assert run_main(checkout, "nobody1999") == 2
    assert "nobody1999; known: paper2024" in capsys.readouterr().err


def test_only_papers_are_reproduced(root):
    assert all(path.name[0] in "12345" for path in paper_notebooks(root / "notebooks").values())


def test_the_memory_of_the_kernel_and_its_children_is_seen_and_the_file_left_alone(tmp_path):
    path = tmp_path / "notebook.ipynb"
    code = "import time; block = b'x' * 300_000_000; time.sleep(1)"
    write_notebook(
        path, "import subprocess, sys", f"subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    )
    before = path.read_bytes()
    run = run_notebook(path)
    assert run.error == ""
    assert 330 < run.peak_rss_mb < 600
    assert path.read_bytes() == before
