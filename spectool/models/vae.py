"""Convolutional beta-VAE: its loss, the masks of its training, the network, and how it is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.layers import Autoencoder, dense_stack, initial_weights, latent_columns, leaky
from spectool.models.training import in_batches, take

ANNEALED = 0.6  # part of a training over which beta changes from its start to its value
N_STATISTICS = 4000  # spectra that statistics are measured on, at most


def kl_per_dimension(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Divergence of N(mu, sigma) from N(0, 1), nat, (B, n_latent): the terms of eq. 7 of Marziano (2024)."""
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1.0)


def ramp(step, over: float) -> float:
    """Share of a part `over` of the training that is through; 1 in validation."""
    return 1.0 if over <= 0 or not step.training else min(1.0, step.fraction / over)


@dataclass(frozen=True)
class BetaLoss:
    """Eq. 8 of Marziano (2024): summed squared error + beta * KL, per spectrum.

    `beta` is the weight of the divergence (Higgins et al. 2016), which validation always uses. Training begins with
    `start` and goes geometrically to `beta` in its first 60% (the idea: annealed capacity of Burgess et al. 2018).
    """

    beta: float = 0.3
    start: float | None = None

    def beta_at(self, step) -> float:
        """Beta on its way from `start`."""
        done = ramp(step, ANNEALED)
        if self.start is None or done >= 1.0:
            return self.beta
        return self.start ** (1.0 - done) * self.beta**done

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        flux = batch["flux"]
        recon, mu, log_var = model(batch.get("input", flux), batch.get("mask"), step.generator)
        squared = (flux - recon).square().sum(dim=1).mean()
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        return {"loss": squared + self.beta_at(step) * kl, "squared_error": squared, "kl": kl}


WHOLE = 0.5  # fraction of spectra that `RandomCoverage` leaves whole
OBSERVED, REDSHIFTS = (3800.0, 9200.0), (0.0, 0.3)  # of a survey's spectrograph [Angstrom]
SHORTEST = 0.15  # random window, as a fraction of the whole range in ln(wavelength)
MAX_GAPS, GAP = 4, (5.0, 60.0)  # bad columns, sky lines: most, and the range of their widths [Angstrom]
KEPT = (5000.0, 5500.0)  # in every window [Angstrom]: without the normalisation's pixels no spectrum comes in


@dataclass(frozen=True)
class RandomCoverage:
    """Masks wavelengths of each spectrum at random, anew for each batch; for the `augment` of `fit`.

    Half of the spectra stay whole. Half of the others are seen by a survey: only 3800-9200 / (1 + z) is left, z
    uniform up to 0.3. The rest keeps one random window. Up to four gaps are cut into all that is not whole.
    `wavelength` (N,) is in Angstrom, rest frame.
    """

    wavelength: np.ndarray

    def __call__(self, batch: dict, step) -> dict:
        """The batch with ``mask`` widened."""
        hidden = self.draw(len(batch["flux"]), step.generator)
        return {**batch, "mask": hidden | batch["mask"] if "mask" in batch else hidden}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Masks (n, N), True = hidden."""

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

        wave = torch.tensor(np.array(self.wavelength, dtype=np.float32), device=generator.device)
        first, last = float(wave[0]), float(wave[-1])
        shrink, span = 1.0 + uniform(*REDSHIFTS), np.log(last / first)
        length = span * uniform(SHORTEST, 1.0)
        start = np.log(first) + uniform(0.0, 1.0) * (span - length)
        low = torch.exp(start).clamp(max=KEPT[0])
        high = torch.exp(start + length).clamp(min=KEPT[1])
        by_survey = uniform(0.0, 1.0) < 0.5
        low = torch.where(by_survey, OBSERVED[0] / shrink, low)
        high = torch.where(by_survey, OBSERVED[1] / shrink, high)
        hidden = (wave < low[:, None]) | (wave > high[:, None])
        centre = uniform(0.0, 1.0, MAX_GAPS) * (high - low)[:, None] + low[:, None]
        half = 0.5 * uniform(*GAP, MAX_GAPS)
        half = half * (uniform(0.0, 1.0, MAX_GAPS) < 0.5)
        for k in range(MAX_GAPS):
            hidden |= (wave - centre[:, k : k + 1]).abs() < half[:, k : k + 1]
        return hidden & (uniform(0.0, 1.0) >= WHOLE)[:, None]


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
    return nn.Sequential(nn.Conv1d(n_in, n_out, kernel, stride, padding), leaky())


def transposed_stage(n_in: int, n_out: int, stride: int, short: int, long: int) -> nn.Sequential:
    """The reverse of `stage`: (B, n_in, short) -> (B, n_out, long)."""
    kernel, padding = kernel_of(stride)
    missing = long - ((short - 1) * stride - 2 * padding + kernel)
    layer = nn.ConvTranspose1d(n_in, n_out, kernel, stride, padding, output_padding=missing)
    return nn.Sequential(layer, leaky())


class GappyComponents(nn.Module):
    """Coefficients of principal components, of spectra with missing pixels.

    They minimise, over the pixels that are there, the squared residual plus `noise` times the squared coefficients:
    the posterior mean for coefficients of unit variance and white noise (Connolly & Szalay 1999).
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


