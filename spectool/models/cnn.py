"""A one-dimensional convolutional network from narrow bands to stellar populations: that of Liew-Cain et al. (2021)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from spectool.models.heads import predict_normal

ERROR_RANGE = (1e-3, 1.0)
"""Magnitudes within which errors are told to a network."""


class NarrowBandCNN(nn.Module):
    """Two convolutions along the bands, a maximum over neighbouring bands, and dense layers (Section 3.1 and Fig. 2).

    Inputs are AB magnitudes minus their mean over the bands of the spectrum, so that only the shape of a spectral
    energy distribution tells, never how bright it is; then, band by band, no mean and unit variance over the training
    spectra. Beyond the paper it can take errors in, do with missing bands, and say how sure it is.

    Parameters
    ----------
    bands
        Names of the bands, by wavelength.
    outputs, units
        Name and unit of each property; the paper has a network for each.
    filters, kernels
        Of the two convolutions; they keep the number of bands. The defaults, with `pool` and `hidden`, are those of the
        authors' own script for ages (github.com/ChoongLing/SimulatedJ-PAS).
    pool
        Neighbouring positions of which the largest value is kept.
    hidden
        Widths of the dense layers before the last, which is linear: the paper's two are one hidden layer and the last.
    with_errors
        Take in the logarithm of each magnitude's error, held within `ERROR_RANGE`.
    with_mask
        Take in which bands are missing. Without, a spectrum with a missing band has no prediction.
    gaussian
        Give a variance beside each property.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Attributes
    ----------
    groups : dict of str to list of int
        Columns of the inputs that each band has.

    Raises
    ------
    ValueError
        If a band comes twice, there is not a unit for each output, there are not two convolutions, or there are fewer
        bands than `pool`.
    """

    def __init__(
        self,
        *,
        bands: Sequence[str],
        outputs: Sequence[str],
        units: Sequence[str],
        filters: Sequence[int] = (16, 16),
        kernels: Sequence[int] = (6, 8),
        pool: int = 8,
        hidden: Sequence[int] = (40,),
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
        if len(filters) != 2 or len(kernels) != 2:
            raise ValueError("this network has two convolutions: give two filters and two kernels")
        if len(bands) < pool:
            raise ValueError(f"{len(bands)} bands cannot be pooled by {pool}")
        self.config = {
            "bands": list(bands),
            "outputs": list(outputs),
            "units": list(units),
            "filters": [int(n) for n in filters],
            "kernels": [int(n) for n in kernels],
            "pool": int(pool),
            "hidden": [int(n) for n in hidden],
            "with_errors": bool(with_errors),
            "with_mask": bool(with_mask),
            "gaussian": bool(gaussian),
        }
        self.bands, self.outputs, self.units = tuple(bands), tuple(outputs), tuple(units)
        self.with_errors, self.with_mask, self.gaussian = bool(with_errors), bool(with_mask), bool(gaussian)
        n, self.n_out = len(bands), len(outputs)
        self.n_channels = 1 + self.with_errors + self.with_mask
        self.n_in = n * self.n_channels
        self.groups = {band: [j + n * k for k in range(self.n_channels)] for j, band in enumerate(bands)}
        self.register_buffer("in_mean", torch.zeros(n))
        self.register_buffer("in_scale", torch.ones(n))
        self.register_buffer("out_mean", torch.zeros(self.n_out))
        self.register_buffer("out_scale", torch.ones(self.n_out))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            layers, channels = [], [self.n_channels, *filters]
            for n_in, n_out, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
                edges = ((kernel - 1) // 2, kernel // 2)
                layers += [nn.ConstantPad1d(edges, 0.0), nn.Conv1d(n_in, n_out, kernel), nn.ReLU()]
            self.convolutions = nn.Sequential(*layers, nn.MaxPool1d(pool), nn.Flatten())
            widths = [filters[1] * (n // pool), *hidden]
            layers = []
            for n_in, n_out in itertools.pairwise(widths):
                layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            self.dense = nn.Sequential(*layers, nn.Linear(widths[-1], self.n_out * (2 if gaussian else 1)))

    def set_statistics(self, inputs, labels: np.ndarray) -> None:
        """Take means and scales from training spectra.

        Parameters
        ----------
        inputs
            `spectool.models.band_inputs.BandInputs`, missing values left out.
        labels
            (N, n_out); those not finite are left out.

        Raises
        ------
        ValueError
            If an output has no finite label, or a band no magnitude.
        """
        magnitude = np.where(inputs.mask, np.nan, inputs.magnitude).astype(np.float64)
        labels = np.where(np.isfinite(labels), labels, np.nan)
        for what, names, values in (("output", self.outputs, labels), ("band", self.bands, magnitude)):
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"{what} {names[empty[0]]} has no finite value to train on")
        shape = magnitude - np.nanmean(magnitude, axis=1, keepdims=True)
        for prefix, values in (("in", shape), ("out", labels)):
            scale = np.nanstd(values, axis=0)
            getattr(self, f"{prefix}_mean").copy_(torch.from_numpy(np.nanmean(values, axis=0)))
            getattr(self, f"{prefix}_scale").copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def encode(self, inputs) -> np.ndarray:
        """Inputs (N, n_in), float32, of a `BandInputs`: magnitudes, then errors and marks of missing bands.

        Magnitudes are minus their mean over the bands that are there. NaN in what is missing without a mask channel.
        """
        mask = inputs.mask
        left = np.maximum((~mask).sum(axis=1, keepdims=True), 1)
        magnitude = np.where(mask, np.float32(0), inputs.magnitude)
        magnitude -= magnitude.sum(axis=1, keepdims=True) / left
        magnitude[mask] = 0.0 if self.with_mask else np.nan
        blocks = [magnitude]
        if self.with_errors:
            error = np.where(mask, ERROR_RANGE[0], inputs.error)
            blocks.append(np.log10(np.clip(error, *ERROR_RANGE)))
        if self.with_mask:
            blocks.append(mask)
        return np.concatenate(blocks, axis=1, dtype=np.float32)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and log variance (None without a Gaussian head), (B, n_out), of standardised outputs, for (B, n_in).

        The magnitudes may have another mean: it is taken off once more, so that noise may be added to them, and bands
        hidden, in between.
        """
        x = x.unflatten(1, (self.n_channels, len(self.bands)))
        shape = x[:, 0] - self.in_mean
        if self.with_mask:
            there = 1.0 - x[:, -1]
            mean = (shape * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1.0)
            channels = [(shape - mean) * there / self.in_scale]
        else:
            channels = [(shape - shape.mean(1, keepdim=True)) / self.in_scale]
        if self.with_errors:
            channels.append(x[:, 1] + 1.5)
        if self.with_mask:
            channels.append(x[:, -1])
        found = self.dense(self.convolutions(torch.stack(channels, dim=1)))
        if not self.gaussian:
            return found, None
        return found[:, : self.n_out], found[:, self.n_out :].clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray, *, batch_size: int = 2048) -> tuple[np.ndarray, np.ndarray]:
        """`spectool.models.heads.predict_normal` of encoded inputs (N, n_in); errors are not calibrated."""
        return predict_normal(self, x, batch_size=batch_size)


def band_loss(model: NarrowBandCNN, batch: dict, step) -> dict[str, torch.Tensor]:
    """Mean squared error of standardised outputs, or with a Gaussian head -log likelihood, for `fit`.

    Labels ``batch["y"]`` (B, n_out) that are not finite count for nothing. ``mse`` is in squared units of the outputs.
    """
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    squared = torch.where(known, y - mean, 0.0).square()
    count = known.sum().clamp(min=1)
    mse = (squared * model.out_scale.square()).sum() / count
    if log_var is None:
        return {"loss": squared.sum() / count, "mse": mse}
    spread = torch.where(known, log_var, 0.0)
    return {"loss": 0.5 * (squared * torch.exp(-spread) + spread).sum() / count, "mse": mse}
