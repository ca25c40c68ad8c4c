"""From a sample of broadband fluxes to what networks take in: bands by name, units, and what is wrong with values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.surveys.gama_values import SENTINELS, mark_magnitudes

MIN_BANDS = 3


@dataclass(frozen=True)
class SedInputs:
    """Fluxes of galaxies in the order of a network's bands.

    Attributes
    ----------
    flux, error : ndarray, shape (galaxy, band)
        [Jy]; not meaningful where `mask`.
    mask : ndarray of bool, shape (galaxy, band)
        True: missing.
    redshift : ndarray, shape (galaxy,)
    counts : dict of str to int
        What was found wrong, and negative fluxes.
    """

    flux: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    redshift: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.redshift)

    def take(self, rows) -> SedInputs:
        """Some of the galaxies."""
        return SedInputs(self.flux[rows], self.error[rows], self.mask[rows], self.redshift[rows])

    def describe(self) -> str:
        """What was counted, in words."""
        return (
            "; ".join(f"{name}: {count}" for name, count in self.counts.items() if count) or "nothing amiss"
        )


def read_inputs(sample: xr.Dataset, bands: Sequence[str]) -> SedInputs:
    """Fluxes of a sample as a network takes them.

    - Bands that the sample lacks are missing; those that the network does not know are left out. Both are counted.
    - Units are converted to Jy by ``attrs["units"]``. A wrong one, mJy stated as Jy, cannot be seen here: that is what
      `spectool.models.sed_outliers` is for.
    - Values that are not finite, sentinels (-99, 9999, ...), and fluxes whose error is not above 0 are missing.
    - Negative fluxes with errors are measurements: kept.
    - "Fluxes" that look like magnitudes are an error if most galaxies have them, else those galaxies lose all bands.

    Parameters
    ----------
    sample
        ``flux``, ``flux_error`` (galaxy, band), ``redshift`` (galaxy) and, if there, ``mask``.
    bands
        The network's.

    Raises
    ------
    ValueError
        If a column is missing, a band comes twice, none is known, a unit is not stated or is no flux per frequency, or
        the fluxes look like magnitudes.
    """
    lacking = [name for name in ("flux", "flux_error", "redshift") if name not in sample]
    if lacking:
        raise ValueError(f"the sample lacks {', '.join(lacking)}")
    index, unknown = find_bands([str(band) for band in sample["band"].values], bands)
    raw = {name: _in_order(sample[name], index) for name in ("flux", "flux_error")}
    masked = (
        _in_order(sample["mask"], index, absent=True) if "mask" in sample else np.zeros(raw["flux"].shape)
    )
    masked = masked.astype(bool) | (index < 0)
    found = {"masked": masked}
    found["no data"] = ~np.isfinite(raw["flux"])
    found["sentinel"] = np.isin(raw["flux"], SENTINELS) | np.isin(raw["flux_error"], SENTINELS)
    found["error not positive"] = ~(raw["flux_error"] > 0) | ~np.isfinite(raw["flux_error"])
    missing, counts = np.zeros(masked.shape, bool), {}
    for name, bad in found.items():
        counts[f"fluxes {name}"] = int((bad & ~missing).sum())
        missing |= bad
    flux, error = (raw[name] * _to_jansky(sample[name]) for name in raw)
    why = missing.astype(int)
    mark_magnitudes(flux, why, list(bands), "the sample")
    counts["fluxes that look like magnitudes"] = int(((why > 0) & ~missing).sum())
    missing = why > 0
    counts["negative fluxes, kept"] = int((~missing & (flux < 0)).sum())
    counts["bands unknown to the network, left out"] = unknown
    counts["bands not in the sample"] = int((index < 0).sum())
    redshift = sample["redshift"].values.astype(float)
    return SedInputs(flux, error, missing, redshift, counts)


def join_inputs(*parts: SedInputs) -> SedInputs:
    """Galaxies of several inputs, one after the other."""
    names = ("flux", "error", "mask", "redshift")
    return SedInputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def find_bands(names, bands) -> tuple[np.ndarray, int]:
    """Place of each of the network's bands in the sample, -1 if absent; and how many names are not the network's."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"bands come twice: {', '.join(twice)}; keep one of each")
    index = np.array([names.index(band) if band in names else -1 for band in bands])
    if (index < 0).all():
        raise ValueError(
            f"none of the network's bands ({', '.join(bands)}) is in the sample: it has {', '.join(names) or 'none'}"
        )
    return index, len(set(names) - set(bands))


def _in_order(values: xr.DataArray, index, *, absent=np.nan) -> np.ndarray:
    """(galaxy, band) in the network's order, `absent` in bands that the sample lacks."""
    array = values.transpose("galaxy", "band").values.astype(float)[:, index]
    array[:, index < 0] = absent
    return array


def _to_jansky(values: xr.DataArray) -> float:
    unit = values.attrs.get("units")
    if not unit:
        raise ValueError(
            f'{values.name} has no unit: set sample["{values.name}"].attrs["units"] = "Jy", or what it is'
        )
    try:
        if not isinstance(u.Unit(unit), u.UnitBase):
            raise ValueError("logarithmic")
        return u.Unit(unit).to(u.Jy)
    except (ValueError, u.UnitConversionError) as error:
        raise ValueError(
            f"{values.name} is in {unit!r}, no flux per frequency ({error}): read magnitudes and the like by "
            "spectool.surveys.gama_files.read_photometry"
        ) from error
