"""Convolutional beta-VAE: losses, network, masks for training and how to apply it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from sklearn.decomposition import PCA
from torch import nn

from spectool.models.layers import GappyComponents, conv_shape, dense_stack, stage, transposed_stage
from spectool.models.training import take


def kl_per_dimension(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Divergence of N(mu, sigma) from N(0, 1), nat, (B, n_latent): the terms of eq. 7 of Marziano (2024)."""
    return 0.5 * (mu.square() + log_var.exp() - log_var - 1.0)


def _forward(model, batch, step):
    flux = batch["flux"]
    recon, mu, log_var = model(batch.get("input", flux), batch.get("mask"), step.generator)
    return (flux - recon).square().sum(dim=1).mean(), mu, log_var, recon


@dataclass(frozen=True)
class BetaLoss:
    """Eq. 8 of Marziano (2024): summed squared error + beta * KL, per spectrum.

    Attributes
    ----------
    beta
        Weight of the divergence (Higgins et al. 2016).
    start, over
        Begin with this beta and change it geometrically to `beta` over this fraction of the training. A
        `start` far above `beta` opens the dimensions one after the other, the most useful first, where a
        constant beta lets many share the same information and takes long to close them again (the idea of the
        annealed capacity of Burgess et al. 2018, in terms of beta). None = constant. Validation always uses
        `beta`.
    """

    beta: float = 0.3
    start: float | None = None
    over: float = 0.6

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        squared, mu, log_var, _ = _forward(model, batch, step)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        beta = anneal(self.beta, self.start, self.over, step)
        return {"loss": squared + beta * kl, "squared_error": squared, "kl": kl}


@dataclass(frozen=True)
class CapacityLoss:
    """Controlled capacity: summed squared error + gamma * |KL - C|, C growing linearly from 0 to `capacity`.

    (2018), "Understanding disentangling in beta-VAE", eq. 8.
    """

    capacity: float = 25.0
    gamma: float = 10.0
    growth: float = 0.7

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        squared, mu, log_var, _ = _forward(model, batch, step)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        target = self.capacity * _ramp(step, self.growth)
        return {"loss": squared + self.gamma * (kl - target).abs(), "squared_error": squared, "kl": kl}


