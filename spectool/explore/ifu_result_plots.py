"""Figures of the narrow-band notebook about its results: predictions, gradients, training sets, and what matters."""

import numpy as np
from astropy.stats import mad_std
from bokeh.layouts import gridplot
from bokeh.models import Range1d, Span
from bokeh.plotting import figure
from scipy.ndimage import gaussian_filter

from spectool.explore.plots import MASS_LABEL, add_bars, flat_legend
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED, OKABE_ITO

EARLY, LATE = OKABE_ITO["vermillion"], OKABE_ITO["black"]
CONTOURS = (0.05, 0.15, 0.3, 0.5, 0.75)  # of the highest density
BLUES = ("#C6DBEF", "#9ECAE1", "#6BAED6", "#3182BD", "#08519C")
DOTS = "#A8A8A8"


def _signed(value, digits=2):
    return f"{value:+.{digits}f}".replace("-", "−")


def plot_one_to_one(panels, *, columns=2, most=4000, height=330):
    """Predictions against labels as contours of their density (Figs. 6 and 8 of Liew-Cain et al. 2021).

    Parameters
    ----------
    panels : dict of str to (str, array_like, array_like)
        By title: name of the quantity with its unit, labels and predictions, each (spectrum,) [dex]. Panels of one
        quantity have one range.
    columns : int
        Panels in a row.
    most : int
        Spectra drawn as points, evenly from all; contours and numbers are of all.
    height : int

    Returns
    -------
    bokeh layout
        Contours at 5, 15, 30, 50 and 75% of the highest density; robust scatter and median of predicted - label in the
        titles.
    """
    clean = {}
    for title, (name, label, predicted) in panels.items():
        pair = np.stack([np.asarray(label, float), np.asarray(predicted, float)])
        clean[title] = name, pair[:, np.isfinite(pair).all(axis=0)]
    ranges = {}
    for name in {name for name, _ in clean.values()}:
        everything = np.concatenate([pair.ravel() for other, pair in clean.values() if other == name])
        low, high = (float(v) for v in np.quantile(everything, [0.002, 0.998]))
        margin = 0.05 * (high - low)
        ranges[name] = low - margin, high + margin
    plots = []
    for title, (name, (label, predicted)) in clean.items():
        low, high = ranges[name]
        apart = predicted - label
        plot = figure(
            title=f"{title}: σ = {mad_std(apart):.3f} dex, median {_signed(np.median(apart), 3)}",
            width=FIGURE_WIDTH // columns,
            height=height,
            tools="save",
            x_range=Range1d(low, high),
            y_range=Range1d(low, high),
            x_axis_label=f"label: {name}",
            y_axis_label=f"predicted: {name}",
        )
        plot.title.text_font_size = "13px"
        some = np.linspace(0, label.size - 1, min(most, label.size)).astype(int)
        dots = {"size": 2.5, "color": DOTS, "alpha": 0.4, "line_color": None}
        plot.scatter(label[some].astype("f4"), predicted[some].astype("f4"), **dots)
        _draw_contours(plot, label, predicted, (low, high))
        plot.line([low, high], [low, high], color="black", line_width=1.5)
        plots.append(plot)
    rows = [plots[k : k + columns] for k in range(0, len(plots), columns)]
    return gridplot(rows, toolbar_location=None)


def _draw_contours(plot, x, y, limits, bins=90):
    counts, edges, _ = np.histogram2d(x, y, bins=bins, range=(limits, limits))
    density = gaussian_filter(counts.T, 1.5)
    middle = 0.5 * (edges[1:] + edges[:-1])
    if density.max() > 0:
        plot.contour(
            middle, middle, density / density.max(), list(CONTOURS), line_color=list(BLUES), line_width=2
        )


