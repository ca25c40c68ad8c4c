"""Looking into the network: its filters and its attributions over a spectrum, with the indices that have names."""

import itertools

import numpy as np
from bokeh.layouts import column, gridplot
from bokeh.models import BoxAnnotation, ColumnDataSource, Range1d, Span
from bokeh.plotting import figure

from spectool.explore.metallicity_plots import shade_gaps, with_gaps
from spectool.explore.plots import flat_legend
from spectool.explore.spectrum import LABEL_ROWS, LABEL_SIZE, WAVELENGTH_LABEL, layout_lines
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED, OKABE_ITO
from spectool.measure.indices import LICK, index_band

TOOLS = "xpan,xwheel_zoom,reset,save"
BAND_COLOR, BAND_INK = OKABE_ITO["orange"], "#8A5A00"
OTHERS = "#B5B5B5"
LEFT = 66  # pixels for the numbers and names of the vertical axes
METALS = tuple(name for name in LICK if not name.startswith("H"))


def plot_segments(wavelength, spectrum, layers, *, rows=3, indices=METALS, title="", heights=(88, 108)):
    """Cut the spectrum into segments, one below the other, and draw panels under each."""
    wavelength = np.asarray(wavelength, float)
    edges = np.linspace(wavelength[0] - 0.5, wavelength[-1] + 0.5, rows + 1)
    spread, flux, gaps = with_gaps(wavelength, spectrum)
    bands = _visible_bands(wavelength, indices)
    limits, panels = (float(np.nanmin(flux)), float(np.nanmax(flux))), []
    for number, window in enumerate(itertools.pairwise(edges.tolist())):
        shared = Range1d(*window, bounds=(float(edges[0]), float(edges[-1])))
        size = {"width": FIGURE_WIDTH, "x_range": shared, "tools": TOOLS, "min_border_left": LEFT}
        top = figure(height=heights[0] + LABEL_ROWS * (LABEL_SIZE + 3), y_axis_label="flux", **size)
        top.title = title if number == 0 and title else None
        top.height += 24 if number == 0 and title else 0
        top.y_range = _with_headroom(*limits, heights[0])
        below = [figure(height=heights[1], y_axis_label=label, **size) for label in layers]
        for plot in (top, *below):
            _draw_ground(plot, gaps, bands)
            plot.xaxis.visible = False
        top.line(spread, flux, color="#202020", line_width=1.2)
        _name_bands(top, bands, window, heights[0])
        for plot, draw in zip(below, layers.values(), strict=True):
            draw(plot, window, number)
        final = below[-1] if below else top
        final.xaxis.visible = True
        final.height += 26
        if number == rows - 1:
            final.xaxis.axis_label = WAVELENGTH_LABEL
            final.height += 22
        panels.append(gridplot([[plot] for plot in (top, *below)], toolbar_location=None))
    return column(*panels)


def _visible_bands(wavelength, indices):
    bands = {name: index_band(name) for name in indices}
    step = np.median(np.diff(wavelength))
    inside = {n: ((wavelength >= low) & (wavelength <= high)).sum() for n, (low, high) in bands.items()}
    return {n: (low, high) for n, (low, high) in bands.items() if inside[n] * step > 0.25 * (high - low)}


def _with_headroom(low, high, height):
    """A range that leaves room above for the names of the bands."""
    span = high - low
    names = LABEL_ROWS * (LABEL_SIZE + 3) / height
    return Range1d(low - 0.08 * span, high + span * (0.1 + 1.1 * names))


def _draw_ground(plot, gaps, bands):
    for low, high in bands.values():
        style = {"fill_color": BAND_COLOR, "fill_alpha": 0.18, "line_color": None}
        plot.add_layout(BoxAnnotation(left=low, right=high, level="underlay", **style))
    shade_gaps(plot, gaps)
    plot.add_layout(Span(location=0, dimension="width", line_color=MUTED, line_width=1, line_dash="dotted"))
    plot.yaxis.axis_label_text_font_size = "12px"
    plot.yaxis.major_label_text_font_size = "11px"


def _name_bands(plot, bands, window, height):
    """Names of the bands above the spectrum, in rows, so that none covers another."""
    centres = {}
    for name, (low, high) in bands.items():
        low, high = max(low, window[0]), min(high, window[1])
        if high - low > 0.3 * (bands[name][1] - bands[name][0]):
            centres[name] = 0.5 * (low + high)
    placed = layout_lines(window, FIGURE_WIDTH - LEFT - 20, lines=centres)
    row_height = (LABEL_SIZE + 3) / (height + LABEL_ROWS * (LABEL_SIZE + 3))
    plot.extra_y_ranges = {**plot.extra_y_ranges, "frame": Range1d(0, 1)}
    top = [1 - row_height * (row + 0.2) for row in placed["row"]]
    source = ColumnDataSource({"x": placed["x"], "y": top, "label": placed["label"]})
    style = {"text_align": "center", "text_baseline": "top", "text_font_size": f"{LABEL_SIZE}px"}
    plot.text("x", "y", "label", source=source, y_range_name="frame", text_color=BAND_INK, **style)


