"""De-noising: PCA, dense auto-encoders and noise-aware ones, with the errors of what they return."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from spectool.models.layers import Autoencoder, dense_stack, initial_weights, latent_columns, seed_torch
from spectool.models.training import in_batches

_SLOPE = 0.3


class PCAModel(Autoencoder):
    """Mean and leading principal components of noise-added spectra, with the interface of an autoencoder."""

    variational = False
    has_scale = False

    def __init__(self, *, n_pixels: int = 825, n_latent: int = 10) -> None:
        super().__init__(n_pixels, n_latent)
        self.register_buffer("components", torch.zeros(self.n_latent, self.n_pixels))
        self.register_buffer("variance", torch.zeros(self.n_latent))

    def use(self, n_latent: int) -> PCAModel:
        """A model of the first components only."""
        if not 1 <= n_latent <= self.n_latent:
            raise ValueError(f"this model has {self.n_latent} components, not {n_latent}")
        small = PCAModel(n_pixels=self.n_pixels, n_latent=n_latent)
        weights = self.state_dict()
        first = {name: weights[name][:n_latent] for name in ("components", "variance")}
        small.load_state_dict(weights | first)
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


def fit_pca(flux, wavelength=None, *, n_latent: int = 10, seed=0) -> PCAModel:
    """Fit scikit-learn's PCA to spectra."""
    flux = np.asarray(flux)
    from sklearn.decomposition import PCA  # only where something is fitted

    pca = PCA(n_latent, random_state=seed).fit(flux)
    model = PCAModel(n_pixels=flux.shape[1], n_latent=n_latent)
    model.set_statistics(pca.mean_, wavelength=wavelength)
    model.components.copy_(torch.from_numpy(pca.components_.astype(np.float32)))
    model.variance.copy_(torch.from_numpy(pca.explained_variance_.astype(np.float32)))
    return model.eval()


