"""Radial gradients in galaxies of many spectra, with errors by resampling (Liew-Cain et al. 2021, Section 3.3)."""

import numpy as np
import xarray as xr

from spectool.prepare import add_history

MAX_INCLINATION = 89.0  # degrees; a thin disc seen closer to edge-on than this has no face-on radii
MAX_RADIUS = 1.0  # effective radii
MIN_BEYOND = 1
FRACTION = 0.75
_CHUNK = 4_000_000  # numbers held at once (galaxies x resamplings x spectra)
GRADIENT_PROBLEMS = ("too few spectra inside", "too few spectra beyond", "all at one radius")


def deproject(x, y, *, position_angle, inclination, re=1.0):
    """Distances from the centre in the plane of a thin, inclined disc."""
    tilt, unit = np.asarray(inclination, float), np.asarray(re, float)
    if (tilt < 0).any() or (tilt > 90).any():
        raise ValueError("inclinations are 0 (face-on) to 90 (edge-on) degrees")
    if (unit <= 0).any():
        raise ValueError("effective radii must be positive [arcsec]")
    east, north = np.asarray(x, float), np.asarray(y, float)
    angle = np.deg2rad(np.asarray(position_angle, float))
    major = east * np.sin(angle) + north * np.cos(angle)
    minor = east * np.cos(angle) - north * np.sin(angle)
    radius = np.hypot(major, minor / np.cos(np.deg2rad(tilt))) / unit
    return np.where(tilt <= MAX_INCLINATION, radius, np.nan)


def add_radius(sample, *, position_angle, inclination, re):
    """The spectra of one galaxy with their face-on radii."""
    tilt = {"position_angle": position_angle, "inclination": inclination}
    radius = deproject(sample["x"], sample["y"], **tilt, re=re)
    attrs = {"units": "", "description": "deprojected, in effective radii"}
    out = sample.assign(radius=("spectrum", radius, attrs))
    if "galaxy_index" not in out:
        out["galaxy_index"] = ("spectrum", np.zeros(radius.size, int), {"units": ""})
    text = f"radii deprojected: PA {position_angle:g}, inclination {inclination:g} deg, Re {re:g} arcsec"
    return add_history(out, text)


