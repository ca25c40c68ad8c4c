"""Figures of the narrow-band notebook about its data and method: bands, splits, training, gradients of one galaxy."""

import numpy as np
from bokeh.layouts import column, gridplot
from bokeh.models import ColumnDataSource, Div, Range1d, Span
from bokeh.plotting import figure

from spectool.explore import ifu_data as data
from spectool.explore.ifu_gradients import fit_galaxy
from spectool.explore.plots import flat_legend
from spectool.explore.spectrum import TOOLS, WAVELENGTH_LABEL, LineMarks
from spectool.explore.style import CYCLE, FIGURE_WIDTH, FONT, MUTED, OBSERVED, OKABE_ITO
from spectool.measure.indices import stellar_marks

BAND_COLOR = OKABE_ITO["vermillion"]
F_NU_LABEL = "f_ν / mean of bands"
RADIUS_LABEL = "deprojected radius (Re)"
# Colour and shape both: quarters must be told apart without colour too.
FOLDS = (
    (OKABE_ITO["black"], "circle", "●"),
    (OKABE_ITO["vermillion"], "triangle", "▲"),
    (OKABE_ITO["orange"], "square", "■"),
    (OKABE_ITO["sky_blue"], "diamond", "◆"),
)
RANDOM_MSE = 0.199
"""Mean squared error of random guesses at the log ages of the paper's sample [dex^2] (its Fig. 4)."""


def absorption_marks(plot, window, width):
    """Name absorption features above a spectrum."""
    shown = {name: x for name, x in stellar_marks().items() if window[0] < x < window[1]}
    return LineMarks(plot, window, width, lines=shown)


def plot_bands(sample, panels, *, height=230):
    """Spectra and what narrow bands keep of them (Fig. 1 of Liew-Cain et al. 2021).

    Parameters
    ----------
    sample : xarray.Dataset
        ``flux`` (spectrum, band) as relative f_nu, optional ``flux_error`` and ``mask``.
    panels : dict of str to (int, array_like, array_like)
        By title: position of a spectrum in the sample, and its wavelengths [Angstrom] and flux per Angstrom, each (n,).
    height : int
        Of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        Horizontal bars are the filters' widths.
    """
    (centres, widths), rows = data.band_wavelengths(sample), []
    window = float(centres.min() - 120), float(centres.max() + 120)
    shared = Range1d(*window)
    for k, (title, (spectrum, wavelength, flux)) in enumerate(panels.items()):
        last = k == len(panels) - 1
        bands, error = data.bands_of(sample, spectrum)
        f_nu = data.to_f_nu(np.asarray(wavelength, float), flux, centres, bands)
        inside = (np.asarray(wavelength) > window[0]) & (np.asarray(wavelength) < window[1])
        drawn = np.concatenate([f_nu[inside], bands])
        low, high = np.nanquantile(drawn, [0.002, 0.998])
        span = float(high - low)
        plot = figure(
            title=title,
            width=FIGURE_WIDTH,
            height=height + 40 * last,
            tools=TOOLS,
            x_range=shared,
            y_range=Range1d(float(low) - 0.08 * span, float(high) + 0.4 * span),
            x_axis_label=WAVELENGTH_LABEL if last else None,
            y_axis_label=F_NU_LABEL,
        )
        absorption_marks(plot, window, FIGURE_WIDTH - 80)
        line = np.asarray(wavelength, np.float32), np.asarray(f_nu, np.float32)
        plot.line(*line, color=OBSERVED, line_width=1, legend_label="spectrum")
        _draw_bands(plot, centres, widths, bands, error, legend_label="bands")
        plot.legend.location = "bottom_right"
        flat_legend(plot)
        rows.append([plot])
    return gridplot(rows, toolbar_location=None)


def _draw_bands(plot, wavelength, width, flux, error, **options):
    good = np.isfinite(flux)
    x, w, y, e = (np.asarray(v, np.float32)[good] for v in (wavelength, width, flux, error))
    columns = {"x": x, "y": y, "left": x - w / 2, "right": x + w / 2, "low": y - e, "high": y + e}
    source = ColumnDataSource(columns)
    plot.segment("left", "y", "right", "y", source=source, color=BAND_COLOR, line_width=1.5, alpha=0.7)
    plot.segment("x", "low", "x", "high", source=source, color=BAND_COLOR, line_width=1.5)
    plot.scatter("x", "y", source=source, color=BAND_COLOR, size=6, **options)


def plot_split(sample, folds, *, galaxies, size=175):
    """Where the spectra of each quarter lie in a few galaxies (Fig. 3 of Liew-Cain et al. 2021).

    Parameters
    ----------
    sample : xarray.Dataset
        ``galaxy_index``, ``x`` and ``y`` (spectrum,) [arcsec].
    folds : dict of str to array_like of int, shape (spectrum,)
        By title, such as "Set A"; one row each.
    galaxies : sequence of int
        Rows of the galaxy table; one column each.
    size : int
        Side of one panel's frame, screen pixels.

    Returns
    -------
    bokeh layout
    """
    grid, index = [], sample["galaxy_index"].values
    for title, fold in folds.items():
        grid.append([])
        last = len(grid) == len(folds)
        for galaxy in galaxies:
            rows, first = np.flatnonzero(index == galaxy), not grid[-1]
            x, y = (sample[name].values[rows].astype(np.float32) for name in ("x", "y"))
            reach = 1.08 * float(max(np.abs(x).max(), np.abs(y).max()))
            name = str(sample["galaxy_name"].values[galaxy]) if "galaxy_name" in sample else galaxy
            plot = figure(
                title=f"{title}: {name}",
                frame_width=size,
                frame_height=size,
                tools="",
                toolbar_location=None,
                x_range=Range1d(-reach, reach),
                y_range=Range1d(-reach, reach),
                x_axis_label="x (arcsec)" if last else None,
                y_axis_label="y (arcsec)" if first else None,
            )
            plot.title.text_font_size = "12px"
            plot.axis.major_label_text_font_size = "11px"
            plot.axis.ticker.desired_num_ticks = 4
            for quarter, (color, marker, _) in enumerate(FOLDS):
                some = np.asarray(fold)[rows] == quarter
                look = {"size": 8 if marker == "diamond" else 5, "marker": marker, "color": color}
                plot.scatter(x[some], y[some], alpha=0.85, line_color=None, **look)
            grid[-1].append(plot)
    key = "".join(
        f'<span style="color:{color}; font-size:16px; margin-left:18px">{symbol}</span> quarter {k + 1}'
        for k, (color, _, symbol) in enumerate(FOLDS)
    )
    # A legend inside a panel would cover spectra.
    key = Div(text=key, styles={"font-family": FONT, "font-size": "13px"})
    return column(gridplot(grid, toolbar_location=None), key)


