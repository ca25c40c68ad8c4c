"""Layers that several networks share, what all auto-encoders have in common, and a perceptron with errors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.training import in_batches
from spectool.spectra import ONE_SIGMA

SLOPE = 0.1


def conv_shape(n: int, strides: Sequence[int]) -> list[int]:
    """Lengths before, between and after the convolutions of `stage`, from the input's to the last one's."""
    lengths = [int(n)]
    for stride in strides:
        kernel, padding = kernel_of(stride)
        lengths.append((lengths[-1] + 2 * padding - kernel) // stride + 1)
    return lengths


def kernel_of(stride: int) -> tuple[int, int]:
    """Kernel size and padding: twice the stride, so that each pixel is read twice; 3 if unstrided."""
    return (3, 1) if stride == 1 else (2 * stride, stride // 2)


def stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """A strided convolution and its activation: (B, n_in, L) -> (B, n_out, about L / stride)."""
    kernel, padding = kernel_of(stride)
    return nn.Sequential(nn.Conv1d(n_in, n_out, kernel, stride, padding), nn.LeakyReLU(SLOPE))


def transposed_stage(n_in: int, n_out: int, stride: int, short: int, long: int, *, last: bool) -> nn.Module:
    """The reverse of `stage`: (B, n_in, short) -> (B, n_out, long); linear if it is the last."""
    kernel, padding = kernel_of(stride)
    missing = long - ((short - 1) * stride - 2 * padding + kernel)
    layer = nn.ConvTranspose1d(n_in, n_out, kernel, stride, padding, output_padding=missing)
    return layer if last else nn.Sequential(layer, nn.LeakyReLU(SLOPE))


def dense_stack(widths: Sequence[int]) -> nn.Sequential:
    """Dense layers of these widths, each followed by an activation; the identity for a single width."""
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def seed_torch(seed) -> torch.Generator:
    """A generator of PyTorch from what `numpy.random.default_rng` takes."""
    return torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))


@contextlib.contextmanager
def initial_weights(seed):
    """Layers made within start from this seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        yield


