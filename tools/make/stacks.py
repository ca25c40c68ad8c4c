"""Mean spectra of galaxies of like mass, as Zahid et al. (2019, Section 3.1) stack them, summed batch by batch."""

import numpy as np
import xarray as xr

from spectool.continuum import stack_wavelength

MASS_EDGES = np.round(np.arange(8.5, 11.05, 0.1), 1)
"""Edges of the 25 bins [dex Msun]."""
SUMS = ("flux", "variance", "square", "count", "truth")
UNITS = {
    "log_mass": "dex(Msun)",
    "log_sfr": "dex(Msun / yr)",
    "log_z_lw": "dex",
    "age_lw": "Gyr",
    "log_z_gas": "dex",
    "velocity_dispersion": "km / s",
    "redshift": "",
    "sn": "",
    "light": "",
}


def place_galaxies(sample):
    """Rows that are in a bin and have a positive norm, and their bins."""
    which = np.digitize(sample["log_mass"].values, MASS_EDGES) - 1
    inside = (which >= 0) & (which < MASS_EDGES.size - 1) & (sample["norm"].values > 0)
    rows = np.flatnonzero(inside)
    return rows, which[rows]


def sum_spectra(sample):
    """Sums (stack, pixel) of spectra, each normalised to a mean of 1 over 4400-4450 A, of squares and variances."""
    rows, which = place_galaxies(sample)
    member = np.zeros((MASS_EDGES.size - 1, rows.size), "f4")
    member[which, np.arange(rows.size)] = 1
    norm = sample["norm"].values[rows, None].astype("f4")
    good = ~sample["mask"].values[rows]
    flux = np.where(good, sample["flux"].values[rows] / norm, 0)
    ivar = sample["ivar"].values[rows] * norm**2
    truth = sample["truth"].values[rows]
    window = (stack_wavelength() >= 4400) & (stack_wavelength() <= 4450)
    values = (
        flux,
        np.divide(1, ivar, out=np.zeros_like(ivar), where=good),
        flux**2,
        good.astype("f4"),
        truth / truth[:, window].mean(axis=1, keepdims=True),
    )
    sums = {f"sum_{name}": member @ value for name, value in zip(SUMS, values, strict=True)}
    return xr.Dataset({name: (("stack", "pixel"), value) for name, value in sums.items()})


def average_spectra(batches, galaxies):
    """The stacks, of the sums of some batches and the columns of all galaxies in them."""
    flux, variance, square, count, truth = (total(batches, name) for name in SUMS)
    rows, which = place_galaxies(galaxies)
    n = np.bincount(which, minlength=len(count))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = flux / count
        ivar = np.where(count > 0, count**2 / variance, 0)
        scatter = np.sqrt(np.maximum(square / count - mean**2, 0))
        truth = truth / n[:, None]
    pixels = {
        "flux": np.where(count > 0, mean, 0),
        "ivar": ivar,
        "scatter": np.nan_to_num(scatter),
        "truth": np.nan_to_num(truth),
    }
    dims = ("stack", "wavelength")
    out = xr.Dataset({name: (dims, values.astype("f4"), {"units": ""}) for name, values in pixels.items()})
    out["mask"] = (dims, count == 0, {"units": "", "description": "True = bad"})
    columns = {name: galaxies[name].values[rows] for name in UNITS}
    for name, values in columns.items():
        out[name] = ("stack", by_bin(np.mean, values, which, len(n)), {"units": UNITS[name]})
    light, log_z = columns["light"], columns["log_z_lw"]
    summed = np.bincount(which, light * log_z, len(n))
    weighted = summed / np.where(n > 0, np.bincount(which, light, len(n)), np.nan)
    metallicity = {"units": "dex", "z_sun": 0.02}
    out["log_z_light"] = ("stack", weighted, metallicity)
    out["median_log_z_lw"] = ("stack", by_bin(np.median, log_z, which, len(n)), metallicity)
    out["n_galaxies"] = ("stack", n, {"units": ""})
    out["mass_low"] = ("stack", MASS_EDGES[:-1], {"units": "dex(Msun)"})
    out["mass_high"] = ("stack", MASS_EDGES[1:], {"units": "dex(Msun)"})
    about = {"units": "Angstrom", "description": "vacuum, rest frame"}
    out = out.assign_coords(wavelength=("wavelength", stack_wavelength(), about))
    return out.assign_attrs(frame="rest", z_sun=0.02)


def total(batches, name):
    """The sum of all batches, in double precision and in their order."""
    found = np.zeros((MASS_EDGES.size - 1, stack_wavelength().size))
    for batch in batches:
        found += batch[f"sum_{name}"].values
    return found


def by_bin(statistic, values, which, n):
    """A statistic of each bin's galaxies; NaN where there is none."""
    return np.array([statistic(values[which == k]) if (which == k).any() else np.nan for k in range(n)])
