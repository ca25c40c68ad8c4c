"""What the galaxy-map dashboard draws of a sample of spectra across galaxies: sources, gradients, cells, photometry."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.spatial import ConvexHull, QhullError, Voronoi

from spectool.surveys.jpas import FILTERS

QUANTITIES = {"log_age": "log age (Gyr)", "log_z": "log Z/Z☉"}
TRUTH, FITTED = "truth", "fitted"
NEEDED = ("flux", "galaxy_index", "x", "y", "radius", *QUANTITIES)
N_RING = 72  # points outside a galaxy that close the cells at its edge


@dataclass(frozen=True)
class Source:
    """One version of the ages and metallicities of all spectra."""

    values: dict
    errors: dict
    predicted: bool


def read_sources(sample, predictions):
    """Collect all versions of the ages and metallicities of a sample."""
    missing = [name for name in NEEDED if name not in sample]
    if missing:
        raise ValueError(f"the sample lacks {', '.join(missing)}")
    n = sample.sizes["spectrum"]
    sources = {TRUTH: _source(TRUTH, {q: sample[q] for q in QUANTITIES}, n, predicted=False)}
    if all(f"{q}_fit" in sample for q in QUANTITIES):
        fitted = {q: sample[f"{q}_fit"] for q in QUANTITIES}
        sources[FITTED] = _source(FITTED, fitted, n, predicted=False)
    for name, columns in predictions.items():
        if name in sources:
            raise ValueError(f"a prediction cannot be called {name!r}: the labels are")
        sources[name] = _source(name, columns, n, predicted=True)
    return sources


def _source(name, columns, n, *, predicted):
    missing = [q for q in QUANTITIES if q not in columns]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    values = {q: np.asarray(columns[q], dtype=float) for q in QUANTITIES}
    errors = {
        q: np.asarray(columns[f"{q}_error"], dtype=float) for q in QUANTITIES if f"{q}_error" in columns
    }
    for array in (*values.values(), *errors.values()):
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape}; the sample has {n} spectra")
    return Source(values, errors, predicted)


def describe_galaxy(sample, galaxy, n_spectra):
    """One line about a galaxy, for a menu."""
    row = sample.isel(galaxy=galaxy)
    parts = [str(row["galaxy_name"].item()) if "galaxy_name" in row else f"galaxy {galaxy}"]
    if "is_early" in row:
        parts.append("early" if row["is_early"].item() else "late")
    if "log_mass" in row:
        parts.append(f"log M* {float(row['log_mass']):.1f}")
    if "inclination" in row:
        parts.append(f"i {float(row['inclination']):.0f}°")
    return " · ".join([*parts, f"{n_spectra} spectra"])


def describe_map(state):
    """What the map of an `IfuState` shows, in a few words."""
    quantity = QUANTITIES[state.quantity]
    if state.view == "value":
        return f"{state.source}: {quantity}"
    name = quantity.removesuffix(" (Gyr)")
    if state.view == "error":
        return f"{state.source}: predicted error of {name} (dex)"
    return f"{state.source} − {state.reference}: {name} (dex)"


def galaxy_sample(sample, index, sources):
    """Lay out one galaxy as a sample of its own, every source and quantity a column: what gradients are fitted to."""
    columns = []
    data = {
        "galaxy_index": ("spectrum", np.zeros(index.size, dtype=int)),
        "radius": ("spectrum", np.asarray(sample["radius"].values[index], dtype=float)),
    }
    for name, source in sources.items():
        for quantity, values in source.values.items():
            columns.append(column_name(name, quantity))
            data[columns[-1]] = ("spectrum", values[index], {"units": "dex"})
    return xr.Dataset(data), columns


def column_name(source, quantity):
    """Name of the column that `galaxy_sample` gives a source's quantity."""
    return f"{source}|{quantity}"


# ---- the map


def cell_outlines(x, y):
    """Outline the cell of each spectrum: what of the galaxy is nearer to it than to any other."""
    points = np.column_stack([x, y]).astype(float)
    unique, first = np.unique(points, axis=0, return_index=True)
    spacing = np.sqrt(np.prod(np.ptp(unique, axis=0) + 1e-9) / max(len(unique), 1)) if len(unique) else 1.0
    square = 0.3 * max(spacing, 1e-3) * np.array([[-1, 1, 1, -1], [-1, -1, 1, 1]])
    outlines = [point[:, None] + square for point in points]
    try:
        cells = Voronoi(np.vstack([unique, _ring(unique, spacing)]))
    except (QhullError, ValueError):
        return outlines
    for k, original in enumerate(first):
        corners = cells.regions[cells.point_region[k]]
        if len(corners) > 2 and -1 not in corners:
            outlines[original] = cells.vertices[corners].T
    return outlines


def _ring(points, spacing):
    """Points around a set of points, about one spacing outside its hull: (N_RING, 2)."""
    corners = points[ConvexHull(points).vertices]
    closed = np.vstack([corners, corners[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0, along[-1], N_RING, endpoint=False)
    outline = np.column_stack([np.interp(at, along, closed[:, k]) for k in range(2)])
    outward = outline - corners.mean(axis=0)
    return outline + spacing * outward / np.hypot(*outward.T)[:, None]


def radius_ellipse(x, y, radius, *, at=1.0):
    """Draw where the deprojected radius has a value: squared, it is a quadratic form of the position."""
    x, y, radius = (np.asarray(v, dtype=float) for v in (x, y, radius))
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(radius)
    design = np.column_stack([x**2, x * y, y**2])[good]
    if good.sum() < 3:
        return np.zeros(0), np.zeros(0)
    (a, b, c), *_ = np.linalg.lstsq(design, radius[good] ** 2, rcond=None)
    angle = np.linspace(0, 2 * np.pi, 121)
    form = a * np.cos(angle) ** 2 + b * np.cos(angle) * np.sin(angle) + c * np.sin(angle) ** 2
    if not np.all(form > 0):
        return np.zeros(0), np.zeros(0)
    distance = at / np.sqrt(form)
    return distance * np.cos(angle), distance * np.sin(angle)


# ---- the spectrum of one of its cells


def band_wavelengths(sample):
    """Central wavelength and width of each band of a sample."""
    filters = np.array([FILTERS[str(name)] for name in sample["band"].values], dtype=float)
    return filters[:, 0], filters[:, 1]


def bands_of(sample, spectrum):
    """Photometry of one spectrum, relative to its mean."""
    one = sample[[n for n in ("flux", "flux_error", "mask") if n in sample]].isel(spectrum=spectrum)
    flux = np.array(one["flux"].values, dtype=float)
    if "mask" in one:
        flux[one["mask"].values.astype(bool)] = np.nan
    mean = np.nanmean(flux) if np.isfinite(flux).any() else np.nan
    error = np.asarray(one["flux_error"].values, dtype=float) if "flux_error" in one else np.zeros(flux.size)
    return flux / mean, np.where(np.isfinite(flux), error / mean, np.nan)


def to_f_nu(wavelength, flux, band_wavelength, bands):
    """Turn a spectrum's f_lambda into f_nu on the scale of its photometry."""
    f_nu = np.asarray(flux, dtype=float) * (np.asarray(wavelength, dtype=float) / 5000.0) ** 2
    inside = (band_wavelength > wavelength[0]) & (band_wavelength < wavelength[-1]) & np.isfinite(bands)
    good = np.isfinite(f_nu)
    if not inside.any() or not good.any():
        return np.full(f_nu.shape, np.nan)
    at_bands = np.interp(band_wavelength[inside], np.asarray(wavelength)[good], f_nu[good])
    return f_nu * np.median(bands[inside] / at_bands)
