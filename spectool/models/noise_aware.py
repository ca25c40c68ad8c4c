"""Beyond Scourfield et al. (2023): one de-noiser for any noise, that knows it and says how far it can be off.

The paper's networks are trained for one noise level and never told of it. Here each pixel comes with its error: the
encoder first solves for the coefficients of a few principal components with the errors as weights - a Wiener filter,
whose answer shrinks to the mean spectrum where nothing is known - and the network reads those and how well they are
known. Noise is drawn afresh for each batch, its level and its run with wavelength too.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from spectool.models.layers import dense_stack
from spectool.models.losses import kl_per_dimension

#: S/N per pixel (median flux over noise) that training covers; the paper's noise of 0.04 is below 1.
SN_RANGE = (0.4, 60.0)
#: S/N per pixel at which the errors are scaled; between them the factor is interpolated in the logarithm.
LEVELS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_DEAD = 0.02
_FLOOR = 1e-5


class NoiseAwareAutoencoder(nn.Module):
    """A small VAE of spectra with the error of each pixel, that predicts the error of each flux.

    Parameters
    ----------
    n_pixels
        Pixels of a spectrum.
    n_latent
        Latent dimensions.
    n_components
        Principal components that the encoder solves for.
    encoder, decoder, errors
        Widths of the dense layers between components and latent vector, between latent vector and spectrum, and
        between latent posterior and errors.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.
    """

    variational = True
    reads_sigma = True

    def __init__(
        self,
        *,
        n_pixels: int = 825,
        n_latent: int = 16,
        n_components: int = 40,
        encoder=(192, 192),
        decoder=(128, 192),
        errors=(96,),
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        self.config = {
            "n_pixels": int(n_pixels),
            "n_latent": int(n_latent),
            "n_components": int(n_components),
            "encoder": [int(n) for n in encoder],
            "decoder": [int(n) for n in decoder],
            "errors": [int(n) for n in errors],
        }
        self.n_pixels, self.n_latent, self.n_components = int(n_pixels), int(n_latent), int(n_components)
        self.register_buffer("pixel_mean", torch.zeros(self.n_pixels))
        self.register_buffer("pixel_scale", torch.ones(self.n_pixels))
        self.register_buffer("wavelength", torch.zeros(self.n_pixels, dtype=torch.float64))
        self.register_buffer("error_factor", torch.ones(self.n_pixels))
        self.register_buffer("level_factor", torch.ones(len(LEVELS)))
        # A parameter, so that it is stored as compactly as the weights are, but never trained.
        self.components = nn.Parameter(torch.zeros(self.n_components, self.n_pixels), requires_grad=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            self.encoder = dense_stack([2 * self.n_components, *encoder])
            self.head = nn.Linear(encoder[-1] + self.n_components, 2 * self.n_latent)
            self.decoder = dense_stack([self.n_latent, *decoder])
            self.to_flux = nn.Linear(decoder[-1], self.n_pixels)
            self.errors = dense_stack([2 * self.n_latent, *errors])
            self.to_error = nn.Linear(errors[-1], self.n_pixels)
        nn.init.constant_(self.to_error.bias, -2.0)

    def fit_statistics(self, flux, wavelength=None, *, seed=0) -> None:
        """Measure mean, scale and principal components of original training spectra (N, n_pixels).

        Raises
        ------
        ValueError
            If a flux is not finite (from scikit-learn).
        """
        flux = np.asarray(flux, dtype=np.float64)
        found = PCA(self.n_components, svd_solver="randomized", random_state=seed).fit(flux)
        scale = flux.std(axis=0)
        components = found.components_ * np.sqrt(found.explained_variance_)[:, None]
        self.pixel_mean.copy_(torch.from_numpy(found.mean_))
        self.pixel_scale.copy_(torch.from_numpy(np.maximum(scale, 0.01 * np.median(scale) + 1e-12)))
        if wavelength is not None:
            self.wavelength.copy_(torch.from_numpy(np.array(wavelength, dtype=np.float64)))
        with torch.no_grad():
            self.components.copy_(torch.from_numpy(components))
            n = min(self.n_components, self.to_flux.in_features)
            self.to_flux.weight[:, :n] = (self.components[:n] / self.pixel_scale).T
            self.to_flux.bias.zero_()

    def encode(self, flux: torch.Tensor, sigma: torch.Tensor):
        """Mean and log variance of the latent vector, each (B, n_latent).

        Parameters
        ----------
        flux
            (B, n_pixels) normalised flux; finite, also where nothing is known.
        sigma
            (B, n_pixels) its error; infinite = nothing is known.
        """
        solved, known = self.solve(flux, sigma)
        h = torch.cat([torch.asinh(solved), torch.log(known)], dim=1)
        mu, log_var = self.head(torch.cat([self.encoder(h), torch.asinh(solved)], dim=1)).chunk(2, dim=1)
        return mu, log_var.clamp(-20.0, 6.0)

    def solve(self, flux: torch.Tensor, sigma: torch.Tensor):
        """Wiener filter: posterior mean and variance (B, n_components) of coefficients whose prior is N(0, 1)."""
        weight = sigma.square().reciprocal()
        u = self.components
        i, j = torch.triu_indices(self.n_components, self.n_components)
        normal = flux.new_zeros(len(flux), self.n_components, self.n_components)
        normal[:, i, j] = normal[:, j, i] = weight @ (u[i] * u[j]).T
        target = (weight * (flux - self.pixel_mean)) @ u.T
        factor = torch.linalg.cholesky(normal + torch.eye(self.n_components))
        inverse = torch.cholesky_inverse(factor)
        return (inverse @ target[..., None])[..., 0], inverse.diagonal(dim1=1, dim2=2).clamp(min=1e-8)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Spectra (B, n_pixels), in normalised flux, of latent vectors (B, n_latent)."""
        return self.pixel_mean + self.pixel_scale * self.to_flux(self.decoder(z))

    def predict_error(self, mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        """Error (B, n_pixels), 1 sigma in normalised flux, of the spectra decoded from `mu`; not calibrated."""
        h = self.to_error(self.errors(torch.cat([mu, log_var], dim=1)))
        return self.pixel_scale * torch.exp(h.clamp(-9.0, 3.0)) + _FLOOR

    def answer(self, flux: torch.Tensor, sigma: torch.Tensor):
        """De-noised spectra: the decoder's, updated with the pixels themselves where those are better known.

        The weights are the inverse variances, as if the decoder's errors and the noise were independent: nearly so,
        for one pixel of hundreds says little of the latent vector. So a good spectrum is never made worse.

        Returns
        -------
        predicted, error
            (B, n_pixels), normalised flux; the error is calibrated (`spectool.models.noise_aware_training`).
        mu, log_var
            (B, n_latent).
        """
        mu, log_var = self.encode(flux, sigma)
        decoded, error = self.decode(mu), self.predict_error(mu, log_var)
        precision, known = error.square().reciprocal(), sigma.square().reciprocal()
        predicted = (precision * decoded + known * flux) / (precision + known)
        factor = self.error_factor * self._factor_of_level(sigma)
        return predicted, factor * (precision + known).rsqrt(), mu, log_var

    def _factor_of_level(self, sigma: torch.Tensor) -> torch.Tensor:
        typical = self.pixel_mean.median() / sigma.median(dim=1, keepdim=True).values
        nodes = torch.log(torch.tensor(LEVELS))
        x = torch.log(typical.clamp(LEVELS[0], LEVELS[-1]))
        k = torch.searchsorted(nodes, x.contiguous(), right=True).clamp(1, len(LEVELS) - 1)
        share = (x - nodes[k - 1]) / (nodes[k] - nodes[k - 1])
        return torch.lerp(self.level_factor[k - 1], self.level_factor[k], share)

    def forward(self, flux, sigma, generator: torch.Generator | None = None):
        """Prediction from a draw of the latent vector (its mean without a generator), with mean and log variance."""
        mu, log_var = self.encode(flux, sigma)
        if generator is None:
            return self.decode(mu), mu, log_var
        eps = torch.randn(mu.shape, generator=generator).to(mu)
        return self.decode(mu + torch.exp(0.5 * log_var) * eps), mu, log_var


def likelihood_loss(model: NoiseAwareAutoencoder, batch: dict, step) -> dict[str, torch.Tensor]:
    """Negative log likelihood of the original spectra given prediction and predicted error, and the divergence.

    ``batch``: ``flux`` (original, the target), ``variance`` of it (infinite where there is no data), ``input`` and
    ``sigma`` that the encoder reads. The target's own variance is added to the predicted one, so that what is learnt
    is the error with respect to the noise-free spectrum.
    """
    generator = step.generator if step.training else None
    predicted, mu, log_var = model(batch["input"], batch["sigma"], generator)
    known = torch.isfinite(batch["variance"])
    variance = model.predict_error(mu, log_var).square() + torch.where(known, batch["variance"], 0.0)
    residual = torch.where(known, predicted - batch["flux"], 0.0).square()
    terms = 0.5 * torch.where(known, residual / variance + torch.log(variance), 0.0)
    nll = terms.sum(dim=1).mean()
    kl = kl_per_dimension(mu, log_var).sum(dim=1).mean()
    return {"loss": nll + kl, "squared_error": residual.mean(), "kl": kl}


def draw_sigma(flux: torch.Tensor, generator: torch.Generator, sn_range=SN_RANGE) -> torch.Tensor:
    """Errors (B, n_pixels) to add noise with: level, run with wavelength and dead pixels (infinite) at random.

    Parameters
    ----------
    flux
        (B, n_pixels) original spectra.
    generator
        Draws.
    sn_range
        Of the median signal-to-noise per pixel, drawn evenly in the logarithm.
    """
    n, n_pixels = flux.shape
    low, high = np.log(sn_range)
    level = torch.exp(low + (high - low) * torch.rand(n, 1, generator=generator))
    x = torch.linspace(-1.0, 1.0, n_pixels)
    shape = torch.stack([x, 1.5 * x**2 - 0.5, 2.5 * x**3 - 1.5 * x, torch.exp(-4.0 * (x + 1.0))])
    curve = (0.35 * torch.randn(n, 4, generator=generator)) @ shape
    median = flux.abs().median(dim=1, keepdim=True).values.clamp(min=1e-6)
    # Half of the spectra as the paper has them: the same noise in all pixels.
    curve = curve * (torch.rand(n, 1, generator=generator) < 0.5)
    sigma = median / level * torch.exp(curve)
    dead = torch.rand(n, n_pixels, generator=generator) < _DEAD * torch.rand(n, 1, generator=generator) * 2
    return sigma.masked_fill(dead, torch.inf)


def add_random_noise(batch: dict, step) -> dict:
    """An augmentation for `spectool.models.training.fit`: ``input`` and ``sigma`` of freshly noised spectra."""
    return batch | noise_batch(batch, draw_sigma(batch["flux"], step.generator), step.generator)


def noise_batch(batch: dict, sigma: torch.Tensor, generator: torch.Generator) -> dict:
    """Noise of these errors added, the sum restored, as `spectool.denoising.add_noise` does.

    Returns
    -------
    dict
        ``input``, and ``sigma``: the total error, that of the original spectra included.
    """
    flux = batch["flux"]
    noise = torch.randn(flux.shape, generator=generator)
    dead = ~torch.isfinite(sigma) | ~torch.isfinite(batch["variance"])
    noisy = flux + torch.where(dead, 0.0, sigma) * noise
    total = flux.sum(dim=1, keepdim=True)
    scale = total / torch.maximum(noisy.sum(dim=1, keepdim=True), 0.1 * total)
    own = torch.where(dead, torch.inf, sigma.square() + batch["variance"]).sqrt()
    return {"input": noisy * scale, "sigma": own * scale}
