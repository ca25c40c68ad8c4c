"""The picture of the mass-metallicity dashboard: one or two panels, and the mass histograms below them."""

import numpy as np
from bokeh.events import DoubleTap, Tap
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Range1d, WheelZoomTool
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.mzr_layer import SampleLayer, send
from spectool.explore.mzr_quantities import QUANTITIES
from spectool.explore.style import OKABE_ITO

WIDTH, HEIGHT, HISTOGRAM_HEIGHT = 320, 276, 92  # the width before the page stretches it
MASS_LABEL = "log M* / M☉"
LEFT_BORDERS = (62, 40)
TAP_PIXELS = 14
SAMPLE_COLORS = (OKABE_ITO["blue"], OKABE_ITO["vermillion"])
# Colours that neither the median nor a sample laid over another has.
LINES = (
    (OKABE_ITO["reddish_purple"], "solid"),
    (OKABE_ITO["bluish_green"], "dashed"),
    (OKABE_ITO["orange"], "dotted"),
    (OKABE_ITO["sky_blue"], "dashdot"),
    ("#606060", "dotdash"),
)
RELATIONS = {name: relation for kind in QUANTITIES.values() for name, relation in kind.relations.items()}


def relation_style(name):
    """Colour and dash of a published relation, the same in every panel."""
    siblings = next(list(kind.relations) for kind in QUANTITIES.values() if name in kind.relations)
    return LINES[siblings.index(name) % len(LINES)]


def fit_range(values, *, margin, at_least):
    """Return a range that holds all but the outermost values."""
    values = values[np.isfinite(values)]
    if values.size < 3:
        return at_least
    low, high = np.quantile(values, [0.004, 0.996])
    space = margin * max(high - low, 0.1)
    return float(low - space), float(high + space)


def find_window(panels, metallicities):
    """Masses and metallicities that show all galaxies but the outermost ones."""
    values = np.concatenate([panel.metallicity for panel in panels])
    edges = panels[0].edges
    return float(edges[0]), float(edges[-1]), *fit_range(values, margin=0.12, at_least=metallicities)


