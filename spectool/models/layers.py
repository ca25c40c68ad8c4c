"""Layers that several networks share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

SLOPE = 0.1


def conv_shape(n: int, strides: Sequence[int]) -> list[int]:
    """Lengths before, between and after the convolutions of `stage`, from the input's to the last one's."""
    lengths = [int(n)]
    for stride in strides:
        kernel, padding = kernel_of(stride)
        lengths.append((lengths[-1] + 2 * padding - kernel) // stride + 1)
    return lengths


def kernel_of(stride: int) -> tuple[int, int]:
    """Kernel size and padding: twice the stride, so that each pixel is read twice; 3 if unstrided."""
    return (3, 1) if stride == 1 else (2 * stride, stride // 2)


def stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """A strided convolution and its activation: (B, n_in, L) -> (B, n_out, about L / stride)."""
    kernel, padding = kernel_of(stride)
    return nn.Sequential(nn.Conv1d(n_in, n_out, kernel, stride, padding), nn.LeakyReLU(SLOPE))


def transposed_stage(n_in: int, n_out: int, stride: int, short: int, long: int, *, last: bool) -> nn.Module:
    """The reverse of `stage`: (B, n_in, short) -> (B, n_out, long); linear if it is the last."""
    kernel, padding = kernel_of(stride)
    missing = long - ((short - 1) * stride - 2 * padding + kernel)
    layer = nn.ConvTranspose1d(n_in, n_out, kernel, stride, padding, output_padding=missing)
    return layer if last else nn.Sequential(layer, nn.LeakyReLU(SLOPE))


def dense_stack(widths: Sequence[int]) -> nn.Sequential:
    """Dense layers of these widths, each followed by an activation; the identity for a single width."""
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


class GappyComponents(nn.Module):
    """Coefficients of principal components, of spectra with missing pixels.

    They minimise, over the pixels that are there, the squared residual plus `noise` times the squared
    coefficients: the posterior mean for coefficients of unit variance and white noise (Connolly & Szalay 1999).
    """

    def __init__(self, n_pixels: int, n_components: int, noise: float = 1e-3) -> None:
        super().__init__()
        self.noise = noise
        # Parameters, so that they are stored as compactly as the weights are, but never trained.
        self.components = nn.Parameter(torch.zeros(n_components, n_pixels), requires_grad=False)
        self.register_buffer("upper", torch.triu_indices(n_components, n_components), persistent=False)
        self._products = (None, None)

    def set(self, components: torch.Tensor) -> None:
        """Fix the components, (n_components, n_pixels), each times the deviation of its coefficient."""
        with torch.no_grad():
            self.components.copy_(components)

    def forward(self, residual: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Compressed coefficients (B, n_components) of spectra less their mean, (B, n_pixels); mask True = missing."""
        with torch.no_grad():
            v = self.components
            if mask is None:
                mask = torch.zeros(1, v.shape[1], dtype=torch.bool, device=v.device)
            i, j = self.upper
            normal = v.new_zeros(len(mask), len(v), len(v))
            normal[:, i, j] = normal[:, j, i] = (~mask).to(v.dtype) @ self._products_of_components()
            target = residual.masked_fill(mask, 0.0) @ v.T
            # Double precision: the components' variances span six decades.
            eye = torch.eye(len(v), dtype=torch.float64, device=v.device)
            factor = torch.linalg.cholesky(normal.double() + self.noise * eye)
            solved = torch.cholesky_solve(target.double()[..., None], factor)[..., 0]
            return torch.asinh(solved.to(residual.dtype))

    def _products_of_components(self) -> torch.Tensor:
        version = (self.components._version, self.components.device)
        if self._products[0] != version:
            i, j = self.upper
            self._products = (version, (self.components[i] * self.components[j]).T.contiguous())
        return self._products[1]


def predict_normal(model, x: np.ndarray, *, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (N, n_out) in the outputs' units, for encoded inputs (N, n_in)."""
    if np.ndim(x) != 2 or x.shape[1] != model.n_in:
        raise ValueError(f"inputs of shape {np.shape(x)} do not fit this model: it takes (N, {model.n_in})")
    model.eval()
    means = np.empty((len(x), model.n_out), np.float32)
    sigmas = np.full((len(x), model.n_out), np.nan, np.float32)
    with torch.inference_mode():
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            mean, log_var = model(torch.from_numpy(np.ascontiguousarray(x[rows], dtype=np.float32)))
            means[rows] = (mean * model.out_scale + model.out_mean).numpy()
            if log_var is not None:
                sigmas[rows] = (torch.exp(0.5 * log_var) * model.out_scale).numpy()
    bad = np.isnan(x).any(axis=1)
    means[bad], sigmas[bad] = np.nan, np.nan
    return means, sigmas
