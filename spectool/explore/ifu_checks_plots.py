"""Figures of the narrow-band notebook that test predictions: training sets, properties of galaxies, single bands."""

import numpy as np
import pandas as pd
from astropy.stats import mad_std
from bokeh.layouts import gridplot
from bokeh.models import BoxAnnotation, FixedTicker, NumeralTickFormatter, Range1d, Span
from bokeh.plotting import figure

from spectool.explore.ifu_data import QUANTITIES, band_wavelengths
from spectool.explore.ifu_plots import absorption_marks
from spectool.explore.ifu_result_plots import DOTS, bin_equally
from spectool.explore.plots import add_bars, flat_legend, plot_matrix
from spectool.explore.spectrum import WAVELENGTH_LABEL
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED

SCATTER_LABEL = "robust scatter (dex)"
SIZE_LABELS = {
    "size": "part of the sample that trains",
    "n_galaxies": "galaxies that train",
    "n_spectra": "spectra that train",
}
MOST = 0.6  # dex, about what random guesses scatter by


def plot_types(scores, *, full=None, digits=2):
    """Robust scatter by the types of galaxies trained on and asked about (Table 1 of Liew-Cain et al. 2021).

    Parameters
    ----------
    scores : dict of str to xarray.Dataset
        By title, such as "log age": ``sigma`` (training, application) [dex], from
        `tools.make.training_experiments.train_types`.
    full : dict of str to float, optional
        By title, the scatter with all types in both sets [dex].
    digits : int

    Returns
    -------
    bokeh layout
        Panels have one scale of colours.
    """
    tables = {
        title: one["sigma"].transpose("application", "training").to_pandas() for title, one in scores.items()
    }
    for title, value in (full or {}).items():
        tables[title].loc["full set", "full set"] = value
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


