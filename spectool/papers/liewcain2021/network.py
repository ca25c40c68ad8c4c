"""The networks of Liew-Cain et al. (2021): how they are trained, what they predict, and how good that is."""

import copy
import json
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from spectool.io import DATA
from spectool.models import bands as band_models
from spectool.models.bands import N_FOLDS, BandInputs, NarrowBandCNN, NoisyBands, read_bands
from spectool.models.calibration import figures_of_merit
from spectool.models.ensemble import BandEnsemble, load_band_ensemble, score_parts
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
SIGNAL_TO_NOISE = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
_BATCH = 16384  # spectra at once
EXPERIMENTS = DATA / "liewcain2021_experiments.json"
"""What ``tools/train.py liewcain2021`` measured with networks that are not kept."""


class Folds(NamedTuple):
    """Predictions of all spectra, each by the network that has not seen it."""

    predicted: np.ndarray
    fold: np.ndarray
    models: list[NarrowBandCNN]
    histories: list[History]


read_labels = partial(band_models.stack_labels, suffix="", outputs=tuple(UNITS))
"""Of a sample: what to learn, (spectrum, property) [dex], truth, or fitted labels with ``suffix="_fit"``."""


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
    **options,
) -> tuple[NarrowBandCNN, History]:
    """Train a network, from nothing or from another (`start`); `live`: fewer epochs; `noise`: errors and gaps, too."""
    shape = {"bands": bands, "outputs": outputs, "units": [UNITS[name] for name in outputs]}
    shape |= dict.fromkeys(("with_errors", "with_mask", "gaussian"), noise)
    model = copy.deepcopy(start) or NarrowBandCNN(**shape, seed=seed)
    least = MIN_BANDS if model.with_mask else len(bands)
    taught = band_models.select_usable(train, labels, least, "training")
    held_out = band_models.select_usable(valid, valid_labels, least, "validation")
    if start is None:
        model.set_statistics(*taught)
    train, valid = (band_models.as_arrays(model, *part) for part in (taught, held_out))
    if noise:
        options["augment"] = noisy = NoisyBands(model)
        generator = torch.Generator().manual_seed(seed + 1)
        valid["x"] = noisy.disturb(torch.from_numpy(valid["x"]), generator).numpy()
    choices = {"epochs": EPOCHS, "lr": LEARNING_RATE, "batch_size": BATCH_SIZE}
    if live:
        choices = {"epochs": LIVE_EPOCHS, "lr": 2 * LEARNING_RATE, "batch_size": 2 * BATCH_SIZE}
        choices |= {"schedule": one_cycle()}
    choices |= {"loss": band_models.band_loss, "patience": PATIENCE, "optimizer": "fused adam", "seed": seed}
    return model, fit(model, train, valid, **choices | options)


def train_folds(sample, output, *, by, suffix="", only=None, stop_on="inner", seed=0, **options) -> Folds:
    """Train a network per fold (or for `only` some), and predict all spectra by those that have not seen them.

    Parameters
    ----------
    sample : Dataset
        See `read_bands`; with ``galaxy_index``.
    output, suffix : str
        Of `UNITS`, and what follows it in the name of the labels' column.
    by, seed
        See `spectool.models.bands.split_spectra`; networks and held-out spectra follow the seed, too.
    stop_on : {"inner", "test"}
        `hold_out` of the training spectra, or the fold that is predicted, as in the paper, which flatters.
    """
    if stop_on not in ("inner", "test"):
        raise ValueError(f'stop_on must be "inner" or "test", not {stop_on!r}')
    bands = [str(band) for band in sample["band"].values]
    fold = band_models.split_spectra(sample, by=by, seed=seed)
    inputs, labels = read_bands(sample, bands), read_labels(sample, suffix=suffix, outputs=[output])
    predicted, models, histories = np.full(len(fold), np.nan), [], []
    for k in range(N_FOLDS) if only is None else only:
        test, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        train, valid = band_models.hold_out(sample, rest, by=by, seed=[seed, k])
        valid = test if stop_on == "test" else valid
        data = inputs.take(train), labels[train], inputs.take(valid), labels[valid]
        model, history = train_cnn(*data, outputs=[output], bands=bands, seed=seed + k, **options)
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


def calibrate(
    ensemble: BandEnsemble, valid: BandInputs, labels: np.ndarray, *, seed: int = 0
) -> BandEnsemble:
    """Scale errors so that 68.27% of validation labels lie within them, noise and gaps added as in training."""
    return ensemble.calibrate(add_noise(ensemble.members[0], valid, seed=seed), labels, seed=seed)


def add_noise(model: NarrowBandCNN, inputs: BandInputs, *, seed: int = 0, **options) -> BandInputs:
    """Noise-free inputs with noise and gaps as in training; `options` of `NoisyBands`."""
    generator = torch.Generator().manual_seed(seed)
    x = NoisyBands(model, **options).disturb(torch.from_numpy(model.encode(inputs)), generator).numpy()
    magnitude, error, mask = np.split(x, 3, axis=1)
    return BandInputs(magnitude, 10**error, mask > 0)


