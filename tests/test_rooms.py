"""The rules of the house: direction of imports, closures, prose, names, options; see docs/decisions/0028."""

import ast
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("top level", "synth", "surveys", "models", "measure", "papers", "explore")
# Ceilings as they are reached; page 0028 says what the plan asks and what is left. They only go down.
CEILINGS = dict(zip(ROOMS, (1140, 2170, 5510, 2920, 5000, 3950, 5650), strict=True))
PROSE = 0.25
WORDS = {"found", "told", "said", "one", "apart"}
# Users pass options of these, whatever the package itself passes: readers, grids, fits and hooks.
USERS = re.compile(
    r"(read|query|fetch|open|load|add|register|observe|from)_\w+|register|SSPGrid|draw_population|synthesize"
    r"|fit|fit_lines|fit_library|fit_populations|measure_lines_linear|metallicity|deredden_lines|perturb_grid"
)
# Options that the fence sets, and that stored numbers depend on; that are passed by ``**`` or by unpacking; or that
# users of notebooks are told of.
PASSED = """
    attribute(steps) describe_filters(steps) fit_gradients(min_spectra) fit_gradients(n_bootstrap)
    measure_indices(names) explain_offset(min_count) explain_offset(n_bootstrap) explain_offset(seed)
    probe_latents(n_bootstrap) measure_degeneracy(kind) band_importance(repeats) forward(generator) forward(known)
    as_columns(dim) train_folds(stop_on) score_noise(sn) score_missing(counts) missing_curve(counts) predict(n_mock)
    train(pixel_noise) train(watch) stream_metallicity(threads) correct_extinction(law) to_rest_frame(redshift)
    make_band_averages(nebular) sdss_wavelength(high) rebuild_galaxy(grid)
"""


def source(path):
    """Python of a module or of a notebook's cells, magics left out."""
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))


@cache
def tree(path):
    return ast.parse(source(path))


def files(folder):
    return sorted([*(ROOT / folder).rglob("*.py"), *(ROOT / folder).glob("*.ipynb")])


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in files("spectool")
}


def room(path):
    parts = path.relative_to(ROOT / "spectool").parts
    return parts[0] if len(parts) > 1 else "top level"


def paper(path):
    """The paper's key of a file in ``papers/<key>/``, else None."""
    parts = path.relative_to(ROOT / "spectool").parts
    return parts[1] if parts[0] == "papers" and len(parts) > 2 else None


@cache
def handed_on(package):
    """Names that a package imports when they are asked for -> the module they come from."""
    for node in tree(MODULES[package]).body if package in MODULES else ():
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LATER":
            return ast.literal_eval(node.value)
    return {}


@cache
def imports(path):
    """Modules of spectool that a file imports, inside functions, too."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            later = handed_on(node.module)
            asked = (later.get(alias.name, alias.name) for alias in node.names)
            names |= {node.module}.union(*({name, f"{node.module}.{name}"} for name in asked))
    return names & MODULES.keys()


@cache
def parts(path):
    """Modules of papers that a dashboard asks for without naming the paper."""
    calls = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    asked = {node.args[0].value for node in calls if getattr(node.func, "id", "") == "find_parts"}
    return {name for name in MODULES if paper(MODULES[name]) and name.rpartition(".")[2] in asked}


def closure(path, *, packages=True):
    """Modules that a file pulls in, through whatever it imports and the packages around it."""
    waiting, reached = list(imports(path)), set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imports(MODULES[name])
            waiting += parts(MODULES[name]) if packages else ()
            waiting += [outer for outer in MODULES if packages and name.startswith(f"{outer}.")]
    return reached


def n_lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def definitions(body):
    return [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def docstring_lines(path):
    owners = (ast.Module, ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(tree(path)) if isinstance(node, owners) and ast.get_docstring(node)]
    return {n for node in nodes for n in range(node.body[0].lineno, node.body[0].end_lineno + 1)}


def test_arrows_point_one_way():
    """Rule 1: rooms import from rooms before them, papers from all but explore and each other; no cycles."""
    wrong = []
    for name, path in MODULES.items():
        wrong += [f"{name} is in a cycle"] * (name in closure(path, packages=False))
        for target in imports(path):
            upward = ROOMS.index(room(MODULES[target])) > ROOMS.index(room(path))
            foreign = paper(MODULES[target]) not in (None, paper(path))
            wrong += [f"{name} -> {target}"] * (upward or foreign)
    assert not wrong, "\n".join(wrong)


def test_a_file_with_a_single_importer_says_why_it_is_one():
    """Rule 2; what a package hands on is for its users, however few of them are here."""
    handed = {name for package in MODULES for name in handed_on(package).values()}
    users = defaultdict(set)
    for folder in ("spectool", "tools", "benchmarks", "notebooks"):
        for path in files(folder):
            for target in imports(path):
                users[target].add(path)
    alone = [
        name
        for name, path in MODULES.items()
        if name not in handed and path.name != "__init__.py" and paper(path) is None
        if len(users[name] - {path}) == 1 and "own file" not in source(path).splitlines()[0]
    ]
    assert not alone, f"say in the first line why each is its own file: {alone}"


def test_a_notebook_pulls_in_no_more_than_the_readme_says(capsys):
    """Rule 3: the README's ceilings hold, and are not far above what is so."""
    table = re.findall(r"\| `(\w+)` \| ([\d,]+) lines \|", (ROOT / "README.md").read_text("utf-8"))
    ceilings = {name: int(lines.replace(",", "")) for name, lines in table}
    pulled = {path.stem: sum(n_lines(MODULES[m]) for m in closure(path)) for path in files("notebooks")}
    with capsys.disabled():
        print("\nlines of spectool that a notebook pulls in:", pulled)
    assert ceilings.keys() == pulled.keys()
    assert not {name: (lines, ceilings[name]) for name, lines in pulled.items() if lines > ceilings[name]}
    low = {name: lines for name, lines in pulled.items() if lines < 0.9 * ceilings[name]}
    assert not low, "lower the ceilings"


