"""Several networks of one shape as one: their answers, and what the noise of a spectrum does to the mean of them.

A `spectool.models.mlp.ChunkedMLP` sees noise through its filters alone. Behind them, the gradient of the answer is a
hundred numbers per network, found in closed form; noise that is as strong everywhere in a chunk needs no more than
these and the products of the filters with each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spectool.models.mlp import ChunkedMLP


class StackedEnsemble:
    """Networks side by side.

    Parameters
    ----------
    members
        With equal pixels, chunks, filters, layers and outputs; their weights are copied.

    Attributes
    ----------
    n_members, n_chunks, n_kept
        Numbers of networks, chunks and pixels.
    outputs, units
        Of the members.
    starts : ndarray of int, shape (n_chunks + 1,)
        First pixel of each chunk, and the number of pixels.
    curves : Tensor, shape (n_chunks, longest chunk, n_members * n_filters)
        The filters of all members, padded with 0.

    Raises
    ------
    ValueError
        If there is no member, or they differ in shape.
    """

    def __init__(self, members: Sequence[ChunkedMLP]) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one network")
        first = members[0]
        for k, member in enumerate(members):
            if member.config != first.config:
                raise ValueError(f"network {k} of the ensemble is not of the shape of network 0")
        self.n_members, self.n_chunks, self.n_kept = len(members), first.n_chunks, first.n_kept
        self.n_filters, self.outputs, self.units = first.n_filters, first.outputs, first.units
        lengths = np.bincount(first.chunk_index, minlength=first.n_chunks)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        with torch.no_grad():
            self.curves = torch.cat([m.responses().transpose(1, 2) for m in members], dim=2).contiguous()
            self.bias = torch.cat([m.bias for m in members], dim=1)[:, None].clone()
            layers = [[layer for layer in m.dense if isinstance(layer, torch.nn.Linear)] for m in members]
            self.weights = [torch.stack([row.weight.T for row in rows]) for rows in zip(*layers, strict=True)]
            self.biases = [
                torch.stack([row.bias for row in rows])[:, None] for rows in zip(*layers, strict=True)
            ]
            self.scale = torch.stack([m.out_scale for m in members])
            self.mean = torch.stack([m.out_mean for m in members])
        self.n_long, self.length = first.n_long, first.n_kept // first.n_chunks

    @torch.inference_mode()
    def answer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers to prepared spectra, and the gradient of their mean.

        Parameters
        ----------
        x
            (B, n_kept), float32.

        Returns
        -------
        outputs
            (n_members, B, n_out), in their units.
        gradient
            (n_out, n_chunks, B, n_members * n_filters): of the mean of the members' outputs, in the outputs' units, by
            what each filter lets through.
        """
        nodes = self._to_members(torch.sigmoid(self._filter(x)))
        layers = [nodes]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layers.append(torch.sigmoid(torch.baddbmm(bias, layers[-1], weight)))
        outputs = torch.baddbmm(self.biases[-1], layers[-1], self.weights[-1])
        outputs = outputs * self.scale[:, None] + self.mean[:, None]
        return outputs, torch.stack([self._gradient(layers, k) for k in range(len(self.outputs))])

    def _filter(self, x):
        """What all filters let through, (n_chunks, B, n_members * n_filters)."""
        cut = self.n_long * (self.length + 1)
        through = x.new_empty(self.n_chunks, len(x), self.curves.shape[2])
        for part, chunks, length in (
            (x[:, :cut], slice(0, self.n_long), self.length + 1),
            (x[:, cut:], slice(self.n_long, self.n_chunks), self.length),
        ):
            if part.shape[1]:
                pixels = part.unflatten(1, (-1, length)).transpose(0, 1)
                torch.baddbmm(self.bias[chunks], pixels, self.curves[chunks, :length], out=through[chunks])
        return through

    def _to_members(self, through):
        """From (n_chunks, B, n_members * n_filters) to (n_members, B, n_chunks * n_filters)."""
        split = through.unflatten(2, (self.n_members, self.n_filters))
        return split.permute(2, 1, 0, 3).flatten(2)

    def _to_chunks(self, nodes):
        """The way back of `_to_members`."""
        split = nodes.unflatten(2, (self.n_chunks, self.n_filters))
        return split.permute(2, 1, 0, 3).flatten(2)

    def _gradient(self, layers, output):
        """Of the members' mean of one output, by what the filters let through; layer by layer backwards."""
        gradient = (self.scale[:, output, None] * self.weights[-1][:, :, output])[:, None] / self.n_members
        for level in range(len(layers) - 1, -1, -1):
            values = layers[level]
            gradient = gradient * values * (1 - values)
            if level:
                gradient = torch.bmm(gradient, self.weights[level - 1].transpose(1, 2))
        return self._to_chunks(gradient)

    def pixel_variance(self, gradient: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Variance (n_out, B) that errors of deviation 1 in some pixels (B, n_kept; bool) bring, each on its own."""
        result = torch.zeros(gradient.shape[0], gradient.shape[2])
        cut = self.n_long * (self.length + 1)
        for part, chunks, length in (
            (pixels[:, :cut], slice(0, self.n_long), self.length + 1),
            (pixels[:, cut:], slice(self.n_long, self.n_chunks), self.length),
        ):
            if part.shape[1]:
                curves = self.curves[chunks, :length].transpose(1, 2)
                hit = part.unflatten(1, (-1, length)).transpose(0, 1)
                for k, one in enumerate(gradient[:, chunks]):
                    result[k] += torch.bmm(one, curves).square_().mul_(hit).sum(dim=(0, 2))
        return result

    def filter_products(self, broadening=None) -> torch.Tensor:
        """What white noise of deviation 1 does behind the filters: covariance (n_chunks, m, m), m all members' filters.

        Parameters
        ----------
        broadening
            A `spectool.broaden.Broadening` to these pixels, if the noise was white before it: its pixels are correlated
            after it.
        """
        if broadening is None:
            return torch.bmm(self.curves.transpose(1, 2), self.curves)
        # Chunks are wider than the reach of a broadening: every third can be taken back at once, and they do not meet.
        products = torch.empty(self.n_chunks, *[self.curves.shape[2]] * 2)
        for start in range(3):
            rows = np.zeros((self.curves.shape[2], self.n_kept), np.float32)
            chunks = range(start, self.n_chunks, 3)
            for k in chunks:
                low, high = self.starts[k : k + 2]
                rows[:, low:high] = self.curves[k, : high - low].T
            back = torch.from_numpy(broadening.transpose(rows).astype("f4"))
            for k in chunks:
                reach = broadening.reach(self.starts[k], self.starts[k + 1])
                products[k] = back[:, reach] @ back[:, reach].T
        return products


@torch.inference_mode()
def noise_variance(gradient: torch.Tensor, products: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Variance of the mean answer that white noise of the spectra brings, to first order.

    Exact for a linear answer and noise that is constant within chunks.

    Parameters
    ----------
    gradient
        (n_out, n_chunks, B, m), of `StackedEnsemble.answer`.
    products
        (n_chunks, m, m), of `StackedEnsemble.filter_products`.
    sigma
        (B, n_chunks) deviation of a pixel's noise, in units of the continuum.

    Returns
    -------
    Tensor
        (n_out, B), in the outputs' units squared.
    """
    per_chunk = torch.stack([(torch.bmm(one, products) * one).sum(dim=2) for one in gradient])
    return (per_chunk * sigma.T.square()).sum(dim=1)
