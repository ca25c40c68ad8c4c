"""Figures of the notebooks: HoloViews objects in the suite's style, and a figure that follows a training."""

import itertools

import numpy as np
from bokeh.layouts import row
from bokeh.models import BasicTicker, ColumnDataSource, FixedTicker, Range1d
from bokeh.plotting import figure
from scipy.ndimage import gaussian_filter

from spectool.explore.bokeh_widget import LiveBokeh
from spectool.explore.spectrum import FLUX_LABEL, WAVELENGTH_LABEL, LineMarks, flux_range
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MAP_PALETTE, MUTED, OBSERVED, load_holoviews

MASS_LABEL = "log M* (M☉)"
METALLICITY_LABEL = "log Z*/Z☉ (dex)"
SFR_LABEL = "log SFR (M☉/yr)"
FRAME = FIGURE_WIDTH - 95  # what the vertical axis leaves of a figure's width
GREYS = ("#FFFFFF", *(f"#{v:02X}{v:02X}{v:02X}" for v in range(240, 165, -1)))
EXPONENTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decades(values):
    """Ticks of a logarithmic axis as (place, label): whole decades, and some between where there are few of them."""
    values = np.asarray(values, float)
    low, high = np.log10([values[values > 0].min(), values[values > 0].max()])
    between = (1,) if high - low > 2 else (1, 2, 5) if high - low > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = []
    for exponent in range(int(np.floor(low)) - 1, int(np.ceil(high)) + 2):
        for factor in between:
            power = f"10{str(exponent).translate(EXPONENTS)}"
            large = power if factor == 1 else f"{factor:g}·{power}"
            place = factor * 10.0**exponent
            ticks.append((place, f"{place:g}" if -4 < exponent < 4 else large))
    return ticks


def curves(
    x,
    named,
    *,
    x_label=WAVELENGTH_LABEL,
    y_label="",
    bands=None,
    colors=CYCLE,
    lines=None,
    marks=False,
    **options,
):
    """Curves over a common axis, with named lines above and bands about them where wanted.

    Parameters
    ----------
    x, named
        (n,), and values (n,) by the name in the legend; NaN leaves a gap; later ones are drawn over earlier ones.
    x_label, y_label
        Quantity and unit. Panels of a layout with the same `x_label` zoom together.
    bands
        Lower and upper edge (n,), (n,) about a curve, by its name.
    colors, lines, marks
        One colour per curve; vacuum wavelengths [Angstrom] of lines to name; whether to draw a dot at each point.
    options
        HoloViews' options of an Overlay: ``title``, ``height``, ``xlim``, ``ylim``, ``logy``, ...
    """
    hv = load_holoviews()
    x = np.asarray(x, dtype=np.float32)
    # Panels with titles of their own keep vertical axes of their own.
    y_axis = f"{options.get('title', '')} {y_label}"
    options = {"ylabel": y_label} | options
    # Copies: a figure that held a view would keep the whole sample in memory.
    values = {name: np.array(y, dtype=np.float32) for name, y in named.items()}
    parts = []
    for (name, y), color in zip(values.items(), itertools.cycle(colors)):
        if name in (bands or {}):
            low, high = (np.asarray(edge, np.float32) for edge in bands[name])
            band = hv.Spread((x, y, y - low, high - y), x_label, [y_axis, "below", "above"])
            parts.append(band.opts(fill_color=color, fill_alpha=0.2, line_alpha=0))
        parts.append(hv.Curve((x, y), x_label, y_axis, label=name).opts(color=color, line_width=1.6))
        if marks:
            parts.append(hv.Scatter((x, y), x_label, y_axis, label=name).opts(color=color, size=6))
    window = options.setdefault("xlim", (float(x.min()), float(x.max())))
    if lines:
        shown = (x >= window[0]) & (x <= window[1])
        options.setdefault("ylim", flux_range(np.stack([y[shown] for y in values.values()])))
        options["hooks"] = [naming(lines, window)]
    if options.get("logy"):
        options.setdefault("yticks", decades(np.concatenate(list(values.values()))))
    return hv.Overlay(parts).opts(**{"title": "", "show_legend": len(values) > 1} | options)


