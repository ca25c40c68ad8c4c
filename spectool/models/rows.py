"""Batches of rows from arrays that may be larger than memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


class Rows:
    """Some rows of an array, without copying it: ``Rows(array, index)[k]`` is ``array[index[k]]``.

    Parameters
    ----------
    array
        NumPy array (memory-mapped too), zarr array or torch tensor.
    index
        Rows of it, ints.
    """

    def __init__(self, array, index: np.ndarray) -> None:
        self.array, self.index = array, np.asarray(index, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it stands for."""
        return (len(self.index), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key) -> np.ndarray:
        return take(self.array, self.index[key])


def take(array, rows: np.ndarray) -> np.ndarray:
    """Rows of any array that `Rows` takes, as a NumPy array, read from disk in their order there."""
    if isinstance(array, Rows):
        return array[rows]
    if isinstance(array, torch.Tensor):
        return array[torch.as_tensor(rows)].cpu().numpy()
    if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        return array[rows]
    order = np.argsort(rows, kind="stable")
    select = array.oindex if hasattr(array, "oindex") else array
    sorted_rows = np.asarray(select[rows[order]])
    out = np.empty_like(sorted_rows)
    out[order] = sorted_rows
    return out


def select(arrays: Mapping[str, object], index: np.ndarray) -> dict[str, Rows]:
    """The same rows of all arrays, lazily: a part of a split for `spectool.models.training.fit`."""
    return {name: Rows(array, index) for name, array in arrays.items()}


def split(n: int, fractions=(0.8, 0.1, 0.1), *, seed) -> list[np.ndarray]:
    """Random disjoint parts of ``range(n)``, each sorted; the last takes what rounding leaves.

    Raises
    ------
    ValueError
        If the fractions do not add up to 1.
    """
    if abs(sum(fractions) - 1.0) > 1e-9:
        raise ValueError(f"the fractions {fractions} add up to {sum(fractions)}, not 1")
    edges = np.round(np.cumsum(fractions)[:-1] * n).astype(int)
    return [np.sort(part) for part in np.split(np.random.default_rng(seed).permutation(n), edges)]


def read_batch(arrays: Mapping[str, object], rows: np.ndarray, device) -> dict[str, torch.Tensor]:
    """Rows of all arrays as tensors: floats in float32, others as they are."""
    batch = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(take(array, rows)))
        batch[name] = tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
    return batch


def check_rows(arrays: Mapping[str, object], what: str) -> int:
    """Common number of rows.

    Raises
    ------
    ValueError
        If there are none, or the arrays disagree.
    """
    lengths = {name: int(array.shape[0]) for name, array in arrays.items()}
    if not lengths or min(lengths.values()) == 0:
        raise ValueError(f"{what} holds no rows: {lengths}")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays of {what} have different numbers of rows: {lengths}")
    return next(iter(lengths.values()))
