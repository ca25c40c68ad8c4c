"""What the mass-metallicity dashboard writes and reads: the figure, the galaxies as a table, its state."""

import numpy as np
import pandas as pd

from spectool.explore.exports import read_state, write_figure, write_state, write_table
from spectool.explore.mzr_choices import CONTROLS
from spectool.explore.mzr_data import CLASSES
from spectool.explore.mzr_figure import SAMPLE_COLORS, relation_style
from spectool.explore.mzr_layer import CLASS_PALETTE, PALETTE, UNKNOWN

STATE_FORMAT = "spectool mass-metallicity state 1"


def save_state(state, path):
    """Write the controls and the galaxy looked at as JSON.

    Parameters
    ----------
    state : MzrState
    path : str or pathlib.Path

    Returns
    -------
    pathlib.Path
    """
    saved = {"format": STATE_FORMAT, **{name: getattr(state, name) for name in CONTROLS}}
    saved["selected"] = list(state.selected)
    return write_state(saved, path)


def load_state(state, source, *, name="the state file"):
    """Set the controls as they were saved.

    Parameters
    ----------
    state : MzrState
        Is left alone if the file does not fit.
    source : str, pathlib.Path or bytes
        A file, or its content.
    name : str
        What to call content in errors.

    Raises
    ------
    ValueError
        If it is no state file, lacks a control, or names a sample, calibration, relation or galaxy that is not here.
    """
    older = {"quantity": "gas"}  # of files from before there was another
    keys = [control for control in CONTROLS if control not in older]
    saved, name = read_state(source, name=name, state_format=STATE_FORMAT, keys=keys)
    saved = older | saved
    with state.lock:
        galaxy = _find_galaxy(state, saved.get("selected"), name)
        try:
            state.set(**{control: saved[control] for control in CONTROLS})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        if galaxy:
            state.select(*galaxy)
        else:
            state.clear()


def _find_galaxy(state, selected, name):
    if not selected:
        return None
    if not (isinstance(selected, list) and len(selected) == 2):
        raise ValueError(f"{name}: 'selected' must be the galaxy's family and number, not {selected!r}")
    for sample_name, sample in state.samples.items():
        found = np.flatnonzero(sample["candidate"].values == selected[1])
        if sample.attrs["family"] == selected[0] and found.size:
            return sample_name, int(found[0])
    raise ValueError(f"{name} looks at the galaxy {selected[1]} of {selected[0]!r}, which is not here")


def save_csv(state, path):
    """Write the galaxies of the shown samples, measured or not.

    Parameters
    ----------
    state : MzrState
    path : str or pathlib.Path

    Returns
    -------
    pathlib.Path
        One row per sample and galaxy; masses in dex(Msun), rates in dex(Msun/yr), metallicities as 12 + log(O/H)
        (``oxygen``) or log Z/Zsun with Zsun = 0.02 (``log_z_star``).
        Comment lines begin with ``#``.
    """
    tables, quantity = [], state.kind
    for panel in state.panels:
        sample, found = state.samples[panel.name], state.metallicity(panel.name)
        table = {"sample": panel.name, "candidate": sample["candidate"].values}
        for column in ("log_mass", "log_sfr", "spectral_class"):
            table[column] = sample[column].values if column in sample else np.nan
        table |= {
            quantity.column: found.value,
            f"{quantity.column}_error": found.error,
            quantity.sn_column: found.sn,
        }
        table[f"true_{quantity.column}"] = quantity.truth(sample)
        table = pd.DataFrame(table)
        table["measured"] = np.isin(np.arange(len(table)), panel.index)
        tables.append(table)
    dust = ", corrected by the Balmer decrement" if state.dust_corrected else ", not corrected for dust"
    comment = f"{quantity.axis} by {state.calibration}{dust if state.quantity == 'gas' else ''}"
    comment += f"; measured: {quantity.sn_label} {state.min_sn:g}"
    return write_table(pd.concat(tables), path, comments=[comment], digits=6)


def save_png(state, path, *, window=None):
    """Draw the panels, with medians, relations and histograms.

    Parameters
    ----------
    state : MzrState
    path : str or pathlib.Path
    window : (float, float, float, float), optional
        Lowest and highest mass, lowest and highest metallicity.

    Returns
    -------
    pathlib.Path
    """
    from matplotlib.figure import Figure

    overlaid = state.overlaid and len(state.panels) == 2
    n = 1 if overlaid else len(state.panels)
    figure = Figure(figsize=(5.6 * n + 0.8, 6), layout="constrained")
    axes = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, height_ratios=(3.4, 1))
    mapped = None
    for i, panel in enumerate(state.panels):
        column = 0 if overlaid else i
        color = SAMPLE_COLORS[i] if overlaid else None
        mapped = _draw_panel(axes[0, column], state, panel, color) or mapped
        _draw_histogram(axes[1, column], panel, color)
    for column in range(n):
        _draw_relations(axes[0, column], state)
        axes[1, column].set_xlabel("log M* / M☉")
    axes[0, 0].set_ylabel(f"{state.kind.axis}, {state.calibration}")
    axes[1, 0].set_ylabel("galaxies")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    axes[1, 0].legend(frameon=False, fontsize=8)
    if window:
        axes[0, 0].set(xlim=window[:2], ylim=window[2:])
    if mapped is not None and not overlaid:
        bar = figure.colorbar(mapped, ax=axes[0, :].tolist(), pad=0.01)
        bar.set_label(state.kind.colors[state.color])
        if state.color == "class":
            bar.set_ticks(range(len(CLASSES)), labels=CLASSES)
    return write_figure(figure, path)


def _draw_panel(axes, state, panel, color):
    from matplotlib.colors import ListedColormap

    line = color or "black"
    mapped = None
    if color:
        axes.scatter(panel.mass, panel.metallicity, s=9, color=color, alpha=0.3, lw=0, rasterized=True)
    else:
        classes = state.color == "class"
        low, high = (-0.5, len(CLASS_PALETTE) - 0.5) if classes else state.color_range
        colormap = ListedColormap(CLASS_PALETTE if classes else PALETTE).with_extremes(bad=UNKNOWN)
        options = {"c": panel.color, "cmap": colormap, "vmin": low, "vmax": high, "plotnonfinite": True}
        mapped = axes.scatter(
            panel.mass, panel.metallicity, s=12, alpha=0.8, lw=0, rasterized=True, **options
        )
    m = panel.median
    spread = np.stack([m["median"] - m["q16"], m["q84"] - m["median"]])
    axes.errorbar(
        m["mass"], m["median"], spread, color=line, lw=1.5, elinewidth=1, marker="o", ms=4, mfc="white"
    )
    axes.errorbar(m["mass"], m["median"], m["error"], fmt="none", ecolor=line, elinewidth=4)
    label = f"{panel.name}: {panel.mass.size:,} of {panel.n_galaxies:,}, scatter {panel.scatter[0]:.3f} dex"
    axes.set_title(label, fontsize=10, color=line, loc="right" if axes.get_title("left") else "left")
    return mapped


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
