"""A trained autoencoder applied to Datasets: encode, decode, reconstruct, and which pixels it may read."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.models.autoencoder import ConvBetaVAE


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
    """Flux (galaxy, n_pixels) float32 and the mask of what the encoder must not read (True = bad).

    Raises
    ------
    ValueError
        If the sample has no flux, or its pixels are not the model's.
    """
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
