"""Figures of the de-noising notebook: stacked spectra, classes in latent space, recovered fluxes, the MZR."""

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    Legend,
    LegendItem,
    LinearColorMapper,
    Range1d,
    Whisker,
)
from bokeh.plotting import figure

from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MAP_PALETTE, MUTED, OKABE_ITO

FLUX = "normalised flux"
SPARSE = OKABE_ITO["orange"]


def plot_stack(
    wavelength, panels, *, colors=CYCLE, y_label=FLUX, height=170, window=None, name_lines=True, ranges=None
):
    """Spectra in panels one above the other, with one wavelength axis.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Vacuum, rest frame [Angstrom].
    panels : dict of str to (dict of str to array_like (n,))
        By title, the curves by name; later curves are drawn over earlier ones.
    colors : sequence of str
        One per curve.
    y_label : str
    height : int
        Of one panel, screen pixels.
    window : (float, float), optional
        Wavelengths to show first [Angstrom].
    name_lines : bool
        Name emission lines in the first panel.
    ranges : dict of str to (float, float), optional
        Flux range of a panel by title; default: what holds its last curve.

    Returns
    -------
    bokeh layout
    """
    wavelength = np.asarray(wavelength, dtype=np.float32)
    window = window or (float(wavelength[0]), float(wavelength[-1]))
    shown = (wavelength >= window[0]) & (wavelength <= window[1])
    shared, rows = Range1d(*window), []
    for k, (title, curves) in enumerate(panels.items()):
        values = {name: np.array(flux, dtype=np.float32) for name, flux in curves.items()}
        first, last = k == 0, k == len(panels) - 1
        keyed = first and len(values) > 1
        plot = figure(
            title=title,
            width=FIGURE_WIDTH,
            height=height + (44 if last else 0) + (40 if first and name_lines else 0) + (34 if keyed else 0),
            x_range=shared,
            tools=TOOLS,
            x_axis_label=WAVELENGTH_LABEL if last else None,
            y_axis_label=y_label,
        )
        chosen = (ranges or {}).get(title) or flux_range(list(values.values())[-1][None, shown])
        plot.y_range = Range1d(*map(float, chosen))
        if first and name_lines:
            LineMarks(plot, window, FIGURE_WIDTH - 80)
        if not last:
            plot.xaxis.major_label_text_font_size = "0px"
        legend = []
        for (name, flux), color in zip(values.items(), colors, strict=False):
            line = plot.line(wavelength, flux, color=color, line_width=1.3)
            legend.append(LegendItem(label=name, renderers=[line]))
        if keyed:
            plot.add_layout(Legend(items=legend, orientation="horizontal", click_policy="hide"), "above")
        rows.append([plot])
    return gridplot(rows, toolbar_location=None)


def plot_class_pairs(columns, classes, colors, *, size=150):
    """Every pair of latent dimensions, points coloured by class (Fig. 6 of Scourfield et al. 2023).

    Parameters
    ----------
    columns : dict of str to array_like, each shape (galaxy,)
    classes : array_like of str, shape (galaxy,)
    colors : dict of str to str
        Colour by class; drawn in this order.
    size : int
        Side of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        The diagonal holds histograms of the classes; axes show the central 99%.
    """
    classes = np.asarray(classes)
    values = {name: np.asarray(column, np.float32) for name, column in columns.items()}
    limits = {name: np.nanquantile(column, [0.005, 0.995]) for name, column in values.items()}
    names, grid = list(values), []
    for row, y_name in enumerate(names):
        grid.append([])
        for column, x_name in enumerate(names[: row + 1]):
            plot = figure(
                width=size + (46 if column == 0 else 0),
                height=size + (40 if row == len(names) - 1 else 0),
                tools="",
                toolbar_location=None,
                x_axis_label=x_name if row == len(names) - 1 else None,
                y_axis_label=y_name if column == 0 else None,
                x_range=Range1d(*map(float, limits[x_name])),
            )
            if row == column:
                _class_histograms(plot, values[x_name], classes, colors, limits[x_name])
            else:
                plot.y_range = Range1d(*map(float, limits[y_name]))
                for kind, color in colors.items():
                    some = classes == kind
                    options = {"size": 2.5, "color": color, "alpha": 0.5, "line_color": None}
                    plot.scatter(values[x_name][some], values[y_name][some], **options)
            plot.axis.major_label_text_font_size = "0px"
            plot.axis.major_tick_line_color = None
            plot.axis.axis_label_text_font_size = "12px"
            plot.grid.grid_line_color = None
            grid[-1].append(plot)
    return _with_class_legend(grid, classes, colors, size)


