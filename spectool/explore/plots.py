"""Figures of the paper notebooks: training curves, errors, information, density maps and traversals."""

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
    Whisker,
)
from bokeh.plotting import figure

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.spectrum import FLUX_LABEL, TOOLS, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MAP_PALETTE, MUTED, OKABE_ITO

MASS_LABEL = "log M* (M☉)"
METALLICITY_LABEL = "log Z*/Z☉ (dex)"
SFR_LABEL = "log SFR (M☉/yr)"
GREYS = ("#FFFFFF", *(f"#{v:02X}{v:02X}{v:02X}" for v in range(240, 165, -1)))


class LiveLoss:
    """Loss against epoch, redrawn while `spectool.models.training.fit` runs: one of its callbacks.

    Parameters
    ----------
    title : str
    quantity : str
        Which scalar of the loss to follow.

    Examples
    --------
    >>> curve = LiveLoss("beta = 0.3")  # doctest: +SKIP
    >>> display(curve.widget)  # doctest: +SKIP
    >>> fit(model, train, valid, loss=BetaLoss(0.3), callbacks=[curve])  # doctest: +SKIP
    """

    def __init__(self, title="", *, quantity="loss"):
        self.quantity = quantity
        self.source = ColumnDataSource({"epoch": [], "train": [], "valid": []})
        self.plot = figure(
            title=title or None,
            width=FIGURE_WIDTH,
            height=240,
            tools="",
            y_axis_type="log",
            x_axis_label="epoch",
            y_axis_label=f"{quantity} per spectrum",
        )
        for name, color, dash in (("train", CYCLE[0], "solid"), ("valid", CYCLE[1], "dashed")):
            label = {"train": "training", "valid": "validation"}[name]
            options = {"source": self.source, "color": color, "legend_label": label}
            self.plot.line("epoch", name, line_width=2, line_dash=dash, **options)
            self.plot.scatter("epoch", name, size=5, **options)
        self.widget = LiveBokeh(self.plot)

    def __call__(self, history):
        """Draw the history so far."""
        self.source.data = {
            "epoch": history.column("epoch").astype(np.float32),
            "train": history.column(f"train_{self.quantity}").astype(np.float32),
            "valid": history.column(f"valid_{self.quantity}").astype(np.float32),
        }


def plot_curves(
    x,
    curves,
    *,
    title="",
    x_label=WAVELENGTH_LABEL,
    y_label="",
    y_axis_type="linear",
    lines=False,
    height=300,
    width=FIGURE_WIDTH,
    legend="top_right",
):
    """Several curves over a common axis.

    Parameters
    ----------
    x : array_like, shape (n,)
    curves : dict of str to array_like, each shape (n,)
    title, x_label, y_label : str
    y_axis_type : {"linear", "log"}
    lines : bool
        Name emission lines (x is then a wavelength in Angstrom; not on a log axis).
    height, width : int
        Screen pixels.
    legend : str
        Place of the legend.

    Returns
    -------
    bokeh.plotting.figure
    """
    x = np.asarray(x, dtype=np.float32)
    plot = figure(
        title=title or None,
        width=width,
        height=height,
        tools=TOOLS,
        x_axis_label=x_label,
        y_axis_label=y_label,
        y_axis_type=y_axis_type,
        x_range=Range1d(float(x.min()), float(x.max())),
    )
    if lines:
        plot.y_range = Range1d(*flux_range(np.stack([np.asarray(c) for c in curves.values()])))
        LineMarks(plot, (float(x.min()), float(x.max())), width - 80)
    for (name, values), color in zip(curves.items(), CYCLE, strict=False):
        # A copy: a figure that held a view would keep the whole sample in memory.
        plot.line(x, np.array(values, dtype=np.float32), color=color, line_width=1.6, legend_label=name)
    plot.legend.location = legend
    plot.legend.click_policy = "hide"
    return plot


def plot_informativeness(scores, *, threshold=0.01):
    """Bars of eq. 11 of `marziano2024` for every latent dimension, one panel per model (its Fig. 9).

    Parameters
    ----------
    scores : dict of str to array_like, each shape (n_latent,)
    threshold : float
        Above it a dimension is informative.

    Returns
    -------
    bokeh layout
    """
    panels = []
    top = max(float(np.max(values)) for values in scores.values()) * 1.5
    for name, values in scores.items():
        values = np.asarray(values, dtype=float)
        informative = values > threshold
        plot = figure(
            title=f"{name}: {int(informative.sum())} informative dimensions",
            width=FIGURE_WIDTH,
            height=180,
            tools="save",
            y_axis_type="log",
            y_range=Range1d(1e-5, top),
            x_range=Range1d(-0.7, len(values) - 0.3),
            y_axis_label="mean |cov|",
            x_axis_label="latent dimension",
        )
        colors = np.where(informative, OKABE_ITO["blue"], "#BBBBBB").tolist()
        plot.vbar(np.arange(len(values)), 0.7, np.maximum(values, 1.2e-5), 1e-5, color=colors)
        plot.add_layout(Span(location=threshold, dimension="width", line_dash="dashed", line_color=CYCLE[1]))
        plot.xaxis.ticker = FixedTicker(ticks=list(range(0, len(values), 2)))
        panels.append([plot])
    return gridplot(panels, toolbar_location=None)


