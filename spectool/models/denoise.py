"""Trained de-noisers applied to samples: predicted spectra, their errors, and draws of what else they could be."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.models.flux_errors import draw_errors, flux_errors


def denoise(
    model, sample: xr.Dataset, *, variable: str = "noisy", errors=None, batch_size: int = 1024
) -> xr.Dataset:
    """Predict the spectra without noise.

    Parameters
    ----------
    model
        `DenseAutoencoder`, `PCAModel` or `NoiseAwareAutoencoder`, trained.
    sample
        Normalised spectra on the model's pixels (`spectool.denoising.normalize_total`), with `variable` (galaxy,
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
    """Draw what the noise-free spectra could be: the prediction and an error of the calibrated size and correlation.

    Parameters
    ----------
    denoised
        From `denoise`, with ``flux_error``.
    arrays
        The model's `ModelInfo.arrays`: how the errors of its pixels are correlated.
    n
        Draws per spectrum.
    seed
        An int or a `numpy.random.Generator`.

    Returns
    -------
    DataArray
        (draw, galaxy, wavelength), float32.

    Raises
    ------
    ValueError
        If there are no errors to draw.
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

    A VAE trained on eq. 4 of Scourfield et al. (2023) makes its posterior narrow, because the weights of the loss
    are those of the original spectra: the draws tell how well it knows its own answer, not how well that answer is
    known. For errors take `sample_denoised`.

    Parameters
    ----------
    model, sample, variable, batch_size
        As for `denoise`.
    n
        Draws per spectrum.
    seed
        An int or a `numpy.random.Generator`.

    Returns
    -------
    DataArray
        (draw, galaxy, wavelength), float32; NaN where there was nothing to read.

    Raises
    ------
    ValueError
        As `denoise`; or if the model is not variational.
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
    """What a model reads of a sample: flux, sigma (or None) and which rows are usable.

    Returns
    -------
    flux : ndarray, shape (galaxy, n_pixels)
        float32.
    sigma : ndarray or None
        Only for a model that reads errors; infinite where nothing is known.
    usable : ndarray of bool, shape (galaxy,)
        Some pixel is finite and the spectrum was not masked out whole.

    Raises
    ------
    ValueError
        If a variable is missing, or the pixels are not the model's.
    """
    if variable not in sample:
        raise ValueError(
            f"the sample has no {variable!r}: add noise (spectool.denoising.add_noise), or name what to read"
        )
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
    """Refuse spectra on another grid than the model's, or normalised to another sum.

    Raises
    ------
    ValueError
        If their number differs, a wavelength by more than half a pixel, or the sum by more than a percent.
    """
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
