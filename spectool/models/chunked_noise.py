"""White noise of spectra as `spectool.models.mlp.ChunkedMLP` sees it: behind its filters, where it is four numbers per
chunk and not a hundred.

The first layer is linear. White noise of deviation s in the pixels of a chunk, through filters W (filter, pixel), is
Gaussian with covariance s^2 W W^T: drawn there it has the same distribution, and the gradient of the expected loss is
the same (the local reparametrisation of Kingma, Salimans & Welling 2015).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: S/N per 1-Angstrom pixel of the training spectra, a fifth each (Zahid et al. 2019, Section 5); inf = no noise.
SN_LEVELS = (float("inf"), 50.0, 20.0, 10.0, 5.0)


def assign_levels(n: int, levels: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Noise deviations 1 / (S/N) for n spectra, (n,): as equal a share of each level as can be, in random order."""
    sigma = 1.0 / torch.tensor(levels, dtype=torch.float32)
    start = int(torch.randint(len(sigma), (1,), generator=generator))
    which = (torch.arange(n) + start) % len(sigma)
    return sigma[which[torch.randperm(n, generator=generator)]]


def filter_covariance(responses: torch.Tensor) -> torch.Tensor:
    """W W^T of each chunk's filters (n_chunks, n_filters, pixel): (n_chunks, n_filters, n_filters)."""
    return torch.bmm(responses, responses.transpose(1, 2))


def draw_filtered(responses: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise behind the filters, (B, n_chunks, n_filters), of spectra with white noise of deviations `sigma` (B,).

    Differentiable in the filters.
    """
    n_chunks, n_filters, _ = responses.shape
    # Double precision and a little ridge: filters may become alike, or nothing, while they are trained.
    covariance = filter_covariance(responses).double()
    trace = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).detach()
    ridge = (1e-6 * trace + 1e-20)[:, None, None] * torch.eye(n_filters, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance + ridge).to(responses.dtype)
    draw = torch.randn(n_chunks, len(sigma), n_filters, generator=generator)
    return torch.bmm(draw, factor.transpose(1, 2)).transpose(0, 1) * sigma[:, None, None]


def draw_pixels(x: torch.Tensor, sigma: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Spectra (B, n_kept) with white noise of deviations `sigma` (B,) drawn for every pixel."""
    return x + sigma[:, None] * torch.randn(x.shape, generator=generator)
