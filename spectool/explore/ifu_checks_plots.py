"""Figures of the narrow-band notebook that test predictions: training sets, properties of galaxies, single bands."""

import numpy as np
import pandas as pd
from astropy.stats import mad_std
from bokeh.layouts import gridplot
from bokeh.models import Range1d, Span
from bokeh.plotting import figure

from spectool.explore.ifu_plots import absorption_marks
from spectool.explore.ifu_result_plots import DOTS, bin_equally
from spectool.explore.metallicity_plots import add_bars, flat_legend
from spectool.explore.plots import plot_matrix
from spectool.explore.spectrum import WAVELENGTH_LABEL
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED

SCATTER_LABEL = "robust scatter (dex)"


def plot_types(tables, *, digits=2):
    """Robust scatter by the types of galaxies trained on and asked about (Table 1 of Liew-Cain et al. 2021).

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        By title, such as "log age": rows are what was asked about, columns what was trained on [dex]; NaN is left
        empty.
    digits : int

    Returns
    -------
    bokeh layout
        Panels have one scale of colours.
    """
    highest, row = max(float(np.nanmax(table.values)) for table in tables.values()), []
    for title, table in tables.items():
        plot = plot_matrix(
            table.values,
            table.index,
            table.columns,
            title=title,
            label=SCATTER_LABEL,
            digits=digits,
            vmax=highest,
        )
        plot.width = FIGURE_WIDTH // len(tables)
        plot.xaxis.axis_label, plot.yaxis.axis_label = "trained on", "asked about"
        plot.xaxis.major_label_orientation = "horizontal"
        plot.height += 30
        row.append(plot)
    return gridplot([row], toolbar_location=None)