def fit_gradients(sample, *, columns, min_spectra=25, n_bootstrap=100, seed, keep_fits=False):
    """Straight lines in radius through quantities within galaxies, all galaxies at once.

    Of each galaxy's spectra within one effective radius 75% are drawn without replacement, ``n_bootstrap`` times; the
    gradient is the mean slope of the least-squares lines (Liew-Cain et al. 2021, Section 3.3). All columns are fitted
    to the same spectra and the same draws.

    Parameters
    ----------
    sample : xarray.Dataset
        ``galaxy_index`` (spectrum,), rows of the dimension galaxy where it has one; ``radius`` (spectrum,) [R/Re],
        inclination corrected; the columns.
    columns : sequence of str
        Names of variables (spectrum,), such as ``log_age``, ``log_z``, or predictions of them.
    min_spectra : int
        A galaxy with fewer spectra within, or none beyond, one effective radius has no gradient.
    n_bootstrap : int
    seed : int or numpy.random.Generator
    keep_fits : bool
        Keep all the lines, to draw them.

    Returns
    -------
    xarray.Dataset, dim (galaxy,)
        For each column ``<column>_gradient`` [its unit per Re]; ``<column>_gradient_std``, the standard deviation of
        the slopes; ``<column>_gradient_error``, that divided by sqrt(1/0.75 - 1), as subsamples share most of their
        spectra (the delete-d jackknife, Shao & Wu 1989); ``<column>_central``, the lines' mean value at radius 0.
        ``n_inside``, ``n_beyond``, ``n_left_out`` (spectra whose radius, or any column, is not finite) and
        ``gradient_problem``, one of `GRADIENT_PROBLEMS` where there is no gradient, which is NaN then. With
        ``keep_fits``, ``<column>_slopes`` and ``<column>_centrals`` (galaxy, bootstrap).

    Raises
    ------
    ValueError
        If a column is missing, or there are fewer than two draws.
    """
    missing = [name for name in ("galaxy_index", "radius", *columns) if name not in sample]
    if missing:
        raise ValueError(
            f"the sample lacks {', '.join(missing)}: gradients need galaxy_index, radius and the columns"
        )
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap is {n_bootstrap}: 2 or more")
    index, radius = sample["galaxy_index"].values, sample["radius"].values.astype(float)
    values = np.stack([sample[name].values.astype(float) for name in columns])
    n_galaxies = sample.sizes["galaxy"] if "galaxy" in sample.dims else int(index.max(initial=-1)) + 1
    usable = np.isfinite(radius) & np.isfinite(values).all(axis=0)
    inside = usable & (radius < MAX_RADIUS)

    def count(rows):
        return np.bincount(index[rows], minlength=n_galaxies)

    n_inside, n_beyond, n_left_out = count(inside), count(usable & ~inside), count(~usable)
    problem = np.full(n_galaxies, "", dtype=f"U{max(map(len, GRADIENT_PROBLEMS))}")
    problem[n_beyond < MIN_BEYOND] = GRADIENT_PROBLEMS[1]
    problem[n_inside < max(min_spectra, 3)] = GRADIENT_PROBLEMS[0]
    rows, members = _members(index, inside, n_inside, problem == "")
    slopes = np.full((len(columns), n_galaxies, n_bootstrap), np.nan)
    centrals = slopes.copy()
    rng = np.random.default_rng(seed)
    step = max(_CHUNK // (n_bootstrap * max(members.shape[1], 1)), 1)
    for first in range(0, rows.size, step):
        part = slice(first, first + step)
        slopes[:, rows[part]], centrals[:, rows[part]] = _resample(
            radius[members[part]], values[:, members[part]], n_inside[rows[part]], n_bootstrap, rng
        )
    problem[(problem == "") & ~np.isfinite(slopes).all(axis=(0, 2))] = GRADIENT_PROBLEMS[2]
    out = _to_dataset(sample, columns, slopes, centrals, problem == "", keep_fits)
    for name, counts in (("n_inside", n_inside), ("n_beyond", n_beyond), ("n_left_out", n_left_out)):
        out[name] = ("galaxy", counts, {"units": ""})
    out["gradient_problem"] = ("galaxy", problem, {"units": ""})
    counts = {what: int((problem == what).sum()) for what in GRADIENT_PROBLEMS}
    text = f"gradients of {(problem == '').sum()} of {n_galaxies} galaxies within {MAX_RADIUS:g} Re"
    text += f"; {n_left_out.sum()} spectra left out" if n_left_out.any() else ""
    return add_history(out, "; ".join([text, *(f"{n} have {what}" for what, n in counts.items() if n)]))


def _members(index, inside, n_inside, good):
    """The good galaxies, and their spectra inside as rows of equal length: the last one repeated fills them up."""
    rows = np.flatnonzero(good)
    order = np.flatnonzero(inside)
    order = order[np.argsort(index[order], kind="stable")]
    start = np.concatenate([[0], np.cumsum(n_inside)[:-1]])[rows]
    place = np.minimum(np.arange(n_inside[rows].max(initial=0)), n_inside[rows][:, None] - 1)
    return rows, order[start[:, None] + place]


def _resample(radius, values, n, n_bootstrap, rng):
    """Slopes and values at radius 0, (column, galaxy, bootstrap), of lines through random shares of n spectra each."""
    size = radius.shape[1]
    real = np.arange(size) < n[:, None]
    key = np.where(real[:, None], rng.random((len(n), n_bootstrap, size), dtype=np.float32), np.float32(2))
    n_drawn = np.clip(np.rint(FRACTION * n).astype(int), 2, n - 1)
    last = np.take_along_axis(np.sort(key, axis=2), n_drawn[:, None, None] - 1, axis=2)
    drawn = (key <= last).astype(float)
    centre = np.mean(radius, axis=1, where=real, keepdims=True)
    r = np.where(real, radius - centre, 0)
    terms = np.concatenate([[np.ones_like(r), r, r**2], values, values * r])
    sums = np.einsum("gbn,tgn->tgb", drawn, terms, optimize=True)
    weight, of_r, of_rr = sums[:3]
    of_y, of_ry = np.split(sums[3:], 2)
    spread = of_rr - of_r**2 / weight
    slope, lever = np.full(of_y.shape, np.nan), spread > 1e-12 * (centre**2 + 1)
    np.divide(of_ry - of_r * of_y / weight, spread, out=slope, where=lever)
    return slope, (of_y - slope * of_r) / weight - slope * centre


def _to_dataset(sample, columns, slopes, centrals, good, keep_fits):
    out = xr.Dataset(attrs={"history": sample.attrs.get("history", "")})
    if "galaxy_name" in sample:
        out["galaxy_name"] = sample["galaxy_name"]
    for k, name in enumerate(columns):
        unit = sample[name].attrs.get("units", "")
        slope, central = (np.where(good[:, None], v[k], np.nan) for v in (slopes, centrals))
        std = slope.std(axis=1, ddof=1)
        summary = {"gradient": slope.mean(axis=1), "gradient_std": std, "central": central.mean(axis=1)}
        summary["gradient_error"] = std / np.sqrt(1 / FRACTION - 1)
        for what, numbers in summary.items():
            out[f"{name}_{what}"] = ("galaxy", numbers, {"units": unit})
        if keep_fits:
            out[f"{name}_slopes"] = (("galaxy", "bootstrap"), slope, {"units": unit})
            out[f"{name}_centrals"] = (("galaxy", "bootstrap"), central, {"units": unit})
    return out
