"""What the dashboard of fluxes opens with: galaxies that no network has seen, a library, and the shipped networks."""

import numpy as np

from spectool.measure.sedfit import draw_library
from spectool.papers.surana2020.network import load_networks, predict_properties
from spectool.parallel import release_memory
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.photometry import make_band_averages
from spectool.synth.grid import SSPGrid

__all__ = ["draw", "load_networks", "pick_galaxies", "predict_properties"]

N_GALAXIES, N_MODELS = 200, 2_000
SEED = 90


def draw():
    """Draw observed mock galaxies, and a library of models to fit them with, in seconds."""
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    sample = observe_gama(draw_gama(N_GALAXIES, averages=averages, seed=SEED), seed=SEED + 1)
    library = draw_library(N_MODELS, averages=averages, seed=SEED + 2, progress=False)
    del averages
    release_memory()
    return sample, library


def pick_galaxies(sample, n):
    """Some galaxies, from the most to the least star-forming, with their ``number`` and a ``name`` that tells them."""
    number = np.arange(sample.sizes["galaxy"])
    ending = next((e for e in ("_fit", "") if {f"log_mass{e}", f"log_sfr{e}"} <= {*sample.data_vars}), None)
    if ending is not None:
        mass, rate = (sample[name + ending].values for name in ("log_mass", "log_sfr"))
        number = np.argsort(mass - rate, kind="stable")[: int(np.isfinite(rate - mass).sum())]
        number = number[np.linspace(0, number.size - 1, min(n, number.size)).round().astype(int)]
    number = number[:n]
    picked = sample.isel(galaxy=number).assign_coords(number=("galaxy", number))
    if "name" in sample.coords:
        return picked
    names = [f"{k}: z {z:.2f}" for k, z in zip(number, picked["redshift"].values, strict=True)]
    if ending is not None:
        rows = zip(names, mass[number], rate[number], strict=True)
        names = [f"{name}, log M* {m:.1f}, log SFR {r:.1f}".replace("-", "−") for name, m, r in rows]
    return picked.assign_coords(name=("galaxy", names))
