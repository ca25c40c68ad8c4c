"""The networks of Liew-Cain et al. (2021): how spectra are split, how the networks are trained, and predictions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from spectool.models.bands import (
    N_FOLDS,
    BandInputs,
    NarrowBandCNN,
    NoisyBands,
    band_loss,
    hold_out,
    read_bands,
    split_spectra,
)
from spectool.models.ensemble import SedEnsemble
from spectool.models.store import load_model
from spectool.models.training import History, fit, one_cycle

UNITS = {"log_age": "dex(Gyr)", "log_z": "dex"}
EPOCHS, PATIENCE, LEARNING_RATE, BATCH_SIZE = 5000, 25, 1e-3, 128
LIVE_EPOCHS = 80
MIN_BANDS = 10
NETWORKS = tuple(f"liewcain2021_ensemble{k}" for k in range(1, 5))
"""The shipped ensemble, for noise and gaps."""
SETS = {"a": "spectrum", "b": "galaxy"}
"""What is split in each of the paper's sets."""


@dataclass(frozen=True)
class Folds:
    """Predictions of all spectra, each by the network that has not seen it."""

    predicted: np.ndarray
    fold: np.ndarray
    models: list[NarrowBandCNN]
    histories: list[History]


def read_labels(sample: xr.Dataset, *, suffix: str = "", outputs: Sequence[str] = tuple(UNITS)) -> np.ndarray:
    """What to learn, (spectrum, property) [dex]: truth (``suffix=""``) or fitted labels (``"_fit"``).

    Raises
    ------
    ValueError
        If the sample lacks a column.
    """
    lacking = [name + suffix for name in outputs if name + suffix not in sample]
    if lacking:
        raise ValueError(f"the sample lacks {', '.join(lacking)}")
    labels = np.stack([sample[name + suffix].values.astype(float) for name in outputs], axis=1)
    return np.where(np.isfinite(labels), labels, np.nan)


def train_cnn(
    train: BandInputs,
    labels: np.ndarray,
    valid: BandInputs,
    valid_labels: np.ndarray,
    *,
    outputs: Sequence[str],
    bands: Sequence[str],
    live: bool = False,
    noise: bool = False,
    start: NarrowBandCNN | None = None,
    seed: int = 0,
    model_options: dict | None = None,
    **options,
) -> tuple[NarrowBandCNN, History]:
    """Train a network for one or more properties."""
    model = copy.deepcopy(start)
    if model is None:
        choice = {"with_errors": noise, "with_mask": noise, "gaussian": noise} | (model_options or {})
        model = NarrowBandCNN(
            bands=bands, outputs=outputs, units=[UNITS[name] for name in outputs], seed=seed, **choice
        )
    train, labels = _usable(train, labels, model.with_mask, "training")
    valid, valid_labels = _usable(valid, valid_labels, model.with_mask, "validation")
    if start is None:
        model.set_statistics(train, labels)
    x, valid_x = model.encode(train), model.encode(valid)
    if noise:
        options["augment"] = noisy = NoisyBands(model)
        valid_x = noisy.disturb(torch.from_numpy(valid_x), torch.Generator().manual_seed(seed + 1)).numpy()
    if live:
        options = {
            "epochs": LIVE_EPOCHS,
            "lr": 2 * LEARNING_RATE,
            "schedule": one_cycle(),
            "batch_size": 2 * BATCH_SIZE,
        } | options
    history = fit(
        model,
        {"x": x, "y": labels.astype("f4")},
        {"x": valid_x, "y": valid_labels.astype("f4")},
        **{
            "loss": band_loss,
            "epochs": EPOCHS,
            "patience": PATIENCE,
            "lr": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
            "optimizer": "fused adam",
            "seed": seed,
        }
        | options,
    )
    return model, history