class ConvBetaVAE(Autoencoder):
    """A variational autoencoder whose encoder (and, on request, decoder) is convolutional.

    Statistics of the pixels and the `shortcut` through principal components change how easily it learns, not what it
    minimises: eq. 8 in normalised flux. Eq. 4 of Marziano (2024) prints mu and sigma exchanged; z = mu + sigma * eps.
    """

    def __init__(
        self,
        *,
        n_pixels=4582,
        n_latent=32,
        channels,
        strides,
        hidden=(),
        decoder="convolutional",
        shortcut=0,
        seed=0,
    ) -> None:
        channels, strides, hidden = list(channels), list(strides), list(hidden)
        options = {"channels": channels, "strides": strides, "hidden": hidden, "decoder": decoder}
        super().__init__(n_pixels, n_latent, **options, shortcut=shortcut)
        lengths = conv_shape(self.n_pixels, strides)
        self.flattened = (channels[-1], lengths[-1])
        n_flat, backwards = channels[-1] * lengths[-1], hidden[::-1]
        if shortcut:
            self.shortcut = GappyComponents(self.n_pixels, shortcut)
        with initial_weights(seed):
            into = zip([2, *channels[:-1]], channels, strides, strict=True)
            self.convolutions = nn.Sequential(*[stage(*shape) for shape in into])
            self.encoder_dense = dense_stack([n_flat + shortcut, *hidden])
            width = hidden[-1] + shortcut if hidden else n_flat + shortcut
            self.head_mu = nn.Linear(width, self.n_latent)
            self.head_log_var = nn.Linear(width, self.n_latent)
            # A unit-variance posterior at the start would bury the first spectra in noise.
            nn.init.constant_(self.head_log_var.bias, -1.0)
            if decoder == "dense":
                self.decoder_dense = dense_stack([self.n_latent, *backwards])
                self.transposed = nn.Linear(backwards[-1], self.n_pixels)
                return
            self.decoder_dense = dense_stack([self.n_latent, *backwards, n_flat])
            widths, pairs = [*channels[::-1], 1], zip(lengths[:0:-1], lengths[-2::-1], strict=True)
            layers = zip(widths[:-1], widths[1:], strides[::-1], pairs, strict=True)
            layers = [transposed_stage(i, o, stride, *pair) for i, o, stride, pair in layers]
            layers[-1] = layers[-1][0]
            self.transposed = nn.Sequential(*layers)

    def set_components(self, components) -> None:
        """Fix the shortcut's components, (shortcut, n_pixels), each times the deviation of its coefficient."""
        shape = (self.config["shortcut"], self.n_pixels)
        if np.shape(components) != shape:
            raise ValueError(f"this model needs components of shape {shape}, got {np.shape(components)}")
        components = torch.as_tensor(np.asarray(components, dtype=np.float32).copy())
        with torch.no_grad():
            self.shortcut.components.copy_(components)
            if self.config["decoder"] == "dense":
                n = min(len(components), self.transposed.in_features)
                self.transposed.weight[:, :n] = (components[:n] / self.pixel_scale).T
                self.transposed.bias.zero_()

    def encode(self, flux: torch.Tensor, mask: torch.Tensor | None = None):
        """Posterior of the latent vector, eq. 4: mean and log variance, each (B, n_latent)."""
        x = torch.asinh((flux - self.pixel_mean) / self.pixel_scale)
        flags = torch.zeros_like(x)
        if mask is not None:
            x, flags = x.masked_fill(mask, 0.0), mask.to(x.dtype)
        h = self.convolutions(torch.stack([x, flags], dim=1)).flatten(1)
        if self.config["shortcut"]:
            linear = self.shortcut(flux - self.pixel_mean, mask)
            h = self.encoder_dense(torch.cat([h, linear], dim=1))
            h = torch.cat([h, linear], dim=1) if self.config["hidden"] else h
        else:
            h = self.encoder_dense(h)
        # exp(-20) is far below any useful width; without a floor a dead ReLU can overflow exp.
        return self.head_mu(h), self.head_log_var(h).clamp(-20.0, 10.0)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Spectra (B, n_pixels), in normalised flux, of latent vectors (B, n_latent)."""
        h = self.decoder_dense(z)
        if self.config["decoder"] == "convolutional":
            h = h.unflatten(1, self.flattened)
        return self.pixel_mean + self.pixel_scale * self.transposed(h).reshape(len(z), self.n_pixels)


class LatentModel(NamedTuple):
    """An autoencoder, its `ModelInfo`, the galaxies of its training, and what reads ``columns`` from latent vectors."""

    network: ConvBetaVAE
    info: object
    atlas: xr.Dataset
    predict: Callable | None = None
    columns: tuple[str, ...] = ()


def fit_statistics(model: ConvBetaVAE, flux, wavelength=None, *, seed) -> None:
    """Measure the mean, scale and components that standardise input and output, before training.

    Parameters
    ----------
    flux
        (N, n_pixels) normalised training spectra: anything that `spectool.models.training.take` reads. 4,000 at
        most are used, chosen by `seed`.
    wavelength
        (n_pixels,) Angstrom, vacuum, rest frame.
    """
    rng = np.random.default_rng(seed)
    n = len(flux)
    some = take(flux, np.sort(rng.choice(n, min(n, N_STATISTICS), replace=False))).astype(np.float32)
    scale = torch.from_numpy(some.std(axis=0))
    # Pixels of the normalisation hardly vary: they must not count a hundred times.
    scale = scale.clamp(min=max(0.01 * float(scale.median()), 1e-6))
    model.set_statistics(some.mean(axis=0), scale, wavelength)
    if model.config["shortcut"]:
        from sklearn.decomposition import PCA  # only where something is fitted

        pca = PCA(model.config["shortcut"], svd_solver="randomized", random_state=int(rng.integers(2**31)))
        pca.fit(some)
        model.set_components(pca.components_ * np.sqrt(pca.explained_variance_)[:, None])


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def encode_sample(model: ConvBetaVAE, sample: xr.Dataset) -> xr.Dataset:
    """Latent vectors of a prepared sample, from a trained model.

    Parameters
    ----------
    sample
        ``flux`` (galaxy, wavelength), normalised and on the model's pixels, and optionally ``mask`` (True = bad) and
        ``ivar``. Pixels that are masked, not finite, or of no ``ivar`` are missing to the encoder.

    Returns
    -------
    Dataset
        The sample with ``latent`` (mean) and ``latent_sigma``, both (galaxy, latent_dim). A spectrum without one
        usable pixel has NaN there; ``attrs["n_unusable"]`` of ``latent`` counts them.
    """
    if "flux" not in sample:
        raise ValueError("the sample needs a variable 'flux' with dims (galaxy, wavelength)")
    flux = np.ascontiguousarray(sample["flux"].values, dtype=np.float32)
    model.check_pixels(sample, flux)
    mask = ~np.isfinite(flux)
    if "mask" in sample:
        mask |= sample["mask"].values.astype(bool)
    if "ivar" in sample:
        mask |= ~(sample["ivar"].values > 0)
    mu, sigma = in_batches(model, model.posterior, flux, mask)
    unusable = mask.all(axis=1)
    mu[unusable], sigma[unusable] = np.nan, np.nan
    notes = {"units": "", "n_unusable": int(unusable.sum())}
    return sample.assign(latent_columns(sample["flux"].dims[0], mu, sigma, notes))


def decode_latent(model: ConvBetaVAE, z: np.ndarray) -> np.ndarray:
    """Spectra of latent vectors (N, n_latent) or (n_latent,): float32 normalised flux, (N, n_pixels) or (n_pixels,).
    A vector that is not finite gives NaN."""
    z = np.asarray(z, dtype=np.float32)
    if z.ndim not in (1, 2) or z.shape[-1] != model.n_latent:
        raise ValueError(
            f"latent vectors of shape {z.shape} do not fit this model, which has {model.n_latent} "
            "dimensions: were they made by another model?"
        )
    rows = np.atleast_2d(z)
    usable = np.isfinite(rows).all(axis=1)
    (flux,) = in_batches(model, lambda some: (model.decode(some),), rows, usable=usable)
    return flux[0] if z.ndim == 1 else flux


def reconstruct(model: ConvBetaVAE, sample: xr.Dataset) -> xr.Dataset:
    """`encode_sample`, with the decoded mean as ``reconstruction`` (as ``flux``): also where there are no data."""
    encoded, dims = encode_sample(model, sample), sample["flux"].dims
    attrs = {**sample["flux"].attrs, "long_name": "decoded mean of the latent posterior"}
    return encoded.assign(reconstruction=(dims, decode_latent(model, encoded["latent"].values), attrs))


def traverse(decode, latent, dimension, values):
    """Positions along one dimension and their spectra, up to where a flux turns negative: no galaxy's does.

    Parameters
    ----------
    decode
        From latents (n, n_latent) to spectra (n, wavelength).
    latent
        (n_latent,): where the other dimensions stay.
    values
        (n,) of the dimension, from the start outwards. A start that is negative already does not stop it.
    """
    latents = np.repeat(np.asarray(latent)[None], len(values), axis=0)
    latents[:, dimension] = values
    spectra = decode(latents)
    negative = (spectra < 0).any(axis=1)
    stop = int(np.argmax(negative)) if negative.any() and not negative[0] else len(values)
    return np.asarray(values)[:stop], spectra[:stop]