def points(
    x, y, *, x_label="", y_label="", errors=None, label="", color=CYCLE[0], size=5, alpha=1.0, **options
):
    """Points, with error bars where `errors` are given: (n,), or (2, n) for those below and above."""
    hv = load_holoviews()
    x, y = (np.asarray(v, dtype=np.float32) for v in (x, y))
    x_label, y_label = x_label or "x", y_label or "y"
    dots = hv.Scatter((x, y), x_label, y_label, label=label)
    parts = [dots.opts(color=color, size=size, alpha=alpha, line_color=None)]
    if errors is not None:
        below, above = np.broadcast_to(np.asarray(errors, np.float32), (2, len(x)))
        bars = hv.ErrorBars((x, y, below, above), x_label, [y_label, "below", "above"])
        parts.append(bars.opts(line_color=color, lower_head=None, upper_head=None))
    return hv.Overlay(parts).opts(**{"title": "", "show_legend": bool(label)} | options)


def density(
    x, y, *, x_label="", y_label="", bins=60, limits=None, contours=(), palette=MAP_PALETTE, **options
):
    """How many galaxies lie where, with a square-root stretch.

    Parameters
    ----------
    x, y
        (n,); where not finite, left out.
    bins, limits
        ((float, float), (float, float)) of x and y; by default the central 99% of each.
    contours, palette
        Shares of the galaxies to draw a line about, such as 0.5 and 0.9; colours of the map.
    options
        HoloViews' options of an Overlay.
    """
    hv = load_holoviews()
    x, y = (np.asarray(v, float) for v in (x, y))
    good = np.isfinite(x) & np.isfinite(y)
    limits = limits or [tuple(np.quantile(v[good], [0.005, 0.995]).tolist()) for v in (x, y)]
    counts, _, _ = np.histogram2d(x[good], y[good], bins=bins, range=limits)
    (left, right), (bottom, top) = limits
    bounds, axes = (left, bottom, right, top), [x_label or "x", y_label or "y"]
    picture = hv.Image(np.sqrt(counts.T[::-1]).astype(np.float32), axes, "√ galaxies", bounds=bounds)
    parts = [picture.opts(cmap=list(palette))]
    if len(contours):
        smooth = gaussian_filter(counts.T, 1.5)
        ranked = np.sort(smooth.ravel())[::-1]
        share = np.cumsum(ranked) / ranked.sum()
        levels = sorted({float(ranked[np.searchsorted(share, c)]) for c in contours})
        rings = hv.operation.contours(hv.Image(smooth[::-1], axes, "galaxies", bounds=bounds), levels=levels)
        parts.append(rings.opts(cmap=["#000000"], line_width=1.5, show_legend=False))
    return hv.Overlay(parts).opts(xlim=limits[0], ylim=limits[1], show_legend=False, **options)


def matrix(values, rows, columns, *, label="mutual information (nat)", vmax=None, **options):
    """Cells coloured by their values, (n_rows, n_columns), with the numbers written in; NaN cells stay empty."""
    hv = load_holoviews()
    values = np.asarray(values, float)
    vmax, axes = vmax or max(float(np.nanmax(values)), 0.1), ["column", "row"]
    cells = hv.HeatMap((list(columns), list(rows), values), axes, "value")
    parts = [cells.opts(colorbar=True, clim=(0, vmax), clabel=label)]
    texts = np.char.mod("%.2f", np.where(np.abs(values) < 0.005, 0, values))
    for bright, ink in ((True, "#000000"), (False, "#FFFFFF")):
        k, j = np.nonzero(np.isfinite(values) & ((values > 0.6 * vmax) == bright))
        words = [(columns[b], rows[a], texts[a, b]) for a, b in zip(k, j, strict=True)]
        if words:
            parts.append(hv.Labels(words, axes, "text").opts(text_color=ink, text_font_size="13px"))
    size = {"width": min(FIGURE_WIDTH, 260 + 62 * len(columns)), "height": max(250, 110 + 40 * len(rows))}
    plain = {"xlabel": "", "ylabel": "", "show_legend": False, "show_grid": False, "invert_yaxis": True}
    return hv.Overlay(parts).opts(**size | plain | {"xrotation": 35} | options)


