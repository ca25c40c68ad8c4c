"""The networks of Surana et al. (2020): their architectures, how they are trained, and predictions for any sample."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import xarray as xr

from spectool.models import bands as band_models
from spectool.models.bands import FACILITY_BANDS, BandInputs, RandomBands, SedMLP, read_inputs
from spectool.models.calibration import figures_of_merit
from spectool.models.ensemble import BandEnsemble, load_band_ensemble, score_parts
from spectool.models.outliers import score_band_outliers
from spectool.models.training import History, fit, one_cycle, split
from spectool.surveys.gama import BANDS

UNITS = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "log_dust_luminosity": "dex(solLum)"}
FRACTIONS = (0.64, 0.16, 0.20)
LEARNING_RATE, BATCH_SIZE = 1e-3, 256
N_INPUTS = 22
MIN_BANDS = 3
_COLUMNS = ("sigma", "rmse", "mad", "r2_adjusted", "seconds")
TABLE_3 = {
    "log_mass": dict(zip(_COLUMNS, (0.0577, 0.0582, 0.0399, 0.9885, 1110), strict=True)),
    "log_sfr": dict(zip(_COLUMNS, (0.1643, 0.1658, 0.0987, 0.9550, 183), strict=True)),
    "log_dust_luminosity": dict(zip(_COLUMNS, (0.1143, 0.1159, 0.0750, 0.9644, 477), strict=True)),
}
"""The paper's results: dex, and seconds of training."""


class Recipe(NamedTuple):
    """A network of Tables 1 and 2: hidden layers (the inputs left out), most epochs, epochs without progress."""

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
ENSEMBLE_HIDDEN, ENSEMBLE_EPOCHS = (128, 128, 128), 100
NETWORKS = tuple(f"surana2020_ensemble{k}" for k in range(1, 6))
"""The shipped ensemble, for errors and missing bands."""


def split_galaxies(n: int, *, seed=0) -> dict[str, np.ndarray]:
    """Rows for training, validation and test: 64, 16 and 20%."""
    return dict(zip(("train", "valid", "test"), split(n, FRACTIONS, seed=seed), strict=True))


read_labels = partial(band_models.stack_labels, suffix="_fit", outputs=tuple(UNITS))
"""Of a sample: what to learn, (galaxy, property) [dex], the teacher's medians, or the truth with ``suffix=""``."""


