"""Figures of the broadband notebook about the networks: layers, training, predictions, and other learners."""

import itertools

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import ColumnDataSource, FixedTicker, Range1d, Span
from bokeh.palettes import Blues256

from spectool.explore.plots import draw_map
from spectool.explore.sed_plots import LABELS, NAMES, bare_figure
from spectool.explore.style import CYCLE, FIGURE_WIDTH, OKABE_ITO
from spectool.measure.stats import running_percentiles
from spectool.papers.surana2020.network import TABLE_3, score_properties

DENSITY = ("#FFFFFF", *reversed(Blues256[:235]))


def plot_network(networks, *, n_inputs=22, n_outputs=1, height=300):
    """Layers of dense networks, as long as they have nodes (Fig. 5 and Table 1 of Surana et al. 2020).

    Parameters
    ----------
    networks : dict of str to sequence of int
        By title, the widths of the hidden layers.
    n_inputs, n_outputs : int
    height : int

    Returns
    -------
    bokeh layout
        The number of weights, biases included, is in the titles.
    """
    tallest = max(n_inputs, *(n for hidden in networks.values() for n in hidden))
    row = []
    for title, hidden in networks.items():
        widths = [n_inputs, *map(int, hidden), n_outputs]
        weights = sum((a + 1) * b for a, b in itertools.pairwise(widths))
        plot = bare_figure(
            f"{title}: {weights:,} weights",
            width=FIGURE_WIDTH // len(networks),
            height=height,
            x_label="layer (nodes)",
            y_label=None,
        )
        plot.title.text_font_size = "13px"
        for k, (a, b) in enumerate(itertools.pairwise(widths)):
            sides = [k, k, k + 1, k + 1], [-a / 2, a / 2, b / 2, -b / 2]
            plot.patch(*sides, color=OKABE_ITO["sky_blue"], fill_alpha=0.25, line_color=None)
        colors = [CYCLE[1], *[CYCLE[0]] * len(hidden), CYCLE[2]]
        for k, (n, color) in enumerate(zip(widths, colors, strict=True)):
            if n == 1:
                plot.scatter([k], [0], size=9, color=color)
            else:
                plot.segment([k], [-n / 2], [k], [n / 2], color=color, line_width=5)
        plot.xaxis.ticker = FixedTicker(ticks=list(range(len(widths))))
        names = ["inputs", *["ReLU"] * len(hidden), "output" if n_outputs == 1 else "outputs"]
        plot.xaxis.major_label_overrides = {
            k: f"{n}\n{name}" for k, (n, name) in enumerate(zip(widths, names, strict=True))
        }
        plot.xaxis.major_label_text_font_size = "11px"
        plot.x_range = Range1d(-0.6, len(widths) - 0.4)
        plot.y_range = Range1d(-0.55 * tallest, 0.55 * tallest)
        plot.yaxis.visible = False
        plot.grid.grid_line_color = None
        row.append(plot)
    return gridplot([row], toolbar_location=None)


def plot_losses(histories, *, quantity="loss", y_label="mean absolute error (standardised)", height=300):
    """Training and validation losses against epoch (Figs. 11 to 13 of Surana et al. 2020).

    Parameters
    ----------
    histories : dict of str to (History or dict of str to array_like)
        By title; a dict holds ``epoch``, ``train_<quantity>`` and ``valid_<quantity>``, each (epoch,).
    quantity, y_label : str
    height : int

    Returns
    -------
    bokeh layout
        The best epoch, whose weights are used, is dotted.
    """
    row, names = [], ("epoch", f"train_{quantity}", f"valid_{quantity}")
    for title, history in histories.items():
        column = history.column if hasattr(history, "column") else history.__getitem__
        epoch, train, valid = (np.asarray(column(name), np.float32) for name in names)
        first = not row
        plot = bare_figure(
            title,
            width=(FIGURE_WIDTH - 40) // len(histories) + 40 * first,
            height=height,
            x_label="epoch",
            y_label=y_label if first else None,
            y_axis_type="log",
        )
        lines = ((train, CYCLE[0], "solid", "training"), (valid, CYCLE[1], "solid", "validation"))
        for values, color, dash, name in lines:
            named = {"legend_label": name} if first else {}
            plot.line(epoch, values, color=color, line_width=1.8, line_dash=dash, **named)
        best = float(epoch[np.nanargmin(valid)])
        plot.add_layout(Span(location=best, dimension="height", line_color="black", line_dash="dotted"))
        # The first epochs, far above, would press all the others together.
        ends = np.concatenate([train[1:], valid[1:]]) if len(epoch) > 2 else np.concatenate([train, valid])
        plot.y_range = Range1d(0.9 * float(np.nanmin(ends)), 1.1 * float(np.nanmax(ends)))
        row.append(plot)
    return gridplot([row], toolbar_location=None)


