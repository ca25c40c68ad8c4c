"""The table of measured lines behind the line-flux dashboard: opened, checked, and turned into what is drawn."""

from pathlib import Path

import numpy as np
import xarray as xr

from spectool.io import DATA
from spectool.measure.classes import BPT_LINES, log_ratio
from spectool.measure.metallicity import o3n2_pp04

PRODUCT = DATA / "scourfield2023_lines.nc"
TOOL = "tools/make/scourfield2023_lines.py"

KINDS = ("PCA", "AE", "VAE")
SIZES = (2, 4, 6, 10)
QUANTITIES = {"peak": "line_peak", "integrated": "line_flux"}
STAR_FORMING = "emission line galaxy"

NEEDED = {
    "line_flux": ("source", "galaxy", "line"),
    "line_flux_error": ("source", "galaxy", "line"),
    "line_peak": ("source", "galaxy", "line"),
    "line_peak_error": ("source", "galaxy", "line"),
    "latent": ("model", "galaxy", "dim"),
    "candidate": ("galaxy",),
    "log_mass": ("galaxy",),
    "spectral_class": ("galaxy",),
}


def open_lines(path=None):
    """Open the shipped table of lines measured on the 2000 test galaxies.

    Parameters
    ----------
    path : str or pathlib.Path, optional
        Another table of the same layout.

    Returns
    -------
    xarray.Dataset
        In memory. dims (source, galaxy, line, model, dim): ``line_flux``, ``line_peak`` and their errors (source,
        galaxy, line) in normalised flux (times Angstrom); ``latent`` (model, galaxy, dim); per-galaxy columns.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says which tool makes it.
    ValueError
        If a variable, the original spectra or a line that the diagrams need is missing.
    """
    path = Path(path or PRODUCT)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: the table of measured lines is made by {TOOL}")
    with xr.open_dataset(path, engine="h5netcdf") as file:
        product = file.load()
    missing = [name for name, dims in NEEDED.items() if name not in product or product[name].dims != dims]
    if missing:
        raise ValueError(
            f"{path.name} lacks {', '.join(missing)} (with its dims): it is no table that {TOOL} made"
        )
    absent = [line for line in BPT_LINES if line not in product["line"].values]
    if absent or "original" not in product["source"].values:
        what = ", ".join(absent) or "the source 'original'"
        raise ValueError(f"{path.name} lacks {what}: make it again with {TOOL}")
    return product


def source_name(kind, size):
    """Name of a model along ``source`` and ``model``, such as "VAE 4"."""
    return f"{kind} {size}"


def log_flux(lines, line, quantity):
    """Logarithm of a line's flux, and its formal error.

    Parameters
    ----------
    lines : xarray.Dataset
        A line table (galaxy, line).
    line : str
    quantity : {"peak", "integrated"}

    Returns
    -------
    value, error : ndarray, each shape (galaxy,)
        log10 of the normalised (times Angstrom) flux, and its error [dex]; NaN where the line was not measured, or is
        not positive.
    """
    name = QUANTITIES[quantity]
    flux, error = (lines[n].sel(line=line).values.astype(float) for n in (name, f"{name}_error"))
    value = log_positive(flux)
    return value, np.where(np.isfinite(value), error / np.where(flux > 0, flux, 1) / np.log(10), np.nan)


def log_positive(values):
    """Return log10, and NaN for what has none: zeros, negative values, NaN."""
    values = np.asarray(values, dtype=float)
    good = np.isfinite(values) & (values > 0)
    return np.log10(values, out=np.full(values.shape, np.nan), where=good)


def signal_to_noise(product, line="Hα", source="original"):
    """Integrated flux of a line over its error, shape (galaxy,); 0 where it was not measured."""
    chosen = product.sel(source=source, line=line)
    flux, error = chosen["line_flux"].values, chosen["line_flux_error"].values
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    return np.divide(flux, error, out=np.zeros(flux.shape, dtype=float), where=good)


def diagnostics(lines, classes):
    """Coordinates in the BPT diagram and in the mass-metallicity relation.

    ``oh``: 12 + log(O/H) after Pettini & Pagel (2004), O3N2.
    """
    flux = {name: lines["line_flux"].sel(line=name).values for name in BPT_LINES}
    oh, _, valid = o3n2_pp04(lines)
    usable = np.asarray(valid) & (np.asarray(classes) == STAR_FORMING)
    return {
        "n2": log_ratio(flux["[N II] 6583"], flux["Hα"]),
        "o3": log_ratio(flux["[O III] 5007"], flux["Hβ"]),
        "oh": np.where(usable, oh, np.nan),
    }