@dataclass(frozen=True)
class TotalCorrelationLoss:
    """beta-TCVAE: the KL of eq. 8 taken apart, and its total-correlation part weighted up."""

    beta: float = 0.3
    tc: float = 6.0
    start: float | None = None
    over: float = 0.6

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss`` and its parts."""
        flux = batch["flux"]
        mu, log_var = model.encode(batch.get("input", flux), batch.get("mask"))
        if step.generator is None:
            z = mu
        else:
            eps = torch.randn(mu.shape, generator=step.generator, device=step.generator.device).to(mu)
            z = mu + torch.exp(0.5 * log_var) * eps
        squared = (flux - model.decode(z)).square().sum(dim=1).mean()
        parts = decompose_kl(z, mu, log_var)
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        beta = anneal(self.beta, self.start, self.over, step)
        # The exact KL carries the low-variance part of the gradient; the estimate adds only the extra weight.
        loss = squared + beta * (kl + (self.tc - 1.0) * parts["total_correlation"])
        return {"loss": loss, "squared_error": squared, "kl": kl, **parts}


def decompose_kl(z, mu, log_var) -> dict[str, torch.Tensor]:
    """Estimate of the three parts of the mean KL, nat, the aggregate posterior being the batch's mixture.

    Minibatch-weighted sampling (Chen et al. 2018, eq.
    """
    log_norm = math.log(len(z))
    pair = _log_normal(z[:, None, :], mu[None], log_var[None])
    log_q = torch.logsumexp(pair.sum(dim=2), dim=1) - log_norm
    log_marginals = (torch.logsumexp(pair, dim=1) - log_norm).sum(dim=1)
    log_posterior = _log_normal(z, mu, log_var).sum(dim=1)
    log_prior = _log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(dim=1)
    return {
        "mutual_information": (log_posterior - log_q).mean(),
        "total_correlation": (log_q - log_marginals).mean(),
        "dimension_kl": (log_marginals - log_prior).mean(),
    }


def _log_normal(x, mu, log_var):
    return -0.5 * (math.log(2 * math.pi) + log_var + (x - mu).square() * torch.exp(-log_var))


def anneal(beta: float, start: float | None, over: float, step) -> float:
    """Beta at this step, on its way from `start` to `beta` over a fraction `over` of the training."""
    done = _ramp(step, over)
    return beta if start is None or done >= 1.0 else start ** (1.0 - done) * beta**done


def _ramp(step, over: float) -> float:
    return 1.0 if over <= 0 or not step.training else min(1.0, step.fraction / over)


#: Added to the variance of a pixel, normalised flux squared (Section 3.2, after Portillo et al. 2020).
SOFTENING = 2e-6


def pixel_weights(sigma, mask=None, *, softening: float = SOFTENING) -> np.ndarray:
    """Weights of eq. 3 of Scourfield et al. (2023): 1 / (sigma^2 + softening), 0 where there is no data."""
    sigma = np.asarray(sigma, dtype=np.float64)
    bad = ~(np.isfinite(sigma) & (sigma > 0))
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    return np.where(bad, 0.0, 1.0 / (np.where(bad, 1.0, sigma) ** 2 + softening)).astype(np.float32)


def weighted_squares(predicted: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Half the weighted sum of squared residuals of each spectrum, (B,): eq. 3 before it is summed over spectra."""
    return 0.5 * (weight * (predicted - target).square()).sum(dim=1)


@dataclass(frozen=True)
class WeightedLoss:
    """Eq. 3 (an AE), or minus eq. 4 (a VAE): reconstruction + KL. Means over the batch's spectra."""

    beta: float = 1.0

    def __call__(self, model, batch, step) -> dict[str, torch.Tensor]:
        """``loss``, and ``reconstruction`` and ``kl`` that make it up."""
        flux = batch["flux"]
        predicted, mu, log_var = model(batch.get("input", flux), batch.get("mask"), step.generator)
        reconstruction = weighted_squares(predicted, flux, batch["weight"]).mean()
        if not model.variational:
            return {"loss": reconstruction, "reconstruction": reconstruction}
        kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
        return {"loss": reconstruction + self.beta * kl, "reconstruction": reconstruction, "kl": kl}


@dataclass(frozen=True)
class RandomCoverage:
    """Masks wavelengths of each spectrum at random, anew for each batch; for the `augment` of `fit`.

    A fraction `full` of the spectra stays whole. Half of the others are seen by a survey: only
    `observed` / (1 + z) is left, z uniform in `redshift`. The rest keeps one random window that spans at
    least `shortest` of ln(wavelength). Up to `max_gaps` gaps of `gap` Angstrom are cut into all that is not
    whole.

    Attributes
    ----------
    wavelength
        (N,) Angstrom, rest frame.
    full
        Fraction left whole.
    observed, redshift
        Range of a survey's spectrograph, Angstrom, and of its redshifts.
    shortest
        Shortest random window, as a fraction of the whole range in ln(wavelength).
    max_gaps, gap
        Most gaps (bad columns, sky lines) and the range of their widths, Angstrom.
    keep
        Range, Angstrom, that every window holds: without the normalisation's own pixels no spectrum comes in.
    """

    wavelength: np.ndarray
    full: float = 0.5
    observed: tuple[float, float] = (3800.0, 9200.0)
    redshift: tuple[float, float] = (0.0, 0.3)
    shortest: float = 0.15
    max_gaps: int = 4
    gap: tuple[float, float] = (5.0, 60.0)
    keep: tuple[float, float] = (5000.0, 5500.0)

    def __call__(self, batch: dict, step) -> dict:
        """The batch with ``mask`` widened."""
        hidden = self.draw(len(batch["flux"]), step.generator)
        return {**batch, "mask": hidden | batch["mask"] if "mask" in batch else hidden}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Masks (n, N), True = hidden."""

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(n, *shape, generator=generator, device=generator.device)

        wave = torch.tensor(np.array(self.wavelength, dtype=np.float32), device=generator.device)
        low, high = self._windows(uniform, float(wave[0]), float(wave[-1]))
        hidden = (wave < low[:, None]) | (wave > high[:, None])
        if self.max_gaps:
            centre = uniform(0.0, 1.0, self.max_gaps) * (high - low)[:, None] + low[:, None]
            half = 0.5 * uniform(*self.gap, self.max_gaps)
            half = half * (uniform(0.0, 1.0, self.max_gaps) < 0.5)
            for k in range(self.max_gaps):
                hidden |= (wave - centre[:, k : k + 1]).abs() < half[:, k : k + 1]
        return hidden & (uniform(0.0, 1.0) >= self.full)[:, None]

    def _windows(self, uniform, first: float, last: float):
        shrink = 1.0 + uniform(*self.redshift)
        survey_low, survey_high = self.observed[0] / shrink, self.observed[1] / shrink
        span = np.log(last / first)
        length = span * uniform(self.shortest, 1.0)
        start = np.log(first) + uniform(0.0, 1.0) * (span - length)
        low = torch.exp(start).clamp(max=self.keep[0])
        high = torch.exp(start + length).clamp(min=self.keep[1])
        by_survey = uniform(0.0, 1.0) < 0.5
        return torch.where(by_survey, survey_low, low), torch.where(by_survey, survey_high, high)


def survey_mask(wavelength: np.ndarray, redshift, observed=(3800.0, 9200.0)) -> np.ndarray:
    """Masks (n, N), True = outside a survey's range, of galaxies at these redshifts (n,)."""
    seen = np.asarray(wavelength)[None, :] * (1.0 + np.atleast_1d(redshift)[:, None])
    return (seen < observed[0]) | (seen > observed[1])


#: Constructor options by name. ``paper``: eleven convolutions, 4582 -> 512, two dense heads, mirrored
#: decoder. ``light`` is what a notebook trains in front of the reader; ``reference`` is what the dashboards
#: ship.
CONFIGURATIONS = {
    "paper": {
        "channels": (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64),
        "strides": (2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 1),
        "hidden": (),
        "decoder": "convolutional",
    },
    "light": {
        "channels": (12, 24, 32),
        "strides": (8, 4, 4),
        "hidden": (128,),
        "decoder": "dense",
        "shortcut": 24,
    },
    "reference": {
        "channels": (8, 16),
        "strides": (4, 4),
        "hidden": (192, 96),
        "decoder": "dense",
        "shortcut": 32,
    },
}


class ConvBetaVAE(nn.Module):
    """A variational autoencoder whose encoder (and, on request, decoder) is convolutional.

    They change how easily the network learns, not what it minimises: the loss of eq. 8 is taken in units of
    normalised flux. Its eq. 4 prints mu and sigma exchanged; this is z = mu + sigma * eps.
    """

    def __init__(
        self,
        *,
        n_pixels: int = 4582,
        n_latent: int = 32,
        channels: Sequence[int] = CONFIGURATIONS["paper"]["channels"],
        strides: Sequence[int] = CONFIGURATIONS["paper"]["strides"],
        hidden: Sequence[int] = (),
        decoder: str = "convolutional",
        shortcut: int = 0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        channels, strides, hidden = ([int(x) for x in s] for s in (channels, strides, hidden))
        if len(channels) != len(strides) or not channels:
            raise ValueError(
                f"give one stride per convolution: {len(channels)} channels, {len(strides)} strides"
            )
        if decoder not in ("convolutional", "dense"):
            raise ValueError(f"decoder must be 'convolutional' or 'dense', not {decoder!r}")
        if decoder == "dense" and not hidden:
            raise ValueError("a dense decoder needs at least one hidden layer")
        self.config = {
            "n_pixels": int(n_pixels),
            "n_latent": int(n_latent),
            "channels": channels,
            "strides": strides,
            "hidden": hidden,
            "decoder": decoder,
            "shortcut": int(shortcut),
        }
        self.n_pixels, self.n_latent = int(n_pixels), int(n_latent)
        lengths = conv_shape(self.n_pixels, strides)
        if lengths[-1] < 1:
            raise ValueError(f"strides {strides} leave no pixel of {n_pixels}")
        self.flattened = (channels[-1], lengths[-1])
        self.register_buffer("pixel_mean", torch.zeros(self.n_pixels))
        self.register_buffer("pixel_scale", torch.ones(self.n_pixels))
        self.register_buffer("wavelength", torch.zeros(self.n_pixels, dtype=torch.float64))
        if shortcut:
            self.shortcut = GappyComponents(self.n_pixels, int(shortcut))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            self._build(channels, strides, lengths, hidden, decoder, int(shortcut))

    def _build(self, channels, strides, lengths, hidden, decoder, shortcut) -> None:
        n_flat = channels[-1] * lengths[-1]
        into = [2, *channels[:-1]]
        self.convolutions = nn.Sequential(
            *[stage(i, o, s) for i, o, s in zip(into, channels, strides, strict=True)]
        )
        self.encoder_dense = dense_stack([n_flat + shortcut, *hidden])
        width = hidden[-1] + shortcut if hidden else n_flat + shortcut
        self.head_mu = nn.Linear(width, self.n_latent)
        self.head_log_var = nn.Linear(width, self.n_latent)
        # A unit-variance posterior at the start would bury the first spectra in noise.
        nn.init.constant_(self.head_log_var.bias, -1.0)
        backwards = hidden[::-1]
        if decoder == "dense":
            self.decoder_dense = dense_stack([self.n_latent, *backwards])
            self.transposed = nn.Linear(backwards[-1], self.n_pixels)
            return
        self.decoder_dense = dense_stack([self.n_latent, *backwards, n_flat])
        out = [*channels[-2::-1], 1]
        self.transposed = nn.Sequential(
            *[
                transposed_stage(i, o, s, short, long, last=k == len(channels) - 1)
                for k, (i, o, s, short, long) in enumerate(
                    zip(channels[::-1], out, strides[::-1], lengths[:0:-1], lengths[-2::-1], strict=True)
                )
            ]
        )

    def set_pixel_statistics(self, mean, scale, wavelength=None, components=None) -> None:
        """Fix the statistics that standardise input and output."""
        mean, scale = (torch.as_tensor(np.asarray(x, dtype=np.float32).copy()) for x in (mean, scale))
        for name, value in (("mean", mean), ("scale", scale)):
            if value.shape != (self.n_pixels,) or not torch.isfinite(value).all():
                raise ValueError(
                    f"{name} must be {self.n_pixels} finite numbers, got shape {tuple(value.shape)}"
                )
        scale = scale.clamp(min=max(0.01 * float(scale.median()), 1e-6))
        self.pixel_mean.copy_(mean)
        self.pixel_scale.copy_(scale)
        if wavelength is not None:
            self.wavelength.copy_(torch.as_tensor(np.asarray(wavelength, dtype=np.float64).copy()))
        if self.config["shortcut"]:
            self._set_components(components)

    def _set_components(self, components) -> None:
        shape = (self.config["shortcut"], self.n_pixels)
        if components is None or np.shape(components) != shape:
            raise ValueError(f"this model needs components of shape {shape}, got {np.shape(components)}")
        components = torch.as_tensor(np.asarray(components, dtype=np.float32).copy())
        self.shortcut.set(components)
        if self.config["decoder"] == "dense":
            n = min(len(components), self.transposed.in_features)
            with torch.no_grad():
                self.transposed.weight[:, :n] = (components[:n] / self.pixel_scale).T
                self.transposed.bias.zero_()

    def encode(self, flux: torch.Tensor, mask: torch.Tensor | None = None):
        """Posterior of the latent vector, eq. 4: mean and log variance, each (B, n_latent)."""
        x = torch.asinh((flux - self.pixel_mean) / self.pixel_scale)
        if mask is None:
            flags = torch.zeros_like(x)
        else:
            x = x.masked_fill(mask, 0.0)
            flags = mask.to(x.dtype)
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

    def forward(self, flux, mask=None, generator: torch.Generator | None = None):
        """Reconstruction of a draw z = mu + sigma * eps, with mu and log variance."""
        mu, log_var = self.encode(flux, mask)
        if generator is None:
            return self.decode(mu), mu, log_var
        eps = torch.randn(mu.shape, generator=generator, device=generator.device).to(mu)
        return self.decode(mu + torch.exp(0.5 * log_var) * eps), mu, log_var


def fit_statistics(model: ConvBetaVAE, flux, wavelength=None, *, seed, n_max: int = 4000) -> None:
    """Measure the statistics that `ConvBetaVAE.set_pixel_statistics` fixes, on some training spectra.

    Parameters
    ----------
    model
        Before training.
    flux
        (N, n_pixels) normalised training spectra: anything that `spectool.models.training.take` reads.
    wavelength
        (n_pixels,) Angstrom, vacuum, rest frame.
    seed
        Of the choice of spectra: an int or a `numpy.random.Generator`.
    n_max
        Use so many spectra at most.

    Raises
    ------
    ValueError
        If a pixel has no finite mean.
    """
    rng = np.random.default_rng(seed)
    n = int(flux.shape[0])
    some = take(flux, np.sort(rng.choice(n, min(n, n_max), replace=False))).astype(np.float32)
    components = None
    if model.config["shortcut"]:
        pca = PCA(model.config["shortcut"], svd_solver="randomized", random_state=int(rng.integers(2**31)))
        pca.fit(some)
        components = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    model.set_pixel_statistics(some.mean(axis=0), some.std(axis=0), wavelength, components)


def make_autoencoder(name: str = "paper", *, seed=0, **options) -> ConvBetaVAE:
    """A `ConvBetaVAE` by the name of its configuration (see `CONFIGURATIONS`), with options replaced.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in CONFIGURATIONS:
        raise ValueError(f"no configuration {name!r}; there are {', '.join(CONFIGURATIONS)}")
    return ConvBetaVAE(seed=seed, **{**CONFIGURATIONS[name], **options})


def count_parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def encode_sample(model: ConvBetaVAE, sample: xr.Dataset, *, batch_size: int = 512) -> xr.Dataset:
    """Latent vectors of a prepared sample.

    Parameters
    ----------
    model
        A trained model.
    sample
        Has ``flux`` (galaxy, wavelength), normalised and on the model's pixels, and optionally ``mask`` (True
        = bad) and ``ivar`` (0 = no information). Pixels that are masked, not finite, or without information
        are told to the encoder as missing.
    batch_size
        Spectra at a time.

    Returns
    -------
    Dataset
        The sample with ``latent`` (mean) and ``latent_sigma``, both (galaxy, latent_dim). A spectrum without one
        usable pixel has NaN there; ``attrs["n_unusable"]`` of ``latent`` counts them.

    Raises
    ------
    ValueError
        If the pixels are not the model's.
    """
    flux, mask = usable_pixels(model, sample)
    mu, sigma = (np.full((len(flux), model.n_latent), np.nan, dtype=np.float32) for _ in range(2))
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(flux), batch_size):
            rows = slice(start, start + batch_size)
            m, log_var = model.encode(torch.from_numpy(flux[rows]), torch.from_numpy(mask[rows]))
            mu[rows], sigma[rows] = m.numpy(), torch.exp(0.5 * log_var).numpy()
    unusable = mask.all(axis=1)
    mu[unusable], sigma[unusable] = np.nan, np.nan
    dims = (sample["flux"].dims[0], "latent_dim")
    notes = {"units": "", "n_unusable": int(unusable.sum())}
    return sample.assign(
        latent=(dims, mu, {**notes, "long_name": "mean of the latent posterior"}),
        latent_sigma=(dims, sigma, {**notes, "long_name": "standard deviation of the latent posterior"}),
    )


def decode_latent(model: ConvBetaVAE, z: np.ndarray, *, batch_size: int = 512) -> np.ndarray:
    """Spectra of latent vectors (N, n_latent) or (n_latent,): float32 normalised flux, (N, n_pixels) or
    (n_pixels,).

    Raises
    ------
    ValueError
        If the vectors are not as long as the model's.
    """
    z = np.asarray(z, dtype=np.float32)
    if z.ndim not in (1, 2) or z.shape[-1] != model.n_latent:
        raise ValueError(
            f"latent vectors of shape {z.shape} do not fit this model, which has {model.n_latent} "
            "dimensions: were they made by another model?"
        )
    rows = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(z)))
    model.eval()
    with torch.inference_mode():
        flux = torch.cat(
            [model.decode(rows[k : k + batch_size]) for k in range(0, len(rows), batch_size)]
        ).numpy()
    return flux[0] if z.ndim == 1 else flux


def reconstruct(model: ConvBetaVAE, sample: xr.Dataset, *, batch_size: int = 512) -> xr.Dataset:
    """`encode_sample`, with the decoded mean as ``reconstruction`` (same dims as ``flux``).

    The reconstruction covers all the model's pixels, those without data too: there it is a prediction.
    ``unusable_pixel`` (same dims, bool) says which.
    """
    encoded = encode_sample(model, sample, batch_size=batch_size)
    usable = np.isfinite(encoded["latent"].values).all(axis=1)
    flux = np.full(sample["flux"].shape, np.nan, dtype=np.float32)
    if usable.any():
        flux[usable] = decode_latent(model, encoded["latent"].values[usable], batch_size=batch_size)
    dims = sample["flux"].dims
    return encoded.assign(
        reconstruction=(
            dims,
            flux,
            {**sample["flux"].attrs, "long_name": "decoded mean of the latent posterior"},
        ),
        unusable_pixel=(dims, usable_pixels(model, sample)[1], {"units": ""}),
    )


def usable_pixels(model: ConvBetaVAE, sample: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Flux (galaxy, n_pixels) float32 and the mask of what the encoder must not read (True = bad)."""
    if "flux" not in sample or sample["flux"].ndim != 2:
        raise ValueError("the sample needs a variable 'flux' with dims (galaxy, wavelength)")
    flux = np.ascontiguousarray(sample["flux"].values, dtype=np.float32)
    if flux.shape[1] != model.n_pixels:
        raise ValueError(
            f"the spectra have {flux.shape[1]} pixels, the model {model.n_pixels}: prepare the sample for "
            "this model first (spectool.prepare)"
        )
    own = model.wavelength.numpy()
    given = sample["wavelength"].values if "wavelength" in sample.coords else None
    # Half a pixel: where the spacing changes, a pixel's centre depends on how its edges were drawn.
    if own.any() and given is not None and (np.abs(own - given) > 0.5 * np.gradient(own)).any():
        worst = int(np.argmax(np.abs(own - given) / np.gradient(own)))
        raise ValueError(
            f"the sample is on another wavelength grid than the model: pixel {worst} is {given[worst]:.2f} "
            f"Angstrom, not {own[worst]:.2f}"
        )
    mask = ~np.isfinite(flux)
    if "mask" in sample:
        mask |= sample["mask"].values.astype(bool)
    if "ivar" in sample:
        mask |= ~(sample["ivar"].values > 0)
    return flux, mask
