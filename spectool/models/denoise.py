"""De-noising: PCA, dense auto-encoders and noise-aware ones, with the errors of what they return."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from sklearn.decomposition import PCA
from torch import nn

from spectool.models.layers import dense_stack
from spectool.models.vae import kl_per_dimension


class PCAModel(nn.Module):
    """Mean and leading principal components of noise-added spectra, with the interface of an autoencoder."""

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
        """A model of the first components only."""
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
    """Fit scikit-learn's PCA to spectra."""
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

    Weights start as in Keras (Glorot & Bengio 2010, uniform; biases 0). (2023), Section 3.2, Tables 4 and 5.
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
        """Fix the shift and scale of input and output, and the pixels."""
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

    def forward(self, flux, mask=None, generator: torch.Generator | None = None):
        """Prediction from a draw z = mu + sigma * eps, with mu and log variance."""
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


ONE_SIGMA = 0.6827
_RIDGE = 1e-2
_REACH = 3.0
_CLIP = 5.0


def fit_flux_errors(latent, residual, *, n_modes: int = 20, seed) -> dict[str, np.ndarray]:
    """Learn the errors of a model's fluxes."""
    latent, residual = np.asarray(latent, dtype=np.float64), np.asarray(residual, dtype=np.float64)
    center, spread = latent.mean(axis=0), latent.std(axis=0) + 1e-12
    found = {
        "error_center": center.astype(np.float32),
        "error_spread": spread.astype(np.float32),
        "error_factor": np.ones(residual.shape[1], dtype=np.float32),
    }
    features = _features(latent, found)
    if len(latent) < 4 * features.shape[1]:
        raise ValueError(f"{len(latent)} spectra are too few for {features.shape[1]} coefficients per pixel")
    size = np.abs(residual)
    floor = np.nanmedian(size, axis=0) * 1e-2 + 1e-12
    target = np.log(np.fmax(size, floor))
    target = np.where(np.isfinite(residual), target, np.nanmean(target, axis=0))
    order = np.random.default_rng(seed).permutation(len(latent))
    pull = np.empty_like(residual)
    for fitted, scaled in (np.array_split(order, 2), np.array_split(order, 2)[::-1]):
        coefficients = _solve(features[fitted], target[fitted])
        pull[scaled] = size[scaled] / np.exp(features[scaled] @ coefficients)
    found["error_coefficients"] = _solve(features, target).astype(np.float16)
    found["error_factor"] = np.nanquantile(pull, ONE_SIGMA, axis=0).astype(np.float32)
    found["error_modes"] = pull_modes(residual / flux_errors(found, latent), n_modes=n_modes)
    return found


def pull_modes(pull, *, n_modes: int = 20) -> np.ndarray:
    """Leading principal components (n_modes, n_pixels) of pulls (N, n_pixels), each times its standard deviation."""
    pull = np.nan_to_num(pull).clip(-_CLIP, _CLIP)
    _, values, modes = np.linalg.svd(pull / np.sqrt(len(pull)), full_matrices=False)
    n_modes = min(n_modes, len(values))
    return (values[:n_modes, None] * modes[:n_modes]).astype(np.float16)


def flux_errors(arrays: Mapping[str, np.ndarray], latent) -> np.ndarray:
    """Errors (N, n_pixels), 1 sigma in normalised flux, of the fluxes predicted from latent vectors (N, n_latent)."""
    if "error_coefficients" not in arrays:
        raise KeyError("this model came without errors of its fluxes (fit_flux_errors makes them)")
    latent = np.asarray(latent, dtype=np.float64)
    known = np.isfinite(latent).all(axis=1)
    errors = np.full((len(latent), len(arrays["error_factor"])), np.nan, dtype=np.float32)
    log_error = _features(latent[known], arrays) @ arrays["error_coefficients"].astype(np.float64)
    errors[known] = np.exp(log_error) * arrays["error_factor"]
    return errors


def draw_errors(arrays: Mapping[str, np.ndarray], errors, *, n: int, seed) -> np.ndarray:
    """Draws of what the predicted fluxes may be off by: of the size of the errors, correlated as residuals are."""
    rng, errors = np.random.default_rng(seed), np.asarray(errors, dtype=np.float32)
    modes = arrays["error_modes"].astype(np.float32)
    # Pulls have unit variance by their scale: what the modes do not carry is drawn for each pixel alone.
    together = np.sqrt((modes**2).sum(axis=0))
    modes = modes / np.maximum(together, 1.0)
    rest = np.sqrt(np.clip(1.0 - (modes**2).sum(axis=0), 0.0, None)).astype(np.float32)
    draws = np.empty((n, *errors.shape), dtype=np.float32)
    for k in range(n):
        shared = rng.standard_normal((len(errors), len(modes)), dtype=np.float32) @ modes
        draws[k] = errors * (shared + rest * rng.standard_normal(errors.shape, dtype=np.float32))
    return draws


