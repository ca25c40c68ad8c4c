"""Figures of the broadband notebook that show the sample: its distributions, its noise, and single galaxies."""

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, NumeralTickFormatter, Range1d, Whisker
from bokeh.plotting import figure

from spectool.explore.plots import MASS_LABEL, SFR_LABEL, flat_legend
from spectool.explore.spectrum import TOOLS
from spectool.explore.style import CYCLE, FIGURE_WIDTH, MUTED, OKABE_ITO
from spectool.models.bands import FACILITY_BANDS

LABELS = {"log_mass": MASS_LABEL, "log_sfr": SFR_LABEL, "log_dust_luminosity": "log L dust (L☉)"}
NAMES = {
    "log_mass": "stellar mass",
    "log_sfr": "star-formation rate",
    "log_dust_luminosity": "dust luminosity",
}
COLORS = dict(zip(LABELS, (CYCLE[0], CYCLE[2], CYCLE[1]), strict=True))
FACILITY_COLORS = dict(
    zip(
        FACILITY_BANDS,
        (OKABE_ITO[name] for name in ("reddish_purple", "blue", "bluish_green", "orange", "vermillion")),
        strict=False,
    )
) | {"SPIRE": "#5C1A00"}
FLUX_LABEL = "flux density (Jy)"
MICRON_LABEL = "observed wavelength (µm)"
GONE = "#C8C8C8"
LIMIT = 1.0  # S/N below which a flux is drawn as an upper limit of 3 sigma


def band_colors(bands):
    """Colour of each band by its facility; grey where it has none (the redshift)."""
    of_band = {
        band: FACILITY_COLORS[facility] for facility, members in FACILITY_BANDS.items() for band in members
    }
    return [of_band.get(str(band), MUTED) for band in bands]


def bare_figure(title="", *, width, height, x_label, y_label, tools="save", **options):
    """A figure with both axes named, and no toolbar in the way."""
    plot = figure(title=title or None, width=int(width), height=int(height), tools=tools, **options)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x_label, y_label
    return plot


