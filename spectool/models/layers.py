"""Building blocks of the networks: strided convolutions, their transposes, and dense stacks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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
