"""Settings of `make app`: Voila serves the dashboards behind an index page, and asks no other machine for anything."""

import os
import re
from pathlib import Path

from nbformat.v4 import new_markdown_cell
from tornado.web import HTTPError

CARDS = {
    "60_latent_traversal": (
        "latent_dashboard",
        "Drag a latent slider",
        "A network has squeezed galaxy spectra into a few numbers: move one, and watch the spectrum change.",
    ),
    "70_line_fluxes": (
        "line_dashboard",
        "Emission lines without noise",
        "Networks take the noise out of spectra: which lines come back, in which galaxies?",
    ),
    "80_mass_metallicity": (
        "mzr_dashboard",
        "Mass and metallicity",
        "Massive galaxies are richer in metals: how much of that survives noise, cuts and networks?",
    ),
    "90_galaxy_fluxes": (
        "sed_dashboard",
        "A galaxy in 21 bands",
        "Change a band or drop a survey: what happens to mass, star formation and dust, and to their errors?",
    ),
    "95_galaxy_maps": (
        "ifu_dashboard",
        "Maps of a galaxy",
        "Ages and metals from the centre outwards, by networks that have seen the galaxy and by others.",
    ),
    "05_your_spectrum": (
        "your_spectrum",
        "Your own spectrum",
        "Bring the spectrum of a galaxy, and ask every trained model about it.",
    ),
}
"""Notebooks of the app: picture in docs/images, title, one sentence."""
LINK = re.compile(r"\[([^\]]+)\]\((\w+)\.ipynb\)")


def to_app(handler, notebook, cwd):
    """Leave of a notebook what an app needs: its dashboard first, and words that do not speak of JupyterLab."""
    name = Path(handler.request.path).stem
    if name not in CARDS:
        raise HTTPError(404, "This notebook is no dashboard; make lab opens it.")
    cells = [cell for cell in notebook.cells if "lab" not in cell.metadata.get("tags", ())]
    first = next(k for k, cell in enumerate(cells) if cell.cell_type == "code")
    notebook.metadata.title = CARDS[name][1]
    back = f'<nav><a href="{handler.base_url}">All dashboards</a> <h1>{notebook.metadata.title}</h1></nav>'
    notebook.cells = [new_markdown_cell(back), *cells[first:], *cells[:first]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(relink, re.sub(r"^# .+\n", "", cell.source))


def relink(match):
    """A link to another dashboard stays; one to a notebook that the app does not have becomes its name."""
    text, name = match.groups()
    return match[0] if name in CARDS else f"{text}, notebook {name[:2]}"


os.environ["JUPYTER_PATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "share"), os.environ.get("JUPYTER_PATH")])
)
# Kernels hand freed memory back: each takes a fifth less. (The C library of Linux reads it; others do not.)
os.environ |= {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}
c = get_config()  # noqa: F821  (Voila's)
c.VoilaConfiguration.template = "spectool"
c.VoilaConfiguration.allow_template_override = "NO"
c.VoilaConfiguration.classic_tree = True  # the index page, tree.html
c.VoilaConfiguration.prelaunch_hook = to_app
c.Voila.tornado_settings = {"jinja_template_vars": {"cards": CARDS}}
c.MappingKernelManager.cull_idle_timeout = 600  # seconds after the page was closed
c.MappingKernelManager.cull_interval = 60
