"""Ensembles of networks on bands, with a calibrated error; and what bands are worth to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from spectool.models.bands import FACILITY_BANDS, BandInputs, BandNetwork
from spectool.models.store import load_model
from spectool.spectra import ONE_SIGMA

CALIBRATION_ROWS = 10_000


class BandEnsemble:
    """One or more networks per property, of the same bands, and the calibration of their errors."""

    def __init__(self, members: Sequence[BandNetwork], calibration: np.ndarray | None = None) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        if len({member.bands for member in members}) > 1:
            raise ValueError("the networks take different bands")
        self.members, self.bands = list(members), members[0].bands
        pairs = (zip(member.outputs, member.units, strict=True) for member in members)
        self.units = {name: unit for of_member in pairs for name, unit in of_member}
        self.outputs = tuple(self.units)
        self.needs_all_bands = not all(member.with_mask for member in members)
        unscaled = np.zeros((2 + len(FACILITY_BANDS), len(self.outputs)))
        self.calibration = unscaled if calibration is None else calibration

    def predict(self, inputs: BandInputs) -> tuple[np.ndarray, np.ndarray]:
        """Means and errors, (N, property): the members' variances, their scatter, and the calibration."""
        order = {name: k for k, name in enumerate(self.outputs)}
        shape = (len(inputs), len(order))
        total, squares, variance, count = (np.zeros(shape) for _ in range(4))
        for member in self.members:
            mean, sigma = member.predict(member.encode(inputs))
            columns = [order[name] for name in member.outputs]
            total[:, columns] += mean
            squares[:, columns] += mean.astype(float) ** 2
            variance[:, columns] += sigma.astype(float) ** 2
            count[:, columns] += 1
        mean = total / count
        scatter = np.maximum(squares / count - mean**2, 0.0)
        error = np.sqrt(variance / count + scatter)
        return mean, error * np.exp(missing_shares(inputs.mask, self.bands) @ self.calibration)

    def calibrate(self, inputs: BandInputs, labels: np.ndarray, *, seed=0) -> BandEnsemble:
        """The same with errors that hold 68.27% of the labels (N, property), whatever is missing.

        A quantile regression (Koenker & Bassett 1978) of the logarithm of |label - mean| / error on what is
        missing, on `CALIBRATION_ROWS` of the galaxies.
        """
        from sklearn.linear_model import QuantileRegressor

        rows = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:CALIBRATION_ROWS])
        inputs, labels = inputs.take(rows), labels[rows]
        mean, error = BandEnsemble(self.members).predict(inputs)
        shares = missing_shares(inputs.mask, self.bands)
        calibration = np.zeros((shares.shape[1], len(self.outputs)))
        for k, name in enumerate(self.outputs):
            pull = np.log(np.maximum(np.abs(labels[:, k] - mean[:, k]), 1e-9) / error[:, k])
            used = np.isfinite(pull)
            if not used.any():
                raise ValueError(
                    f"nothing to calibrate the errors of {name} with: no labels, or no Gaussian head"
                )
            # Shares that are alike in all galaxies have no coefficient of their own.
            columns = [0, *(1 + np.flatnonzero(np.ptp(shares[used, 1:], axis=0) > 0))]
            regression = QuantileRegressor(quantile=ONE_SIGMA, alpha=0, fit_intercept=False)
            calibration[columns, k] = regression.fit(shares[used][:, columns], pull[used]).coef_
        return BandEnsemble(self.members, calibration)

    def describe(
        self, sample: xr.Dataset, mean, error, more: Mapping, note: Sequence[str], *, dim: str
    ) -> xr.Dataset:
        """Predictions as a Dataset: properties, their errors, and `more` columns; a note in its history."""
        columns = {name: (dim, np.asarray(values), {"units": ""}) for name, values in more.items()}
        for k, (name, unit) in enumerate(self.units.items()):
            columns[name] = (dim, mean[:, k], {"units": unit})
            columns[f"{name}_error"] = (dim, error[:, k], {"units": "dex"})
        text = "; ".join([f"predicted by {len(self.members)} networks", *note])
        return xr.Dataset(columns, attrs={"history": f"{sample.attrs.get('history', '')}\n{text}".strip()})


def load_band_ensemble(names: Sequence, expected: str) -> tuple[BandEnsemble, dict[str, np.ndarray]]:
    """Networks of a class from files or by shipped names; arrays of the first, whose ``error_calibration`` counts."""
    loaded = [load_model(name, expected=expected) for name in names]
    arrays = loaded[0][1].arrays if loaded else {}
    return BandEnsemble([model for model, _ in loaded], arrays.get("error_calibration")), arrays


def missing_shares(mask: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """What the calibration depends on, for each galaxy's mask (N, band)."""
    shares = [np.ones(len(mask))]
    for members in FACILITY_BANDS.values():
        columns = np.isin(bands, members)
        shares.append(mask[:, columns].mean(axis=1) if columns.any() else np.zeros(len(mask)))
    return np.stack([*shares, mask.mean(axis=1) ** 2], axis=1)


def band_importance(
    model: BandNetwork,
    inputs: BandInputs,
    labels: np.ndarray,
    *,
    dim: str = "input",
    seed=0,
    repeats: int = 3,
) -> xr.Dataset:
    """What predictions lose when a band's values are swapped among galaxies (Breiman 2001).

    ``importance`` and ``importance_error`` (`dim`, property) are increases of the mean absolute error [dex].
    """
    rng, x = np.random.default_rng(seed), model.encode(inputs)

    def loss(inputs):
        return np.nanmean(np.abs(model.predict(inputs)[0] - labels), axis=0)

    before, rise = loss(x), np.empty((repeats, len(model.groups), labels.shape[1]))
    for i in range(repeats):
        for j, columns in enumerate(model.groups.values()):
            swapped = x.copy()
            swapped[:, columns] = x[rng.permutation(len(x))][:, columns]
            rise[i, j] = loss(swapped) - before
    dims, attrs = (dim, "property"), {"units": "dex"}
    columns = {"importance": rise.mean(axis=0), "importance_error": rise.std(axis=0)}
    return xr.Dataset(
        {name: (dims, values, attrs) for name, values in columns.items()},
        coords={dim: list(model.groups), "property": list(model.outputs)},
    )


def score_parts(
    ensemble: BandEnsemble, parts: Mapping[object, BandInputs], labels: np.ndarray, dim: str, score: Callable
) -> xr.Dataset:
    """Scores of an ensemble on the same galaxies seen in several ways, by the value of a dimension.

    ``sigma``, ``bias``, ``error`` (median) [dex] and ``coverage`` (`dim`, property) are those of ``score(mean, labels,
    error)``, and ``kept`` is the share with a prediction.
    """
    units = {"sigma": "dex", "bias": "dex", "error": "dex", "coverage": "", "kept": ""}
    columns = {what: [] for what in units}
    for inputs in parts.values():
        mean, error = ensemble.predict(inputs)
        rows = [score(mean[:, k], labels[:, k], error[:, k]) for k in range(mean.shape[1])]
        for what in ("sigma", "bias", "error", "coverage"):
            columns[what].append([row.get(what, np.nan) for row in rows])
        columns["kept"].append(np.isfinite(mean).mean(axis=0))
    dims, coords = (dim, "property"), {dim: list(parts), "property": list(ensemble.outputs)}
    return xr.Dataset(
        {what: (dims, np.array(values), {"units": units[what]}) for what, values in columns.items()}, coords
    )
