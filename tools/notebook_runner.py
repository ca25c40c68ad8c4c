"""Execute a notebook headless, as a reader would from top to bottom, and watch what it costs."""

from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from spectool.parallel import Usage

CELL_TIMEOUT = 1200
PAPERS = "[1-5]?_*.ipynb"


@dataclass(frozen=True)
class Run:
    """What one execution came to: ``error`` is empty if every cell ran."""

    notebook: nbformat.NotebookNode
    seconds: float
    peak_rss_mb: float
    error: str = ""


def paper_notebooks(folder: Path) -> dict[str, Path]:
    """Return the notebooks that retell a paper (``10_marziano2024.ipynb``, ...) by the paper's key."""
    return {path.stem.split("_", 1)[1]: path for path in sorted(Path(folder).glob(PAPERS))}


def run_notebook(path: Path) -> Run:
    """Execute a notebook with its own folder as working folder; the file itself is left as it is."""
    path = Path(path)
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    watches = []

    def watch_kernel(cell, cell_index):
        if not watches:
            watches.append(Usage(client.km.provisioner.pid))

    client.on_cell_execute = watch_kernel
    error = ""
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as failure:
        error = f"{path.name}: {failure}"
    usage = watches[0].stop() if watches else Usage().stop()
    return Run(client.nb, usage.seconds, usage.peak_rss_mb, error)