class DenseAutoencoder(Autoencoder):
    """Dense encoder, a small latent vector, and the encoder mirrored: noisy spectra in, clean ones out.

    Scourfield et al. (2023), Section 3.2. Weights start as in Keras (Glorot & Bengio 2010, uniform; biases 0).
    """

    def __init__(
        self, *, n_pixels=825, n_latent=6, widths, dropout: float, variational=True, ranks=None, seed=0
    ) -> None:
        widths, ranks = list(widths), ranks and list(ranks)
        options = {"widths": widths, "dropout": float(dropout), "variational": variational, "ranks": ranks}
        super().__init__(n_pixels, n_latent, **options)
        self.variational, half = variational, len(widths) + 1
        ranks = ranks or [None] * 2 * half
        n_coded = self.n_latent * (2 if variational else 1)
        self.encoder = _stack([self.n_pixels, *widths, n_coded], dropout, ranks[:half])
        self.decoder = _stack([self.n_latent, *widths[::-1], self.n_pixels], dropout, ranks[half:])
        generator = seed_torch(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def encode(self, flux: torch.Tensor, mask: torch.Tensor | None = None):
        """Mean and log variance of the latent vector, each (B, n_latent); an AE's log variance is -inf."""
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


class LowRankLinear(nn.Sequential):
    """A dense layer whose matrix is a product of two thin ones: (B, n_in) -> (B, n_out)."""

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        thin = {"into": nn.Linear(n_in, rank, bias=False), "out": nn.Linear(rank, n_out)}
        super().__init__(collections.OrderedDict(thin))


def _stack(widths: Sequence[int], dropout: float, ranks: Sequence[int | None]) -> nn.Sequential:
    """Dense layers, each but the last followed by an activation and dropout."""
    layers = []
    for (n_in, n_out), rank in zip(itertools.pairwise(widths), ranks, strict=True):
        layers.append(nn.Linear(n_in, n_out) if rank is None else LowRankLinear(n_in, n_out, rank))
        layers += [nn.LeakyReLU(_SLOPE), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


#: S/N per pixel at which a noise-aware model's errors are scaled; between them the factor is interpolated in ln S/N.
LEVELS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_FLOOR = 1e-5


class NoiseAwareAutoencoder(Autoencoder):
    """A small VAE of spectra with the error of each pixel, that predicts the error of each flux."""

    reads_sigma = True

    def __init__(
        self,
        *,
        n_pixels=825,
        n_latent=16,
        n_components=40,
        encoder=(192, 192),
        decoder=(128, 192),
        errors=(96,),
        seed=0,
    ) -> None:
        options = {"encoder": list(encoder), "decoder": list(decoder), "errors": list(errors)}
        super().__init__(n_pixels, n_latent, **options | {"n_components": n_components})
        self.n_components = n_components
        self.register_buffer("error_factor", torch.ones(self.n_pixels))
        self.register_buffer("level_factor", torch.ones(len(LEVELS)))
        # A parameter, so that it is stored as compactly as the weights are, but never trained.
        self.components = nn.Parameter(torch.zeros(self.n_components, self.n_pixels), requires_grad=False)
        with initial_weights(seed):
            self.encoder = dense_stack([2 * self.n_components, *encoder])
            self.head = nn.Linear(encoder[-1] + self.n_components, 2 * self.n_latent)
            self.decoder = dense_stack([self.n_latent, *decoder])
            self.to_flux = nn.Linear(decoder[-1], self.n_pixels)
            self.errors = dense_stack([2 * self.n_latent, *errors])
            self.to_error = nn.Linear(errors[-1], self.n_pixels)
        nn.init.constant_(self.to_error.bias, -2.0)

    def encode(self, flux: torch.Tensor, sigma: torch.Tensor):
        """Mean and log variance of the latent vector, each (B, n_latent)."""
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
        """As `Autoencoder.answer`, updated with the pixels where those are better known; and the flux's error."""
        mu, log_var = self.encode(flux, sigma)
        decoded, error = self.decode(mu), self.predict_error(mu, log_var)
        precision, known = error.square().reciprocal(), sigma.square().reciprocal()
        predicted = (precision * decoded + known * flux) / (precision + known)
        factor = self.error_factor * self._factor_of_level(sigma)
        return mu, torch.exp(0.5 * log_var), predicted, factor * (precision + known).rsqrt()

    def _factor_of_level(self, sigma: torch.Tensor) -> torch.Tensor:
        typical = self.pixel_mean.median() / sigma.median(dim=1, keepdim=True).values
        nodes = torch.log(torch.tensor(LEVELS))
        x = torch.log(typical.clamp(LEVELS[0], LEVELS[-1]))
        k = torch.searchsorted(nodes, x.contiguous(), right=True).clamp(1, len(LEVELS) - 1)
        share = (x - nodes[k - 1]) / (nodes[k] - nodes[k - 1])
        return torch.lerp(self.level_factor[k - 1], self.level_factor[k], share)


#: Latent vectors count as at most so many standard deviations from their mean, in the errors of fluxes.
_REACH = 3.0


def flux_errors(arrays: Mapping[str, np.ndarray], latent) -> np.ndarray:
    """Errors (N, n_pixels), 1 sigma in normalised flux, of the fluxes predicted from latent vectors (N, n_latent)."""
    if "error_coefficients" not in arrays:
        raise KeyError("this model came without errors of its fluxes (fit_flux_errors makes them)")
    latent = np.asarray(latent, dtype=np.float64)
    known = np.isfinite(latent).all(axis=1)
    errors = np.full((len(latent), len(arrays["error_factor"])), np.nan, dtype=np.float32)
    log_error = latent_features(latent[known], arrays) @ arrays["error_coefficients"].astype(np.float64)
    errors[known] = np.exp(log_error) * arrays["error_factor"]
    return errors


def latent_features(latent: np.ndarray, arrays) -> np.ndarray:
    """1, z, and all products of two, of standardised latents that stay in the range that was seen."""
    z = ((latent - arrays["error_center"]) / arrays["error_spread"]).clip(-_REACH, _REACH)
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, i] * z[:, j]], axis=1)


