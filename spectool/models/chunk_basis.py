"""Training spectra in few numbers: an orthonormal basis of each chunk, for quick epochs.

Spectra of stellar populations have few degrees of freedom in a hundred pixels. What filters let through of them follows
from their coefficients; what they let through of noise does not, and is drawn behind the filters (`chunked_noise`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spectool.models.mlp import ChunkedMLP

_BATCH = 4096


@dataclass(frozen=True)
class ChunkBasis:
    """Orthonormal vectors that span the chunks of spectra.

    Attributes
    ----------
    vectors : Tensor, shape (n_chunks, k, longest chunk)
        Padded with 0.
    residual : float
        Largest root-mean-square residual of a chunk that is left, in the unit of the spectra.
    """

    vectors: torch.Tensor
    residual: float

    def project(self, x, model: ChunkedMLP) -> np.ndarray:
        """Coefficients (N, n_chunks, k), float32, of spectra (N, n_kept)."""
        found = np.empty((len(x), *self.vectors.shape[:2]), np.float32)
        for start in range(0, len(x), _BATCH):
            chunks = split_chunks(x[start : start + _BATCH], model)
            found[start : start + _BATCH] = torch.bmm(chunks, self.vectors.transpose(1, 2)).transpose(0, 1)
        return found

    def preactivations(self, model: ChunkedMLP, coefficients: torch.Tensor) -> torch.Tensor:
        """`ChunkedMLP.preactivations` (B, n_chunks, n_filters) of spectra with these coefficients (B, n_chunks, k)."""
        curves = torch.bmm(self.vectors, model.responses().transpose(1, 2))
        return torch.bmm(coefficients.transpose(0, 1), curves).transpose(0, 1) + model.bias

    def start_within(self, model: ChunkedMLP) -> None:
        """Take from the model's filters what no training spectrum has a projection on, and rescale them.

        Such a part of a filter passes noise alone, and would have to be unlearnt.
        """
        with torch.no_grad():
            size = model.weight.norm(dim=2, keepdim=True)
            inside = torch.bmm(torch.bmm(model.weight, self.vectors.transpose(1, 2)), self.vectors)
            model.weight.copy_(inside * (size / inside.norm(dim=2, keepdim=True).clamp(min=1e-12)))


def split_chunks(x, model: ChunkedMLP) -> torch.Tensor:
    """Chunks (n_chunks, N, longest chunk) of spectra (N, n_kept), padded with 0."""
    lengths = np.bincount(model.chunk_index, minlength=model.n_chunks)
    parts = np.split(np.asarray(x, dtype=np.float32), np.cumsum(lengths)[:-1], axis=1)
    chunks = torch.zeros(model.n_chunks, len(x), int(lengths.max()))
    for k, part in enumerate(parts):
        chunks[k, :, : lengths[k]] = torch.from_numpy(part)
    return chunks


def fit_chunk_basis(x, model: ChunkedMLP, *, tolerance: float = 1e-4) -> ChunkBasis:
    """Find the smallest basis that leaves no chunk more than a tolerance.

    Parameters
    ----------
    x
        (N, n_kept) prepared spectra without noise.
    model
        Whose chunks they are.
    tolerance
        Root mean square of what is left, in the unit of the spectra (part of the continuum).

    Returns
    -------
    ChunkBasis
    """
    moment = 0.0
    for start in range(0, len(x), _BATCH):
        chunks = split_chunks(x[start : start + _BATCH], model).double()
        moment = moment + torch.bmm(chunks.transpose(1, 2), chunks)
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(1).clamp(min=0), vectors.flip(2)
    n_pixels = torch.from_numpy(np.bincount(model.chunk_index, minlength=model.n_chunks))
    left = (values.flip(1).cumsum(1).flip(1) / (n_pixels[:, None] * len(x))).sqrt()
    enough = (left < tolerance).all(dim=0).nonzero()
    k = max(1, int(enough[0])) if len(enough) else left.shape[1]
    residual = float(left[:, k].max()) if k < left.shape[1] else 0.0
    return ChunkBasis(vectors[:, :, :k].transpose(1, 2).float().contiguous(), residual)
