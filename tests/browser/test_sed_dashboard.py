"""The dashboard of fluxes as a reader meets it: JupyterLab in real Chromium, on toy galaxies."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, run_notebook

NOTEBOOK = "sed_probe.ipynb"
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('.spectool-sed .noUi-handle')
  && ({MODEL})('points')?.data.y?.length > 0"""
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
CELLS = (
    "import sys\n\nsys.path.insert(0, {root!r})\n"
    "from spectool.explore import use_bokeh\nfrom spectool.explore.sed import SedView\n"
    "from tests.explore.test_sed import make_state\n\nuse_bokeh()",
    "dashboard = SedView(make_state())\ndashboard",
)


def data(page, source="networks", column="value"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [source, column])


def wait_until(page, predicate, before, source="networks", column="value"):
    page.wait_for_function(predicate, arg=[source, column, before], timeout=20_000)


def button(page, text):
    return page.locator(".spectool-sed button", has_text=re.compile(rf"^\s*{text}"))


def select(page, index):
    return page.locator(".spectool-sed select").nth(index)


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
    page.evaluate("() => document.querySelector('.spectool-sed').scrollIntoView()")
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    select(dashboard, 0).select_option("one")
    button(dashboard, "Reset").click()
    select(dashboard, 1).select_option("r")
    dashboard.wait_for_timeout(800)
    return dashboard


def test_a_drag_of_the_slider_moves_the_band_and_every_answer(opened):
    assert np.isfinite(np.array(data(opened), dtype=float)).all()
    flux, answers, library = data(opened, "points", "y"), data(opened), data(opened, "library")
    box = opened.locator(".spectool-sed .noUi-handle").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.mouse.move(x, y)
    opened.mouse.down()
    opened.mouse.move(x + 60, y, steps=40)
    opened.mouse.up()
    wait_until(opened, CHANGED, flux, "points", "y")
    wait_until(opened, CHANGED, answers)
    opened.wait_for_timeout(1500)
    after = data(opened)
    assert data(opened, "library") != library
    moved = [i for i, (a, b) in enumerate(zip(flux, data(opened, "points", "y"), strict=True)) if a != b]
    assert [data(opened, "points", "band")[i] for i in moved] == ["r"]
    opened.wait_for_timeout(1200)
    assert data(opened) == after, "moves were still queued"
    button(opened, "Reset").click()
    wait_until(opened, SAME, answers)
    wait_until(opened, SAME, flux, "points", "y")


def test_a_click_on_a_point_chooses_the_band(opened):
    opened.mouse.click(*opened.evaluate(POINT, "W1"))
    chosen = "() => [...document.querySelectorAll('.spectool-sed select')][1].selectedOptions[0].label"
    opened.wait_for_function(f"() => ({chosen})() === 'W1'", timeout=10_000)
    button(opened, "no W1").wait_for(timeout=10_000)


def test_galaxy_band_flux_and_bands_to_drop_are_reached_by_keyboard(opened):
    answers = data(opened)
    select(opened, 0).focus()
    focused = []
    for key in ["Tab"] * 4:  # the third is the number beside the slider
        opened.keyboard.press(key)
        focused.append(opened.evaluate("() => document.activeElement.className"))
    assert "noUi-handle" in focused[1]
    assert opened.evaluate("() => document.activeElement.innerText").strip() == "no r"
    opened.keyboard.press("Space")
    opened.get_by_text("20 of 21 bands").wait_for(timeout=10_000)
    wait_until(opened, CHANGED, answers)
    flux = data(opened, "points", "y")  # answers do not follow a band that is dropped
    for key in ("Shift+Tab", "Shift+Tab", "ArrowRight"):
        opened.keyboard.press(key)
    wait_until(opened, CHANGED, flux, "points", "y")
    opened.keyboard.press("Control+z")
    opened.keyboard.press("Control+z")
    opened.get_by_text("21 of 21 bands").wait_for(timeout=10_000)
    wait_until(opened, SAME, answers)


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    button(opened, "no WISE").click()
    opened.get_by_text("17 of 21 bands").wait_for(timeout=10_000)
    answers = data(opened)
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, answers)
    opened.evaluate("() => document.querySelector('.spectool-sed').scrollIntoView()")
    opened.wait_for_timeout(500)
    button(opened, "no WISE").click()
    wait_until(opened, CHANGED, answers)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []
