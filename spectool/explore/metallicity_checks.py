"""Figures that test a metallicity: error and coverage by noise, confusion with age, stacks against galaxies."""

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import BoxAnnotation, FixedTicker, Range1d, Span
from bokeh.plotting import figure

from spectool.explore.plots import MASS_LABEL, add_bars, flat_legend
from spectool.explore.spectrum import TOOLS
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED, OKABE_ITO

SN_LABEL = "S/N per Å of the spectrum"
NOISE_FREE = "noise-free"


def plot_by_sn(
    scores, *, y_label="RMSE of log Z* (dex)", errors=None, band=None, title="", width=560, height=330
):
    """A score against the noise of the spectra: errors, or the coverage of error bars.

    Parameters
    ----------
    scores : dict of str to (dict of (float or str) to float)
        By the name in the legend, the score by S/N; "noise-free" or infinity is the last.
    y_label : str
    errors : dict of str to (dict of (float or str) to float), optional
        Of the scores, drawn as bars.
    band : (float, float), optional
        Where scores should lie, shaded.
    title : str
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    levels = list(dict.fromkeys(level for values in scores.values() for level in values))
    labels = [_level_name(level) for level in levels]
    plot = figure(title=title or None, width=width, height=height, tools="save")
    plot.xaxis.axis_label, plot.yaxis.axis_label = SN_LABEL, y_label
    if band is not None:
        low, high = band
        grey = {"fill_color": "#DCDCDC", "fill_alpha": 0.7, "line_color": None}
        plot.add_layout(BoxAnnotation(bottom=low, top=high, level="image", **grey))
    reach = list(band or (0.0,))
    for k, ((name, values), color) in enumerate(zip(scores.items(), CYCLE, strict=False)):
        x = np.array([levels.index(level) for level in values], float)
        x += 0.04 * (k - (len(scores) - 1) / 2)
        y = np.array(list(values.values()), float)
        plot.line(x, y, color=color, line_width=2, legend_label=name)
        plot.scatter(x, y, color=color, size=8, legend_label=name)
        bars = np.array([(errors or {}).get(name, {}).get(level, 0.0) for level in values], float)
        if bars.any():
            add_bars(plot, x, y, bars, color)
        reach += [*(y - bars), *(y + bars)]
    margin = 0.08 * (max(reach) - min(reach))
    plot.y_range = Range1d(float(min(reach) - margin * (band is not None)), float(max(reach) + margin))
    plot.x_range = Range1d(-0.4, len(levels) - 0.6)
    plot.xaxis.ticker = FixedTicker(ticks=list(range(len(levels))))
    plot.xaxis.major_label_overrides = dict(enumerate(labels))
    if len(scores) > 1:
        _legend_above(plot, columns=2)
    else:
        plot.legend.visible = False
    return plot


def _legend_above(plot, *, columns, side="above"):
    plot.add_layout(plot.legend[0], side)
    flat_legend(plot)
    plot.legend.ncols, plot.legend.spacing = columns, 2


def _level_name(level):
    return level if isinstance(level, str) else NOISE_FREE if not np.isfinite(level) else f"{level:g}"


def plot_degeneracy(panels, *, title="", reach=None, most=1500, size=270):
    """Errors of age and of metallicity against each other: old and metal-poor looks like young and metal-rich.

    Parameters
    ----------
    panels : dict of str to (array_like, array_like)
        By title (say, the S/N), predicted minus true: log age and log Z [dex], each (galaxy,).
    title : str
    reach : float, optional
        Ends of both axes [dex]; default: what holds 98%.
    most : int
        Galaxies drawn per panel, the first ones.
    size : int
        Side of a panel, screen pixels.

    Returns
    -------
    bokeh layout
        With the ellipse that holds 68% of a Gaussian of the same covariance, and the correlation.
    """
    clean = {}
    for name, pair in panels.items():
        age, metal = (np.asarray(v, float) for v in pair)
        good = np.isfinite(age) & np.isfinite(metal)
        clean[name] = (age[good], metal[good])
    if reach is None:
        reach = max(float(np.quantile(np.abs(np.concatenate(pair)), 0.98)) for pair in clean.values())
    shared, row = (Range1d(-reach, reach), Range1d(-reach, reach)), []
    for k, (name, (age, metal)) in enumerate(clean.items()):
        first = k == 0
        plot = figure(width=size + (54 if first else 0), height=size + 70, tools="", toolbar_location=None)
        plot.x_range, plot.y_range = shared
        plot.title = f"{name}: r = {_signed(np.corrcoef(age, metal)[0, 1], 2)}"
        plot.title.text_font_size = "13px"
        for dimension in ("width", "height"):
            plot.add_layout(Span(location=0, dimension=dimension, line_color=MUTED, line_dash="dotted"))
        dots = {"size": 3, "color": OKABE_ITO["blue"], "alpha": 0.35, "line_color": None}
        plot.scatter(age[:most].astype("f4"), metal[:most].astype("f4"), **dots)
        plot.line(*_ellipse(age, metal), color=OKABE_ITO["vermillion"], line_width=2.5)
        plot.xaxis.axis_label = "log age: predicted − true (dex)"
        plot.yaxis.visible = first
        plot.yaxis.axis_label = "log Z*: predicted − true (dex)" if first else None
        plot.min_border_left = 54 if first else 5
        row.append(plot)
    layout = gridplot([row], toolbar_location=None)
    if title:
        row[0].title.text = f"{title}. {row[0].title.text}"
    return layout


def _signed(value, digits):
    """A number with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _ellipse(x, y):
    """The 68% ellipse of the Gaussian with the same mean and covariance: (x, y), each (101,)."""
    values, vectors = np.linalg.eigh(np.cov(x, y))
    angle = np.linspace(0, 2 * np.pi, 101)
    # Within k sigma of a two-dimensional Gaussian lie 1 - exp(-k^2 / 2): 68.27% at k = 1.515.
    circle = np.sqrt(-2 * np.log(1 - 0.6827)) * np.stack([np.cos(angle), np.sin(angle)])
    points = vectors @ (np.sqrt(np.clip(values, 0, None))[:, None] * circle)
    return (points[0] + x.mean()).astype("f4"), (points[1] + y.mean()).astype("f4")


