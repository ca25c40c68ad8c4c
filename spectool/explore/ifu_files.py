"""What the galaxy-map dashboard writes and reads: its panels, the spectra as a table, its choices."""

import numpy as np
import pandas as pd

from spectool.explore import ifu_data as data
from spectool.explore.exports import read_state, write_figure, write_state, write_table
from spectool.explore.ifu_plots import BAND_COLOR, F_NU_LABEL, RADIUS_LABEL
from spectool.explore.spectrum import WAVELENGTH_LABEL
from spectool.explore.style import MAP_PALETTE, OBSERVED, OKABE_ITO, SIGNED_PALETTE

STATE_FORMAT = "spectool galaxy map state 1"
CHOICES = ("galaxy", "source", "quantity", "view", "reference")


def save_state(state, path):
    """Write the choices and the spectrum that is looked at as JSON."""
    saved = {"format": STATE_FORMAT, **{name: getattr(state, name) for name in CHOICES}}
    return write_state({**saved, "spectrum": state.spectrum}, path)


def load_state(state, source, *, name="the state file"):
    """Go to saved choices."""
    keys = (*CHOICES, "spectrum")
    saved, name = read_state(source, name=name, state_format=STATE_FORMAT, keys=keys)
    with state.lock:
        if saved["spectrum"] not in state.members.get(saved["galaxy"], ()):
            raise ValueError(f"{name}: spectrum {saved['spectrum']} is not of galaxy {saved['galaxy']}")
        try:
            state.choose(**{trait: saved[trait] for trait in CHOICES})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        state.select(saved["spectrum"])


def save_csv(state, path):
    """Write the galaxy's spectra, one row each."""
    table = {"spectrum": state.index}
    table |= {name: state.points[name] for name in ("x", "y", "radius")}
    for name, source in state.sources.items():
        for quantity, values in source.values.items():
            table[f"{quantity} {name}"] = values[state.index]
        for quantity, values in source.errors.items():
            table[f"{quantity} {name} error"] = values[state.index]
    comments = [state.galaxies[state.galaxy], *_gradient_lines(state)]
    return write_table(pd.DataFrame(table), path, comments=comments, digits=6)


def _gradient_lines(state):
    quantity = data.QUANTITIES[state.quantity]
    return [f"gradient of {quantity}, {name}: {fit.text()}" for name, fit in state.gradients.items()]


def save_png(state, path):
    """Draw the map, the radial profile and the bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.6, 1), width_ratios=(1, 1.3))
    _draw_map(figure, figure.add_subplot(grid[0, 0]), state)
    _draw_profile(figure.add_subplot(grid[0, 1]), state)
    _draw_bands(figure.add_subplot(grid[1, :]), state)
    figure.suptitle(state.galaxies[state.galaxy])
    return write_figure(figure, path)


def _draw_map(figure, axes, state):
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import ListedColormap

    points = state.points
    colors = ListedColormap(SIGNED_PALETTE if state.view == "difference" else MAP_PALETTE)
    outlines = [outline.T for outline in data.cell_outlines(points["x"], points["y"])]
    cells = PolyCollection(outlines, array=points["shown"], cmap=colors, edgecolor="white", lw=0.4)
    cells.set_clim(*state.limits)
    axes.add_collection(cells)
    chosen = [outlines[k] for k in np.flatnonzero(state.index == state.spectrum)]
    axes.add_collection(PolyCollection(chosen, facecolor="none", edgecolor="black", lw=2))
    axes.plot(*data.radius_ellipse(points["x"], points["y"], points["radius"]), "k--", lw=1)
    axes.autoscale_view()
    axes.set(xlabel="x (arcsec)", ylabel="y (arcsec)", aspect="equal", title=data.describe_map(state))
    figure.colorbar(cells, ax=axes, label="dex")


def _draw_profile(axes, state):
    points = state.points
    parts = {state.reference: ("reference", OBSERVED, "x"), state.source: ("value", OKABE_ITO["blue"], "o")}
    for name, (column, color, marker) in parts.items():
        fit = state.gradients[name]
        axes.scatter(points["radius"], points[column], s=14, color=color, marker=marker, alpha=0.7)
        if fit.known:
            low, mean, high = fit.line([0, 1])
            axes.fill_between([0, 1], low, high, color=color, alpha=0.25)
            axes.plot([0, 1], mean, color=color, lw=2)
        axes.plot([], [], color=color, marker=marker, label=f"{name}: {fit.text()}")
    axes.axvline(1, color="0.5", ls=":")
    axes.set(xlabel=RADIUS_LABEL, ylabel=data.QUANTITIES[state.quantity])
    axes.legend(frameon=False)


def _draw_bands(axes, state):
    drawn = state.photometry()
    axes.plot(drawn["wavelength"], drawn["flux"], color=OBSERVED, lw=0.8, label="spectrum")
    at, flux, error = (drawn[f"band_{name}"] for name in ("wavelength", "flux", "error"))
    axes.errorbar(at, flux, error, fmt="o", ms=5, color=BAND_COLOR, label="bands")
    axes.set(xlabel=WAVELENGTH_LABEL, ylabel=F_NU_LABEL)
    axes.set_xlim(at.min() - 120, at.max() + 120)
    axes.legend(frameon=False)
