"""Batched weighted least squares of a continuum basis and emission lines, for `spectool.measure.linear_lines`."""

from dataclasses import dataclass

import numpy as np
import torch

from spectool.measure.linear_design import KM_S

RIDGE = 1e-9


@dataclass(frozen=True)
class ContinuumOperator:
    """What of a fit depends on the pixels alone.

    Attributes
    ----------
    vectors : Tensor, shape (k + b, n)
        Continuum basis, then the broad lines' profiles.
    products : Tensor, shape (n, (k + b)(k + b + 1) / 2)
        Products of two vectors, pixel by pixel.
    spread : Tensor, shape (k + b,)
        Prior spread of the coefficients relative to the amplitude.
    n_broad : int
    """

    vectors: torch.Tensor
    products: torch.Tensor
    spread: torch.Tensor
    n_broad: int


@dataclass(frozen=True)
class Continuum:
    """A batch's normal equations of the continuum, by their Cholesky factor.

    Attributes
    ----------
    factor : Tensor, shape (batch, k, k)
        Lower triangular.
    whitened : Tensor, shape (batch, k)
        Factor^-1 times the right-hand side.
    chi2_zero : Tensor, shape (batch,)
        Chi2 of a model that is zero.
    weighted : Tensor, shape (batch, n + 2 width)
        Padded ivar.
    data : Tensor, shape (batch, n + 2 width)
        Padded ivar times flux.
    n_effective : Tensor, shape (batch,)
        Degrees of freedom that the continuum takes.
    failed : Tensor of bool, shape (batch,)
    """

    factor: torch.Tensor
    whitened: torch.Tensor
    chi2_zero: torch.Tensor
    weighted: torch.Tensor
    data: torch.Tensor
    n_effective: torch.Tensor
    failed: torch.Tensor


def build_operator(basis, broad):
    """Join a `ContinuumBasis` and broad lines (b, n), whose amplitudes are free."""
    vectors = torch.from_numpy(np.concatenate([basis.vectors, broad]))
    first, second = torch.tril_indices(len(vectors), len(vectors))
    spread = np.concatenate([basis.spread, np.full(len(broad), np.inf)])
    products = (vectors[first] * vectors[second]).T.contiguous()
    return ContinuumOperator(vectors, products, torch.from_numpy(spread), len(broad))


def factorize(flux, ivar, operator, width):
    """Normal equations of the continuum for a batch.

    Parameters
    ----------
    flux, ivar : Tensor, shape (batch, n), float64
        Zero where there is nothing to see.
    operator : ContinuumOperator
    width : int
        Padding at both ends.

    Returns
    -------
    Continuum
    """
    vectors = operator.vectors
    n = len(vectors)
    first, second = torch.tril_indices(n, n)
    normal = torch.empty(len(flux), n, n, dtype=torch.float64)
    packed = ivar @ operator.products
    normal[:, first, second] = packed
    normal[:, second, first] = packed
    data = ivar * flux
    right = data @ vectors.T
    diagonal = normal.diagonal(dim1=1, dim2=2)
    amplitude, error = right[:, 0] / diagonal[:, 0], diagonal[:, 0] ** -0.5
    amplitude = torch.maximum(amplitude.abs(), error)
    prior = (operator.spread * amplitude[:, None]) ** -2
    n_effective = (diagonal / (diagonal + prior)).nan_to_num().sum(1)
    diagonal += prior + RIDGE * diagonal + (diagonal == 0)
    factor, info = torch.linalg.cholesky_ex(normal)
    failed = (info > 0) | ~torch.isfinite(right).all(1)
    factor[failed] = torch.eye(n, dtype=torch.float64)
    whitened = torch.linalg.solve_triangular(factor, right[..., None], upper=False)[..., 0]
    pad = (width, width)
    return Continuum(
        factor=factor,
        whitened=whitened,
        chi2_zero=(data * flux).sum(1),
        weighted=torch.nn.functional.pad(ivar, pad),
        data=torch.nn.functional.pad(data, pad),
        n_effective=n_effective,
        failed=failed,
    )


