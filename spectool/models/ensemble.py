"""Ensembles: networks that answer together, with a calibrated error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr

from spectool.models.bands import SedInputs, SedMLP
from spectool.models.calibration import LEVEL, ONE_SIGMA, fit_error_scaling
from spectool.models.chunked import ChunkedMLP, split_chunks


class StackedEnsemble:
    """Networks side by side."""

    def __init__(self, members: Sequence[ChunkedMLP]) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one network")
        first = members[0]
        for k, member in enumerate(members):
            if member.config != first.config:
                raise ValueError(f"network {k} of the ensemble is not of the shape of network 0")
        self.n_members, self.n_chunks, self.n_kept = len(members), first.n_chunks, first.n_kept
        self.n_filters, self.outputs, self.units = first.n_filters, first.outputs, first.units
        lengths = np.bincount(first.chunk_index, minlength=first.n_chunks)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        with torch.no_grad():
            self.curves = torch.cat([m.responses().transpose(1, 2) for m in members], dim=2).contiguous()
            self.bias = torch.cat([m.bias for m in members], dim=1)[:, None].clone()
            layers = [[layer for layer in m.dense if isinstance(layer, torch.nn.Linear)] for m in members]
            self.weights = [torch.stack([row.weight.T for row in rows]) for rows in zip(*layers, strict=True)]
            self.biases = [
                torch.stack([row.bias for row in rows])[:, None] for rows in zip(*layers, strict=True)
            ]
            self.scale = torch.stack([m.out_scale for m in members])
            self.mean = torch.stack([m.out_mean for m in members])
        self.n_long, self.length = first.n_long, first.n_kept // first.n_chunks

    @torch.inference_mode()
    def answer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers to prepared spectra, and the gradient of their mean."""
        nodes = self._to_members(torch.sigmoid(self._filter(x)))
        layers = [nodes]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layers.append(torch.sigmoid(torch.baddbmm(bias, layers[-1], weight)))
        outputs = torch.baddbmm(self.biases[-1], layers[-1], self.weights[-1])
        outputs = outputs * self.scale[:, None] + self.mean[:, None]
        return outputs, torch.stack([self._gradient(layers, k) for k in range(len(self.outputs))])

    def _filter(self, x):
        """What all filters let through, (n_chunks, B, n_members * n_filters)."""
        cut = self.n_long * (self.length + 1)
        through = x.new_empty(self.n_chunks, len(x), self.curves.shape[2])
        for part, chunks, length in (
            (x[:, :cut], slice(0, self.n_long), self.length + 1),
            (x[:, cut:], slice(self.n_long, self.n_chunks), self.length),
        ):
            if part.shape[1]:
                pixels = part.unflatten(1, (-1, length)).transpose(0, 1)
                torch.baddbmm(self.bias[chunks], pixels, self.curves[chunks, :length], out=through[chunks])
        return through

    def _to_members(self, through):
        """From (n_chunks, B, n_members * n_filters) to (n_members, B, n_chunks * n_filters)."""
        split = through.unflatten(2, (self.n_members, self.n_filters))
        return split.permute(2, 1, 0, 3).flatten(2)

    def _to_chunks(self, nodes):
        """The way back of `_to_members`."""
        split = nodes.unflatten(2, (self.n_chunks, self.n_filters))
        return split.permute(2, 1, 0, 3).flatten(2)

    def _gradient(self, layers, output):
        """Of the members' mean of one output, by what the filters let through; layer by layer backwards."""
        gradient = (self.scale[:, output, None] * self.weights[-1][:, :, output])[:, None] / self.n_members
        for level in range(len(layers) - 1, -1, -1):
            values = layers[level]
            gradient = gradient * values * (1 - values)
            if level:
                gradient = torch.bmm(gradient, self.weights[level - 1].transpose(1, 2))
        return self._to_chunks(gradient)

    def pixel_variance(self, gradient: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Variance (n_out, B) that errors of deviation 1 in some pixels (B, n_kept; bool) bring, each on its own."""
        result = torch.zeros(gradient.shape[0], gradient.shape[2])
        cut = self.n_long * (self.length + 1)
        for part, chunks, length in (
            (pixels[:, :cut], slice(0, self.n_long), self.length + 1),
            (pixels[:, cut:], slice(self.n_long, self.n_chunks), self.length),
        ):
            if part.shape[1]:
                curves = self.curves[chunks, :length].transpose(1, 2)
                hit = part.unflatten(1, (-1, length)).transpose(0, 1)
                for k, one in enumerate(gradient[:, chunks]):
                    result[k] += torch.bmm(one, curves).square_().mul_(hit).sum(dim=(0, 2))
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


@torch.inference_mode()
def noise_variance(gradient: torch.Tensor, products: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Variance of the mean answer that white noise of the spectra brings, to first order."""
    per_chunk = torch.stack([(torch.bmm(one, products) * one).sum(dim=2) for one in gradient])
    return (per_chunk * sigma.T.square()).sum(dim=1)


#: S/N per 1-Angstrom pixel at which errors are scaled; between them the factor is interpolated.
CALIBRATION_LEVELS = (np.inf, 200.0, 100.0, 50.0, 30.0, 20.0, 14.0, 10.0, 7.0, 5.0, 3.5)
_QUIETEST = 1e-3


def fit_errors(ensemble, x, y, *, levels=CALIBRATION_LEVELS, seed=0) -> dict[str, np.ndarray]:
    """Learn a floor and a factor for formal errors, from spectra of known truth with noise added."""
    rng = np.random.default_rng(seed)
    mean, _, _ = ensemble.predict(x)
    found = {"error_floor": np.median(np.abs(mean - y), axis=0).astype(np.float32)}
    noise = np.sort(1.0 / np.asarray(levels, dtype=np.float32))
    factors = []
    for sigma in noise:
        noisy = x + sigma * rng.standard_normal(x.shape, dtype=np.float32)
        mean, spread, through = evaluate_batches(ensemble, noisy, sigma)
        pull = (mean - y) / formal_error(found["error_floor"], spread, through)
        factors.append([_quantile(column) for column in pull.T])
    return found | {"error_noise": noise, "error_factor": np.array(factors, np.float32)}


def evaluate_batches(ensemble, x, sigma, *, batch_size=4096):
    """Mean, spread and propagated noise, each (N, n_out), not calibrated, of spectra with one noise level."""
    import torch

    found = []
    for start in range(0, len(x), batch_size):
        part = torch.from_numpy(np.ascontiguousarray(x[start : start + batch_size], dtype=np.float32))
        found.append(ensemble.evaluate(part, np.full(len(part), sigma, np.float32)))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


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


def _quantile(pull):
    scaling = fit_error_scaling(pull, np.zeros_like(pull), n_bins=1, correct_bias=False, level=LEVEL)
    return scaling.error[0]


class ChunkedEnsemble:
    """Networks of one architecture, trained from different seeds; all their filters are applied in one go."""

    def __init__(self, members: Sequence[ChunkedMLP], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one member")
        first = members[0]
        for k, member in enumerate(members):
            if member.config != first.config:
                other = [name for name in first.config if first.config[name] != member.config[name]]
                raise ValueError(f"member {k + 1} has another {', '.join(other)} than the first")
        self.members, self.arrays = tuple(m.eval() for m in members), dict(arrays or {})
        self.wavelength, self.outputs, self.units = first.wavelength, first.outputs, first.units
        self.n_kept, self.n_chunks = first.n_kept, first.n_chunks
        self.chunk_index, self.n_filters = first.chunk_index, first.n_filters
        self.stacked = StackedEnsemble(self.members)
        self._products = self.stacked.filter_products()
        self._fill = float(np.mean([float(m.in_scale) for m in members]))

    def predict(
        self, x, sigma=None, bad=None, *, batch_size: int = 4096
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, error and spread of prepared spectra."""
        if np.ndim(x) != 2 or x.shape[1] != self.n_kept:
            raise ValueError(
                f"spectra of shape {np.shape(x)} do not fit: these networks take (N, {self.n_kept})"
            )
        sigma = self._noise(sigma, x.shape)
        level = self.noise_level(sigma)
        sigma = self._with_filled(sigma, bad)
        found = [np.empty((len(x), len(self.outputs)), np.float32) for _ in range(3)]
        for start in range(0, len(x), batch_size):
            part = slice(start, start + batch_size)
            mean, spread, noise = self.evaluate(
                torch.from_numpy(np.ascontiguousarray(x[part], dtype=np.float32)), sigma[part]
            )
            error = scale_errors(self.arrays, mean, spread, noise, level[part])
            for array, value in zip(found, (mean, error, spread), strict=True):
                array[part] = value
        return found[0], found[1], found[2]

    def evaluate(self, x: torch.Tensor, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, spread and propagated noise, each (B, n_out), of one batch; not calibrated."""
        values, gradient = self.stacked.answer(x)
        mean = values.mean(dim=0)
        spread = values.std(dim=0) if len(self.members) > 1 else torch.zeros_like(mean)
        noise = torch.zeros_like(mean)
        if np.any(sigma != 0):
            noise = self._propagate(gradient, sigma).T
        return mean.numpy(), spread.numpy(), noise.numpy()

    def noise_level(self, sigma: np.ndarray) -> np.ndarray:
        """Root mean square of the noise of each spectrum, (N,): 1 / (S/N per pixel)."""
        return np.sqrt(np.mean(np.square(sigma.reshape(len(sigma), -1)), axis=1))

    def _propagate(self, gradient: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
        """Deviations (n_out, B) of the mean for its gradient (n_out, n_chunks, B, filters) behind the filters."""
        if sigma.ndim == 2 and sigma.shape[1] == self.n_kept:
            pixels = split_chunks(sigma, self.members[0])
            curves = self.stacked.curves.transpose(1, 2)
            squares = [(torch.bmm(one, curves) * pixels).square().sum(dim=(0, 2)) for one in gradient]
            return torch.stack(squares).sqrt()
        sigma = sigma if sigma.ndim == 2 else np.broadcast_to(sigma[:, None], (len(sigma), self.n_chunks))
        variance = noise_variance(gradient, self._products, torch.from_numpy(np.ascontiguousarray(sigma)))
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
        return np.where(bad, np.float32(self._fill), sigma)


CALIBRATION_ROWS = 10_000
VARIED = (0.02, 3.0)
FACILITIES = {
    "GALEX": ("FUV", "NUV"),
    "SDSS": ("u", "g", "r", "i", "z"),
    "VIKING": ("X", "Y", "J", "H", "K"),
    "WISE": ("W1", "W2", "W3", "W4"),
    "PACS": ("P100", "P160"),
    "SPIRE": ("S250", "S350", "S500"),
}
"""Bands that are missing together."""


@dataclass(frozen=True)
class SedEnsemble:
    """One or more networks per property, of the same bands."""

    members: Sequence[SedMLP]
    calibration: np.ndarray | None = field(default=None)

    def __post_init__(self):
        if not self.members:
            raise ValueError("an ensemble needs at least one network")
        if len({member.bands for member in self.members}) > 1:
            raise ValueError("the networks take different bands")
        if self.calibration is None:
            object.__setattr__(self, "calibration", np.zeros((2 + len(FACILITIES), len(self.outputs))))

    @property
    def bands(self) -> tuple[str, ...]:
        """Of all members."""
        return self.members[0].bands

    @property
    def units(self) -> dict[str, str]:
        """Unit of each property, in the order of `outputs`."""
        return {
            name: unit
            for member in self.members
            for name, unit in zip(member.outputs, member.units, strict=True)
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """Properties that some member predicts."""
        return tuple(self.units)

    @property
    def needs_all_bands(self) -> bool:
        """Whether some member has no mask channel."""
        return not all(member.with_mask for member in self.members)

    @property
    def redshift_range(self) -> tuple[float, float]:
        """Of the training galaxies of all members."""
        ranges = np.array([member.redshift_range.numpy() for member in self.members])
        return float(ranges[:, 0].max()), float(ranges[:, 1].min())

    def predict(self, inputs: SedInputs) -> tuple[np.ndarray, np.ndarray]:
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

    def calibrate(self, inputs: SedInputs, labels: np.ndarray, *, seed=0) -> SedEnsemble:
        """The same with errors that hold 68.27% of the labels (N, property), whatever is missing.

        A quantile regression (Koenker & Bassett 1978) of the logarithm of |label - mean| / error on what is
        missing, on `CALIBRATION_ROWS` of the galaxies.
        """
        from sklearn.linear_model import QuantileRegressor

        rows = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:CALIBRATION_ROWS])
        inputs, labels = inputs.take(rows), labels[rows]
        mean, error = SedEnsemble(self.members).predict(inputs)
        shares = missing_shares(inputs.mask, self.bands)
        found = np.zeros((shares.shape[1], len(self.outputs)))
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
            found[columns, k] = regression.fit(shares[used][:, columns], pull[used]).coef_
        return SedEnsemble(self.members, found)


def missing_shares(mask: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """What the calibration depends on, for each galaxy's mask (N, band)."""
    shares = [np.ones(len(mask))]
    for members in FACILITIES.values():
        columns = np.isin(bands, members)
        shares.append(mask[:, columns].mean(axis=1) if columns.any() else np.zeros(len(mask)))
    return np.stack([*shares, mask.mean(axis=1) ** 2], axis=1)


@dataclass(frozen=True)
class RandomBands:
    """Hides bands of each galaxy at random, anew for each batch; for the `augment` of `fit`."""

    model: SedMLP
    full: float = 0.4
    facility: float = 0.2
    single: float = 0.9
    keep: int = 3

    def __call__(self, batch: dict, step) -> dict:
        """The batch with bands hidden in ``x``."""
        n = len(self.model.bands)
        hidden = self.draw(len(batch["x"]), step.generator)
        left = (~hidden & (batch["x"][:, -n:] == 0)).sum(dim=1)
        return {**batch, "x": self.model.hide(batch["x"], hidden & (left >= self.keep)[:, None])}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Bands to hide, (n, band), before any galaxy is spared for having too few."""

        def random(*shape):
            return torch.rand(n, *shape, generator=generator)

        groups = self._groups()
        only = (random(1) * len(groups)).long() == torch.arange(len(groups))
        several = random(len(groups)) < self.facility
        single = random(groups.shape[1]) < self.single * random(1)
        kind = (random(1) * 3).long()
        lost = torch.where(kind == 0, only, several).float() @ groups > 0
        return torch.where(kind == 2, single, lost) & (random(1) >= self.full)

    def _groups(self) -> torch.Tensor:
        """Which bands belong to each facility, (facility, band), 0 or 1."""
        rows = [np.isin(self.model.bands, members) for members in FACILITIES.values()]
        rows = [row for row in rows if row.any()] or [np.zeros(len(self.model.bands), bool)]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def hide(self, inputs: SedInputs, *, seed) -> SedInputs:
        """Inputs with bands hidden once, for validation and calibration."""
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        hidden = self.draw(len(inputs), generator).numpy()
        spared = (~hidden & ~inputs.mask).sum(axis=1) < self.keep
        hidden[spared] = False
        return SedInputs(inputs.flux, inputs.error, inputs.mask | hidden, inputs.redshift, inputs.counts)


def vary_errors(inputs: SedInputs, true_flux: np.ndarray, *, bands: Sequence[str], seed) -> SedInputs:
    """The same galaxies as shallower and deeper surveys would see them, for training."""
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(*np.log(VARIED), (len(inputs), 1))) * np.ones(inputs.flux.shape)
    for members in FACILITIES.values():
        factor[:, np.isin(bands, members)] *= np.exp(0.5 * rng.standard_normal((len(inputs), 1)))
    error = inputs.error * factor
    return SedInputs(
        true_flux + error * rng.standard_normal(error.shape), error, inputs.mask, inputs.redshift
    )


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
    """What the prediction loses when a band's values are swapped among galaxies (Breiman 2001)."""
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
    """Inputs, in the order of `bands`, of galaxies for which some of the bands are missing."""
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
