"""The picture of the line-flux dashboard: all panels in one Bokeh grid, linked to a `LineState`."""

import numpy as np
from bokeh.layouts import group_tools
from bokeh.models import (
    BoxSelectTool,
    GridPlot,
    LassoSelectTool,
    PanTool,
    ResetTool,
    TapTool,
    Toolbar,
    WheelZoomTool,
)

from spectool.explore import line_panels as panels
from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.line_spectrum import CURVES, SpectrumPanels

SHARED_TOOLS = (BoxSelectTool, LassoSelectTool, TapTool, PanTool, WheelZoomTool, ResetTool)
# Row, column, and how many of either a panel spans, of twelve columns.
PLACES = {
    "flux": (0, 0, 1, 4),
    "residual": (1, 0, 1, 4),
    "bpt": (0, 4, 2, 4),
    "mzr": (0, 8, 2, 4),
    "latent": (2, 0, 1, 4),
    "whole": (2, 4, 1, 5),
    "near": (2, 9, 1, 3),
}
FITTED = {
    "flux": ("line", "quantity", "kind", "size", "classes", "sn_range"),
    "bpt": ("diagrams", "classes"),
    "latent": ("kind", "size", "axes", "classes"),
}


class LineFigure:
    """Bokeh figures linked to a `LineState`: each update sends only what changed, as one patch."""

    def __init__(self, state, wavelength):
        self.state = state
        self.sources = panels.empty_sources(state)
        self.points = self.sources["points"]
        self.scatter = {}
        for panel in panels.PANELS:
            shared = self.scatter["flux"].plot.x_range if panel.name == "residual" else None
            self.scatter[panel.name] = panels.ScatterPanel(panel, self.sources, x_range=shared)
        self.spectrum = SpectrumPanels(wavelength, height=self.scatter["latent"].plot.height)
        self._decorate()
        grid = self._arrange()
        self.widget = LiveBokeh(grid)
        grid.toolbar.autohide = False  # against the theme, which is there only now
        self.points.selected.on_change("indices", lambda attr, old, new: self._brushed(new))
        self._fitted = None
        self._axes = {}
        for panel in self.scatter.values():
            self._axes |= {panel.panel.x: panel.plot.x_range, panel.panel.y: panel.plot.y_range}
        for axis in set(self._axes.values()):
            axis.on_change("start", self._zoomed)
            axis.on_change("end", self._zoomed)
        self.show_points()
        self.show_brushed()
        self.show_live()

    def _plots(self):
        return {
            **{name: panel.plot for name, panel in self.scatter.items()},
            "whole": self.spectrum.whole,
            "near": self.spectrum.near,
        }

    def _decorate(self):
        flux, residual = self.scatter["flux"].plot, self.scatter["residual"].plot
        panels.draw_identity(flux)
        panels.draw_zero(residual)
        panels.draw_percentiles(flux, self.sources["bins"])
        panels.draw_percentiles(residual, self.sources["bins"], residual=True)
        flux.xaxis.visible = False
        residual.yaxis.ticker.desired_num_ticks = 3
        panels.draw_bpt_curves(self.scatter["bpt"].plot)

    def _arrange(self):
        plots = self._plots()
        shared = [
            tool for plot in plots.values() for tool in plot.toolbar.tools if isinstance(tool, SHARED_TOOLS)
        ]
        toolbar = Toolbar(tools=group_tools(shared), logo=None)
        # The spectra keep their own tool for dragging: it zooms.
        box = self.scatter["flux"].tools[0]
        toolbar.active_drag = next(tool for tool in toolbar.tools if box in tool.tools)
        for plot in plots.values():
            plot.sizing_mode = "stretch_width"
        return GridPlot(
            children=[(plots[name], *place) for name, place in PLACES.items()],
            toolbar=toolbar,
            toolbar_location="right",
            sizing_mode="stretch_width",
            cols="minmax(0, 1fr)",
        )

    # ---- from the page

    def _brushed(self, indices):
        # jupyter_bokeh reports a brush twice, and what the kernel set itself.
        if not np.array_equal(np.sort(np.asarray(indices, dtype=int)), self.state.brushed):
            self.state.brush(indices)

    def _zoomed(self, attr, old, new):
        with self.state.lock, self.widget.batch():
            self._show_stars()

    # ---- what changed

    def show_points(self):
        """Draw all galaxies, the percentiles and, where another quantity is drawn, other axes."""
        state = self.state
        with state.lock, self.widget.batch():
            for name, values in state.points.items():
                if not np.array_equal(self.points.data[name], values, equal_nan=True):
                    self.points.data[name] = values
            self.sources["bins"].data = panels.percentile_columns(state.bins)
            what = "peak (norm.)" if state.quantity == "peak" else "flux (norm. Å)"
            self.scatter["residual"].plot.xaxis.axis_label = f"log original {state.line} {what}"
            latent = self.scatter["latent"].plot
            latent.xaxis.axis_label, latent.yaxis.axis_label = (f"{state.source}: z{k}" for k in state.axes)
            self.spectrum.look_at(state.line)
            self._fit_axes()

    def _fit_axes(self):
        state = self.state
        now = {name: tuple(getattr(state, trait) for trait in traits) for name, traits in FITTED.items()}
        before, self._fitted = self._fitted or {}, now
        followers = {"flux": ("flux", "residual"), "bpt": ("bpt", "mzr"), "latent": ("latent",)}
        for name, traits in now.items():
            if traits != before.get(name):
                for panel in followers[name]:
                    self.scatter[panel].fit(state.points)

    def show_brushed(self):
        """Mark the brushed galaxies, where the page has not done so itself."""
        with self.state.lock, self.widget.batch():
            indices = self.state.brushed.tolist()
            if sorted(self.points.selected.indices) != indices:
                self.points.selected.indices = indices

    def show_live(self, *, refit=False):
        """Draw where brushed galaxies lie with the present noise, and the spectrum of the one that is shown."""
        with self.state.lock, self.widget.batch():
            self._show_stars()
            self._show_spectrum(refit)

    def _show_stars(self):
        state = self.state
        at, now = state.live_index, state.live
        columns = {name: [] for name in self.sources["live"].data}
        if now:
            error = np.nan_to_num(now["original_error"])
            columns = {
                **{name: self._within(name, now[name]) for name in self._axes},
                **{f"from_{name}": self._within(name, state.points[name][at]) for name in self._axes},
                "original_low": self._within("original", now["original"] - error),
                "original_high": self._within("original", now["original"] + error),
            }
        drawn = self.sources["live"].data
        if not all(np.array_equal(drawn[name], columns[name], equal_nan=True) for name in columns):
            self.sources["live"].data = columns
        self._show_ring()

    def _show_ring(self):
        state = self.state
        one = np.flatnonzero(state.live_index == state.shown)
        now = state.live or {name: state.points[name][state.live_index] for name in self._axes}
        columns = {name: self._within(name, now[name][one]) for name in self._axes}
        drawn = self.sources["ring"].data
        if not all(np.array_equal(drawn[name], columns[name], equal_nan=True) for name in columns):
            self.sources["ring"].data = columns

    def _within(self, column, values):
        """Move what lies outside a panel's frame to its edge: Bokeh's overlays are not cut off there."""
        axis = self._axes[column]
        low, high = sorted((axis.start, axis.end))
        return np.clip(values, low, high).astype(np.float32)

    def _show_spectrum(self, refit):
        state = self.state
        at = np.flatnonzero(state.live_index == state.shown)
        spectra = {}
        if state.spectra is not None and at.size:
            one = state.spectra.isel(galaxy=int(at[0]))
            spectra = {name: one[name].values for name in CURVES}
        self.spectrum.draw(spectra, refit=refit)