@dataclass(frozen=True)
class Solution:
    """Amplitudes of the lines' columns and what goes with them.

    Attributes
    ----------
    flux : Tensor, shape (batch, c)
    covariance : Tensor, shape (batch, c, c)
    gain : Tensor, shape (batch,)
        By how much the lines lower chi2.
    coefficients : Tensor, shape (batch, k)
        Of the continuum (and the broad lines, if used).
    """

    flux: torch.Tensor
    covariance: torch.Tensor
    gain: torch.Tensor
    coefficients: torch.Tensor


def solve_lines(continuum, blocks, used):
    """Amplitudes alone.

    Parameters
    ----------
    continuum, blocks, used
        As in `solve`.

    Returns
    -------
    flux : Tensor, shape (batch, c)
    gain : Tensor, shape (batch,)
        By how much the lines lower chi2.
    """
    factor, right, _ = _schur(continuum, blocks, used)
    flux = torch.cholesky_solve(right[..., None], factor)[..., 0]
    return flux, (right * flux).sum(1)


def covariance_of(continuum, blocks, used):
    """Covariance of the amplitudes, shape (batch, c, c); arguments as in `solve`."""
    return torch.cholesky_inverse(_schur(continuum, blocks, used)[0])


def solve(continuum, blocks, used):
    """Solve for the lines, then for the continuum.

    Parameters
    ----------
    continuum : Continuum
    blocks : LineBlocks
    used : int
        How many of the operator's vectors to use: with or without the broad lines at its end.

    Returns
    -------
    solution : Solution
    failed : Tensor of bool, shape (batch,)
    """
    factor, right, failed = _schur(continuum, blocks, used)
    covariance = torch.cholesky_inverse(factor)
    flux = (covariance @ right[..., None])[..., 0]
    whitened = blocks.whitened[:, :used]
    rest = continuum.whitened[:, :used] - (whitened @ flux[..., None])[..., 0]
    lower = continuum.factor[:, :used, :used]
    coefficients = torch.linalg.solve_triangular(lower.mT, rest[..., None], upper=True)[..., 0]
    return Solution(flux, covariance, (right * flux).sum(1), coefficients), failed


def _schur(continuum, blocks, used):
    whitened = blocks.whitened[:, :used]
    matrix = blocks.normal - whitened.mT @ whitened
    right = blocks.right - (whitened.mT @ continuum.whitened[:, :used, None])[..., 0]
    # A column that is hardly seen would make the matrix singular: it is taken out.
    keep = blocks.seen.to(torch.float64)
    matrix *= keep[:, :, None] * keep[:, None, :]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal += RIDGE * diagonal + (1 - keep)
    right = right * keep
    factor, info = torch.linalg.cholesky_ex(matrix)
    failed = (info > 0) | ~torch.isfinite(right).all(1)
    factor[failed] = torch.eye(matrix.shape[1], dtype=torch.float64)
    return factor, right, failed


def broad_lines(continuum, blocks, solution, used):
    """Amplitudes and covariance of the broad lines, the operator's last vectors.

    Parameters
    ----------
    continuum, blocks
    solution : Solution
        With all vectors used.
    used : int
        Number of vectors without the broad lines.

    Returns
    -------
    flux : Tensor, shape (batch, b)
    covariance : Tensor, shape (batch, b, b)
    """
    lower = continuum.factor[:, used:, used:]
    identity = torch.eye(lower.shape[1], dtype=torch.float64).expand_as(lower)
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
    tail = blocks.whitened[:, used:]
    inner = identity + tail @ solution.covariance @ tail.mT
    return solution.coefficients[:, used:], inverse.mT @ inner @ inverse


def gaussian_on_pixels(centre, sigma, edges):
    """One Gaussian of unit flux averaged over pixels, shape (n,); ``sigma`` in km/s."""
    from scipy.special import erf

    offset = (edges - centre) / (2**0.5 * centre * sigma / KM_S)
    return 0.5 * np.diff(erf(offset)) / np.diff(edges)
