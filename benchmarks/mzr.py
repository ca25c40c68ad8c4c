"""Milliseconds from a choice in the mass-metallicity dashboard to the repainted page."""

import tempfile
from pathlib import Path

import nbformat
import numpy as np

from benchmarks.row import make_row
from tools.jupyter_browser import error_outputs, open_chromium, open_page, run_lab, run_notebook

N_GALAXIES = 10_000
N_MOVES, N_WARM_UP = 30, 4
SELECTION_BUDGET_MS, SLIDER_BUDGET_MS = 500.0, 150.0

# The shipped galaxies drawn over and over, each time with another mass, and all of them shown.
CELLS = (
    """
import numpy as np
from spectool.explore import use_bokeh
from spectool.explore.mzr_data import read_samples
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_view import MzrView

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
samples = {{name: enlarge(sample, {n}) for name, sample in read_samples("scourfield2023").items()}}
dashboard = MzrView(MzrState(samples))
dashboard.state.set(min_sn={min_sn})
dashboard
""",
)
READY = """() => window.Bokeh && document.querySelector('.mzr-side .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('points1'))"""
# A frame that was asked for when the data came is painted at the latest when the one after it begins.
WATCH = """() => {
  const source = Bokeh.documents.filter(d => d.get_model_by_name('points1')).at(-1).get_model_by_name('points1');
  window.mzr = {painted: [], start: null};
  source.properties.data.change.connect(() => {
    const start = window.mzr.start;
    window.mzr.start = null;
    if (start) requestAnimationFrame(() => requestAnimationFrame(
      () => window.mzr.painted.push(performance.now() - start)));
  });
  const begin = () => { window.mzr.start = performance.now(); };
  document.querySelectorAll('.mzr-main .widget-dropdown select')[1].addEventListener('change', begin, true);
  document.querySelector('.mzr-side .noUi-handle').addEventListener('keydown', begin, true);
}"""


def write_notebook(folder, *, n, min_sn):
    """Write a notebook that opens the dashboard on samples of ``n`` galaxies; returns its name."""
    cells = [nbformat.v4.new_code_cell(cell.format(n=n, min_sn=min_sn)) for cell in CELLS[2:]]
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS[:2]] + cells
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    name = f"mzr_{n}.ipynb"
    nbformat.write(notebook, Path(folder) / name)
    return name


def open_notebook(page, address, name):
    """Run a notebook and watch when its dashboard is repainted."""
    run_notebook(page, address, name)
    if errors := error_outputs(page):
        raise RuntimeError(f"{name} failed: {errors[0]}")
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.mzr-side').scrollIntoView()")
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)


def wait_for_paint(page, move):
    """Wait until one more move is painted, and the correlations that follow it are through."""
    page.wait_for_function("n => window.mzr.painted.length > n", arg=move, timeout=20_000)
    page.wait_for_function("() => !document.querySelector('.mzr-statistics').innerText.includes('…')")


def measure_selections(page, n=N_MOVES):
    """Choose another sample for the second panel, one choice after the other.

    Returns
    -------
    ndarray, shape (n,)
        Milliseconds from each choice to the repainted page.
    """
    choice = page.locator(".mzr-main .widget-dropdown select").nth(1)
    for move in range(n + N_WARM_UP):
        choice.select_option("de-noised" if move % 2 == 0 else "original")
        wait_for_paint(page, move)
    return np.array(page.evaluate("() => window.mzr.painted")[N_WARM_UP:])


def measure_slider(page, n=N_MOVES):
    """Move the cut in S/N by keyboard; returns as `measure_selections`."""
    page.locator(".mzr-side .noUi-handle").first.focus()
    for move in range(n + N_WARM_UP):
        page.keyboard.press("ArrowRight" if move % 20 < 10 else "ArrowLeft")
        wait_for_paint(page, move)
    return np.array(page.evaluate("() => window.mzr.painted")[N_WARM_UP:])


def run():
    """Rows ``mzr_selection_to_paint_ms`` and ``mzr_slider_to_paint_ms``: medians beside their budgets, and p95.

    The first with two samples of 10,000 galaxies, the second with two of the size of the paper's. Server, kernel
    and browser (software rendering) share this machine.
    """
    measured = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, open_chromium() as browser:
        names = [write_notebook(folder, n=n, min_sn=m) for n, m in ((N_GALAXIES, 0.0), (1956, 15.0))]
        with run_lab(Path(folder)) as address:
            for name, measure in zip(names, (measure_selections, measure_slider), strict=True):
                page = open_page(browser)
                open_notebook(page, address, name)
                measured.append(measure(page))
                page.context.close()
    rows = (
        ("mzr_selection_to_paint_ms", SELECTION_BUDGET_MS),
        ("mzr_slider_to_paint_ms", SLIDER_BUDGET_MS),
    )
    return [
        {
            **make_row(name, float(np.median(values)), "ms", "budget", budget, higher_is_better=False),
            "p95": float(f"{np.quantile(values, 0.95):.4g}"),
        }
        for (name, budget), values in zip(rows, measured, strict=True)
    ]
