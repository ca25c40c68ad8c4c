"""The mass-metallicity dashboard as a reader meets it: in JupyterLab, in real Chromium."""

import re
from contextlib import contextmanager

import numpy as np
import pytest

from tools.jupyter_browser import run_notebook

NOTEBOOK = "80_mass_metallicity.ipynb"
READY = """() => window.Bokeh && document.querySelector('.spectool-mzr .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('points0'))"""
MODEL = "Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1).get_model_by_name(name)"
DATA = f"([name, column]) => Array.from({MODEL}.data[column])"
CHANGED = f"([name, column, before]) => JSON.stringify(({DATA})([name, column])) !== JSON.stringify(before)"
SAME = f"([name, column, before]) => JSON.stringify(({DATA})([name, column])) === JSON.stringify(before)"
TO_VIEW = "() => document.querySelector('.spectool-mzr').scrollIntoView()"
TABLE = ".spectool-tables table:first-child"


def data(page, name="points0", column="x"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [name, column])


def wait_until(page, predicate, before, name="points0", column="x"):
    page.wait_for_function(predicate, arg=[name, column, before], timeout=20_000)


@contextmanager
def changing(page, name="points0", column="x"):
    """Wait until a column is no longer what it is."""
    before = data(page, name, column)
    yield before
    wait_until(page, CHANGED, before, name, column)


def control(page, label):
    """A drop-down list by the text before it."""
    row = page.locator(".spectool-controls .widget-dropdown").filter(has_text=re.compile(rf"^{label}"))
    return row.locator("select")


def sample(page, side):
    return page.locator(".spectool-main .widget-dropdown select").nth(side)


def press(page, name):
    # By its text: an icon is a part of the accessible name.
    page.locator("button.jupyter-button", has_text=re.compile(rf"^\s*{name}$")).click()


def slider(page):
    return page.locator(".spectool-mzr .noUi-handle").first


def press_key(page, key, times=5):
    slider(page).focus()
    for _ in range(times):
        page.keyboard.press(key)


def drag(page, pixels):
    box = slider(page).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=12)
    page.mouse.up()


def place_of(page, mass, metallicity):
    """Where on the page a galaxy of the first panel is."""
    return page.evaluate(
        """([x, y]) => {
          const model = Bokeh.documents.map(d => d.get_model_by_name('panel0')).filter(m => m).at(-1);
          const view = Bokeh.index.find_one(model);
          const { left, top } = view.canvas_view.el.getBoundingClientRect();
          return [left + view.frame.x_scale.compute(x), top + view.frame.y_scale.compute(y)]; }""",
        [mass, metallicity],
    )


@pytest.fixture(scope="module")
def dashboard(lab, page):
    """The page with the notebook run and the dashboard in view."""
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate(TO_VIEW)
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    press(dashboard, "Reset")
    dashboard.wait_for_timeout(900)
    return dashboard


def test_the_page_draws_the_galaxies_that_the_table_counts(dashboard):
    for name in ("points0", "points1"):
        assert len(data(dashboard, name)) > 30
        assert np.isfinite(np.array(data(dashboard, name, "y"), dtype=float)).all()
    measured = re.search(r"measured\s+([\d,]+)", dashboard.locator(TABLE).inner_text())
    assert int(measured[1].replace(",", "")) == len(data(dashboard))


def test_the_mouse_moves_the_cut_and_reset_brings_it_back(opened):
    with changing(opened) as before:
        drag(opened, 60)
    opened.wait_for_timeout(1200)
    after = data(opened)
    assert len(after) < len(before)
    opened.wait_for_timeout(1200)
    assert data(opened) == after, "moves were still queued"
    press(opened, "Reset")
    wait_until(opened, SAME, before)


def test_the_keyboard_moves_the_cut_and_the_table(opened):
    table = opened.locator(TABLE).inner_text()
    with changing(opened, "points1"):
        press_key(opened, "ArrowLeft")
    settled = f"""text => {{ const now = document.querySelector('{TABLE}').innerText;
      return now !== text && !now.includes('…'); }}"""
    opened.wait_for_function(settled, arg=table, timeout=20_000)


def test_another_calibration_and_another_sample_are_drawn(opened):
    with changing(opened, "points0", "y"):
        control(opened, "Metallicity").select_option("PP04 N2")
    with changing(opened, "points1", "y"):
        sample(opened, 1).select_option("de-noised")
    opened.locator(".spectool-tables").get_by_text("de-noised").first.wait_for(timeout=20_000)


def test_the_stars_are_put_on_the_axis_and_their_sample_is_chosen(opened):
    with changing(opened, "median0", "median"):
        press(opened, "Stars")
    assert -2 < np.median(data(opened, "median0", "median")) < 0.5
    assert (len(data(opened)), len(data(opened, "image0", "image"))) == (0, 1), "so many are an image"
    opened.locator(".spectool-tables").get_by_text("200,000").wait_for(timeout=20_000)
    with changing(opened, "median0", "median"):
        control(opened, "Metallicity").select_option("truth of the mocks")
    with changing(opened, "median0", "median"):
        sample(opened, 0).select_option("null: SDSS main sample")
    press(opened, "Gas")
    opened.wait_for_function(f"([name, column]) => {MODEL}.data[column].length > 30", arg=["points0", "x"])
    assert 8 < np.median(data(opened, "median0", "median")) < 9.2


def test_two_samples_are_laid_over_each_other_and_taken_apart(opened):
    shown = opened.locator(".spectool-figure canvas:visible")
    apart = shown.count()
    press(opened, "Overlay")
    opened.wait_for_timeout(800)
    assert shown.count() < apart
    press(opened, "Overlay")
    opened.wait_for_timeout(800)
    assert shown.count() == apart


def test_a_galaxy_is_shown_at_first_and_another_by_a_click_or_without_a_mouse(opened):
    has_spectrum = f"([name, column]) => {MODEL}.data[column].length === 825"
    opened.wait_for_function(has_spectrum, arg=["spectrum", "wavelength"], timeout=60_000)
    number = opened.locator(".spectool-main input[type=number]")
    first = number.input_value()
    median = [data(opened, "median0", column) for column in ("x", "median")]
    opened.mouse.click(*place_of(opened, median[0][2], median[1][2]))
    changed = "before => document.querySelector('.spectool-main input[type=number]').value !== before"
    opened.wait_for_function(changed, arg=first, timeout=20_000)
    clicked = number.input_value()
    opened.locator(".spectool-tables").get_by_text(f"galaxy {clicked}").wait_for(timeout=20_000)
    assert len(data(opened, "mark0")) == 1
    opened.locator("button[title^='next galaxy']").press("Enter")
    opened.wait_for_function(changed, arg=clicked, timeout=20_000)
    number.fill(first)
    number.press("Enter")
    opened.locator(".spectool-tables").get_by_text(f"galaxy {first}").wait_for(timeout=20_000)
    opened.wait_for_function(has_spectrum, arg=["spectrum", "wavelength"], timeout=60_000)
    assert np.isfinite(np.array(data(opened, "spectrum", "flux2"), dtype=float)).mean() > 0.9


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    with changing(opened, "points1"):
        sample(opened, 1).select_option("de-noised")
    opened.wait_for_timeout(700)
    moved = data(opened, "points1")
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, moved, "points1")
    opened.evaluate(TO_VIEW)
    opened.wait_for_timeout(500)
    with changing(opened):
        press_key(opened, "ArrowRight")
