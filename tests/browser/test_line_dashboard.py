"""The line dashboard as a reader meets it: JupyterLab in real Chromium, on the shipped table and models."""

import re

import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, run_notebook

NOTEBOOK = "70_line_fluxes.ipynb"
ROOT = ".spectool-line"
PANELS = ("flux", "residual", "bpt", "mzr", "latent")
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('{ROOT} .noUi-handle')
  && ({MODEL})('live')?.data.recovered.length > 0"""
DATA = f"([source, column]) => Array.from(({MODEL})(source).data[column])"
# NaN is never equal to itself, so the difference counts finite values only.
CHANGED = f"""([source, column, before]) => {{
  const now = ({DATA})([source, column]);
  return now.length !== before.length || now.some((x, i) => Math.abs(x - before[i]) > 1e-6);
}}"""
SAME = f"([source, column, before]) => !({CHANGED})([source, column, before])"
SELECTED = f"() => Array.from(({MODEL})('points').selected.indices)"
FRAME = f"""name => {{
  const model = ({MODEL})(name);
  for (const root of Bokeh.index.roots) for (const view of root.owner.query(v => v.model === model)) {{
    const box = view.canvas_view.el.getBoundingClientRect(), frame = view.frame.bbox;
    return [box.x + frame.x0, box.y + frame.y0, frame.width, frame.height];
  }}
}}"""


def data(page, source="points", column="recovered"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [source, column])


def wait_until(page, predicate, before, source="points", column="recovered"):
    page.wait_for_function(predicate, arg=[source, column, before], timeout=30_000)


def press(page, label):
    page.locator(f"{ROOT} button", has_text=re.compile(rf"^\s*{label}$")).first.click()


def select_box(page, panel, x_range, y_range):
    """Drag a box over shares of a panel's frame, counted from its left and its top."""
    x, y, width, height = page.evaluate(FRAME, panel)
    page.mouse.move(x + x_range[0] * width, y + y_range[0] * height)
    page.mouse.down()
    page.mouse.move(x + x_range[1] * width, y + y_range[1] * height, steps=8)
    page.mouse.up()


def drag_noise(page, pixels, steps=12):
    box = page.locator(f"{ROOT} .noUi-handle").last.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=steps)
    page.mouse.up()


def bring_into_view(page):
    page.evaluate(f"() => document.querySelector('{ROOT}').scrollIntoView()")
    page.wait_for_timeout(500)


@pytest.fixture(scope="module")
def dashboard(lab, page):
    """The page with the notebook run and the dashboard in view."""
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    bring_into_view(page)
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    press(dashboard, "Reset")
    dashboard.wait_for_timeout(1200)
    return dashboard


def test_the_notebook_runs_without_errors_and_draws_every_panel(dashboard):
    assert error_outputs(dashboard) == []
    for panel in (*PANELS, "whole", "near"):
        width, height = dashboard.evaluate(FRAME, panel)[2:]
        assert min(width, height) > 40, panel
    assert np.isfinite(np.array(data(dashboard, "spectrum", "denoised"), dtype=float)).all()


def test_another_line_and_another_model_redraw_the_points(opened):
    original = data(opened, column="original")
    opened.locator(f"{ROOT} select").first.select_option("[O III] 5007")
    wait_until(opened, CHANGED, original, column="original")
    original, recovered = data(opened, column="original"), data(opened)
    press(opened, "PCA")
    wait_until(opened, CHANGED, recovered)
    wait_until(opened, SAME, original, column="original")


def test_a_box_marks_galaxies_shift_adds_the_arrows_step_and_undo_takes_it_back(opened):
    opening, spectrum = opened.evaluate(SELECTED), data(opened, "spectrum", "original")
    select_box(opened, "mzr", (0.45, 0.75), (0.3, 0.7))
    wait_until(opened, CHANGED, spectrum, "spectrum", "original")
    marked = opened.evaluate(SELECTED)
    mass, metallicity = (np.array(data(opened, column=c), dtype=float)[marked] for c in ("log_mass", "oh"))
    every = np.array(data(opened, column="log_mass"), dtype=float)
    assert np.isfinite(metallicity).all() and np.ptp(mass) < 0.5 * np.nanmax(every - np.nanmin(every))
    assert len(data(opened, "live", "recovered")) == 20 < len(marked)
    spectrum = data(opened, "spectrum", "original")
    opened.locator(f"{ROOT} button:has(.fa-chevron-right)").click()
    wait_until(opened, CHANGED, spectrum, "spectrum", "original")
    opened.keyboard.down("Shift")
    select_box(opened, "latent", (0.6, 0.9), (0.4, 0.9))
    opened.keyboard.up("Shift")
    opened.wait_for_function(f"old => ({SELECTED})().length > old", arg=len(marked))
    opened.wait_for_timeout(1500)
    assert set(marked) < set(opened.evaluate(SELECTED))
    for _ in range(3):
        opened.keyboard.press("Control+z")
        opened.wait_for_timeout(1200)
    assert sorted(opened.evaluate(SELECTED)) == sorted(opening)


def test_galaxies_are_marked_by_number_without_a_mouse(opened):
    field = opened.locator(f"{ROOT} input[type=text]").first
    field.fill("12, 40-42")
    field.press("Enter")
    opened.wait_for_function(f"() => ({SELECTED})().join() === '12,40,41,42'")


def test_the_noise_slider_moves_stars_and_spectra_but_not_the_points(opened):
    stars, noisy, points = data(opened, "live", "latent_x"), data(opened, "spectrum", "noisy"), data(opened)
    drag_noise(opened, 70)
    wait_until(opened, CHANGED, stars, "live", "latent_x")
    wait_until(opened, CHANGED, noisy, "spectrum", "noisy")
    wait_until(opened, SAME, points)


def test_after_a_long_drag_the_stars_are_where_the_slider_is(opened):
    drag_noise(opened, 90, steps=60)
    opened.wait_for_timeout(2500)
    after = data(opened, "live", "latent_x")
    opened.wait_for_timeout(1500)
    np.testing.assert_array_equal(data(opened, "live", "latent_x"), after, "moves were still queued")


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    press(opened, "10")
    select_box(opened, "bpt", (0.3, 0.6), (0.3, 0.6))
    opened.wait_for_timeout(4000)
    points, marked = data(opened), opened.evaluate(SELECTED)
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, points)
    assert opened.evaluate(SELECTED) == marked
    bring_into_view(opened)
    press(opened, "PCA")
    wait_until(opened, CHANGED, points)
    assert opened.strays == [] and error_outputs(opened) == []
