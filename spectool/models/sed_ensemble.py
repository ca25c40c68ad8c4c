"""Networks for properties of galaxies that are asked together, and random bands that are hidden while they train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from spectool.models.sed import SedMLP
from spectool.models.sed_inputs import SedInputs

LEVEL = 0.6827
CALIBRATION_ROWS = 10_000
VARIED = (0.02, 3.0)
FACILITIES = {
    "GALEX": ("FUV", "NUV"),
    "SDSS": ("u", "g", "r", "i", "z"),
    "VIKING": ("X", "Y", "J", "H", "K"),
    "WISE": ("W1", "W2", "W3", "W4"),
    "PACS": ("P100", "P160"),
    "SPIRE": ("S250", "S350", "S500"),
}
"""Bands that are missing together."""


@dataclass(frozen=True)
class SedEnsemble:
    """One or more networks per property, of the same bands.

    Attributes
    ----------
    members
        Each predicts some of the properties; a property's prediction is the mean of those that know it.
    calibration : ndarray, shape (2 + facility, property)
        Errors are multiplied by the exponential of its product with `missing_shares`.

    Raises
    ------
    ValueError
        If there is no member, or they take different bands.
    """

    members: Sequence[SedMLP]
    calibration: np.ndarray | None = field(default=None)

    def __post_init__(self):
        if not self.members:
            raise ValueError("an ensemble needs at least one network")
        if len({member.bands for member in self.members}) > 1:
            raise ValueError("the networks take different bands")
        if self.calibration is None:
            object.__setattr__(self, "calibration", np.zeros((2 + len(FACILITIES), len(self.outputs))))

    @property
    def bands(self) -> tuple[str, ...]:
        """Of all members."""
        return self.members[0].bands

    @property
    def units(self) -> dict[str, str]:
        """Unit of each property, in the order of `outputs`."""
        return {
            name: unit
            for member in self.members
            for name, unit in zip(member.outputs, member.units, strict=True)
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """Properties that some member predicts."""
        return tuple(self.units)

    @property
    def needs_all_bands(self) -> bool:
        """Whether some member has no mask channel."""
        return not all(member.with_mask for member in self.members)

    @property
    def redshift_range(self) -> tuple[float, float]:
        """Of the training galaxies of all members."""
        ranges = np.array([member.redshift_range.numpy() for member in self.members])
        return float(ranges[:, 0].max()), float(ranges[:, 1].min())

    def predict(self, inputs: SedInputs) -> tuple[np.ndarray, np.ndarray]:
        """Means and errors, (N, property): the members' variances, their scatter about the mean, and the calibration.

        Errors are NaN where a member has no Gaussian head.
        """
        order = {name: k for k, name in enumerate(self.outputs)}
        shape = (len(inputs), len(order))
        total, squares, variance, count = (np.zeros(shape) for _ in range(4))
        for member in self.members:
            mean, sigma = member.predict(member.encode(inputs))
            columns = [order[name] for name in member.outputs]
            total[:, columns] += mean
            squares[:, columns] += mean.astype(float) ** 2
            variance[:, columns] += sigma.astype(float) ** 2
            count[:, columns] += 1
        mean = total / count
        scatter = np.maximum(squares / count - mean**2, 0.0)
        error = np.sqrt(variance / count + scatter)
        return mean, error * np.exp(missing_shares(inputs.mask, self.bands) @ self.calibration)

    def calibrate(self, inputs: SedInputs, labels: np.ndarray, *, seed=0) -> SedEnsemble:
        """The same with errors that hold 68.27% of the labels (N, property), whatever is missing.

        A quantile regression (Koenker & Bassett 1978) of the logarithm of |label - mean| / error on what is missing, on
        `CALIBRATION_ROWS` of the galaxies. Some with bands hidden at random should be among them.

        Raises
        ------
        ValueError
            If a property has neither labels nor errors.
        """
        from sklearn.linear_model import QuantileRegressor

        rows = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:CALIBRATION_ROWS])
        inputs, labels = inputs.take(rows), labels[rows]
        mean, error = SedEnsemble(self.members).predict(inputs)
        shares = missing_shares(inputs.mask, self.bands)
        found = np.zeros((shares.shape[1], len(self.outputs)))
        for k, name in enumerate(self.outputs):
            pull = np.log(np.maximum(np.abs(labels[:, k] - mean[:, k]), 1e-9) / error[:, k])
            used = np.isfinite(pull)
            if not used.any():
                raise ValueError(
                    f"nothing to calibrate the errors of {name} with: no labels, or no Gaussian head"
                )
            # Shares that are alike in all galaxies have no coefficient of their own.
            columns = [0, *(1 + np.flatnonzero(np.ptp(shares[used, 1:], axis=0) > 0))]
            regression = QuantileRegressor(quantile=LEVEL, alpha=0, fit_intercept=False)
            found[columns, k] = regression.fit(shares[used][:, columns], pull[used]).coef_
        return SedEnsemble(self.members, found)


def missing_shares(mask: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """What the calibration depends on, for each galaxy's mask (N, band).

    Returns
    -------
    ndarray, shape (N, 2 + facility)
        1, the missing share of each facility's bands, and the squared missing share of all bands.
    """
    shares = [np.ones(len(mask))]
    for members in FACILITIES.values():
        columns = np.isin(bands, members)
        shares.append(mask[:, columns].mean(axis=1) if columns.any() else np.zeros(len(mask)))
    return np.stack([*shares, mask.mean(axis=1) ** 2], axis=1)


@dataclass(frozen=True)
class RandomBands:
    """Hides bands of each galaxy at random, anew for each batch; for the `augment` of `fit`.

    A fraction `full` of the galaxies stays as observed. A third of the others loses a single facility, a third each
    facility with the chance `facility`, a third each band with a chance that is drawn for the galaxy, uniform in 0 to
    `single`. A galaxy that would keep fewer than `keep` bands is left as observed.

    Attributes
    ----------
    model
        With a mask channel.
    """

    model: SedMLP
    full: float = 0.4
    facility: float = 0.2
    single: float = 0.9
    keep: int = 3

    def __call__(self, batch: dict, step) -> dict:
        """The batch with bands hidden in ``x``."""
        n = len(self.model.bands)
        hidden = self.draw(len(batch["x"]), step.generator)
        left = (~hidden & (batch["x"][:, -n:] == 0)).sum(dim=1)
        return {**batch, "x": self.model.hide(batch["x"], hidden & (left >= self.keep)[:, None])}

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Bands to hide, (n, band), before any galaxy is spared for having too few."""

        def random(*shape):
            return torch.rand(n, *shape, generator=generator)

        groups = self._groups()
        only = (random(1) * len(groups)).long() == torch.arange(len(groups))
        several = random(len(groups)) < self.facility
        single = random(groups.shape[1]) < self.single * random(1)
        kind = (random(1) * 3).long()
        lost = torch.where(kind == 0, only, several).float() @ groups > 0
        return torch.where(kind == 2, single, lost) & (random(1) >= self.full)

    def _groups(self) -> torch.Tensor:
        """Which bands belong to each facility, (facility, band), 0 or 1."""
        rows = [np.isin(self.model.bands, members) for members in FACILITIES.values()]
        rows = [row for row in rows if row.any()] or [np.zeros(len(self.model.bands), bool)]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def hide(self, inputs: SedInputs, *, seed) -> SedInputs:
        """Inputs with bands hidden once, for validation and calibration."""
        generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
        hidden = self.draw(len(inputs), generator).numpy()
        spared = (~hidden & ~inputs.mask).sum(axis=1) < self.keep
        hidden[spared] = False
        return SedInputs(inputs.flux, inputs.error, inputs.mask | hidden, inputs.redshift, inputs.counts)


