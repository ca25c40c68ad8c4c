"""What the mass-metallicity dashboard writes and reads: the galaxies as a table, and its state."""

import numpy as np
import pandas as pd

from spectool.explore.exports import read_state, write_state, write_table
from spectool.explore.mzr_choices import CONTROLS

STATE_FORMAT = "spectool mass-metallicity state 1"


def save_state(state, path):
    """Write the controls and the galaxy looked at as JSON."""
    saved = {"format": STATE_FORMAT, **{name: getattr(state, name) for name in CONTROLS}}
    saved["selected"] = list(state.selected)
    return write_state(saved, path)


def load_state(state, source, *, name="the state file"):
    """Set the controls as they were saved."""
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
    """Write the galaxies of the shown samples, measured or not."""
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
