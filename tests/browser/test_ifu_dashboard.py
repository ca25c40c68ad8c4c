"""The galaxy-map dashboard as a reader meets it: JupyterLab in real Chromium, on a small sample."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, run_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "probe_galaxy_map.ipynb"
CELLS = (
    "import sys\n"
    f"sys.path.insert(0, {str(ROOT)!r})\n"
    "from spectool.explore import use_bokeh\n"
    "from spectool.explore.ifu_view import open_ifu_dashboard\n"
    "from tests.explore.ifu_fakes import make_predictions, make_sample, rebuild\n"
    "use_bokeh()",
    "sample = make_sample()\nopen_ifu_dashboard(sample, make_predictions(sample), rebuild=rebuild)",
)
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('.ifu-controls select')
  && ({MODEL})('spaxels')?.data.shown.length > 0"""
DATA = f"([source, column]) => Array.from(({MODEL})(source).data[column])"
# NaN is never equal to itself, so the difference counts finite values only.
CHANGED = f"""([source, column, before]) => {{
  const now = ({DATA})([source, column]);
  return now.length !== before.length || now.some((x, i) => Math.abs(x - before[i]) > 1e-6);
}}"""
SAME = f"([source, column, before]) => !({CHANGED})([source, column, before])"
FRAME = f"""name => {{
  const model = ({MODEL})(name);
  for (const root of Bokeh.index.roots) for (const view of root.owner.query(v => v.model === model)) {{
    const box = view.canvas_view.el.getBoundingClientRect(), frame = view.frame.bbox;
    return [box.x + frame.x0, box.y + frame.y0, frame.width, frame.height,
      model.x_range.start, model.x_range.end, model.y_range.start, model.y_range.end];
  }}
}}"""


def data(page, source="spaxels", column="shown"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [source, column])


def wait_until(page, predicate, before, source="spaxels", column="shown"):
    page.wait_for_function(predicate, arg=[source, column, before], timeout=20_000)


def choose(page, label):
    page.locator(".ifu-controls button", has_text=re.compile(rf"^\s*{label}$")).first.click()


def status(page, index):
    return page.locator(".ifu-status").nth(index).inner_text()


def place(page, name, x, y):
    """Where on the page a panel draws a point."""
    left, top, width, height, x0, x1, y0, y1 = page.evaluate(FRAME, name)
    return left + (x - x0) / (x1 - x0) * width, top + (y1 - y) / (y1 - y0) * height


def click_cell(page, row):
    """Click the middle of a spectrum's cell in the map."""
    corners = [
        page.evaluate(f"row => Array.from(({MODEL})('spaxels').data.{k}[row])", row) for k in ("xs", "ys")
    ]
    page.mouse.click(*place(page, "map", *(float(np.mean(c)) for c in corners)))


def outermost(page):
    """A spectrum whose cell is large enough to be hit."""
    return int(np.argmax(data(page, column="radius")))


