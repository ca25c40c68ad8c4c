"""The galaxy-map dashboard as a reader meets it: JupyterLab in real Chromium, on a small sample."""

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
    "from spectool.explore import open_ifu_dashboard, use_bokeh\n"
    "from tests.explore.ifu_fakes import make_predictions, make_sample, rebuild\n"
    "use_bokeh()",
    "sample = make_sample()\nopen_ifu_dashboard(sample, make_predictions(sample), rebuild=rebuild)",
)
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('.spectool-ifu select')
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
    page.locator(".spectool-ifu button", has_text=re.compile(rf"^\s*{label}$")).first.click()


def text(page, part):
    return page.locator(f".spectool-ifu .spectool-{part}").last.inner_text()


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
    page.evaluate("() => document.querySelector('.spectool-ifu').scrollIntoView()")
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    choose(dashboard, "Reset")
    dashboard.wait_for_timeout(1000)
    return dashboard


def test_it_opens_without_errors_and_draws_every_panel(dashboard):
    assert error_outputs(dashboard) == []
    assert "robust scatter" in text(dashboard, "status")
    for panel in ("map", "profile", "bands_panel"):
        width, height = dashboard.evaluate(FRAME, panel)[2:4]
        assert min(width, height) > 100, panel
    assert len(data(dashboard, "spectrum", "flux")) > 1000


@pytest.mark.parametrize("size", [(1366, 768), (800, 768)], ids=["laptop", "narrow"])
def test_the_map_is_drawn_to_one_scale_and_the_profile_has_its_place(opened, size):
    opened.set_viewport_size({"width": size[0], "height": size[1]})
    opened.wait_for_timeout(1500)
    width, height, x0, x1, y0, y1 = opened.evaluate(FRAME, "map")[2:]
    assert width / (x1 - x0) == pytest.approx(height / (y1 - y0), rel=0.02)
    left, _, width, _ = opened.evaluate(FRAME, "profile")[:4]
    assert width > 150 and left + width < size[0]
    assert opened.locator(".spectool-ifu select").first.bounding_box()["width"] > 150
    opened.set_viewport_size({"width": 1366, "height": 768})
    opened.wait_for_timeout(1500)


@pytest.mark.parametrize("panel", ["map", "profile"])
def test_a_click_on_a_cell_or_its_point_shows_its_bands_and_its_spectrum(opened, panel):
    bands, spectrum = data(opened, "bands", "flux"), data(opened, "spectrum", "flux")
    row = outermost(opened)
    radius = data(opened, column="radius")[row]
    if panel == "map":
        click_cell(opened, row)
    else:
        opened.mouse.click(*place(opened, "profile", radius, data(opened, column="value")[row]))
    wait_until(opened, CHANGED, bands, "bands", "flux")
    wait_until(opened, CHANGED, spectrum, "spectrum", "flux")
    assert data(opened, "ring", "radius") == [radius]


def test_the_keyboard_walks_outwards_through_the_spectra(opened):
    ring = data(opened, "ring", "radius")
    opened.locator(".spectool-ifu select").nth(1).focus()
    opened.keyboard.press("ArrowDown")
    wait_until(opened, CHANGED, ring, "ring", "radius")
    radius = sorted(data(opened, column="radius"))
    assert data(opened, "ring", "radius") == [radius[1]]
    opened.locator(".spectool-ifu button[title='next spectrum']").focus()
    opened.keyboard.press("Enter")
    wait_until(opened, CHANGED, [radius[1]], "ring", "radius")
    assert data(opened, "ring", "radius") == [radius[2]]


def test_another_set_changes_the_map_and_the_gradient_but_not_the_label(opened):
    shown, line = data(opened), data(opened, "line_source", "mean")
    label, status = data(opened, "line_reference", "mean"), text(opened, "status")
    choose(opened, "Set A")
    wait_until(opened, CHANGED, shown)
    wait_until(opened, CHANGED, line, "line_source", "mean")
    wait_until(opened, SAME, label, "line_reference", "mean")
    assert text(opened, "status") != status
    choose(opened, "difference")
    wait_until(opened, CHANGED, data(opened, column="value"))
    assert max(map(abs, data(opened))) < 0.2


def test_another_galaxy_is_mapped_and_its_cells_can_be_clicked(opened):
    shape, bands = data(opened, column="radius"), data(opened, "bands", "flux")
    opened.locator(".spectool-ifu select").first.select_option(index=2)
    wait_until(opened, CHANGED, shape, column="radius")
    wait_until(opened, CHANGED, bands, "bands", "flux")
    opened.wait_for_timeout(800)
    bands = data(opened, "bands", "flux")
    click_cell(opened, outermost(opened))
    wait_until(opened, CHANGED, bands, "bands", "flux")
    opened.locator(".spectool-ifu select").first.select_option(index=4)
    opened.wait_for_function(f"() => ({MODEL})('spaxels').data.shown.length === 20", timeout=20_000)
    assert len(data(opened, "ring", "radius")) == 1


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
    opened.evaluate("() => document.querySelector('.spectool-ifu').scrollIntoView()")
    opened.wait_for_timeout(500)
    choose(opened, "Set B")
    wait_until(opened, CHANGED, shown)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []
