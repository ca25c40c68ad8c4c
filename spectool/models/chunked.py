"""Interpretable network whose first layer is a bank of filters on chunks of the spectrum, and ensembles of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.calibration import coverage
from spectool.models.layers import Standardised, dense_stack, initial_weights
from spectool.models.training import in_batches

SN_LEVELS = (float("inf"), 50.0, 20.0, 10.0, 5.0)  # per 1-Angstrom pixel of training spectra, a fifth each
_BATCH = 4096
_TOLERANCE = 1e-4  # of spectra without their smallest components
_QUIETEST = 1e-3


class ChunkedMLP(Standardised):
    """A perceptron whose first layer is a bank of narrow-band filters (Zahid et al. 2019, Section 2.1).

    A prepared spectrum is cut into chunks of neighbouring pixels. Each has its own few nodes, which see nothing else:
    their weights are filter curves that can be drawn over the spectrum. Dense layers follow; every activation is a
    sigmoid but the last, which is linear. (The paper says "400 numbers, 4 for each of the 25 chunks"; 25 x 4 is 100.
    `n_filters` = 4 is the one reading, 16 the other.)

    `wavelength` (n_kept,) of the pixels that are fed in, increasing, vacuum [Angstrom]; `n_chunks` of as equal a number
    of pixels as can be (`numpy.array_split`); `n_filters` nodes per chunk; `hidden` widths of the dense layers (the
    paper's "x and y"). ``chunk_index`` (n_kept,) is the chunk of each pixel.
    """

    def __init__(
        self,
        *,
        wavelength,
        n_chunks=25,
        n_filters=4,
        hidden=(64, 32),
        outputs=("log_z_lw",),
        units=("dex",),
        seed=0,
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
        self.add_scales(out=len(outputs))
        widths = [self.n_chunks * self.n_filters, *hidden]
        with initial_weights(seed):
            self.weight = nn.Parameter(torch.randn(n_chunks, n_filters, max(lengths)) * max(lengths) ** -0.5)
            self.bias = nn.Parameter(torch.zeros(n_chunks, n_filters))
            self.dense = dense_stack(widths, nn.Sigmoid).append(nn.Linear(widths[-1], len(outputs)))
            for layer in self.dense[::2]:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def set_statistics(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take the scales from training spectra (N, n_kept), one for all pixels so that filters stay comparable (their
        root mean square), and from labels (N, n_out)."""
        self.standardise("out", np.asarray(y, dtype=np.float64), self.outputs)
        step = max(1, len(x) // 2000)
        self.in_scale.fill_(float(np.sqrt(np.mean(np.square(x[::step], dtype=np.float64)))) or 1.0)

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

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Outputs (N, n_out) in their units, for prepared spectra (N, n_kept); NaN for rows that are not finite."""
        check_pixels(x, self.n_kept)
        (outputs,) = in_batches(self, lambda part: (self(part),), x, batch_size=self.batch_size)
        return outputs


def check_pixels(x, n_kept: int) -> None:
    """Refuse spectra of other pixels."""
    if np.ndim(x) != 2 or x.shape[1] != n_kept:
        raise ValueError(
            f"spectra of shape {np.shape(x)} do not fit: these networks take (N, {n_kept}) pixels"
        )


@dataclass(frozen=True)
class ChunkBasis:
    """Orthonormal vectors that span the chunks of spectra."""

    vectors: torch.Tensor
    residual: float

    def project(self, x, model: ChunkedMLP) -> np.ndarray:
        """Coefficients (N, n_chunks, k), float32, of spectra (N, n_kept)."""
        computed = np.empty((len(x), *self.vectors.shape[:2]), np.float32)
        for start in range(0, len(x), _BATCH):
            chunks = split_chunks(x[start : start + _BATCH], model)
            computed[start : start + _BATCH] = torch.bmm(chunks, self.vectors.transpose(1, 2)).transpose(0, 1)
        return computed

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


def fit_chunk_basis(x, model: ChunkedMLP) -> ChunkBasis:
    """Find the smallest basis that leaves no chunk more than a tolerance."""
    moment = 0.0
    for start in range(0, len(x), _BATCH):
        chunks = split_chunks(x[start : start + _BATCH], model).double()
        moment = moment + torch.bmm(chunks.transpose(1, 2), chunks)
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(1).clamp(min=0), vectors.flip(2)
    n_pixels = torch.from_numpy(np.bincount(model.chunk_index, minlength=model.n_chunks))
    left = (values.flip(1).cumsum(1).flip(1) / (n_pixels[:, None] * len(x))).sqrt()
    enough = (left < _TOLERANCE).all(dim=0).nonzero()
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


def add_white_noise(x, sn: float, *, seed) -> np.ndarray:
    """Prepared spectra (N, n_kept) with white noise of a S/N per pixel; inf: as they are."""
    x = np.asarray(x, dtype=np.float32)
    if np.isinf(sn):
        return x
    return x + np.random.default_rng(seed).standard_normal(x.shape, dtype=np.float32) / np.float32(sn)


def score_by_sn(
    predict: Callable, prepared: xr.Dataset, truth, *, levels=SN_LEVELS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Score predictions of one quantity at several noise levels, the noise the same for all who are compared.

    By level ("inf", "50", ...): ``rms`` and ``bias`` (mean) of prediction - truth in its unit; with errors,
    ``coverage`` (share within one error), ``coverage_error`` (of sampling), ``median_error``.

    Parameters
    ----------
    predict
        ``predict(x, sigma)`` -> (N,) predictions, or predictions and errors, for spectra (N, n_kept), noise (N,).
    prepared, truth, levels
        Noise-free ``flux`` (galaxy, wavelength), (N,), and S/N per pixel; inf for no noise.
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
            layers = list(zip(*(m.dense[::2] for m in members), strict=True))
            self.weights = [torch.stack([row.weight.T for row in rows]) for rows in layers]
            self.biases = [torch.stack([row.bias for row in rows])[:, None] for rows in layers]
            self.scale = torch.stack([m.out_scale for m in members])
            self.mean = torch.stack([m.out_mean for m in members])
        # What a missing pixel may be wrong by: the scatter of prepared spectra.
        self.fill = float(np.mean([float(m.in_scale) for m in members]))
        self._products = self.filter_products()

    def predict(self, x, sigma=None, bad=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, error and spread, (N, n_out) each, of prepared spectra (N, n_kept).

        `sigma` is their noise: a number, (N,) or by pixel; `bad` pixels are wrong by `fill`.
        """
        check_pixels(x, self.n_kept)
        sigma = np.array(0.0 if sigma is None else sigma, dtype=np.float32, order="C")
        sigma = np.broadcast_to(sigma, len(x)) if sigma.ndim == 0 else sigma
        if sigma.shape not in (x.shape[:1], x.shape):
            raise ValueError(f"sigma of shape {sigma.shape} does not fit spectra of shape {x.shape}")
        by_pixel = sigma.reshape(len(x), -1)
        # Root mean square: 1 / (S/N per pixel).
        level = np.sqrt(np.mean(np.square(by_pixel), axis=1))
        if bad is not None and np.any(bad):
            sigma = np.where(bad, np.float32(self.fill), by_pixel)
        mean, spread, noise = (np.empty((len(x), len(self.outputs)), np.float32) for _ in range(3))
        for start in range(0, len(x), _BATCH):
            part = slice(start, start + _BATCH)
            batch = torch.from_numpy(np.ascontiguousarray(x[part], dtype=np.float32))
            mean[part], spread[part], noise[part] = self.evaluate(batch, sigma[part])
        return mean, scale_errors(self.arrays, mean, spread, noise, level).astype(np.float32), spread

    def evaluate(self, x: torch.Tensor, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, spread and propagated noise, each (B, n_out), of one batch; not calibrated."""
        values, gradient = self.answer(x)
        mean = values.mean(dim=0)
        spread = values.std(dim=0) if len(self.members) > 1 else torch.zeros_like(mean)
        noise = self._propagate(gradient, sigma).T if sigma.any() else torch.zeros_like(mean)
        return mean.numpy(), spread.numpy(), noise.numpy()

    @torch.inference_mode()
    def answer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each network's outputs (member, B, n_out), and the gradient (n_out, n_chunks, B, n_members * n_filters) of
        their mean by what the filters let through."""
        through = x.new_empty(self.n_chunks, len(x), self.curves.shape[2])
        for pixels, chunks, length in self.members[0].cut(x):
            torch.baddbmm(self.bias[chunks], pixels, self.curves[chunks, :length], out=through[chunks])
        # From (n_chunks, B, n_members * n_filters) to (n_members, B, n_chunks * n_filters).
        split = torch.sigmoid(through).unflatten(2, (self.n_members, self.n_filters))
        layers = [split.permute(2, 1, 0, 3).flatten(2)]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layers.append(torch.sigmoid(torch.baddbmm(bias, layers[-1], weight)))
        outputs = torch.baddbmm(self.biases[-1], layers[-1], self.weights[-1])
        outputs = outputs * self.scale[:, None] + self.mean[:, None]
        return outputs, torch.stack([self._gradient(layers, k) for k in range(len(self.outputs))])

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
        """Covariance (n_chunks, m, m) behind the m filters of all members, of white noise of deviation 1."""
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
        if sigma.ndim == 2:
            pixels = split_chunks(sigma, self.members[0])
            curves = self.curves.transpose(1, 2)
            squares = [(torch.bmm(each, curves) * pixels).square().sum(dim=(0, 2)) for each in gradient]
            return torch.stack(squares).sqrt()
        per_chunk = torch.from_numpy(np.repeat(sigma[:, None], self.n_chunks, axis=1))
        return white_noise_variance(gradient, self._products, per_chunk).clamp(min=0).sqrt()


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
