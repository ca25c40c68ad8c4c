"""The galaxy-map dashboard: ipywidgets and Bokeh figures that are linked to an `IfuState`, and no more."""

import html
import threading
from pathlib import Path

import ipywidgets as W

from spectool.explore import ifu_data as data
from spectool.explore.bokeh_widget import link
from spectool.explore.exports import connect_files, report
from spectool.explore.ifu_figure import IfuFigure
from spectool.explore.ifu_files import CHOICES, load_state, save_csv, save_png, save_state
from spectool.explore.ifu_state import VIEWS, IfuState
from spectool.explore.style import OKABE_ITO

CSS = f"""<style>
.ifu-controls {{ --jp-widgets-inline-height: 25px; }}
.ifu-controls .jupyter-button {{ padding: 0 7px; }}
.ifu-controls .widget-toggle-buttons .jupyter-button {{ margin: 0 1px 0 0; }}
.ifu-controls .widget-toggle-buttons {{ flex: 0 0 auto; overflow: visible; }}
.ifu-controls .widget-toggle-buttons .jupyter-widget-ToggleButtons-content {{ flex-wrap: nowrap; }}
.ifu-controls .widget-label {{ width: auto; margin-right: 6px; }}
.ifu-status .widget-html-content {{ font-size: 13px; line-height: 19px; height: 19px; white-space: nowrap; }}
.ifu-message .widget-html-content {{ font-size: 13px; line-height: 18px; overflow-wrap: anywhere; }}
.ifu-warning {{ color: {OKABE_ITO["vermillion"]}; }}
</style>"""
QUANTITY_BUTTONS = {"age": "log_age", "metallicity": "log_z"}