@pytest.fixture(scope="module")
def dashboard(lab, notebook_folder, page):
    """The page with the notebook run and the dashboard in view."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, notebook_folder / NOTEBOOK)
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.ifu-controls').scrollIntoView()")
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    choose(dashboard, "Reset")
    dashboard.wait_for_timeout(1000)
    return dashboard


def test_it_opens_without_errors_and_draws_every_panel(dashboard):
    assert error_outputs(dashboard) == []
    assert "robust scatter" in status(dashboard, 0)
    for panel in ("map", "profile", "bands_panel"):
        width, height = dashboard.evaluate(FRAME, panel)[2:4]
        assert min(width, height) > 100, panel
    assert np.isfinite(np.array(data(dashboard, "spectrum", "flux"), dtype=float)).all()
    assert len(data(dashboard, "spectrum", "flux")) > 1000


def test_all_of_it_fits_a_small_laptops_screen(opened):
    cell = opened.evaluate("""() => {
      const box = document.querySelector('.ifu-controls').closest('.jp-OutputArea-output').getBoundingClientRect();
      const page = document.querySelector('.ifu-controls').closest('.jp-WindowedPanel-outer').getBoundingClientRect();
      return [box.height, page.height, box.right, page.right];
    }""")
    assert cell[0] <= cell[1]
    assert cell[2] <= cell[3]
    clipped = opened.evaluate("""() => [...document.querySelectorAll(
        '.ifu-controls button, .ifu-status .widget-html-content')]
      .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)""")
    assert clipped == []


def test_the_map_is_drawn_to_one_scale(opened):
    width, height, x0, x1, y0, y1 = opened.evaluate(FRAME, "map")[2:]
    assert width / (x1 - x0) == pytest.approx(height / (y1 - y0), rel=0.02)


def test_a_click_on_a_cell_shows_its_bands_and_its_spectrum(opened):
    bands, spectrum = data(opened, "bands", "flux"), data(opened, "spectrum", "flux")
    row = outermost(opened)
    click_cell(opened, row)
    wait_until(opened, CHANGED, bands, "bands", "flux")
    wait_until(opened, CHANGED, spectrum, "spectrum", "flux")
    radius = data(opened, column="radius")[row]
    assert f"at {radius:.2f} Re" in status(opened, 1)
    assert data(opened, "ring", "radius") == [radius]


def test_a_click_on_a_point_of_the_profile_does_so_too(opened):
    bands = data(opened, "bands", "flux")
    row = outermost(opened)
    opened.mouse.click(
        *place(opened, "profile", data(opened, column="radius")[row], data(opened, column="value")[row])
    )
    wait_until(opened, CHANGED, bands, "bands", "flux")
    assert data(opened, "ring", "radius") == [data(opened, column="radius")[row]]


def test_another_set_changes_the_map_and_the_gradient_but_not_the_label(opened):
    shown, line, label = (
        data(opened),
        data(opened, "line_source", "mean"),
        data(opened, "line_reference", "mean"),
    )
    text = status(opened, 0)
    choose(opened, "Set A")
    wait_until(opened, CHANGED, shown)
    wait_until(opened, CHANGED, line, "line_source", "mean")
    wait_until(opened, SAME, label, "line_reference", "mean")
    assert status(opened, 0) != text
    choose(opened, "difference")
    wait_until(opened, CHANGED, data(opened, column="value"))
    assert max(map(abs, data(opened))) < 0.2


def test_another_galaxy_is_mapped_and_its_cells_can_be_clicked(opened):
    shape, bands = data(opened, column="radius"), data(opened, "bands", "flux")
    opened.locator(".ifu-controls select").select_option(index=2)
    wait_until(opened, CHANGED, shape, column="radius")
    wait_until(opened, CHANGED, bands, "bands", "flux")
    opened.wait_for_timeout(800)
    bands = data(opened, "bands", "flux")
    click_cell(opened, outermost(opened))
    wait_until(opened, CHANGED, bands, "bands", "flux")
    opened.locator(".ifu-controls select").select_option(index=4)
    opened.wait_for_function(f"() => ({MODEL})('spaxels').data.shown.length === 20", timeout=20_000)
    assert len(data(opened, "ring", "radius")) == 1


def test_exports_are_written_and_a_saved_state_is_loaded(opened, notebook_folder, tmp_path):
    link = opened.locator(".ifu-message a[download]")
    for name, suffix in (("PNG", "png"), ("CSV", "csv")):
        choose(opened, name)
        opened.locator(f'.ifu-message a[download$=".{suffix}"]').wait_for(timeout=30_000)
    home = data(opened)
    choose(opened, "Set A")
    wait_until(opened, CHANGED, home)
    moved = data(opened)
    choose(opened, "State")
    opened.locator('.ifu-message a[download$=".json"]').wait_for(timeout=30_000)
    with opened.expect_download() as download:
        link.click()
    saved = tmp_path / "state.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text(encoding="utf-8"))["source"] == "Set A"
    choose(opened, "Reset")
    wait_until(opened, SAME, home)
    with opened.expect_file_chooser() as chooser:
        opened.locator(".ifu-controls .widget-upload").click()
    chooser.value.set_files(saved)
    wait_until(opened, SAME, moved)
    written = {path.suffix for path in (notebook_folder / "exports").glob("galaxy_*")}
    assert written == {".png", ".csv", ".json"}


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    choose(opened, "metallicity")
    choose(opened, "Set A")
    opened.wait_for_timeout(2500)
    shown = data(opened)
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, shown)
    opened.evaluate("() => document.querySelector('.ifu-controls').scrollIntoView()")
    opened.wait_for_timeout(500)
    choose(opened, "Set B")
    wait_until(opened, CHANGED, shown)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []
