"""The latent dashboard: ipywidgets and Bokeh figures that are linked to a `LatentState`, and no more."""

import html
import threading
import time
from collections import deque
from pathlib import Path

import ipywidgets as W
import numpy as np

from spectool.explore.exports import connect_files, report
from spectool.explore.latent_data import PARAMETERS, REFERENCE, draw_seeds, open_model
from spectool.explore.latent_figure import LatentFigure
from spectool.explore.latent_files import load_state, save_csv, save_png, save_state
from spectool.explore.latent_state import LatentState
from spectool.explore.style import DECODED, OBSERVED, OKABE_ITO

WINDOWS = {
    "All": None,
    "UV": (1000.0, 3500.0),
    "Optical": (3500.0, 7400.0),
    "4000 Å break": (3700.0, 4400.0),
    "Hβ, [O III]": (4780.0, 5080.0),
    "Hα": (6480.0, 6800.0),
}
FRAME_SECONDS, ECHO_SECONDS = 0.12, 2.0
SIDE_WIDTH = "326px"
CSS = f"""<style>
.latent-side .widget-slider .widget-label {{ width: 34px; }}
.latent-side .widget-readout {{ min-width: 44px; overflow: visible; }}
.latent-side .jupyter-button {{ padding: 0 6px; }}
.latent-table table {{ font-size: 12px; line-height: 16px; border-collapse: collapse; width: 100%; }}
.latent-table table + table {{ margin-top: 6px; }}
.latent-table td, .latent-table th {{ padding: 0 4px; text-align: right; white-space: nowrap; }}
.latent-table td:first-child, .latent-table th:first-child {{ text-align: left; }}
.latent-table th {{ font-weight: 600; border-bottom: 1px solid #B0B0B0; }}
.latent-status .widget-html-content {{ font-size: 13px; line-height: 18px; overflow-wrap: anywhere; }}
.latent-warning {{ color: {OKABE_ITO["vermillion"]}; }}
</style>"""


