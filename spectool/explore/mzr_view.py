"""The mass-metallicity dashboard: ipywidgets and Bokeh figures that are linked to a `MzrState`, and no more."""

import html
import threading
from pathlib import Path

import ipywidgets as W

from spectool.explore.bokeh_widget import link
from spectool.explore.exports import connect_files, report
from spectool.explore.mzr_controls import MzrControls
from spectool.explore.mzr_data import REBUILDERS, read_samples
from spectool.explore.mzr_figure import SAMPLE_COLORS, MzrFigure
from spectool.explore.mzr_files import load_state, save_csv, save_state
from spectool.explore.mzr_png import save_png
from spectool.explore.mzr_spectrum import WINDOWS, SpectrumFigure
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_tables import (
    color_key,
    galaxy_table,
    histogram_key,
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
    """The dashboard; a notebook shows it when it is the last line of a cell."""

    def __init__(self, state, *, export_folder="exports", settle=0.25):
        self.state = state
        self.export_folder, self.settle, self._timer = Path(export_folder), settle, None
        self.figure = MzrFigure(state)
        self.spectrum = SpectrumFigure(state)
        self.controls = MzrControls(state)
        self._make_buttons()
        self._make_texts()
        self._link()
        self.widget = self._arrange()

    def _repr_mimebundle_(self, **options):
        """Show the dashboard, as it is now, below the cell."""
        self.figure.widget.refresh()
        self.spectrum.widget.refresh()
        return self.widget._repr_mimebundle_(**options)

    # ---- widgets

    def _make_buttons(self):
        narrow = W.Layout(width="auto", flex="1 1 auto", min_width="0")
        self.reset = W.Button(description="Reset", layout=narrow)
        self.png = W.Button(description="PNG", layout=narrow, tooltip="save the figure")
        self.csv = W.Button(description="CSV", layout=narrow, tooltip="save the galaxies")
        self.json = W.Button(description="State", layout=narrow, tooltip="save the choices")
        self.load = W.FileUpload(description="Load", accept=".json", icon="", multiple=False, layout=narrow)
        self.load.tooltip = "load saved choices"
        self.windows = W.ToggleButtons(style={"button_width": "auto"})

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
        controls = self.controls
        relations = W.HBox(list(controls.relations.values()), layout=W.Layout(flex_flow="row wrap"))
        side = W.VBox(
            [
                controls.calibration,
                controls.dust_corrected,
                controls.min_sn,
                controls.color,
                controls.reference,
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
                W.HBox([controls.quantity, controls.left, controls.right, controls.overlaid]),
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
        self.windows.observe(lambda change: self._zoom(change["new"]), "value")
        self.reset.on_click(lambda _: self._reset())
        save = {"png": self._save_png, "csv": save_csv, "json": save_state}
        connect_files(self, prefix="mzr", save=save, load=load_state, tell=self.tell)
        state = self.state
        link(state, ["quantity"], self._show_windows)
        link(state, ["panels", "overlaid"], self._show_panels)
        link(state, ["relations"], self.figure.show_relations)
        link(state, ["selected"], self.figure.show_mark)
        link(state, ["selected", "quantity", "left", "right", "dust_corrected"], self._show_galaxy)
        link(state, ["spectrum", "spectrum_status", "quantity", "left", "right"], self._show_spectrum)
        state.observe(lambda _: self._rebuild(), "selected")

    def _zoom(self, window):
        if window is not None:
            self.spectrum.zoom(WINDOWS[self.state.quantity][window])

    def _reset(self):
        self.state.reset()
        self.figure.fit_axes()

    def _rebuild(self):
        # It takes a second or more, and the controls go on working meanwhile.
        threading.Thread(target=self.state.rebuild_spectrum, daemon=True).start()

    # ---- from the state to the widgets

    def _show_windows(self):
        # The figure first: a zoom beyond its old bounds would be cut back to them in the page.
        self.spectrum.show()
        self.windows.options = list(WINDOWS[self.state.quantity])

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
            self.controls.overlaid.disabled = len(state.panels) < 2
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

    def _show_galaxy(self):
        with self.state.lock:
            self.galaxy.value = galaxy_table(self.state)

    def _show_spectrum(self):
        with self.state.lock:
            self.spectrum.show()
            keys = [swatch(color, name) for name, color in self.spectrum.colors.items()]
            status = html.escape(self.state.spectrum_status)
            self.spectrum_key.value = " &nbsp; ".join(keys) or f'<span class="mzr-small">{status}</span>'

    def tell(self, text, *, warning=False):
        """Say something below the controls."""
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
        What is said about samples whose file is not there stands in it; they are left out.

    Raises
    ------
    FileNotFoundError
        If none is there.
    """
    missing = []
    found = read_samples(*samples, missing=missing) | (more or {})
    if missing and not found:
        raise FileNotFoundError("; ".join(missing))
    view = MzrView(MzrState(found, rebuild=REBUILDERS if rebuild is None else rebuild))
    if missing:
        view.tell(html.escape("; ".join(missing)))
    return view
