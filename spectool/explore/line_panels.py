"""The linked panels of the line-flux dashboard: fluxes, residuals, BPT, mass-metallicity relation, latent space."""

from dataclasses import dataclass

import numpy as np
from bokeh.models import (
    BoxSelectTool,
    ColumnDataSource,
    HoverTool,
    LassoSelectTool,
    PanTool,
    Range1d,
    ResetTool,
    TapTool,
    WheelZoomTool,
)
from bokeh.plotting import figure

from spectool.explore.style import MUTED, OKABE_ITO
from spectool.measure.classes import kauffmann2003, kewley2001

# Colour and shape both: classes must be told apart without colour too.
CLASS_STYLE = {
    "emission line galaxy": (OKABE_ITO["blue"], "circle"),
    "absorption galaxy": (OKABE_ITO["orange"], "square"),
    "quiescent galaxy": (OKABE_ITO["vermillion"], "inverted_triangle"),
    "narrow-line AGN": (OKABE_ITO["bluish_green"], "triangle"),
    "broad-line AGN": (OKABE_ITO["reddish_purple"], "diamond"),
}
LIVE_COLOR = OKABE_ITO["yellow"]
SPARSE_COLOR = OKABE_ITO["orange"]
LEFT_BORDER = 54
BIN_COLUMNS = ("x", "low", "middle", "high", "low_residual", "middle_residual", "high_residual")
LABEL = {"axis_label_text_font_size": "12px", "major_label_text_font_size": "11px", "axis_label_standoff": 2}


@dataclass(frozen=True)
class Panel:
    """What one panel draws: columns of the shared source, and the share of points its axes must hold."""

    name: str
    x: str
    y: str
    x_label: str
    y_label: str
    height: int
    x_least: tuple[float, float] | None = None
    y_least: tuple[float, float] | None = None


PANELS = (
    Panel("flux", "original", "recovered", "", "log recovered", 172),
    Panel("residual", "original", "residual", "log original flux", "Δ (dex)", 110),
    Panel("bpt", "n2", "o3", "log [N II] 6583 / Hα", "log [O III] 5007 / Hβ", 282, (-1.6, 0.6), (-1.1, 1.2)),
    Panel("mzr", "log_mass", "oh", "log stellar mass (M☉)", "12 + log(O/H), PP04 O3N2", 282),
    Panel("latent", "latent_x", "latent_y", "z0", "z1", 204),
)


class ScatterPanel:
    """One scatter plot of the shared points, with live positions and the marked galaxy."""

    def __init__(self, panel, sources, *, x_range=None):
        self.panel = panel
        self.plot = figure(
            name=panel.name,
            width=300,
            height=panel.height,
            x_range=x_range or Range1d(0, 1),
            y_range=Range1d(0, 1),
            x_axis_label=panel.x_label or None,
            y_axis_label=panel.y_label,
            tools="",
            min_border_left=LEFT_BORDER,
            min_border_right=8,
            min_border_top=4,
            toolbar_location=None,
        )
        for name, value in LABEL.items():
            setattr(self.plot.axis, name, value)
        dots = self.plot.scatter(
            panel.x,
            panel.y,
            source=sources["points"],
            marker="marker",
            size=5,
            color="color",
            alpha=0.55,
            line_color=None,
            selection_alpha=1.0,
            selection_line_color="black",
            nonselection_alpha=0.22,
            nonselection_line_color=None,
        )
        self._draw_live(sources)
        self.tools = self._make_tools(dots)
        self.plot.add_tools(*self.tools)
        self.plot.toolbar.active_drag = self.tools[0]
        self.plot.toolbar.active_scroll = None

    def _draw_live(self, sources):
        # On the overlay's own canvas: a move of the slider does not draw two thousand points anew.
        panel, plot = self.panel, self.plot
        columns = {
            "level": "overlay",
            "x0": f"from_{panel.x}",
            "y0": f"from_{panel.y}",
            "x1": panel.x,
            "y1": panel.y,
        }
        plot.segment(**columns, source=sources["live"], color="black", line_width=1, alpha=0.7)
        if panel.x == "original":
            error = {"y0": panel.y, "y1": panel.y, "line_width": 1.5, "level": "overlay"}
            plot.segment(
                x0="original_low", x1="original_high", source=sources["live"], color="black", **error
            )
        plot.scatter(
            panel.x,
            panel.y,
            source=sources["live"],
            level="overlay",
            marker="star",
            size=13,
            fill_color=LIVE_COLOR,
            line_color="black",
        )
        plot.scatter(
            panel.x,
            panel.y,
            source=sources["ring"],
            level="overlay",
            marker="circle",
            size=20,
            fill_color=None,
            line_color="black",
            line_width=2,
        )

    def _make_tools(self, dots):
        hover = HoverTool(
            renderers=[dots],
            limit=1,
            tooltips=[
                ("", "@kind, galaxy @candidate"),
                ("log original", "@original{0.00} ± @original_error{0.00}"),
                ("log recovered", "@recovered{0.00} ± @recovered_error{0.00}"),
                ("S/N of Hα", "@sn{0.0}"),
            ],
        )
        box, lasso = BoxSelectTool(renderers=[dots]), LassoSelectTool(renderers=[dots], continuous=False)
        hover.visible = False
        return [box, lasso, TapTool(renderers=[dots]), PanTool(), WheelZoomTool(), hover, ResetTool()]

    def fit(self, points):
        """Set the axes to hold nearly all points; strong outliers may leave the frame."""
        panel, plot = self.panel, self.plot
        for axis, column, least in (("x_range", panel.x, panel.x_least), ("y_range", panel.y, panel.y_least)):
            limits = axis_limits(points[column], least=least)
            getattr(plot, axis).update(
                start=limits[0], end=limits[1], reset_start=limits[0], reset_end=limits[1]
            )


