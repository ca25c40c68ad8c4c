"""The dashboard of fluxes as a reader meets it: JupyterLab in real Chromium, on toy galaxies."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, run_notebook

NOTEBOOK = "sed_probe.ipynb"
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('.sed-side .noUi-handle')
  && ({MODEL})('points')?.data.y.length > 0"""
DATA = f"([source, column]) => Array.from(({MODEL})(source).data[column])"
# NaN is never equal to itself, so the difference counts finite values only.
CHANGED = f"""([source, column, before]) => {{
  const now = ({DATA})([source, column]);
  return now.length !== before.length || now.some((x, i) => Math.abs(x - before[i]) > 1e-6 * Math.abs(x));
}}"""
SAME = f"([source, column, before]) => !({CHANGED})([source, column, before])"
POINT = f"""band => {{
  const plot = ({MODEL})('photometry'), points = ({MODEL})('points');
  for (const root of Bokeh.index.roots) for (const view of root.owner.query(v => v.model === plot)) {{
    const box = view.canvas_view.el.getBoundingClientRect(), i = Array.from(points.data.band).indexOf(band);
    const x = view.frame.x_scale.compute(points.data.wavelength[i]);
    return [box.x + x, box.y + view.frame.y_scale.compute(points.data.y[i])];
  }}
}}"""
CLIPPED = """() => [...document.querySelectorAll(
    '.sed-side .widget-readout, .sed-side button, .sed-side .widget-html-content, .sed-side td, .sed-side th')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"""
CELLS = (
    "import sys\n\nsys.path.insert(0, {root!r})\n"
    "from spectool.explore import use_bokeh\nfrom spectool.explore.sed_view import SedView\n"
    "from tests.explore.sed_fakes import make_state\n\nuse_bokeh()",
    "dashboard = SedView(make_state())\ndashboard",
)


def data(page, source="answers", column="value"):
    """Values of a column as the page has them; answers are those of the networks."""
    return page.evaluate(DATA, ["networks" if source == "answers" else source, column])


def wait_until(page, predicate, before, source="networks", column="value"):
    page.wait_for_function(predicate, arg=[source, column, before], timeout=20_000)


def button(page, text):
    return page.locator(".sed-side button", has_text=re.compile(rf"^\s*{text}"))


def choose_band(page, band):
    page.locator(".sed-side select").nth(1).select_option(band)


def status(page):
    return page.locator(".sed-status").inner_text()


def drag(page, pixels, steps=12):
    box = page.locator(".sed-side .noUi-handle").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=steps)
    page.mouse.up()


@pytest.fixture(scope="module")
def dashboard(lab, page, notebook_folder):
    """The page with the notebook run and the dashboard in view."""
    root = str(Path(__file__).resolve().parents[2])
    probe = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.format(root=root)) for cell in CELLS],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(probe, notebook_folder / NOTEBOOK)
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.sed-side').scrollIntoView()")
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    dashboard.locator(".sed-side select").first.select_option("one")
    button(dashboard, "Reset").click()
    choose_band(dashboard, "r")
    dashboard.wait_for_timeout(800)
    return dashboard


def test_it_opens_without_errors_and_fits_a_small_laptops_screen(opened):
    assert error_outputs(opened) == []
    assert np.isfinite(np.array(data(opened), dtype=float)).all()
    cell = opened.evaluate("""() => {
      const side = document.querySelector('.sed-side');
      const box = side.closest('.jp-OutputArea-output').getBoundingClientRect();
      const page = side.closest('.jp-WindowedPanel-outer').getBoundingClientRect();
      return [box.height, page.height, box.right, page.right];
    }""")
    assert cell[0] <= cell[1]
    assert cell[2] <= cell[3]
    assert opened.evaluate(CLIPPED) == []


def test_a_drag_of_the_slider_moves_the_band_and_every_answer(opened):
    flux, answers, best = data(opened, "points", "y"), data(opened), data(opened, "library")
    drag(opened, 60, steps=40)
    wait_until(opened, CHANGED, flux, "points", "y")
    wait_until(opened, CHANGED, answers)
    opened.wait_for_timeout(1500)
    after = data(opened)
    assert data(opened, "library") != best
    moved = [i for i, (a, b) in enumerate(zip(flux, data(opened, "points", "y"), strict=True)) if a != b]
    assert [data(opened, "points", "band")[i] for i in moved] == ["r"]
    opened.wait_for_timeout(1200)
    assert data(opened) == after, "moves were still queued"
    button(opened, "Reset").click()
    wait_until(opened, SAME, answers)
    wait_until(opened, SAME, flux, "points", "y")


def test_a_click_on_a_point_chooses_the_band(opened):
    opened.mouse.click(*opened.evaluate(POINT, "W1"))
    chosen = "() => [...document.querySelectorAll('.sed-side select')][1].selectedOptions[0].label"
    opened.wait_for_function(f"() => ({chosen})() === 'W1'", timeout=10_000)


def test_bands_can_be_dropped_alone_and_together(opened):
    answers = data(opened)
    opened.locator(".sed-side input[type=checkbox]").click()
    opened.get_by_text("20 of 21 bands").wait_for(timeout=10_000)
    button(opened, "no Herschel").click()
    opened.get_by_text("15 of 21 bands").wait_for(timeout=10_000)
    wait_until(opened, CHANGED, answers)
    kinds = dict(zip(data(opened, "points", "band"), data(opened, "points", "kind"), strict=True))
    gone = {band for band, kind in kinds.items() if kind == "missing"}
    assert gone == {"r", "P100", "P160", "S250", "S350", "S500"}
    button(opened, "Reset").click()
    wait_until(opened, SAME, answers)
    opened.locator(".sed-side input[type=checkbox]:not(:checked)").wait_for(timeout=10_000)


def test_the_mistake_of_units_is_flagged(opened):
    assert "like the training galaxies" in status(opened)
    button(opened, "Mistake").click()
    opened.locator(".sed-status .sed-warning", has_text="another unit").wait_for(timeout=10_000)
    assert opened.evaluate(CLIPPED) == []


def test_exports_are_written_and_a_saved_state_is_loaded(opened, notebook_folder, tmp_path):
    home = data(opened)
    drag(opened, -50)
    wait_until(opened, CHANGED, home)
    opened.wait_for_timeout(1200)
    moved = data(opened)
    link = opened.locator(".sed-side a[download]")
    for name, suffix in (("PNG", "png"), ("CSV", "csv"), ("State", "json")):
        button(opened, name).click()
        opened.locator(f'.sed-side a[download$=".{suffix}"]').wait_for(timeout=30_000)
    with opened.expect_download() as download:
        link.click()
    saved = tmp_path / "state.json"
    download.value.save_as(saved)
    assert list(json.loads(saved.read_text(encoding="utf-8"))["shifts"]) == ["r"]
    button(opened, "Reset").click()
    wait_until(opened, SAME, home)
    with opened.expect_file_chooser() as chooser:
        opened.locator(".sed-side .widget-upload").click()
    chooser.value.set_files(saved)
    wait_until(opened, SAME, moved)
    written = {path.suffix for path in (notebook_folder / "exports").glob("sed_*")}
    assert written == {".png", ".csv", ".json"}


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    button(opened, "no WISE").click()
    opened.get_by_text("17 of 21 bands").wait_for(timeout=10_000)
    answers = data(opened)
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, answers)
    opened.evaluate("() => document.querySelector('.sed-side').scrollIntoView()")
    opened.wait_for_timeout(500)
    button(opened, "no WISE").click()
    wait_until(opened, CHANGED, answers)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []
