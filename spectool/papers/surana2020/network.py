"""The networks of Surana et al. (2020): their architectures, how they are trained, and predictions for any sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.models.bands import MIN_BANDS, SedInputs, SedMLP, join_inputs, read_inputs, sed_loss
from spectool.models.ensemble import RandomBands, SedEnsemble
from spectool.models.outliers import score_band_outliers
from spectool.models.store import load_model
from spectool.models.training import History, fit, one_cycle, split
from spectool.surveys.gama import BANDS

UNITS = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "log_dust_luminosity": "dex(solLum)"}
FRACTIONS = (0.64, 0.16, 0.20)
LEARNING_RATE, BATCH_SIZE = 1e-3, 256
TABLE_3 = {
    "log_mass": {"sigma": 0.0577, "rmse": 0.0582, "mad": 0.0399, "r2_adjusted": 0.9885, "seconds": 1110},
    "log_sfr": {"sigma": 0.1643, "rmse": 0.1658, "mad": 0.0987, "r2_adjusted": 0.9550, "seconds": 183},
    "log_dust_luminosity": {
        "sigma": 0.1143,
        "rmse": 0.1159,
        "mad": 0.0750,
        "r2_adjusted": 0.9644,
        "seconds": 477,
    },
}
"""The paper's results: dex, and seconds of training."""


@dataclass(frozen=True)
class Recipe:
    """A network of Tables 1 and 2: hidden layers, most epochs, and epochs without progress that end the training.

    Table 1 counts the 22 inputs as the first layer.
    """

    hidden: tuple[int, ...]
    epochs: int
    patience: int


RECIPES = {
    "log_mass": Recipe((44, 66, 66), 5000, 300),
    "log_sfr": Recipe((110, 220, 110), 1500, 500),
    "log_dust_luminosity": Recipe((66, 110, 220, 110, 66), 1700, 300),
}
TOGETHER = RECIPES["log_dust_luminosity"]
"""For all three at once; the paper, which tried this, does not say with which layers: here with the largest."""
LIVE_EPOCHS = 40
ENSEMBLE_HIDDEN = (128, 128, 128)
ENSEMBLE_EPOCHS = 100


def split_galaxies(n: int, *, seed=0) -> dict[str, np.ndarray]:
    """Rows for training, validation and test: 64, 16 and 20%."""
    return dict(zip(("train", "valid", "test"), split(n, FRACTIONS, seed=seed), strict=True))


def read_labels(
    sample: xr.Dataset, *, suffix: str = "_fit", outputs: Sequence[str] = tuple(UNITS)
) -> np.ndarray:
    """What to learn, (galaxy, property) [dex]: the teacher's medians (``suffix="_fit"``) or the truth (``""``).

    Raises
    ------
    ValueError
        If the sample lacks a column.
    """
    lacking = [name + suffix for name in outputs if name + suffix not in sample]
    if lacking:
        raise ValueError(
            f"the sample lacks {', '.join(lacking)} (fit_library makes columns that end in _fit)"
        )
    labels = np.stack([sample[name + suffix].values.astype(float) for name in outputs], axis=1)
    return np.where(np.isfinite(labels), labels, np.nan)


