"""How good predicted ages and metallicities are: by type of galaxy, size of the training set, noise and band."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.stats import mad_std

from spectool.io import DATA
from spectool.models.bands import N_FOLDS, BandInputs, NarrowBandCNN, hold_out, read_bands, split_spectra
from spectool.models.calibration import coverage
from spectool.models.ensemble import SedEnsemble, permutation_importance
from spectool.papers.liewcain2021 import network as paper

SIZES = (0.05, 0.1, 0.25, 0.5, 0.75)
SIGNAL_TO_NOISE = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
TYPES = {"early": True, "late": False}
EXPERIMENTS = DATA / "liewcain2021_experiments.json"
"""What ``tools/train.py liewcain2021`` measured with networks that are not kept."""


def read_experiments(path=EXPERIMENTS) -> dict:
    """Figures by command of the tool; those that are dicts of an xarray Dataset come as such.

    Raises
    ------
    FileNotFoundError
        If nothing has been measured.
    """
    return _restore(json.loads(Path(path).read_text(encoding="utf-8")))


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
        return {key: _shorten(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _restore(value):
    if not isinstance(value, dict):
        return value
    if "data_vars" in value:
        return xr.Dataset.from_dict(value)
    return {key: _restore(one) for key, one in value.items()}


def score_spectra(
    predicted: np.ndarray, labels: np.ndarray, *, error: np.ndarray | None = None
) -> dict[str, float]:
    """The paper's figures of one property; spectra (N,) of which either value is not finite count for nothing.

    Returns
    -------
    dict
        ``n``, ``bias`` (median of prediction - label), ``sigma`` (robust standard deviation of the difference: 1.4826
        times the median absolute deviation, the paper's), ``rmse`` [dex], ``mse`` [dex**2] and, with errors,
        ``coverage`` (share of labels within one error).
    """
    off = np.asarray(predicted, float) - np.asarray(labels, float)
    off = off[np.isfinite(off)]
    if off.size == 0:
        return {"n": 0}
    found = {
        "n": int(off.size),
        "bias": float(np.median(off)),
        "sigma": float(mad_std(off)),
        "rmse": float(np.sqrt(np.mean(off**2))),
        "mse": float(np.mean(off**2)),
    }
    return found if error is None else found | {"coverage": coverage(predicted, error, labels)[0]}


def correlate_residuals(age_off: np.ndarray, z_off: np.ndarray) -> float:
    """Pearson's correlation coefficient of what ages and metallicities are off by (N,), where both are finite."""
    both = np.isfinite(age_off) & np.isfinite(z_off)
    return float(np.corrcoef(age_off[both], z_off[both])[0, 1])


def train_types(sample: xr.Dataset, output: str, *, suffix: str = "", seed: int = 0, **options) -> xr.Dataset:
    """Table 1: networks trained on early or on late types, asked about both."""
    early = sample["is_early"].values[sample["galaxy_index"].values]
    fold = np.empty(len(early), int)
    for is_early in TYPES.values():
        rows = np.flatnonzero(early == is_early)
        fold[rows] = split_spectra(sample.isel(spectrum=rows), by="galaxy", seed=[seed, is_early])
    labels = paper.read_labels(sample, suffix=suffix, outputs=[output])[:, 0]
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
    labels = paper.read_labels(sample, suffix=suffix, outputs=[output])
    train, valid = hold_out(sample, seen, by=by, seed=[seed, 1])
    inputs = read_bands(sample, bands)
    return paper.train_cnn(
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
    labels = paper.read_labels(sample, suffix=suffix, outputs=[output])[:, 0]
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


def score_noise(
    networks: SedEnsemble,
    inputs: BandInputs,
    labels: np.ndarray,
    *,
    sn: Sequence[float] = SIGNAL_TO_NOISE,
    noiser: NarrowBandCNN | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Scatter, error and coverage by the signal-to-noise ratio of the bands.

    Parameters
    ----------
    networks
        Any; those that cannot do with missing bands lose the spectra with a non-detection.
    inputs, labels
        Noise-free, in the order of the networks' bands; labels (N, property) in that of their outputs.
    sn
        Of the band of mean magnitude (`spectool.models.bands.NoisyBands`).
    noiser
        A network with channels for errors and gaps; default: the first of `networks`.
    seed
        The noise is the same at each ratio, but for its size.

    Returns
    -------
    Dataset
        Dims (sn, property): ``sigma``, ``bias``, ``error`` (median) [dex], ``coverage`` and ``kept``, the share of
        spectra with a prediction.
    """
    noiser = networks.members[0] if noiser is None else noiser
    parts = [
        paper.add_noise(noiser, inputs, seed=seed, sn=(value, value), clean=0.0, gaps=0.0, jitter=0.0)
        for value in sn
    ]
    return _curve(networks, parts, labels, "sn", list(sn))


def score_missing(
    networks: SedEnsemble,
    inputs: BandInputs,
    labels: np.ndarray,
    *,
    counts: Sequence[int] = (0, 2, 5, 10, 15, 20, 24),
    seed: int = 0,
) -> xr.Dataset:
    """As `score_noise`, by the number of random bands that are missing from noise-free spectra: dim ``n_missing``."""
    rank = np.random.default_rng(seed).random(inputs.mask.shape).argsort(axis=1)
    return _curve(
        networks, [inputs.hide(rank < count) for count in counts], labels, "n_missing", list(counts)
    )


def band_importance(
    model: NarrowBandCNN, inputs: BandInputs, labels: np.ndarray, *, seed=0, repeats=3
) -> xr.Dataset:
    """What predictions lose when a band is swapped among spectra (`permutation_importance`).

    Returns
    -------
    Dataset
        Dims (band, property): ``importance`` and ``importance_error``, increase of the mean absolute error [dex].
    """
    mean, deviation = permutation_importance(
        lambda x: model.predict(x)[0], model.encode(inputs), labels, model.groups, seed=seed, repeats=repeats
    )
    dims, attrs = ("band", "property"), {"units": "dex"}
    return xr.Dataset(
        {"importance": (dims, mean, attrs), "importance_error": (dims, deviation, attrs)},
        coords={"band": list(model.bands), "property": list(model.outputs)},
    )


def _curve(networks, parts, labels, dim, values) -> xr.Dataset:
    columns = {what: [] for what in ("sigma", "bias", "error", "coverage", "kept")}
    for part in parts:
        mean, error = networks.predict(part)
        rows = [score_spectra(mean[:, k], labels[:, k], error=error[:, k]) for k in range(mean.shape[1])]
        for what in ("sigma", "bias", "coverage"):
            columns[what].append([row.get(what, np.nan) for row in rows])
        columns["kept"].append(np.isfinite(mean).mean(axis=0))
        with np.errstate(invalid="ignore"):
            columns["error"].append(
                [np.median(e[np.isfinite(e)]) if np.isfinite(e).any() else np.nan for e in error.T]
            )
    unitless = ("coverage", "kept")
    return xr.Dataset(
        {
            what: ((dim, "property"), np.array(rows), {"units": "" if what in unitless else "dex"})
            for what, rows in columns.items()
        },
        coords={dim: values, "property": list(networks.outputs)},
    )
