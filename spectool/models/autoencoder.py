"""The convolutional beta-VAE of Marziano (2024), Section 3.2, for spectra with missing pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from spectool.models.layers import GappyComponents, conv_shape, dense_stack, stage, transposed_stage
from spectool.models.rows import take

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

    The encoder reads two channels: the flux, with masked pixels set to the mean spectrum, and the mask
    itself, so that a pixel without data is told apart from a pixel of average flux. Fixed statistics of the
    training set (`set_pixel_statistics`) standardise what the encoder reads, ``asinh((x - mean) / scale)``,
    and scale what the decoder writes, ``mean + scale * output``. They change how easily the network learns,
    not what it minimises: the loss of eq. 8 is taken in units of normalised flux. Activations are leaky
    ReLUs; the output is linear.

    Parameters
    ----------
    n_pixels
        Pixels of a spectrum.
    n_latent
        Latent dimensions.
    channels, strides
        Output channels and stride of each convolution.
    hidden
        Widths of the dense layers between the flattened convolutions and the two heads; the decoder has them
        in reverse. Empty in the paper's model.
    decoder
        ``"convolutional"``: transposed convolutions that mirror the encoder, to exactly `n_pixels` (the
        paper's). ``"dense"``: one dense layer after `hidden`, that is a non-linear mixture of as many learned
        spectra as the last layer is wide: far quicker on a CPU at the same error.
    shortcut
        Number of principal components whose coefficients the dense layers of the encoder read beside what the
        convolutions found; with missing pixels they are solved for by regularised least squares ("gappy PCA",
        Connolly & Szalay 1999), so that hiding pixels does not shift them. The last layer of a dense decoder
        starts at the same components. 0 = none, as in the paper. See `fit_statistics`.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Raises
    ------
    ValueError
        If the options do not describe a network.

    References
    ----------
    Marziano (2024), Section 3.2. Its eq. 4 prints mu and sigma exchanged; this is z = mu + sigma * eps.
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
        """Fix the statistics that standardise input and output.

        Parameters
        ----------
        mean, scale
            (n_pixels,) mean and standard deviation of the normalised flux over the training set. Scales below
            1% of their median (the pixels used for the normalisation hardly vary) are raised to it.
        wavelength
            (n_pixels,) Angstrom, vacuum, rest frame: lets `encode_sample` refuse spectra on another grid.
        components
            (shortcut, n_pixels) principal components of the flux, each times the standard deviation of its
            coefficient. Only for a model with a shortcut.

        Raises
        ------
        ValueError
            If a shape differs or a value is not finite.
        """
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
        """Posterior of the latent vector, eq. 4: mean and log variance, each (B, n_latent).

        Parameters
        ----------
        flux
            (B, n_pixels) median-normalised flux. What it holds under the mask does not matter, NaN included.
        mask
            (B, n_pixels) bool, True = no data; None = all pixels good.
        """
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
        """Reconstruction of a draw z = mu + sigma * eps, with mu and log variance.

        Parameters
        ----------
        flux, mask
            As for `encode`.
        generator
            Draws eps. None = no noise: z = mu.
        """
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
        (N, n_pixels) normalised training spectra: anything that `spectool.models.rows.take` reads.
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
