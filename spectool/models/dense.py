"""The dense autoencoders of Scourfield et al. (2023), Section 3.2: plain (AE) and variational (VAE)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

#: Table 4 of Scourfield et al. (2023), the AE: latent size -> dropout rate and widths of the encoder's layers.
TABLE4 = {
    2: {"dropout": 0.8, "widths": (900, 800, 400, 300)},
    4: {"dropout": 0.5, "widths": (900, 900, 500, 400)},
    6: {"dropout": 0.7, "widths": (1000, 900, 800, 800)},
    10: {"dropout": 0.9, "widths": (900, 800, 800, 600)},
}
#: Table 5, the VAE.
TABLE5 = {
    2: {"dropout": 0.8, "widths": (1000, 900, 600, 200)},
    4: {"dropout": 0.7, "widths": (1000, 1000, 700, 500)},
    6: {"dropout": 0.5, "widths": (800, 800, 700, 600)},
    10: {"dropout": 0.9, "widths": (900, 900, 600, 400)},
}
SLOPE = 0.3


class DenseAutoencoder(nn.Module):
    """Dense encoder, a small latent vector, and the encoder mirrored: noisy spectra in, clean ones out.

    Every intermediate layer is followed by a leaky ReLU (0.3) and dropout; the layer that gives the latent
    vector (AE) or mean and log variance (VAE), and the last one, have neither. Weights start as in Keras
    (Glorot & Bengio 2010, uniform; biases 0). Two statistics of the training set (`set_statistics`) shift and
    scale what is read and written: ``(x - mean) / scale`` and ``mean + scale * output``; by default they are
    0 and 1, that is the paper's network.

    Parameters
    ----------
    n_pixels
        Pixels of a spectrum.
    n_latent
        Latent dimensions.
    widths
        Widths of the encoder's layers; the decoder has them in reverse. Default: Tables 4 and 5 at sizes 2, 4, 6
        and 10.
    dropout
        Rate in training; default as for `widths`.
    variational
        VAE, or AE.
    ranks
        One entry per dense layer, from the first of the encoder to the last of the decoder: the rank of a layer
        that is stored as the product of two thin ones (see `spectool.models.compress`), or None. None: all
        layers whole.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Raises
    ------
    ValueError
        If the options do not describe a network.

    References
    ----------
    Scourfield et al. (2023), Section 3.2, Tables 4 and 5.
    """

    def __init__(
        self,
        *,
        n_pixels: int = 825,
        n_latent: int = 6,
        widths: Sequence[int] | None = None,
        dropout: float | None = None,
        variational: bool = True,
        ranks: Sequence[int | None] | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        table = (TABLE5 if variational else TABLE4).get(n_latent, {})
        widths, dropout = widths or table.get("widths"), table.get("dropout") if dropout is None else dropout
        if not widths or dropout is None:
            raise ValueError(f"the paper has no model of {n_latent} dimensions: give widths and dropout")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, not {dropout}")
        widths = [int(width) for width in widths]
        n_layers = 2 * len(widths) + 2
        if ranks is not None and len(ranks) != n_layers:
            raise ValueError(f"give one rank (or None) for each of {n_layers} layers, not {len(ranks)}")
        self.config = {
            "n_pixels": int(n_pixels),
            "n_latent": int(n_latent),
            "widths": widths,
            "dropout": float(dropout),
            "variational": bool(variational),
            "ranks": None if ranks is None else [None if r is None else int(r) for r in ranks],
        }
        self.n_pixels, self.n_latent, self.variational = int(n_pixels), int(n_latent), bool(variational)
        self.register_buffer("pixel_mean", torch.zeros(self.n_pixels))
        self.register_buffer("pixel_scale", torch.ones(self.n_pixels))
        self.register_buffer("wavelength", torch.zeros(self.n_pixels, dtype=torch.float64))
        ranks = ranks or [None] * n_layers
        n_coded = self.n_latent * (2 if variational else 1)
        self.encoder = _stack([self.n_pixels, *widths, n_coded], dropout, ranks[: n_layers // 2])
        self.decoder = _stack([self.n_latent, *widths[::-1], self.n_pixels], dropout, ranks[n_layers // 2 :])
        self._initialise(seed)

    def _initialise(self, seed) -> None:
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def set_statistics(self, mean=None, scale=None, wavelength=None) -> None:
        """Fix the shift and scale of input and output, and the pixels.

        Parameters
        ----------
        mean, scale
            (n_pixels,) or numbers, normalised flux; None = leave.
        wavelength
            (n_pixels,) Angstrom, vacuum, rest frame: lets `spectool.models.apply` refuse spectra on another grid.

        Raises
        ------
        ValueError
            If a value is not finite, a scale not positive, or a shape does not fit.
        """
        for name, value in (("mean", mean), ("scale", scale), ("wavelength", wavelength)):
            if value is None:
                continue
            value = np.asarray(value, dtype=np.float64)
            if value.shape not in ((), (self.n_pixels,)) or not np.isfinite(value).all():
                raise ValueError(
                    f"{name} must be {self.n_pixels} finite numbers, got an array of shape {value.shape}"
                )
            if name == "scale" and not (value > 0).all():
                raise ValueError("scale must be positive in every pixel")
            own = self.wavelength if name == "wavelength" else getattr(self, f"pixel_{name}")
            own.copy_(torch.as_tensor(np.broadcast_to(value, self.n_pixels).copy()))

    def encode(self, flux: torch.Tensor, mask: torch.Tensor | None = None):
        """Mean and log variance of the latent vector, each (B, n_latent); an AE's log variance is -inf.

        Parameters
        ----------
        flux
            (B, n_pixels) normalised flux.
        mask
            (B, n_pixels) bool, True = no data: read as the mean spectrum; None = all pixels good.
        """
        x = (flux - self.pixel_mean) / self.pixel_scale
        if mask is not None:
            x = x.masked_fill(mask, 0.0)
        coded = self.encoder(x)
        if not self.variational:
            return coded, torch.full_like(coded, -torch.inf)
        mu, log_var = coded.chunk(2, dim=1)
        return mu, log_var.clamp(-30.0, 20.0)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Spectra (B, n_pixels), in normalised flux, of latent vectors (B, n_latent)."""
        return self.pixel_mean + self.pixel_scale * self.decoder(z)

    def forward(self, flux, mask=None, generator: torch.Generator | None = None):
        """Prediction from a draw z = mu + sigma * eps, with mu and log variance.

        Parameters
        ----------
        flux, mask
            As for `encode`.
        generator
            Draws eps. None, or an AE: z = mu.
        """
        mu, log_var = self.encode(flux, mask)
        if generator is None or not self.variational:
            return self.decode(mu), mu, log_var
        eps = torch.randn(mu.shape, generator=generator, device=generator.device).to(mu)
        return self.decode(mu + torch.exp(0.5 * log_var) * eps), mu, log_var


class LowRankLinear(nn.Module):
    """A dense layer whose matrix is a product of two thin ones: (B, n_in) -> (B, n_out)."""

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        super().__init__()
        self.into = nn.Linear(n_in, rank, bias=False)
        self.out = nn.Linear(rank, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply both."""
        return self.out(self.into(x))


def is_dense(layer: nn.Module) -> bool:
    """Whether a module is one of the dense layers of a `DenseAutoencoder`, whole or thin."""
    return isinstance(layer, (nn.Linear, LowRankLinear))


def _stack(widths: Sequence[int], dropout: float, ranks: Sequence[int | None]) -> nn.Sequential:
    """Dense layers, each but the last followed by an activation and dropout."""
    layers = []
    for (n_in, n_out), rank in zip(itertools.pairwise(widths), ranks, strict=True):
        layers.append(nn.Linear(n_in, n_out) if rank is None else LowRankLinear(n_in, n_out, rank))
        layers += [nn.LeakyReLU(SLOPE), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
