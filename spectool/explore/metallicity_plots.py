"""Figures of the metallicity notebook: histories, prepared spectra, mass-metallicity relations, errors by noise."""

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import (
    BoxAnnotation,
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    LinearColorMapper,
    Range1d,
    Span,
)
from bokeh.palettes import Inferno256
from bokeh.plotting import figure

from spectool.explore.plots import MASS_LABEL, METALLICITY_LABEL, SFR_LABEL, add_bars, draw_map, flat_legend
from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks
from spectool.explore.style import CYCLE, DECODED, FIGURE_WIDTH, MUTED, OBSERVED, OKABE_ITO

PREPARED_LABEL = "flux / continuum − 1"
YOUNGEST = 1e-3  # Gyr: where a logarithmic axis of lookback time ends
# From black to orange, as the paper's Fig. 4 from black to red; the yellow end is left out, which is faint on white.
RANK_PALETTE = tuple(Inferno256[:190])


def plot_histories(examples, *, height=190):
    """Star-formation and metallicity histories side by side (Fig. 1 of Zahid et al. 2019).

    Parameters
    ----------
    examples : dict of str to dict
        By title: ``edges``, lookback times [Gyr] of the intervals from the youngest on (k + 1,), and ``log_z`` (k,) in
        them; optional ``log_z_lw``, drawn dashed.
    height : int
        Of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        Above, the star-formation rate per mass formed; below, the metallicity in intervals of equal light.
    """
    width = (FIGURE_WIDTH - 58) // len(examples)
    everything = np.concatenate([np.asarray(e["log_z"], float) for e in examples.values()])
    low, high = float(everything.min()), float(everything.max())
    shared, rates = Range1d(20.0, YOUNGEST), Range1d(0.03, 30)
    metals = Range1d(low - 0.25, high + 0.25 + 0.35 * (high - low + 0.5))
    top, bottom = [], []
    for k, (title, example) in enumerate(examples.items()):
        options = {"tools": "", "toolbar_location": None, "x_range": shared, "x_axis_type": "log"}
        options["width"] = width + (58 if k == 0 else 0)
        above = figure(title=title, height=height, y_axis_type="log", y_range=rates, **options)
        below = figure(height=height + 46, y_range=metals, x_axis_label="lookback time (Gyr)", **options)
        _draw_rate(above, float(example["edges"][-1]))
        _draw_metallicity(below, example, named=k == 0)
        _left_labels(above, k == 0, "SFR / mass formed (1/Gyr)")
        _left_labels(below, k == 0, METALLICITY_LABEL)
        above.xaxis.visible = False
        top.append(above)
        bottom.append(below)
    return gridplot([top, bottom], toolbar_location=None)


def _draw_rate(plot, duration):
    """A constant rate over a duration [Gyr]."""
    bottom, rate = plot.y_range.start, 1 / duration
    plot.varea([duration, YOUNGEST], [bottom] * 2, [rate] * 2, color=OKABE_ITO["sky_blue"], alpha=0.35)
    plot.line([duration, duration, YOUNGEST], [bottom, rate, rate], color="#202020", line_width=2)


def _draw_metallicity(plot, example, *, named):
    edges = np.maximum(np.asarray(example["edges"], float), YOUNGEST)
    log_z = np.asarray(example["log_z"], float)
    for old, young in zip(edges[1::2], edges[::2], strict=False):
        shade = {"fill_color": "#ECECEC", "fill_alpha": 1.0, "line_color": None}
        plot.add_layout(BoxAnnotation(left=float(old), right=float(young), level="image", **shade))
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(log_z, 2)
    name = {"legend_label": "in the interval"} if named else {}
    plot.line(x, y, color=OKABE_ITO["blue"], line_width=2.5, **name)
    if "log_z_lw" in example:
        name = {"legend_label": "light-weighted mean: the label"} if named else {}
        ends, mean = [float(edges[-1]), YOUNGEST], [float(example["log_z_lw"])] * 2
        plot.line(ends, mean, color=OKABE_ITO["vermillion"], line_dash="dashed", line_width=2, **name)
    if named:
        plot.legend.location = "top_left"
        plot.legend.label_text_font_size = "12px"


def _left_labels(plot, first, label):
    """Only the first panel of a row carries the axis's numbers and name."""
    plot.yaxis.visible = first
    plot.yaxis.axis_label = label if first else None
    plot.min_border_left = 54 if first else 5


def with_gaps(wavelength, values):
    """Put NaN between pixels that are no neighbours, so that no line is drawn over what was masked out."""
    wavelength, values = np.asarray(wavelength, float), np.asarray(values, np.float32)
    step = np.median(np.diff(wavelength))
    after = np.flatnonzero(np.diff(wavelength) > 1.5 * step) + 1
    gaps = [(float(wavelength[i - 1] + step / 2), float(wavelength[i] - step / 2)) for i in after]
    middle = 0.5 * (wavelength[after - 1] + wavelength[after])
    return (
        np.insert(wavelength, after, middle).astype(np.float32),
        np.insert(values, after, np.nan, axis=-1),
        gaps,
    )