def plot_gradient_differences(panels, *, reach=None, size=330):
    """Errors of both gradients against each other, with their histograms (Figs. 7 and 9 of Liew-Cain et al. 2021).

    Parameters
    ----------
    panels : dict of str to (array_like, array_like, array_like, array_like)
        By title: predicted minus label gradient of log Z, its error, the same of log age, and its error, each
        (galaxy,) [dex/Re]; NaN where a galaxy has no gradient.
    reach : float, optional
        Ends of all axes; default: what holds 98%.
    size : int
        Side of a panel, screen pixels.

    Returns
    -------
    bokeh layout
        Histograms in bins of 0.05 dex/Re; number of galaxies and robust scatters [dex/Re] in the titles.
    """
    clean = {}
    for title, columns in panels.items():
        table = np.stack([np.asarray(column, float) for column in columns])
        clean[title] = table[:, np.isfinite(table).all(axis=0)]
    if reach is None:
        reach = float(np.quantile(np.abs(np.concatenate([t[[0, 2]].ravel() for t in clean.values()])), 0.98))
        reach = 0.05 * np.ceil(reach / 0.05 + 1e-9)
    shared, row = (Range1d(-reach, reach), Range1d(-reach, reach)), []
    edges = 0.05 * np.arange(-np.ceil(reach / 0.05), np.ceil(reach / 0.05) + 1)
    for title, (metal, metal_error, age, age_error) in clean.items():
        main = figure(width=size, height=size, tools="save", x_range=shared[0], y_range=shared[1])
        main.xaxis.axis_label = "gradient of log Z: predicted − label (dex/Re)"
        main.yaxis.axis_label = "gradient of log age: predicted − label (dex/Re)"
        main.axis.axis_label_text_font_size = "12px"
        main.axis.ticker.desired_num_ticks = 5
        for dimension in ("width", "height"):
            main.add_layout(Span(location=0, dimension=dimension, line_color=MUTED, line_dash="dotted"))
        error = {"color": CYCLE[1], "alpha": 0.35, "line_width": 1}
        main.segment(metal - metal_error, age, metal + metal_error, age, **error)
        main.segment(metal, age - age_error, metal, age + age_error, **error)
        main.scatter(metal, age, marker="x", size=6, color="black", line_width=1.3)
        top = figure(width=size, height=110, tools="", x_range=shared[0])
        right = figure(width=110, height=size, tools="", y_range=shared[1])
        bars = {"color": OKABE_ITO["sky_blue"], "line_color": "white"}
        top.quad(edges[:-1], edges[1:], np.histogram(metal, edges)[0].astype("f4"), 0, **bars)
        heights = np.histogram(age, edges)[0].astype("f4")
        right.quad(0, heights, edges[1:], edges[:-1], **bars)
        top.yaxis.axis_label = right.xaxis.axis_label = "galaxies"
        top.title = f"{title} ({metal.size}): σ(age) {mad_std(age):.3f}, σ(Z) {mad_std(metal):.3f}"
        top.title.text_font_size = "13px"
        top.xaxis.visible = right.yaxis.visible = False
        main.min_border_left = top.min_border_left = 64
        for plot in (top, right):
            plot.axis.major_label_text_font_size = "10px"
            plot.axis.axis_label_text_font_size = "12px"
        row.append(gridplot([[top, None], [main, right]], toolbar_location=None))
    return gridplot([row], toolbar_location=None)


def plot_gradients_by_mass(sample, gradients, *, quantity="log age", bins=(6, 10), height=330):
    """Gradients against stellar mass, by label and by prediction (Fig. 14 of Liew-Cain et al. 2021).

    Parameters
    ----------
    sample : xarray.Dataset
        ``log_mass`` [dex(Msun)] and ``is_early`` (galaxy,).
    gradients : dict of str to array_like, shape (galaxy,)
        By title [dex/Re]; NaN where there is none.
    quantity : str
    bins : (int, int)
        Galaxies per bin, early and late types; the last bin takes what is left.
    height : int

    Returns
    -------
    bokeh layout
        Open: galaxies (early types red circles, late types black squares); filled: means of bins with their standard
        deviations.
    """
    mass, early = sample["log_mass"].values.astype(float), sample["is_early"].values.astype(bool)
    values = {title: np.asarray(column, float) for title, column in gradients.items()}
    everything = np.concatenate(list(values.values()))
    low, high = (float(v) for v in np.nanquantile(everything, [0.005, 0.995]))
    margin = 0.06 * (high - low)
    shared = (
        Range1d(float(mass.min()) - 0.1, float(mass.max()) + 0.1),
        Range1d(low - margin, high + 3 * margin),
    )
    row = []
    for title, slope in values.items():
        first = not row
        plot = figure(
            title=title,
            width=(FIGURE_WIDTH - 20) // len(values) + 20 * first,
            height=height,
            tools="save",
            x_range=shared[0],
            y_range=shared[1],
            x_axis_label=MASS_LABEL,
            y_axis_label=f"gradient of {quantity} (dex/Re)" if first else None,
        )
        plot.add_layout(Span(location=0, dimension="width", line_color=MUTED, line_dash="dotted"))
        kinds = ((early, EARLY, "circle", "early", bins[0]), (~early, LATE, "square", "late", bins[1]))
        for some, color, marker, name, size in kinds:
            some = some & np.isfinite(slope)
            open_ = {"fill_color": None, "line_color": color, "line_alpha": 0.5, "size": 5, "marker": marker}
            plot.scatter(mass[some], slope[some], **open_)
            x, y, spread = bin_equally(mass[some], slope[some], size, np.mean, np.std)
            named = {"legend_label": name} if first else {}
            plot.scatter(x, y, marker=marker, size=9, color=color, **named)
            add_bars(plot, x, y, spread, color)
        row.append(plot)
    row[0].legend.location = "top_left"
    flat_legend(row[0])
    return gridplot([row], toolbar_location=None)


def bin_equally(x, y, size, centre, spread):
    """Bin points by their neighbours in x."""
    order = np.argsort(x, kind="stable")
    cuts = np.arange(size, max(x.size - size, 0) + 1, size)
    groups = [g for g in np.split(order, cuts) if g.size]
    pairs = [(np.median(x[g]), centre(y[g]), spread(y[g])) for g in groups]
    return tuple(np.array(pairs, float).reshape(-1, 3).T)