def predict_populations(sample: xr.Dataset, networks: BandEnsemble) -> xr.Dataset:
    """Ages and metallicities of any sample of narrow-band fluxes, with what is doubtful about each spectrum.

    Parameters
    ----------
    sample
        See `read_bands`; read batch by batch, so that its arrays may be larger than memory.
    networks
        From `load_networks`.

    Returns
    -------
    Dataset
        Dim spectrum: each property [dex] and ``<property>_error`` (1 sigma; NaN from networks without), ``n_missing``
        bands, and ``reason``: "" or why a spectrum has no prediction. Bad values are counted in ``attrs["history"]``.
    """
    n, names = sample.sizes["spectrum"], networks.outputs
    mean, error = (np.empty((n, len(names)), np.float32) for _ in range(2))
    missing, counts = np.empty(n, np.int16), {}
    for start in range(0, n, _BATCH):
        rows = slice(start, start + _BATCH)
        inputs = read_bands(sample.isel(spectrum=rows), networks.bands)
        mean[rows], error[rows] = networks.predict(inputs)
        missing[rows] = inputs.mask.sum(axis=1)
        for name, count in inputs.counts.items():
            counts[name] = count if name.startswith("bands") else counts.get(name, 0) + count
    least = len(networks.bands) if networks.needs_all_bands else MIN_BANDS
    bad = len(networks.bands) - missing < least
    mean[bad], error[bad] = np.nan, np.nan
    why = "bands missing" if networks.needs_all_bands else f"fewer than {MIN_BANDS} bands"
    note = [band_models.describe_counts(counts), *([f"{why}: {int(bad.sum())} spectra"] if bad.any() else [])]
    more = {"n_missing": missing, "reason": np.where(bad, why, "")}
    return networks.describe(sample, mean, error, more, note, dim="spectrum")


def load_networks(*names) -> BandEnsemble:
    """Networks from files or by their shipped names; default: `NETWORKS`. FileNotFoundError if there is none."""
    return load_band_ensemble(names or NETWORKS, "NarrowBandCNN")[0]


def fold_name(output: str, *, by: str, suffix: str = "", fold: int) -> str:
    """Name of a shipped network, such as ``liewcain2021_truth_a_age1``: labels, set, property and fold (from 1)."""
    letter = {value: key for key, value in SETS.items()}[by]
    labels = "fit" if suffix == "_fit" else "truth"
    return f"liewcain2021_{labels}_{letter}_{output.removeprefix('log_')}{fold + 1}"


def load_folds(output: str, *, by: str, suffix: str = "") -> list[NarrowBandCNN]:
    """The shipped networks of the folds, for `predict_folds` with ``split_spectra(sample, by=by)``."""
    names = [fold_name(output, by=by, suffix=suffix, fold=k) for k in range(N_FOLDS)]
    return [load_model(name, expected="NarrowBandCNN")[0] for name in names]


def score_spectra(
    predicted: np.ndarray, labels: np.ndarray, *, error: np.ndarray | None = None
) -> dict[str, float]:
    """The paper's figures of one property (N,): ``n``, ``bias`` (median of prediction - label), ``sigma`` (1.4826 times
    the median absolute deviation), ``rmse`` [dex], ``mse`` [dex**2] and, with errors, ``coverage``.
    """
    figures = figures_of_merit(predicted, labels, error)
    figures |= {"bias": figures.get("median"), "sigma": figures.get("robust_sigma")}
    names = ("n", "bias", "sigma", "rmse", "mse", "coverage")
    return {name: figures[name] for name in names if figures.get(name) is not None}


def correlate_residuals(age_off: np.ndarray, z_off: np.ndarray) -> float:
    """Pearson's correlation coefficient of what ages and metallicities are off by (N,), where both are finite."""
    both = np.isfinite(age_off) & np.isfinite(z_off)
    return float(np.corrcoef(age_off[both], z_off[both])[0, 1])


def score_noise(networks, inputs, labels, *, sn=SIGNAL_TO_NOISE, noiser=None, seed=0) -> xr.Dataset:
    """Scatter, error and coverage by the signal-to-noise ratio `sn` of the band of mean magnitude.

    Inputs are noise-free, in the order of the networks' bands; labels (N, property). Networks that need all bands lose
    spectra with a non-detection. `noiser` is a network with channels for errors and gaps; default: the first.

    Dims (sn, property): ``sigma``, ``bias``, ``error`` (median) [dex], ``coverage`` and ``kept``, the share of
    spectra with a prediction.
    """
    noiser = networks.members[0] if noiser is None else noiser
    options = {"clean": 0.0, "gaps": 0.0, "jitter": 0.0, "seed": seed}
    parts = {value: add_noise(noiser, inputs, sn=(value, value), **options) for value in sn}
    return score_parts(networks, parts, labels, "sn", _score)


def score_missing(networks, inputs, labels, *, counts=(0, 2, 5, 10, 15, 20, 24), seed=0) -> xr.Dataset:
    """As `score_noise`, by the number of random bands that are missing from noise-free spectra: dim ``n_missing``."""
    parts = {count: inputs.hide_random(count, seed=seed) for count in counts}
    return score_parts(networks, parts, labels, "n_missing", _score)


def _score(predicted, labels, error):
    """The paper's bias and scatter, and errors."""
    return figures_of_merit(predicted, labels, error) | score_spectra(predicted, labels)


def read_experiments(path=EXPERIMENTS) -> dict:
    """Figures by command of the tool; those that are dicts of an xarray Dataset come as such."""

    def restore(value):
        return xr.Dataset.from_dict(value) if "data_vars" in value else value

    return json.loads(path.read_text(encoding="utf-8"), object_hook=restore)