def plot_offset(explained, *, width=FIGURE_WIDTH, height=360):
    """Why the median of galaxies lies off their stack: each cause by mass, and all of them summed up.

    Parameters
    ----------
    explained : Dataset
        From `spectool.measure.offset.explain_offset`.
    width, height : int

    Returns
    -------
    bokeh layout
        Left, contributions by mass and their sum (black); right, means over galaxies as steps from 0 to the sum.
    """
    steps = [str(s) for s in explained["step"].values]
    short = [s.split(":")[0] for s in steps]
    left = figure(width=width // 2 + 40, height=height + 50, tools=TOOLS, title="by mass")
    left.xaxis.axis_label, left.yaxis.axis_label = MASS_LABEL, "galaxies − stack (dex)"
    left.add_layout(Span(location=0, dimension="width", line_color=MUTED, line_width=1))
    x = explained["log_mass"].values
    for k, (step, name) in enumerate(zip(steps, short, strict=True)):
        row = explained.sel(step=step)
        place = x + 0.008 * (k - len(steps) / 2)
        _curve_with_bars(
            left, place, row["contribution"].values, row["contribution_error"].values, CYCLE[k], name
        )
    left.y_range = _range_of_known(explained)
    sum_color = OKABE_ITO["black"]
    _curve_with_bars(left, x, explained["offset"].values, explained["offset_error"].values, sum_color, "sum")
    good = np.isfinite(explained["label_offset"].values)
    dashed = {"color": sum_color, "line_width": 2, "line_dash": "dashed", "legend_label": "true labels"}
    left.line(x[good], explained["label_offset"].values[good], **dashed)
    _legend_above(left, columns=3, side="below")
    return gridplot([[left, _waterfall(explained, short, width - left.width, height)]], toolbar_location=None)


def _range_of_known(explained):
    """Range of the bins that are known well enough: the others may lead out of the frame."""
    error = explained["offset_error"].values
    known = np.isfinite(error) & (error <= 3 * np.nanmedian(error))
    parts = np.vstack([explained["contribution"].values, explained["offset"].values[None]])[:, known]
    errors = np.vstack([explained["contribution_error"].values, error[None]])[:, known]
    low, high = min(float((parts - errors).min()), 0.0), max(float((parts + errors).max()), 0.0)
    return Range1d(low - 0.08 * (high - low), high + 0.08 * (high - low))


def _curve_with_bars(plot, x, y, error, color, name):
    good = np.isfinite(y)
    plot.line(x[good], y[good], color=color, line_width=2, legend_label=name)
    plot.scatter(x[good], y[good], color=color, size=6, legend_label=name)
    add_bars(plot, x[good], y[good], error[good], color)


def _waterfall(explained, short, width, height):
    """Means over mass, each from where the last ended; the sum from 0."""
    mean, error = explained["mean"].values, explained["mean_error"].values
    ends = np.cumsum(mean)
    names = [*short, "sum"]
    starts = np.append(np.append(0, ends[:-1]), 0)
    stops, errors = np.append(ends, ends[-1]), np.append(error, float(explained["mean_offset_error"]))
    colors = [*CYCLE[: len(short)], OKABE_ITO["black"]]
    plot = figure(width=width, height=height, tools="save", title="mean over galaxies", y_range=names[::-1])
    plot.hbar(names, 0.65, stops, starts, color=colors, line_color=None, fill_alpha=0.85)
    reach = max(np.abs(np.concatenate([starts, stops])).max(), 1e-3)
    low, high = min(starts.min(), stops.min()), max(starts.max(), stops.max())
    plot.x_range = Range1d(low - 0.1 * reach, high + 0.95 * (high - low))
    for name, a, b, e in zip(names, starts, stops, errors, strict=True):
        style = {"x_offset": 5, "text_baseline": "middle", "text_font_size": "12px"}
        style |= {"background_fill_color": "white", "background_fill_alpha": 0.85}
        plot.text([max(a, b)], [name], [f"{_signed(b - a, 3)} ± {e:.3f}"], **style)
    zero = Span(location=0, dimension="height", line_color=MUTED, line_width=1, level="underlay")
    plot.add_layout(zero)
    plot.xaxis.axis_label = "galaxies − stack (dex)"
    plot.ygrid.grid_line_color = None
    return plot
