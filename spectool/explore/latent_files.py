"""What the latent dashboard writes and reads: the figure, the spectra as a table, its state."""

import numpy as np
import pandas as pd

from spectool.explore.exports import read_state, write_figure, write_state, write_table
from spectool.explore.style import DECODED, OBSERVED, RESIDUAL

STATE_FORMAT = "spectool latent state 1"


def save_state(state, path):
    """Write model, seed galaxy and position as JSON."""
    saved = {
        "format": STATE_FORMAT,
        "model": state.name,
        "model_id": state.model_id,
        "seed": state.seed_name,
        "latent": [float(f"{value:.9g}") for value in state.latent],
    }
    return write_state(saved, path)


def load_state(state, source, *, name="the state file"):
    """Go to a saved position."""
    keys = ("model", "model_id", "seed", "latent")
    saved, name = read_state(source, name=name, state_format=STATE_FORMAT, keys=keys)
    if saved["model_id"] != state.model_id:
        raise ValueError(
            f"{name} belongs to the model {saved['model']} ({saved['model_id']}), but {state.name} "
            f"({state.model_id}) is loaded: a position means nothing to another model"
        )
    if saved["seed"] not in state.seed_names:
        raise ValueError(f"{name} starts from the galaxy {saved['seed']!r}, which is not among the seeds")
    latent = np.asarray(saved["latent"], dtype=np.float32)
    if latent.shape != state.latent.shape or not np.isfinite(latent).all():
        raise ValueError(f"{name} does not hold {state.latent.size} finite latent values")
    with state.lock:
        state.select_seed(saved["seed"])
        state.set_latent(latent)


def save_csv(state, path):
    """Write the decoded spectrum beside the seed galaxy's."""
    table = pd.DataFrame(
        {
            "wavelength_angstrom": state.wavelength,
            "galaxy": state.seed_flux,
            "decoded": state.decoded,
            "residual": state.residual,
        }
    )
    position = " ".join(f"{value:.5g}" for value in state.latent)
    comments = (f"model {state.name} ({state.model_id}); galaxy {state.seed_name}", f"latent {position}")
    return write_table(table, path, comments=comments)


def save_png(state, path, *, wavelength_range=None):
    """Draw the spectrum and the residual."""
    from matplotlib.figure import Figure

    low, high = wavelength_range or (float(state.wavelength[0]), float(state.wavelength[-1]))
    shown = (state.wavelength >= low) & (state.wavelength <= high)
    wavelength = state.wavelength[shown]
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.plot(wavelength, state.seed_flux[shown], color=OBSERVED, lw=1, label=state.seed_name)
    top.plot(wavelength, state.decoded[shown], color=DECODED, lw=1, label=f"decoded ({state.name})")
    top.set_ylabel("flux / median(5000–5500 Å)")
    top.legend(frameon=False)
    bottom.axhline(0, color="#B0B0B0", lw=0.8)
    bottom.plot(wavelength, state.residual[shown], color=RESIDUAL, lw=0.8)
    bottom.set_ylabel("galaxy − decoded")
    bottom.set_xlabel("rest wavelength (Å, vacuum)")
    bottom.set_xlim(low, high)
    return write_figure(figure, path)
