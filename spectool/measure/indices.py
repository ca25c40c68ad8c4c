"""Spectral indices that astronomers read by eye: D4000 and Lick indices, for many spectra at once."""

import numpy as np
import xarray as xr

from spectool.prepare import add_history, spectral_coordinate
from spectool.wavelength import air_to_vacuum, pixel_edges

# Index band and the two bands of its pseudo-continuum [Angstrom, air]: Worthey et al. (1994, Table 1) and, for
# HdeltaA and HgammaA, Worthey & Ottaviani (1997, Table 1).
LICK = {
    "HδA": ((4083.50, 4122.25), (4041.60, 4081.50), (4128.50, 4161.00)),
    "HγA": ((4319.75, 4363.50), (4283.50, 4319.75), (4367.25, 4419.75)),
    "Hβ": ((4847.875, 4876.625), (4827.875, 4847.875), (4876.625, 4891.625)),
    "Mg b": ((5160.125, 5192.625), (5117.700, 5142.700), (5191.375, 5206.375)),
    "Fe5270": ((5245.650, 5285.650), (5233.150, 5248.150), (5285.650, 5318.150)),
    "Fe5335": ((5312.125, 5352.125), (5304.625, 5317.250), (5353.375, 5363.375)),
}
D4000 = ((3850.0, 3950.0), (4000.0, 4100.0))  # Balogh et al. (1999), air


def measure_indices(sample, *, variable="flux", names=("D4000", *LICK), min_coverage=0.9):
    """D4000 and Lick indices at the spectra's own resolution.

    D4000 is the ratio of the mean flux per frequency in 4000-4100 and 3850-3950 Angstrom (Balogh et al. 1999). A Lick
    index is the equivalent width [Angstrom] below the straight line through the mean fluxes of its two side bands
    (Worthey et al. 1994). No correction to the Lick resolution is made: compare only spectra of one resolution.

    Parameters
    ----------
    sample : Dataset
        In the rest frame on a common grid; with `variable` (galaxy, wavelength) and optionally ``mask``.
    variable : str
        Of the spectra.
    names : sequence of str
        "D4000" or names of `LICK`.
    min_coverage : float
        Share of every band that good pixels must cover; less gives NaN, and is counted.

    Returns
    -------
    Dataset
        (galaxy, index): ``index_value``; coordinate ``index``.

    Raises
    ------
    ValueError
        If the sample is not in the rest frame on a common grid, or a name is unknown.
    """
    wavelength, rest = spectral_coordinate(sample)
    if not rest or wavelength.ndim != 1:
        raise ValueError("indices are measured in the rest frame on a common grid: resample first")
    unknown = [name for name in names if name != "D4000" and name not in LICK]
    if unknown:
        raise ValueError(f"no index {', '.join(unknown)}; there are D4000, {', '.join(LICK)}")
    flux = sample[variable].transpose("galaxy", "wavelength").values.astype(float)
    bad = ~np.isfinite(flux)
    if "mask" in sample:
        bad |= sample["mask"].transpose("galaxy", "wavelength").values
    pixels = _Pixels(np.where(bad, 0, flux), ~bad, pixel_edges(wavelength), min_coverage)
    values = np.stack([_d4000(pixels) if n == "D4000" else _lick(pixels, *LICK[n]) for n in names], axis=1)
    units = {"units": "", "long_name": "D4000 (ratio) or equivalent width [Angstrom]"}
    out = xr.Dataset({"index_value": (("galaxy", "index"), values, units)}, coords={"index": list(names)})
    lost = int((~np.isfinite(values)).sum())
    return add_history(out, f"{values.size} indices measured, {lost} without enough good pixels")


class _Pixels:
    """Good pixels of a batch, and means over bands of them."""

    def __init__(self, flux, good, edges, min_coverage):
        self.flux, self.good, self.edges, self.min_coverage = flux, good, edges, min_coverage
        self.centre = 0.5 * (edges[1:] + edges[:-1])

    def share(self, band):
        """Width of every pixel inside a band [Angstrom], (n,)."""
        return np.clip(np.minimum(self.edges[1:], band[1]) - np.maximum(self.edges[:-1], band[0]), 0, None)

    def integral(self, band, values):
        """Integral over a band of `values` (galaxy, n), gaps taken as the mean of the rest; NaN if too little."""
        width = self.share(band)
        covered = self.good @ width
        total = (values * self.good) @ width
        enough = covered >= self.min_coverage * (band[1] - band[0])
        span = band[1] - band[0]
        return np.where(enough, total / np.where(enough, covered, 1) * span, np.nan)

    def mean(self, band):
        """Mean flux in a band, (galaxy,)."""
        return self.integral(band, self.flux) / (band[1] - band[0])


def _d4000(pixels):
    blue, red = (air_to_vacuum(np.array(band)) for band in D4000)
    per_frequency = pixels.flux * pixels.centre**2
    low = pixels.integral(blue, per_frequency) / (blue[1] - blue[0])
    high = pixels.integral(red, per_frequency) / (red[1] - red[0])
    return np.where(low > 0, high / np.where(low > 0, low, 1), np.nan)


def _lick(pixels, band, blue, red):
    band, blue, red = (air_to_vacuum(np.array(b)) for b in (band, blue, red))
    left, right = pixels.mean(blue)[:, None], pixels.mean(red)[:, None]
    at = (pixels.centre - blue.mean()) / (red.mean() - blue.mean())
    continuum = left + (right - left) * at
    positive = np.where(continuum > 0, continuum, np.nan)
    inside = pixels.share(band) > 0
    depth = np.where(inside, 1 - pixels.flux / positive, 0)
    return pixels.integral(band, depth)
