"""A small multilayer perceptron that answers with a mean and an error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from spectool.models.layers import dense_stack


class GaussianMLP(nn.Module):
    """Dense layers from standardised inputs to the mean and variance of each output.

    Parameters
    ----------
    n_in, n_out
        Inputs and outputs.
    hidden
        Widths of the hidden layers.
    names, units
        Of the outputs, if they have any.
    seed
        Of the initial weights: an int or a `numpy.random.Generator`.

    Raises
    ------
    ValueError
        If there are not as many names or units as outputs.
    """

    def __init__(
        self,
        *,
        n_in: int,
        n_out: int,
        hidden: Sequence[int] = (128, 128),
        names: Sequence[str] = (),
        units: Sequence[str] = (),
        seed: int | np.random.Generator = 0,
    ) -> None:
        super().__init__()
        for what, given in (("names", names), ("units", units)):
            if given and len(given) != n_out:
                raise ValueError(f"{len(given)} {what} for {n_out} outputs")
        self.config = {
            "n_in": int(n_in),
            "n_out": int(n_out),
            "hidden": [int(h) for h in hidden],
            "names": list(names),
            "units": list(units),
        }
        self.n_in, self.n_out, self.names, self.units = int(n_in), int(n_out), tuple(names), tuple(units)
        for name, length in (("in", n_in), ("out", n_out)):
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_scale", torch.ones(length))
        self.register_buffer("error_factor", torch.ones(n_out))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**62)))
            self.dense = dense_stack([n_in, *hidden])
            self.mean = nn.Linear([n_in, *hidden][-1], n_out)
            self.log_var = nn.Linear([n_in, *hidden][-1], n_out)

    def set_statistics(self, x: np.ndarray, y: np.ndarray) -> None:
        """Standardise by training inputs (N, n_in) and outputs (N, n_out); entries not finite are left out.

        Raises
        ------
        ValueError
            If a column has no finite value.
        """
        for prefix, values in (("in", x), ("out", y)):
            values = np.where(np.isfinite(values), values, np.nan)
            empty = np.flatnonzero(np.isnan(values).all(axis=0))
            if len(empty):
                raise ValueError(f"column {empty[0]} of the {prefix}puts has no finite value")
            mean, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
            getattr(self, f"{prefix}_mean").copy_(torch.from_numpy(mean.astype(np.float32)))
            scale = np.where(scale > 0, scale, 1.0)
            getattr(self, f"{prefix}_scale").copy_(torch.from_numpy(scale.astype(np.float32)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance, each (B, n_out), of standardised outputs, for inputs (B, n_in) as given."""
        h = self.dense((x - self.in_mean) / self.in_scale)
        return self.mean(h), self.log_var(h).clamp(-12.0, 6.0)

    def predict(self, x: np.ndarray, *, batch_size: int = 8192) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each (N, n_out) in the outputs' units, for inputs (N, n_in).

        A row with an input that is not finite gives NaN.

        Raises
        ------
        ValueError
            If the inputs have another width than the model's.
        """
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.n_in:
            raise ValueError(f"inputs of shape {x.shape} do not fit this model: it takes (N, {self.n_in})")
        self.eval()
        means, sigmas = [np.empty((0, self.n_out), np.float32)], [np.empty((0, self.n_out), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(x), batch_size):
                mean, log_var = self(torch.from_numpy(x[start : start + batch_size]))
                means.append((mean * self.out_scale + self.out_mean).numpy())
                sigmas.append((torch.exp(0.5 * log_var) * self.out_scale * self.error_factor).numpy())
        return np.concatenate(means), np.concatenate(sigmas)

    def calibrate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Scale the errors of each output so that 68.27% of these truths lie within one of them.

        Parameters
        ----------
        x, y
            Validation data, (N, n_in) and (N, n_out); truths not finite are left out.

        Returns
        -------
        ndarray
            (n_out,) factors that the errors now have.
        """
        self.error_factor.fill_(1.0)
        mean, sigma = self.predict(x)
        pull = np.where(np.isfinite(y), np.abs(y - mean) / sigma, np.nan)
        factor = np.nanquantile(pull, 0.6827, axis=0)
        self.error_factor.copy_(torch.from_numpy(np.nan_to_num(factor, nan=1.0).astype(np.float32)))
        return self.error_factor.numpy().copy()


def gaussian_loss(model: GaussianMLP, batch: dict, step) -> dict[str, torch.Tensor]:
    """Negative log likelihood (up to a constant) of ``batch["y"]`` given ``batch["x"]``, for `fit`.

    Truths that are not finite count for nothing. ``squared_error`` is in units of the outputs' variance.
    """
    y = (batch["y"] - model.out_mean) / model.out_scale
    known = torch.isfinite(y)
    mean, log_var = model(batch["x"])
    squared = torch.where(known, y - mean, 0.0).square()
    count = known.sum().clamp(min=1)
    nll = 0.5 * (squared * torch.exp(-log_var) + torch.where(known, log_var, 0.0)).sum() / count
    return {"loss": nll, "squared_error": squared.sum() / count}