def plot_redshifts(redshift, *, cut=0.5, width=440, height=300):
    """The redshifts of a sample (Fig. 1 of Surana et al. 2020).

    Parameters
    ----------
    redshift : array_like, shape (galaxy,)
    cut : float
        The highest that is used, drawn dashed.
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    plot = _histogram({"": redshift}, cut=cut, x_label="redshift", width=width, height=height)
    plot.legend.location = "top_left"
    return plot


def plot_masses(masses, *, cut=9.0, width=440, height=300):
    """The stellar masses of a sample (Fig. 2 of Surana et al. 2020).

    Parameters
    ----------
    masses : dict of str to array_like, each shape (galaxy,)
        By name in the legend, log M* [dex(Msun)]: the first is filled, as of the teacher, others are lines.
    cut : float
        The lowest that is used, drawn dashed.
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
    """
    plot = _histogram(masses, cut=cut, x_label=MASS_LABEL, width=width, height=height)
    plot.legend.location = "top_left"
    return plot


def plot_labels(sample, *, suffix="_fit", height=290):
    """What there is to predict: the teacher's labels, and the truth as a line (Fig. 4 of Surana et al. 2020).

    Parameters
    ----------
    sample : Dataset
        ``log_mass``, ``log_sfr``, ``log_dust_luminosity`` (galaxy), and the same with the teacher's suffix.
    suffix : str
    height : int

    Returns
    -------
    bokeh layout
        Three histograms.
    """
    row = []
    for name, label in LABELS.items():
        values = {"teacher": sample[name + suffix].values, "truth": sample[name].values}
        row.append(_histogram(values, x_label=label, width=FIGURE_WIDTH // 3, height=height))
        row[-1].yaxis.axis_label = "galaxies" if len(row) == 1 else None
        row[-1].legend.visible = len(row) == 1
        row[-1].legend.location = "top_left"
    return gridplot([row], toolbar_location=None)


def _histogram(values, *, x_label, width, height, cut=None, bins=50):
    values = {name: np.asarray(v, float) for name, v in values.items()}
    everything = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    low, high = np.quantile(everything, [0.0005, 0.9995])
    low, high = (low, high) if cut is None else (min(low, cut), max(high, cut))
    low, high = low - 0.02 * (high - low), high + 0.02 * (high - low)
    edges = np.linspace(low, high, bins + 1)
    plot = bare_figure(width=width, height=height, x_label=x_label, y_label="galaxies")
    top = 0
    for k, ((name, column), color) in enumerate(
        zip(values.items(), (OKABE_ITO["sky_blue"], OKABE_ITO["vermillion"], *CYCLE[2:]), strict=False)
    ):
        counts = np.histogram(column, edges)[0]
        named = {"legend_label": name} if name else {}
        if k == 0:
            plot.quad(edges[:-1], edges[1:], counts, 0, color=color, line_color="white", **named)
        else:
            steps = np.append(np.repeat(counts, 2), 0), np.append(np.repeat(edges, 2)[1:-1], edges[-1])
            plot.line(*steps[::-1], color=color, line_width=2, **named)
        top = max(top, counts.max())
    plot.x_range, plot.y_range = Range1d(float(low), float(high)), Range1d(0, 1.08 * float(top))
    plot.xgrid.grid_line_color = None
    if cut is not None:
        plot.line([cut] * 2, [0, 2 * float(top)], color="black", line_dash="dashed", legend_label="limit")
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    return plot


def plot_low_sn(sample, *, threshold=3.0, height=320):
    """How many galaxies have a poor flux, band by band (Fig. 3 of Surana et al. 2020).

    Parameters
    ----------
    sample : Dataset, dims (galaxy, band)
        ``flux``, ``flux_error`` and, if there, ``mask`` (True: missing; counted apart, in grey).
    threshold : float
        A signal-to-noise ratio below it is poor.
    height : int

    Returns
    -------
    bokeh.plotting.figure
        Bars coloured by facility.
    """
    flux, error, missing = _read_fluxes(sample.transpose("galaxy", "band", ...))
    with np.errstate(invalid="ignore", divide="ignore"):
        poor = (~missing & (flux / error < threshold)).sum(axis=0)
    missing, bands = missing.sum(axis=0), [str(band) for band in sample["band"].values]
    plot = bare_figure(
        width=FIGURE_WIDTH,
        height=height,
        x_label="band",
        y_label=f"galaxies with S/N < {threshold:g}",
        x_range=bands,
        y_range=Range1d(0, 1.05 * max(float((poor + missing).max()), 1.0)),
    )
    tips = [("", "@x (@facility)"), ("poor", "@poor{0,0} (@share{0.0}%)"), ("no flux", "@missing{0,0}")]
    for facility, members in (
        FACILITY_BANDS | {"other": set(bands).difference(*FACILITY_BANDS.values())}
    ).items():
        some = np.isin(bands, list(members))
        if not some.any():
            continue
        columns = {"x": np.array(bands)[some], "poor": poor[some], "missing": missing[some]}
        columns |= {"share": 100 * poor[some] / max(len(flux), 1), "facility": [facility] * some.sum()}
        bars = {"x": "x", "width": 0.8, "source": ColumnDataSource(columns), "line_color": None}
        color = FACILITY_COLORS.get(facility, MUTED)
        drawn = plot.vbar(top="poor", color=color, legend_label=facility, **bars)
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips))
    if missing.any():
        plot.vbar(bands, 0.8, poor + missing, poor, color=GONE, line_color=None, legend_label="no flux")
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.xgrid.grid_line_color = None
    legend_above(plot)
    plot.legend.click_policy = "none"
    return plot


def _read_fluxes(sample):
    """Fluxes, errors, and what is missing."""
    flux, error = (sample[name].values.astype(float) for name in ("flux", "flux_error"))
    masked = sample["mask"].values.astype(bool) if "mask" in sample else False
    return flux, error, ~np.isfinite(flux) | ~(error > 0) | masked


def legend_above(plot):
    """Put the legend into one line above the frame."""
    plot.add_layout(plot.legend[0], "above")
    flat_legend(plot)
    plot.legend.margin = 2


def plot_inputs(inputs, models, *, bands=("NUV", "r", "K", "W3", "S250"), height=300):
    """Fluxes before and after they are standardised (Figs. 6 and 7 of Surana et al. 2020).

    Parameters
    ----------
    inputs : BandInputs
        In the order of the models' bands.
    models : dict of str to SedMLP
        By title, networks whose `encode` is shown.
    bands : sequence of str
        Some of them.
    height : int

    Returns
    -------
    bokeh layout
        Left, fluxes; then what each model makes of them. Each curve's highest bin is 1.
    """
    names = next(iter(models.values())).bands
    columns = [names.index(band) for band in bands]
    flux = np.where(inputs.mask, np.nan, inputs.value)[:, columns]
    panels = {"as measured": (1e3 * flux, "flux density (mJy)")}
    for title, model in models.items():
        groups = [model.groups[band][0] for band in bands]
        panels[title] = (model.encode(inputs)[:, groups], "input (standard deviations)")
    row, width = [], (FIGURE_WIDTH - 50) // len(panels)
    for title, (values, label) in panels.items():
        first = not row
        plot = bare_figure(
            title,
            width=width + 50 * first,
            height=height,
            x_label=label,
            y_label="galaxies / most in a bin" if first else None,
        )
        low, high = _common_limits(values, raw=first)
        for band, column, color in zip(bands, values.T, CYCLE, strict=False):
            # Bins of its own for each band: in those of another it would be a line or noise.
            counts, edges = np.histogram(column, np.linspace(*np.nanquantile(column, [0.003, 0.98]), 60))
            middle = 0.5 * (edges[1:] + edges[:-1])
            named = {"legend_label": band} if first else {}
            plot.step(
                middle, counts / max(counts.max(), 1), mode="center", color=color, line_width=2, **named
            )
        plot.x_range, plot.y_range = Range1d(low, high), Range1d(0, 1.05)
        row.append(plot)
    row[0].legend.location = "top_right"
    return gridplot([row], toolbar_location=None)


def _common_limits(values, *, raw):
    """What holds most values of every column; of measured fluxes somewhat less, or the widest alone would be seen."""
    low, high = np.nanquantile(values, [0.02, 0.9 if raw else 0.98], axis=0)
    margin = 0.05 * (high.max() - low.min())
    return float(low.min() - margin), float(high.max() + margin)


def plot_sed(sample, *, galaxy=0, nearest=None, title="", width=FIGURE_WIDTH, height=400):
    """The fluxes of a galaxy, and the models of a library that are nearest to it.

    Parameters
    ----------
    sample : Dataset, dims (galaxy, band)
        ``flux``, ``flux_error`` [Jy] and, if there, ``mask``; the coordinate ``band_wavelength`` [Angstrom].
    galaxy : int
        Row of the sample.
    nearest : Dataset, optional
        Of this galaxy, from `spectool.measure.sedfit.nearest_models`: the best model is bold.
    title : str
    width, height : int

    Returns
    -------
    bokeh.plotting.figure
        Errors are 1 sigma. Fluxes below 1 sigma are drawn as upper limits of 3 sigma, bands without a flux as hollow
        circles at the lower edge.
    """
    one = sample.isel(galaxy=galaxy)
    micron = one["band_wavelength"].values.astype(float) / 1e4
    bands = np.array([str(band) for band in one["band"].values])
    flux, error, missing = _read_fluxes(one)
    plot = bare_figure(
        title,
        width=width,
        height=height,
        x_label=MICRON_LABEL,
        y_label=FLUX_LABEL,
        tools=TOOLS,
        x_axis_type="log",
        y_axis_type="log",
    )
    limit = ~missing & (flux < LIMIT * error)
    shown = np.where(limit, 3 * error, flux)[~missing]
    order = np.argsort(micron)
    models = None if nearest is None else nearest["model_flux"].values[0][:, order]
    bottom, top = _flux_limits(shown, models)
    plot.x_range = Range1d(float(micron.min()) / 1.35, float(micron.max()) * 1.35)
    plot.y_range = Range1d(bottom, top)
    if models is not None:
        _draw_models(plot, micron[order], models)
    good = ~missing & ~limit
    colors = np.array(band_colors(bands))
    floor = np.maximum(flux - error, bottom * 1e-3)
    bars = {"x": micron[good], "low": floor[good], "high": (flux + error)[good]}
    whisker = Whisker(base="x", lower="low", upper="high", source=ColumnDataSource(bars), line_color=MUTED)
    for head in (whisker.upper_head, whisker.lower_head):
        head.size, head.line_color = 5, MUTED
    plot.add_layout(whisker)
    _draw_points(plot, micron, flux, colors, bands, good, "measured", marker="circle", size=9)
    _draw_points(
        plot, micron, 3 * error, colors, bands, limit, "3σ upper limit", marker="inverted_triangle", size=10
    )
    _draw_points(
        plot,
        micron,
        np.full(len(micron), bottom * 1.3),
        colors,
        bands,
        missing,
        "no flux",
        size=9,
        hollow=True,
    )
    _name_bands(plot, micron, bands, top)
    legend_above(plot)
    ticks = [step * 10.0**power for power in range(-1, 4) for step in (1, 2, 5)]
    plot.xaxis.ticker = FixedTicker(ticks=ticks)
    plot.xaxis.major_label_overrides = {tick: f"{tick:g}" for tick in ticks}
    return plot


def _flux_limits(shown, models):
    """Range of a logarithmic axis with room for the bands' names above."""
    values = shown if models is None else np.concatenate([shown, models[0]])
    values = values[values > 0]
    low, high = (values.min(), values.max()) if values.size else (1e-6, 1.0)
    return float(low) / 4, float(high) * 4 * (high / low) ** 0.12