class LatentView:
    """The dashboard; a notebook shows it when it is the last line of a cell."""

    def __init__(self, state, *, retrain=None, export_folder="exports"):
        self.state, self._retrain = state, retrain
        self.export_folder = Path(export_folder)
        self.figure = LatentFigure(state)
        self._first = state.model
        self._frames = deque(maxlen=30)
        self._make_widgets()
        self._link()
        self._show_model()
        self.widget = self._arrange()

    def _repr_mimebundle_(self, **options):
        """Show the dashboard, as it is now, below the cell."""
        self.figure.widget.refresh()
        return self.widget._repr_mimebundle_(**options)

    # ---- widgets

    def _make_widgets(self):
        wide = W.Layout(width="auto")
        narrow = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        self.seed = W.Dropdown(options=self.state.seed_names, layout=wide, tooltip="galaxy to start from")
        self.sliders = {}
        self.slider_box = W.VBox(layout=W.Layout(width="auto", max_height="330px", overflow="hidden auto"))
        self.other_box = W.VBox(layout=W.Layout(width="auto", max_height="240px", overflow="hidden auto"))
        self.others = W.Accordion([self.other_box], selected_index=None, layout=wide)
        self.animated = W.Dropdown(layout=W.Layout(width="76px"), tooltip="dimension to animate")
        self.play = W.Button(description="Play", icon="play", layout=narrow)
        self.reset = W.Button(description="Reset", icon="undo", layout=narrow)
        self.png = W.Button(description="PNG", icon="image", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", icon="table", layout=narrow, tooltip="save the spectra")
        self.json = W.Button(description="State", icon="save", layout=narrow, tooltip="save the position")
        self.load = W.FileUpload(description="Load", accept=".json", multiple=False, layout=narrow)
        self.load.tooltip = "load a saved position"
        self.train = W.Button(description="Retrain a light model…", icon="cogs", layout=wide)
        self.confirm = W.Button(description="Yes, about a minute", button_style="warning", layout=narrow)
        self.cancel = W.Button(description="No", layout=narrow)
        self.ask = W.HBox([self.confirm, self.cancel], layout=W.Layout(display="none"))
        self.progress = W.FloatProgress(min=0, max=1, layout=W.Layout(width="auto", display="none"))
        self.windows = W.ToggleButtons(
            options=list(WINDOWS), style={"button_width": "auto"}, layout=W.Layout(flex="1 1 auto")
        )
        self.tall = W.ToggleButton(
            description="Whole lines",
            tooltip="let the flux axis reach the tips of emission lines",
            layout=W.Layout(width="auto", flex="0 0 auto"),
        )
        self.status = W.HTML()
        self.message = W.HTML(layout=W.Layout(display="none"))
        self.tables = W.HTML()

    def _arrange(self):
        self.tables.add_class("latent-table")
        for line in (self.status, self.message):
            line.add_class("latent-status")
        side = [
            self.seed,
            self.slider_box,
            self.others,
            W.HBox([self.animated, self.play, self.reset]),
            W.HBox([self.png, self.csv, self.json, self.load]),
        ]
        side += [self.train, self.ask, self.progress] if self._retrain else []
        left = W.VBox([*side, self.message, self.tables], layout=W.Layout(flex=f"0 0 {SIDE_WIDTH}"))
        left.add_class("latent-side")
        self.figure.widget.layout = W.Layout(width="100%")
        right = W.VBox(
            [W.HBox([self.windows, self.tall]), self.status, self.figure.widget],
            layout=W.Layout(flex="1 1 520px", min_width="0", padding="0 0 0 8px"),
        )
        return W.VBox([W.HTML(CSS), W.HBox([left, right], layout=W.Layout(width="100%"))])

    def _make_slider(self, dimension):
        low, high = float(self.state.lower[dimension]), float(self.state.upper[dimension])
        slider = W.FloatSlider(
            value=float(self.state.latent[dimension]),
            min=low,
            max=high,
            step=max((high - low) / 400, 1e-4),
            description=f"z{dimension}",
            readout_format=".2f",
            layout=W.Layout(width="auto", height="26px"),
        )
        slider.observe(lambda change: self._slider_moved(dimension, change["new"]), "value")
        return slider

    # ---- from the widgets to the state

    def _link(self):
        self.seed.observe(lambda change: self.state.select_seed(change["new"]), "value")
        self.windows.observe(lambda change: self._zoom(change["new"]), "value")
        self.tall.observe(lambda change: self.figure.show_whole_lines(change["new"]), "value")
        self.reset.on_click(lambda _: self.state.reset())
        self.play.on_click(lambda _: self._toggle_play())
        save = {"png": self._save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="latent", save=save, load=load_state, tell=self._tell)
        self.train.on_click(lambda _: self._train_clicked())
        self.confirm.on_click(lambda _: self._start_training())
        self.cancel.on_click(lambda _: self._show(self.ask, False))
        self.state.observe(lambda _: self._show_position(), "latent")
        self.state.observe(lambda _: self._show_seed(), "seed_name")
        self.state.observe(lambda _: self._show_playing(), "playing")
        self.state.observe(lambda _: self._show_model(), "model_id")

    def _stands_at(self, dimension, value):
        """Whether a slider shows this value: the page rounds it to a step."""
        slider = self.sliders[dimension]
        return abs(slider.value - value) <= 0.501 * slider.step

    def _slider_moved(self, dimension, value):
        # The page sends back, rounded, what it is told; during an animation that is a few frames old.
        now = time.monotonic()
        recent = [z for when, d, z in self._frames if d == dimension and now - when < ECHO_SECONDS]
        if not any(self._stands_at(dimension, z) for z in [self.state.latent[dimension], *recent]):
            self.state.stop()
            self.state.set_dimension(dimension, value)

    def _zoom(self, name):
        self.figure.zoom(WINDOWS[name] or self.figure.full_range)

    def _toggle_play(self):
        if self.state.playing:
            self.state.stop()
        else:
            threading.Thread(target=self._animate, args=[self.animated.value], daemon=True).start()

    def _animate(self, dimension):
        for value in self.state.animate(dimension, n_steps=36):
            self._frames.append((time.monotonic(), dimension, value))
            time.sleep(FRAME_SECONDS)

    # ---- from the state to the widgets

    def _show_model(self):
        state = self.state
        self.sliders = {int(d): self._make_slider(int(d)) for d in (*state.informative, *state.others)}
        self.slider_box.children = [self.sliders[int(d)] for d in state.informative]
        self.other_box.children = [self.sliders[int(d)] for d in state.others]
        self.others.set_title(0, f"{state.others.size} uninformative dimensions")
        self.animated.options = [(f"z{d}", int(d)) for d in (*state.informative, *state.others)]
        self.animated.value = int(state.informative[0])
        first = state.model is self._first
        self.train.description = "Retrain a light model…" if first else f"Back to {self._first.info.name}"
        self.figure.show_model()
        self._show_seed()

    def _show_seed(self):
        self.seed.value = self.state.seed_name
        self.figure.show_galaxy()
        self._show_position()

    def _show_position(self):
        state = self.state
        with state.lock:
            self.figure.show_position()
            for dimension, slider in self.sliders.items():
                if not self._stands_at(dimension, state.latent[dimension]):
                    slider.value = float(state.latent[dimension])
            self.tables.value = parameter_table(state) + neighbour_table(state)
            self.status.value = describe_position(state)

    def _show_playing(self):
        playing = self.state.playing
        self.play.description, self.play.icon = ("Stop", "stop") if playing else ("Play", "play")

    @staticmethod
    def _show(widget, visible):
        widget.layout.display = None if visible else "none"

    def _tell(self, text, *, warning=False):
        report(self.message, text, css="latent-warning" if warning else "")

    # ---- files

    def _save_png(self, state, path):
        save_png(state, path, wavelength_range=(self.figure.x_range.start, self.figure.x_range.end))

    # ---- training

    def _train_clicked(self):
        if self.state.model is self._first:
            self._show(self.ask, True)
        else:
            self.state.set_model(self._first)

    def _start_training(self):
        self._show(self.ask, False)
        self.train.disabled, self.progress.value = True, 0
        self._show(self.progress, True)
        self._tell("Training; the sliders go on working meanwhile.")
        threading.Thread(target=self._train_model, daemon=True).start()

    def _train_model(self):
        def on_progress(fraction, loss):
            self.progress.value = fraction
            self._tell(f"Training: squared error and divergence {loss:.1f} per spectrum")

        try:
            model = self._retrain(on_progress=on_progress)
            self.state.set_model(model)
            self._tell(f"Trained {html.escape(model.info.name)}; its dimensions are others than before.")
        finally:
            self.train.disabled = False
            self._show(self.progress, False)


def describe_position(state):
    """Return the figure's key, and what is wrong with the position or which model decodes it, as HTML."""
    warnings = []
    key = "".join(
        f'<span style="color:{color}">▬</span> {name} &nbsp; '
        for color, name in ((OBSERVED, html.escape(state.seed_name)), (DECODED, "decoded"))
    )
    n_negative = int(state.negative.sum())
    if n_negative:
        where = state.wavelength[state.negative]
        warnings.append(f"{n_negative} pixels below zero ({where[0]:.0f}–{where[-1]:.0f} Å): no galaxy")
    outside = [f"z{d}" for d in state.out_of_range]
    if outside:
        warnings.append(
            f"this galaxy lies outside the encoder's range in {', '.join(outside)}: moved to its edge"
        )
    if warnings:
        return key + f'<span class="latent-warning">⚠ {"; ".join(warnings)}</span>'
    return key + f"({html.escape(state.name)})"


def parameter_table(state):
    """Predicted parameters with errors, beside the truth of a mock seed galaxy, as an HTML table."""
    predicted = state.predict_parameters()
    rows = []
    for column, (mean, sigma) in predicted.items():
        if column not in PARAMETERS:
            continue
        truth = state.seed_truth.get(column, np.nan)
        known = f"{truth:.2f}" if np.isfinite(truth) else "–"
        rows.append(
            f"<tr><td>{PARAMETERS[column]}</td><td>{mean:.2f} ± {sigma:.2f}</td><td>{known}</td></tr>"
        )
    head = "<tr><th>parameter</th><th>predicted</th><th>seed’s truth</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""


def neighbour_table(state, n=4):
    """The mock galaxies nearest in latent space, as an HTML table."""
    columns = {
        "log_mass": "log M*",
        "log_sfr": "log SFR",
        "log_z_gas": "log Z gas",
        "dust2": "dust",
    }
    atlas = state.model.atlas
    columns = {c: label for c, label in columns.items() if c in atlas}
    index, distance = state.nearest(n)
    rows = []
    for i, d in zip(index, distance, strict=True):
        values = "".join(f"<td>{float(atlas[c].values[i]):.2f}</td>" for c in columns)
        rows.append(f"<tr><td>{d:.2f} σ</td>{values}</tr>")
    head = "".join(f"<th>{label}</th>" for label in columns.values())
    return f"<table><tr><th>nearest</th>{head}</tr>{''.join(rows)}</table>"


def open_dashboard(model=REFERENCE, *, retrain=None, seed=60):
    """Open the latent dashboard on a shipped model.

    Parameters
    ----------
    model : str or path
        A shipped model's name or a model file.
    retrain : callable, optional
        See `LatentView`.
    seed : int
        Of the mock galaxies.

    Returns
    -------
    LatentView
    """
    return LatentView(LatentState(open_model(model, seed=seed), draw_seeds(seed=seed)), retrain=retrain)