def _class_histograms(plot, values, classes, colors, limits):
    edges = np.linspace(*limits, 31)
    for kind, color in colors.items():
        some = values[classes == kind]
        if some.size < 10:
            continue
        counts, _ = np.histogram(some, edges, density=True)
        plot.step(
            0.5 * (edges[1:] + edges[:-1]), counts.astype("f4"), mode="center", color=color, line_width=1.5
        )


def _with_class_legend(grid, classes, colors, size):
    """Put the legend where the triangle leaves room."""
    key = figure(width=2 * size, height=size, tools="", toolbar_location=None)
    key.x_range, key.y_range = Range1d(0, 1), Range1d(0, 1)
    items = []
    for kind, color in colors.items():
        dot = key.scatter([-1], [-1], size=9, color=color)  # beyond the frame: only the legend shows it
        items.append(LegendItem(label=f"{kind} ({int((classes == kind).sum())})", renderers=[dot]))
    key.add_layout(Legend(items=items, location="top_left"), "center")
    key.axis.visible = key.grid.visible = False
    key.outline_line_color = None
    columns = len(grid[-1])
    rows = [row + [None] * (columns - len(row)) for row in grid]
    rows[0][-1] = key
    return gridplot(rows, toolbar_location=None)


def plot_recovery_grid(cells, *, rows, columns, size=200):
    """Recovered against original flux, models down and lines across (Fig. 9 of Scourfield et al. 2023).

    Parameters
    ----------
    cells : dict of (str, str) to (x, y, bins, found)
        By row and column: log original and log recovered flux (galaxy,), and what
        `spectool.measure.stats.running_percentiles` and `summarize` say of them.
    rows, columns : sequence of str
    size : int
        Side of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        Grey: galaxies; black: median and 16th to 84th percentile of filled bins, orange: of the others.
    """
    grid, limits = [], _common_range([cells[row, column][0] for row in rows for column in columns])
    for row in rows:
        grid.append([])
        for k, column in enumerate(columns):
            x, y, bins, found = cells[row, column]
            last = row == rows[-1]
            plot = figure(
                title=column if row == rows[0] else None,
                width=size + (54 if k == 0 else 0),
                height=size + (46 if last else 0) + (24 if row == rows[0] else 0),
                tools="",
                toolbar_location=None,
                x_axis_label="log original" if last else None,
                y_axis_label=row if k == 0 else None,
            )
            _draw_recovery(plot, np.asarray(x, "f4"), np.asarray(y, "f4"), bins, limits)
            numbers = f"σ {found['sigma']:.2f}  filled {found['sigma_fill']:.2f}"
            plot.text(
                [plot.x_range.start],
                [plot.y_range.end],
                [numbers],
                x_offset=4,
                y_offset=14,
                text_font_size="11px",
            )
            plot.xaxis.visible, plot.yaxis.visible = last, k == 0
            plot.axis.major_label_text_font_size = "11px"
            plot.axis.axis_label_text_font_size = "12px"
            grid[-1].append(plot)
    return gridplot(grid, toolbar_location=None)


def _common_range(values):
    """Range of nearly all finite numbers of some arrays, with a margin."""
    finite = [v[np.isfinite(v)] for v in map(np.asarray, values)]
    low, high = (float(v) for v in np.quantile(np.concatenate(finite), [0.002, 0.998]))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _draw_recovery(plot, x, y, bins, limits):
    both = np.isfinite(x) & np.isfinite(y)
    low, high = limits
    plot.x_range, plot.y_range = Range1d(low, high), Range1d(low, high + 0.15 * (high - low))
    plot.axis.ticker = BasicTicker(desired_num_ticks=4)
    plot.scatter(x[both], y[both], size=2.5, color="#9A9A9A", alpha=0.35, line_color=None)
    plot.line([low, high], [low, high], color=MUTED, line_dash="dashed")
    occupied = bins["count"] > 0
    for filled, color in ((True, OKABE_ITO["black"]), (False, SPARSE)):
        some = occupied & (bins["filled"] == filled)
        _percentile_marks(plot, bins["x"][some], [bins[k][some] for k in ("low", "middle", "high")], color)


