"""The mass-metallicity dashboard as a reader meets it: JupyterLab, then Voila, in real Chromium."""

import json
import re

import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, open_page, run_notebook

NOTEBOOK = "80_mass_metallicity.ipynb"
READY = """() => window.Bokeh && document.querySelector('.mzr-side .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('points0'))"""
MODEL = "Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1).get_model_by_name(name)"
DATA = f"([name, column]) => Array.from({MODEL}.data[column])"
CHANGED = f"([name, column, before]) => JSON.stringify(Array.from({MODEL}.data[column])) !== before"
SAME = f"([name, column, before]) => JSON.stringify(Array.from({MODEL}.data[column])) === before"


def data(page, name="points0", column="x"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [name, column])


def as_text(page, name="points0", column="x"):
    return page.evaluate(
        f"([name, column]) => JSON.stringify(Array.from({MODEL}.data[column]))", [name, column]
    )


def wait_until(page, predicate, before, name="points0", column="x"):
    page.wait_for_function(predicate, arg=[name, column, before], timeout=20_000)


def control(page, label):
    """A drop-down list by the text before it."""
    row = page.locator(".mzr-side .widget-dropdown").filter(has_text=re.compile(rf"^{label}"))
    return row.locator("select")


def sample(page, side):
    return page.locator(".mzr-main .widget-dropdown select").nth(side)


def press(page, name):
    # By its text: an icon is a part of the accessible name.
    page.locator("button.jupyter-button", has_text=re.compile(rf"^\s*{name}$")).click()


def slider(page):
    return page.locator(".mzr-side .noUi-handle").first


def drag(page, pixels, steps=12):
    box = slider(page).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=steps)
    page.mouse.up()


def place_of(page, mass, metallicity):
    """Where on the page a galaxy of the first panel is."""
    frame = page.evaluate(
        """() => { const plot = Bokeh.documents.filter(d => d.get_model_by_name('panel0')).at(-1)
          .get_model_by_name('panel0');
        return [plot.x_range.start, plot.x_range.end, plot.y_range.start, plot.y_range.end,
          plot.inner_width, plot.inner_height, plot.min_border_left]; }"""
    )
    left, right, bottom, top, width, height, border = frame
    box = page.locator(".mzr-main canvas").first.bounding_box()
    margin = (box["height"] - height) / 2
    x = box["x"] + border + (mass - left) / (right - left) * width
    return x, box["y"] + margin + (top - metallicity) / (top - bottom) * height


def to_view(page):
    page.evaluate("() => document.querySelector('.mzr-side').scrollIntoView()")


@pytest.fixture(scope="module")
def dashboard(lab, page):
    """The page with the notebook run and the dashboard in view."""
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    to_view(page)
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    press(dashboard, "Reset")
    dashboard.wait_for_timeout(900)
    return dashboard


def test_the_notebook_runs_without_errors(dashboard):
    assert error_outputs(dashboard) == []
    for name in ("points0", "points1"):
        assert len(data(dashboard, name)) > 30
        assert np.isfinite(np.array(data(dashboard, name, "y"), dtype=float)).all()
    measured = re.search(r"measured\s+([\d,]+)", dashboard.locator(".mzr-statistics").inner_text())
    assert int(measured[1].replace(",", "")) == len(data(dashboard))


def test_the_mouse_moves_the_cut_and_reset_brings_it_back(opened):
    before, n_before = as_text(opened), len(data(opened))
    drag(opened, 60)
    wait_until(opened, CHANGED, before)
    opened.wait_for_timeout(1200)
    assert len(data(opened)) < n_before
    after = as_text(opened)
    opened.wait_for_timeout(1200)
    assert as_text(opened) == after, "moves were still queued"
    press(opened, "Reset")
    wait_until(opened, SAME, before)


def test_the_keyboard_moves_the_cut_and_the_table(opened):
    before, table = as_text(opened, "points1"), opened.locator(".mzr-statistics").inner_text()
    slider(opened).focus()
    for _ in range(5):
        opened.keyboard.press("ArrowLeft")
    wait_until(opened, CHANGED, before, "points1")
    opened.wait_for_function(
        """text => { const now = document.querySelector('.mzr-statistics').innerText;
          return now !== text && !now.includes('…'); }""",
        arg=table,
        timeout=20_000,
    )


def test_another_calibration_and_another_sample_are_drawn(opened):
    before = as_text(opened, "points0", "y")
    control(opened, "Metallicity").select_option("PP04 N2")
    wait_until(opened, CHANGED, before, "points0", "y")
    before = as_text(opened, "points1", "y")
    sample(opened, 1).select_option("de-noised")
    wait_until(opened, CHANGED, before, "points1", "y")
    assert "de-noised" in opened.locator(".mzr-statistics").inner_text()


