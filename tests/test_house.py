"""The house stays in order: what is installed where, what may lie in git, what an import may do."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_rooms import ROOT, tree

# conda-forge's names where they are others than the Python index's
CONDA_NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
# the import's name where it is another than the package's
IMPORT_NAMES = {"ipython": "IPython", "astro-sedpy": "sedpy", "scikit-learn": "sklearn", "pyyaml": "yaml"}
FORBIDDEN = {
    "pickle": r"import pickl[e]|allow_pickle=Tru[e]|joblib\.(dum|loa)[pd]\(|torch\.loa[d]\(",
    "all cores": r"n_jobs=-[1]|os\.cpu_coun[t]",
}
LAZY = ("astroquery", "bagpipes", "captum", "dsps", "fsps", "gmm_mi", "jax", "optuna", "ppxf", "sedpy")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines):
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in parsed}


def tracked(*patterns):
    """Files of the checkout that git knows and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def lines_matching(pattern, files):
    found = []
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def test_conda_and_pip_install_the_same_and_binder_reads_no_local_line():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [entry for entry in listed if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    names = {re.match(r"[\w-]+", line)[0]: line for line in conda if not re.match(r"(python|pip)\b", line)}
    lines = [line.replace(name, CONDA_NAMES.get(name, name), 1) for name, line in names.items()]
    assert requirements(lines + pip) == requirements(project()["dependencies"])
    assert "python=3.11" in conda
    assert not [line for line in pip if line.startswith(("-", ".", "/")) or "://" in line]


def test_binder_gets_the_same_environment_and_the_package_alone():
    link = ROOT / "binder/environment.yml"
    assert os.readlink(link) == "../environment.yml"
    assert link.resolve() == ROOT / "environment.yml"
    build = (ROOT / "binder/postBuild").read_text()
    assert build.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in build
    assert re.search(r"pip install --no-deps \.$", build, re.MULTILINE)
    start = (ROOT / "binder/start").read_text()
    assert start.rstrip().endswith('exec "$@"')
    assert all(os.access(ROOT / name, os.X_OK) for name in ("binder/postBuild", "binder/start", ".ci/run"))


@pytest.mark.parametrize(("limit", "threads"), [("1", "1"), ("2.0", "2"), ("0.5", "1"), (None, "1")])
def test_binder_tells_the_libraries_how_many_threads_there_are(limit, threads):
    environment = {"PATH": os.environ["PATH"]} | ({"CPU_LIMIT": limit} if limit else {})
    command = ["bash", ROOT / "binder/start", "printenv", "OMP_NUM_THREADS"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == threads


def test_the_tested_versions_lie_within_the_bounds():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = requirements(line for line in lines if not line.startswith("#"))
    listed = project()
    for lines in [listed["dependencies"], *listed["optional-dependencies"].values()]:
        for name, specifier in requirements(lines).items():
            assert str(pinned[name]).removeprefix("==") in specifier, name


def imported_names(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_what_is_imported_is_declared():
    listed = project()
    base = requirements(listed["dependencies"])
    extra = {name for lines in listed["optional-dependencies"].values() for name in requirements(lines)}
    own = {"spectool", "tools", "benchmarks", "packaging"} | set(sys.stdlib_module_names)

    def importable(names):
        return own | {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}

    for folder, declared in {
        "spectool": importable(set(base) | {"fsps"}),
        "notebooks": importable(base),
        "tools": importable(set(base) | extra),
        "tests": importable(set(base) | extra) | {"tests"},
        "benchmarks": importable(set(base) | extra | {"jax"}),
    }.items():
        unknown = {
            (p.name, n)
            for p in tracked(f"{folder}/*.py", f"{folder}/*.ipynb")
            for n in imported_names(p)
            if n not in declared
        }
        assert not unknown, f"not declared in pyproject.toml: {sorted(unknown)}"


def test_notebooks_lie_in_git_without_outputs():
    for path in tracked("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3", path.name
        assert "widgets" not in notebook.metadata, path.name
        for cell in notebook.cells:
            assert not cell.get("outputs"), f"{path.name} holds outputs"
            assert cell.get("execution_count") is None, f"{path.name} holds execution counts"


def test_files_are_small():
    big = [p.name for p in tracked() if p.stat().st_size > 20e6]
    assert not big, f"over 20 MB: {big}"


def test_nothing_in_the_product_points_at_one_machine():
    kinds = {".py", ".ipynb", ".md", ".toml", ".yml", ".txt", ".cff", ""}
    names = {path: str(path.relative_to(ROOT)) for path in tracked() if path.suffix in kinds}
    files = [path for path, name in names.items() if not name.startswith(("tests/", ".ci/"))]
    assert not lines_matching(r"/(work|farm|root|tmp|home)/[a-z]|\.\./shared", files)


@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_is_never_used(pattern):
    assert not lines_matching(pattern, tracked("*.py", "*.ipynb"))


def test_an_import_reads_no_data_asks_no_network_and_waits_for_the_costly():
    code = f"""
import importlib, pkgutil, sys
seen = []
def hook(event, arguments):
    if event == "socket.connect" or event == "open" and "/spectool/data/" in str(arguments[0]):
        seen.append((event, str(arguments[:2])))
sys.addaudithook(hook)
import spectool
for module in pkgutil.walk_packages(spectool.__path__, "spectool."):
    importlib.import_module(module.name)
    loaded = set({LAZY!r}) & sys.modules.keys()
    assert not loaded, (module.name, loaded)
assert not seen, seen
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [link for link in links if "://" not in link]
    assert local
    assert not [link for link in local if not (ROOT / link).exists()]
    assert "urlpath=lab/tree/notebooks/00_start_here.ipynb" in text


def test_an_old_python_is_told_what_to_do(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo "Python 3.9.18";; esac\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "lab", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "spectool needs Python 3.11, 3.12 or 3.13" in run.stderr
    assert not (tmp_path / "venv").exists()