def plot_matrix(
    values, rows, columns, *, title="", label="mutual information (nat)", size=46, digits=2, vmax=None
):
    """A matrix as coloured cells with its numbers written in (Figs. 10 and 12 of `marziano2024`).

    Parameters
    ----------
    values : array_like, shape (n_rows, n_columns)
        NaN cells are left empty.
    rows, columns : sequence of str
    title, label : str
    size : int
        Height of a cell in screen pixels; cells are wider.
    digits : int
    vmax : float, optional
        Value of the brightest colour.

    Returns
    -------
    bokeh.plotting.figure
    """
    values = np.asarray(values, dtype=float)
    rows, columns = [str(r) for r in rows], [str(c) for c in columns]
    vmax = vmax or max(float(np.nanmax(values)), 0.1)
    mapper = LinearColorMapper(palette=MAP_PALETTE, low=0, high=vmax)
    i, j = np.nonzero(np.isfinite(values))
    shown = values[i, j]
    source = ColumnDataSource(
        {
            "row": [rows[k] for k in i],
            "column": [columns[k] for k in j],
            "value": shown,
            "text": [f"{v:.{digits}f}" for v in np.where(np.abs(shown) < 0.5 * 10**-digits, 0, shown)],
            "ink": np.where(shown > 0.6 * vmax, "#000000", "#FFFFFF").tolist(),
        }
    )
    plot = figure(
        title=title or None,
        width=min(FIGURE_WIDTH, 150 + max(62, size) * len(columns) + 110),
        height=110 + size * len(rows),
        x_range=columns,
        y_range=rows[::-1],
        tools="save",
    )
    plot.rect(
        "column",
        "row",
        0.98,
        0.96,
        source=source,
        fill_color={"field": "value", "transform": mapper},
        line_color=None,
    )
    plot.text(
        "column",
        "row",
        "text",
        source=source,
        text_color="ink",
        text_align="center",
        text_baseline="middle",
        text_font_size="13px",
    )
    plot.add_layout(ColorBar(color_mapper=mapper, title=label, width=12, ticker=BasicTicker()), "right")
    plot.xaxis.major_label_orientation = 0.6
    plot.grid.grid_line_color = None
    return plot


def plot_density_grid(x, y, *, marked=None, bins=40, size=None):
    """Density maps of every pair of columns (Figs. 11 and 13 of `marziano2024`).

    Each map is a two-dimensional histogram with a square-root stretch; axes show the central 99%.

    Parameters
    ----------
    x, y : dict of str to array_like, each shape (galaxy,)
        Columns across and down.
    marked : dict of (str, str) to bool, optional
        Pairs (x, y) to frame, such as those that share more than 0.1 nat.
    bins : int
    size : int, optional
        Side of one map in screen pixels; default: what fits the page.

    Returns
    -------
    bokeh layout
    """
    marked = marked or {}
    size = size or int(np.clip((FIGURE_WIDTH - 60) / len(x), 70, 150))
    grid = []
    for row, (y_name, y_values) in enumerate(y.items()):
        grid.append([])
        for column, (x_name, x_values) in enumerate(x.items()):
            last, first = row == len(y) - 1, column == 0
            plot = figure(
                width=size + (48 if first else 0),
                height=size + (40 if last else 0),
                tools="",
                toolbar_location=None,
                x_axis_label=x_name if last else None,
                y_axis_label=y_name if first else None,
            )
            _draw_density(plot, np.asarray(x_values, float), np.asarray(y_values, float), bins)
            plot.xaxis.visible, plot.yaxis.visible = last, first
            plot.axis.major_label_text_font_size = "0px"
            plot.axis.axis_label_text_font_size = "12px"
            plot.axis.major_tick_line_color = None
            plot.grid.grid_line_color = None
            if marked.get((x_name, y_name)):
                plot.outline_line_color, plot.outline_line_width = CYCLE[1], 3
            grid[-1].append(plot)
    return gridplot(grid, toolbar_location=None)


def _draw_density(plot, x, y, bins):
    good = np.isfinite(x) & np.isfinite(y)
    limits = [np.quantile(v[good], [0.005, 0.995]) for v in (x, y)]
    counts, _, _ = np.histogram2d(x[good], y[good], bins=bins, range=limits)
    (left, right), (bottom, top) = limits
    mapper = LinearColorMapper(palette=MAP_PALETTE, low=0, high=max(float(np.sqrt(counts.max())), 1))
    plot.image(
        [np.sqrt(counts.T).astype(np.float32)],
        x=left,
        y=bottom,
        dw=right - left,
        dh=top - bottom,
        color_mapper=mapper,
    )
    plot.x_range, plot.y_range = Range1d(left, right), Range1d(bottom, top)


