"""The line-flux dashboard: ipywidgets and Bokeh figures that are linked to a `LineState`, and no more."""

import html
import threading
from pathlib import Path

import ipywidgets as W
import numpy as np

from spectool.explore import line_data as data
from spectool.explore.bokeh_widget import link
from spectool.explore.exports import connect_files, report
from spectool.explore.line_figure import LineFigure
from spectool.explore.line_files import load_state, save_csv, save_png, save_state
from spectool.explore.line_panels import CLASS_STYLE
from spectool.explore.line_state import DEFAULTS, SIGMA, SIGMA_RANGE, LineState
from spectool.explore.style import OKABE_ITO
from spectool.measure.classes import CLASSES
from spectool.papers.scourfield2023.network import paper_scatter
from spectool.papers.scourfield2023.sample import rest_wavelength

SN_STEPS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 200.0, np.inf)
SYMBOLS = {"circle": "●", "square": "■", "inverted_triangle": "▼", "triangle": "▲", "diamond": "◆"}
SHORT = {
    "emission line galaxy": "emission line",
    "absorption galaxy": "absorption",
    "quiescent galaxy": "quiescent",
    "narrow-line AGN": "narrow-line AGN",
    "broad-line AGN": "broad-line AGN",
}
CLASS_RULES = "\n".join(
    f".line-class-{k} {{ border-bottom: 3px solid {color} !important; }}"
    for k, (color, _) in enumerate(CLASS_STYLE.values())
)
CSS = f"""<style>
.line-controls {{ --jp-widgets-inline-height: 25px; }}
.line-controls .jupyter-button {{ padding: 0 7px; }}
.line-controls .widget-toggle-buttons .jupyter-button {{ margin: 0 1px 0 0; }}
.line-controls .widget-label {{ width: auto; margin-right: 6px; }}
.line-controls .widget-readout {{ min-width: 46px; overflow: visible; }}
.line-status .widget-html-content {{ font-size: 13px; line-height: 20px; height: 20px; white-space: nowrap; }}
.line-message .widget-html-content {{ font-size: 13px; line-height: 18px; overflow-wrap: anywhere; }}
.line-controls .widget-toggle-buttons {{ flex: 0 0 auto; overflow: visible; }}
.line-controls .widget-toggle-buttons .jupyter-widget-ToggleButtons-content {{ flex-wrap: nowrap; }}
.line-warning {{ color: {OKABE_ITO["vermillion"]}; }}
{CLASS_RULES}
.line-class button:not(.mod-active) {{ opacity: 0.5; }}
</style>"""


