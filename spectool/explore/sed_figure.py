"""The picture of the dashboard of fluxes: a galaxy in its bands with the library's nearest models, and the answers."""

import numpy as np
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearScale,
    NumeralTickFormatter,
    Range1d,
    TapTool,
)
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.style import MUTED, OKABE_ITO
from spectool.measure.sedfit import PROPERTIES

WIDTH = 640  # before the page stretches it
HEIGHT, ANSWER_HEIGHT = 330, 215
LEFT_BORDER = 72  # the same for both panels, so that their frames line up
X_TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
LIMIT_SIGMA = 2.0
"""Fluxes below 1 sigma are drawn as limits of this many."""
OBSERVED, CHANGED = "black", OKABE_ITO["vermillion"]
BEST, NEAREST = OKABE_ITO["orange"], "#D8B46A"
SOURCES = {
    "networks": ("networks", OKABE_ITO["blue"], "circle"),
    "library": ("library", OKABE_ITO["orange"], "square"),
    "teacher": ("teacher", OKABE_ITO["bluish_green"], "diamond"),
    "truth": ("truth", "black", "x"),
}
"""What the lower panel compares: name, colour and marker."""
SHORT = {"log_mass": "log M*", "log_sfr": "log SFR", "log_dust_luminosity": "log L dust"}
ABOVE = {"networks": 0.24, "library": 0.08, "teacher": -0.08, "truth": -0.24}
"""Where each stands, above the middle of a property's row."""


def band_table(state):
    """What is drawn of each band, as columns of equal length."""
    answer = state.answer
    faint = state.measured & ~(answer.flux >= answer.error)
    y = np.where(faint, np.maximum(answer.flux, 0) + LIMIT_SIGMA * answer.error, answer.flux)
    if answer.nearest is not None:
        y = np.where(state.measured, y, answer.nearest["model_flux"].values[0])
    kind = np.where(answer.missing, "missing", np.where(faint, "limit", "flux"))
    bar = (kind == "flux")[:, None]
    ends = np.stack([np.maximum(y - answer.error, 0.05 * y), y + answer.error], axis=1)
    low, high = np.where(bar, ends, np.nan).T
    moved = state.measured & ((state.shifts != 0) | state.mistaken) & (state.original.flux > 0)
    return {
        "band": np.array(state.bands),
        "wavelength": state.wavelength,
        "y": y,
        "low": low,
        "high": high,
        "kind": kind,
        "flux": answer.flux,
        "error": answer.error,
        "before": np.where(moved, state.original.flux, np.nan),
    }


def compare_answers(state):
    """Answers by source and property: value, low and high [dex], NaN for what is not known."""
    unknown = (np.nan, np.nan, np.nan)
    networks = {name: (v, v - e, v + e) for name, (v, e) in state.answer.predicted.items()}
    found = {
        "networks": networks,
        "library": state.answer.fitted,
        "teacher": state.labels,
        "truth": state.truth,
    }
    return {
        source: {name: values.get(name, unknown) for name in PROPERTIES} for source, values in found.items()
    }


