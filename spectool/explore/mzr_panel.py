"""What one panel of the mass-metallicity dashboard shows of one sample, as plain arrays."""

from dataclasses import dataclass

import numpy as np

from spectool.explore.mzr_data import CLASSES
from spectool.explore.mzr_image import count_nearby
from spectool.measure.mzr import (
    residuals,
    running_median,
    scatter_about,
    spearman_at_fixed_mass,
)

MIN_IN_BIN = 10  # galaxies, for a median with an error worth drawing


@dataclass(frozen=True, eq=False)
class Panel:
    """The galaxies of a sample that a metallicity was measured of, and what follows from them."""

    name: str
    index: np.ndarray
    mass: np.ndarray
    metallicity: np.ndarray
    error: np.ndarray
    color: np.ndarray
    n_galaxies: int
    n_faint: int
    edges: np.ndarray
    n_all: np.ndarray
    n_measured: np.ndarray
    median: dict
    scatter: tuple[float, float]
    offset: float


def color_values(sample, found, color, quantity):
    """The quantity that colours the galaxies of a sample."""
    unknown = np.full(sample.sizes["galaxy"], np.nan)
    if color == "log SFR":
        return sample["log_sfr"].values if "log_sfr" in sample else unknown
    if color == "age":
        return sample["log_age_lw"].values if "log_age_lw" in sample else unknown
    if color == "class" and "spectral_class" in sample:
        names = sample["spectral_class"].values.astype(str)
        return np.select([names == name for name in CLASSES], range(len(CLASSES)), np.nan)
    if color == "error":
        return found.error
    if color == "truth":
        return quantity.truth(sample)
    if color == "excess" and "log_sfr" in sample:
        return residuals(sample["log_mass"].values, sample["log_sfr"].values, min_count=MIN_IN_BIN)
    if color == "S/N":
        return np.where(np.isfinite(found.sn), found.sn, np.nan)
    return unknown


def derive_panel(name, sample, found, *, min_sn, shade, relation, edges):
    """Choose the galaxies that are measured, and derive what is shown of them."""
    all_masses = sample["log_mass"].values
    bright = found.sn > min_sn
    measured = np.isfinite(found.value) & np.isfinite(all_masses) & bright
    index = np.flatnonzero(measured)
    mass, value = all_masses[index], found.value[index]
    shade = shade_by_number(mass, value) if shade is None else shade[index]
    return Panel(
        name=name,
        index=index,
        mass=mass.astype(np.float32),
        metallicity=value.astype(np.float32),
        error=found.error[index].astype(np.float32),
        color=np.asarray(shade, dtype=np.float32),
        n_galaxies=all_masses.size,
        n_faint=int((~bright).sum()),
        edges=edges,
        n_all=np.histogram(all_masses[np.isfinite(all_masses)], edges)[0],
        n_measured=np.histogram(mass, edges)[0],
        **summarize(mass, value, relation, edges),
    )


def shade_by_number(mass, metallicity):
    """Logarithm of the number of galaxies in the same cell of the relation, by galaxy."""
    if mass.size == 0:
        return mass
    low, high = np.quantile(metallicity, [0.01, 0.99])
    window = (mass.min(), mass.max() + 1e-3, low, high + 1e-3)
    with np.errstate(divide="ignore"):
        return np.log10(count_nearby(mass, metallicity, window))


def summarize(mass, metallicity, relation, edges):
    """Running median and scatter of the measured galaxies, as fields of a `Panel`."""
    binned = running_median(mass, metallicity, bins=edges, min_count=MIN_IN_BIN)
    drawn = binned.isel(bin=np.isfinite(binned["median"].values))
    columns = {"mass": "x", "q16": "q16", "median": "median", "q84": "q84", "error": "median_error"}
    about = scatter_about(relation, mass, metallicity)
    return {
        "median": {name: drawn[column].values.astype(np.float32) for name, column in columns.items()},
        "scatter": (about["std"], about["std_error"]),
        "offset": about["offset"],
    }


def correlate_with_sfr(panel, sample):
    """Ask whether metallicity follows the star-formation rate among galaxies of the same mass."""
    rate = sample["log_sfr"].values[panel.index] if "log_sfr" in sample else np.full(panel.index.size, np.nan)
    options = {"bins": panel.edges, "min_count": MIN_IN_BIN, "n_bootstrap": 0}
    return spearman_at_fixed_mass(panel.mass, panel.metallicity, rate, **options)


def correlate_panels(panels, samples):
    """Ask whether two panels agree on which galaxies are metal-rich for their mass."""
    numbers = [s["candidate"].values[p.index] for s, p in zip(samples, panels, strict=True)]
    _, a, b = np.intersect1d(*numbers, return_indices=True)
    first, second = panels
    options = {"bins": first.edges, "min_count": MIN_IN_BIN, "n_bootstrap": 0}
    return spearman_at_fixed_mass(first.mass[a], first.metallicity[a], second.metallicity[b], **options)