def train_network(
    train: BandInputs,
    labels: np.ndarray,
    valid: BandInputs,
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
    """Train a network for one or more properties; ``mae`` in its history is in dex.

    Parameters
    ----------
    train, labels, valid, valid_labels
        Inputs in the order of `bands`, and labels (N, property) [dex], NaN if not known. A galaxy with a missing band
        is left out unless `with_mask`.
    outputs, recipe
        Of `UNITS`; default recipe: the paper's for one property, `TOGETHER` for several.
    live : bool
        `LIVE_EPOCHS` of `one_cycle` in place of the paper's constant rate, epochs and patience; `epochs`: as many.
    scaling, gaussian, with_errors, with_mask, hide_bands
        See `SedMLP`; hide bands at random (`RandomBands`).
    **options
        Passed to `spectool.models.training.fit`.
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
    least = MIN_BANDS if with_mask else len(bands)
    taught = band_models.select_usable(train, labels, least, "training")
    held_out, known = band_models.select_usable(valid, valid_labels, least, "validation")
    model.set_statistics(*taught)
    if hide_bands:
        options["augment"] = hider = RandomBands(model)
        held_out = hider.hide(held_out, seed=[seed, 1])
    train, valid = (band_models.as_arrays(model, *part) for part in (taught, (held_out, known)))
    choices = {"lr": LEARNING_RATE, "patience": recipe.patience, "epochs": epochs or recipe.epochs}
    if live:
        choices = {"lr": 3 * LEARNING_RATE, "patience": None, "epochs": epochs or LIVE_EPOCHS}
        choices |= {"schedule": one_cycle()}
    choices |= {"loss": band_models.band_loss, "batch_size": BATCH_SIZE, "optimizer": "fused adam"}
    return model, fit(model, train, valid, **choices | {"seed": seed} | options)


def ensemble_options(*, epochs: int | None = None) -> dict:
    """Options of `train_network` for a member of the ensemble (Lakshminarayanan et al. 2017)."""
    epochs = epochs or ENSEMBLE_EPOCHS
    recipe = Recipe(ENSEMBLE_HIDDEN, epochs, epochs)
    choices = {"outputs": tuple(UNITS), "recipe": recipe, "epochs": epochs, "scaling": "asinh", "live": True}
    return choices | {"gaussian": True, "with_errors": True, "with_mask": True, "hide_bands": True}


def calibrate(ensemble: BandEnsemble, valid: BandInputs, labels: np.ndarray, *, seed=0) -> BandEnsemble:
    """Calibrate errors on validation galaxies as they are and with bands hidden; labels in the ensemble's order."""
    if ensemble.needs_all_bands:
        usable = band_models.select_usable(valid, labels, len(ensemble.bands), "calibration")
        return ensemble.calibrate(*usable, seed=seed)
    hidden = RandomBands(ensemble.members[0], full=0.0).hide(valid, seed=seed)
    return ensemble.calibrate(
        band_models.join_inputs(valid, hidden), np.concatenate([labels, labels]), seed=seed
    )


def predict_properties(
    sample: xr.Dataset, networks: BandEnsemble, *, outliers: dict[str, np.ndarray] | None = None
) -> xr.Dataset:
    """Properties of any sample of fluxes, with what is doubtful about each galaxy.

    Parameters
    ----------
    sample
        See `spectool.models.bands.read_inputs`.
    networks, outliers
        From `load_networks`; without `outliers` there is no score.

    Returns
    -------
    Dataset
        Dim galaxy: each property and ``<property>_error`` (1 sigma; NaN from networks without), ``n_missing`` bands,
        ``reason`` (why a prediction is missing or doubtful, or ""), ``out_of_range`` (there is a reason) and
        ``outlier_score``. Bad values are counted in ``attrs["history"]``.
    """
    inputs = read_inputs(sample, networks.bands)
    mean, error = networks.predict(inputs)
    missing = inputs.mask.sum(axis=1)
    at_redshift = np.isfinite(inputs.redshift)
    least = len(networks.bands) if networks.needs_all_bands else MIN_BANDS
    known = (len(networks.bands) - missing >= least) & at_redshift
    mean[~known], error[~known] = np.nan, np.nan
    ranges = np.array([member.redshift_range.numpy() for member in networks.members])
    low, high = float(ranges[:, 0].max()), float(ranges[:, 1].min())
    too_few = "bands missing" if networks.needs_all_bands else f"fewer than {MIN_BANDS} bands"
    doubts = {
        too_few: ~known & at_redshift,
        "no redshift": ~at_redshift,
        f"redshift outside {low:.3f}-{high:.3f}": (inputs.redshift < low) | (inputs.redshift > high),
    }
    more = {}
    if outliers is not None:
        more["outlier_score"], unlike = score_band_outliers(outliers, inputs)
        for name in ("fluxes", "errors"):
            doubts[f"{name} unlike the training galaxies' (another unit or survey?)"] = unlike == name
    words = zip(*(np.where(holds, name, "") for name, holds in doubts.items()), strict=True)
    reason = np.array([", ".join(filter(None, those)) for those in words], dtype=object)
    more |= {"n_missing": missing, "reason": reason, "out_of_range": reason != ""}
    note = [band_models.describe_counts(inputs.counts)]
    note += [f"{name}: {int(bad.sum())} galaxies" for name, bad in doubts.items() if bad.any()]
    return networks.describe(sample, mean, error, more, note, dim="galaxy")


def load_networks(*names) -> tuple[BandEnsemble, dict[str, np.ndarray]]:
    """Networks from files or by shipped names (default: `NETWORKS`), and the reference for outliers."""
    return load_band_ensemble(names or NETWORKS, "SedMLP")


def score_properties(
    predicted: np.ndarray, labels: np.ndarray, outputs: Sequence[str], *, error: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """The figures of Table 3 of each property, for arrays (N, property): those of
    `spectool.models.calibration.figures_of_merit`, and ``r2_adjusted`` for 22 inputs.
    """
    columns = ("n", "bias", "sigma", "rmse", "mad", "r2", "coverage", "error")
    scores = {}
    for k, name in enumerate(outputs):
        figures = figures_of_merit(predicted[:, k], labels[:, k], None if error is None else error[:, k])
        scores[name] = {column: figures[column] for column in columns if column in figures}
        if n := figures["n"]:
            r2 = 1 - (1 - figures["r2"]) * (n - 1) / (n - N_INPUTS - 1) if n > N_INPUTS + 1 else np.nan
            scores[name]["r2_adjusted"] = float(r2)
    return scores


def missing_curve(
    ensemble, inputs, labels, *, counts=(0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18), seed=0
) -> xr.Dataset:
    """Scatter, error and coverage as random bands go missing from galaxies that have all; labels (N, property).

    Dims (n_missing, property): ``sigma``, ``bias``, ``error`` (median predicted) [dex], ``coverage``.
    """
    parts = {count: inputs.hide_random(count, seed=seed) for count in counts}
    return score_parts(ensemble, parts, labels, "n_missing", figures_of_merit).drop_vars("kept")


def missing_facilities(ensemble: BandEnsemble, inputs: BandInputs, labels: np.ndarray) -> xr.Dataset:
    """As `missing_curve`, without each of the surveys in turn: dim ``facility``, "none" first."""
    hidden = {name: np.isin(ensemble.bands, members) for name, members in FACILITY_BANDS.items()}
    parts = {"none": inputs} | {name: inputs.hide(gone) for name, gone in hidden.items() if gone.any()}
    return score_parts(ensemble, parts, labels, "facility", figures_of_merit).drop_vars("kept")
