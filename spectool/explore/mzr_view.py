"""The mass-metallicity dashboard: ipywidgets and Bokeh figures that are linked to a `MzrState`, and no more."""

import html
import threading
from pathlib import Path

import ipywidgets as W

from spectool.explore.bokeh_widget import link
from spectool.explore.exports import connect_files, report
from spectool.explore.mzr_data import REBUILDERS, read_samples
from spectool.explore.mzr_figure import SAMPLE_COLORS, MzrFigure, relation_style
from spectool.explore.mzr_files import load_state, save_csv, save_png, save_state
from spectool.explore.mzr_panel import COLORS
from spectool.explore.mzr_spectrum import WINDOWS, SpectrumFigure
from spectool.explore.mzr_state import MAX_SN, MzrState
from spectool.explore.mzr_tables import (
    color_key,
    galaxy_table,
    histogram_key,
    relation_key,
    statistics_table,
    swatch,
)
from spectool.explore.style import OKABE_ITO

SIDE_WIDTH = "330px"
CSS = f"""<style>
.mzr-side .widget-label {{ width: 92px; }}
.mzr-side .widget-readout {{ min-width: 30px; overflow: visible; }}
.mzr-side .jupyter-button, .mzr-main .jupyter-button {{ padding: 0 6px; }}
.mzr-side .widget-checkbox {{ height: 22px; margin: 0 5px 0 0; }}
.mzr-side .widget-checkbox label.widget-label-basic {{ font-size: 11px; line-height: 22px; width: auto; }}
.mzr-side .widget-checkbox input {{ margin: 0 4px 0 0; }}
.mzr-table table {{ font-size: 12px; line-height: 16px; border-collapse: collapse; width: 100%; }}
.mzr-table table + table {{ margin-top: 4px; }}
.mzr-table .widget-html-content {{ font-size: 12px; line-height: 17px; }}
.mzr-table td, .mzr-table th {{ padding: 0 4px; text-align: right; white-space: nowrap; }}
.mzr-table td:first-child, .mzr-table th:first-child {{ text-align: left; }}
.mzr-table th {{ white-space: normal; vertical-align: bottom; font-weight: 600; border-bottom: 1px solid #B0B0B0; }}
.mzr-table th:first-child {{ white-space: nowrap; }}
.mzr-small {{ font-size: 11px; line-height: 14px; color: #505050; white-space: normal; }}
.mzr-line .widget-html-content {{ font-size: 12px; line-height: 18px; overflow-wrap: anywhere; }}
.mzr-bar {{ display: inline-block; width: 90px; height: 10px; }}
.mzr-warning {{ color: {OKABE_ITO["vermillion"]}; }}
</style>"""


