"""Figures of the broadband notebook that test predictions: bands, errors, and the teacher against the truth."""

import numpy as np
from bokeh.layouts import column, gridplot
from bokeh.models import (
    BoxAnnotation,
    ColumnDataSource,
    FactorRange,
    Legend,
    LegendItem,
    Range1d,
    Span,
    Whisker,
)
from bokeh.transform import dodge
from scipy.stats import norm

from spectool.explore.plots import SFR_LABEL
from spectool.explore.sed_network_plots import running_lines
from spectool.explore.sed_plots import COLORS, FACILITY_COLORS, LABELS, NAMES, band_colors, bare_figure
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED
from spectool.measure.sedfit import score_fit
from spectool.spectra import ONE_SIGMA

TOLERANCE = 0.03
LEGEND_WIDTH = 95
CLASS_COLORS = {"star-forming": CYCLE[0], "quiescent": CYCLE[1]}


def plot_importance(importance, *, height=470):
    """What each band, and the redshift, is worth to a prediction, coloured by facility.

    Parameters
    ----------
    importance : Dataset, dims (input, property)
        From `spectool.models.ensemble.band_importance`; of several networks joined along ``property``.
    height : int

    Returns
    -------
    bokeh layout
        A panel per property: by how much the mean absolute error grows when the values of an input are swapped among
        galaxies, with its deviation over the permutations.
    """
    inputs, row = [str(name) for name in importance["input"].values], []
    for name in importance["property"].values:
        one = importance.sel(property=name)
        value, error = one["importance"].values, one["importance_error"].values
        first = not row
        plot = bare_figure(
            NAMES[str(name)],
            width=(FIGURE_WIDTH - 60 - LEGEND_WIDTH) // importance.sizes["property"] + 60 * first,
            height=height,
            x_label="growth of mean error (dex)",
            y_label=None,
            y_range=inputs[::-1],
            x_range=Range1d(min(0.0, float((value - error).min())), 1.05 * float((value + error).max())),
        )
        columns = {"y": inputs, "value": value, "low": value - error, "high": value + error}
        source = ColumnDataSource(columns | {"color": band_colors(inputs)})
        plot.hbar("y", right="value", height=0.75, color="color", line_color=None, source=source)
        bars = {"base": "y", "lower": "low", "upper": "high", "dimension": "width"}
        whisker = Whisker(source=source, line_color="black", **bars)
        whisker.upper_head.size = whisker.lower_head.size = 4
        plot.add_layout(whisker)
        plot.yaxis.visible = first
        plot.yaxis.major_label_text_font_size = "12px"
        plot.ygrid.grid_line_color = None
        row.append(plot)
    colors = FACILITY_COLORS | {"redshift": MUTED}
    _add_legend(row[-1], colors, "right", location="top_left", margin=4)
    row[-1].width += LEGEND_WIDTH
    return gridplot([row], toolbar_location=None)


def _add_legend(plot, colors, side, **options):
    """Name colours on a side of a figure, whatever it draws."""
    items = [
        LegendItem(
            label=name, renderers=[plot.scatter([np.nan], [np.nan], marker="square", size=11, color=color)]
        )
        for name, color in colors.items()
    ]
    plot.add_layout(Legend(items=items, label_text_font_size="12px", **options), side)


def plot_missing_curve(curve, without=None, *, height=340):
    """Scatter and stated error as bands go missing, one by one and facility by facility.

    Parameters
    ----------
    curve : Dataset, dims (n_missing, property)
        From `spectool.papers.surana2020.network.missing_curve`.
    without : Dataset, dims (facility, property), optional
        From `spectool.papers.surana2020.network.missing_facilities`.
    height : int

    Returns
    -------
    bokeh layout
        Scatter solid (bars), a standard deviation, which outliers widen; the median stated error dashed (black marks).
    """
    left = bare_figure(
        width=FIGURE_WIDTH // 2 - 20,
        height=height,
        x_label="random bands missing (of 21)",
        y_label="dex",
        y_range=Range1d(0, 1.08 * float(max(curve["sigma"].max(), curve["error"].max()))),
    )
    x = curve["n_missing"].values
    for name in curve["property"].values:
        one, color = curve.sel(property=name), COLORS[str(name)]
        style = {"color": color, "line_width": 2.2, "legend_label": NAMES[str(name)]}
        left.line(x, one["sigma"].values, **style)
        left.scatter(x, one["sigma"].values, color=color, size=6, legend_label=NAMES[str(name)])
        left.line(x, one["error"].values, line_dash="dashed", **style)
    left.title = "scatter (solid), stated error (dashed)"
    left.title.text_font_size = "13px"
    left.legend.location = "top_left"
    panels = [left] if without is None else [left, _facility_bars(without, height)]
    return gridplot([panels], toolbar_location=None)