def _solve(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    normal = features.T @ features + _RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(normal, features.T @ target)


def _features(latent: np.ndarray, arrays) -> np.ndarray:
    """1, z, and all products of two, of standardised latents that stay in the range that was seen."""
    z = ((latent - arrays["error_center"]) / arrays["error_spread"]).clip(-_REACH, _REACH)
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, i] * z[:, j]], axis=1)


def denoise(
    model, sample: xr.Dataset, *, variable: str = "noisy", errors=None, batch_size: int = 1024
) -> xr.Dataset:
    """Predict the spectra without noise.

    Parameters
    ----------
    model
        `DenseAutoencoder`, `PCAModel` or `NoiseAwareAutoencoder`, trained.
    sample
        Normalised spectra on the model's pixels (`spectool.papers.scourfield2023.spectra.normalize_total`),
        with `variable` (galaxy,
        wavelength) and, for a noise-aware model, ``<variable>_sigma``, the noise that was added to each pixel, and
        ``ivar`` of what it was added to (``ivar`` alone if `variable` is ``flux``). Where the sample's
        ``mask`` is set, the flux is read as it is (interpolated), but a noise-aware model is told that it knows
        nothing there.
    variable
        What to read.
    errors
        The model's `ModelInfo.arrays`, to predict the errors of fluxes that it does not predict itself.
    batch_size
        Spectra at a time.

    Returns
    -------
    Dataset
        The sample with ``flux`` the prediction and ``latent``, ``latent_sigma`` (galaxy, latent_dim); ``flux_error``
        (galaxy, wavelength) where they are known. The original ``flux``, ``ivar``, ``mask``, ``truth`` and
        `variable` are left out. Spectra without a finite pixel are NaN and counted in ``flux.attrs["n_unusable"]``.

    Raises
    ------
    ValueError
        If the pixels are not the model's, or a variable is missing.
    """
    flux, sigma, usable = read_spectra(model, sample, variable)
    n = len(flux)
    predicted = np.full((n, model.n_pixels), np.nan, dtype=np.float32)
    latent, spread = (np.full((n, model.n_latent), np.nan, dtype=np.float32) for _ in range(2))
    own = np.full_like(predicted, np.nan) if sigma is not None else None
    rows = np.flatnonzero(usable)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            if own is None:
                mu, log_var = model.encode(*tensors(flux, sigma, some))
                found = model.decode(mu)
            else:
                found, error, mu, log_var = model.answer(*tensors(flux, sigma, some))
                own[some] = error.numpy()
            predicted[some], latent[some] = found.numpy(), mu.numpy()
            spread[some] = torch.exp(0.5 * log_var).numpy()
    dims = (sample[variable].dims[0], "wavelength")
    notes = {"units": "", "n_unusable": int(n - usable.sum())}
    spectra = [name for name, value in sample.data_vars.items() if "wavelength" in value.dims]
    out = sample.drop_vars(spectra).assign(
        flux=(dims, predicted, {**notes, "long_name": "de-noised flux"}),
        latent=((dims[0], "latent_dim"), latent, {**notes, "long_name": "mean of the latent posterior"}),
        latent_sigma=(
            (dims[0], "latent_dim"),
            spread,
            {**notes, "long_name": "standard deviation of the latent posterior"},
        ),
    )
    if own is None and errors is not None:
        own = flux_errors(errors, latent)
    if own is not None:
        out["flux_error"] = (dims, own, {**notes, "long_name": "error of the de-noised flux, 1 sigma"})
    return out


def sample_denoised(denoised: xr.Dataset, arrays, *, n: int, seed) -> xr.DataArray:
    """Draw what the noise-free spectra could be: the prediction and an error of the calibrated size and
    correlation.
    """
    if "flux_error" not in denoised:
        raise ValueError("these spectra have no errors: call denoise with errors=info.arrays")
    flux = denoised["flux"]
    drawn = flux.values + draw_errors(arrays, denoised["flux_error"].values, n=n, seed=seed)
    return _draws(drawn, flux.dims[0], denoised)


def sample_posterior(
    model, sample: xr.Dataset, *, n: int, seed, variable: str = "noisy", batch_size: int = 256
) -> xr.DataArray:
    """Draw latent vectors from a VAE's posterior, and decode them.

    A VAE trained on eq. 4 of Scourfield et al. (2023) makes its posterior narrow, because the weights of the
    loss are those of the original spectra: the draws tell how well it knows its own answer, not how well that
    answer is known.
    """
    if not model.variational:
        raise ValueError("this model has no posterior to draw from: take a variational one")
    flux, sigma, usable = read_spectra(model, sample, variable)
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    drawn = np.full((n, len(flux), model.n_pixels), np.nan, dtype=np.float32)
    rows = np.flatnonzero(usable)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            mu, log_var = model.encode(*tensors(flux, sigma, some))
            for k in range(n):
                eps = torch.randn(mu.shape, generator=generator)
                drawn[k, some] = model.decode(mu + torch.exp(0.5 * log_var) * eps).numpy()
    return _draws(drawn, sample[variable].dims[0], sample)