def denoise(model, sample: xr.Dataset, *, errors=None) -> xr.Dataset:
    """Predict the spectra without noise, with a trained `DenseAutoencoder`, `PCAModel` or `NoiseAwareAutoencoder`.

    Parameters
    ----------
    sample
        Spectra on the model's pixels, normalised to the sum of its training spectra: ``noisy`` (galaxy, wavelength)
        and, for a noise-aware model, ``noisy_sigma``, the noise that was added to each pixel, and ``ivar`` of what it
        was added to. Where ``mask`` is set, the flux is read as it is, but to a noise-aware model it is unknown.
    errors
        The model's `ModelInfo.arrays`, to predict the errors of fluxes that it does not predict itself.

    Returns
    -------
    Dataset
        The sample with ``flux`` the prediction and ``latent``, ``latent_sigma`` (galaxy, latent_dim); ``flux_error``
        (galaxy, wavelength) where they are known. Other spectra are left out. Those without a finite pixel are NaN
        and counted in ``flux.attrs["n_unusable"]``.
    """
    known, usable = read_noisy(model, sample)
    latent, spread, predicted, *own = in_batches(model, model.answer, *known, usable=usable, batch_size=1024)
    if not own and errors is not None:
        own = [flux_errors(errors, latent)]
    spectra = [name for name, value in sample.data_vars.items() if "wavelength" in value.dims]
    dims, notes = (sample["noisy"].dims[0], "wavelength"), {"units": "", "n_unusable": int((~usable).sum())}
    columns = {"flux": (dims, predicted, {**notes, "long_name": "de-noised flux"})}
    columns |= latent_columns(dims[0], latent, spread, notes)
    for error in own:
        columns["flux_error"] = (dims, error, {**notes, "long_name": "error of the de-noised flux, 1 sigma"})
    return sample.drop_vars(spectra).assign(columns)


def sample_denoised(denoised: xr.Dataset, arrays, *, n: int, seed) -> xr.DataArray:
    """What the noise-free spectra could be, (draw, galaxy, wavelength): off by as much as the errors of `denoise` say,
    and correlated as residuals are."""
    if "flux_error" not in denoised:
        raise ValueError("these spectra have no errors: call denoise with errors=info.arrays")
    flux, rng = denoised["flux"], np.random.default_rng(seed)
    errors, modes = denoised["flux_error"].values.astype(np.float32), arrays["error_modes"].astype(np.float32)
    # Pulls have unit variance by their scale: what the modes do not carry is drawn for each pixel alone.
    together = np.sqrt((modes**2).sum(axis=0))
    modes = modes / np.maximum(together, 1.0)
    rest = np.sqrt(np.clip(1.0 - (modes**2).sum(axis=0), 0.0, None)).astype(np.float32)
    draws = np.empty((n, *errors.shape), dtype=np.float32)
    for k in range(n):
        shared = rng.standard_normal((len(errors), len(modes)), dtype=np.float32) @ modes
        draws[k] = errors * (shared + rest * rng.standard_normal(errors.shape, dtype=np.float32))
    attrs = {"units": "", "long_name": "draws of the de-noised flux"}
    return xr.DataArray(flux.values + draws, dims=("draw", *flux.dims), coords=flux.coords, attrs=attrs)


def read_noisy(model, sample: xr.Dataset) -> tuple[list[np.ndarray], np.ndarray]:
    """What a model reads of a sample - the flux, and sigma if it is noise-aware - and which rows are usable."""
    for name in ("noisy", "noisy_sigma")[: 1 + model.reads_sigma]:
        if name not in sample:
            raise ValueError(f"the sample has no {name!r}, which this model reads: add noise first")
    flux = np.array(sample["noisy"].transpose(..., "wavelength").values, dtype=np.float32)
    model.check_pixels(sample, flux)
    bad = ~np.isfinite(flux)
    masked = sample["mask"].values.astype(bool) if "mask" in sample else np.zeros(flux.shape, bool)
    usable = ~(bad | masked).all(axis=1)
    if not model.reads_sigma:
        flux[bad] = np.broadcast_to(model.pixel_mean.numpy(), flux.shape)[bad]
        return [flux], usable
    variance = sample["noisy_sigma"].values.astype(np.float64) ** 2
    if "ivar" in sample:
        with np.errstate(divide="ignore"):
            variance = variance + 1.0 / sample["ivar"].values.astype(np.float64)
    sigma = np.sqrt(variance).astype(np.float32)
    bad |= masked | ~np.isfinite(sigma) | (sigma <= 0)
    flux[bad], sigma[bad] = 0.0, np.inf
    return [flux, sigma], usable & ~bad.all(axis=1)
