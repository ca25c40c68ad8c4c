"""When to lower the learning rate, and when to stop: the plateau rule of Scourfield et al. (2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """Lower the learning rate when a value stays; stop when it then still stays (Section 3.2 of the paper).

    A value drops when it is lower than `drop` below the one of the last drop. `patience` epochs without a drop:
    the rate times `factor`; as many again: the end. A drop after the first leaves the lower rate.

    Attributes
    ----------
    drop
        As a fraction of the value.
    patience
        Epochs.
    factor
        Of the learning rate.
    monitor
        Column of the `History`. The paper says "the optimised value"; this is it on spectra that were not trained
        on, without dropout.
    """

    drop: float = 0.1
    patience: int = 5
    factor: float = 0.1
    monitor: str = "valid_loss"

    def replay(self, values: Sequence[float]) -> tuple[float, bool]:
        """Factor of the learning rate of the next epoch, and whether to stop, after these values.

        It follows from the values alone, so that a resumed training goes on as it would have.
        """
        reference, waited, rate = math.inf, 0, 1.0
        for value in values:
            if value < reference - self.drop * abs(reference) or not math.isfinite(reference):
                reference, waited = value, 0
                continue
            waited += 1
            if waited == self.patience:
                rate *= self.factor
            elif waited >= 2 * self.patience:
                return rate, True
        return rate, False