def axis_limits(values, *, share=0.004, margin=0.06, least=None):
    """Limits of an axis that hold nearly all values."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (share, 1 - share)) if values.size else (least or (0.0, 1.0))
    if least is not None:
        low, high = min(low, least[0]), max(high, least[1])
    pad = margin * max(high - low, 0.1)
    return float(low - pad), float(high + pad)


def draw_identity(plot):
    """Draw recovered = original in the panel of fluxes."""
    plot.line([-30, 30], [-30, 30], color=MUTED, line_dash="dashed", level="underlay")


def draw_zero(plot):
    """Draw recovered = original in the panel of residuals."""
    plot.line([-30, 30], [0, 0], color=MUTED, line_dash="dashed", level="underlay")


def draw_percentiles(plot, source, *, residual=False):
    """Draw median and 16th to 84th percentile of each bin: solid in filled bins, hollow in the others."""
    suffix = "_residual" if residual else ""
    low, middle, high = (f"{name}{suffix}" for name in ("low", "middle", "high"))
    plot.segment("x", low, "x", high, source=source, color="white", line_width=5, alpha=0.8)
    plot.segment("x", low, "x", high, source=source, color="edge", line_width=2)
    plot.scatter("x", middle, source=source, size=8, fill_color="fill", line_color="edge", line_width=2)


def percentile_columns(bins):
    """Columns for `draw_percentiles` from `spectool.measure.stats.running_percentiles`."""
    occupied = bins["count"] > 0
    filled = bins["filled"][occupied]
    return {
        **{name: bins[name][occupied].astype(np.float32) for name in BIN_COLUMNS},
        "edge": np.where(filled, "black", SPARSE_COLOR).tolist(),
        "fill": np.where(filled, "black", "white").tolist(),
    }


def draw_bpt_curves(plot):
    """Draw the borders of Kewley et al. (2001) and Kauffmann et al. (2003)."""
    for curve, end, dash, name in (
        (kewley2001, 0.35, "solid", "Kewley 2001"),
        (kauffmann2003, -0.05, "dashed", "Kauffmann 2003"),
    ):
        n2 = np.linspace(-2.2, end, 80)
        plot.line(n2, curve(n2), color="black", line_dash=dash, line_width=1.3, legend_label=name)
    plot.legend.update(
        location="bottom_left", label_text_font_size="11px", glyph_width=22, background_fill_alpha=0.7
    )


def constant_columns(state):
    """Columns of the shared source that no choice changes."""
    # Those without a class are never drawn, but keep their place.
    style = [CLASS_STYLE.get(name, (MUTED, "circle")) for name in state.galaxy_class]
    return {
        "candidate": state.candidates.astype(np.int32),
        "kind": state.galaxy_class.tolist(),
        "color": [color for color, _ in style],
        "marker": [marker for _, marker in style],
        "sn": state.sn.astype(np.float32),
    }


def empty_sources(state):
    """Build the sources that the panels share: points, live positions, the marked galaxy, the percentiles."""
    columns = {name: [] for panel in PANELS for name in (panel.x, panel.y)}
    live = [f"{prefix}{name}" for name in columns for prefix in ("", "from_")] + [
        "original_low",
        "original_high",
    ]
    return {
        "points": ColumnDataSource({**constant_columns(state), **state.points}, name="points"),
        "live": ColumnDataSource({name: [] for name in live}, name="live"),
        "ring": ColumnDataSource(columns, name="ring"),
        "bins": ColumnDataSource({name: [] for name in (*BIN_COLUMNS, "edge", "fill")}, name="bins"),
    }
