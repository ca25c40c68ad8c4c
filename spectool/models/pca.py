"""Principal components as a de-noiser: Section 3.1 of Scourfield et al. (2023)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn


class PCAModel(nn.Module):
    """Mean and leading principal components of noise-added spectra, with the interface of an autoencoder.

    Parameters
    ----------
    n_pixels
        Pixels of a spectrum.
    n_latent
        Components that are kept; `use` takes fewer of them.
    """

    variational = False

    def __init__(self, *, n_pixels: int = 825, n_latent: int = 10) -> None:
        super().__init__()
        self.config = {"n_pixels": int(n_pixels), "n_latent": int(n_latent)}
        self.n_pixels, self.n_latent = int(n_pixels), int(n_latent)
        self.register_buffer("pixel_mean", torch.zeros(self.n_pixels))
        self.register_buffer("wavelength", torch.zeros(self.n_pixels, dtype=torch.float64))
        self.register_buffer("components", torch.zeros(self.n_latent, self.n_pixels))
        self.register_buffer("variance", torch.zeros(self.n_latent))

    def use(self, n_latent: int) -> PCAModel:
        """A model of the first components only.

        Raises
        ------
        ValueError
            If there are not so many.
        """
        if not 1 <= n_latent <= self.n_latent:
            raise ValueError(f"this model has {self.n_latent} components, not {n_latent}")
        small = PCAModel(n_pixels=self.n_pixels, n_latent=n_latent)
        for name in ("pixel_mean", "wavelength"):
            getattr(small, name).copy_(getattr(self, name))
        small.components.copy_(self.components[:n_latent])
        small.variance.copy_(self.variance[:n_latent])
        return small.eval()

    def encode(self, flux: torch.Tensor, mask: torch.Tensor | None = None):
        """Coefficients (B, n_latent), and the log variance of a point, -inf; masked pixels count as the mean's."""
        residual = flux - self.pixel_mean
        if mask is not None:
            residual = residual.masked_fill(mask, 0.0)
        coefficients = residual @ self.components.T
        return coefficients, torch.full_like(coefficients, -torch.inf)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Spectra (B, n_pixels) of coefficients (B, n_latent)."""
        return self.pixel_mean + z @ self.components

    def forward(self, flux, mask=None, generator: torch.Generator | None = None):
        """Reconstruction, coefficients and their log variance; nothing is drawn."""
        mu, log_var = self.encode(flux, mask)
        return self.decode(mu), mu, log_var


def fit_pca(flux, wavelength=None, *, n_latent: int = 10, seed=0) -> PCAModel:
    """Fit scikit-learn's PCA to spectra.

    Parameters
    ----------
    flux : array_like, shape (N, n_pixels)
        Noise-added training spectra (in the paper).
    wavelength : array_like, shape (n_pixels,), optional
        Angstrom, vacuum, rest frame.
    n_latent : int
        Components to keep.
    seed : int
        Of scikit-learn's randomised solvers, where it chooses one.

    Returns
    -------
    PCAModel

    Raises
    ------
    ValueError
        If a flux is not finite, or there are fewer spectra than components (from scikit-learn).
    """
    flux = np.asarray(flux)
    found = PCA(n_latent, random_state=seed).fit(flux)
    model = PCAModel(n_pixels=flux.shape[1], n_latent=n_latent)
    for own, value in (
        (model.pixel_mean, found.mean_),
        (model.components, found.components_),
        (model.variance, found.explained_variance_),
    ):
        own.copy_(torch.from_numpy(np.array(value, dtype=np.float32)))
    if wavelength is not None:
        model.wavelength.copy_(torch.from_numpy(np.array(wavelength, dtype=np.float64)))
    return model.eval()