class LineView:
    """The dashboard; a notebook shows it when it is the last line of a cell."""

    def __init__(self, state, *, wavelength=None, export_folder="exports"):
        self.state = state
        self.export_folder = Path(export_folder)
        wavelength = rest_wavelength() if wavelength is None else wavelength
        self.figure = LineFigure(state, wavelength)
        self._quiet = False
        self._make_choices()
        self._make_filters()
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

        self.line = W.Dropdown(options=self.state.lines, layout=W.Layout(width="124px"), tooltip="line")
        self.quantity = toggles(list(data.QUANTITIES), "flux at the line's peak, or of the whole line")
        self.kind = toggles(list(data.KINDS), "model that removed the noise")
        self.size = toggles(list(data.SIZES), "latent dimensions")
        self.axes = tuple(W.Dropdown(layout=W.Layout(width="52px"), tooltip=f"{k} axis") for k in "xy")
        self.diagrams = toggles(["original", "recovered"], "lines behind the BPT diagram and the metallicity")

    def _make_filters(self):
        self.classes = {}
        for k, name in enumerate(CLASSES):
            n = int((self.state.galaxy_class == name).sum())
            self.classes[name] = W.ToggleButton(
                value=True,
                description=f"{SYMBOLS[CLASS_STYLE[name][1]]} {SHORT[name]} ({n})",
                tooltip=f"show or hide: {name}",
                layout=W.Layout(width="auto", flex="1 1 auto"),
            )
            self.classes[name].add_class("line-class").add_class(f"line-class-{k}")
        options = [("any" if s == 0 else "∞" if np.isinf(s) else f"{s:g}", s) for s in SN_STEPS]
        self.sn = W.SelectionRangeSlider(
            options=options,
            index=(0, len(options) - 1),
            description="S/N of Hα",
            continuous_update=False,
            layout=W.Layout(flex="1 1 240px", min_width="0"),
        )
        self.sigma = W.FloatSlider(
            value=SIGMA,
            min=SIGMA_RANGE[0],
            max=SIGMA_RANGE[1],
            step=0.001,
            description="noise σ of brushed galaxies",
            readout_format=".3f",
            layout=W.Layout(flex="1 1 300px", min_width="0"),
        )

    def _make_buttons(self):
        narrow = W.Layout(width="auto", flex="0 0 auto")
        self.back = W.Button(icon="chevron-left", layout=narrow, tooltip="spectrum before")
        self.next = W.Button(icon="chevron-right", layout=narrow, tooltip="next spectrum")
        self.clear = W.Button(icon="times", layout=narrow, tooltip="unmark all galaxies")
        self.which = W.HTML(layout=W.Layout(flex="1 1 0", min_width="0", overflow="hidden"))
        self.reset = W.Button(description="Reset", icon="undo", layout=narrow)
        self.png = W.Button(description="PNG", icon="image", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", icon="table", layout=narrow, tooltip="save the points")
        self.json = W.Button(description="State", icon="save", layout=narrow, tooltip="save the choices")
        self.load = W.FileUpload(description="Load", accept=".json", multiple=False, layout=narrow)
        self.load.tooltip = "load saved choices"
        self.summary = W.HTML()
        self.message = W.HTML(layout=W.Layout(display="none"))

    def _arrange(self):
        row = W.Layout(width="100%", align_items="center")
        files = [self.reset, self.png, self.csv, self.json, self.load]
        space = W.HTML(layout=W.Layout(flex="1 1 0"))
        rows = [
            W.HBox([self.line, self.quantity, self.kind, self.size, space, *files], layout=row),
            W.HBox(list(self.classes.values()), layout=row),
            W.HBox([self.sn, W.HTML(layout=W.Layout(width="12px")), self.sigma], layout=row),
            W.HBox(
                [
                    W.Label("BPT, MZR:"),
                    self.diagrams,
                    W.Label("latent:"),
                    *self.axes,
                    self.back,
                    self.next,
                    self.clear,
                    self.which,
                ],
                layout=row,
            ),
        ]
        controls = W.VBox([*rows, self.message, self.summary], layout=W.Layout(width="100%"))
        controls.add_class("line-controls")
        for text in (self.summary, self.which):
            text.add_class("line-status")
        self.message.add_class("line-message")
        self.figure.widget.layout = W.Layout(width="100%")
        return W.VBox([W.HTML(CSS), controls, self.figure.widget], layout=W.Layout(width="100%"))

    # ---- from the widgets to the state

    def _link(self):
        for name in ("line", "quantity", "kind", "size", "diagrams"):
            widget = getattr(self, name)
            widget.observe(lambda change, name=name: self._choose(**{name: change["new"]}), "value")
        for widget in self.axes:
            widget.observe(lambda _: self._choose_axes(), "value")
        for toggle in self.classes.values():
            toggle.observe(lambda _: self._filter(), "value")
        self.sn.observe(lambda _: self._filter(), "value")
        self.sigma.observe(lambda _: self._noise(), "value")
        self.back.on_click(lambda _: self.state.step(-1))
        self.next.on_click(lambda _: self.state.step(1))
        self.clear.on_click(lambda _: self.state.brush([]))
        self.reset.on_click(lambda _: self.state.reset())
        save = {"png": save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="lines", save=save, load=load_state, tell=self._tell)
        link(self.state, [*DEFAULTS, "classes", "sn_range", "sigma"], self._show_choices)
        # All are set before the first is told of: one of those that change together is enough.
        link(self.state, ["points"], self._show_points)
        link(self.state, ["brushed"], self.figure.show_brushed)
        link(self.state, ["shown"], lambda: self._show_live(refit=True))
        link(self.state, ["live", "busy", "problem"], self._show_live)

    def _choose(self, **options):
        with self.state.lock:
            if not self._quiet and any(getattr(self.state, name) != value for name, value in options.items()):
                try:
                    self.state.choose(**options)
                except ValueError as error:
                    self._tell(html.escape(str(error)), warning=True)
                    self._show_choices()

    def _choose_axes(self):
        self._choose(axes=tuple(widget.value for widget in self.axes))

    def _filter(self):
        with self.state.lock:
            if not self._quiet:
                classes = [name for name, toggle in self.classes.items() if toggle.value]
                self.state.set_filter(classes=classes, sn_range=self.sn.value)

    def _noise(self):
        with self.state.lock:
            # What the slider says now: callbacks of a drag may overtake each other.
            if not self._quiet and self.sigma.value != self.state.sigma:
                self.state.set_sigma(self.sigma.value)

    # ---- from the state to the widgets

    def _show_choices(self):
        state = self.state
        with state.lock:
            self._quiet = True
            try:
                for name in ("line", "quantity", "kind", "size", "diagrams", "sigma"):
                    getattr(self, name).value = getattr(state, name)
                for widget, dimension in zip(self.axes, state.axes, strict=True):
                    widget.options = [(f"z{k}", k) for k in range(state.size)]
                    widget.value = dimension
                for name, toggle in self.classes.items():
                    toggle.value = name in state.classes
                low, high = np.searchsorted(SN_STEPS, state.sn_range)
                self.sn.index = (int(low), int(min(high, len(SN_STEPS) - 1)))
            finally:
                self._quiet = False

    def _show_points(self):
        with self.state.lock:
            self.figure.show_points()
            self.summary.value = describe_recovery(self.state)

    def _show_live(self, *, refit=False):
        with self.state.lock:
            self.figure.show_live(refit=refit)
            self.which.value = describe_shown(self.state)

    def _tell(self, text, *, warning=False):
        report(self.message, text, css="line-warning" if warning else "")


def describe_recovery(state):
    """How well the chosen model recovers the chosen line, as HTML."""
    found = state.summary
    n, of = found["n_recovered"], found["n_original"]
    if not n:
        return (
            f"<b>{html.escape(state.line)}</b>, {state.source}: no galaxy chosen has the line in both spectra"
        )
    parts = [
        f"<b>{html.escape(state.line)} {state.quantity}, {state.source}</b>",
        f"{n:,} of {of:,} recovered ({n / of:.0%})",
        f"σ = <b>{found['sigma']:.2f}</b>, σ_fill = <b>{found['sigma_fill']:.2f}</b>, "
        f"median {found['median']:+.2f} dex",
    ]
    paper = paper_scatter(state.source, state.line) if state.quantity == "peak" else None
    if paper:
        parts.append(f"paper: σ {paper[0]:.2f}, σ_fill {paper[1]:.2f}")
    return " &nbsp;·&nbsp; ".join(parts)


def describe_shown(state):
    """Which of the brushed galaxies the spectrum belongs to, or why there is none, as HTML."""
    if state.problem:
        return f'<span class="line-warning">⚠ {html.escape(state.problem)}</span>'
    n = state.live_index.size
    if not n:
        hidden = ": all of them are filtered out" if state.brushed.size else ""
        return f"drag a box over points in any of the four panels{hidden}"
    if state.busy:
        return f"rebuilding {n} spectra …"
    at = state.shown
    place = f"{int(np.flatnonzero(state.live_index == at)[0]) + 1}/{n}"
    marked = f" of {state.brushed.size:,}" if state.brushed.size > n else ""
    kind = SHORT.get(state.galaxy_class[at], "")
    return f"<b>{place}</b>{marked} · galaxy {state.candidates[at]} · {kind} · Hα S/N {state.sn[at]:.0f}"


def open_line_dashboard(path=None, *, export_folder="exports"):
    """Open the line-flux dashboard on the shipped table of measured lines and the shipped models.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        Another table of the same layout.
    export_folder : str or pathlib.Path
        Where exported files go.

    Returns
    -------
    LineView

    Raises
    ------
    FileNotFoundError, ValueError
        As `spectool.explore.line_data.open_lines`.
    """
    from spectool.explore.line_live import shipped_pipeline

    product = data.open_lines(path)

    def start(function, *arguments):
        threading.Thread(target=function, args=arguments, daemon=True).start()

    state = LineState(product, shipped_pipeline(product), start=start)
    return LineView(state, export_folder=export_folder)