def plot_traversal(wavelength, values, spectra, *, title="", window=None, height=230):
    """One latent dimension moved, the others held: the spectra, and how much each pixel moves (Fig. 14).

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        [Angstrom]
    values : array_like, shape (k,)
        Values of the dimension.
    spectra : array_like, shape (k, n)
        Decoded flux at each.
    title : str
    window : (float, float), optional
        Wavelengths shown [Angstrom].
    height : int

    Returns
    -------
    bokeh layout
        Left the spectra, coloured by the value; right the largest minus the smallest flux of each pixel.
    """
    wavelength = np.asarray(wavelength, dtype=np.float32)
    values, spectra = np.asarray(values, dtype=float), np.asarray(spectra, dtype=np.float32)
    window = window or (float(wavelength[0]), float(wavelength[-1]))
    shown = (wavelength >= window[0]) & (wavelength <= window[1])
    mapper = LinearColorMapper(palette=MAP_PALETTE, low=float(values.min()), high=float(values.max()))
    share = (values - values.min()) / max(np.ptp(values), 1e-9)
    colors = [MAP_PALETTE[int(s * (len(MAP_PALETTE) - 1))] for s in share]
    common = {"tools": TOOLS, "height": height, "x_axis_label": WAVELENGTH_LABEL}
    left = figure(
        title=title or None,
        width=560,
        y_axis_label=FLUX_LABEL,
        x_range=Range1d(*window),
        y_range=Range1d(*_robust_range(spectra[:, shown])),
        **common,
    )
    for color, spectrum in zip(colors, spectra, strict=True):
        left.line(wavelength, spectrum, color=color, line_width=1.0)
    left.add_layout(ColorBar(color_mapper=mapper, title="value", width=10), "right")
    change = spectra.max(axis=0) - spectra.min(axis=0)
    right = figure(
        title="change per pixel", width=340, y_axis_label="largest − smallest", x_range=left.x_range, **common
    )
    right.y_range = Range1d(0, 1.05 * float(np.quantile(change[shown], 0.998)) + 1e-6)
    right.line(wavelength, change, color=CYCLE[1], line_width=1.2)
    return gridplot([[left, right]], toolbar_location=None)


def _robust_range(spectra):
    """Range that holds all but the tips of the strongest lines, which would flatten everything else."""
    top = float(np.quantile(spectra, 0.998))
    return min(0.0, float(spectra.min())) - 0.05 * top, 1.15 * top


def plot_points(x, y, *, names=None, x_label="", y_label="", title="", identity=False, width=430, height=380):
    """Scatter of at most some thousands of points, as small translucent dots.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    names : sequence of str, optional
        Shown when the pointer rests on a point.
    x_label, y_label, title : str
    identity : bool
        Draw y = x.
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)
    data = {"x": x, "y": y} | ({"name": list(names)} if names is not None else {})
    plot = figure(
        title=title or None,
        width=width,
        height=height,
        tools=TOOLS,
        x_axis_label=x_label,
        y_axis_label=y_label,
    )
    dots = plot.scatter(
        "x", "y", source=ColumnDataSource(data), size=4, color=CYCLE[0], fill_alpha=0.35, line_color=None
    )
    if names is not None:
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("", "@name")]))
    if identity:
        ends = [float(np.nanmin([x.min(), y.min()])), float(np.nanmax([x.max(), y.max()]))]
        plot.line(ends, ends, color=MUTED, line_dash="dashed")
    return plot


def flat_legend(plot):
    """Put a figure's legend into one line; a click hides a curve."""
    plot.legend.orientation = "horizontal"
    plot.legend.label_text_font_size = "12px"
    plot.legend.spacing, plot.legend.padding = 14, 1
    plot.legend.click_policy = "hide"


def draw_map(plot, x, y, *, bins=60, palette=GREYS):
    """Draw the number of galaxies in a figure whose ranges are set, with a square-root stretch."""
    good = np.isfinite(x) & np.isfinite(y)
    limits = ((plot.x_range.start, plot.x_range.end), (plot.y_range.start, plot.y_range.end))
    counts, _, _ = np.histogram2d(x[good], y[good], bins=bins, range=limits)
    (left, right), (bottom, top) = limits
    mapper = LinearColorMapper(palette=palette, low=0, high=max(float(np.sqrt(counts.max())), 1))
    image = [np.sqrt(counts.T).astype(np.float32)]
    place = {"x": left, "y": bottom, "dw": right - left, "dh": top - bottom}
    plot.image(image, color_mapper=mapper, level="image", **place)


def add_bars(plot, x, y, error, color):
    """Draw error bars: x, y and error are arrays of one length."""
    bars = ColumnDataSource({"x": x, "low": np.subtract(y, error), "high": np.add(y, error)})
    whisker = Whisker(base="x", lower="low", upper="high", source=bars, line_color=color)
    whisker.upper_head.size = whisker.lower_head.size = 5
    whisker.upper_head.line_color = whisker.lower_head.line_color = color
    plot.add_layout(whisker)
