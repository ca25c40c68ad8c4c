"""Ensembles: networks that answer together, with a calibrated error; and what bands are worth to them.

Networks on bands differ in what they predict, and their mixture's variance is theirs; those on spectra have one shape,
so that all their filters are applied in one go, and noise is propagated through them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from spectool.models.bands import FACILITY_BANDS, BandInputs, BandNetwork
from spectool.models.calibration import ONE_SIGMA
from spectool.models.chunked import ChunkedMLP, split_chunks
from spectool.models.store import load_model

CALIBRATION_ROWS = 10_000
_QUIETEST = 1e-3


class ChunkedEnsemble:
    """Networks of one architecture, trained from different seeds; all their filters are applied in one go."""

    def __init__(self, members: Sequence[ChunkedMLP], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        first = members[0]
        for k, member in enumerate(members):
            other = [name for name in first.config if first.config[name] != member.config[name]]
            if other:
                raise ValueError(f"member {k + 1} has another {', '.join(other)} than the first")
        self.members, self.arrays = tuple(m.eval() for m in members), dict(arrays or {})
        self.wavelength, self.outputs, self.units = first.wavelength, first.outputs, first.units
        self.n_members, self.n_chunks, self.n_kept = len(members), first.n_chunks, first.n_kept
        self.chunk_index, self.n_filters = first.chunk_index, first.n_filters
        lengths = np.bincount(first.chunk_index, minlength=first.n_chunks)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        with torch.no_grad():
            self.curves = torch.cat([m.responses().transpose(1, 2) for m in members], dim=2).contiguous()
            self.bias = torch.cat([m.bias for m in members], dim=1)[:, None].clone()
            layers = zip(*(m.dense[::2] for m in members), strict=True)
            layers = [list(rows) for rows in layers]
            self.weights = [torch.stack([row.weight.T for row in rows]) for rows in layers]
            self.biases = [torch.stack([row.bias for row in rows])[:, None] for rows in layers]
            self.scale = torch.stack([m.out_scale for m in members])
            self.mean = torch.stack([m.out_mean for m in members])
        # What a missing pixel may be wrong by: the scatter of prepared spectra.
        self.fill = float(np.mean([float(m.in_scale) for m in members]))
        self._products = self.filter_products()

    def predict(
        self, x, sigma=None, bad=None, *, batch_size: int = 4096
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, error and spread, (N, n_out) each, of prepared spectra (N, n_kept).

        `sigma` is their noise: a number, (N,), by chunk (N, n_chunks) or by pixel; `bad` pixels are wrong by `fill`.
        """
        if np.ndim(x) != 2 or x.shape[1] != self.n_kept:
            raise ValueError(
                f"spectra of shape {np.shape(x)} do not fit: these networks take (N, {self.n_kept})"
            )
        sigma = self._noise(sigma, x.shape)
        # Root mean square: 1 / (S/N per pixel).
        level = np.sqrt(np.mean(np.square(sigma.reshape(len(sigma), -1)), axis=1))
        sigma = self._with_filled(sigma, bad)
        predicted = [np.empty((len(x), len(self.outputs)), np.float32) for _ in range(3)]
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            batch = torch.from_numpy(np.ascontiguousarray(x[part], dtype=np.float32))
            mean, spread, noise = self.evaluate(batch, sigma[part])
            error = scale_errors(self.arrays, mean, spread, noise, level[part])
            for array, value in zip(predicted, (mean, error, spread), strict=True):
                array[part] = value
        return tuple(predicted)

    def evaluate(self, x: torch.Tensor, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, spread and propagated noise, each (B, n_out), of one batch; not calibrated."""
        values, gradient = self.answer(x)
        mean = values.mean(dim=0)
        spread = values.std(dim=0) if len(self.members) > 1 else torch.zeros_like(mean)
        noise = torch.zeros_like(mean)
        if np.any(sigma != 0):
            noise = self._propagate(gradient, sigma).T
        return mean.numpy(), spread.numpy(), noise.numpy()

    @torch.inference_mode()
    def answer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each network's outputs (member, B, n_out), and the gradient of their mean by what the filters let through
        (n_out, n_chunks, B, n_members * n_filters).
        """
        # From (n_chunks, B, n_members * n_filters) to (n_members, B, n_chunks * n_filters).
        split = torch.sigmoid(self._filter(x)).unflatten(2, (self.n_members, self.n_filters))
        layers = [split.permute(2, 1, 0, 3).flatten(2)]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layers.append(torch.sigmoid(torch.baddbmm(bias, layers[-1], weight)))
        outputs = torch.baddbmm(self.biases[-1], layers[-1], self.weights[-1])
        outputs = outputs * self.scale[:, None] + self.mean[:, None]
        return outputs, torch.stack([self._gradient(layers, k) for k in range(len(self.outputs))])

    def _filter(self, x):
        """What all filters let through, (n_chunks, B, n_members * n_filters)."""
        through = x.new_empty(self.n_chunks, len(x), self.curves.shape[2])
        for pixels, chunks, length in self.members[0].cut(x):
            torch.baddbmm(self.bias[chunks], pixels, self.curves[chunks, :length], out=through[chunks])
        return through

    def _gradient(self, layers, output):
        """Of the members' mean of one output, by what the filters let through; layer by layer backwards."""
        gradient = (self.scale[:, output, None] * self.weights[-1][:, :, output])[:, None] / self.n_members
        for level in range(len(layers) - 1, -1, -1):
            values = layers[level]
            gradient = gradient * values * (1 - values)
            if level:
                gradient = torch.bmm(gradient, self.weights[level - 1].transpose(1, 2))
        return gradient.unflatten(2, (self.n_chunks, self.n_filters)).permute(2, 1, 0, 3).flatten(2)

    def pixel_variance(self, gradient: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Variance (n_out, B) that errors of deviation 1 in some pixels (B, n_kept; bool) bring, each on its own."""
        result = torch.zeros(gradient.shape[0], gradient.shape[2])
        for hit, chunks, length in self.members[0].cut(pixels):
            curves = self.curves[chunks, :length].transpose(1, 2)
            for k, of_output in enumerate(gradient[:, chunks]):
                result[k] += torch.bmm(of_output, curves).square_().mul_(hit).sum(dim=(0, 2))
        return result

    def filter_products(self, broadening=None) -> torch.Tensor:
        """What white noise of deviation 1 does behind the filters: covariance (n_chunks, m, m), m all members'
        filters.
        """
        if broadening is None:
            return torch.bmm(self.curves.transpose(1, 2), self.curves)
        # Chunks are wider than the reach of a broadening: every third can be taken back at once, and they do not meet.
        products = torch.empty(self.n_chunks, *[self.curves.shape[2]] * 2)
        for start in range(3):
            rows = np.zeros((self.curves.shape[2], self.n_kept), np.float32)
            chunks = range(start, self.n_chunks, 3)
            for k in chunks:
                low, high = self.starts[k : k + 2]
                rows[:, low:high] = self.curves[k, : high - low].T
            back = torch.from_numpy(broadening.transpose(rows).astype("f4"))
            for k in chunks:
                reach = broadening.reach(self.starts[k], self.starts[k + 1])
                products[k] = back[:, reach] @ back[:, reach].T
        return products

    def _propagate(self, gradient: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
        """Deviations (n_out, B) of the mean for its gradient (n_out, n_chunks, B, filters) behind the filters."""
        if sigma.ndim == 2 and sigma.shape[1] == self.n_kept:
            pixels = split_chunks(sigma, self.members[0])
            curves = self.curves.transpose(1, 2)
            squares = [
                (torch.bmm(of_output, curves) * pixels).square().sum(dim=(0, 2)) for of_output in gradient
            ]
            return torch.stack(squares).sqrt()
        sigma = sigma if sigma.ndim == 2 else np.broadcast_to(sigma[:, None], (len(sigma), self.n_chunks))
        variance = white_noise_variance(
            gradient, self._products, torch.from_numpy(np.ascontiguousarray(sigma))
        )
        return variance.clamp(min=0).sqrt()

    def _noise(self, sigma, shape) -> np.ndarray:
        sigma = np.asarray(0.0 if sigma is None else sigma, dtype=np.float32)
        sigma = np.broadcast_to(sigma, shape[:1]) if sigma.ndim == 0 else sigma
        if sigma.shape not in (shape[:1], (shape[0], self.n_chunks), tuple(shape)):
            raise ValueError(
                f"sigma of shape {sigma.shape} does not fit {shape[0]} spectra of {shape[1]} pixels in "
                f"{self.n_chunks} chunks"
            )
        return np.ascontiguousarray(sigma)

    def _with_filled(self, sigma, bad) -> np.ndarray:
        """Noise with what is wrong in bad pixels; per pixel if there are any."""
        if bad is None or not np.any(bad):
            return sigma
        if sigma.ndim == 1:
            sigma = sigma[:, None]
        elif sigma.shape[1] == self.n_chunks:
            sigma = sigma[:, self.chunk_index]
        return np.where(bad, np.float32(self.fill), sigma)


@torch.inference_mode()
def white_noise_variance(gradient: torch.Tensor, products: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Variance (n_out, B) of the mean answer that white noise `sigma` (B, n_chunks) brings, to first order."""
    per_chunk = [(torch.bmm(of_output, products) * of_output).sum(dim=2) for of_output in gradient]
    return (torch.stack(per_chunk) * sigma.T.square()).sum(dim=1)


def formal_error(floor, spread, noise):
    """Quadrature sum, (N, n_out)."""
    return np.sqrt(np.square(floor) + np.square(spread) + np.square(noise))


def scale_errors(arrays: Mapping[str, np.ndarray], mean, spread, noise, level) -> np.ndarray:
    """Errors (N, n_out) of spectra with a noise `level` (N,); the formal ones if `arrays` hold no factors."""
    if "error_factor" not in arrays:
        return formal_error(0.0, spread, noise)
    known = np.log(np.maximum(arrays["error_noise"], _QUIETEST))
    at = np.log(np.maximum(level, _QUIETEST))
    factor = np.stack([np.interp(at, known, column) for column in arrays["error_factor"].T], axis=1)
    return formal_error(arrays["error_floor"], spread, noise) * factor


@dataclass(frozen=True)
class BandEnsemble:
    """One or more networks per property, of the same bands."""

    members: Sequence[BandNetwork]
    calibration: np.ndarray | None = None

    def __post_init__(self):
        if not self.members:
            raise ValueError("an ensemble needs at least one member")
        if len({member.bands for member in self.members}) > 1:
            raise ValueError("the networks take different bands")
        if self.calibration is None:
            object.__setattr__(self, "calibration", np.zeros((2 + len(FACILITY_BANDS), len(self.outputs))))

    @property
    def bands(self) -> tuple[str, ...]:
        """Of all members."""
        return self.members[0].bands

    @property
    def units(self) -> dict[str, str]:
        """Unit of each property that some member predicts."""
        pairs = (zip(member.outputs, member.units, strict=True) for member in self.members)
        return {name: unit for members in pairs for name, unit in members}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Properties that some member predicts."""
        return tuple(self.units)

    @property
    def needs_all_bands(self) -> bool:
        """Whether some member has no mask channel."""
        return not all(member.with_mask for member in self.members)

    def predict(self, inputs: BandInputs) -> tuple[np.ndarray, np.ndarray]:
        """Means and errors, (N, property): the members' variances, their scatter about the mean, and the
        calibration.
        """
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
        return replace(self, calibration=calibration)


def load_band_ensemble(names: Sequence, expected: str) -> tuple[BandEnsemble, dict[str, np.ndarray]]:
    """Networks of a class from files or by their shipped names, and the arrays of the first, which calibrates errors
    by its ``error_calibration``.
    """
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

    Returns
    -------
    Dataset
        Dims (`dim`, property): ``importance`` and ``importance_error``, increase of the mean absolute error [dex].
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

    Returns
    -------
    Dataset
        Dims (`dim`, property): ``sigma``, ``bias``, ``error`` (median) [dex], ``coverage`` of ``score(mean, labels,
        error)`` of each property, and ``kept``, the share with a prediction.
    """
    units = {"sigma": "dex", "bias": "dex", "error": "dex", "coverage": "", "kept": ""}
    columns = {what: [] for what in units}
    for inputs in parts.values():
        mean, error = ensemble.predict(inputs)
        rows = [score(mean[:, k], labels[:, k], error[:, k]) for k in range(mean.shape[1])]
        for what in ("sigma", "bias", "error", "coverage"):
            columns[what].append([row.get(what, np.nan) for row in rows])
        columns["kept"].append(np.isfinite(mean).mean(axis=0))
    return xr.Dataset(
        {
            what: ((dim, "property"), np.array(values), {"units": units[what]})
            for what, values in columns.items()
        },
        coords={dim: list(parts), "property": list(ensemble.outputs)},
    )