def _draw_models(plot, micron, models):
    for k, model in reversed(list(enumerate(models))):
        best = k == 0
        name = "best model" if best else "next best models"
        color, wide = (OKABE_ITO["black"], 2.2) if best else ("#9A9A9A", 1.1)
        plot.line(micron, model, color=color, line_width=wide, legend_label=name)
        if best:
            plot.scatter(micron, model, color=color, size=4, legend_label=name)


def _draw_points(plot, micron, flux, colors, bands, some, name, *, marker="circle", size=8, hollow=False):
    if not some.any():
        return
    columns = {"x": micron[some], "y": flux[some], "color": colors[some], "band": bands[some]}
    fill = {"fill_color": "white" if hollow else "color", "line_color": "color" if hollow else "black"}
    points = plot.scatter(
        "x",
        "y",
        source=ColumnDataSource(columns),
        marker=marker,
        size=size,
        line_width=1.8 if hollow else 0.5,
        legend_label=name,
        **fill,
    )
    plot.add_tools(HoverTool(renderers=[points], tooltips=[("", "@band, @x{0.00} µm: @y{0.00e} Jy")]))


def _name_bands(plot, micron, bands, top):
    """Names in two rows above the points, so that neighbours do not cover each other."""
    order = np.argsort(micron)
    style = {"text_align": "center", "text_font_size": "11px", "text_color": MUTED}
    for k, index in enumerate(order):
        plot.text([micron[index]], [top], [bands[index]], y_offset=16 + 13 * (k % 2), **style)