def _percentile_marks(plot, x, percentiles, color):
    low, middle, high = (np.asarray(p, "f4") for p in percentiles)
    source = ColumnDataSource({"x": np.asarray(x, "f4"), "low": low, "middle": middle, "high": high})
    plot.add_layout(Whisker(base="x", lower="low", upper="high", source=source, line_color=color))
    plot.scatter("x", "middle", source=source, size=6, color=color)


def plot_mzr_panels(panels, *, color_label, color_range, relation=None, width=300, height=330):
    """Mass-metallicity relations side by side, masses of all and of measurable galaxies above (Fig. 10).

    Parameters
    ----------
    panels : dict of str to dict
        By title: ``log_mass``, ``oxygen`` (NaN where it was not measured), ``color`` (galaxy,), and ``percentiles``
        (dict with ``x``, ``low``, ``middle``, ``high``).
    color_label : str
    color_range : (float, float)
    relation : (array_like, array_like), optional
        Mass and metallicity of a published relation to draw.
    width, height : int
        Of one panel, screen pixels.

    Returns
    -------
    bokeh layout
    """
    mapper = LinearColorMapper(palette=MAP_PALETTE, low=color_range[0], high=color_range[1])
    everything = np.concatenate([np.asarray(p["log_mass"], float) for p in panels.values()])
    low, high = np.quantile(everything, [0.001, 0.999])
    x_range = Range1d(float(low) - 0.1, float(high) + 0.1)
    y_range, top, bottom = Range1d(7.9, 9.2), [], []
    for k, (title, panel) in enumerate(panels.items()):
        first, last = k == 0, k == len(panels) - 1
        extra = (56 if first else 0) + (76 if last else 0)
        mass, oxygen = (np.asarray(panel[name], float) for name in ("log_mass", "oxygen"))
        good = np.isfinite(oxygen)
        above = figure(width=width + extra, height=110, tools="", toolbar_location=None, x_range=x_range)
        above.title = f"{title}: {int(good.sum())} of {mass.size} measurable"
        edges = np.linspace(x_range.start, x_range.end, 31)
        for some, color in ((np.ones(mass.size, bool), SPARSE), (good, OKABE_ITO["blue"])):
            counts, _ = np.histogram(mass[some], edges)
            above.quad(
                edges[:-1], edges[1:], counts.astype("f4"), 0, color=color, alpha=0.6, line_color="white"
            )
        above.xaxis.visible = False
        above.yaxis.axis_label = "galaxies" if first else None
        above.title.text_font_size = "13px"
        plot = figure(
            width=width + extra,
            height=height,
            tools="",
            toolbar_location=None,
            x_range=x_range,
            y_range=y_range,
            x_axis_label="log M* (M☉)",
            y_axis_label="12 + log(O/H)" if first else None,
        )
        data = {"x": mass[good].astype("f4"), "y": oxygen[good].astype("f4")}
        data["color"] = np.asarray(panel["color"], float)[good].astype("f4")
        options = {"size": 3, "alpha": 0.6, "line_color": None}
        plot.scatter(
            "x", "y", source=ColumnDataSource(data), color={"field": "color", "transform": mapper}, **options
        )
        if relation is not None:
            plot.line(*(np.asarray(r, "f4") for r in relation), color=CYCLE[1], line_width=2.5)
        found = panel["percentiles"]
        _percentile_marks(plot, found["x"], [found[k] for k in ("low", "middle", "high")], OKABE_ITO["black"])
        for item in (above, plot):
            item.min_border_left = 56 if first else 5
            item.yaxis.visible = first
        if last:
            plot.add_layout(ColorBar(color_mapper=mapper, title=color_label, width=10), "right")
            above.min_border_right = 76
        top.append(above)
        bottom.append(plot)
    return gridplot([top, bottom], toolbar_location=None)