@pytest.mark.parametrize("which", ROOMS)
def test_a_room_keeps_to_its_budget(which):
    """Rules 2 and 4: lines, and the share of prose."""
    paths = [path for path in MODULES.values() if room(path) == which]
    total = sum(n_lines(path) for path in paths)
    assert total <= CEILINGS[which], f"{which}: {total} lines"
    prose = filled = 0
    for path in paths:
        words = docstring_lines(path)
        for number, line in enumerate(source(path).splitlines(), 1):
            filled += bool(line.strip())
            prose += bool(line.strip()) and (number in words or line.lstrip().startswith("#"))
    assert prose <= PROSE * filled, f"{which}: {prose / filled:.0%} prose"


def test_no_public_name_twice():
    """Rule 5; the papers' verbs are the same by intention."""
    where = defaultdict(set)
    for path in MODULES.values():
        if paper(path) is None:
            for node in definitions(tree(path).body):
                where[node.name].add(path.stem)
    assert not {name: stems for name, stems in where.items() if len(stems) > 1 and not name.startswith("_")}


def test_constants_are_in_one_place():
    """Rule 5."""
    pattern = re.compile(r"299_?792|2\.9979|\b3631\b")
    paths = [path for path in MODULES.values() if path.stem != "spectra"]
    strays = [path.name for path in paths if pattern.search(source(path))]
    assert not strays


def test_no_option_is_for_the_tests_alone():
    """Rule 5: somebody but a test passes each option, except those of `USERS`."""
    passed, positions = defaultdict(set), Counter()
    for folder in ("spectool", "tools", "benchmarks", "notebooks"):
        for path in files(folder):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Call):
                    called = [node.func, *node.args[:1]]  # partial(f, ...), delayed(f)(...)
                    for name in {getattr(n, "id", getattr(n, "attr", None)) for n in called}:
                        passed[name] |= {keyword.arg for keyword in node.keywords}
                        positions[name] = max(positions[name], len(node.args))
                elif isinstance(node, ast.Dict):  # settings as data, passed with **
                    passed[None] |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    unused = []
    for path in MODULES.values():
        owners = [(None, tree(path).body)] + [
            (c.name, c.body) for c in definitions(tree(path).body) if isinstance(c, ast.ClassDef)
        ]
        for owner, body in owners:
            for node in (n for n in definitions(body) if isinstance(n, ast.FunctionDef)):
                name = owner if node.name == "__init__" else node.name
                given = passed[name] | (passed["cls"] if node.name == "__init__" else set())
                given |= passed[None] if None in given else set()
                places = node.args.posonlyargs + node.args.args
                first = len(places) - len(node.args.defaults)
                late = {a.arg for i, a in enumerate(places) if i >= max(first, positions[name] + bool(owner))}
                late |= {a.arg for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d}
                if not USERS.fullmatch(name) and owner != "SSPGrid":
                    unused += [f"{name}({option}) of {path.stem}" for option in sorted(late - given)]
    assert not [option for option in unused if option.split()[0] not in PASSED.split()]


def test_a_papers_name_stays_in_its_room():
    """Rule 6."""
    keys = [path.name for path in (ROOT / "spectool/papers").iterdir() if (path / "claims.toml").is_file()]
    pattern = re.compile("|".join(keys), re.IGNORECASE)
    strays = [
        f"{path.name}: {line.strip()[:100]}"
        for path in MODULES.values()
        if paper(path) is None
        for line in source(path).splitlines()
        if pattern.search(line)
    ]
    assert len(keys) == 5 and not strays, "\n".join(strays)


def test_names_are_the_fields():
    """Rule 7."""
    strays = [
        f"{path.name}:{node.lineno}"
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if {getattr(node, key, None) for key in ("id", "arg", "name")} & WORDS
    ]
    assert not strays, "\n".join(strays)