def plot_filters(model, spectrum, *, table, patterns=None, rows=3, indices=METALS, strongest=1, title=""):
    """The first layer's weights over a spectrum: what the paper's empty Section 6 would show.

    Parameters
    ----------
    model : ChunkedMLP
        ``wavelength``, ``chunk_index`` and ``filters()``.
    spectrum : array_like, shape (n_kept,)
        As the network takes it; for one the mean of the training spectra.
    table : Dataset
        From `spectool.measure.attribution.describe_filters`: filters are turned so that metal-rich spectra get more
        through, and the most important of a chunk are coloured.
    patterns : ndarray, optional
        From `spectool.measure.attribution.filter_patterns`, of the coloured filters: how spectra look that get more
        through. Shown in a panel of their own.
    rows, indices, title
        As for `plot_segments`.
    strongest : int
        How many filters of a chunk are coloured.

    Returns
    -------
    bokeh layout
        Each filter is divided by its own rms: how strong it is, the next layer decides. A negative weight at a line:
        the deeper the line, the more gets through. Dashed: where chunks meet.
    """
    chunk, wavelength = np.asarray(model.chunk_index), np.asarray(model.wavelength, float)
    sign = table["sign"].values[..., None]
    rank = np.argsort(np.argsort(-table["importance"].values, axis=1), axis=1)
    weights = sign * np.asarray(model.filters(), float)
    count = np.bincount(chunk)[:, None, None]
    weights /= np.maximum(np.sqrt((weights**2).sum(-1, keepdims=True) / count), 1e-12)
    named = {0: "most important of its chunk", **{k: f"number {k + 1}" for k in range(1, strongest)}}
    options = {"chunk": chunk, "wavelength": wavelength, "rank": rank, "strongest": strongest}
    layers = {"weight / rms": _filter_layer(weights, named=named, others=True, **options)}
    if patterns is not None:
        percent = 100 * sign * np.asarray(patterns, float)
        layers["Δflux (%) per σ"] = _filter_layer(percent, named={}, others=False, **options)
    return plot_segments(wavelength, spectrum, layers, rows=rows, indices=indices, title=title)


def _filter_layer(curves, *, chunk, wavelength, rank, strongest, named, others):
    """A layer of `plot_segments` that draws filters, or what belongs to them, chunk by chunk."""
    shown = curves if others else curves[rank < strongest]
    reach = 1.1 * float(np.quantile(np.abs(shown[shown != 0]), 0.999)) if shown.any() else 1.0

    def draw(plot, window, number):
        plot.y_range = Range1d(-reach, reach)
        seen = [k for k in range(len(curves)) if not _apart(wavelength[chunk == k], window)]
        for k in seen:
            dashes = {"line_color": "#A0A0A0", "line_dash": "dashed"}
            plot.add_layout(
                Span(location=float(wavelength[chunk == k][0] - 0.5), dimension="height", **dashes)
            )
        for place in range(curves.shape[1] - 1, -1, -1):
            coloured = place < strongest
            if not (coloured or others):
                continue
            filters = [(k, int(np.flatnonzero(rank[k] == place)[0])) for k in seen]
            x, y = _join([(wavelength[chunk == k], curves[k, f]) for k, f in filters])
            name = named.get(place) if coloured else "the others"
            label = {"legend_label": name} if number == 0 and named else {}
            style = (
                {"color": CYCLE[place], "line_width": 1.7}
                if coloured
                else {"color": OTHERS, "line_width": 0.8}
            )
            plot.line(x, y, **style, **label)
        if number == 0 and named:
            plot.legend.location = "top_right"
            flat_legend(plot)

    return draw


def _apart(wavelength, window):
    return wavelength[-1] < window[0] or wavelength[0] > window[1]


def _join(pieces):
    """One line of several, with gaps between them and where pixels are masked: (x, y)."""
    drawn = [with_gaps(x, y[: x.size])[:2] for x, y in pieces]
    ends = [np.append(x, x[-1]) for x, _ in drawn], [np.append(y, np.nan) for _, y in drawn]
    return tuple(np.concatenate(part).astype(np.float32) for part in ends)


def plot_attribution(wavelength, attributions, spectrum, *, rows=3, indices=METALS, smooth=5, title=""):
    """Integrated gradients along the spectrum.

    Parameters
    ----------
    wavelength : array_like, shape (n_kept,)
        [Angstrom]
    attributions : dict of str to array_like, each shape (n_kept,)
        [dex per pixel] by name: of one galaxy, or means over several.
    spectrum : array_like, shape (n_kept,)
    rows, indices, title
        As for `plot_segments`.
    smooth : int
        Pixels over which the curves are averaged, about the resolution; 1 for none.

    Returns
    -------
    bokeh layout
    """
    wavelength, kernel = np.asarray(wavelength, float), np.ones(smooth)
    inside = np.convolve(np.ones(wavelength.size), kernel, mode="same")
    curves = {
        n: 1e3 * np.convolve(np.asarray(a, float), kernel, mode="same") / inside
        for n, a in attributions.items()
    }
    reach = 1.1 * max(float(np.quantile(np.abs(c), 0.9995)) for c in curves.values())

    def draw(plot, window, number):
        plot.y_range = Range1d(-reach, reach)
        for (name, values), color in zip(curves.items(), CYCLE, strict=False):
            spread, drawn, _ = with_gaps(wavelength, values)
            label = {"legend_label": name} if number == 0 else {}
            plot.line(spread, drawn, color=color, line_width=1.5, **label)
        if number == 0:
            plot.legend.location = "top_right"
            flat_legend(plot)

    layers = {"attribution (mdex/Å)": draw}
    return plot_segments(
        wavelength, spectrum, layers, rows=rows, indices=indices, title=title, heights=(88, 150)
    )