def _draws(values: np.ndarray, dim: str, sample: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(
        values,
        dims=("draw", dim, "wavelength"),
        coords={name: sample[name] for name in ("wavelength",) if name in sample.coords},
        attrs={"units": "", "long_name": "draws of the de-noised flux"},
    )


def read_spectra(model, sample: xr.Dataset, variable: str):
    """What a model reads of a sample: flux, sigma (or None) and which rows are usable."""
    if variable not in sample:
        raise ValueError(f"the sample has no {variable!r}: add noise first, or name what to read")
    flux = np.array(sample[variable].transpose(..., "wavelength").values, dtype=np.float32)
    check_pixels(model, sample, flux)
    bad = ~np.isfinite(flux)
    masked = sample["mask"].values.astype(bool) if "mask" in sample else np.zeros(flux.shape, bool)
    usable = ~(bad | masked).all(axis=1)
    if not getattr(model, "reads_sigma", False):
        flux[bad] = np.broadcast_to(model.pixel_mean.numpy(), flux.shape)[bad]
        return flux, None, usable
    sigma = _total_sigma(sample, variable, flux.shape)
    bad |= masked | ~np.isfinite(sigma) | (sigma <= 0)
    flux[bad], sigma[bad] = 0.0, np.inf
    return flux, sigma, usable & ~bad.all(axis=1)


def _total_sigma(sample: xr.Dataset, variable: str, shape) -> np.ndarray:
    """Error of each pixel of a variable: of the noise that was added, and of what it was added to."""
    added = f"{variable}_sigma"
    if added not in sample and (variable != "flux" or "ivar" not in sample):
        needed = "'ivar'" if variable == "flux" else repr(added)
        raise ValueError(f"this model reads the error of each pixel: the sample needs {needed}")
    variance = np.zeros(shape, dtype=np.float64)
    if added in sample:
        variance += sample[added].values.astype(np.float64) ** 2
    if "ivar" in sample:
        with np.errstate(divide="ignore"):
            variance += 1.0 / sample["ivar"].values.astype(np.float64)
    return np.sqrt(variance).astype(np.float32)


def tensors(flux, sigma, rows) -> list:
    """Arguments of ``model.encode`` for some rows."""
    return [torch.from_numpy(x[rows]) for x in (flux, sigma) if x is not None]


def check_pixels(model, sample: xr.Dataset, flux: np.ndarray) -> None:
    """Refuse spectra on another grid than the model's, or normalised to another sum."""
    if flux.ndim != 2 or flux.shape[1] != model.n_pixels:
        raise ValueError(
            f"spectra of shape {flux.shape} do not fit this model, which reads {model.n_pixels} pixels"
        )
    # All training spectra have one sum, so their mean has it too.
    total, constant = float(model.pixel_mean.sum()), sample.attrs.get("constant")
    if constant is not None and total > 0 and abs(constant / total - 1) > 0.01:
        raise ValueError(
            f"the spectra are normalised to a summed flux of {constant:.4g}, those of this model's training to "
            f"{total:.4g}: normalise them alike (normalize_total(sample, constant={total:.4g}))"
        )
    own = model.wavelength.numpy()
    if not own.any() or "wavelength" not in sample.coords:
        return
    given = sample["wavelength"].values
    off = np.abs(own - given) / np.gradient(own)
    if off.max() > 0.5:
        worst = int(off.argmax())
        raise ValueError(
            f"the sample is on another wavelength grid than the model: pixel {worst} is {given[worst]:.2f} "
            f"Angstrom, not {own[worst]:.2f}"
        )


#: S/N per pixel (median flux over noise) that training covers; the paper's noise of 0.04 is below 1.
SN_RANGE = (0.4, 60.0)
#: S/N per pixel at which the errors are scaled; between them the factor is interpolated in the logarithm.
LEVELS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_DEAD = 0.02
_FLOOR = 1e-5


class NoiseAwareAutoencoder(nn.Module):
    """A small VAE of spectra with the error of each pixel, that predicts the error of each flux."""

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
        """Measure mean, scale and principal components of original training spectra (N, n_pixels)."""
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
        """De-noised spectra: the decoder's, updated with the pixels themselves where those are better known."""
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
    """Negative log likelihood of the original spectra given prediction and predicted error, and the divergence."""
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
    """Errors (B, n_pixels) to add noise with: level, run with wavelength and dead pixels (infinite) at random."""
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
    """Noise of these errors added, the sum restored, as `spectool.papers.scourfield2023.spectra.add_noise` does."""
    flux = batch["flux"]
    noise = torch.randn(flux.shape, generator=generator)
    dead = ~torch.isfinite(sigma) | ~torch.isfinite(batch["variance"])
    noisy = flux + torch.where(dead, 0.0, sigma) * noise
    total = flux.sum(dim=1, keepdim=True)
    scale = total / torch.maximum(noisy.sum(dim=1, keepdim=True), 0.1 * total)
    own = torch.where(dead, torch.inf, sigma.square() + batch["variance"]).sqrt()
    return {"input": noisy * scale, "sigma": own * scale}