class MzrFigure:
    """Bokeh figures linked to a `MzrState`: an update sends only what changed, as one patch."""

    def __init__(self, state):
        self.state = state
        self._axes = self._window = None
        self._frame = [WIDTH - 100, HEIGHT - 10]  # until the page says how large it drew it
        self.x_range, self.y_range = Range1d(8, 12), Range1d(8, 9.2)
        self.layers = [SampleLayer(0), SampleLayer(1)]
        self.curves = {name: self._curve(name) for name in RELATIONS}
        self._lines = {name: [] for name in RELATIONS}
        self.plots = [self._draw_plot(side) for side in (0, 1)]
        self.histograms = [self._draw_histogram(side) for side in (0, 1)]
        self._over = self._draw_over()
        self.sides = [
            column(*pair, sizing_mode="stretch_width", spacing=0)
            for pair in zip(self.plots, self.histograms, strict=True)
        ]
        self.widget = LiveBokeh(row(self.sides, sizing_mode="stretch_width", spacing=2))
        self.plots[0].on_change("inner_width", self._resized)
        self.plots[0].on_change("inner_height", self._resized)
        for bound in ("start", "end"):
            self.x_range.on_change(bound, self._zoomed)
            self.y_range.on_change(bound, self._zoomed)
        self.show_panels()
        self.show_relations()

    # ---- the empty figure

    @staticmethod
    def _curve(name):
        mass = np.linspace(7.5, 12.0, 181)
        metallicity = np.asarray(RELATIONS[name](mass), dtype=np.float32)
        return ColumnDataSource({"x": mass.astype(np.float32), "y": metallicity})

    def _draw_plot(self, side):
        plot = figure(
            name=f"panel{side}",
            width=WIDTH,
            height=HEIGHT,
            x_range=self.x_range,
            y_range=self.y_range,
            tools="box_zoom",
            # No toolbar: beside the frame it takes a sixth of its width, in it it covers galaxies.
            toolbar_location=None,
            sizing_mode="stretch_width",
            min_border_left=LEFT_BORDERS[side],
        )
        # Without the key, a page that is scrolled would zoom what passes below the pointer.
        plot.add_tools(WheelZoomTool(modifiers="ctrl"))
        plot.xaxis.visible = False
        plot.grid.level = "image"  # the lowest: below the galaxies
        plot.on_event(Tap, lambda event: self.pick(side, event.x, event.y))
        plot.on_event(DoubleTap, lambda event: self.fit_axes())
        self.layers[side].draw_galaxies(plot)
        for name in RELATIONS:
            self._draw_relation(plot, name)
        self.layers[side].draw_median(plot)
        self.layers[side].draw_mark(plot)
        return plot

    def _draw_relation(self, plot, name):
        color, dash = relation_style(name)
        halo = plot.line("x", "y", source=self.curves[name], line_width=5, color="white", alpha=0.8)
        line = plot.line("x", "y", source=self.curves[name], line_width=2.4, color=color, line_dash=dash)
        self._lines[name] += [halo, line]

    def _draw_histogram(self, side):
        plot = figure(
            width=WIDTH,
            height=HISTOGRAM_HEIGHT,
            x_range=self.x_range,
            tools="",
            toolbar_location=None,
            sizing_mode="stretch_width",
            min_border_left=LEFT_BORDERS[side],
            x_axis_label=MASS_LABEL,
            y_axis_label="galaxies" if side == 0 else None,
        )
        plot.yaxis.axis_label_text_font_size = "12px"
        plot.y_range.start = 0
        plot.yaxis.ticker.desired_num_ticks = 3
        self.layers[side].draw_bars(plot)
        return plot

    def _draw_over(self):
        """The second sample in the first panel, for when both are laid over each other."""
        plot, second = self.plots[0], self.layers[1]
        over = second.draw_galaxies(plot) + second.draw_median(plot) + second.draw_mark(plot)
        return over + second.draw_outline(self.histograms[0], SAMPLE_COLORS[1])

    # ---- what changed

    @property
    def overlaid(self):
        """Whether two samples share the first panel."""
        return self.state.overlaid and len(self.state.panels) == 2

    def show_panels(self):
        """Draw the samples, and fit the axes if they are others or on another scale."""
        state = self.state
        with state.lock, self.widget.batch():
            self._arrange()
            low, high = state.color_range
            for layer, panel in zip(self.layers, state.panels, strict=False):
                layer.show(panel)
                layer.scale(low, high, classes=state.color == "class")
            if (axes := (state.left, state.right, state.quantity, state.calibration)) != self._axes:
                self._axes = axes
                self.fit_axes()
            self._show_images()
            self.show_mark()

    def _arrange(self):
        overlaid = self.overlaid
        self.sides[1].visible = len(self.state.panels) == 2 and not overlaid
        for renderer in self._over:
            renderer.visible = overlaid
        for layer, color in zip(self.layers, SAMPLE_COLORS, strict=True):
            layer.paint(color if overlaid else None)
        label = f"{self.state.kind.axis}, {self.state.calibration}"
        for side, plot in enumerate(self.plots):
            plot.yaxis.axis_label = label if side == 0 else None

    def fit_axes(self):
        """Show all galaxies but the outermost ones."""
        left, right, bottom, top = find_window(self.state.panels, self.state.kind.window)
        with self.state.lock, self.widget.batch():
            self.x_range.update(start=left, end=right)
            self.y_range.update(start=bottom, end=top)

    def show_relations(self):
        """Draw the published relations that are chosen."""
        with self.state.lock, self.widget.batch():
            for name, models in self._lines.items():
                for model in models:
                    model.visible = name in self.state.relations

    def show_mark(self):
        """Ring the galaxy looked at, where it is measured."""
        state = self.state
        with state.lock, self.widget.batch():
            for layer, panel in zip(self.layers, state.panels, strict=False):
                galaxy = state.locate(panel.name)
                here = panel.index == (-1 if galaxy is None else galaxy)
                send(layer.mark, {"x": panel.mass[here], "y": panel.metallicity[here]})

    @property
    def window(self):
        """Lowest and highest mass, lowest and highest metallicity that are shown."""
        return self.x_range.start, self.x_range.end, self.y_range.start, self.y_range.end

    def _show_images(self):
        self._window = self.window
        layers = self.layers[: len(self.state.panels)]
        top = max(layer.show_image(self._window, counts=self.state.color == "number") for layer in layers)
        if top:
            for layer in layers:
                layer.scale_counts(top)

    def _zoomed(self, attr, old, new):
        # jupyter_bokeh tells each change twice.
        with self.state.lock, self.widget.batch():
            if self.window != self._window:
                self._show_images()

    def _resized(self, attr, old, new):
        self._frame[attr == "inner_height"] = new

    # ---- one galaxy

    def pick(self, side, x, y):
        """Look at the galaxy nearest to a place in a panel, if it is near."""
        state = self.state
        with state.lock:
            panels = state.panels if self.overlaid else state.panels[side : side + 1]
            across = self._frame[0] / (self.x_range.end - self.x_range.start)
            up = self._frame[1] / (self.y_range.end - self.y_range.start)
            best = (TAP_PIXELS, None, None)
            for panel in panels:
                if panel.mass.size == 0:
                    continue
                distance = np.hypot((panel.mass - x) * across, (panel.metallicity - y) * up)
                nearest = int(np.argmin(distance))
                if distance[nearest] < best[0]:
                    best = (distance[nearest], panel.name, int(panel.index[nearest]))
            if best[1] is None:
                return False
            state.select(*best[1:])
            return True
