"""What the line-flux dashboard writes and reads: its panels, the points as a table, its choices."""

import numpy as np
import pandas as pd

from spectool.explore.exports import read_state, write_figure, write_state, write_table
from spectool.explore.line_panels import CLASS_STYLE, LIVE_COLOR, PANELS, SPARSE_COLOR, axis_limits
from spectool.explore.line_spectrum import CURVES
from spectool.explore.line_state import DEFAULTS
from spectool.measure.classes import CLASSES, kauffmann2003, kewley2001

STATE_FORMAT = "spectool line state 1"
MARKERS = {"circle": "o", "square": "s", "inverted_triangle": "v", "triangle": "^", "diamond": "D"}


def save_state(state, path):
    """Write all choices and the brushed galaxies as JSON."""
    low, high = state.sn_range
    saved = {
        "format": STATE_FORMAT,
        **{name: getattr(state, name) for name in DEFAULTS},
        "classes": list(state.classes),
        # JSON knows no infinity.
        "sn_range": [low, high if np.isfinite(high) else None],
        "sigma": state.sigma,
        "brushed": state.candidates[state.brushed].tolist(),
        "shown": int(state.candidates[state.shown]) if state.shown >= 0 else None,
    }
    return write_state(saved, path)


def load_state(state, source, *, name="the state file"):
    """Go to saved choices."""
    keys = (*DEFAULTS, "classes", "sn_range", "sigma", "brushed", "shown")
    saved, name = read_state(source, name=name, state_format=STATE_FORMAT, keys=keys)
    position = {int(candidate): k for k, candidate in enumerate(state.candidates)}
    try:
        brushed = [position[candidate] for candidate in saved["brushed"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} brushes the galaxy {error}, which is not in this table") from error
    with state.lock, state.hold_trait_notifications():
        before = {trait: getattr(state, trait) for trait in (*DEFAULTS, "classes", "sn_range")}
        try:
            low, high = saved["sn_range"]
            state.choose(**{trait: saved[trait] for trait in DEFAULTS} | {"axes": tuple(saved["axes"])})
            state.set_filter(classes=saved["classes"], sn_range=(low, np.inf if high is None else high))
            state.set_sigma(float(saved["sigma"]))
        except (ValueError, TypeError) as error:
            state.choose(**{trait: before[trait] for trait in DEFAULTS})
            state.set_filter(classes=before["classes"], sn_range=before["sn_range"])
            raise ValueError(f"{name}: {error}") from error
        state.brush(brushed)
        if position.get(saved["shown"], -1) in state.live_index:
            state.show(position[saved["shown"]])


def save_csv(state, path):
    """Write the galaxies that take part, one row each."""
    live = np.full(state.candidates.size, np.nan)
    if state.live:
        live[state.live_index] = state.live["recovered"]
    table = pd.DataFrame(
        {
            "candidate": state.candidates,
            "spectral_class": state.galaxy_class,
            "h_alpha_sn": state.sn,
            "log_original": state.points["original"],
            "log_recovered": state.points["recovered"],
            "difference_dex": state.points["residual"],
            "log_n2": state.points["n2"],
            "log_o3": state.points["o3"],
            "log_mass": state.points["log_mass"],
            "oxygen_abundance_o3n2": state.points["oh"],
            f"z{state.axes[0]}": state.points["latent_x"],
            f"z{state.axes[1]}": state.points["latent_y"],
            "brushed": np.isin(np.arange(state.candidates.size), state.brushed),
            "live_recovered": live,
        }
    )
    found = state.summary
    comments = (
        f"{state.line}, {state.quantity} flux, {state.source}; BPT and metallicity from {state.diagrams} lines",
        f"sigma {found['sigma']:.4g} dex, in filled bins {found['sigma_fill']:.4g} dex; "
        f"recovered {found['n_recovered']} of {found['n_original']}; noise of live_recovered {state.sigma:g}",
    )
    return write_table(table[state.passing], path, comments=comments)


def save_png(state, path):
    """Draw all panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    grid = figure.add_gridspec(3, 12, height_ratios=(2, 1, 2.2))
    flux = figure.add_subplot(grid[0, :4])
    axes = {
        "flux": flux,
        "residual": figure.add_subplot(grid[1, :4], sharex=flux),
        "bpt": figure.add_subplot(grid[:2, 4:8]),
        "mzr": figure.add_subplot(grid[:2, 8:]),
        "latent": figure.add_subplot(grid[2, :4]),
    }
    for panel in PANELS:
        _draw_panel(axes[panel.name], panel, state)
    _draw_percentiles(axes, state.bins)
    for curve, end, style in ((kewley2001, 0.35, "k-"), (kauffmann2003, -0.05, "k--")):
        n2 = np.linspace(-2.2, end, 80)
        axes["bpt"].plot(n2, curve(n2), style, lw=1)
    axes["latent"].set(xlabel=f"{state.source}: z{state.axes[0]}", ylabel=f"{state.source}: z{state.axes[1]}")
    flux.set_title(f"{state.line}, {state.quantity} flux, {state.source}", fontsize=11)
    figure.legend(
        *axes["mzr"].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False
    )
    _draw_spectrum(figure.add_subplot(grid[2, 4:]), state)
    return write_figure(figure, path)


def _draw_panel(axes, panel, state):
    x, y = state.points[panel.x], state.points[panel.y]
    brushed = np.isin(np.arange(x.size), state.brushed)
    for name in CLASSES:
        color, marker = CLASS_STYLE[name]
        for chosen, alpha, edge in ((~brushed, 0.3, "none"), (brushed, 1.0, "black")):
            rows = (state.galaxy_class == name) & chosen
            style = {"s": 9, "marker": MARKERS[marker], "color": color, "alpha": alpha, "edgecolors": edge}
            axes.scatter(x[rows], y[rows], lw=0.5, label=name if edge == "none" else None, **style)
    if state.live:
        x, y = state.live[panel.x], state.live[panel.y]
        axes.scatter(x, y, s=50, marker="*", color=LIVE_COLOR, edgecolors="black", lw=0.6, zorder=4)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axes.set_xlim(axis_limits(state.points[panel.x], least=panel.x_least))
    axes.set_ylim(axis_limits(state.points[panel.y], least=panel.y_least))


def _draw_percentiles(axes, bins):
    for name, suffix, slope in (("flux", "", 1), ("residual", "_residual", 0)):
        axes[name].axline((0, 0), slope=slope, color="0.5", ls="--", lw=0.8)
        for filled, color, face in ((True, "black", "black"), (False, SPARSE_COLOR, "white")):
            chosen = (bins["count"] > 0) & (bins["filled"] == filled)
            low, middle, high = (bins[f"{key}{suffix}"][chosen] for key in ("low", "middle", "high"))
            error = np.stack([middle - low, high - middle])
            axes[name].errorbar(
                bins["x"][chosen], middle, error, fmt="o", ms=5, color=color, mfc=face, zorder=3
            )


def _draw_spectrum(axes, state):
    axes.set(xlabel="rest wavelength (Å, vacuum)", ylabel="normalised flux")
    at = np.flatnonzero(state.live_index == state.shown)
    if state.spectra is None or not at.size:
        return
    one = state.spectra.isel(galaxy=int(at[0]))
    for name, (label, color, width, style) in CURVES.items():
        axes.plot(one["wavelength"], one[name], color=color, lw=width, ls=style, label=label)
    axes.set_title(f"galaxy {state.candidates[state.shown]}, noise {state.sigma:g}", fontsize=11)
    axes.legend(frameon=False, ncols=4)
