"""One JupyterLab, one Voila and one Chromium for all browser tests; notebooks are copies, the checkout stays clean."""

import os
import shutil
from pathlib import Path

import pytest

from tools.jupyter_browser import NoBrowserError, open_chromium, open_page, run_lab, run_voila

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Where there is none the tests are skipped, but in CI they fail."""
    try:
        with open_chromium() as chromium:
            yield chromium
    except NoBrowserError as error:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def notebook_folder(tmp_path_factory):
    """A folder with copies of the notebooks, which the servers serve."""
    folder = tmp_path_factory.mktemp("notebooks")
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, folder)
    return folder


@pytest.fixture(scope="session")
def lab(browser, notebook_folder):
    """Address of a running JupyterLab."""
    with run_lab(notebook_folder) as address:
        yield address


@pytest.fixture(scope="session")
def voila(browser, notebook_folder):
    """Address of a running Voila."""
    with run_voila(notebook_folder) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser):
    """A page of 1366 x 768 pixels; ``page.strays`` holds requests that left loopback."""
    page = open_page(browser)
    page.set_default_timeout(15_000)
    yield page
    page.context.close()
