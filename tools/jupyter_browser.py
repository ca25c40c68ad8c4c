"""JupyterLab and Voila on the loopback interface, driven in headless Chromium: for browser tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Software rendering, and no request of the browser's own: the tests assert that nothing leaves loopback.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
LOCAL = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "about:")
LAB_SETTINGS = '{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}'
START_SECONDS = 90

KERNEL_IDLE = """() => {
  const w = window.jupyterapp?.shell?.currentWidget;
  return w?.context?.isReady && w.sessionContext?.session?.kernel?.status === 'idle';
}"""
ERRORS = (
    '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"], '
    '.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"]'
)


class NoBrowserError(RuntimeError):
    """There is no Chromium (or no playwright) to drive."""


def jupyter_environment(folder):
    """Return environment variables that keep Jupyter's settings and workspaces in a folder of their own."""
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text(LAB_SETTINGS)
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    own |= {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    return {**os.environ, **{name: str(folder / part) for name, part in own.items()}}


def free_port():
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def run_server(arguments, url, folder, *, name, cwd=None):
    """Run a Jupyter server until the context ends."""
    log = folder / f"{name}.log"
    environment = jupyter_environment(folder)
    with log.open("w") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen([sys.executable, "-m", *arguments], env=environment, cwd=cwd, **streams)
    try:
        _wait_for(url, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(url, process, log):
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()}") from None
        time.sleep(0.1)


@contextmanager
def run_lab(folder):
    """Run JupyterLab on a folder of notebooks; yields its address."""
    port = free_port()
    arguments = (
        f"jupyterlab --no-browser --allow-root --expose-app-in-browser --ip=127.0.0.1 --port={port}".split()
    )
    arguments += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    address = f"http://127.0.0.1:{port}"
    with run_server(arguments, f"{address}/api/status", folder, name="lab"):
        yield address


@contextmanager
def run_voila(folder):
    """Run Voila on a folder of notebooks; yields its address."""
    port = free_port()
    arguments = ["voila", str(folder), "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    address = f"http://127.0.0.1:{port}"
    with run_server(arguments, address, folder, name="voila"):
        yield address


@contextmanager
def open_chromium():
    """Start headless Chromium; yields a playwright browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError("playwright is not installed: pip install playwright") from error
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), None) or playwright.chromium.executable_path
        if not Path(path).exists():
            raise NoBrowserError("no Chromium on the PATH: install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, *, width=1366, height=768):
    """Open a page the size of a small laptop; ``page.strays`` collects requests that leave loopback."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.strays = []

    def note(request):
        if not request.url.startswith(LOCAL):
            page.strays.append(request.url)

    page.on("request", note)
    return page


def run_notebook(page, address, name, *, timeout=120):
    """Open a notebook in JupyterLab, run all its cells and return when the kernel is idle again."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_function(KERNEL_IDLE, timeout=1000 * timeout)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(KERNEL_IDLE, timeout=1000 * timeout)


def error_outputs(page):
    """Return the texts of error and stderr outputs in the open notebook."""
    return page.locator(ERRORS).all_inner_texts()
