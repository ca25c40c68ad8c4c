"""The line dashboard as a reader meets it: JupyterLab in real Chromium, on the shipped table and models."""

import json
import re

import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, run_notebook

NOTEBOOK = "70_line_fluxes.ipynb"
PANELS = ("flux", "residual", "bpt", "mzr", "latent")
MODEL = "name => Bokeh.documents.filter(d => d.get_model_by_name(name)).at(-1)?.get_model_by_name(name)"
READY = f"""() => window.Bokeh && document.querySelector('.line-controls .noUi-handle')
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
    page.wait_for_function(predicate, arg=[source, column, before], timeout=20_000)


def selected(page):
    return sorted(page.evaluate(SELECTED))


def clipped(page):
    """Texts of controls and readouts that are wider than their place."""
    return page.evaluate("""() => [...document.querySelectorAll(
        '.line-controls .widget-readout, .line-controls button, .line-status .widget-html-content')]
      .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)""")


def choose(page, label):
    """Press one of the buttons that choose a model, a quantity or a size."""
    page.locator(".line-controls button", has_text=re.compile(rf"^\s*{label}$")).first.click()


def status(page, index):
    return page.locator(".line-status").nth(index).inner_text()


def box_select(page, panel, x_range, y_range):
    """Drag a box over shares of a panel's frame, counted from its left and its top."""
    x, y, width, height = page.evaluate(FRAME, panel)
    page.mouse.move(x + x_range[0] * width, y + y_range[0] * height)
    page.mouse.down()
    page.mouse.move(x + x_range[1] * width, y + y_range[1] * height, steps=8)
    page.mouse.up()


def drag_noise(page, pixels, steps=12):
    box = page.locator(".line-controls .widget-slider .noUi-handle").last.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=steps)
    page.mouse.up()


@pytest.fixture(scope="module")
def dashboard(lab, page):
    """The page with the notebook run and the dashboard in view."""
    run_notebook(page, lab, NOTEBOOK)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.line-controls').scrollIntoView()")
    return page


@pytest.fixture
def opened(dashboard):
    """The dashboard as it opens."""
    choose(dashboard, "Reset")
    dashboard.wait_for_timeout(1200)
    return dashboard


def test_the_notebook_runs_without_errors_and_draws_every_panel(dashboard):
    assert error_outputs(dashboard) == []
    assert "recovered" in status(dashboard, 1)
    for panel in PANELS:
        width, height = dashboard.evaluate(FRAME, panel)[2:]
        assert min(width, height) > 40, panel
    assert np.isfinite(np.array(data(dashboard, "spectrum", "denoised"), dtype=float)).all()


def test_all_of_it_fits_a_small_laptops_screen(opened):
    cell = opened.evaluate("""() => {
      const box = document.querySelector('.line-controls').closest('.jp-OutputArea-output').getBoundingClientRect();
      const page = document.querySelector('.line-controls').closest('.jp-WindowedPanel-outer').getBoundingClientRect();
      return [box.height, page.height, box.right, page.right];
    }""")
    assert cell[0] <= cell[1]
    assert cell[2] <= cell[3]
    assert clipped(opened) == []
    texts = opened.locator(".line-status")
    for k in range(texts.count()):
        inner, outer = texts.nth(k).locator(".widget-html-content").bounding_box(), opened.viewport_size
        assert inner["x"] + inner["width"] <= outer["width"]


def test_another_line_and_another_model_redraw_the_points(opened):
    original = data(opened, column="original")
    opened.locator(".line-controls select").first.select_option("[O III] 5007")
    wait_until(opened, CHANGED, original, column="original")
    assert "[O III] 5007" in status(opened, 1)
    original, recovered = data(opened, column="original"), data(opened)
    choose(opened, "PCA")
    wait_until(opened, CHANGED, recovered)
    wait_until(opened, SAME, original, column="original")


