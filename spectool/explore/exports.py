"""What every dashboard does to save and to load: its files, and the buttons that write and read them."""

import base64
import html
import json
import time
from pathlib import Path

MIME = {"png": "image/png", "csv": "text/csv", "json": "application/json"}


# ---- files


def write_state(saved, path):
    """Write a state as JSON."""
    path = Path(path)
    path.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_state(source, *, name, state_format, keys):
    """Read a state that `write_state` wrote."""
    if not isinstance(source, bytes):
        source, name = Path(source).read_bytes(), Path(source).name
    try:
        saved = json.loads(source.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} is not a state file of this dashboard: {error}") from error
    if not isinstance(saved, dict) or saved.get("format") != state_format:
        raise ValueError(f"{name} is not a state file of this dashboard")
    missing = set(keys) - saved.keys()
    if missing:
        raise ValueError(f"{name} lacks {', '.join(sorted(missing))}")
    return saved, name


def write_table(table, path, *, comments, digits=7):
    """Write a table as CSV, below comment lines that begin with ``#``."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in comments)
        table.to_csv(file, index=False, float_format=f"%.{digits}g")
    return path


def write_figure(figure, path):
    """Write a `matplotlib.figure.Figure` at 150 dots per inch."""
    path = Path(path)
    figure.savefig(path, dpi=150)
    return path


# ---- buttons


def report(line, text, *, css=""):
    """Show a line of text, or hide the line if there is none."""
    line.value = f'<span class="{css}">{text}</span>'
    line.layout.display = None if text else "none"


def connect_files(view, *, prefix, save, load, tell):
    """Let a dashboard's buttons save its state's files, and its upload load a state."""

    def export(ending):
        folder = Path(view.export_folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{prefix}_{time.strftime('%Y%m%dT%H%M%S')}.{ending}"
        with view.state.lock:
            save[ending](view.state, path)
        tell(f"Saved {html.escape(str(path))} ({download_link(path)})")

    def upload(files):
        if not files:
            return
        name = files[0]["name"]
        try:
            load(view.state, bytes(files[0]["content"]), name=name)
        except ValueError as error:
            tell(html.escape(str(error)), warning=True)
        else:
            tell(f"Loaded {html.escape(name)}")
        view.load.value = ()

    for ending in MIME:
        getattr(view, ending).on_click(lambda _, ending=ending: export(ending))
    view.load.observe(lambda change: upload(change["new"]), "value")


def download_link(path):
    """Return an HTML link that holds a png, csv or json file itself."""
    # It serves Voila, whose page shows no files, and a Binder session, whose disk will vanish.
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<a download="{path.name}" href="data:{MIME[path.suffix[1:]]};base64,{content}">download</a>'
