"""Milliseconds from a choice in the mass-metallicity dashboard to the repainted page."""

import tempfile
from pathlib import Path

import nbformat
import numpy as np

from benchmarks.row import make_row
from tools.jupyter_browser import error_outputs, open_chromium, open_page, run_lab, run_notebook

N_GALAXIES = 10_000
N_MOVES, N_WARM_UP = 30, 4
SELECTION_BUDGET_MS, SLIDER_BUDGET_MS, STARS_BUDGET_MS = 500.0, 150.0, 500.0

# The shipped galaxies drawn over and over, each time with another mass, and all of them shown.
CELLS = (
    """
import numpy as np
from spectool.explore import use_bokeh
from spectool.explore.mzr import MzrState, MzrView
from spectool.papers.scourfield2023.mzr import read_lines
from spectool.papers.zahid2019.mzr import read_sample

use_bokeh()
""",
    """
def enlarge(sample, n):
    rng = np.random.default_rng(1)
    drawn = sample.isel(galaxy=rng.integers(sample.sizes["galaxy"], size=n))
    mass = drawn["log_mass"] + rng.normal(0, 0.05, n)
    return drawn.assign(log_mass=mass, candidate=("galaxy", np.arange(n)))
""",
    """
samples = {{name: enlarge(sample, {n}) for name, sample in read_lines().items()}}
dashboard = MzrView(MzrState(samples))
dashboard.state.set(min_sn={min_sn})
dashboard
""",
)
# The 200,000 galaxies of Zahid et al. (2019) beside their null, each an image.
STAR_CELL = """
dashboard = MzrView(MzrState(read_sample() | read_sample("null")))
dashboard
"""
READY = """() => window.Bokeh && document.querySelector('.spectool-mzr .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('points1'))"""
# A frame that was asked for when the data came is painted at the latest when the one after it begins.
WATCH = """name => {
  const source = Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1).get_model_by_name(name);
  window.mzr = {painted: [], start: null};
  source.properties.data.change.connect(() => {
    const start = window.mzr.start;
    window.mzr.start = null;
    if (start) requestAnimationFrame(() => requestAnimationFrame(
      () => window.mzr.painted.push(performance.now() - start)));
  });
  const begin = () => { window.mzr.start = performance.now(); };
  document.querySelectorAll('.spectool-main .widget-dropdown select')[1].addEventListener('change', begin, true);
  document.querySelector('.spectool-mzr .noUi-handle').addEventListener('keydown', begin, true);
}"""


def write_notebook(folder, *cells, name):
    """Write a notebook of these cells; returns its name."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, Path(folder) / name)
    return name


def open_notebook(page, address, name, source):
    """Run a notebook and watch when its dashboard is repainted, by the name of a data source."""
    run_notebook(page, address, name)
    if errors := error_outputs(page):
        raise RuntimeError(f"{name} failed: {errors[0]}")
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.spectool-mzr').scrollIntoView()")
    page.wait_for_timeout(5000)  # what changes while the page draws makes it draw anew
    page.evaluate(WATCH, source)


def wait_for_paint(page, move):
    """Wait until one more move is painted, and the correlations that follow it are through."""
    page.wait_for_function("n => window.mzr.painted.length > n", arg=move, timeout=20_000)
    page.wait_for_function("() => !document.querySelector('.spectool-tables').innerText.includes('…')")


def measure_selections(page, n=N_MOVES):
    """Choose another sample for the second panel, one choice after the other."""
    choice = page.locator(".spectool-main .widget-dropdown select").nth(1)
    for move in range(n + N_WARM_UP):
        choice.select_option("de-noised" if move % 2 == 0 else "original")
        wait_for_paint(page, move)
    return np.array(page.evaluate("() => window.mzr.painted")[N_WARM_UP:])


def measure_slider(page, n=N_MOVES):
    """Move the cut in S/N by keyboard; returns as `measure_selections`."""
    page.locator(".spectool-mzr .noUi-handle").first.focus()
    for move in range(n + N_WARM_UP):
        page.keyboard.press("ArrowRight" if move % 20 < 10 else "ArrowLeft")
        wait_for_paint(page, move)
    return np.array(page.evaluate("() => window.mzr.painted")[N_WARM_UP:])


def run():
    """Rows of milliseconds from a choice to the repainted page: medians beside their budgets, and p95.

    ``mzr_slider_to_paint_ms``: the cut, in two samples of the size of Scourfield's (2023); (2019).
    """
    many = [cell.format(n=N_GALAXIES, min_sn=0.0) for cell in CELLS[2:]]
    few = [cell.format(n=1956, min_sn=15.0) for cell in CELLS[2:]]
    rows = (
        (
            "mzr_selection_to_paint_ms",
            (*CELLS[:2], *many),
            "points1",
            measure_selections,
            SELECTION_BUDGET_MS,
        ),
        ("mzr_slider_to_paint_ms", (*CELLS[:2], *few), "points1", measure_slider, SLIDER_BUDGET_MS),
        ("mzr_stars_slider_to_paint_ms", (CELLS[0], STAR_CELL), "image0", measure_slider, STARS_BUDGET_MS),
    )
    measured = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, open_chromium() as browser:
        names = [write_notebook(folder, *cells, name=f"{row}.ipynb") for row, cells, *_ in rows]
        with run_lab(Path(folder)) as address:
            for name, (_, _, source, measure, _) in zip(names, rows, strict=True):
                page = open_page(browser)
                open_notebook(page, address, name, source)
                measured.append(measure(page))
                page.context.close()
    return [
        {
            **make_row(name, float(np.median(values)), "ms", "budget", budget, higher_is_better=False),
            "p95": float(f"{np.quantile(values, 0.95):.4g}"),
        }
        for (name, *_, budget), values in zip(rows, measured, strict=True)
    ]