def plot_predictions(predictions, *, actual="teacher", height=300, bins=70):
    """Predicted against actual values, and their difference (Figs. 8 to 10 of Surana et al. 2020).

    Parameters
    ----------
    predictions : dict of str to (array_like, array_like)
        By property (``"log_mass"``, ...), actual and predicted values (galaxy,) [dex].
    actual : str
        What the actual values are.
    height : int
        Of an upper panel, screen pixels.
    bins : int
        Of the maps, along each axis.

    Returns
    -------
    bokeh layout
        Above, the number of galaxies (blue), the line of equality (black) and the least-squares fit (dashed); below,
        predicted - actual with its running median and 16-84%. Axes hold 99.8% of the galaxies.
    """
    top, bottom, each = [], [], FIGURE_WIDTH // max(len(predictions), 2)
    for name, pair in predictions.items():
        x, y = (np.asarray(v, float) for v in pair)
        good = np.isfinite(x) & np.isfinite(y)
        x, y = x[good], y[good]
        scores = score_properties(y[:, None], x[:, None], [name])[name]
        low, high = np.quantile(np.concatenate([x, y]), [0.001, 0.999])
        margin = 0.04 * (high - low)
        shared = Range1d(float(low - margin), float(high + margin))
        above = bare_figure(
            f"σ {scores['sigma']:.3f} dex, r² {scores['r2']:.3f}",
            width=each,
            height=height,
            x_label=None,
            y_label=f"predicted {LABELS[name]}",
            x_range=shared,
            y_range=Range1d(shared.start, shared.end),
        )
        draw_map(above, x, y, bins=bins, palette=DENSITY)
        ends = np.array([shared.start, shared.end])
        named = (lambda text: {"legend_label": text}) if not top else (lambda text: {})
        above.line(ends, ends, color="black", line_width=1.5, **named("equal"))
        fit = np.polyval(np.polyfit(x, y, 1), ends)
        above.line(ends, fit, color=CYCLE[1], line_width=2.5, line_dash="dashed", **named("best fit"))
        above.xaxis.major_label_text_font_size = "0px"
        above.grid.grid_line_color = None
        top.append(above)
        bottom.append(_differences(x, y - x, shared, f"{actual}'s {LABELS[name]}", each, height, bins))
        bottom[-1].yaxis.axis_label = "predicted − actual (dex)"
    top[0].legend.location = "top_left"
    return gridplot([top, bottom], toolbar_location=None)


def _differences(x, off, shared, x_label, width, height, bins):
    reach = 1.1 * float(np.quantile(np.abs(off), 0.995))
    plot = bare_figure(
        width=width,
        height=round(0.7 * height),
        x_label=x_label,
        y_label=None,
        x_range=shared,
        y_range=Range1d(-reach, reach),
    )
    draw_map(plot, x, off, bins=bins, palette=DENSITY)
    plot.grid.grid_line_color = None
    plot.add_layout(Span(location=0, dimension="width", line_color="black", line_width=1.5))
    middle, percentiles = running_lines(x, off)
    for values, dash in zip(percentiles, ("dotted", "solid", "dotted"), strict=True):
        plot.line(middle, values, color=CYCLE[1], line_width=2, line_dash=dash)
    return plot


def running_lines(x, y, *, n_bins=14, least=30):
    """Running 16, 50 and 84% of y in bins of x that hold enough galaxies."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    if good.any():
        low, high = np.quantile(x[good], [0.005, 0.995])
        good &= (x >= low) & (x <= high)
    found = running_percentiles(x[good], y[good], n_bins=n_bins)
    enough = found["count"] >= least
    return found["x"][enough], np.stack([found[k][enough] for k in ("low", "middle", "high")])


def plot_peers(scores, *, quantity="sigma", paper=True, height=None):
    """Errors of several methods side by side.

    Parameters
    ----------
    scores : dict of str to (dict of str to (dict of str to float))
        By method and property, from `spectool.papers.surana2020.network.score_properties`; properties may be lacking.
    quantity : {"sigma", "rmse", "mad"}
        [dex]
    paper : bool
        Draw what Surana et al. (2020) reached dashed.
    height : int, optional

    Returns
    -------
    bokeh layout
        A panel per property.
    """
    methods, row = list(scores), []
    for name in LABELS:
        found = [method for method in methods if quantity in scores[method].get(name, {})]
        values = [scores[method][name][quantity] for method in found]
        limit = TABLE_3[name][quantity] if paper else 0.0
        first = not row
        plot = bare_figure(
            NAMES[name],
            width=(FIGURE_WIDTH - 120) // 3 + 120 * first,
            height=height or 120 + 34 * len(methods),
            x_label=f"{_in_words(quantity)} (dex)" + "; dashed: the paper" * paper,
            y_label=None,
            y_range=methods[::-1],
            x_range=Range1d(0, 1.08 * max([*values, limit, 1e-3])),
        )
        source = ColumnDataSource({"y": found, "value": values, "text": [f"{value:.3f}" for value in values]})
        plot.hbar("y", right="value", height=0.7, color=OKABE_ITO["sky_blue"], line_color=None, source=source)
        if paper:
            plot.line([limit] * 2, [0, len(methods)], color=CYCLE[1], line_dash="dashed", line_width=2)
        style = {"x_offset": 6, "text_baseline": "middle", "text_font_size": "12px"}
        plot.text(0, "y", "text", source=source, **style)
        plot.yaxis.visible = first
        plot.ygrid.grid_line_color = None
        row.append(plot)
    return gridplot([row], toolbar_location=None)


def _in_words(quantity):
    return {"sigma": "σ", "rmse": "RMS error", "mad": "mean absolute error"}[quantity]