def train_network(
    train: SedInputs,
    labels: np.ndarray,
    valid: SedInputs,
    valid_labels: np.ndarray,
    *,
    outputs: Sequence[str],
    bands: Sequence[str] = tuple(BANDS),
    recipe: Recipe | None = None,
    live: bool = True,
    epochs: int | None = None,
    scaling: str = "linear",
    gaussian: bool = False,
    with_errors: bool = False,
    with_mask: bool = False,
    hide_bands: bool = False,
    seed: int = 0,
    **options,
) -> tuple[SedMLP, History]:
    """Train a network for one or more properties.

    Parameters
    ----------
    train, labels, valid, valid_labels
        Inputs in the order of `bands`, and labels (N, property) [dex]; NaN: not known. A galaxy with a missing band is
        left out unless `with_mask`.
    outputs
        Of `UNITS`.
    recipe
        Default: the paper's for a single property, `TOGETHER` for several.
    live
        Fewer epochs than the paper's (`LIVE_EPOCHS`) of a learning rate that rises and falls (`one_cycle`, to three
        times the paper's); with 48,931 galaxies that takes 7 to 20 s on one core and ends below the scatter of Table 3.
        False: the paper's constant rate, epochs and patience.
    epochs
        In place of either's.
    scaling, gaussian, with_errors, with_mask
        See `SedMLP`. Asinh inputs lower the scatter about the teacher on validation galaxies after 40 epochs from 0.031
        to 0.024 dex (mass), 0.087 to 0.079 (SFR), 0.056 to 0.048 (dust luminosity).
    hide_bands
        Hide bands at random while training (`RandomBands`), and once for validation.
    seed
        Of weights, shuffling and hidden bands.
    **options
        Passed to `spectool.models.training.fit`: ``checkpoint``, ``max_seconds``, ``callbacks``, ``progress``, ...

    Returns
    -------
    model, history
        The model has the weights of its best epoch. ``mae`` in the history is in dex.

    Raises
    ------
    ValueError
        If no galaxy has all bands, or an output is unknown.
    """
    unknown = [name for name in outputs if name not in UNITS]
    if unknown:
        raise ValueError(f"no property {', '.join(unknown)}; there are {', '.join(UNITS)}")
    recipe = recipe or (RECIPES[outputs[0]] if len(outputs) == 1 else TOGETHER)
    model = SedMLP(
        bands=bands,
        hidden=recipe.hidden,
        outputs=outputs,
        units=[UNITS[name] for name in outputs],
        scaling=scaling,
        gaussian=gaussian,
        with_errors=with_errors,
        with_mask=with_mask,
        seed=seed,
    )
    train, labels = _usable(train, labels, with_mask, "training")
    valid, valid_labels = _usable(valid, valid_labels, with_mask, "validation")
    model.set_statistics(train, labels)
    if hide_bands:
        hider = RandomBands(model)
        options["augment"] = hider
        valid = hider.hide(valid, seed=[seed, 1])
    if live:
        options = {"lr": 3 * LEARNING_RATE, "schedule": one_cycle(), "patience": None} | options
    history = fit(
        model,
        {"x": model.encode(train), "y": labels.astype("f4")},
        {"x": model.encode(valid), "y": valid_labels.astype("f4")},
        **{
            "loss": sed_loss,
            "epochs": epochs or (LIVE_EPOCHS if live else recipe.epochs),
            "patience": recipe.patience,
            "lr": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
            "optimizer": "fused adam",
            "seed": seed,
        }
        | options,
    )
    return model, history


def train_ensemble(
    train: SedInputs,
    labels: np.ndarray,
    valid: SedInputs,
    valid_labels: np.ndarray,
    *,
    n_members: int = 5,
    bands: Sequence[str] = tuple(BANDS),
    epochs: int = ENSEMBLE_EPOCHS,
    seed: int = 0,
    **options,
) -> tuple[SedEnsemble, list[History]]:
    """Train networks of all properties with Gaussian heads, errors taken in, and bands hidden; calibrate their
    errors.

    Members differ in their initial weights, the order of galaxies and the bands hidden (Lakshminarayanan et al.
    2017).
    """
    members, histories = [], []
    choices = ensemble_options(epochs=epochs) | {"bands": bands} | options
    for k in range(n_members):
        model, history = train_network(train, labels, valid, valid_labels, seed=seed + k, **choices)
        members.append(model)
        histories.append(history)
    ensemble = calibrate(SedEnsemble(members), valid, valid_labels, seed=[seed, 2])
    return ensemble, histories


def ensemble_options(*, epochs: int | None = None) -> dict:
    """Options of `train_network` for a member of `train_ensemble`."""
    epochs = epochs or ENSEMBLE_EPOCHS
    return {
        "outputs": tuple(UNITS),
        "recipe": Recipe(ENSEMBLE_HIDDEN, epochs, epochs),
        "live": True,
        "epochs": epochs,
        "scaling": "asinh",
        "gaussian": True,
        "with_errors": True,
        "with_mask": True,
        "hide_bands": True,
    }


def calibrate(ensemble: SedEnsemble, valid: SedInputs, labels: np.ndarray, *, seed=0) -> SedEnsemble:
    """Calibrate errors on validation galaxies as they are and with bands hidden; labels in the ensemble's order."""
    if ensemble.needs_all_bands:
        return ensemble.calibrate(*_usable(valid, labels, False, "calibration"), seed=seed)
    hidden = RandomBands(ensemble.members[0], full=0.0).hide(valid, seed=seed)
    return ensemble.calibrate(join_inputs(valid, hidden), np.concatenate([labels, labels]), seed=seed)