class SedFigure:
    """Bokeh figures linked to a `SedState`: each update sends what changed, as one patch."""

    def __init__(self, state):
        self.state = state
        self.points = ColumnDataSource(name="points")
        self.models = ColumnDataSource(name="models")
        self.best = ColumnDataSource(name="best")
        self.names = ColumnDataSource(name="bands")
        self.answers = {source: ColumnDataSource(name=source) for source in SOURCES}
        self._by_wavelength = np.argsort(state.wavelength)
        self.photometry, self.comparison = self._draw_photometry(), self._draw_comparison()
        self.panels = [self.photometry, self.comparison]
        self.widget = LiveBokeh(column(self.panels, sizing_mode="stretch_width", spacing=0))
        self.points.selected.on_change("indices", self._tapped)
        self.show_galaxy()

    # ---- panels

    def _draw_photometry(self):
        wavelength = self.state.wavelength
        plot = figure(
            name="photometry",
            width=WIDTH,
            height=HEIGHT,
            sizing_mode="stretch_width",
            x_axis_type="log",
            y_axis_type="log",
            x_range=Range1d(0.75 * wavelength.min(), 1.35 * wavelength.max()),
            y_range=Range1d(1e-6, 1),
            tools="pan,wheel_zoom,box_zoom,reset",
            active_scroll=None,
            x_axis_label="observed wavelength (µm)",
            y_axis_label="flux density (Jy)",
            min_border_left=LEFT_BORDER,
        )
        plot.xaxis.ticker = FixedTicker(ticks=X_TICKS)
        plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]")
        plot.extra_y_ranges, plot.extra_y_scales = {"frame": Range1d(0, 1)}, {"frame": LinearScale()}
        plot.multi_line("xs", "ys", source=self.models, color=NEAREST, line_width=1)
        plot.line("wavelength", "flux", source=self.best, color=BEST, line_width=2.6)
        plot.scatter("wavelength", "before", source=self.points, marker="x", size=8, color="#909090")
        plot.segment(
            "wavelength", "low", "wavelength", "high", source=self.points, color="color", line_width=1.4
        )
        drawn = plot.scatter(
            "wavelength",
            "y",
            source=self.points,
            marker="marker",
            size="size",
            fill_color="fill",
            line_color="color",
            line_width=1.4,
            nonselection_fill_alpha=1,
            nonselection_line_alpha=1,
        )
        self._draw_names(plot)
        tips = [
            ("", "@band, @wavelength{0.000} µm"),
            ("flux", "@flux{0.00e} ± @error{0.00e} Jy"),
            ("", "@kind"),
        ]
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips), TapTool(renderers=[drawn]))
        return plot

    def _draw_names(self, plot):
        plot.text(
            "wavelength",
            "y",
            "band",
            source=self.names,
            text_color="color",
            text_font_style="style",
            text_font_size="11px",
            text_align="center",
            text_baseline="top",
            y_range_name="frame",
        )

    def _draw_comparison(self):
        n = len(PROPERTIES)
        plot = figure(
            name="comparison",
            width=WIDTH,
            height=ANSWER_HEIGHT,
            sizing_mode="stretch_width",
            x_range=Range1d(-0.5, 0.5),
            y_range=Range1d(n - 0.5, -0.5),
            tools="",
            toolbar_location=None,
            x_axis_label="dex from the networks’ answer to the galaxy as observed",
            min_border_left=LEFT_BORDER,
        )
        plot.yaxis.ticker = FixedTicker(ticks=list(range(n)))
        plot.yaxis.major_label_overrides = dict(enumerate(SHORT.values()))
        plot.ygrid.visible = False
        plot.segment(0, -0.5, 0, n - 0.5, color=MUTED, line_dash=[4, 4])
        for name, (_, color, marker) in SOURCES.items():
            source = self.answers[name]
            plot.segment("low", "row", "high", "row", source=source, color=color, line_width=2.2)
            plot.scatter("value", "row", source=source, marker=marker, size=10, color=color, line_width=2)
        return plot

    # ---- what changed

    def show_galaxy(self):
        """Draw another galaxy, and fit the axes."""
        self.show(refit=True)

    def show(self, *, refit=False):
        """Draw the answer as it is now."""
        with self.state.lock, self.widget.batch():
            table = band_table(self.state)
            self._show_points(table)
            self._show_models()
            self._show_answers(refit)
            self._fit_flux(table, refit)

    def show_band(self):
        """Mark the selected band."""
        with self.state.lock, self.widget.batch():
            self._show_points(band_table(self.state))

    def _show_points(self, table):
        state = self.state
        selected = np.array(state.bands) == state.band
        color = np.where(selected, CHANGED, np.where(table["kind"] == "missing", "#909090", OBSERVED))
        self.points.data = {name: _small(values) for name, values in table.items()} | {
            "color": color,
            "fill": np.where(table["kind"] == "missing", "white", color),
            "marker": np.where(table["kind"] == "limit", "inverted_triangle", "circle"),
            "size": np.where(selected, 10, 7).astype("f4"),
        }
        order = self._by_wavelength
        self.names.data = {
            "wavelength": state.wavelength[order].astype("f4"),
            "band": table["band"][order],
            # Neighbours stand on two lines: their names would touch.
            "y": (0.985 - 0.055 * (np.arange(order.size) % 2)).astype("f4"),
            "color": np.where(color == OBSERVED, MUTED, color)[order],
            "style": np.where(selected, "bold", "normal")[order],
        }

    def _show_models(self):
        nearest, order = self.state.answer.nearest, self._by_wavelength
        wavelength = self.state.wavelength[order].astype("f4")
        flux = np.empty((0, order.size), "f4")
        if nearest is not None:
            flux = np.maximum(nearest["model_flux"].values[:, order], 1e-12).astype("f4")
        self.models.data = {"xs": [wavelength] * len(flux[1:]), "ys": list(flux[1:])}
        self.best.data = {"wavelength": wavelength if len(flux) else [], "flux": flux[0] if len(flux) else []}

    def _show_answers(self, refit):
        origin = np.array([self.state.original.predicted[name][0] for name in PROPERTIES])
        reach = [0.3]
        for source, values in compare_answers(self.state).items():
            away = np.array([values[name] for name in PROPERTIES]) - origin[:, None]
            away[~np.isfinite(away)] = np.nan  # no star formation, no dust: log of 0
            columns = dict(zip(("value", "low", "high"), away.T.astype("f4"), strict=True))
            self.answers[source].data = columns | {"row": (np.arange(len(away)) - ABOVE[source]).astype("f4")}
            reach.append(np.nanmax(np.abs(away), initial=0.0))
        reach = 1.08 * max(reach)
        x_range = self.comparison.x_range
        if refit or not 0.4 * x_range.end < reach <= x_range.end:
            x_range.update(start=-reach, end=reach)

    def _fit_flux(self, table, refit):
        best = self.best.data["flux"]
        values = np.concatenate([table["y"], table["low"], table["high"], table["before"], best])
        values = values[np.isfinite(values) & (values > 0)]
        if not values.size:
            return
        low, high = values.min() / 2, values.max() * 2
        high *= (high / low) ** 0.13  # room for the names of bands
        y_range = self.photometry.y_range
        inside = y_range.start <= 1.3 * low and high <= 1.3 * y_range.end
        if refit or not inside or (high / low) ** 1.6 < y_range.end / y_range.start:
            y_range.update(start=float(low), end=float(high))

    def _tapped(self, attr, old, new):
        if new:
            self.state.select_band(self.state.bands[new[0]])
            # The mark of a selection is ours; the next click is to count as one again.
            self.points.selected.indices = []


def _small(values):
    return values.astype("f4") if values.dtype.kind == "f" else values