def plot_learning(
    histories, *, start=RANDOM_MSE, quantity="mse", y_label="mean squared error (dex²)", height=300
):
    """Learning curves that begin at random guesses (Fig. 4 of Liew-Cain et al. 2021).

    Parameters
    ----------
    histories : dict of str to History
        By title, from `spectool.models.training.fit`.
    start : float
        Mean squared error of random guesses, drawn at epoch 0.
    quantity : str
        Scalar of the loss to draw.
    y_label : str
    height : int

    Returns
    -------
    bokeh layout
        Dotted, the epoch whose weights are kept.
    """
    row, heights = [], None
    for title, history in histories.items():
        first = not row
        epoch = np.append(0, history.column("epoch")).astype(np.float32)
        plot = figure(
            title=title,
            width=(FIGURE_WIDTH - 20) // len(histories) + 20 * first,
            height=height,
            tools=TOOLS,
            y_axis_type="log",
            x_axis_label="epoch",
            y_axis_label=y_label if first else None,
        )
        curves = {}
        for part, name, color in (("train", "training", "black"), ("valid", "validation", CYCLE[1])):
            values = np.append(start, history.column(f"{part}_{quantity}")).astype(np.float32)
            curves[part] = values
            plot.line(epoch, values, color=color, line_width=2, legend_label=name)
        best = Span(location=history.best_epoch, dimension="height", line_color=MUTED, line_dash="dotted")
        plot.add_layout(best)
        limits = [f(np.nanmin(np.stack([*curves.values()])), start) for f in (min, max)]
        heights = [min(limits[0], heights[0]), max(limits[1], heights[1])] if heights else limits
        plot.legend.visible = first
        row.append(plot)
    for plot in row:
        plot.y_range = Range1d(0.8 * float(heights[0]), 1.3 * float(heights[1]))
    return gridplot([row], toolbar_location=None)


def plot_profiles(sample, galaxy, predictions, *, sources=(data.TRUTH, "Set A"), height=260):
    """Ages and metallicities against radius, with the resampled gradients (Fig. 5 of Liew-Cain et al. 2021).

    Parameters
    ----------
    sample : xarray.Dataset
        As `spectool.explore.ifu_state.IfuState` takes it.
    galaxy : int
        Row of the galaxy table.
    predictions : dict of str to mapping
        See `spectool.explore.ifu_data.read_sources`.
    sources : sequence of str
        "truth", "fitted" or names of predictions; one column each.
    height : int
        Of one panel, screen pixels.

    Returns
    -------
    bokeh layout
        Grey: spectra; red: one line per resampling; black: the mean of the lines.
    """
    known = data.read_sources(sample, predictions)
    rows = np.flatnonzero(sample["galaxy_index"].values == galaxy)
    one, columns = data.galaxy_sample(sample, rows, {name: known[name] for name in sources})
    fits, radius = fit_galaxy(one, columns), one["radius"].values.astype(np.float32)
    shared, grid = Range1d(0, 1.05 * float(max(radius.max(), 1.1))), []
    for quantity, label in reversed(data.QUANTITIES.items()):
        values = np.concatenate([one[data.column_name(name, quantity)].values for name in sources])
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.06 * max(float(high - low), 0.1)
        heights = Range1d(float(low) - margin, float(high) + margin)
        grid.append([])
        for k, name in enumerate(sources):
            which = data.column_name(name, quantity)
            plot = figure(
                title=f"{name}: {fits[which].text()}",
                width=(FIGURE_WIDTH - 20) // len(sources) + 20 * (k == 0),
                height=height,
                tools="save",
                x_range=shared,
                y_range=heights,
                x_axis_label=RADIUS_LABEL,
                y_axis_label=label if k == 0 else None,
            )
            _draw_profile(plot, radius, one[which].values, fits[which])
            grid[-1].append(plot)
    return gridplot(grid, toolbar_location=None)


def _draw_profile(plot, radius, values, fit):
    crosses = {"marker": "x", "size": 6, "line_width": 1.3, "color": OBSERVED}
    plot.scatter(radius, values.astype(np.float32), **crosses)
    plot.add_layout(Span(location=1, dimension="height", line_color=MUTED, line_dash="dotted"))
    if fit.known:
        ends = np.array([0.0, 1.0])
        lines = fit.centrals[:, None] + fit.slopes[:, None] * ends
        plot.multi_line([ends] * len(lines), list(lines), color=CYCLE[1], alpha=0.15, line_width=1)
        plot.line(ends, fit.central + fit.slope * ends, color="black", line_width=2.5)
