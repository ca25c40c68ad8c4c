"""Layers that several networks share, what all auto-encoders have in common, and a perceptron with errors."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.training import in_batches
from spectool.spectra import ONE_SIGMA

leaky = functools.partial(nn.LeakyReLU, 0.1)


def dense_stack(widths: Sequence[int], activation: Callable[[], nn.Module] = leaky) -> nn.Sequential:
    """Dense layers of these widths, each followed by an activation; the identity for a single width."""
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), activation()]
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

    def __init__(self, n_pixels: int, n_latent: int, **options) -> None:
        super().__init__()
        self.n_pixels, self.n_latent = int(n_pixels), int(n_latent)
        self.config = {"n_pixels": self.n_pixels, "n_latent": self.n_latent, **options}
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


def latent_columns(dim: str, mean, spread, notes: dict) -> dict[str, tuple]:
    """Variables of a Dataset for the latent posterior, (`dim`, latent_dim) each."""
    columns = {"latent": (mean, "mean"), "latent_sigma": (spread, "standard deviation")}
    return {
        name: ((dim, "latent_dim"), values, {**notes, "long_name": f"{what} of the latent posterior"})
        for name, (values, what) in columns.items()
    }


class Standardised(nn.Module):
    """A network with a mean and a scale of each output, and maybe input; its predictions are in the outputs' units."""

    batch_size = 8192

    def add_scales(self, **lengths: int) -> None:
        """Buffers for the means and scales of so many columns of ``in`` or ``out``."""
        for name, length in lengths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_scale", torch.ones(length))

    def standardise(self, name: str, values: np.ndarray, columns: Sequence[str] = ()) -> None:
        """Take means and scales from training data (N, n); entries not finite are left out."""
        values = np.where(np.isfinite(values), values, np.nan)
        empty = np.flatnonzero(np.isnan(values).all(axis=0))
        if len(empty):
            column = columns[empty[0]] if columns else empty[0]
            raise ValueError(f"{name}put {column} has no finite value to train on")
        scale = np.nanstd(values, axis=0)
        getattr(self, f"{name}_mean").copy_(torch.from_numpy(np.nanmean(values, axis=0)))
        getattr(self, f"{name}_scale").copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each (N, n_out) in the outputs' units, for inputs (N, n_in); NaN for NaN."""
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.n_in:
            raise ValueError(f"inputs of shape {x.shape} do not fit this model: it takes (N, {self.n_in})")
        mean, sigma = in_batches(self, self._in_units, x, batch_size=self.batch_size)
        bad = np.isnan(x).any(axis=1)
        mean[bad], sigma[bad] = np.nan, np.nan
        return mean, sigma

    def _in_units(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_var = self(x)
        sigma = torch.full_like(mean, torch.nan)
        if log_var is not None:
            sigma = torch.exp(0.5 * log_var) * self.out_scale
        return mean * self.out_scale + self.out_mean, sigma

    def residuals(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Standardised ``y`` less its mean, and log variances, both 0 where `y` is not known; how many are."""
        y = (batch["y"] - self.out_mean) / self.out_scale
        known = torch.isfinite(y)
        mean, log_var = self(batch["x"])
        spread = None if log_var is None else torch.where(known, log_var, 0.0)
        return torch.where(known, y - mean, 0.0), spread, known.sum().clamp(min=1)


def gaussian_nll(off: torch.Tensor, log_var: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood, up to a constant, of `Standardised.residuals`; mean over the known ones."""
    return 0.5 * (off.square() * torch.exp(-log_var) + log_var).sum() / count


class GaussianMLP(Standardised):
    """Dense layers from standardised inputs to the mean and variance of each output."""

    def __init__(
        self, *, n_in: int, n_out: int, hidden: Sequence[int] = (128, 128), names=(), units=(), seed=0
    ) -> None:
        super().__init__()
        for what, given in (("names", names), ("units", units)):
            if given and len(given) != n_out:
                raise ValueError(f"{len(given)} {what} for {n_out} outputs")
        self.config = {"n_in": n_in, "n_out": n_out, "hidden": list(hidden)}
        self.config |= {"names": list(names), "units": list(units)}
        self.n_in, self.n_out, self.names, self.units = n_in, n_out, tuple(names), tuple(units)
        self.add_scales(**{"in": n_in, "out": n_out})
        self.register_buffer("error_factor", torch.ones(n_out))
        widths = [n_in, *hidden]
        with initial_weights(seed):
            self.dense = dense_stack(widths)
            self.mean = nn.Linear(widths[-1], n_out)
            self.log_var = nn.Linear(widths[-1], n_out)

    def set_statistics(self, x: np.ndarray, y: np.ndarray) -> None:
        """Standardise by training inputs (N, n_in) and outputs (N, n_out)."""
        self.standardise("in", x)
        self.standardise("out", y, self.names)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance, each (B, n_out), of standardised outputs, for inputs (B, n_in) as given."""
        h = self.dense((x - self.in_mean) / self.in_scale)
        return self.mean(h), self.log_var(h).clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Standardised.predict`, the errors scaled as `calibrate` found."""
        mean, sigma = super().predict(x)
        return mean, sigma * self.error_factor.numpy()

    def calibrate(self, x: np.ndarray, y: np.ndarray) -> None:
        """Scale the errors of each output so that 68.27% of these truths lie within one of them."""
        mean, sigma = super().predict(x)
        pull = np.where(np.isfinite(y), np.abs(y - mean) / sigma, np.nan)
        factor = np.nanquantile(pull, ONE_SIGMA, axis=0)
        self.error_factor.copy_(torch.from_numpy(np.nan_to_num(factor, nan=1.0)))


def gaussian_loss(model: GaussianMLP, batch: dict, step) -> dict[str, torch.Tensor]:
    """`gaussian_nll` of ``batch["y"]`` given ``batch["x"]``, for `fit`."""
    off, log_var, count = model.residuals(batch)
    return {"loss": gaussian_nll(off, log_var, count), "squared_error": off.square().sum() / count}