def _facility_bars(without, height):
    names = [str(name) for name in without["facility"].values]
    plot = bare_figure(
        "scatter without a facility (bars), stated error (lines)",
        width=FIGURE_WIDTH // 2 + 20,
        height=height,
        x_label="facility left out",
        y_label="dex",
        x_range=FactorRange(*names),
        y_range=Range1d(0, 1.12 * float(max(without["sigma"].max(), without["error"].max()))),
    )
    plot.title.text_font_size = "13px"
    wide = 0.8 / without.sizes["property"]
    for k, name in enumerate(without["property"].values):
        one = without.sel(property=name)
        place = dodge("x", wide * (k - (without.sizes["property"] - 1) / 2), range=plot.x_range)
        columns = {"x": names, "sigma": one["sigma"].values, "error": one["error"].values}
        source = ColumnDataSource(columns)
        plot.vbar(place, top="sigma", width=0.92 * wide, color=COLORS[str(name)], source=source)
        plot.scatter(place, "error", marker="dash", size=15, line_width=3, color="black", source=source)
    plot.xgrid.grid_line_color = None
    return plot


def plot_coverage(predicted, labels, error, outputs, *, curve=None, height=330):
    """Whether stated errors hold the share of labels that they should.

    Parameters
    ----------
    predicted, labels, error : array_like, shape (N, property)
        Predictions, what they are compared with, and stated 1 sigma [dex].
    outputs : sequence of str
        The properties.
    curve : Dataset, dims (n_missing, property), optional
        From `spectool.papers.surana2020.network.missing_curve`.
    height : int

    Returns
    -------
    bokeh layout
        Left, the share found within intervals of every level; right, within 1 sigma by number of missing bands. Grey:
        3% about what is right.
    """
    levels = np.linspace(0.02, 0.98, 49)
    reach = norm.ppf(0.5 + levels / 2)
    left = bare_figure(
        width=FIGURE_WIDTH // 2,
        height=height,
        x_label="level of the interval, Gaussian (%)",
        y_label="labels within (%)",
        x_range=Range1d(0, 100),
        y_range=Range1d(0, 100),
    )
    ends = np.array([0.0, 100.0])
    left.varea(ends, ends - 100 * TOLERANCE, ends + 100 * TOLERANCE, color="#DCDCDC", alpha=0.8)
    left.add_layout(Span(location=100 * ONE_SIGMA, dimension="height", line_color=MUTED, line_dash="dotted"))
    pull = np.abs(np.asarray(predicted, float) - np.asarray(labels, float)) / np.asarray(error, float)
    for k, name in enumerate(outputs):
        known = np.sort(pull[np.isfinite(pull[:, k]), k])
        share = np.searchsorted(known, reach, side="right") / max(len(known), 1)
        within = np.mean(known <= 1)
        style = {"color": COLORS[name], "line_width": 2.2, "legend_label": f"{NAMES[name]}: {within:.1%}"}
        left.line(100 * levels, 100 * share, **style)
    left.legend.location = "top_left"
    left.legend.title = "within 1σ"
    left.legend.title_text_font_size = "12px"
    panels = [left] if curve is None else [left, _coverage_by_gaps(curve, height)]
    return gridplot([panels], toolbar_location=None)


def _coverage_by_gaps(curve, height):
    low, high = 100 * float(curve["coverage"].min()), 100 * float(curve["coverage"].max())
    right = 100 * (ONE_SIGMA + TOLERANCE), 100 * (ONE_SIGMA - TOLERANCE)
    plot = bare_figure(
        width=FIGURE_WIDTH // 2,
        height=height,
        x_label="random bands missing (of 21)",
        y_label="labels within 1σ (%)",
        y_range=Range1d(min(low, right[1]) - 2, max(high, right[0]) + 2),
    )
    shade = {"fill_color": "#DCDCDC", "fill_alpha": 0.8, "line_color": None, "level": "underlay"}
    plot.add_layout(BoxAnnotation(bottom=right[1], top=right[0], **shade))
    for name in curve["property"].values:
        y = 100 * curve["coverage"].sel(property=name).values
        plot.line(curve["n_missing"].values, y, color=COLORS[str(name)], line_width=2.2)
        plot.scatter(curve["n_missing"].values, y, color=COLORS[str(name)], size=6)
    return plot


