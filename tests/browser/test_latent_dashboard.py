"""The latent dashboard as a reader meets it: JupyterLab, then Voila, in real Chromium."""

import json
import re

import numpy as np
import pytest

from tools.jupyter_browser import error_outputs, open_page, run_notebook

NOTEBOOK = "60_latent_traversal.ipynb"
READY = """() => window.Bokeh && document.querySelector('.spectool-latent .noUi-handle')
  && Bokeh.documents.some(d => d.get_model_by_name('spectrum'))"""
DATA = """([source, column]) => Array.from(
  Bokeh.documents.filter(d => d.get_model_by_name(source)).at(-1).get_model_by_name(source).data[column])"""
# NaN is never equal to itself, so the difference counts finite pixels only.
CHANGED = f"""([source, column, before]) => ({DATA})([source, column]).some((x, i) => Math.abs(x - before[i]) > 1e-5)"""
SAME = f"""([source, column, before]) => !({CHANGED})([source, column, before])"""
IN_VIEW = """() => { const { top } = document.querySelector('.spectool-latent').getBoundingClientRect();
  return -1 < top && top < innerHeight / 3; }"""


def data(page, source="spectrum", column="decoded"):
    """Values of a column as the page has them."""
    return page.evaluate(DATA, [source, column])


def wait_until(page, predicate, before, source="spectrum", column="decoded"):
    page.wait_for_function(predicate, arg=[source, column, before], timeout=20_000)


def slider(page, index=0):
    return page.locator(".spectool-latent .noUi-handle").nth(index)


def button(page, name):
    # By its text: an icon is a part of the accessible name.
    return page.locator("button.jupyter-button", has_text=re.compile(rf"^\s*{name}$"))


def press(page, name):
    button(page, name).click()


def pick_seed(page, label):
    page.locator(".spectool-latent select").first.select_option(label)


def upload(page, path):
    with page.expect_file_chooser() as chooser:
        page.locator(".spectool-latent .widget-upload").click()
    chooser.value.set_files(path)


def drag(page, pixels, index=0, steps=12):
    box = slider(page, index).bounding_box()
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
    page.wait_for_function(IN_VIEW)
    return page


@pytest.fixture
def at_seed(dashboard):
    """The dashboard at its first seed galaxy's own position."""
    first = dashboard.locator(".spectool-latent select").first.locator("option").first.inner_text()
    pick_seed(dashboard, first)
    press(dashboard, "Reset")
    dashboard.wait_for_timeout(700)
    return dashboard


def test_the_keyboard_moves_the_spectrum_and_reset_brings_it_back(at_seed):
    before = data(at_seed)
    slider(at_seed).focus()
    for _ in range(5):
        at_seed.keyboard.press("ArrowLeft")
    wait_until(at_seed, CHANGED, before)
    press(at_seed, "Reset")
    wait_until(at_seed, SAME, before)


def test_the_mouse_moves_the_spectrum_and_the_table(at_seed):
    before, table = data(at_seed), at_seed.locator(".spectool-latent .spectool-tables").first.inner_text()
    drag(at_seed, -60)
    wait_until(at_seed, CHANGED, before)
    at_seed.wait_for_function(
        "text => document.querySelector('.spectool-latent .spectool-tables').innerText !== text",
        arg=table,
        timeout=20_000,
    )


def test_after_a_long_drag_the_figure_is_where_the_slider_is(at_seed):
    drag(at_seed, -80, steps=60)
    at_seed.wait_for_timeout(1500)
    after = data(at_seed)
    at_seed.wait_for_timeout(1500)
    assert data(at_seed) == after, "moves were still queued"


def test_another_galaxy_is_drawn(at_seed):
    galaxy, decoded = data(at_seed, "galaxy", "flux"), data(at_seed)
    pick_seed(at_seed, "SDSS: NGC 3522")
    wait_until(at_seed, CHANGED, galaxy, "galaxy", "flux")
    wait_until(at_seed, CHANGED, decoded)
    # JSON has no NaN: a pixel without data arrives in the page as null or NaN, in the ultraviolet for sure.
    assert not np.isfinite(np.array(data(at_seed, "galaxy", "flux")[0], dtype=float))


def test_play_animates_and_stops(at_seed):
    before = data(at_seed)
    press(at_seed, "Play")
    wait_until(at_seed, CHANGED, before)
    at_seed.wait_for_timeout(1500)
    press(at_seed, "Stop")
    button(at_seed, "Play").wait_for(timeout=10_000)
    at_seed.wait_for_timeout(500)
    halted = data(at_seed)
    at_seed.wait_for_timeout(1000)
    assert data(at_seed) == halted