def test_the_stars_are_put_on_the_axis_and_their_sample_is_chosen(opened):
    before = as_text(opened, "median0", "median")
    press(opened, "Stars")
    wait_until(opened, CHANGED, before, "median0", "median")
    assert -2 < np.median(data(opened, "median0", "median")) < 0.5
    assert len(data(opened)) == 0 and len(data(opened, "image0", "image")) == 1, (
        "200,000 galaxies are an image"
    )
    assert "200,000" in opened.locator(".mzr-statistics").inner_text()
    before = as_text(opened, "median0", "median")
    control(opened, "Metallicity").select_option("truth of the mocks")
    wait_until(opened, CHANGED, before, "median0", "median")
    before = as_text(opened, "median0", "median")
    sample(opened, 0).select_option("null: SDSS main sample")
    wait_until(opened, CHANGED, before, "median0", "median")
    press(opened, "Gas")
    opened.wait_for_function(f"([name, column]) => {MODEL}.data[column].length > 30", arg=["points0", "x"])
    assert 8 < np.median(data(opened, "median0", "median")) < 9.2


def test_two_samples_are_laid_over_each_other_and_taken_apart(opened):
    shown = opened.locator(".mzr-main canvas:visible")
    apart = shown.count()
    press(opened, "Overlay")
    opened.wait_for_timeout(800)
    assert shown.count() < apart
    press(opened, "Overlay")
    opened.wait_for_timeout(800)
    assert shown.count() == apart


def test_a_click_on_a_galaxy_shows_its_lines_and_its_spectrum(opened):
    median = [data(opened, "median0", column) for column in ("mass", "median")]
    middle = len(median[0]) // 2
    opened.mouse.click(*place_of(opened, median[0][middle], median[1][middle]))
    opened.locator(".mzr-galaxy").get_by_text("galaxy").wait_for(timeout=20_000)
    assert "PP04 O3N2" in opened.locator(".mzr-galaxy").inner_text()
    assert len(data(opened, "mark0")) == 1
    opened.wait_for_function(
        f"([name, column]) => {MODEL}.data[column].length === 825",
        arg=["spectrum", "wavelength"],
        timeout=60_000,
    )
    assert np.isfinite(np.array(data(opened, "spectrum", "flux2"), dtype=float)).mean() > 0.9


def test_export_buttons_write_files_and_a_saved_state_comes_back(opened, notebook_folder, tmp_path):
    home = as_text(opened)
    slider(opened).focus()
    for _ in range(8):
        opened.keyboard.press("ArrowRight")
    wait_until(opened, CHANGED, home)
    opened.wait_for_timeout(700)
    moved = as_text(opened)
    for name, suffix in (("PNG", "png"), ("CSV", "csv"), ("State", "json")):
        press(opened, name)
        opened.locator(f'.mzr-line a[download$=".{suffix}"]').wait_for(timeout=30_000)
    written = [path for path in (notebook_folder / "exports").iterdir() if path.name.startswith("mzr_")]
    assert {path.suffix for path in written} == {".png", ".csv", ".json"}
    saved = next(path for path in written if path.suffix == ".json")
    press(opened, "Reset")
    wait_until(opened, SAME, home)
    with opened.expect_file_chooser() as chooser:
        opened.locator(".mzr-side .widget-upload").click()
    chooser.value.set_files(saved)
    wait_until(opened, SAME, moved)
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(json.loads(saved.read_text()) | {"left": "another survey"}))
    with opened.expect_file_chooser() as chooser:
        opened.locator(".mzr-side .widget-upload").click()
    chooser.value.set_files(foreign)
    opened.get_by_text("foreign.json: left cannot be").wait_for(timeout=10_000)


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    before = as_text(opened, "points1")
    sample(opened, 1).select_option("de-noised")
    wait_until(opened, CHANGED, before, "points1")
    opened.wait_for_timeout(700)
    moved = as_text(opened, "points1")
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, moved, "points1")
    to_view(opened)
    opened.wait_for_timeout(500)
    before = as_text(opened)
    slider(opened).focus()
    for _ in range(5):
        opened.keyboard.press("ArrowRight")
    wait_until(opened, CHANGED, before)


def test_nothing_left_the_loopback_interface(dashboard):
    assert dashboard.strays == []


def test_voila_shows_it_without_a_network(browser, voila):
    page = open_page(browser)
    # Voila's own page asks a CDN for its icons; here there is no network, as on a disconnected laptop.
    page.route(lambda url: not url.startswith(voila), lambda route: route.abort())
    page.goto(f"{voila}/voila/render/{NOTEBOOK}", timeout=90_000)
    page.wait_for_function(READY, timeout=60_000)
    to_view(page)
    page.wait_for_timeout(1000)
    before = as_text(page)
    drag(page, 60)
    wait_until(page, CHANGED, before)
    page.context.close()