def draw_latent(mu: torch.Tensor, log_var: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A draw z = mu + sigma * eps of the posterior; its mean without a generator."""
    if generator is None:
        return mu
    eps = torch.randn(mu.shape, generator=generator, device=generator.device).to(mu)
    return mu + torch.exp(0.5 * log_var) * eps


class Autoencoder(nn.Module):
    """Statistics and grid of the pixels of spectra; a subclass has ``encode`` and ``decode``."""

    variational = True
    has_scale = True
    reads_sigma = False

    def __init__(self, n_pixels: int, n_latent: int) -> None:
        super().__init__()
        self.n_pixels, self.n_latent = int(n_pixels), int(n_latent)
        self.register_buffer("pixel_mean", torch.zeros(self.n_pixels))
        if self.has_scale:
            self.register_buffer("pixel_scale", torch.ones(self.n_pixels))
        self.register_buffer("wavelength", torch.zeros(self.n_pixels, dtype=torch.float64))

    def set_statistics(self, mean, scale=None, wavelength=None) -> None:
        """Fix shift and scale of input and output, (n_pixels,) or one number, and the pixels [Angstrom]."""
        for name, value in (("pixel_mean", mean), ("pixel_scale", scale), ("wavelength", wavelength)):
            if value is None:
                continue
            value = np.asarray(value, dtype=np.float64)
            if value.shape not in ((), (self.n_pixels,)) or not np.isfinite(value).all():
                raise ValueError(
                    f"{name} must be {self.n_pixels} finite numbers, got an array of shape {value.shape}"
                )
            if name == "pixel_scale" and not (value > 0).all():
                raise ValueError("pixel_scale must be positive in every pixel")
            getattr(self, name).copy_(torch.as_tensor(np.broadcast_to(value, self.n_pixels).copy()))

    def forward(self, flux, known=None, generator: torch.Generator | None = None):
        """Spectra decoded from a draw, with its mean and log variance; `known`: what else ``encode`` reads."""
        mu, log_var = self.encode(flux, known)
        z = draw_latent(mu, log_var, generator) if self.variational else mu
        return self.decode(z), mu, log_var

    def posterior(self, *inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latent vector, each (B, n_latent)."""
        mu, log_var = self.encode(*inputs)
        return mu, torch.exp(0.5 * log_var)

    def answer(self, *inputs) -> tuple[torch.Tensor, ...]:
        """Mean and standard deviation of the latent vector, and the spectra decoded from the mean."""
        mu, sigma = self.posterior(*inputs)
        return mu, sigma, self.decode(mu)

    def check_pixels(self, sample: xr.Dataset, flux: np.ndarray) -> None:
        """Refuse spectra on another grid than the model's, or normalised to another sum."""
        if flux.ndim != 2 or flux.shape[1] != self.n_pixels:
            raise ValueError(
                f"spectra of shape {flux.shape} do not fit this model, which reads {self.n_pixels} pixels: "
                "prepare the sample for it first (spectool.prepare)"
            )
        # Spectra that are normalised to one sum have a mean of that sum.
        total, constant = float(self.pixel_mean.sum()), sample.attrs.get("constant")
        if constant is not None and total > 0 and abs(constant / total - 1) > 0.01:
            raise ValueError(
                f"the spectra are normalised to a summed flux of {constant:.4g}, those of this model's training "
                f"to {total:.4g}: normalise them alike (normalize_total(sample, constant={total:.4g}))"
            )
        own = self.wavelength.numpy()
        if not own.any() or "wavelength" not in sample.coords:
            return
        given = sample["wavelength"].values
        # Half a pixel: where the spacing changes, a pixel's centre depends on how its edges were drawn.
        off = np.abs(own - given) / np.gradient(own)
        if off.max() > 0.5:
            worst = int(off.argmax())
            raise ValueError(
                f"the sample is on another wavelength grid than the model: pixel {worst} is {given[worst]:.2f} "
                f"Angstrom, not {own[worst]:.2f}"
            )


class GappyComponents(nn.Module):
    """Coefficients of principal components, of spectra with missing pixels.

    They minimise, over the pixels that are there, the squared residual plus `noise` times the squared
    coefficients: the posterior mean for coefficients of unit variance and white noise (Connolly & Szalay 1999).
    """

    noise = 1e-3

    def __init__(self, n_pixels: int, n_components: int) -> None:
        super().__init__()
        # Parameters, so that they are stored as compactly as the weights are, but never trained.
        self.components = nn.Parameter(torch.zeros(n_components, n_pixels), requires_grad=False)
        self.register_buffer("upper", torch.triu_indices(n_components, n_components), persistent=False)
        self._products = (None, None)

    def forward(self, residual: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Compressed coefficients (B, n_components) of spectra less their mean, (B, n_pixels); mask True = missing."""
        with torch.no_grad():
            v = self.components
            if mask is None:
                mask = torch.zeros(1, v.shape[1], dtype=torch.bool, device=v.device)
            i, j = self.upper
            normal = v.new_zeros(len(mask), len(v), len(v))
            normal[:, i, j] = normal[:, j, i] = (~mask).to(v.dtype) @ self._products_of_components()
            target = residual.masked_fill(mask, 0.0) @ v.T
            # Double precision: the components' variances span six decades.
            eye = torch.eye(len(v), dtype=torch.float64, device=v.device)
            factor = torch.linalg.cholesky(normal.double() + self.noise * eye)
            solved = torch.cholesky_solve(target.double()[..., None], factor)[..., 0]
            return torch.asinh(solved.to(residual.dtype))

    def _products_of_components(self) -> torch.Tensor:
        version = (self.components._version, self.components.device)
        if self._products[0] != version:
            i, j = self.upper
            self._products = (version, (self.components[i] * self.components[j]).T.contiguous())
        return self._products[1]


def predict_normal(model, x: np.ndarray, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (N, n_out) in the outputs' units, for encoded inputs (N, n_in)."""
    if np.ndim(x) != 2 or x.shape[1] != model.n_in:
        raise ValueError(f"inputs of shape {np.shape(x)} do not fit this model: it takes (N, {model.n_in})")

    def answer(batch):
        mean, log_var = model(batch)
        sigma = (
            torch.full_like(mean, torch.nan)
            if log_var is None
            else torch.exp(0.5 * log_var) * model.out_scale
        )
        return mean * model.out_scale + model.out_mean, sigma

    means, sigmas = in_batches(model, answer, x, batch_size=batch_size)
    bad = np.isnan(x).any(axis=1)
    means[bad], sigmas[bad] = np.nan, np.nan
    return means, sigmas


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