def plot_teacher_vs_truth(sample, *, suffix="_fit", by="log_sfr", x_label=f"true {SFR_LABEL}", height=320):
    """How far the teacher's labels are from the truth, by star formation and class.

    Parameters
    ----------
    sample : Dataset
        Truths ``log_mass``, ``log_sfr``, ``log_dust_luminosity``, the same with the teacher's suffix, and
        ``is_quiescent`` (galaxy).
    suffix, by, x_label : str
        `by` is the column along the axis.
    height : int

    Returns
    -------
    bokeh layout
        A panel per property: running median and 16-84% of teacher - truth; bias and scatter of all in the titles.
    """
    scores, row = score_fit(sample, prediction=suffix), []
    quiescent, x = sample["is_quiescent"].values.astype(bool), sample[by].values.astype(float)
    for name in LABELS:
        off = sample[name + suffix].values.astype(float) - sample[name].values
        one = scores.sel(property=name)
        first = not row
        plot = bare_figure(
            f"{NAMES[name]}: bias {float(one['bias']):+.2f}, scatter {float(one['scatter']):.2f}".replace(
                "-", "−"
            ).replace("star−formation", "star-formation"),
            width=FIGURE_WIDTH // 3,
            height=height,
            x_label=x_label,
            y_label="teacher − truth (dex)",
        )
        plot.title.text_font_size = "12px"
        plot.add_layout(Span(location=0, dimension="width", line_color="black", line_width=1))
        for (kind, color), some in zip(CLASS_COLORS.items(), (~quiescent, quiescent), strict=True):
            middle, (low, centre, high) = running_lines(x[some], off[some])
            named = {"legend_label": kind} if first else {}
            plot.varea(middle, low, high, color=color, alpha=0.2, **named)
            plot.line(middle, centre, color=color, line_width=2.5, **named)
        row.append(plot)
    row[0].legend.location = "bottom_left"
    return gridplot([row], toolbar_location=None)


def plot_scatter_cause(panels, *, x_label=f"teacher's {SFR_LABEL}", y_label="scatter (dex)", height=300):
    """What the scatter at low star-formation rates comes from: curves of scatter against the rate.

    Parameters
    ----------
    panels : dict of str to (dict of str to (array_like, array_like))
        From `spectool.measure.sedfit.trace_scatter`, or some of it: by title, and by name in the legend, rates
        [dex(Msun / yr)] and scatter [dex], each (bin,); NaN: too few galaxies. Curves of one name have one colour.
    x_label, y_label : str
    height : int

    Returns
    -------
    bokeh layout
        A panel per title, the legend below.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    color = dict(zip(names, CYCLE, strict=False))
    everything = [np.asarray(pair, float) for curves in panels.values() for pair in curves.values()]
    rates, scatter = np.concatenate(everything, axis=1)
    rates, highest = rates[np.isfinite(scatter)], np.nanmax(scatter)
    margin, row = 0.06 * float(np.ptp(rates)) + 0.01, []
    shared = {"y_range": Range1d(0, 1.08 * float(highest))}
    shared["x_range"] = Range1d(float(rates.min()) - margin, float(rates.max()) + margin)
    for title, curves in panels.items():
        first = not row
        plot = bare_figure(
            title,
            width=(FIGURE_WIDTH - 40) // len(panels) + 40 * first,
            height=height,
            x_label=x_label,
            y_label=y_label if first else None,
            **shared,
        )
        for name, (x, y) in curves.items():
            good = np.isfinite(np.asarray(x, float)) & np.isfinite(np.asarray(y, float))
            x, y = np.asarray(x, float)[good], np.asarray(y, float)[good]
            plot.line(x, y, color=color[name], line_width=2.2)
            plot.scatter(x, y, color=color[name], size=6)
        row.append(plot)
    key = bare_figure(width=FIGURE_WIDTH, height=18 + 24 * -(-len(names) // 3), x_label=None, y_label=None)
    key.toolbar_location = key.outline_line_color = None
    key.axis.visible = key.grid.visible = False
    _add_legend(key, color, "center", location="center", ncols=3, spacing=4)
    return column(gridplot([row], toolbar_location=None), key)