def histogram(named, edges, *, x_label="", y_label="galaxies", share=False, colors=CYCLE, **options):
    """Histograms as steps over common bin edges: samples (n,) by name, counted or as densities."""
    hv = load_holoviews()
    parts = []
    for (name, values), color in zip(named.items(), itertools.cycle(colors)):
        counts, _ = np.histogram(np.asarray(values, float), edges, density=share)
        steps = hv.Curve((0.5 * (edges[1:] + edges[:-1]), counts), x_label or "x", y_label, label=name)
        parts.append(steps.opts(interpolation="steps-mid", color=color, line_width=1.8))
    return hv.Overlay(parts).opts(**{"title": "", "show_legend": len(named) > 1} | options)


def identity(**options):
    """The line y = x."""
    return load_holoviews().Slope(1, 0).opts(color=MUTED, line_dash="dashed", line_width=1.5, **options)


def naming(lines, window):
    """Hook of HoloViews: name lines (vacuum wavelength [Angstrom] by name) above a spectrum seen in a window."""
    return lambda plot, _: LineMarks(plot.state, window, FRAME, lines=lines)


def framed(plot, _):
    """Hook of HoloViews: a thick frame about a panel that one should look at."""
    plot.state.outline_line_color, plot.state.outline_line_width = CYCLE[1], 3


def stack(panels, *, heights=140):
    """Overlays one above the other over one horizontal axis, which the last shows; the first has the legend."""
    placed = []
    for k, height in enumerate(np.broadcast_to(heights, len(panels)).tolist()):
        size = {"width": FIGURE_WIDTH, "height": None, "frame_height": height}
        size["backend_opts"] = {"plot.min_border_left": 70, "plot.min_border_right": 25}
        axis = "bottom" if k == len(panels) - 1 else "bare"
        legend = {} if k == 0 else {"show_legend": False}
        placed.append(panels[k].opts(xaxis=axis, **size, **legend))
    return load_holoviews().Layout(placed).cols(1)


def grid(panels, *, size=110):
    """Rows of square panels (None: empty) of `size` pixels; axes have their numbers at the left and below."""
    hv = load_holoviews()
    fonts = {"labels": "12px", "ticks": "10px", "title": "12px"}
    common = {"width": None, "height": None, "frame_width": size, "frame_height": size, "fontsize": fonts}
    placed = []
    for k, line in enumerate(panels):
        for j, panel in enumerate(line):
            if panel is None:
                placed.append(hv.Empty())
                continue
            last = k == len(panels) - 1 or panels[k + 1][j] is None
            axes = {"xaxis": "bottom" if last else "bare", "yaxis": "left" if j == 0 else "bare"}
            # Room for the widest numbers, or Bokeh cuts the frames of a column differently.
            edge = {"backend_opts": {"plot.min_border_left": 60}} if j == 0 else {}
            placed.append(panel.opts(xticks=3, yticks=3, toolbar=None, **axes, **edge, **common))
    return hv.Layout(placed).cols(len(panels[0])).opts(shared_axes=False)