def plot_prepared(wavelength, panels, *, height=170, y_range=None):
    """Spectra as the network takes them (Fig. 2 of Zahid et al. 2019), what is masked out in grey.

    Parameters
    ----------
    wavelength : array_like, shape (n_kept,)
        Of the kept pixels [Angstrom].
    panels : dict of str to (dict of str to array_like (n_kept,))
        By title, the curves by name. The last of a panel is drawn in blue over the others in grey: a noisy spectrum
        and what is below the noise.
    height : int
        Of one panel, screen pixels.
    y_range : (float, float), optional
        Of all panels; default: what holds all last curves, so that they can be compared, and in panels with a noisy
        spectrum also 96% of its pixels.

    Returns
    -------
    bokeh layout
    """
    last = np.concatenate([np.asarray(list(curves.values())[-1], float) for curves in panels.values()])
    low, high = y_range or (1.15 * float(np.nanmin(last)), 1.35 * float(np.nanmax(last)))
    shared, heights, rows = None, Range1d(float(low), float(high)), []
    for k, (title, curves) in enumerate(panels.items()):
        first, final = k == 0, k == len(panels) - 1
        plot = figure(
            title=title, width=FIGURE_WIDTH, tools=TOOLS, y_axis_label=PREPARED_LABEL, y_range=heights
        )
        plot.height = height + (44 if final else 0) + (40 if first else 0)
        spread, _, gaps = with_gaps(wavelength, wavelength)
        shared = shared or Range1d(float(spread[0]), float(spread[-1]))
        plot.x_range = shared
        shade_gaps(plot, gaps)
        if len(curves) > 1 and y_range is None:
            noise = np.nanquantile(np.stack([np.asarray(c, float) for c in curves.values()]), [0.02, 0.98])
            plot.y_range = Range1d(float(min(low, noise[0])), float(max(high, noise[1])))
        if first:
            span = plot.y_range.end - plot.y_range.start
            plot.y_range = Range1d(plot.y_range.start, plot.y_range.end + 0.25 * span)
            LineMarks(plot, (shared.start, shared.end), FIGURE_WIDTH - 80)
        _draw_prepared(plot, wavelength, curves)
        if final:
            plot.xaxis.axis_label = WAVELENGTH_LABEL
        else:
            plot.xaxis.major_label_text_font_size = "0px"
        rows.append([plot])
    return gridplot(rows, toolbar_location=None)


def _draw_prepared(plot, wavelength, curves):
    colors = [OBSERVED] * (len(curves) - 1) + [DECODED]
    for (name, flux), color in zip(curves.items(), colors, strict=True):
        spread, values, _ = with_gaps(wavelength, flux)
        style = {"line_width": 1.4} if color == DECODED else {"line_width": 0.8, "line_alpha": 0.55}
        named = {"legend_label": name} if len(curves) > 1 else {}
        plot.line(spread, values, color=color, **style, **named)
    plot.add_layout(Span(location=0, dimension="width", line_color=MUTED, line_width=1, line_dash="dotted"))
    if len(curves) > 1:
        plot.legend.location = "top_right"
        flat_legend(plot)


def shade_gaps(plot, gaps):
    """Cover wavelengths that were masked out in grey."""
    for low, high in gaps:
        grey = {"fill_color": "#ECECEC", "fill_alpha": 1.0, "line_color": None}
        plot.add_layout(BoxAnnotation(left=low, right=high, level="underlay", **grey))


