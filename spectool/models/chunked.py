"""Interpretable network whose first layer is a bank of filters on chunks of the spectrum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.calibration import ONE_SIGMA, coverage
from spectool.models.layers import dense_stack, predict_normal

SN_LEVELS = (float("inf"), 50.0, 20.0, 10.0, 5.0)
"""S/N per 1-Angstrom pixel of the training spectra, a fifth each; inf = no noise."""
_BATCH = 4096


class GaussianMLP(nn.Module):
    """Dense layers from standardised inputs to the mean and variance of each output."""

    def __init__(
        self,
        *,
        n_in: int,
        n_out: int,
        hidden: Sequence[int] = (128, 128),
        names: Sequence[str] = (),
        units: Sequence[str] = (),
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for what, given in (("names", names), ("units", units)):
            if given and len(given) != n_out:
                raise ValueError(f"{len(given)} {what} for {n_out} outputs")
        self.config = {"n_in": n_in, "n_out": n_out, "hidden": list(hidden)}
        self.config |= {"names": list(names), "units": list(units)}
        self.n_in, self.n_out, self.names, self.units = n_in, n_out, tuple(names), tuple(units)
        for name, length in (("in", n_in), ("out", n_out)):
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_scale", torch.ones(length))
        self.register_buffer("error_factor", torch.ones(n_out))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            self.dense = dense_stack([n_in, *hidden])
            self.mean = nn.Linear([n_in, *hidden][-1], n_out)
            self.log_var = nn.Linear([n_in, *hidden][-1], n_out)

    def set_statistics(self, x: np.ndarray, y: np.ndarray) -> None:
        """Standardise by training inputs (N, n_in) and outputs (N, n_out); entries not finite are left out."""
        for prefix, values in (("in", x), ("out", y)):
            values = np.where(np.isfinite(values), values, np.nan)
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"column {empty[0]} of the {prefix}puts has no finite value")
            mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            getattr(self, f"{prefix}_mean").copy_(torch.from_numpy(mean.astype(np.float32)))
            scale = np.where(scale > 0, scale, 1.0)
            getattr(self, f"{prefix}_scale").copy_(torch.from_numpy(scale.astype(np.float32)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance, each (B, n_out), of standardised outputs, for inputs (B, n_in) as given."""
        h = self.dense((x - self.in_mean) / self.in_scale)
        return self.mean(h), self.log_var(h).clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each (N, n_out) in the outputs' units, for inputs (N, n_in)."""
        mean, sigma = predict_normal(self, np.asarray(x, dtype=np.float32), batch_size=8192)
        return mean, sigma * self.error_factor.numpy()

    def calibrate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Scale the errors of each output so that 68.27% of these truths lie within one of them."""
        self.error_factor.fill_(1.0)
        mean, sigma = self.predict(x)
        pull = np.where(np.isfinite(y), np.abs(y - mean) / sigma, np.nan)
        factor = np.nanquantile(pull, ONE_SIGMA, axis=0)
        self.error_factor.copy_(torch.from_numpy(np.nan_to_num(factor, nan=1.0).astype(np.float32)))
        return self.error_factor.numpy().copy()


def gaussian_loss(model: GaussianMLP, batch: dict, step) -> dict[str, torch.Tensor]:
    """Negative log likelihood (up to a constant) of ``batch["y"]`` given ``batch["x"]``, for `fit`."""
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    squared = torch.where(known, y - mean, 0.0).square()
    count = known.sum().clamp(min=1)
    nll = 0.5 * (squared * torch.exp(-log_var) + torch.where(known, log_var, 0.0)).sum() / count
    return {"loss": nll, "squared_error": squared.sum() / count}


class ChunkedMLP(nn.Module):
    """A perceptron whose first layer is a bank of narrow-band filters (Zahid et al. 2019, Section 2.1).

    A prepared spectrum is cut into chunks of neighbouring pixels. Each has its own few nodes, which see nothing else:
    their weights are filter curves that can be drawn over the spectrum. Dense layers follow; every activation is a
    sigmoid but the last, which is linear. (The paper says "400 numbers, 4 for each of the 25 chunks"; 25 x 4 is 100.
    `n_filters` = 4 is the one reading, 16 the other.)

    Parameters
    ----------
    wavelength
        (n_kept,) of the pixels that are fed in, increasing, vacuum [Angstrom].
    n_chunks
        Chunks of as equal a number of pixels as can be (`numpy.array_split`).
    n_filters
        Nodes per chunk.
    hidden
        Widths of the dense layers (the paper's "x and y").

    Attributes
    ----------
    chunk_index : ndarray of int, shape (n_kept,)
        Chunk of each pixel.
    """

    def __init__(
        self,
        *,
        wavelength: Sequence[float],
        n_chunks: int = 25,
        n_filters: int = 4,
        hidden: Sequence[int] = (64, 32),
        outputs: Sequence[str] = ("log_z_lw",),
        units: Sequence[str] = ("dex",),
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        wave = np.asarray(wavelength, dtype=np.float64)
        if wave.ndim != 1 or not (np.diff(wave) > 0).all():
            raise ValueError(f"wavelengths must be one increasing row of numbers, not of shape {wave.shape}")
        if wave.size < n_chunks:
            raise ValueError(f"{wave.size} pixels cannot be cut into {n_chunks} chunks")
        if len(units) != len(outputs):
            raise ValueError(f"{len(units)} units for {len(outputs)} outputs")
        self.config = {"wavelength": wave.tolist(), "n_chunks": n_chunks, "n_filters": n_filters}
        self.config |= {"hidden": list(hidden), "outputs": list(outputs), "units": list(units)}
        self.wavelength, self.outputs, self.units = wave, tuple(outputs), tuple(units)
        self.n_kept, self.n_chunks, self.n_filters = wave.size, n_chunks, n_filters
        lengths = [len(part) for part in np.array_split(wave, n_chunks)]
        self.chunk_index = np.repeat(np.arange(n_chunks), lengths)
        self.n_long = self.n_kept % self.n_chunks
        inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self.register_buffer("inside", inside[:, None, :].float(), persistent=False)
        self.register_buffer("in_scale", torch.ones(()))
        self.register_buffer("out_mean", torch.zeros(len(outputs)))
        self.register_buffer("out_scale", torch.ones(len(outputs)))
        widths = [self.n_chunks * self.n_filters, *hidden]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            self.weight = nn.Parameter(torch.randn(n_chunks, n_filters, max(lengths)) * max(lengths) ** -0.5)
            self.bias = nn.Parameter(torch.zeros(n_chunks, n_filters))
            layers = []
            for n_in, n_out in itertools.pairwise(widths):
                layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
            self.dense = nn.Sequential(*layers, nn.Linear(widths[-1], len(outputs)))
            for layer in self.dense[::2]:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def set_statistics(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take the scales from training spectra (N, n_kept) and labels (N, n_out); labels not finite are left out.

        The scale of all pixels is one number, their root mean square, so that filters stay comparable.
        """
        y = np.where(np.isfinite(y), y, np.nan).astype(np.float64)
        empty = np.flatnonzero(np.isnan(y).all(axis=0))
        if len(empty):
            raise ValueError(f"output {self.outputs[empty[0]]} has no finite label to train on")
        step = max(1, len(x) // 2000)
        self.in_scale.fill_(float(np.sqrt(np.mean(np.square(x[::step], dtype=np.float64)))) or 1.0)
        self.out_mean.copy_(torch.from_numpy(np.nanmean(y, axis=0)))
        scale = np.nanstd(y, axis=0)
        self.out_scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def responses(self) -> torch.Tensor:
        """Filter curves (n_chunks, n_filters, longest chunk), padded with 0, for spectra as they are fed in."""
        return self.weight * (self.inside / self.in_scale)

    def filters(self) -> np.ndarray:
        """As `responses`, as an array: pixels of chunk k are those where ``chunk_index == k``."""
        return self.responses().detach().cpu().numpy()

    def preactivations(self, x: torch.Tensor) -> torch.Tensor:
        """What the filters let through of spectra (B, n_kept), before the sigmoid: (B, n_chunks, n_filters)."""
        curves = self.responses().transpose(1, 2)
        through = [torch.bmm(pixels, curves[chunks, :length]) for pixels, chunks, length in self.cut(x)]
        return torch.cat(through).transpose(0, 1) + self.bias

    def cut(self, x: torch.Tensor):
        """Pixels of the longer and of the shorter chunks, (n, B, length); which chunks these are; their length."""
        length = self.n_kept // self.n_chunks
        end = self.n_long * (length + 1)
        for part, chunks, size in (
            (x[:, :end], slice(0, self.n_long), length + 1),
            (x[:, end:], slice(self.n_long, self.n_chunks), length),
        ):
            if part.shape[1]:
                yield part.unflatten(1, (-1, size)).transpose(0, 1), chunks, size

    def head(self, preactivations: torch.Tensor) -> torch.Tensor:
        """Outputs (B, n_out) in their units, from `preactivations` (B, n_chunks, n_filters)."""
        return self.dense(torch.sigmoid(preactivations).flatten(1)) * self.out_scale + self.out_mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (B, n_out) in their units, for prepared spectra (B, n_kept)."""
        return self.head(self.preactivations(x))

    def predict(self, x: np.ndarray, *, batch_size: int = 8192) -> np.ndarray:
        """Outputs (N, n_out) in their units, for prepared spectra (N, n_kept); NaN for rows that are not finite."""
        if np.ndim(x) != 2 or x.shape[1] != self.n_kept:
            raise ValueError(
                f"spectra of shape {np.shape(x)} do not fit this model: it takes (N, {self.n_kept}) prepared pixels"
            )
        self.eval()
        found = np.empty((len(x), len(self.outputs)), np.float32)
        with torch.inference_mode():
            for start in range(0, len(x), batch_size):
                part = np.ascontiguousarray(x[start : start + batch_size], dtype=np.float32)
                found[start : start + batch_size] = self(torch.from_numpy(part)).numpy()
        return found


@dataclass(frozen=True)
class ChunkBasis:
    """Orthonormal vectors that span the chunks of spectra."""

    vectors: torch.Tensor
    residual: float

    def project(self, x, model: ChunkedMLP) -> np.ndarray:
        """Coefficients (N, n_chunks, k), float32, of spectra (N, n_kept)."""
        found = np.empty((len(x), *self.vectors.shape[:2]), np.float32)
        for start in range(0, len(x), _BATCH):
            chunks = split_chunks(x[start : start + _BATCH], model)
            found[start : start + _BATCH] = torch.bmm(chunks, self.vectors.transpose(1, 2)).transpose(0, 1)
        return found

    def preactivations(self, model: ChunkedMLP, coefficients: torch.Tensor) -> torch.Tensor:
        """`ChunkedMLP.preactivations` (B, n_chunks, n_filters) of spectra with these coefficients (B, n_chunks, k)."""
        curves = torch.bmm(self.vectors, model.responses().transpose(1, 2))
        return torch.bmm(coefficients.transpose(0, 1), curves).transpose(0, 1) + model.bias

    def start_within(self, model: ChunkedMLP) -> None:
        """Take from the model's filters what no training spectrum has a projection on, and rescale them."""
        with torch.no_grad():
            size = model.weight.norm(dim=2, keepdim=True)
            inside = torch.bmm(torch.bmm(model.weight, self.vectors.transpose(1, 2)), self.vectors)
            model.weight.copy_(inside * (size / inside.norm(dim=2, keepdim=True).clamp(min=1e-12)))


def split_chunks(x, model: ChunkedMLP) -> torch.Tensor:
    """Chunks (n_chunks, N, longest chunk) of spectra (N, n_kept), padded with 0."""
    lengths = np.bincount(model.chunk_index, minlength=model.n_chunks)
    parts = np.split(np.asarray(x, dtype=np.float32), np.cumsum(lengths)[:-1], axis=1)
    chunks = torch.zeros(model.n_chunks, len(x), int(lengths.max()))
    for k, part in enumerate(parts):
        chunks[k, :, : lengths[k]] = torch.from_numpy(part)
    return chunks


def fit_chunk_basis(x, model: ChunkedMLP, *, tolerance: float = 1e-4) -> ChunkBasis:
    """Find the smallest basis that leaves no chunk more than a tolerance."""
    moment = 0.0
    for start in range(0, len(x), _BATCH):
        chunks = split_chunks(x[start : start + _BATCH], model).double()
        moment = moment + torch.bmm(chunks.transpose(1, 2), chunks)
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(1).clamp(min=0), vectors.flip(2)
    n_pixels = torch.from_numpy(np.bincount(model.chunk_index, minlength=model.n_chunks))
    left = (values.flip(1).cumsum(1).flip(1) / (n_pixels[:, None] * len(x))).sqrt()
    enough = (left < tolerance).all(dim=0).nonzero()
    k = max(1, int(enough[0])) if len(enough) else left.shape[1]
    residual = float(left[:, k].max()) if k < left.shape[1] else 0.0
    return ChunkBasis(vectors[:, :, :k].transpose(1, 2).float().contiguous(), residual)


def assign_levels(n: int, levels: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Noise deviations 1 / (S/N) for n spectra, (n,): as equal a share of each level as can be, in random order."""
    sigma = 1.0 / torch.tensor(levels, dtype=torch.float32)
    start = int(torch.randint(len(sigma), (1,), generator=generator))
    which = (torch.arange(n) + start) % len(sigma)
    return sigma[which[torch.randperm(n, generator=generator)]]


def draw_filtered(responses: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise behind the filters, (B, n_chunks, n_filters), of spectra with white noise of deviations `sigma` (B,)."""
    n_chunks, n_filters, _ = responses.shape
    # Double precision and a little ridge: filters may become alike, or nothing, while they are trained.
    covariance = torch.bmm(responses, responses.transpose(1, 2)).double()
    trace = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).detach()
    ridge = (1e-6 * trace + 1e-20)[:, None, None] * torch.eye(n_filters, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance + ridge).to(responses.dtype)
    draw = torch.randn(n_chunks, len(sigma), n_filters, generator=generator)
    return torch.bmm(draw, factor.transpose(1, 2)).transpose(0, 1) * sigma[:, None, None]


def draw_pixels(x: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Spectra (B, n_kept) with white noise of deviations `sigma` (B,) drawn for every pixel."""
    return x + sigma[:, None] * torch.randn(x.shape, generator=generator)


def add_white_noise(x, sn: float, *, seed) -> np.ndarray:
    """Prepared spectra (N, n_kept) with white noise of a S/N per pixel; inf: as they are."""
    x = np.asarray(x, dtype=np.float32)
    if np.isinf(sn):
        return x
    return x + np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32) / np.float32(sn)


def score_by_sn(
    predict: Callable, prepared: xr.Dataset, truth, *, levels=SN_LEVELS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Score predictions of one quantity at several noise levels.

    Parameters
    ----------
    predict
        ``predict(x, sigma)`` -> (N,) predictions, or predictions and errors, for spectra (N, n_kept) and their noise
        (N,).
    prepared
        Noise-free ``flux`` (galaxy, wavelength).
    truth
        (N,).
    levels
        S/N per pixel; inf for none.
    seed
        Of the noise, the same for all who are compared.

    Returns
    -------
    dict
        By level ("inf", "50", ...): ``rms`` and ``bias`` (mean) of prediction - truth in its unit;
        with errors, ``coverage`` (share within one error), ``coverage_error`` (of sampling), ``median_error``.
    """
    scores = {}
    for k, sn in enumerate(levels):
        x = add_white_noise(prepared["flux"].values, sn, seed=[seed, k])
        given = predict(x, np.full(len(x), 1.0 / sn, np.float32))
        value, error = given if isinstance(given, tuple) else (given, None)
        off = np.asarray(value, float) - truth
        scores[f"{sn:g}"] = {"rms": float(np.sqrt(np.mean(off**2))), "bias": float(off.mean())}
        if error is not None:
            share, sampling = coverage(value, error, truth)
            of_errors = {"coverage_error": sampling, "median_error": float(np.median(error))}
            scores[f"{sn:g}"] |= {"coverage": share, **of_errors}
    return scores