def test_a_box_in_one_panel_marks_galaxies_in_all_and_shows_their_spectra(opened):
    opening, spectrum = selected(opened), data(opened, "spectrum", "original")
    box_select(opened, "mzr", (0.45, 0.75), (0.3, 0.7))
    opened.wait_for_function(f"old => ({SELECTED})().length > old", arg=len(opening), timeout=10_000)
    marked = selected(opened)
    wait_until(opened, CHANGED, spectrum, "spectrum", "original")
    # One source for all panels: what is marked in one is marked in each.
    drawn = opened.evaluate(
        f"""names => names.map(name => ({MODEL})(name).renderers
      .filter(r => r.data_source === ({MODEL})('points')).length)""",
        list(PANELS),
    )
    assert drawn == [1] * len(PANELS)
    mass, metallicity = (np.array(data(opened, column=c), dtype=float)[marked] for c in ("log_mass", "oh"))
    assert np.isfinite(metallicity).all()
    every = np.array(data(opened, column="log_mass"), dtype=float)
    assert np.ptp(mass) < 0.5 * np.nanmax(every - np.nanmin(every))
    assert 1 <= len(data(opened, "live", "recovered")) <= 20
    assert f" of {len(marked):,} · galaxy" in status(opened, 0)
    assert clipped(opened) == []


def test_the_arrows_step_through_the_spectra(opened):
    before, text = data(opened, "spectrum", "original"), status(opened, 0)
    opened.locator(".line-controls button:has(.fa-chevron-right)").click()
    wait_until(opened, CHANGED, before, "spectrum", "original")
    assert status(opened, 0) != text
    opened.locator(".line-controls button:has(.fa-chevron-left)").click()
    wait_until(opened, SAME, before, "spectrum", "original")


def test_the_noise_slider_moves_stars_and_spectra_but_not_the_points(opened):
    stars, noisy, points = data(opened, "live", "latent_x"), data(opened, "spectrum", "noisy"), data(opened)
    drag_noise(opened, 70)
    wait_until(opened, CHANGED, stars, "live", "latent_x")
    wait_until(opened, CHANGED, noisy, "spectrum", "noisy")
    wait_until(opened, SAME, points)


def test_after_a_long_drag_the_stars_are_where_the_slider_is(opened):
    drag_noise(opened, 90, steps=60)
    opened.wait_for_timeout(1500)
    after = data(opened, "live", "latent_x")
    opened.wait_for_timeout(1200)
    np.testing.assert_array_equal(data(opened, "live", "latent_x"), after, "moves were still queued")


def test_a_class_can_be_hidden(opened):
    kind = np.array(data(opened, column="kind"))
    before = np.isfinite(np.array(data(opened, column="log_mass"), dtype=float))
    opened.locator(".line-controls button", has_text="quiescent").click()
    opened.wait_for_function(
        f"n => ({DATA})(['points', 'log_mass']).filter(x => Number.isFinite(x)).length < n",
        arg=int(before.sum()),
    )
    mass = np.array(data(opened, column="log_mass"), dtype=float)
    np.testing.assert_array_equal(np.isfinite(mass), before & (kind != "quiescent galaxy"))


def test_exports_are_written_and_a_saved_state_is_loaded(opened, notebook_folder, tmp_path):
    link = opened.locator(".line-message a[download]")
    for name, suffix in (("PNG", "png"), ("CSV", "csv")):
        choose(opened, name)
        opened.locator(f'.line-message a[download$=".{suffix}"]').wait_for(timeout=30_000)
    home = data(opened)
    choose(opened, "AE")
    wait_until(opened, CHANGED, home)
    moved = data(opened)
    choose(opened, "State")
    opened.locator('.line-message a[download$=".json"]').wait_for(timeout=30_000)
    with opened.expect_download() as download:
        link.click()
    saved = tmp_path / "state.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text(encoding="utf-8"))["kind"] == "AE"
    choose(opened, "Reset")
    wait_until(opened, SAME, home)
    with opened.expect_file_chooser() as chooser:
        opened.locator(".line-controls .widget-upload").click()
    chooser.value.set_files(saved)
    wait_until(opened, SAME, moved)
    written = {path.suffix for path in (notebook_folder / "exports").glob("lines_*")}
    assert written == {".png", ".csv", ".json"}


def test_a_reloaded_page_shows_the_current_state_and_still_works(opened):
    choose(opened, "10")
    box_select(opened, "bpt", (0.3, 0.6), (0.3, 0.6))
    opened.wait_for_timeout(3000)
    points, marked = data(opened), selected(opened)
    opened.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    opened.wait_for_timeout(1500)
    opened.reload()
    opened.wait_for_function(READY, timeout=60_000)
    wait_until(opened, SAME, points)
    assert selected(opened) == marked
    opened.evaluate("() => document.querySelector('.line-controls').scrollIntoView()")
    opened.wait_for_timeout(500)
    choose(opened, "PCA")
    wait_until(opened, CHANGED, points)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []
