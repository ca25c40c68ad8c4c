"""Spectral indices."""

from functools import cache

import numpy as np
import xarray as xr

from spectool.prepare import add_history, spectral_coordinate
from spectool.spectra import LINES, air_to_vacuum, pixel_edges

# Index band and the two bands of its pseudo-continuum [Angstrom, air]: Worthey et al. (1994, ApJS 94, 687, Table 1) as
# refined by Trager et al. (1998, ApJS 116, 1, Table 2); for HdeltaA and HgammaA, Worthey & Ottaviani (1997, Table 1).
LICK = {
    "HδA": ((4083.50, 4122.25), (4041.60, 4081.50), (4128.50, 4161.00)),
    "Ca4227": ((4222.250, 4234.750), (4211.000, 4219.750), (4241.000, 4251.000)),
    "G4300": ((4281.375, 4316.375), (4266.375, 4282.625), (4317.625, 4335.125)),
    "HγA": ((4319.75, 4363.50), (4283.50, 4319.75), (4367.25, 4419.75)),
    "Fe4383": ((4369.125, 4420.375), (4359.125, 4370.375), (4442.875, 4455.375)),
    "Ca4455": ((4452.125, 4474.625), (4445.875, 4454.625), (4477.125, 4492.125)),
    "Fe4531": ((4514.250, 4559.250), (4504.250, 4514.250), (4560.500, 4579.250)),
    "C₂4668": ((4634.000, 4720.250), (4611.500, 4630.250), (4742.750, 4756.500)),
    "Hβ": ((4847.875, 4876.625), (4827.875, 4847.875), (4876.625, 4891.625)),
    "Fe5015": ((4977.750, 5054.000), (4946.500, 4977.750), (5054.000, 5065.250)),
    "Mg₁": ((5069.125, 5134.125), (4895.125, 4957.625), (5301.125, 5366.125)),
    "Mg₂": ((5154.125, 5196.625), (4895.125, 4957.625), (5301.125, 5366.125)),
    "Mg b": ((5160.125, 5192.625), (5117.700, 5142.700), (5191.375, 5206.375)),
    "Fe5270": ((5245.650, 5285.650), (5233.150, 5248.150), (5285.650, 5318.150)),
    "Fe5335": ((5312.125, 5352.125), (5304.625, 5317.250), (5353.375, 5363.375)),
    "Fe5406": ((5387.500, 5415.000), (5376.250, 5387.500), (5415.000, 5425.000)),
    "Fe5709": ((5696.625, 5720.375), (5672.875, 5696.625), (5722.875, 5736.625)),
    "Fe5782": ((5776.625, 5796.625), (5765.375, 5775.375), (5797.875, 5811.625)),
    "Na D": ((5876.875, 5909.375), (5860.625, 5875.675), (5922.125, 5948.125)),
    "TiO₁": ((5936.625, 5994.125), (5816.625, 5849.125), (6038.625, 6103.625)),
    "TiO₂": ((6189.625, 6272.125), (6066.625, 6141.625), (6372.625, 6415.125)),
}
MOLECULAR = ("Mg₁", "Mg₂", "TiO₁", "TiO₂")  # given in magnitudes, the others as equivalent widths
COMMON = ("D4000", "HδA", "HγA", "Hβ", "Mg b", "Fe5270", "Fe5335")
D4000 = ((3850.0, 3950.0), (4000.0, 4100.0))  # Balogh et al. (1999), air
# Bands that stand for no metal of their own, or hold another.
_NO_METAL = ("HδA", "HγA", "Hβ", "Mg₁", "Mg₂")
# Vacuum by air wavelength to 0.03 Å, enough for a mark; the exact one costs an import of seconds.
_TO_VACUUM = 1.00028
INDEX_COVERAGE = 0.9  # share of every band that good pixels must cover