def predict_properties(
    sample: xr.Dataset, networks: SedEnsemble, *, outliers: dict[str, np.ndarray] | None = None
) -> xr.Dataset:
    """Properties of any sample of fluxes, with what is doubtful about each galaxy.

    Parameters
    ----------
    sample
        See `spectool.models.bands.read_inputs`, which tells what becomes of bad values.
    networks
        From `train_ensemble` or `load_networks`.
    outliers
        From `load_networks`; None: no score.

    Returns
    -------
    Dataset
        Dim galaxy: each property and ``<property>_error`` (1 sigma; NaN from networks without), ``n_missing`` bands,
        ``reason``: "" or, separated by commas, why a galaxy has no prediction or a doubtful one, ``out_of_range``
        (True: doubtful or none), and ``outlier_score``. What was found wrong with values is counted in
        ``attrs["history"]``.

    Raises
    ------
    ValueError
        As `read_inputs`.
    """
    inputs = read_inputs(sample, networks.bands)
    mean, error = networks.predict(inputs)
    missing = inputs.mask.sum(axis=1)
    known = ~(missing > 0) if networks.needs_all_bands else len(networks.bands) - missing >= MIN_BANDS
    known &= np.isfinite(inputs.redshift)
    mean[~known], error[~known] = np.nan, np.nan
    low, high = networks.redshift_range
    too_few = "bands missing" if networks.needs_all_bands else f"fewer than {MIN_BANDS} bands"
    doubts = {
        too_few: ~known & np.isfinite(inputs.redshift),
        "no redshift": ~np.isfinite(inputs.redshift),
        f"redshift outside {low:.3f}-{high:.3f}": (inputs.redshift < low) | (inputs.redshift > high),
    }
    columns = {}
    if outliers is not None:
        score, unlike = score_band_outliers(outliers, inputs)
        columns["outlier_score"] = (score, "")
        for name in ("fluxes", "errors"):
            doubts[f"{name} unlike the training galaxies' (another unit or survey?)"] = unlike == name
    reason = _join(doubts, len(inputs))
    for k, (name, unit) in enumerate(networks.units.items()):
        columns |= {name: (mean[:, k], unit), f"{name}_error": (error[:, k], "dex")}
    columns |= {"n_missing": (missing, ""), "reason": (reason, ""), "out_of_range": (reason != "", "")}
    told = "; ".join(f"{name}: {int(bad.sum())} galaxies" for name, bad in doubts.items() if bad.any())
    history = f"{sample.attrs.get('history', '')}\npredicted by {len(networks.members)} networks; {inputs.describe()}"
    return xr.Dataset(
        {name: ("galaxy", value, {"units": unit}) for name, (value, unit) in columns.items()},
        attrs={"history": "; ".join(filter(None, [history.strip(), told]))},
    )


def load_networks(*names) -> tuple[SedEnsemble, dict[str, np.ndarray]]:
    """Networks from files or by their shipped names, and the arrays of the first.

    The first one's array ``error_calibration`` calibrates the errors; those that begin with ``outlier_`` are the
    reference for `predict_properties`.

    Raises
    ------
    FileNotFoundError
        If there is no such file or name.
    ValueError
        If a file holds another model, or networks do not go together.
    """
    loaded = [load_model(name, expected="SedMLP") for name in names]
    arrays = loaded[0][1].arrays if loaded else {}
    return SedEnsemble([model for model, _ in loaded], arrays.get("error_calibration")), arrays


def _usable(inputs: SedInputs, labels, with_mask: bool, what: str):
    """Galaxies with a redshift, some label and, without a mask channel, all bands."""
    good = np.isfinite(inputs.redshift) & np.isfinite(labels).any(axis=1)
    good &= (~inputs.mask).sum(axis=1) >= MIN_BANDS if with_mask else ~inputs.mask.any(axis=1)
    if not good.any():
        raise ValueError(
            f"no galaxy for {what} has a label, a redshift and {'a band' if with_mask else 'all bands'}"
        )
    return inputs.take(good), labels[good]


def _join(doubts: dict[str, np.ndarray], n: int) -> np.ndarray:
    """Names of all that hold, per galaxy."""
    parts = [np.where(holds, name, "") for name, holds in doubts.items()]
    return np.array(
        [", ".join(filter(None, words)) for words in zip(*parts, strict=True)], dtype=object
    ).reshape(n)
