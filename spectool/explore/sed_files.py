"""What the dashboard of fluxes writes and reads: the figure, the photometry as a table, its state."""

import numpy as np
import pandas as pd

from spectool.explore.exports import read_state, write_figure, write_state, write_table
from spectool.explore.sed_figure import (
    ABOVE,
    BEST,
    CHANGED,
    LIMIT_SIGMA,
    NEAREST,
    OBSERVED,
    SHORT,
    SOURCES,
    band_table,
    compare_answers,
)
from spectool.measure.sedfit import PROPERTIES

STATE_FORMAT = "spectool sed state 1"
_MARKERS = {"circle": "o", "square": "s", "diamond": "D", "x": "x"}


def save_state(state, path):
    """Write galaxy, band and what was done to the fluxes as JSON."""
    moved = np.flatnonzero(state.shifts)
    saved = {
        "format": STATE_FORMAT,
        "galaxy": state.galaxy,
        "band": state.band,
        "shifts": {state.bands[i]: float(f"{state.shifts[i]:.9g}") for i in moved},
        "dropped": [state.bands[i] for i in np.flatnonzero(state.dropped)],
        "mistaken": state.mistaken,
    }
    return write_state(saved, path)


def load_state(state, source, *, name="the state file"):
    """Go to a saved galaxy, and change it as it was."""
    keys = ("galaxy", "band", "shifts", "dropped", "mistaken")
    saved, name = read_state(source, name=name, state_format=STATE_FORMAT, keys=keys)
    if saved["galaxy"] not in state.names:
        raise ValueError(f"{name} is of the galaxy {saved['galaxy']!r}, which is not in this sample")
    try:
        shifts = {str(band): float(shift) for band, shift in saved["shifts"].items()}
        bands = {saved["band"], *shifts, *saved["dropped"]}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} does not hold shifts of bands, and bands that are dropped") from error
    if unknown := sorted(str(band) for band in bands - set(state.bands)):
        raise ValueError(f"{name} names the bands {', '.join(unknown)}, which are not in this sample")
    if not np.isfinite(list(shifts.values())).all():
        raise ValueError(f"{name} holds a shift that is not finite")
    with state.lock:
        state.select_galaxy(saved["galaxy"])
        state.select_band(saved["band"])
        state.change(shifts=shifts, dropped=saved["dropped"], mistaken=bool(saved["mistaken"]))


def save_csv(state, path):
    """Write the photometry as it was changed, beside that observed and that of the nearest model."""
    answer = state.answer
    table = pd.DataFrame(
        {
            "band": state.bands,
            "wavelength_micron": state.wavelength,
            "flux_jy": answer.flux,
            "flux_error_jy": answer.error,
            "missing": answer.missing,
            "flux_observed_jy": state.original.flux,
            "shift_dex": state.shifts,
        }
    )
    if answer.nearest is not None:
        table["model_flux_jy"] = answer.nearest["model_flux"].values[0]
    comments = [f"galaxy {state.galaxy}{', fluxes in mJy taken for Jy' * state.mistaken}"]
    for source, values in compare_answers(state).items():
        for name, (value, low, high) in values.items():
            if not np.isnan(value):
                error = "" if np.isnan(low) else f" ({low:.3f} to {high:.3f})"
                comments.append(f"{SOURCES[source][0]}: {name} {value:.3f}{error}")
    comments += [f"doubtful: {reason}" for reason in (answer.reason, answer.fit_reason) if reason]
    return write_table(table, path, comments=comments)


def save_png(state, path):
    """Draw the photometry with the nearest models, and the answers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, height_ratios=(2, 1))
    _draw_photometry(top, state)
    _draw_answers(bottom, state)
    return write_figure(figure, path)


def _draw_photometry(axes, state):
    table, order = band_table(state), np.argsort(state.wavelength)
    if state.answer.nearest is not None:
        flux = state.answer.nearest["model_flux"].values[:, order]
        axes.plot(state.wavelength[order], flux[1:].T, color=NEAREST, lw=0.8)
        axes.plot(state.wavelength[order], flux[0], color=BEST, lw=2, label="nearest model of the library")
    axes.plot(state.wavelength, table["before"], "x", color="#909090", ms=6, label="as observed")
    labels = {
        "flux": "flux",
        "limit": f"{LIMIT_SIGMA:g}σ limit",
        "missing": "missing (dropped; else at the model)",
    }
    for kind, marker in (("flux", "o"), ("limit", "v"), ("missing", "o")):
        rows = table["kind"] == kind
        if not rows.any():
            continue
        color = "#909090" if kind == "missing" else OBSERVED
        fill = "white" if kind == "missing" else color
        x, y = table["wavelength"][rows], table["y"][rows]
        around = np.stack([y - table["low"][rows], table["high"][rows] - y])
        axes.errorbar(x, y, around, fmt=marker, color=color, mfc=fill, ms=5, lw=1, label=labels[kind])
    if state.shifts.any():
        moved = state.shifts != 0
        axes.plot(table["wavelength"][moved], table["y"][moved], "o", color=CHANGED, mfc="none", ms=9)
    axes.set(xscale="log", yscale="log", xlabel="observed wavelength (µm)", ylabel="flux density (Jy)")
    title = f"{state.galaxy}{': fluxes in mJy taken for Jy' * state.mistaken}"
    axes.set_title(title, fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=8)


def _draw_answers(axes, state):
    origin = np.array([state.original.predicted[name][0] for name in PROPERTIES])
    for source, values in compare_answers(state).items():
        label, color, marker = SOURCES[source]
        value, low, high = np.array([values[name] for name in PROPERTIES]).T
        value = np.where(np.isfinite(value), value, np.nan)
        around = np.nan_to_num(np.stack([value - low, high - value]))
        rows = np.arange(len(value)) - ABOVE[source]
        axes.errorbar(
            value - origin, rows, xerr=around, fmt=_MARKERS[marker], color=color, ms=6, lw=2, label=label
        )
    axes.axvline(0, color="#909090", lw=0.8, ls="--")
    axes.set_yticks(range(len(PROPERTIES)), labels=list(SHORT.values()))
    axes.set(
        ylim=(len(PROPERTIES) - 0.5, -0.5), xlabel="dex from the networks’ answer to the galaxy as observed"
    )
    axes.legend(frameon=False, fontsize=8, ncols=len(SOURCES), loc="lower left", bbox_to_anchor=(0, 1))
