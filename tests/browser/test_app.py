"""The dashboards as an app: the command of ``make app``, on a copy of the checkout, in real Chromium."""

import re
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from tools.jupyter_browser import free_port, open_page, run_server

ROOT = Path(__file__).resolve().parents[2]
READY = (
    "() => window.Bokeh?.documents.some(d => d.roots().length) && document.querySelector('.widget-dropdown')"
)
FIGURES = """() => Bokeh.documents.flatMap(d => [...(d.get_model_by_name('spectrum')?.data?.decoded ?? [])]).join()"""


@contextmanager
def run_app(folder, *flags):
    """Run what ``make app`` runs, in a folder that looks like the checkout; yields its address."""
    port = free_port()
    flags = f"--no-browser --Voila.ip=127.0.0.1 --port={port} " + " ".join(flags)
    # Below another make it would say which folder it enters and leaves.
    command = ["make", "-n", "--no-print-directory", "app", f"APP_FLAGS={flags}"]
    make = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    command = shlex.split(make.stdout.splitlines()[-1])
    assert Path(command[0]).name == "voila"
    address = f"http://127.0.0.1:{port}"
    with run_server(["voila", *command[1:]], address, folder, name="app", cwd=folder):
        yield address


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("app", "docs/images", "notebooks"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def app(browser, checkout):
    with run_app(checkout) as address:
        yield address


@pytest.fixture
def visit(browser, app):
    """A page that fails its test if anything is asked of another machine, or refused by this one."""
    page = open_page(browser)
    page.set_default_timeout(240_000)
    refused = []
    page.on("response", lambda r: refused.append((r.status, r.url)) if r.status >= 400 else None)
    yield page
    page.context.close()
    assert page.strays == []
    assert refused == []


def cards(page, app):
    page.goto(app)
    return page.locator("a.card").evaluate_all("links => links.map(a => a.href)")


def test_the_index_shows_every_dashboard_with_a_picture_and_a_sentence(visit, app, checkout):
    dashboards = [
        f"{app}/voila/render/notebooks/{path.name}" for path in checkout.glob("notebooks/[06-9]?_*")
    ]
    links = cards(visit, app)
    assert sorted(links) == sorted(link for link in dashboards if "00_start" not in link)
    for card in visit.locator("a.card").all():
        assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 200")
        assert card.locator("p").inner_text().endswith((".", "?"))
    assert visit.evaluate("document.documentElement.scrollHeight") <= 768


def test_each_card_opens_a_dashboard_whose_links_lead_somewhere(visit, app):
    home = f"{app}/"
    links = cards(visit, app)
    for link in links:
        visit.goto(link)
        visit.wait_for_function(READY)
        text = visit.locator("body").inner_text()
        assert "Run All" not in text and "Traceback" not in text, link
        hrefs = visit.locator("#rendered_cells a[href]").evaluate_all("links => links.map(a => a.href)")
        assert home in hrefs
        assert {href.split("#")[0] for href in hrefs if href.startswith(app)} <= {home, *links}


def test_a_slider_moves_the_plot(visit, app):
    visit.goto(f"{app}/voila/render/notebooks/60_latent_traversal.ipynb")
    visit.wait_for_function(READY)
    visit.locator(".noUi-handle:visible").first.focus()
    before = visit.evaluate(FIGURES)
    for _ in range(5):
        visit.keyboard.press("ArrowLeft")
    visit.wait_for_function(f"before => ({FIGURES})() !== before", arg=before)


def test_a_notebook_that_is_no_dashboard_is_refused_in_words(browser, app):
    page = open_page(browser)
    response = page.goto(f"{app}/voila/render/notebooks/10_marziano2024.ipynb")
    assert response.status == 404
    assert "make lab" in page.locator("body").inner_text()
    assert page.locator("a").get_attribute("href") == "/"
    assert page.strays == []
    page.context.close()


def test_a_kernel_that_nobody_looks_at_ends(checkout, tmp_path):
    shutil.copytree(checkout / "app", tmp_path / "app")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, tmp_path / "notebooks" / "60_latent_traversal.ipynb")
    quick = "--MappingKernelManager.cull_idle_timeout=15", "--MappingKernelManager.cull_interval=1"
    with run_app(tmp_path, *quick) as address:
        with urllib.request.urlopen(
            f"{address}/voila/render/notebooks/60_latent_traversal.ipynb", timeout=90
        ) as page:
            kernel = re.search(r'"kernelId": "([\w-]+)"', page.read().decode())[1]
        end = time.monotonic() + 90
        with pytest.raises(urllib.error.HTTPError, match="404"):
            while time.monotonic() < end:
                urllib.request.urlopen(f"{address}/api/kernels/{kernel}").close()
                time.sleep(0.5)
