"""The mass-metallicity figure on paper: what the dashboard shows, drawn by Matplotlib."""

import numpy as np

from spectool.explore.exports import write_figure
from spectool.explore.mzr_data import CLASSES
from spectool.explore.mzr_figure import SAMPLE_COLORS, find_window, relation_style
from spectool.explore.mzr_image import MAX_POINTS, count_image, median_image
from spectool.explore.mzr_layer import CLASS_PALETTE, PALETTE, UNKNOWN, fading


def save_png(state, path, *, window=None):
    """Draw the panels, with medians, relations and histograms."""
    from matplotlib.figure import Figure

    overlaid = state.overlaid and len(state.panels) == 2
    n = 1 if overlaid else len(state.panels)
    figure = Figure(figsize=(5.6 * n + 0.8, 6), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=(3.4, 1))
    mapped = None
    window = window or find_window(state.panels, state.kind.window)
    images = [
        _bin_galaxies(panel, window, counts=overlaid or state.color == "number") for panel in state.panels
    ]
    for i, panel in enumerate(state.panels):
        column = 0 if overlaid else i
        color = SAMPLE_COLORS[i] if overlaid else None
        mapped = _draw_galaxies(axes[0, column], state, panel, color, images, window) or mapped
        _draw_median(axes[0, column], panel, color or "black")
        _draw_histogram(axes[1, column], panel, color)
    for column in range(n):
        _draw_relations(axes[0, column], state)
        axes[1, column].set_xlabel("log M* / M☉")
    axes[0, 0].set_ylabel(f"{state.kind.axis}, {state.calibration}")
    axes[1, 0].set_ylabel("galaxies")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    axes[1, 0].legend(facecolor="white", edgecolor="none", framealpha=0.85, fontsize=8)
    axes[0, 0].set(xlim=window[:2], ylim=window[2:])
    if mapped is not None and not overlaid:
        bar = figure.colorbar(mapped, ax=axes[0, :].tolist(), pad=0.01)
        bar.set_label(state.kind.colors[state.color])
        if state.color == "class":
            bar.set_ticks(range(len(CLASSES)), labels=CLASSES)
    return write_figure(figure, path)


def _bin_galaxies(panel, window, *, counts):
    """The picture of a panel that has too many galaxies for points, as in the dashboard; None for points."""
    if panel.mass.size <= MAX_POINTS:
        return None
    if counts:
        return np.log10(count_image(panel.mass, panel.metallicity, window))
    return median_image(panel.mass, panel.metallicity, panel.color, window)


def _draw_galaxies(axes, state, panel, color, images, window):
    """Points or a picture; returns what a colour bar describes."""
    from matplotlib.colors import ListedColormap

    image = images[state.panels.index(panel)]
    classes = state.color == "class"
    low, high = (-0.5, len(CLASS_PALETTE) - 0.5) if classes else state.color_range
    if image is not None and (color or state.color == "number"):
        low, high = 0, max(np.nanmax(i, initial=0.1) for i in images if i is not None)
    if color and image is None:
        axes.scatter(panel.mass, panel.metallicity, s=9, color=color, alpha=0.3, lw=0, rasterized=True)
        return None
    if image is None:
        colormap = ListedColormap(CLASS_PALETTE if classes else PALETTE).with_extremes(bad=UNKNOWN)
        options = {"c": panel.color, "cmap": colormap, "vmin": low, "vmax": high, "plotnonfinite": True}
        return axes.scatter(panel.mass, panel.metallicity, s=12, alpha=0.8, lw=0, rasterized=True, **options)
    palette = fading(color) if color else CLASS_PALETTE if classes else PALETTE
    return axes.imshow(
        image,
        cmap=ListedColormap(palette).with_extremes(bad="none"),
        vmin=low,
        vmax=high,
        extent=window,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )


def _draw_median(axes, panel, color):
    m = panel.median
    spread = np.stack([m["median"] - m["q16"], m["q84"] - m["median"]])
    axes.errorbar(
        m["mass"], m["median"], spread, color=color, lw=1.5, elinewidth=1, marker="o", ms=4, mfc="white"
    )
    axes.errorbar(m["mass"], m["median"], m["error"], fmt="none", ecolor=color, elinewidth=4)
    label = f"{panel.name}: {panel.mass.size:,} of {panel.n_galaxies:,}, scatter {panel.scatter[0]:.3f} dex"
    axes.set_title(label, fontsize=10, color=color, loc="right" if axes.get_title("left") else "left")


def _draw_histogram(axes, panel, color):
    if color:
        axes.stairs(panel.n_measured, panel.edges, color=color, lw=1.6, label=f"{panel.name}, measured")
        return
    axes.stairs(panel.n_all, panel.edges, fill=True, color="#E69F00", alpha=0.45, label="all galaxies")
    axes.stairs(panel.n_measured, panel.edges, fill=True, color="#0072B2", alpha=0.75, label="measured")


def _draw_relations(axes, state):
    dashes = {"dotdash": (0, (1, 1, 4, 1))}
    mass = np.linspace(7.5, 12, 181)
    limits = axes.get_xlim(), axes.get_ylim()
    for name in state.relations:
        color, dash = relation_style(name)
        axes.plot(
            mass, state.kind.relations[name](mass), color=color, ls=dashes.get(dash, dash), lw=2, label=name
        )
    axes.set(xlim=limits[0], ylim=limits[1])