def train_folds(
    sample: xr.Dataset,
    output: str,
    *,
    by: str,
    suffix: str = "",
    fold: np.ndarray | None = None,
    only: Sequence[int] | None = None,
    stop_on: str = "inner",
    bands: Sequence[str] | None = None,
    seed: int = 0,
    **options,
) -> Folds:
    """Train a network per fold, and predict all spectra of the folds by those that have not seen them.

    Parameters
    ----------
    sample
        See `read_bands`, with ``galaxy_index`` and the labels.
    output, suffix
        Property, and which labels of it (`read_labels`).
    by
        ``"spectrum"`` (Set A) or ``"galaxy"`` (Set B), for folds and for what stops the training.
    fold
        Of each spectrum; default: `split_spectra`.
    only
        Folds to train; spectra of others have no prediction.
    stop_on
        ``"inner"``: `hold_out` of the training spectra. ``"test"``: the fold that is predicted, as in the paper, which
        flatters; the same spectra train, so that nothing else differs.
    bands
        Default: the sample's.
    seed
    **options
        Passed to `train_cnn`.

    Returns
    -------
    Folds

    Raises
    ------
    ValueError
        If `stop_on` is unknown.
    """
    if stop_on not in ("inner", "test"):
        raise ValueError(f'stop_on must be "inner" or "test", not {stop_on!r}')
    bands = [str(band) for band in sample["band"].values] if bands is None else list(bands)
    fold = split_spectra(sample, by=by, seed=seed) if fold is None else fold
    inputs, labels = read_bands(sample, bands), read_labels(sample, suffix=suffix, outputs=[output])
    predicted, models, histories = np.full(len(fold), np.nan), [], []
    for k in range(N_FOLDS) if only is None else only:
        test, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        train, valid = hold_out(sample, rest, by=by, seed=[seed, k])
        valid = test if stop_on == "test" else valid
        model, history = train_cnn(
            inputs.take(train),
            labels[train],
            inputs.take(valid),
            labels[valid],
            outputs=[output],
            bands=bands,
            seed=seed + k,
            **options,
        )
        predicted[test] = model.predict(model.encode(inputs.take(test)))[0][:, 0]
        models.append(model)
        histories.append(history)
    return Folds(predicted, fold, models, histories)


def predict_folds(sample: xr.Dataset, fold: np.ndarray, models: Sequence[NarrowBandCNN]) -> np.ndarray:
    """Predictions (spectrum,) [dex] of each spectrum by the network of its fold, of single-output networks."""
    inputs, predicted = read_bands(sample, models[0].bands), np.full(len(fold), np.nan)
    for k, model in enumerate(models):
        rows = np.flatnonzero(fold == k)
        predicted[rows] = model.predict(model.encode(inputs.take(rows)))[0][:, 0]
    return predicted


def train_ensemble(
    train: BandInputs,
    labels: np.ndarray,
    valid: BandInputs,
    valid_labels: np.ndarray,
    *,
    bands: Sequence[str],
    n_members: int = 4,
    seed: int = 0,
    **options,
) -> tuple[SedEnsemble, list[History]]:
    """Train networks of age and metallicity together, with noise and gaps and errors; calibrate their errors."""
    members, histories = [], []
    for k in range(n_members):
        model, history = train_cnn(
            train,
            labels,
            valid,
            valid_labels,
            **{"outputs": tuple(UNITS), "bands": bands, "noise": True, "live": True, "seed": seed + k}
            | options,
        )
        members.append(model)
        histories.append(history)
    return calibrate(SedEnsemble(members), valid, valid_labels, seed=seed), histories


def calibrate(ensemble: SedEnsemble, valid: BandInputs, labels: np.ndarray, *, seed: int = 0) -> SedEnsemble:
    """Scale errors so that 68.27% of validation labels lie within them, noise and gaps added as in training."""
    return ensemble.calibrate(add_noise(ensemble.members[0], valid, seed=seed), labels, seed=seed)


def add_noise(model: NarrowBandCNN, inputs: BandInputs, *, seed: int = 0, **options) -> BandInputs:
    """Noise-free inputs with noise and gaps as in training; `options` of `NoisyBands`."""
    generator = torch.Generator().manual_seed(seed)
    x = NoisyBands(model, **options).disturb(torch.from_numpy(model.encode(inputs)), generator).numpy()
    magnitude, error, mask = np.split(x, 3, axis=1)
    return BandInputs(magnitude, 10**error, mask > 0)