def plot_mzr(curves, *, galaxies=None, title="", y_label=METALLICITY_LABEL, width=FIGURE_WIDTH, height=420):
    """Mass-metallicity relations over each other (Fig. 3 of Zahid et al. 2019).

    Parameters
    ----------
    curves : dict of str to dict
        By the name in the legend: ``x`` and ``y`` (k,); optional ``error`` (k,), drawn as bars, ``low`` and ``high``
        (k,), drawn as a band, ``dash`` and ``color``.
    galaxies : (array_like, array_like), optional
        Mass and metallicity of single galaxies, drawn as a map of their number.
    title, y_label : str
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    plot = figure(
        title=title or None,
        width=width,
        height=height,
        tools=TOOLS,
        x_axis_label=MASS_LABEL,
        y_axis_label=y_label,
    )
    finite = {
        name: np.isfinite(np.asarray(c["x"], float)) & np.isfinite(np.asarray(c["y"], float))
        for name, c in curves.items()
    }
    x = np.concatenate([np.asarray(c["x"], float)[finite[name]] for name, c in curves.items()])
    low, high = _vertical_range(curves, finite)
    plot.x_range, plot.y_range = Range1d(x.min() - 0.1, x.max() + 0.1), Range1d(low, high)
    if galaxies is not None:
        draw_map(plot, *(np.asarray(g, float) for g in galaxies))
    for (name, curve), color in zip(curves.items(), CYCLE * 3, strict=False):
        _draw_curve(plot, name, curve, finite[name], curve.get("color", color))
    plot.legend.location = "bottom_right"
    plot.legend.click_policy = "hide"
    return plot


def _vertical_range(curves, finite):
    values = [
        np.asarray(c[k], float)[finite[n]] for n, c in curves.items() for k in ("y", "low", "high") if k in c
    ]
    values = np.concatenate(values)
    values = values[np.isfinite(values)]
    margin = 0.08 * max(np.ptp(values), 0.1)
    return float(values.min() - margin), float(values.max() + margin)


def _draw_curve(plot, name, curve, finite, color):
    columns = {k: np.asarray(v, np.float32)[finite] for k, v in curve.items() if k not in ("dash", "color")}
    source = ColumnDataSource(columns)
    dash = curve.get("dash", "solid")
    if "low" in columns and "high" in columns:
        plot.varea("x", "low", "high", source=source, color=color, alpha=0.15, legend_label=name)
    plot.line("x", "y", source=source, color=color, line_width=2.5, line_dash=dash, legend_label=name)
    if dash == "solid":
        plot.scatter("x", "y", source=source, color=color, size=5, legend_label=name)
    if "error" in columns:
        add_bars(plot, columns["x"], columns["y"], columns["error"], color)


def plot_mass_sfr_bins(samples, *, quantity="log_z", width=FIGURE_WIDTH, height=260):
    """Star-formation rate and metallicity in 15 x 10 bins of equal numbers (Fig. 4 of Zahid et al. 2019).

    Parameters
    ----------
    samples : dict of str to Dataset
        By title, from `spectool.measure.mzr.bin_mass_and_sfr`; side by side.
    quantity : {"log_z", "excess"}
        What the lower panels show.
    width, height : int

    Returns
    -------
    bokeh layout
        Above the rate, below the metallicity; a curve joins bins of one rank in star formation.
    """
    top, bottom, each = [], [], (width - 60) // len(samples)
    ranges = {name: _common(samples, name) for name in ("log_mass", "log_sfr", quantity)}
    for k, (title, binned) in enumerate(samples.items()):
        first, last = k == 0, k == len(samples) - 1
        size = {"width": each + (54 if first else 0) + (86 if last else 0) - 80 // len(samples)}
        size |= {"tools": "xpan,xwheel_zoom,reset,save", "x_range": ranges["log_mass"]}
        above = figure(title=f"A  {title}", height=height, y_range=ranges["log_sfr"], **size)
        below = figure(
            title=f"B  {title}", height=height + 24, y_range=ranges[quantity], x_axis_label=MASS_LABEL, **size
        )
        n = binned.sizes["sfr_bin"]
        for j in range(n):
            color = RANK_PALETTE[int(j / max(n - 1, 1) * (len(RANK_PALETTE) - 1))]
            x = binned["log_mass"][:, j].values.astype("f4")
            for plot, name in ((above, "log_sfr"), (below, quantity)):
                y = binned[name][:, j].values.astype("f4")
                plot.line(x, y, color=color, line_width=2)
                plot.scatter(x, y, color=color, size=4)
        _left_labels(above, first, SFR_LABEL)
        _left_labels(
            below,
            first,
            METALLICITY_LABEL if quantity == "log_z" else "log Z* off the bin's mean trend (dex)",
        )
        if last:
            mapper = LinearColorMapper(palette=RANK_PALETTE, low=0.5, high=n + 0.5)
            ticks = FixedTicker(ticks=[1, n])
            words = {1: "lowest SFR", n: "highest SFR"}
            bar = {"color_mapper": mapper, "width": 10, "ticker": ticks, "major_label_overrides": words}
            for plot in (above, below):
                plot.add_layout(ColorBar(**bar), "right")
        top.append(above)
        bottom.append(below)
    return gridplot([top, bottom], toolbar_location=None)


def _common(samples, name):
    values = np.concatenate([b[name].values.ravel() for b in samples.values()])
    margin = 0.06 * np.ptp(values)
    return Range1d(float(values.min() - margin), float(values.max() + margin))


def plot_trends(samples, *, title="", width=FIGURE_WIDTH, height=300):
    """How metallicity follows star formation at fixed mass, mass bin by mass bin.

    Parameters
    ----------
    samples : dict of str to Dataset
        By the name in the legend, from `spectool.measure.mzr.bin_mass_and_sfr`.
    title : str
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
        Spearman's correlation with its error; 0 is no trend.
    """
    label = "Spearman ρ (Z*, SFR | M*)"
    plot = figure(title=title or None, width=width, height=height, tools=TOOLS)
    plot.xaxis.axis_label, plot.yaxis.axis_label = MASS_LABEL, label
    plot.add_layout(Span(location=0, dimension="width", line_color="#202020", line_width=1))
    for k, ((name, binned), color) in enumerate(zip(samples.items(), CYCLE, strict=False)):
        # Points that lie over each other are moved apart a little.
        x = binned["log_mass"].median("sfr_bin").values + 0.006 * (k - (len(samples) - 1) / 2)
        y, error = binned["rho"].values, binned["rho_error"].values
        plot.line(x, y, color=color, line_width=1.5, legend_label=name)
        plot.scatter(x, y, color=color, size=6, legend_label=name)
        add_bars(plot, x, y, error, color)
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    return plot