def plot_training_size(curves, *, by="size", random=None, width=FIGURE_WIDTH, height=350):
    """Scatter against the size of the training set (Fig. 13 of Liew-Cain et al. 2021).

    Parameters
    ----------
    curves : dict of str to sequence of xarray.Dataset
        By the name in the legend, one or more of what `tools.make.training_experiments.train_sizes` returns:
        ``sigma`` (size, repeat) [dex], drawn as mean and standard deviation over the repeats.
    by : {"size", "n_galaxies", "n_spectra"}
        What is along the axis.
    random : float, optional
        Scatter of random guesses, dotted.
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    plot = figure(width=width, height=height, tools="save", x_axis_type="log")
    plot.xaxis.axis_label, plot.yaxis.axis_label = SIZE_LABELS[by], SCATTER_LABEL
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    highest, ends = random or 0.0, []
    for k, ((name, parts), color) in enumerate(zip(curves.items(), CYCLE, strict=False)):
        x = np.concatenate([part[by].values for part in parts]).astype(float)
        y, error = (
            np.concatenate([getattr(part["sigma"], what)("repeat").values for part in parts])
            for what in ("mean", "std")
        )
        order = np.argsort(x)
        x, y, error = x[order], y[order], error[order]
        dash = ("solid", "dashed", "dotdash", "dotted")[k % 4]
        plot.line(x, y, color=color, line_width=2.2, line_dash=dash, legend_label=name)
        plot.scatter(x, y, color=color, size=7, legend_label=name)
        add_bars(plot, x, y, error, color)
        highest, ends = max(highest, float((y + error).max())), [*ends, *x]
    if random is not None:
        dotted = {"color": MUTED, "line_dash": "dotted", "line_width": 2.5}
        plot.line([min(ends), max(ends)], [random] * 2, legend_label="random guesses", **dotted)
    plot.x_range, plot.y_range = Range1d(0.85 * min(ends), 1.15 * max(ends)), Range1d(0, 1.08 * highest)
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    return plot


def plot_error_curves(curves, *, dim, x_label, height=310):
    """Scatter, stated error and coverage as spectra get worse: noisier, or with more bands missing.

    Parameters
    ----------
    curves : dict of str to xarray.Dataset
        By the name in the legend: ``sigma``, ``error`` and ``coverage`` (dim, property), from
        `spectool.papers.liewcain2021.network.score_noise` or ``score_missing``.
    dim : str
    x_label : str
    height : int

    Returns
    -------
    bokeh layout
        A panel per property with scatter (solid) and median stated error (dashed), then the share of labels within
        1 sigma: 68 +- 3% is grey; curves without errors have none.
    """
    first = next(iter(curves.values()))
    levels = [float(v) for v in first[dim].values]
    titles = {str(name): f"{QUANTITIES[str(name)]}: scatter, error" for name in first["property"].values}
    row = []
    for name, title in [*titles.items(), (None, "coverage")]:
        plot = figure(title=title, width=FIGURE_WIDTH // (len(titles) + 1), height=height, tools="save")
        plot.xaxis.axis_label = x_label
        plot.xaxis.ticker = FixedTicker(ticks=list(range(len(levels))))
        plot.xaxis.major_label_overrides = {
            k: f"{v:g}" if np.isfinite(v) else "∞" for k, v in enumerate(levels)
        }
        plot.title.text_font_size = "13px"
        draw = _draw_coverage if name is None else _draw_errors
        draw(plot, {title: one if name is None else one.sel(property=name) for title, one in curves.items()})
        row.append(plot)
    for plot in row[1:-1]:
        plot.legend.visible = False
    row[0].legend.location = "top_right" if levels[0] < levels[-1] and dim == "sn" else "top_left"
    return gridplot([row], toolbar_location=None)


def _draw_errors(plot, curves):
    plot.yaxis.axis_label = "dex"
    highest = 0.0
    for (name, one), color in zip(curves.items(), CYCLE, strict=False):
        for column, dash in (("sigma", "solid"), ("error", "dashed")):
            values = one[column].values.astype(float)
            if np.isfinite(values).any():
                x = np.arange(values.size)
                plot.line(x, values, color=color, line_dash=dash, line_width=2.2, legend_label=name)
                plot.scatter(x, values, color=color, size=5 if dash == "solid" else 0, legend_label=name)
                # A network that was never shown noise errs by many dex: it may leave the frame.
                highest = max(highest, float(np.nanmax(np.minimum(values, MOST))))
    plot.y_range = Range1d(0, 1.3 * highest)


def _draw_coverage(plot, curves):
    plot.yaxis.axis_label = "labels within 1σ (%)"
    shade = {"fill_color": "#DCDCDC", "fill_alpha": 0.8, "line_color": None, "level": "underlay"}
    plot.add_layout(BoxAnnotation(bottom=65.3, top=71.3, **shade))
    seen = [62.0, 74.0]
    for curve, color in zip(curves.values(), CYCLE, strict=False):
        for k, name in enumerate(curve["property"].values):
            values = 100 * curve["coverage"].sel(property=name).values.astype(float)
            if np.isfinite(values).any():
                x, dash = np.arange(values.size), ("solid", "dotdash")[k % 2]
                label = QUANTITIES[str(name)].removesuffix(" (Gyr)")
                plot.line(x, values, color=color, line_dash=dash, line_width=2.2, legend_label=label)
                seen += [float(np.nanmin(values)) - 2, float(np.nanmax(values)) + 2]
    plot.y_range = Range1d(min(seen), max(seen) + 5)  # the legend needs room


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


def plot_band_importance(importance, *, height=300):
    """What each band is worth to a prediction, over the absorption features that it may see.

    Parameters
    ----------
    importance : xarray.Dataset
        ``importance`` and ``importance_error`` (band, property) [dex], from
        `spectool.models.ensemble.band_importance`: by how much the mean error grows when a
        band's values are
        swapped among spectra.
    height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    wavelength, _ = band_wavelengths(importance)
    window = float(wavelength.min()) - 120, float(wavelength.max()) + 120
    top = float((importance["importance"] + importance["importance_error"]).max())
    plot = figure(
        width=FIGURE_WIDTH,
        height=height,
        tools="save",
        x_range=Range1d(*window),
        y_range=Range1d(min(0.0, float(importance["importance"].min())), 1.45 * top),
        x_axis_label=WAVELENGTH_LABEL,
        y_axis_label="growth of mean error (dex)",
    )
    absorption_marks(plot, window, FIGURE_WIDTH - 80)
    names = importance["property"].values
    wide = 80.0 / len(names)
    for k, (name, color) in enumerate(zip(names, CYCLE, strict=False)):
        one = importance.sel(property=name)
        value, error = (one[column].values.astype(float) for column in ("importance", "importance_error"))
        x = wavelength + wide * (k - (len(names) - 1) / 2)
        label = QUANTITIES[str(name)].removesuffix(" (Gyr)")
        plot.vbar(x, 0.95 * wide, value, 0, color=color, line_color=None, legend_label=label)
        add_bars(plot, x, value, error, "#404040")
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    return plot
