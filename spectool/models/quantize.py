"""Weights in 8 bits: each row of a matrix in steps of 1/127 of its largest entry."""

from __future__ import annotations

import torch
from torch import nn

#: Matrices with fewer entries stay in 16 bits: they cost little, and the latent layers are among them.
SMALLEST = 8192


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest 8-bit integers (rows, columns), and the step of each row (rows,)."""
    step = matrix.abs().amax(dim=1) / 127.0
    safe = torch.where(step > 0, step, 1.0)
    return torch.round(matrix / safe[:, None]).to(torch.int8), step


def restore_rows(integers: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The matrix that `quantize_rows` stands for, float32."""
    return integers.float() * step[:, None]


def is_quantized(value: torch.Tensor) -> bool:
    """Whether a weight is one of the large matrices that are stored in 8 bits."""
    return value.ndim == 2 and value.numel() >= SMALLEST


def round_weights(model: nn.Module, *, int8: bool = False) -> None:
    """Give a model the weights that it will have when it is read back, so that its figures are theirs.

    Parameters
    ----------
    model
        Changed in place.
    int8
        As for `spectool.models.store.save_model`: False = all weights in float16.
    """
    with torch.no_grad():
        for weight in model.parameters():
            if int8 and is_quantized(weight):
                weight.copy_(restore_rows(*quantize_rows(weight)))
            else:
                weight.copy_(weight.half().float())
