"""The picture of the galaxy-map dashboard: map, radial profile, and the bands of one spectrum."""

import numpy as np
from bokeh.core.properties import value as literal
from bokeh.layouts import column, row
from bokeh.models import (
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    HoverTool,
    Label,
    Legend,
    LegendItem,
    LinearColorMapper,
    Range1d,
    ResetTool,
    Span,
    TapTool,
)
from bokeh.plotting import figure

from spectool.explore import ifu_data as data
from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.ifu_plots import BAND_COLOR, F_NU_LABEL, RADIUS_LABEL, absorption_marks
from spectool.explore.spectrum import WAVELENGTH_LABEL
from spectool.explore.style import MAP_PALETTE, MUTED, OBSERVED, OKABE_ITO, SIGNED_PALETTE

LABEL = {"axis_label_text_font_size": "12px", "major_label_text_font_size": "11px", "axis_label_standoff": 2}
SOURCE_COLOR = OKABE_ITO["blue"]
HEIGHT, SPECTRUM_HEIGHT, MAP_WIDTH = 285, 195, 400
MISSING = "#D8D8D8"


class IfuFigure:
    """Bokeh figures linked to an `IfuState`: each update sends only what changed, as one patch."""

    def __init__(self, state):
        self.state = state
        columns = ("xs", "ys", "index", "radius", "value", "reference", "error", "shown")
        self.source = ColumnDataSource({name: [] for name in columns}, name="spaxels")
        self.ring = ColumnDataSource({"xs": [], "ys": [], "radius": [], "value": []}, name="ring")
        self.ellipse = ColumnDataSource({"x": [], "y": []}, name="ellipse")
        self.lines = {
            part: ColumnDataSource({"radius": [], "mean": [], "low": [], "high": []}, name=f"line_{part}")
            for part in ("reference", "source")
        }
        self.spectrum = ColumnDataSource({"wavelength": [], "flux": []}, name="spectrum")
        bands = ("wavelength", "flux", "left", "right", "low", "high")
        self.bands = ColumnDataSource({name: [] for name in bands}, name="bands")
        self.mapper = LinearColorMapper(palette=MAP_PALETTE, low=0, high=1, nan_color=MISSING)
        self.map, self.profile, self.below = self._draw_map(), self._draw_profile(), self._draw_spectrum()
        top = row(self.map, self.profile, sizing_mode="stretch_width")
        self.widget = LiveBokeh(column(top, self.below, sizing_mode="stretch_width"))
        self._drawn_galaxy = None
        self.source.selected.on_change("indices", lambda attr, old, new: self._tapped(new))
        # The page reports how wide it drew the frame.
        self.below.on_change("inner_width", lambda attr, old, new: self._resized(new))
        self.show()
        self.show_spectrum()

    # ---- the panels

    def _panel(self, name, **options):
        plot = figure(
            name=name,
            tools="",
            toolbar_location=None,
            min_border_top=4,
            min_border_right=8,
            **options,
        )
        for option, value in LABEL.items():
            setattr(plot.axis, option, value)
        plot.title.text_font_size = "13px"
        return plot

    def _draw_map(self):
        plot = self._panel(
            "map", width=MAP_WIDTH, height=HEIGHT, match_aspect=True, title=" ", min_border_left=48
        )
        plot.xaxis.axis_label, plot.yaxis.axis_label = "x (arcsec); dashed: 1 Re", "y (arcsec)"
        look = {"fill_color": {"field": "shown", "transform": self.mapper}, "line_color": "white"}
        look |= {"line_width": 0.5, "line_alpha": 0.5, "fill_alpha": 1.0}
        same = {f"{part}_{k}": v for part in ("selection", "nonselection") for k, v in look.items()}
        cells = plot.patches("xs", "ys", source=self.source, **look, **same)
        dashed = {"line_color": "black", "line_dash": "dashed", "line_width": 1.5}
        plot.line("x", "y", source=self.ellipse, **dashed)
        for color, width in (("white", 5), ("black", 2.5)):
            plot.patches("xs", "ys", source=self.ring, fill_color=None, line_color=color, line_width=width)
        tips = [("", "@shown{0.00} dex at @radius{0.00} Re")]
        plot.add_tools(TapTool(renderers=[cells]), HoverTool(renderers=[cells], tooltips=tips))
        plot.grid.grid_line_color = None
        plot.add_layout(ColorBar(color_mapper=self.mapper, width=10, padding=4, margin=0), "right")
        return plot

    def _draw_profile(self):
        plot = self._panel(
            "profile",
            width=500,
            height=HEIGHT,
            x_range=Range1d(0, 2.5),
            y_range=Range1d(-1, 1),
            sizing_mode="stretch_width",
            min_border_left=58,
        )
        plot.xaxis.axis_label = RADIUS_LABEL
        span = Span(location=1, dimension="height", line_color=MUTED, line_dash="dotted", level="underlay")
        plot.add_layout(span)
        self.dots = []
        for name, color, marker in (("reference", MUTED, "x"), ("value", SOURCE_COLOR, "circle")):
            if marker == "x":
                look = {"line_color": color, "line_width": 1.4, "size": 6, "alpha": 0.8}
            else:
                look = {"color": color, "line_color": None, "size": 5, "alpha": 0.65}
            look |= {"source": self.source, "marker": marker, "nonselection_alpha": look["alpha"]}
            self.dots.append(plot.scatter("radius", name, **look))
        self.fits = {}
        for part, color in (("reference", "black"), ("source", SOURCE_COLOR)):
            source = self.lines[part]
            band = plot.varea("radius", "low", "high", source=source, color=color, alpha=0.2)
            mean = plot.line("radius", "mean", source=source, color=color, line_width=2.5)
            self.fits[part] = [band, mean]
        ring = {"line_color": "black", "fill_color": None, "line_width": 2, "size": 12}
        plot.scatter("radius", "value", source=self.ring, **ring)
        self.note = Label(x=10, y=8, x_units="screen", y_units="screen", text_color=MUTED)
        self.note.text_font_size = "12px"
        plot.add_layout(self.note)
        self.key = [LegendItem(label=" ", renderers=[dots]) for dots in self.dots]
        above = {"orientation": "horizontal", "location": "left", "label_text_font_style": "bold"}
        plot.add_layout(Legend(items=self.key, spacing=16, padding=0, margin=0, **above), "above")
        plot.add_tools(TapTool(renderers=self.dots), BoxZoomTool(), ResetTool())
        return plot

    def _draw_spectrum(self):
        at, _ = data.band_wavelengths(self.state.sample)
        window = float(at.min() - 120), float(at.max() + 120)
        plot = self._panel(
            "bands_panel",
            width=900,
            height=SPECTRUM_HEIGHT,
            x_range=Range1d(*window),
            y_range=Range1d(0, 1.5),
            sizing_mode="stretch_width",
            min_border_left=48,
        )
        plot.xaxis.axis_label, plot.yaxis.axis_label = WAVELENGTH_LABEL, F_NU_LABEL
        self.marks = absorption_marks(plot, window, 830)
        plot.line("wavelength", "flux", source=self.spectrum, color=OBSERVED, line_width=1)
        flat = {"source": self.bands, "line_color": BAND_COLOR}
        plot.segment("left", "flux", "right", "flux", line_width=1.5, line_alpha=0.7, **flat)
        plot.segment("wavelength", "low", "wavelength", "high", line_width=1.5, **flat)
        plot.scatter("wavelength", "flux", source=self.bands, size=6, color=BAND_COLOR)
        self.empty = Label(x=60, y=10, x_units="screen", y_units="screen", text_color=MUTED)
        self.empty.text_font_size = "12px"
        plot.add_layout(self.empty)
        zoom = BoxZoomTool(dimensions="width")
        plot.add_tools(zoom, ResetTool())
        plot.toolbar.active_drag = zoom
        return plot

    # ---- from the page

    def _tapped(self, indices):
        # jupyter_bokeh reports a tap twice, and what the kernel set itself.
        with self.state.lock:
            if len(indices) and self.state.index[indices[-1]] != self.state.spectrum:
                self.state.select(int(self.state.index[indices[-1]]))

    def _resized(self, width):
        with self.state.lock, self.widget.batch():
            self.marks.update(width=width)

    # ---- what changed

    def show(self):
        """Draw the galaxy's map, its profile and the fitted gradients."""
        state = self.state
        with state.lock, self.widget.batch():
            moved = self._drawn_galaxy != state.galaxy
            columns = {name: state.points[name] for name in ("value", "reference", "error", "shown")}
            if moved:
                self._move_to_galaxy(columns)
            else:
                for name, values in columns.items():
                    if not np.array_equal(self.source.data[name], values, equal_nan=True):
                        self.source.data[name] = values
            self._color_map()
            self._show_fits()
            self._show_ring()
            self._fit_axes()

    def _move_to_galaxy(self, columns):
        state = self.state
        x, y = (state.points[name] for name in ("x", "y"))
        outlines = data.cell_outlines(x, y)
        xs, ys = ([outline[k].astype(np.float32) for outline in outlines] for k in (0, 1))
        columns |= {"radius": state.points["radius"], "index": state.index.astype(np.int32)}
        self.source.data = {"xs": xs, "ys": ys, **columns}
        ellipse = data.radius_ellipse(x, y, state.points["radius"])
        self.ellipse.data = dict(zip(("x", "y"), (v.astype(np.float32) for v in ellipse), strict=True))
        self._drawn_galaxy = state.galaxy

    def _color_map(self):
        state = self.state
        palette = SIGNED_PALETTE if state.view == "difference" else MAP_PALETTE
        self.mapper.update(low=state.limits[0], high=state.limits[1])
        if self.mapper.palette != list(palette):
            self.mapper.palette = list(palette)
        self.map.title.text = data.describe_map(state)

    def _show_fits(self):
        state = self.state
        same = state.source == state.reference
        reach = np.array([0.0, 1.0])
        for part, name in (("reference", state.reference), ("source", state.source)):
            gradient = state.gradients[name]
            low, mean, high = gradient.line(reach)
            columns = {"radius": reach, "mean": mean, "low": low, "high": high}
            self.lines[part].data = {k: np.asarray(v, dtype=np.float32) for k, v in columns.items()}
            for renderer in self.fits[part]:
                renderer.visible = gradient.known and not (same and part == "source")
        self.dots[0].visible = not same
        for item, name in zip(self.key, (state.reference, state.source), strict=True):
            item.label = literal(f"{name} {state.gradients[name].text()}")
        self.key[0].visible = not same
        self.profile.yaxis.axis_label = data.QUANTITIES[state.quantity]
        reason = state.gradients[state.source].reason
        self.note.text = f"no gradient: {reason}" if reason else ""

    def _fit_axes(self):
        points = self.state.points
        both = np.concatenate([points["value"], points["reference"]])
        both = both[np.isfinite(both)]
        if both.size:
            low, high = (float(v) for v in np.quantile(both, [0.002, 0.998]))
            margin = 0.08 * max(high - low, 0.05)
            self._set_range(self.profile.y_range, low - margin, high + margin)
        radius = points["radius"][np.isfinite(points["radius"])]
        self._set_range(self.profile.x_range, -0.05, 1.04 * max(float(radius.max(initial=0.0)), 1.1))

    @staticmethod
    def _set_range(axis, start, end):
        axis.update(start=start, end=end, reset_start=start, reset_end=end)

    def _show_ring(self):
        state = self.state
        at = np.flatnonzero(state.index == state.spectrum)
        cells = self.source.data
        self.ring.data = {
            "xs": [cells["xs"][k] for k in at],
            "ys": [cells["ys"][k] for k in at],
            "radius": state.points["radius"][at],
            "value": state.points["value"][at],
        }
        # A tap on what the page believes to be selected already would not reach the kernel.
        if self.source.selected.indices != at.tolist():
            self.source.selected.indices = at.tolist()

    def show_spectrum(self):
        """Draw the bands and the spectrum that are looked at."""
        state = self.state
        with state.lock, self.widget.batch():
            if self._drawn_galaxy != state.galaxy:
                self.show()  # observers of the spectrum may be told before those of the galaxy
            self._show_ring()
            drawn = state.photometry()
            good = np.isfinite(drawn["band_flux"])
            names = ("wavelength", "width", "flux", "error")
            at, width, flux, error = (drawn[f"band_{name}"][good] for name in names)
            columns = {"wavelength": at, "flux": flux, "low": flux - error, "high": flux + error}
            columns |= {"left": at - width / 2, "right": at + width / 2}
            self.bands.data = {name: values.astype(np.float32) for name, values in columns.items()}
            line = {name: drawn[name].astype(np.float32) for name in ("wavelength", "flux")}
            self.spectrum.data = line
            missing = int((~good).sum())
            self.empty.text = f"{missing} band{'s' * (missing > 1)} missing" if missing else ""
            self._fit_flux(flux, line)

    def _fit_flux(self, flux, line):
        axis = self.below.x_range
        inside = (line["wavelength"] >= axis.start) & (line["wavelength"] <= axis.end)
        values = np.concatenate([flux, line["flux"][inside]])
        values = values[np.isfinite(values)]
        if values.size:
            low, high = (float(v) for v in np.quantile(values, [0.001, 0.999]))
            margin = max(high - low, 0.05)
            self._set_range(self.below.y_range, low - 0.08 * margin, high + 0.4 * margin)