def test_files_are_saved_by_buttons_and_the_picture_by_the_toolbar(at_seed, notebook_folder):
    for name, suffix in (("CSV", "csv"), ("State", "json")):
        press(at_seed, name)
        at_seed.locator(f'.spectool-latent .spectool-status a[download$=".{suffix}"]').wait_for(
            timeout=30_000
        )
    sizes = {path.suffix: path.stat().st_size for path in (notebook_folder / "exports").iterdir()}
    assert {".csv", ".json"} <= set(sizes)
    with at_seed.expect_download() as download:
        at_seed.locator(".bk-tool-icon-save:visible").click()
    assert download.value.path().stat().st_size > 10_000


def test_keys_take_back_and_do_again(at_seed):
    home = data(at_seed)
    slider(at_seed).focus()
    at_seed.keyboard.press("PageUp")
    wait_until(at_seed, CHANGED, home)
    moved = data(at_seed)
    at_seed.keyboard.press("Control+z")
    wait_until(at_seed, SAME, home)
    at_seed.keyboard.press("Control+Shift+z")
    wait_until(at_seed, SAME, moved)


def test_a_saved_state_is_loaded_and_a_foreign_one_is_explained(at_seed, tmp_path):
    home = data(at_seed)
    slider(at_seed).focus()
    for _ in range(8):
        at_seed.keyboard.press("ArrowLeft")
    wait_until(at_seed, CHANGED, home)
    at_seed.wait_for_timeout(700)
    moved = data(at_seed)
    link = at_seed.locator(".spectool-latent .spectool-status a[download]")
    earlier = link.get_attribute("download") if link.count() else ""
    press(at_seed, "State")
    at_seed.wait_for_function(
        "old => (document.querySelector('.spectool-latent .spectool-status a[download]')?.download ?? old) !== old",
        arg=earlier,
    )
    with at_seed.expect_download() as download:
        link.click()
    saved = tmp_path / "state.json"
    download.value.save_as(saved)
    press(at_seed, "Reset")
    wait_until(at_seed, SAME, home)
    upload(at_seed, saved)
    wait_until(at_seed, SAME, moved)
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(json.loads(saved.read_text()) | {"of": {"model": "another"}}))
    upload(at_seed, foreign)
    at_seed.get_by_text("foreign.json belongs to the model another").wait_for(timeout=10_000)
    assert data(at_seed) == moved


def test_the_page_does_not_echo_figure_updates(at_seed):
    at_seed.evaluate("""() => {
      window.echoes = [];
      window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.anyMessage.connect(
        (_, {msg, direction}) => {
          if (direction === 'send' && msg.content?.data?.content?.attr === 'data') window.echoes.push(msg);
        });
    }""")
    before = data(at_seed)
    drag(at_seed, -40)
    wait_until(at_seed, CHANGED, before)
    at_seed.wait_for_timeout(500)
    assert at_seed.evaluate("() => window.echoes.length") == 0


def test_a_reloaded_page_shows_the_current_state_and_still_works(at_seed):
    home = data(at_seed)
    drag(at_seed, -50)
    wait_until(at_seed, CHANGED, home)
    at_seed.wait_for_timeout(700)
    moved = data(at_seed)
    at_seed.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    at_seed.wait_for_timeout(1500)
    at_seed.reload()
    at_seed.wait_for_function(READY, timeout=60_000)
    wait_until(at_seed, SAME, moved)
    at_seed.evaluate("() => document.querySelector('.spectool-latent').scrollIntoView()")
    at_seed.wait_for_timeout(500)
    slider(at_seed).focus()
    for _ in range(5):
        at_seed.keyboard.press("ArrowRight")
    wait_until(at_seed, CHANGED, moved)


def test_nothing_left_the_loopback_interface_and_nothing_failed(dashboard):
    assert dashboard.strays == []
    assert error_outputs(dashboard) == []


def test_voila_shows_it_without_a_network(browser, voila):
    page = open_page(browser)
    # Voila's own page asks a CDN for its icons; here there is no network, as on a disconnected laptop.
    page.route(lambda url: not url.startswith(voila), lambda route: route.abort())
    page.goto(f"{voila}/voila/render/{NOTEBOOK}", timeout=90_000)
    page.wait_for_function(READY, timeout=60_000)
    page.evaluate("() => document.querySelector('.spectool-latent').scrollIntoView()")
    page.wait_for_timeout(1000)
    before = data(page)
    drag(page, -60)
    wait_until(page, CHANGED, before)
    page.context.close()
