"""The mock SDSS samples of Scourfield et al. (2023): which galaxies, and their spectra.

The package ships the numbers of the selected candidates (made by ``tools/select_scourfield2023.py``); their spectra are
rebuilt from these (`spectool.scourfield2023_candidates`).
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import xarray as xr

from spectool import __version__
from spectool.denoising import normalize_total
from spectool.scourfield2023_candidates import BLOCK, SEED, rebuild

__all__ = ["BLOCK", "SEED", "SELECTION", "make_scourfield2023", "read_selection", "rebuild"]

SELECTION = Path(__file__).parent / "data" / "scourfield2023_selection.nc"
CACHE_VERSION = 1
"""Raise it when the same numbers give other spectra."""
_SAMPLES = ("uniform", "star-forming", "null")


def read_selection(sample="uniform", *, path=SELECTION):
    """The galaxies that were selected, by their numbers.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
        1,000 galaxies per bin of H-alpha flux (Section 2 of the paper); star-forming ones only (Section 5); and the
        same from the population whose gas metallicity follows mass alone.
    path : path, optional
        Default: the selection that comes with spectool.

    Returns
    -------
    Dataset
        Per galaxy ``candidate``, ``spectral_class`` (measured), ``h_alpha_flux`` (measured, 1e-17 erg/s/cm2),
        ``h_alpha_bin`` (0-9), ``split`` ("train", "test"); ``attrs``: ``constant`` (of `normalize_total`), and as JSON
        ``counts`` (class -> number per bin), ``proportions`` (candidates in the paper's Table 1), ``natural`` (shares
        of the classes among the candidates before they were weighted), ``recipe``.

    Raises
    ------
    ValueError
        If there is no such sample.
    """
    if sample not in _SAMPLES:
        raise ValueError(f"no sample {sample!r}; choose from {', '.join(_SAMPLES)}")
    stored = xr.load_dataset(path, group=sample, engine="h5netcdf")
    names = np.array(json.loads(stored.attrs["classes"]))
    split = np.where(stored["is_test"].values, "test", "train")
    return stored.drop_vars("is_test").assign(
        candidate=stored["candidate"].astype("i8").assign_attrs(stored["candidate"].attrs),
        spectral_class=("galaxy", names[stored["spectral_class"].values], {"units": ""}),
        split=("galaxy", split, {"units": ""}),
    )


def make_scourfield2023(sample="uniform", *, split=None, n=None, cache=True, progress=True):
    """The spectra of a selection, normalised.

    Parameters
    ----------
    sample : {"uniform", "star-forming", "null"}
    split : {"train", "test"}, optional
        Default: both.
    n : int, optional
        Only the first n (they are in random order).
    cache : bool
        Keep whole samples on disk (some 100 MB each, in the folder that `pooch.os_cache` gives), for the next call.
    progress : bool

    Returns
    -------
    Dataset
        As `rebuild` and `spectool.denoising.normalize_total`, with the columns of `read_selection`.
    """
    chosen = read_selection(sample)
    if split is not None:
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train', 'test' or None, not {split!r}")
        chosen = chosen.isel(galaxy=np.flatnonzero(chosen["split"].values == split))
    path = _cache_file(sample, split, chosen)
    if cache and path.exists():
        return _load(path).isel(galaxy=slice(n))
    recipe = json.loads(chosen.attrs["recipe"])
    some = chosen.isel(galaxy=slice(n))
    spectra = rebuild(
        some["candidate"].values,
        seed=recipe["seed"],
        metallicity_sfr=recipe["metallicity_sfr"],
        progress=progress,
    )
    spectra = normalize_total(spectra, constant=chosen.attrs["constant"])
    spectra = spectra.assign({name: some[name] for name in some.data_vars if name != "candidate"})
    if cache and some.sizes["galaxy"] == chosen.sizes["galaxy"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        spectra.to_netcdf(partial, engine="h5netcdf")
        partial.replace(path)
    return spectra


def _cache_file(sample, split, chosen):
    """Named after everything that the spectra depend on; a new release of spectool makes them anew."""
    import pooch

    stated = json.dumps([__version__, CACHE_VERSION, chosen.attrs["constant"], chosen.attrs["recipe"]])
    digest = hashlib.sha256(stated.encode() + chosen["candidate"].values.tobytes()).hexdigest()[:12]
    return (
        Path(pooch.os_cache("spectool")) / "samples" / f"scourfield2023_{sample}_{split or 'all'}_{digest}.nc"
    )


def _load(path):
    """A sample from the cache; strings as numpy's own, as they were."""
    sample = xr.load_dataset(path, engine="h5netcdf")
    text = [name for name in sample.variables if sample[name].dtype.kind == "O"]
    return sample.assign({name: sample[name].astype(str) for name in text})
