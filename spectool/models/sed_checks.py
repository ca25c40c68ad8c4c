"""How good predicted properties are, which bands they rest on, and what becomes of them when bands go missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from spectool.models.sed import SedMLP
from spectool.models.sed_ensemble import FACILITIES, SedEnsemble
from spectool.models.sed_inputs import SedInputs

N_INPUTS = 22


def score_properties(
    predicted: np.ndarray, labels: np.ndarray, outputs: Sequence[str], *, error: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """The figures of Table 3, and the coverage of errors.

    Parameters
    ----------
    predicted, labels
        (N, property); rows where either is not finite count for nothing.
    outputs
        Names of the properties.
    error
        (N, property), 1 sigma.

    Returns
    -------
    dict
        By property: ``n``, ``bias`` (mean of prediction - label), ``sigma`` (standard deviation of the difference, the
        paper's error), ``rmse``, ``mad`` (mean absolute difference), [dex]; ``r2`` (1 - mean square / variance) and
        ``r2_adjusted`` for 22 inputs; ``coverage`` (share of labels within the error) and ``error`` (median).
    """
    found = {}
    for k, name in enumerate(outputs):
        used = np.isfinite(predicted[:, k]) & np.isfinite(labels[:, k])
        label, off = labels[used, k].astype(float), (predicted[used, k] - labels[used, k]).astype(float)
        n = int(used.sum())
        if n == 0:
            found[name] = {"n": 0}
            continue
        r2 = 1 - np.mean(off**2) / label.var() if label.var() > 0 else np.nan
        found[name] = {
            "n": n,
            "bias": float(off.mean()),
            "sigma": float(off.std()),
            "rmse": float(np.sqrt(np.mean(off**2))),
            "mad": float(np.abs(off).mean()),
            "r2": float(r2),
            "r2_adjusted": float(1 - (1 - r2) * (n - 1) / (n - N_INPUTS - 1)) if n > N_INPUTS + 1 else np.nan,
        }
        if error is not None:
            sigma = error[used, k]
            found[name] |= {
                "coverage": float(np.mean(np.abs(off) <= sigma)),
                "error": float(np.median(sigma)),
            }
    return found


def permutation_importance(
    predict: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    *,
    seed,
    repeats: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """What the prediction loses when a band's values are swapped among galaxies (Breiman 2001).

    Bands tell much the same as their neighbours: a band that matters little here need not be of little use alone.

    Parameters
    ----------
    predict
        From encoded inputs (N, n_in) to properties (N, property).
    x, labels
        (N, n_in) and (N, property).
    groups
        Columns that are swapped together, by name: `SedMLP.groups`, or those of several bands.
    seed
    repeats
        Permutations per group.

    Returns
    -------
    mean, deviation : ndarray, shape (group, property)
        Increase of the mean absolute error [dex], over the permutations.
    """
    rng = np.random.default_rng(seed)

    def loss(inputs):
        return np.nanmean(np.abs(predict(inputs) - labels), axis=0)

    before, found = loss(x), np.empty((repeats, len(groups), labels.shape[1]))
    for i in range(repeats):
        for j, columns in enumerate(groups.values()):
            swapped = x.copy()
            swapped[:, columns] = x[rng.permutation(len(x))][:, columns]
            found[i, j] = loss(swapped) - before
    return found.mean(axis=0), found.std(axis=0)


def band_importance(model: SedMLP, inputs: SedInputs, labels: np.ndarray, *, seed=0, repeats=3) -> xr.Dataset:
    """`permutation_importance` of each band and of the redshift for a network.

    Returns
    -------
    Dataset
        Dims (input, property): ``importance`` and ``importance_error`` [dex].
    """
    mean, deviation = permutation_importance(
        lambda x: model.predict(x)[0], model.encode(inputs), labels, model.groups, seed=seed, repeats=repeats
    )
    dims, attrs = ("input", "property"), {"units": "dex"}
    return xr.Dataset(
        {"importance": (dims, mean, attrs), "importance_error": (dims, deviation, attrs)},
        coords={"input": list(model.groups), "property": list(model.outputs)},
    )


def hide_bands(inputs: SedInputs, bands: Sequence[str], hidden: Sequence[str]) -> SedInputs:
    """Inputs, in the order of `bands`, of galaxies for which some of the bands are missing.

    Raises
    ------
    ValueError
        If there is no such band.
    """
    unknown = [name for name in hidden if name not in bands]
    if unknown:
        raise ValueError(f"no bands {', '.join(unknown)}; there are {', '.join(bands)}")
    gone = inputs.mask | np.isin(bands, hidden)
    return SedInputs(inputs.flux, inputs.error, gone, inputs.redshift, inputs.counts)


def missing_curve(
    ensemble: SedEnsemble,
    inputs: SedInputs,
    labels: np.ndarray,
    *,
    counts: Sequence[int] = (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18),
    seed=0,
) -> xr.Dataset:
    """Scatter, error and coverage as random bands go missing.

    Parameters
    ----------
    ensemble
        With mask channels.
    inputs, labels
        Of galaxies that have all bands; labels (N, property) in the ensemble's order.
    counts
        Numbers of bands to hide, others for each galaxy.

    Returns
    -------
    Dataset
        Dims (n_missing, property): ``sigma``, ``bias``, ``error`` (median predicted) [dex], ``coverage``.
    """
    rank = np.random.default_rng(seed).random(inputs.mask.shape).argsort(axis=1)
    parts = [_hide(inputs, rank < count) for count in counts]
    return _curve(ensemble, parts, labels, "n_missing", list(counts))


def missing_facilities(ensemble: SedEnsemble, inputs: SedInputs, labels: np.ndarray) -> xr.Dataset:
    """As `missing_curve`, without each of the surveys in turn: dim ``facility``, "none" first."""
    names = [name for name, members in FACILITIES.items() if set(members) & set(ensemble.bands)]
    hidden = [np.isin(ensemble.bands, FACILITIES[name]) for name in names]
    parts = [inputs] + [_hide(inputs, np.broadcast_to(gone, inputs.mask.shape)) for gone in hidden]
    return _curve(ensemble, parts, labels, "facility", ["none", *names])


def _hide(inputs, hidden):
    return SedInputs(inputs.flux, inputs.error, inputs.mask | hidden, inputs.redshift)


def _curve(ensemble, parts, labels, dim, values):
    rows = []
    for part in parts:
        mean, error = ensemble.predict(part)
        rows.append(score_properties(mean, labels, ensemble.outputs, error=error))
    units = {"sigma": "dex", "bias": "dex", "error": "dex", "coverage": ""}
    return xr.Dataset(
        {
            what: (
                (dim, "property"),
                np.array([[row[k][what] for k in row] for row in rows]),
                {"units": unit},
            )
            for what, unit in units.items()
        },
        coords={dim: values, "property": list(ensemble.outputs)},
    )