class IfuView:
    """The dashboard; a notebook shows it when it is the last line of a cell."""

    def __init__(self, state, *, export_folder="exports"):
        self.state = state
        self.export_folder = Path(export_folder)
        self.figure = IfuFigure(state)
        self._quiet = False
        self._make_choices()
        self._make_buttons()
        self._link()
        self.widget = self._arrange()

    def _repr_mimebundle_(self, **options):
        """Show the dashboard, as it is now, below the cell."""
        self.figure.widget.refresh()
        return self.widget._repr_mimebundle_(**options)

    # ---- widgets

    def _make_choices(self):
        def toggles(options, tooltip):
            buttons = W.ToggleButtons(options=options, style={"button_width": "auto"})
            buttons.tooltips = [tooltip] * len(options)
            return buttons

        state = self.state
        options = [(text, galaxy) for galaxy, text in state.galaxies.items()]
        self.galaxy = W.Dropdown(options=options, layout=W.Layout(flex="1 1 0", min_width="0"))
        self.galaxy.tooltip = "galaxy"
        self.source = toggles(list(state.sources), "whose ages and metallicities are mapped")
        self.quantity = toggles(list(QUANTITY_BUTTONS.items()), "what is mapped")
        self.view = toggles(list(VIEWS), "the value, its difference from the labels, or its predicted error")
        self.reference = toggles(list(state.references), "labels to compare with")

    def _make_buttons(self):
        narrow = W.Layout(width="auto", flex="0 0 auto")
        self.back = W.Button(icon="chevron-left", layout=narrow, tooltip="galaxy before")
        self.next = W.Button(icon="chevron-right", layout=narrow, tooltip="next galaxy")
        self.reset = W.Button(description="Reset", icon="undo", layout=narrow)
        self.png = W.Button(description="PNG", icon="image", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", icon="table", layout=narrow, tooltip="save the galaxy's table")
        self.json = W.Button(description="State", icon="save", layout=narrow, tooltip="save the choices")
        self.load = W.FileUpload(description="Load", accept=".json", multiple=False, layout=narrow)
        self.load.tooltip = "load saved choices"
        self.summary, self.which = W.HTML(), W.HTML()
        self.message = W.HTML(layout=W.Layout(display="none"))

    def _arrange(self):
        row = W.Layout(width="100%", align_items="center")
        files = [self.reset, self.png, self.csv, self.json, self.load]
        against = [W.Label("labels:"), self.reference] if len(self.state.references) > 1 else []
        space = W.HTML(layout=W.Layout(flex="1 1 0"))
        rows = [
            W.HBox([self.galaxy, self.back, self.next, *files], layout=row),
            W.HBox([self.source, space, self.quantity, self.view, *against], layout=row),
        ]
        texts = [self.summary, self.which]
        controls = W.VBox([*rows, self.message, *texts], layout=W.Layout(width="100%"))
        controls.add_class("ifu-controls")
        for text in texts:
            text.add_class("ifu-status")
        self.message.add_class("ifu-message")
        self.figure.widget.layout = W.Layout(width="100%")
        return W.VBox([W.HTML(CSS), controls, self.figure.widget], layout=W.Layout(width="100%"))

    # ---- from the widgets to the state

    def _link(self):
        for name in CHOICES:
            getattr(self, name).observe(lambda change, name=name: self._choose(name, change["new"]), "value")
        self.back.on_click(lambda _: self.state.step(-1))
        self.next.on_click(lambda _: self.state.step(1))
        self.reset.on_click(lambda _: self.state.reset())
        save = {"png": save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="galaxy", save=save, load=load_state, tell=self._tell)
        link(self.state, list(CHOICES), self._show_choices)
        # `limits` and `gradients` are set with `points`, before anybody is told.
        link(self.state, ["points"], self._show)
        link(self.state, ["spectrum", "spectra", "busy", "problem"], self._show_spectrum)

    def _choose(self, name, value):
        with self.state.lock:
            if not self._quiet and getattr(self.state, name) != value:
                self.state.choose(**{name: value})

    # ---- from the state to the widgets

    def _show_choices(self):
        with self.state.lock:
            self._quiet = True
            try:
                for name in CHOICES:
                    getattr(self, name).value = getattr(self.state, name)
            finally:
                self._quiet = False

    def _show(self):
        with self.state.lock:
            self.figure.show()
            self.summary.value = describe_sources(self.state)
            self.which.value = describe_spectrum(self.state)

    def _show_spectrum(self):
        with self.state.lock:
            self.figure.show_spectrum()
            self.which.value = describe_spectrum(self.state)

    def _tell(self, text, *, warning=False):
        report(self.message, text, css="ifu-warning" if warning else "")


def describe_sources(state):
    """How well the chosen source agrees with the labels in this galaxy, as HTML."""
    name = html.escape(state.source)
    if state.source == state.reference:
        return f"<b>{name}</b>: choose a prediction above to compare it with these labels"
    offset, scatter = state.scatter()
    label, fit = state.gradients[state.reference], state.gradients[state.source]
    parts = [f"<b>{name}</b> − {state.reference}: median {_signed(offset)}, robust scatter {scatter:.3f} dex"]
    if fit.known:
        parts.append(f"gradient off by {_signed(fit.slope - label.slope)} dex/Re")
    if state.view == "error" and state.quantity not in state.sources[state.source].errors:
        parts.append(f'<span class="ifu-warning">{name} has no predicted errors</span>')
    return " &nbsp;·&nbsp; ".join(parts)


def describe_spectrum(state):
    """What each source says of the spectrum that is looked at, as HTML."""
    if state.problem:
        return f'<span class="ifu-warning">⚠ {html.escape(state.problem)}</span>'
    at, parts = state.spectrum, []
    for name, source in state.sources.items():
        value, error = source.values[state.quantity][at], source.errors.get(state.quantity)
        parts.append(
            f"{html.escape(name)} {_signed(value)}" + (f" ± {error[at]:.2f}" if error is not None else "")
        )
    radius = float(state.sample["radius"].values[at])
    waiting = " · rebuilding its spectrum …" if state.busy else ""
    quantity = data.QUANTITIES[state.quantity]
    return f"<b>spectrum {at}</b> at {radius:.2f} Re · {quantity}: {', '.join(parts)}{waiting}"


def _signed(value):
    return f"{value:+.2f}".replace("-", "−")


def open_ifu_dashboard(sample, predictions, *, rebuild=None, export_folder="exports"):
    """Open the galaxy-map dashboard: ages and metallicities across galaxies, by label and by prediction.

    Parameters
    ----------
    sample : xarray.Dataset
        See `spectool.explore.ifu_state.IfuState`.
    predictions : dict of str to mapping
        By name, such as "Set A" and "Set B": ``log_age`` and ``log_z`` (spectrum,) [dex], and ``log_age_error`` and
        ``log_z_error`` where there are predicted errors.
    rebuild : callable, optional
        ``rebuild(sample, galaxy)`` returns a galaxy's spectra, as `spectool.surveys.califa.rebuild_galaxy`.
    export_folder : str or pathlib.Path
        Where exported files go.

    Returns
    -------
    IfuView

    Raises
    ------
    ValueError
        If the sample or a prediction lacks a column.
    """

    # The first spectra are there before the page draws: what changes while it begins to would not reach it.
    state = IfuState(sample, predictions, rebuild=rebuild)
    state.start = lambda function, *arguments: threading.Thread(
        target=function, args=arguments, daemon=True
    ).start()
    return IfuView(state, export_folder=export_folder)