def plot_training_size(
    curves,
    *,
    random=None,
    x_label="training set (galaxies)",
    y_label=SCATTER_LABEL,
    width=FIGURE_WIDTH,
    height=350,
):
    """Scatter against the size of the training set (Fig. 13 of Liew-Cain et al. 2021).

    Parameters
    ----------
    curves : dict of str to (array_like, array_like, array_like)
        By the name in the legend: size, scatter [dex] and its error, each (k,).
    random : float, optional
        Scatter of random guesses, dotted.
    x_label, y_label : str
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    plot = figure(
        width=width,
        height=height,
        tools="save",
        x_axis_type="log",
        x_axis_label=x_label,
        y_axis_label=y_label,
    )
    highest = random or 0.0
    for k, ((name, columns), color) in enumerate(zip(curves.items(), CYCLE, strict=False)):
        x, y, error = (np.asarray(column, float) for column in columns)
        dash = ("solid", "dashed", "dotdash", "dotted")[k % 4]
        plot.line(x, y, color=color, line_width=2.2, line_dash=dash, legend_label=name)
        plot.scatter(x, y, color=color, size=7, legend_label=name)
        add_bars(plot, x, y, np.nan_to_num(error), color)
        highest = max(highest, float(np.nanmax(y + np.nan_to_num(error))))
    if random is not None:
        everything = np.concatenate([np.asarray(c[0], float) for c in curves.values()])
        ends = [float(everything.min()), float(everything.max())]
        dotted = {"color": MUTED, "line_dash": "dotted", "line_width": 2.5}
        plot.line(ends, [random] * 2, legend_label="random guesses", **dotted)
    plot.y_range = Range1d(0, 1.08 * highest)
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    return plot


def galaxy_residuals(sample, residual):
    """Median and robust standard deviation of a residual within each galaxy.

    Parameters
    ----------
    sample : xarray.Dataset
        ``galaxy_index`` (spectrum,), and a dimension galaxy.
    residual : array_like, shape (spectrum,)
        Predicted - label [dex]; NaN is left out.

    Returns
    -------
    median, scatter : ndarray, shape (galaxy,)
        NaN where a galaxy has no residual.
    """
    known = pd.Series(np.asarray(residual, float), sample["galaxy_index"].values).dropna()
    table = known.groupby(level=0).agg(["median", mad_std])
    out = np.full((2, sample.sizes["galaxy"]), np.nan)
    out[:, table.index] = table.to_numpy().T
    return out[0], out[1]


def plot_dependence(sample, x, residuals, *, x_label, per_bin=16, height=150):
    """Errors within galaxies against a property of the galaxies (Figs. 10 to 12 of Liew-Cain et al. 2021).

    Parameters
    ----------
    sample : xarray.Dataset
    x : array_like, shape (galaxy,)
    residuals : dict of str to array_like, shape (spectrum,)
        By title: predicted - label [dex]; one row each.
    x_label : str
        With its unit.
    per_bin : int
        Galaxies per bin.
    height : int
        Of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        Left, the median residual of each galaxy, right its robust scatter; red: medians of bins with their robust
        scatter.
    """
    grid, x = [], np.asarray(x, float)
    shared = None
    for k, (title, residual) in enumerate(residuals.items()):
        last = k == len(residuals) - 1
        grid.append([])
        for part, values in zip(("median", "scatter"), galaxy_residuals(sample, residual), strict=True):
            good = np.isfinite(x) & np.isfinite(values)
            ends = np.quantile(values[good], [0.01, 0.99])
            margin = 0.12 * max(float(np.ptp(ends)), 0.01)
            low = 0.0 if part == "scatter" else float(ends[0]) - margin
            plot = figure(
                title=f"{title}, {part}",
                width=FIGURE_WIDTH // 2,
                height=height + (46 if last else 0),
                tools="save",
                y_range=Range1d(low, float(ends[1]) + margin),
                x_axis_label=x_label if last else None,
                y_axis_label="dex",
            )
            shared = shared or plot.x_range
            plot.x_range = shared
            plot.title.text_font_size = "12px"
            dots = {"size": 4, "color": DOTS, "line_color": None}
            plot.scatter(x[good].astype("f4"), values[good].astype("f4"), **dots)
            if part == "median":
                plot.add_layout(Span(location=0, dimension="width", line_color=MUTED, line_dash="dotted"))
            bins = bin_equally(x[good], values[good], per_bin, np.median, mad_std)
            plot.scatter(*bins[:2], size=7, color=CYCLE[1])
            add_bars(plot, *bins, CYCLE[1])
            if not last:
                plot.xaxis.major_label_text_font_size = "0px"
            grid[-1].append(plot)
    return gridplot(grid, toolbar_location=None)


def plot_band_importance(wavelength, importance, *, y_label="growth of mean error (dex)", height=300):
    """What each band is worth to a prediction, over the absorption features that it may see.

    Parameters
    ----------
    wavelength : array_like, shape (band,)
        [Angstrom]
    importance : dict of str to (array_like, array_like)
        By the name in the legend: by how much the error grows when a band's values are swapped among spectra, and its
        error, each (band,).
    y_label : str
    height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    wavelength = np.asarray(wavelength, float)
    window = float(wavelength.min()) - 120, float(wavelength.max()) + 120
    top = max(float(np.max(np.add(*pair))) for pair in importance.values())
    plot = figure(
        width=FIGURE_WIDTH,
        height=height,
        tools="save",
        x_range=Range1d(*window),
        y_range=Range1d(0, 1.45 * top),
        x_axis_label=WAVELENGTH_LABEL,
        y_axis_label=y_label,
    )
    absorption_marks(plot, window, FIGURE_WIDTH - 80)
    wide = 80.0 / len(importance)
    for k, ((name, (value, error)), color) in enumerate(zip(importance.items(), CYCLE, strict=False)):
        x = wavelength + wide * (k - (len(importance) - 1) / 2)
        plot.vbar(
            x, 0.95 * wide, np.asarray(value, float), 0, color=color, line_color=None, legend_label=name
        )
        add_bars(plot, x, np.asarray(value, float), np.asarray(error, float), "#404040")
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    return plot
