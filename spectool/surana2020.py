"""The mock GAMA sample of Surana et al. (2020): galaxies with GAMA's noise and gaps, and the labels that a fit gives.

The paper's labels are MAGPHYS's medians, those here the medians of `spectool.measure.sedfit`; truths stand beside them.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool import __version__
from spectool.measure.sedfit import fit_library
from spectool.measure.sedfit_library import N_MODELS, draw_library
from spectool.surveys.band_averages import make_band_averages
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.gama_cuts import PAPER_TOTAL, select_surana2020
from spectool.synth import SSPGrid

BLOCK = 10_000
SEED = 2020
LIBRARY_SEED = 1
CACHE_VERSION = 1
"""Raise it when the same numbers give other galaxies."""


def make_surana2020(
    n=PAPER_TOTAL,
    *,
    seed=SEED,
    n_models=N_MODELS,
    negative="keep",
    facilities=None,
    grid=None,
    cache=None,
    progress=True,
):
    """Draw galaxies of GAMA, observe them, and fit them.

    Made in blocks; with 50,000 models a block of 10,000 takes about 15 s on one core, and the library two minutes.

    Parameters
    ----------
    n : int
        Before any cut (`select_taught`); the first galaxies of a larger sample are the same.
    seed : int
    n_models : int
        Of the library that the teacher knows (`draw_library`).
    negative, facilities
        Passed to `observe_gama`.
    grid : SSPGrid, optional
        Default: the embedded broadband one.
    cache : path, optional
        Folder in which blocks are kept, and from which they are read: what is interrupted goes on. Default: none.
    progress : bool

    Returns
    -------
    xarray.Dataset, dims (galaxy, band)
        As from `draw_gama`, `observe_gama` and `fit_library`.

    Raises
    ------
    ValueError
        If n is not positive, or a cache is asked for with another grid.
    """
    if n < 1:
        raise ValueError(f"the number of galaxies must be at least 1, not {n}")
    if cache is not None and grid is not None:
        raise ValueError("a cache holds galaxies of the embedded grid only: leave cache or grid out")
    recipe = f"seed {seed}, {n_models} models, negative {negative}, facilities {facilities or 'as in gama'}"
    if facilities == {}:
        recipe = recipe.replace("as in gama", "without gaps")
    digest = hashlib.sha256(f"{__version__} {CACHE_VERSION} {recipe}".encode()).hexdigest()[:12]
    made, parts = {}, []
    for block in tqdm(range(-(-n // BLOCK)), desc="sample", unit="block", disable=not progress):
        size = min(BLOCK, n - block * BLOCK)
        path = None if cache is None else Path(cache) / f"surana2020_{digest}_{block}.nc"
        if path is not None and path.exists():
            parts.append(_read(path).isel(galaxy=slice(0, size)))
            continue
        if not made:
            made = _make_library(grid, n_models, progress)
        number = BLOCK if path is not None else size
        part = _make_block(made, [seed, block], number, negative=negative, facilities=facilities)
        if path is not None:
            _write(part, path)
        parts.append(part.isel(galaxy=slice(0, size)))
    sample = xr.concat(parts, dim="galaxy", data_vars="minimal", coords="minimal", compat="override")
    return sample.assign_attrs(
        parts[0].attrs, history=f"{n} galaxies of GAMA (mock), fitted with a library; {recipe}"
    )


def select_taught(sample, **cuts):
    """The paper's cuts by the teacher's mass, as in the paper; negative fluxes, which mocks have many of, stay.

    Parameters
    ----------
    sample : xarray.Dataset
        From `make_surana2020`.
    **cuts
        Passed to `spectool.surveys.gama_cuts.select_surana2020`.

    Returns
    -------
    selected, cuts : xarray.Dataset
        See there.
    """
    number = sample.assign(log_mass=sample["log_mass_fit"], row=("galaxy", np.arange(sample.sizes["galaxy"])))
    selected, table = select_surana2020(number, **{"drop_negative": False} | cuts)
    return sample.isel(galaxy=selected["row"].values).assign_attrs(selected.attrs), table


def _make_library(grid, n_models, progress):
    averages = make_band_averages(SSPGrid.embedded("broadband") if grid is None else grid, load_filters())
    library = draw_library(n_models, averages=averages, seed=LIBRARY_SEED, progress=progress)
    return {"averages": averages, "library": library}


def _make_block(made, seed, size, **observation):
    """The first galaxies of a block; drawn and observed as a whole, so that they do not depend on how many."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = draw_gama(BLOCK, averages=made["averages"], seed=number)
    seen = observe_gama(drawn, seed=np.random.default_rng([*seed, 1]), **observation)
    return fit_library(seen.isel(galaxy=slice(0, size)), made["library"], progress=False)


def _read(path):
    part = xr.load_dataset(path, engine="h5netcdf")
    return part.assign_coords(band=part["band"].values.astype(str))


def _write(part, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    part.to_netcdf(unfinished, engine="h5netcdf")
    unfinished.replace(path)