class LiveLoss:
    """Loss against epoch, and what the model makes of an example, redrawn while `spectool.models.training.fit` runs.

    Parameters
    ----------
    title, quantity
        Of the figure; which scalar of the loss to follow.
    watch
        ``watch()`` -> dict of str to array_like (n,): what to draw beside the loss, such as a spectrum (first: it sets
        the range) and what the model makes of it now. Called when `fit` begins and after each epoch, when ``model`` is
        what it trains, in evaluation mode; what it draws at random changes nothing, because `fit` seeds every epoch.
    x, x_label, y_label, dots
        Axis of what is watched, (n,); its labels; whether the curves are points.

    Examples
    --------
    >>> curve = LiveLoss("beta = 0.3")  # doctest: +SKIP
    >>> display(curve.widget)  # doctest: +SKIP
    >>> fit(model, train, valid, loss=BetaLoss(0.3), callbacks=[curve])  # doctest: +SKIP
    """

    def __init__(
        self,
        title="",
        *,
        quantity="loss",
        watch=None,
        x=None,
        x_label=WAVELENGTH_LABEL,
        y_label=FLUX_LABEL,
        dots=False,
    ):
        self.quantity, self.watch = quantity, watch
        self.source = ColumnDataSource({"epoch": [], "train": [], "valid": []})
        size = {"height": 260, "tools": "", "toolbar_location": None}
        width, labels = FIGURE_WIDTH if watch is None else 380, ("epoch", f"{quantity} per spectrum")
        axes = dict(zip(("x_axis_label", "y_axis_label"), labels, strict=True))
        layout = self.plot = figure(title=title or None, width=width, y_axis_type="log", **axes, **size)
        for name, color, dash in (("train", CYCLE[0], "solid"), ("valid", CYCLE[1], "dashed")):
            style = {"source": self.source, "color": color}
            style["legend_label"] = {"train": "training", "valid": "validation"}[name]
            self.plot.line("epoch", name, line_width=2, line_dash=dash, **style)
            self.plot.scatter("epoch", name, size=5, **style)
        self.plot.xaxis.ticker, self.plot.y_range = BasicTicker(min_interval=1), Range1d(0.1, 10)
        self._place_legend(self.plot)
        if watch is not None:
            self.beside = figure(
                width=FIGURE_WIDTH - width, x_axis_label=x_label, y_axis_label=y_label, **size
            )
            self.x, self.draw = x, self.beside.scatter if dots else self.beside.line
            layout = row(self.plot, self.beside)
        self.widget = LiveBokeh(layout)

    def _place_legend(self, plot):
        plot.add_layout(plot.legend[0], "above")
        plot.legend.update(orientation="horizontal", location="left", spacing=14)

    def begin(self, model):
        """Draw what is watched before the first epoch; `fit` calls this with the model that it trains."""
        self.model = model
        if self.watch is None or hasattr(self, "example"):
            return
        self.example = ColumnDataSource({"x": np.asarray(self.x, np.float32), **self._watched()})
        names = list(self.example.data)[1:]
        with self.widget.batch():
            self.beside.title.text = "before training"
            self.beside.y_range = Range1d(*flux_range(self.example.data[names[0]]))
            for name, color in zip(names, (OBSERVED, *CYCLE), strict=False):
                style = {"source": self.example, "color": color, "legend_label": name}
                self.draw("x", name, line_width=3 if name == names[0] else 1.2, **style)
            self._place_legend(self.beside)
        self.widget.refresh()

    def _watched(self):
        return {name: np.array(values, np.float32) for name, values in self.watch().items()}

    def __call__(self, history):
        """Draw the history so far."""
        data = {"epoch": history.column("epoch").astype(np.float32)}
        for name in ("train", "valid"):
            data[name] = history.column(f"{name}_{self.quantity}").astype(np.float32)
        losses = np.concatenate([data["train"], data["valid"]])
        ticks = dict(decades(losses))
        with self.widget.batch():
            self.source.data = data
            self.plot.y_range.update(
                start=float(losses[losses > 0].min()) / 1.1, end=float(losses.max()) * 1.1
            )
            axis = self.plot.yaxis[0]
            axis.ticker, axis.major_label_overrides = FixedTicker(ticks=list(ticks)), ticks
            if self.watch is not None:
                self.example.data = {"x": self.example.data["x"], **self._watched()}
                self.beside.title.text = f"after epoch {int(data['epoch'][-1])}"
