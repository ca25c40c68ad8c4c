"""What every dashboard does on the page: it is reached by Run All, fits narrow and dark windows, and can be heard."""

from importlib.resources import files

import pytest

from tools.jupyter_browser import error_outputs, open_page, run_notebook

NOTEBOOKS = {
    "spectrum": "05_your_spectrum.ipynb",
    "latent": "60_latent_traversal.ipynb",
    "line": "70_line_fluxes.ipynb",
    "mzr": "80_mass_metallicity.ipynb",
    "sed": "90_galaxy_fluxes.ipynb",
    "ifu": "95_galaxy_maps.ipynb",
}
SERIOUS = """async (root) => {
  const options = {resultTypes: ['violations']};
  const {violations} = await axe.run(root, options);
  return violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(
    v => `${v.id}: ${v.help}: ` + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(' | '));
}"""
CANVASES = """(root) => {
  const canvases = [];
  const walk = (node) => {
    if (node.tagName === 'CANVAS' && node.clientWidth > 40) canvases.push(node);
    for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) walk(child);
  };
  walk(document.querySelector(root + ' .spectool-figure'));
  return canvases;
}"""


@pytest.fixture(scope="module", params=NOTEBOOKS)
def shown(request, lab, browser):
    """(page, selector) of a dashboard after Run All."""
    page = open_page(browser)
    page.set_default_timeout(20_000)
    run_notebook(page, lab, NOTEBOOKS[request.param])
    root = f".spectool-dashboard.spectool-{request.param}"
    page.wait_for_function(f"root => ({CANVASES})(root).length", arg=root, timeout=90_000)
    page.wait_for_timeout(1500)
    yield page, root
    page.context.close()


def test_run_all_lands_on_it_without_errors_or_requests_elsewhere(shown):
    page, root = shown
    assert error_outputs(page) == []
    top = page.locator(root).bounding_box()["y"]
    assert 0 <= top < 400
    assert page.strays == []


def test_axe_finds_nothing_serious(shown):
    page, root = shown
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    assert page.evaluate(SERIOUS, root) == []


def test_figures_and_sliders_are_named(shown):
    page, root = shown
    assert page.locator(f"{root} [role=img][aria-label]").count() >= 1
    for handle in page.locator(f"{root} .noUi-handle").all():
        assert handle.get_attribute("aria-label")
        assert len(handle.get_attribute("aria-valuetext")) < 12


def test_keys_pressed_in_it_are_not_commands_of_the_notebook(shown):
    page, root = shown
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    for place in (".noUi-handle", "button:enabled", "select"):
        if page.locator(f"{root} {place}").count():
            page.locator(f"{root} {place}").first.focus()
            page.keyboard.press("b")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


@pytest.mark.parametrize("width", [800, 911, 1366, 1920])
def test_nothing_is_clipped(shown, width):
    page, root = shown
    narrow = (
        "([root, narrow]) => document.querySelector(root).classList.contains('spectool-narrow') === narrow"
    )
    try:
        page.set_viewport_size({"width": width, "height": 768})
        page.wait_for_function(narrow, arg=[root, width < 1000])
        page.wait_for_timeout(800)
        clipped = page.evaluate(
            """root => [...document.querySelectorAll(root + ' .spectool-controls, ' + root + ' .spectool-main')].map(
              part => part.scrollWidth - part.clientWidth)""",
            root,
        )
        assert max(clipped) <= 1
        widths = page.evaluate(f"root => ({CANVASES})(root).map(c => c.clientWidth)", root)
        assert min(widths) > 180
    finally:
        page.set_viewport_size({"width": 1366, "height": 768})


def test_it_turns_dark_with_the_page(shown):
    page, root = shown
    theme = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
    corner = f"""root => ({CANVASES})(root).every(canvas => {{
      const pixel = canvas.getContext('2d').getImageData(3, 3, 1, 1).data;
      return pixel[3] === 0 || pixel[0] + pixel[1] + pixel[2] < 150;
    }}) && getComputedStyle(document.querySelector(root)).backgroundColor !== 'rgb(255, 255, 255)'"""
    assert not page.evaluate(corner, root)
    try:
        page.evaluate(theme, "JupyterLab Dark")
        page.wait_for_function(corner, arg=root)
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
        assert page.evaluate(SERIOUS, root) == []
    finally:
        page.evaluate(theme, "JupyterLab Light")


def test_a_lost_kernel_is_said_and_a_reopened_notebook_shows_a_picture(shown):
    page, root = shown
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1000)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    gone = """root => getComputedStyle(document.querySelector(root), '::before').content.includes('kernel is gone')"""
    page.wait_for_function(gone, arg=root)
    page.reload()
    page.locator(".spectool-picture img").wait_for()
    page.wait_for_timeout(2500)
    assert page.locator(".spectool-picture").is_visible()
    assert not page.get_by_text("model not found").first.is_visible()