class MzrView:
    """The dashboard; a notebook shows it when it is the last line of a cell.

    Parameters
    ----------
    state : MzrState
    export_folder : str or pathlib.Path
        Where exported files go; made when the first is written.
    settle : float
        Seconds after the last move of a slider until correlations are computed.
    """

    def __init__(self, state, *, export_folder="exports", settle=0.25):
        self.state = state
        self.export_folder, self.settle, self._timer = Path(export_folder), settle, None
        self.figure = MzrFigure(state)
        self.spectrum = SpectrumFigure(state)
        self._make_controls()
        self._make_texts()
        self._link()
        self.widget = self._arrange()

    def _repr_mimebundle_(self, **options):
        """Show the dashboard, as it is now, below the cell."""
        self.figure.widget.refresh()
        self.spectrum.widget.refresh()
        return self.widget._repr_mimebundle_(**options)

    # ---- widgets

    def _make_controls(self):
        state, wide = self.state, W.Layout(width="auto")
        half = W.Layout(flex="1 1 0", width="auto", min_width="0")
        narrow = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        choices = state.choices
        self.left = W.Dropdown(
            options=choices("left"), value=state.left, layout=half, tooltip="sample of the left panel"
        )
        self.right = W.Dropdown(
            options=choices("right"), value=state.right, layout=half, tooltip="sample of the right panel"
        )
        self.overlaid = W.ToggleButton(
            value=state.overlaid,
            description="Overlay",
            tooltip="both samples in one panel",
            layout=W.Layout(width="auto", flex="0 0 auto"),
        )
        self.calibration = W.Dropdown(
            options=choices("calibration"), value=state.calibration, description="Metallicity", layout=wide
        )
        self.color = W.Dropdown(
            options=[(label, key) for key, label in COLORS.items()],
            value=state.color,
            description="Colour",
            layout=wide,
        )
        self.reference = W.Dropdown(
            options=choices("reference"), value=state.reference, description="Scatter about", layout=wide
        )
        self.min_sn = W.FloatSlider(
            value=state.min_sn,
            min=0,
            max=MAX_SN,
            step=0.5,
            description="Hα S/N above",
            readout_format=".1f",
            layout=wide,
        )
        self.dust_corrected = W.Checkbox(
            value=state.dust_corrected,
            description="correct for dust (Balmer decrement)",
            indent=False,
            layout=wide,
        )
        self.relations = {
            name: W.Checkbox(
                value=name in state.relations,
                description=relation_key(name, *relation_style(name)),
                description_allow_html=True,
                indent=False,
                layout=W.Layout(width="auto"),
            )
            for name in choices("relations")
        }
        self.reset = W.Button(description="Reset", layout=narrow)
        self.png = W.Button(description="PNG", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", layout=narrow, tooltip="save the galaxies")
        self.json = W.Button(description="State", layout=narrow, tooltip="save the choices")
        self.load = W.FileUpload(description="Load", accept=".json", icon="", multiple=False, layout=narrow)
        self.load.tooltip = "load saved choices"
        self.windows = W.ToggleButtons(options=list(WINDOWS), style={"button_width": "auto"})

    def _make_texts(self):
        self.message = W.HTML(layout=W.Layout(display="none"))
        self.statistics, self.galaxy = W.HTML(), W.HTML()
        self.key, self.spectrum_key = W.HTML(), W.HTML(layout=W.Layout(flex="1 1 auto"))
        for text in (self.message, self.key, self.spectrum_key):
            text.add_class("mzr-line")
        for text in (self.statistics, self.galaxy):
            text.add_class("mzr-table")
        self.statistics.add_class("mzr-statistics")
        self.galaxy.add_class("mzr-galaxy")

    def _arrange(self):
        relations = W.HBox(list(self.relations.values()), layout=W.Layout(flex_flow="row wrap"))
        side = W.VBox(
            [
                self.calibration,
                self.dust_corrected,
                self.min_sn,
                self.color,
                self.reference,
                relations,
                W.HBox([self.reset, self.png, self.csv, self.json, self.load]),
                self.message,
                self.statistics,
                self.galaxy,
            ],
            layout=W.Layout(flex=f"0 0 {SIDE_WIDTH}"),
        )
        side.add_class("mzr-side")
        for figure in (self.figure, self.spectrum):
            figure.widget.layout = W.Layout(width="100%")
        main = W.VBox(
            [
                W.HBox([self.left, self.right, self.overlaid]),
                self.key,
                self.figure.widget,
                W.HBox([self.windows, self.spectrum_key]),
                self.spectrum.widget,
            ],
            layout=W.Layout(flex="1 1 520px", min_width="0", padding="0 0 0 8px"),
        )
        main.add_class("mzr-main")
        return W.VBox([W.HTML(CSS), W.HBox([side, main], layout=W.Layout(width="100%"))])

    # ---- from the widgets to the state

    def _link(self):
        for name in (
            "left",
            "right",
            "overlaid",
            "calibration",
            "color",
            "reference",
            "min_sn",
            "dust_corrected",
        ):
            self._bind(getattr(self, name), name)
        for name, box in self.relations.items():
            box.observe(lambda change, name=name: self._choose_relation(name, change["new"]), "value")
        self.windows.observe(lambda change: self.spectrum.zoom(WINDOWS[change["new"]]), "value")
        self.reset.on_click(lambda _: self._reset())
        save = {"png": self._save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="mzr", save=save, load=load_state, tell=self._tell)
        state = self.state
        link(state, ["panels", "overlaid"], self._show_panels)
        link(state, ["relations"], self._show_relations)
        link(state, ["selected"], self.figure.show_mark)
        link(state, ["selected", "left", "right", "dust_corrected"], self._show_galaxy)
        link(state, ["spectrum", "spectrum_status", "left", "right"], self._show_spectrum)
        state.observe(lambda _: self._rebuild(), "selected")
        state.observe(lambda _: self._list_samples(), "sample_names")

    def _bind(self, widget, name):
        widget.observe(lambda change: self.state.set(**{name: change["new"]}), "value")

        def follow(change):
            widget.value = change["new"]

        self.state.observe(follow, name)

    def _choose_relation(self, name, chosen):
        others = set(self.state.relations) - {name}
        self.state.set(relations=others | {name} if chosen else others)

    def _reset(self):
        self.state.reset()
        self.figure.fit_axes()

    def _rebuild(self):
        # It takes a second or more, and the controls go on working meanwhile.
        threading.Thread(target=self.state.rebuild_spectrum, daemon=True).start()

    # ---- from the state to the widgets

    def _list_samples(self):
        state = self.state
        shown = {name: getattr(state, name) for name in ("left", "right")}
        for name in shown:
            getattr(self, name).options = state.choices(name)
        # A new list of options goes to the first of them by itself.
        state.set(**shown)

    def _show_panels(self):
        state = self.state
        with state.lock:
            self.figure.show_panels()
            self.statistics.value = statistics_table(state)
            if self.figure.overlaid:
                names = zip(SAMPLE_COLORS, state.panels, strict=True)
                key = " &nbsp; ".join(swatch(color, panel.name, "●") for color, panel in names)
            else:
                key = color_key(state)
            self.key.value = f"{key} &nbsp;│&nbsp; {histogram_key()}"
            self.overlaid.disabled = len(state.panels) < 2
            self._correlate_later()

    def _correlate_later(self):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self.settle, self.show_correlations)
        self._timer.daemon = True
        self._timer.start()

    def show_correlations(self):
        """Compute the correlations of what is shown, and print them unless it has changed meanwhile."""
        panels = self.state.panels
        correlations = self.state.correlate()
        with self.state.lock:
            if panels is self.state.panels:
                self.statistics.value = statistics_table(self.state, correlations)

    def _show_relations(self):
        for name, box in self.relations.items():
            box.value = name in self.state.relations
        self.figure.show_relations()

    def _show_galaxy(self):
        with self.state.lock:
            self.galaxy.value = galaxy_table(self.state)

    def _show_spectrum(self):
        with self.state.lock:
            self.spectrum.show()
            keys = [swatch(color, name) for name, color in self.spectrum.colors.items()]
            status = html.escape(self.state.spectrum_status)
            self.spectrum_key.value = " &nbsp; ".join(keys) or f'<span class="mzr-small">{status}</span>'

    def _tell(self, text, *, warning=False):
        report(self.message, text, css="mzr-warning" if warning else "")

    # ---- files

    def _save_png(self, state, path):
        save_png(state, path, window=self.figure.window)


def open_mzr_dashboard(samples=("scourfield2023",), *, rebuild=None, more=None):
    """Open the mass-metallicity dashboard.

    Parameters
    ----------
    samples : sequence of str
        Of which papers; see `spectool.explore.mzr_data.READERS`.
    rebuild : dict of str to callable, optional
        How to rebuild spectra, by paper; by default as the papers registered it.
    more : dict of str to xarray.Dataset, optional
        Samples of your own beside them, by name; see `spectool.explore.mzr_data.check_sample`.

    Returns
    -------
    MzrView
    """
    found = read_samples(*samples) | (more or {})
    return MzrView(MzrState(found, rebuild=REBUILDERS if rebuild is None else rebuild))
