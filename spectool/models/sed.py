"""A perceptron from broadband fluxes to properties of galaxies: that of Surana et al. (2020), and what it left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from spectool.models.heads import predict_normal

SCALINGS = ("linear", "asinh")
KERNEL_SIGMA = 0.05
"""Standard deviation of initial weights: the default of Keras's RandomNormal, which the paper names."""


class SedMLP(nn.Module):
    """Dense layers with ReLU from fluxes and redshift to one or more properties (Section 2.3).

    Inputs are standardised: no mean, unit variance over the training galaxies. Beyond the paper it can take the errors
    of the fluxes in, do with missing bands, and say how sure it is.

    Parameters
    ----------
    bands
        Names of the bands, in the order of the fluxes.
    hidden
        Widths of the hidden layers.
    outputs, units
        Name and unit of each property.
    scaling
        ``"linear"``: fluxes and redshift as they are, as in the paper. ``"asinh"``: asinh(flux / s), with s the median
        error of the band, linear through zero and logarithmic far above, and the logarithm of the redshift.
    with_errors
        Take in the logarithm of each flux's error, held within the training galaxies' range: beyond it, a network would
        be surer than it has ever had reason to be.
    with_mask
        Take in which bands are missing: their fluxes and errors are replaced by the mean ones, and a channel per band
        tells so. Without, a galaxy with a missing band has no prediction.
    gaussian
        Give a variance beside each property.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Attributes
    ----------
    groups : dict of str to list of int
        Columns of the inputs that each band, and ``"redshift"``, has.

    Raises
    ------
    ValueError
        If a band comes twice, there is not a unit for each output, or the scaling is unknown.
    """

    def __init__(
        self,
        *,
        bands: Sequence[str],
        hidden: Sequence[int],
        outputs: Sequence[str],
        units: Sequence[str],
        scaling: str = "linear",
        with_errors: bool = False,
        with_mask: bool = False,
        gaussian: bool = False,
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        if len(set(bands)) != len(bands):
            raise ValueError(f"a band comes twice among {', '.join(bands)}")
        if len(units) != len(outputs):
            raise ValueError(f"{len(units)} units for {len(outputs)} outputs")
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, not {scaling!r}")
        self.config = {
            "bands": list(bands),
            "hidden": [int(h) for h in hidden],
            "outputs": list(outputs),
            "units": list(units),
            "scaling": scaling,
            "with_errors": bool(with_errors),
            "with_mask": bool(with_mask),
            "gaussian": bool(gaussian),
        }
        self.bands, self.outputs, self.units = tuple(bands), tuple(outputs), tuple(units)
        self.scaling, self.gaussian = scaling, bool(gaussian)
        self.with_errors, self.with_mask = bool(with_errors), bool(with_mask)
        n = len(bands)
        blocks = 1 + self.with_errors + self.with_mask
        self.n_in, self.n_out = 1 + n * blocks, len(outputs)
        # redshift, fluxes, then errors and marks of missing bands
        self.groups = {band: [1 + j + n * k for k in range(blocks)] for j, band in enumerate(bands)}
        self.groups["redshift"] = [0]
        self.register_buffer("softening", torch.ones(n))
        self.register_buffer("in_mean", torch.zeros(self.n_in))
        self.register_buffer("in_scale", torch.ones(self.n_in))
        self.register_buffer("out_mean", torch.zeros(self.n_out))
        self.register_buffer("out_scale", torch.ones(self.n_out))
        self.register_buffer("error_range", torch.tensor([[-30.0], [30.0]]).repeat(1, n))
        self.register_buffer("redshift_range", torch.tensor([0.0, torch.inf]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            layers = []
            for n_in, n_out in itertools.pairwise([self.n_in, *hidden]):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            last = nn.Linear([self.n_in, *hidden][-1], self.n_out * (2 if gaussian else 1))
            self.dense = nn.Sequential(*layers, last)
            for layer in self.dense[::2]:
                nn.init.normal_(layer.weight, std=KERNEL_SIGMA)
                nn.init.zeros_(layer.bias)

    def set_statistics(self, inputs, labels: np.ndarray) -> None:
        """Take means and scales from training galaxies.

        Parameters
        ----------
        inputs
            `spectool.models.sed_inputs.SedInputs`, missing values left out.
        labels
            (N, n_out); those not finite are left out.

        Raises
        ------
        ValueError
            If an output has no finite label, or a band no flux.
        """
        flux, error = (np.where(inputs.mask, np.nan, values) for values in (inputs.flux, inputs.error))
        labels = np.where(np.isfinite(labels), labels, np.nan)
        for what, names, values in (("output", self.outputs, labels), ("band", self.bands, flux)):
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"{what} {names[empty[0]]} has no finite value to train on")
        self.softening.copy_(torch.from_numpy(np.nanmedian(error, axis=0)))
        log_error = np.log10(np.maximum(error, 1e-30))
        self.error_range.copy_(
            torch.from_numpy(np.stack([f(log_error, axis=0) for f in (np.nanmin, np.nanmax)]))
        )
        self.in_mean.zero_()
        self.in_scale.fill_(1.0)
        n = len(self.bands)
        raw = self._columns(inputs)
        raw[:, 1 : 1 + n * (1 + self.with_errors)][np.tile(inputs.mask, 1 + self.with_errors)] = np.nan
        mean, scale = np.nanmean(raw, axis=0), np.nanstd(raw, axis=0)
        if self.with_mask:  # stays 0 or 1
            mean[-n:], scale[-n:] = 0.0, 1.0
        self.in_mean.copy_(torch.from_numpy(mean))
        self.in_scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))
        self.out_mean.copy_(torch.from_numpy(np.nanmean(labels, axis=0)))
        scale = np.nanstd(labels, axis=0)
        self.out_scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))
        redshift = inputs.redshift[np.isfinite(inputs.redshift)]
        self.redshift_range.copy_(torch.tensor([redshift.min(), redshift.max()]))

    def encode(self, inputs) -> np.ndarray:
        """Standardised inputs (N, n_in), float32, of a `SedInputs`; NaN in what is missing without a mask channel."""
        found = (self._columns(inputs) - self.in_mean.numpy()) / self.in_scale.numpy()
        n = len(self.bands)
        missing = np.tile(inputs.mask, 1 + self.with_errors)
        found[:, 1 : 1 + missing.shape[1]][missing] = 0.0 if self.with_mask else np.nan
        if self.with_mask:
            found[:, -n:] = inputs.mask
        return found.astype(np.float32)

    def _columns(self, inputs) -> np.ndarray:
        """Inputs (N, n_in), float64, before they are standardised; 1 Jy in place of what is missing."""
        flux, error = (np.where(inputs.mask, 1.0, values) for values in (inputs.flux, inputs.error))
        redshift = np.asarray(inputs.redshift, dtype=float)[:, None]
        if self.scaling == "asinh":
            flux = np.arcsinh(flux / self.softening.numpy())
            redshift = np.log10(np.clip(redshift, 1e-4, None))
        blocks = [redshift, flux]
        if self.with_errors:
            blocks.append(np.clip(np.log10(np.maximum(error, 1e-30)), *self.error_range.numpy()))
        if self.with_mask:
            blocks.append(inputs.mask.astype(float))
        return np.concatenate(blocks, axis=1)

    def hide(self, x, hidden):
        """Encoded inputs (N, n_in), array or tensor, with more bands missing, ``hidden`` (N, n_bands) True.

        Raises
        ------
        ValueError
            If the model has no mask channel.
        """
        if not self.with_mask:
            raise ValueError("this network has no mask channel: it cannot do without a band")
        tensor = isinstance(x, torch.Tensor)
        out, n = (x.clone() if tensor else x.copy()), len(self.bands)
        tiles = [hidden] * (1 + self.with_errors)
        gone = torch.cat(tiles, dim=1) if tensor else np.concatenate(tiles, axis=1)
        out[:, 1 : 1 + gone.shape[1]][gone] = 0.0
        out[:, -n:][hidden] = 1.0
        return out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B, n_in)."""
        found = self.dense(x)
        if not self.gaussian:
            return found, None
        return found[:, : self.n_out], found[:, self.n_out :].clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray, *, batch_size: int = 8192) -> tuple[np.ndarray, np.ndarray]:
        """`spectool.models.heads.predict_normal` of encoded inputs (N, n_in); errors are not calibrated."""
        return predict_normal(self, x, batch_size=batch_size)


def sed_loss(model: SedMLP, batch: dict, step) -> dict[str, torch.Tensor]:
    """Mean absolute error of standardised outputs (Table 2), or with a Gaussian head -log likelihood, for `fit`.

    Labels ``batch["y"]`` (B, n_out) that are not finite count for nothing. ``mae`` is in dex, over all outputs.
    """
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    off = torch.where(known, y - mean, 0.0)
    count = known.sum().clamp(min=1)
    mae = (off.abs() * model.out_scale).sum() / count
    if log_var is None:
        return {"loss": off.abs().sum() / count, "mae": mae}
    spread = torch.where(known, log_var, 0.0)
    return {"loss": 0.5 * (off.square() * torch.exp(-spread) + spread).sum() / count, "mae": mae}