def vary_errors(inputs: SedInputs, true_flux: np.ndarray, *, bands: Sequence[str], seed) -> SedInputs:
    """The same galaxies as shallower and deeper surveys would see them, for training.

    All errors of a galaxy are multiplied by a number between `VARIED` (uniform in its logarithm), those of each
    facility by one more (log-normal, deviation 0.5 in ln), and the noise is drawn anew. Galaxies of one survey alone
    teach a network little of what errors mean, as these follow from the fluxes. A trial with 18,800 training galaxies:
    for DustPedia's star-forming galaxies, whose errors are far smaller, masses, rates and dust luminosities are off
    from CIGALE's by -0.06, +0.11 and +0.32 dex with a scatter of 0.17, 0.24 and 0.17 dex without these, and by +0.12,
    -0.07 and +0.08 dex with one of 0.13, 0.16 and 0.14 dex with them.

    Parameters
    ----------
    inputs
    true_flux : ndarray, shape (N, band)
        Without noise [Jy], in the order of `bands`.
    bands
    seed
    """
    rng = np.random.default_rng(seed)
    factor = np.exp(rng.uniform(*np.log(VARIED), (len(inputs), 1))) * np.ones(inputs.flux.shape)
    for members in FACILITIES.values():
        factor[:, np.isin(bands, members)] *= np.exp(0.5 * rng.standard_normal((len(inputs), 1)))
    error = inputs.error * factor
    return SedInputs(
        true_flux + error * rng.standard_normal(error.shape), error, inputs.mask, inputs.redshift
    )
