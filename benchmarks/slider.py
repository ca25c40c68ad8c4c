"""Milliseconds from a move of a slider of the latent dashboard to the repainted page, and those in the kernel."""

import shutil
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.row import make_row
from tools.jupyter_browser import open_chromium, open_page, run_lab, run_notebook

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "60_latent_traversal.ipynb"
N_MOVES = 60
N_WARM_UP = 5
# What a reader no longer feels as a delay, and what of it the kernel may take.
PAINT_BUDGET_MS, KERNEL_BUDGET_MS = 100.0, 30.0

READY = """() => window.Bokeh && document.querySelector('.spectool-latent .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('spectrum'))"""

# A frame that was asked for when the data came is painted at the latest when the one after it begins.
WATCH = """() => {
  const all = Bokeh.documents.filter(d => d.get_model_by_name('spectrum'));
  const source = all.at(-1).get_model_by_name('spectrum');
  window.slider = {painted: [], statuses: [], moves: []};
  source.properties.data.change.connect(() => {
    const start = window.slider.start;
    window.slider.start = null;
    if (start) requestAnimationFrame(() => requestAnimationFrame(
      () => window.slider.painted.push(performance.now() - start)));
  });
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  kernel.anyMessage.connect((_, {msg, direction}) => {
    if (direction === 'send' && msg.content.data?.state?.value !== undefined)
      window.slider.moves.push(msg.header.msg_id);
    if (direction === 'recv' && msg.header.msg_type === 'status'
        && msg.parent_header.msg_type === 'comm_msg')
      window.slider.statuses.push([msg.parent_header.msg_id, msg.content.execution_state, msg.header.date]);
  });
  document.querySelector('.spectool-latent .noUi-handle').addEventListener(
    'keydown', () => { window.slider.start = performance.now(); }, true);
}"""


def measure_slider(page, n=N_MOVES):
    """Move the first slider by keyboard, one move after the other."""
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate(WATCH)
    handle = page.locator(".spectool-latent .noUi-handle").first
    handle.focus()
    for move in range(n + N_WARM_UP):
        page.keyboard.press("ArrowRight" if move % 20 < 10 else "ArrowLeft")
        page.wait_for_function("n => window.slider.painted.length > n", arg=move, timeout=10_000)
    result = page.evaluate("() => window.slider")
    busy, kernel = {}, []
    for message, status, date in result["statuses"]:
        when = datetime.fromisoformat(date)
        if status == "busy":
            busy[message] = when
        elif message in busy and message in result["moves"]:
            kernel.append(1000 * (when - busy[message]).total_seconds())
    return np.array(result["painted"][N_WARM_UP:]), np.array(kernel[N_WARM_UP:])


def run(notebook=NOTEBOOK):
    """Rows ``slider_to_paint_ms`` and ``slider_kernel_ms``: medians, beside their budgets; the 95th percentile
    too.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, open_chromium() as browser:
        shutil.copy(notebook, folder)
        with run_lab(Path(folder)) as address:
            page = open_page(browser)
            run_notebook(page, address, Path(notebook).name)
            painted, kernel = measure_slider(page)
    measured = (
        ("slider_to_paint_ms", painted, PAINT_BUDGET_MS),
        ("slider_kernel_ms", kernel, KERNEL_BUDGET_MS),
    )
    return [
        {
            **make_row(name, float(np.median(values)), "ms", "budget", budget, higher_is_better=False),
            "p95": float(f"{np.quantile(values, 0.95):.4g}"),
        }
        for name, values, budget in measured
    ]