def measure_indices(sample, *, variable="flux", names=COMMON):
    """D4000 and Lick indices at the spectra's own resolution.

    D4000 is the ratio of the mean flux per frequency in 4000-4100 and 3850-3950 Angstrom (Balogh et al. 1999); a Lick
    index the equivalent width [Angstrom] below the straight line through its two side bands, a molecular one -2.5 log10
    of the mean flux relative to that line [mag] (Worthey et al. 1994, eqs. 1 and 2). Compare spectra of one resolution.

    Parameters
    ----------
    sample : Dataset
        In the rest frame on a common grid; with `variable` (galaxy, wavelength) and optionally ``mask``.
    variable : str
    names : sequence of str
        "D4000" or names of `LICK`.

    Returns
    -------
    Dataset
        (galaxy, index): ``index_value``, NaN (and counted) where good pixels cover too little of a band.

    Raises
    ------
    ValueError
        If the sample is not in the rest frame on a common grid, or a name is unknown.
    """
    wavelength, rest = spectral_coordinate(sample)
    if not rest or wavelength.ndim != 1:
        raise ValueError("indices are measured in the rest frame on a common grid: resample first")
    if unknown := [name for name in names if name != "D4000" and name not in LICK]:
        raise ValueError(f"no index {', '.join(unknown)}; there are D4000, {', '.join(LICK)}")
    flux = sample[variable].transpose("galaxy", "wavelength").values.astype(float)
    bad = ~np.isfinite(flux)
    if "mask" in sample:
        bad |= sample["mask"].transpose("galaxy", "wavelength").values
    pixels = _Pixels(np.where(bad, 0, flux), ~bad, pixel_edges(wavelength))
    values = np.stack([_measure(pixels, name) for name in names], axis=1)
    units = {"units": "", "long_name": "D4000 (ratio), equivalent width [Angstrom] or [mag]"}
    out = xr.Dataset({"index_value": (("galaxy", "index"), values, units)}, coords={"index": list(names)})
    lost = int((~np.isfinite(values)).sum())
    return add_history(out, f"{values.size} indices measured, {lost} without enough good pixels")


def stellar_marks():
    """What is marked in spectra of stars: the middles of the metals' bands and the Balmer lines, name -> vacuum [A]."""
    metals = {name: _TO_VACUUM * sum(bands[0]) / 2 for name, bands in LICK.items() if name not in _NO_METAL}
    return metals | {name: LINES[name] for name in ("Hδ", "Hγ", "Hβ", "Hα")}


@cache
def index_band(name):
    """Where an index is measured, side bands left out."""
    return tuple(float(edge) for edge in air_to_vacuum(np.array(LICK[name][0])))


class _Pixels:
    """Good pixels of a batch, and means over bands of them."""

    def __init__(self, flux, good, edges):
        self.flux, self.good, self.edges = flux, good, edges
        self.centre = 0.5 * (edges[1:] + edges[:-1])

    def share(self, band):
        """Width of every pixel inside a band [Angstrom], (n,)."""
        return np.clip(np.minimum(self.edges[1:], band[1]) - np.maximum(self.edges[:-1], band[0]), 0, None)

    def integral(self, band, values):
        """Integral over a band of `values` (galaxy, n), gaps taken as the mean of the rest; NaN if too little."""
        width, span = self.share(band), band[1] - band[0]
        covered = self.good @ width
        total = (values * self.good) @ width
        enough = covered >= INDEX_COVERAGE * span
        return np.where(enough, total / np.where(enough, covered, 1) * span, np.nan)

    def mean(self, band, values):
        """Mean of `values` in a band, (galaxy,)."""
        return self.integral(band, values) / (band[1] - band[0])


def _measure(pixels, name):
    if name == "D4000":
        per_frequency = pixels.flux * pixels.centre**2
        low, high = (pixels.mean(air_to_vacuum(np.array(band)), per_frequency) for band in D4000)
        return np.where(low > 0, high / np.where(low > 0, low, 1), np.nan)
    band = index_band(name)
    width = _equivalent_width(pixels, *LICK[name])
    if name not in MOLECULAR:
        return width
    passed = 1 - width / (band[1] - band[0])
    return -2.5 * np.log10(np.where(passed > 0, passed, np.nan))


def _equivalent_width(pixels, band, blue, red):
    band, blue, red = (air_to_vacuum(np.array(b)) for b in (band, blue, red))
    left, right = (pixels.mean(side, pixels.flux)[:, None] for side in (blue, red))
    at = (pixels.centre - blue.mean()) / (red.mean() - blue.mean())
    continuum = left + (right - left) * at
    positive = np.where(continuum > 0, continuum, np.nan)
    inside = pixels.share(band) > 0
    depth = np.where(inside, 1 - pixels.flux / positive, 0)
    return pixels.integral(band, depth)