def predict_populations(sample: xr.Dataset, networks: SedEnsemble, *, batch_size: int = 16384) -> xr.Dataset:
    """Ages and metallicities of any sample of narrow-band fluxes, with what is doubtful about each spectrum.

    Parameters
    ----------
    sample
        See `read_bands`; read batch by batch, so that its arrays may be larger than memory.
    networks
        From `train_ensemble` or `load_networks`.
    batch_size
        Spectra at a time.

    Returns
    -------
    Dataset
        Dim spectrum: each property [dex] and ``<property>_error`` (1 sigma; NaN from networks without), ``n_missing``
        bands, and ``reason``: "" or why a spectrum has no prediction. What was found wrong is counted in
        ``attrs["history"]``.

    Raises
    ------
    ValueError
        As `read_bands`.
    """
    n, names = sample.sizes["spectrum"], networks.outputs
    mean, error = (np.empty((n, len(names)), np.float32) for _ in range(2))
    missing, counts = np.empty(n, np.int16), {}
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        inputs = read_bands(sample.isel(spectrum=rows), networks.bands)
        mean[rows], error[rows] = networks.predict(inputs)
        missing[rows] = inputs.mask.sum(axis=1)
        for name, count in inputs.counts.items():
            counts[name] = count if name.startswith("bands") else counts.get(name, 0) + count
    least = len(networks.bands) if networks.needs_all_bands else MIN_BANDS
    bad = len(networks.bands) - missing < least
    mean[bad], error[bad] = np.nan, np.nan
    why = "bands missing" if networks.needs_all_bands else f"fewer than {MIN_BANDS} bands"
    told = "; ".join(f"{name}: {count}" for name, count in counts.items() if count) or "nothing amiss"
    history = [sample.attrs.get("history", ""), f"predicted by {len(networks.members)} networks; {told}"]
    if bad.any():
        history[-1] += f"; {why}: {int(bad.sum())} spectra"
    columns = {}
    for k, (name, unit) in enumerate(networks.units.items()):
        columns |= {name: (mean[:, k], unit), f"{name}_error": (error[:, k], "dex")}
    columns |= {"n_missing": (missing, ""), "reason": (np.where(bad, why, ""), "")}
    return xr.Dataset(
        {name: ("spectrum", value, {"units": unit}) for name, (value, unit) in columns.items()},
        attrs={"history": "\n".join(filter(None, history))},
    )


def load_networks(*names) -> SedEnsemble:
    """Networks from files or by their shipped names, such as `NETWORKS`.

    The array ``error_calibration`` of the first scales the errors.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name.
    ValueError
        If a file holds another model, or networks do not go together.
    """
    loaded = [load_model(name, expected="NarrowBandCNN") for name in names]
    calibration = loaded[0][1].arrays.get("error_calibration") if loaded else None
    return SedEnsemble([model for model, _ in loaded], calibration)


def fold_name(output: str, *, by: str, suffix: str = "", fold: int) -> str:
    """Name of a shipped network, such as ``liewcain2021_truth_a_age1``: labels, set, property and fold (from 1)."""
    letter = {value: key for key, value in SETS.items()}[by]
    labels = "fit" if suffix == "_fit" else "truth"
    return f"liewcain2021_{labels}_{letter}_{output.removeprefix('log_')}{fold + 1}"


def load_folds(output: str, *, by: str, suffix: str = "") -> list[NarrowBandCNN]:
    """The shipped networks of the folds, for `predict_folds` with ``split_spectra(sample, by=by)``."""
    names = [fold_name(output, by=by, suffix=suffix, fold=k) for k in range(N_FOLDS)]
    return [load_model(name, expected="NarrowBandCNN")[0] for name in names]


def _usable(inputs: BandInputs, labels, with_mask: bool, what: str):
    """Spectra with some label and, without a mask channel, all bands."""
    left = (~inputs.mask).sum(axis=1)
    good = np.isfinite(labels).any(axis=1) & (left >= (MIN_BANDS if with_mask else inputs.mask.shape[1]))
    if not good.any():
        raise ValueError(f"no spectrum for {what} has a label and {'enough' if with_mask else 'all'} bands")
    return (inputs, labels) if good.all() else (inputs.take(good), labels[good])
