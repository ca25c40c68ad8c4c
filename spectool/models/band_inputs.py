"""From fluxes in narrow bands to what networks take in: magnitudes in the order of the bands, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from spectool.models.sed_inputs import find_bands
from spectool.surveys.gama_values import SENTINELS

MIN_SN = 1.0
"""Below this flux over error, a band is a non-detection."""
MAG_PER_LN = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class BandInputs:
    """Magnitudes of spectra in the order of a network's bands.

    Attributes
    ----------
    magnitude, error : ndarray of float32, shape (spectrum, band)
        AB magnitudes, of any zero point; not meaningful where `mask`. Errors of noise-free spectra are 0.
    mask : ndarray of bool, shape (spectrum, band)
        True: missing.
    counts : dict of str to int
        What was found wrong.
    """

    magnitude: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.magnitude)

    def take(self, rows) -> BandInputs:
        """Some of the spectra."""
        return BandInputs(self.magnitude[rows], self.error[rows], self.mask[rows])

    def hide(self, hidden: np.ndarray) -> BandInputs:
        """The same with more bands missing, where `hidden`, of a shape like (spectrum, band), is True."""
        return BandInputs(self.magnitude, self.error, self.mask | hidden, self.counts)

    def describe(self) -> str:
        """What was counted, in words."""
        return (
            "; ".join(f"{name}: {count}" for name, count in self.counts.items() if count) or "nothing amiss"
        )


def read_bands(sample: xr.Dataset, bands: Sequence[str]) -> BandInputs:
    """Magnitudes of a sample as a network takes them.

    - Bands that the sample lacks are missing; those that the network does not know are left out. Both are counted.
    - Masked fluxes, those not finite, sentinels (-99, 9999, ...) and errors that are not above 0 are missing.
    - Non-detections, fluxes that are not above 0 or below `MIN_SN` times their error, have no magnitude: missing.

    Parameters
    ----------
    sample
        ``flux`` (spectrum, band), f_nu in any unit; ``flux_error`` and ``mask`` if there. Without errors the spectra
        are free of noise.
    bands
        The network's.

    Raises
    ------
    ValueError
        If there is no flux, a band comes twice, or none is known.
    """
    if "flux" not in sample:
        raise ValueError("the sample lacks flux")
    index, unknown = find_bands([str(band) for band in sample["band"].values], bands)
    absent = index < 0
    flux = _in_order(sample["flux"], index, np.float32)
    missing, counts = np.broadcast_to(absent, flux.shape).copy(), {}
    found = {"masked": _in_order(sample["mask"], index, bool) if "mask" in sample else np.zeros_like(missing)}
    found["no data"] = ~np.isfinite(flux)
    found["sentinel"] = np.isin(flux, SENTINELS)
    error = np.zeros_like(flux)
    if "flux_error" in sample:
        error = _in_order(sample["flux_error"], index, np.float32)
        found["error not positive"] = ~(error > 0) | ~np.isfinite(error)
    with np.errstate(invalid="ignore"):
        found["not detected"] = (flux <= 0) | (flux < MIN_SN * error)
    for name, bad in found.items():
        counts[f"fluxes {name}"] = int((bad & ~missing).sum())
        missing |= bad
    counts["bands unknown to the network, left out"] = unknown
    counts["bands not in the sample"] = int(absent.sum())
    safe = np.where(missing, np.float32(1), flux)
    error = np.where(missing, np.float32(0), error) * np.float32(MAG_PER_LN) / safe
    return BandInputs(np.float32(-2.5) * np.log10(safe), error, missing, counts)


def _in_order(values: xr.DataArray, index, dtype) -> np.ndarray:
    """(spectrum, band) in the network's order; bands that the sample lacks hold those of some other."""
    array = values.transpose("spectrum", "band").values.astype(dtype, copy=False)
    return array[:, np.maximum(index, 0)]
