"""Networks that are trained to be scored and not kept: by type of galaxy and by size of the training set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from spectool.models.bands import N_FOLDS, hold_out, read_bands, split_spectra
from spectool.papers.liewcain2021.network import read_labels, score_spectra, train_cnn

SIZES = (0.05, 0.1, 0.25, 0.5, 0.75)
TYPES = {"early": True, "late": False}


def write_experiment(path, name: str, found: dict) -> None:
    """Put figures beside those of other commands; Datasets as dicts (`xarray.Dataset.to_dict`)."""
    path = Path(path)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(
        json.dumps(known | {name: _shorten(found)}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


def _shorten(value):
    """Numbers to five digits."""
    if isinstance(value, dict):
        return {key: _shorten(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def train_types(sample: xr.Dataset, output: str, *, suffix: str = "", seed: int = 0, **options) -> xr.Dataset:
    """Table 1: networks trained on early or on late types, asked about both."""
    early = sample["is_early"].values[sample["galaxy_index"].values]
    fold = np.empty(len(early), int)
    for is_early in TYPES.values():
        rows = np.flatnonzero(early == is_early)
        fold[rows] = split_spectra(sample.isel(spectrum=rows), by="galaxy", seed=[seed, is_early])
    labels = read_labels(sample, suffix=suffix, outputs=[output])[:, 0]
    found = {what: np.empty((2, 2)) for what in ("sigma", "bias")}
    for i, trained in enumerate(TYPES.values()):
        # Galaxies of the other type count as unseen whatever their fold: they train no network.
        predicted = np.full(len(early), np.nan)
        for k in range(N_FOLDS):
            seen = np.flatnonzero((early == trained) & (fold != k))
            asked = np.flatnonzero(fold == k)
            predicted[asked] = train_and_ask(
                sample, output, seen, asked, by="galaxy", suffix=suffix, seed=seed + k, **options
            )
        for j, asked in enumerate(TYPES.values()):
            scores = score_spectra(predicted[early == asked], labels[early == asked])
            for what, values in found.items():
                values[i, j] = scores[what]
    return xr.Dataset(
        {what: (("training", "application"), values, {"units": "dex"}) for what, values in found.items()},
        coords={"training": list(TYPES), "application": list(TYPES)},
    )


def train_rows(sample, output, seen, *, by, suffix="", seed=0, **options):
    """A network that was trained, and stopped, by the rows `seen` of a sample, and its history."""
    bands = [str(band) for band in sample["band"].values]
    labels = read_labels(sample, suffix=suffix, outputs=[output])
    train, valid = hold_out(sample, seen, by=by, seed=[seed, 1])
    inputs = read_bands(sample, bands)
    return train_cnn(
        inputs.take(train),
        labels[train],
        inputs.take(valid),
        labels[valid],
        outputs=[output],
        bands=bands,
        seed=seed,
        **options,
    )


def train_and_ask(sample, output, seen, asked, **options) -> np.ndarray:
    """Predictions (asked,) [dex] by the network of `train_rows`."""
    model, _ = train_rows(sample, output, seen, **options)
    inputs = read_bands(sample.isel(spectrum=asked), model.bands)
    return model.predict(model.encode(inputs))[0][:, 0]


def train_sizes(
    sample: xr.Dataset,
    output: str,
    *,
    by: str,
    sizes: Sequence[float] = SIZES,
    repeats: int = 3,
    suffix: str = "",
    n_asked: int | None = None,
    seed: int = 0,
    **options,
) -> xr.Dataset:
    """Fig. 13: robust scatter by the share of spectra (Set A) or galaxies (Set B) that train; others are asked
    about.
    """
    galaxy = sample["galaxy_index"].values
    labels = read_labels(sample, suffix=suffix, outputs=[output])[:, 0]
    units = np.arange(len(galaxy)) if by == "spectrum" else galaxy
    names = np.unique(units)
    sigma = np.empty((len(sizes), repeats))
    count = np.empty((2, len(sizes), repeats))
    for i, size in enumerate(sizes):
        for j in range(repeats):
            rng = np.random.default_rng([seed, i, j])
            chosen = np.isin(units, rng.permutation(names)[: max(2, round(size * len(names)))])
            seen, asked = np.flatnonzero(chosen), rng.permutation(np.flatnonzero(~chosen))[:n_asked]
            predicted = train_and_ask(
                sample, output, seen, asked, by=by, suffix=suffix, seed=seed + j, **options
            )
            sigma[i, j] = score_spectra(predicted, labels[asked])["sigma"]
            count[:, i, j] = len(seen), len(np.unique(galaxy[seen]))
    return xr.Dataset(
        {
            "sigma": (("size", "repeat"), sigma, {"units": "dex"}),
            "n_spectra": ("size", count[0].mean(axis=1), {"units": ""}),
            "n_galaxies": ("size", count[1].mean(axis=1), {"units": ""}),
        },
        coords={"size": list(sizes)},
    )
