"""The mass-metallicity relation: medians in bins of mass, scatter about published curves, trends at fixed mass."""

import numpy as np
import xarray as xr
from scipy.special import betainc

from spectool.measure.mzr_relations import RELATIONS as RELATIONS
from spectool.measure.mzr_relations import Relation as Relation
from spectool.measure.ranks import Correlation as Correlation
from spectool.measure.ranks import finite_rows, spearman

MAD_TO_SIGMA = 1.482602


def mass_bins(x, *, width=0.2):
    """Edges of bins of one width, at its multiples, that hold all finite values.

    Parameters
    ----------
    x : array_like
    width : float

    Returns
    -------
    ndarray
    """
    x = np.asarray(x, float)
    x = x[np.isfinite(x)]
    if not x.size:
        raise ValueError("there is no finite value to bin")
    first, last = np.floor(x.min() / width), np.floor(x.max() / width) + 1
    return width * np.arange(first, last + 1)


def running_median(x, y, *, bins=None, error=None, min_count=10):
    """Median and percentiles of y in bins of x.

    The error of the median is that of Maritz & Jarrett (1978, JASA 73, 194): what infinitely many bootstraps give,
    without drawing any.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Rows that are not finite are left out and counted.
    bins : array_like, optional
        Edges; the lower belongs to a bin, as does the last one's upper. Default `mass_bins`.
    error : array_like, shape (n,), optional
        Of y.
    min_count : int
        Bins with fewer have NaN.

    Returns
    -------
    Dataset, dim ``bin``
        ``x`` (median of x in the bin), ``low``, ``high`` (edges), ``q16``, ``median``, ``q84``, ``median_error``,
        ``count``; ``typical_error``, the median of `error`, if given. ``attrs``: ``n_left_out``, rows that are not
        finite or beyond the bins.
    """
    given = np.ones(np.shape(x)) if error is None else error
    (x, y, given), left_out = finite_rows(x, y, given)
    edges = mass_bins(x) if bins is None else np.asarray(bins, float)
    place = np.searchsorted(edges, x, side="right") - 1
    place[x == edges[-1]] = edges.size - 2
    names = ("x", "q16", "median", "q84", "median_error", "typical_error")
    out = {name: np.full(edges.size - 1, np.nan) for name in names}
    inside = (place >= 0) & (place < edges.size - 1)
    count = np.bincount(place[inside], minlength=edges.size - 1)
    # Integers of 16 bits are sorted by their digits, in a fifth of the time.
    order = np.flatnonzero(inside)[np.argsort(place[inside].astype(np.int16), kind="stable")]
    first = np.concatenate([[0], np.cumsum(count)])
    for i in np.flatnonzero(count >= max(min_count, 2)):
        rows = order[first[i] : first[i + 1]]
        out["q16"][i], out["median"][i], out["q84"][i] = np.percentile(y[rows], [16, 50, 84])
        out["median_error"][i] = _median_error(y[rows])
        out["x"][i] = np.median(x[rows])
        if error is not None:
            out["typical_error"][i] = np.median(given[rows])
    if error is None:
        del out["typical_error"]
    columns = {name: ("bin", values, {"units": ""}) for name, values in out.items()}
    columns |= {"low": ("bin", edges[:-1], {"units": ""}), "high": ("bin", edges[1:], {"units": ""})}
    columns["count"] = ("bin", count, {"units": ""})
    return xr.Dataset(columns, attrs={"n_left_out": left_out + int((~inside).sum())})


def _median_error(y):
    """What `scipy.stats.mstats.mjci` gives, from the values near the median alone: the others have no weight."""
    n, middle = y.size, int(0.5 * y.size + 0.5)
    reach = int(5 * np.sqrt(n)) + 1  # ten standard deviations of the median's rank
    first, last = max(middle - reach, 0), min(middle + reach, n)
    near = np.sort(np.partition(y, (first, last - 1))[first:last])
    near = near - near[near.size // 2]
    weights = np.diff(betainc(middle - 1, n - middle, np.arange(first, last + 1) / n))
    return np.sqrt(max(weights @ near**2 - (weights @ near) ** 2, 0.0))


def scatter_about(relation, log_mass, oxygen):
    """How far metallicities scatter about a relation.

    Parameters
    ----------
    relation : callable
        One of `RELATIONS`, or any function of log M*.
    log_mass, oxygen : array_like, shape (n,)
        Galaxies with a value missing or beyond the relation's masses are left out and counted.

    Returns
    -------
    dict
        [dex]: ``rms`` about the relation itself; ``offset``, the median residual; ``std`` about the mean residual,
        which scales that differ by a constant leave alone; ``robust``, 1.48 times the median absolute deviation from
        ``offset``; ``std_error``, of ``std``, from the residuals' fourth moment. And ``n``, ``n_left_out``.
    """
    log_mass = np.asarray(log_mass, float)
    (residual,), left_out = finite_rows(np.asarray(oxygen, float) - relation(log_mass))
    n = residual.size
    if n < 2:
        empty = dict.fromkeys(("rms", "offset", "std", "robust", "std_error"), np.nan)
        return empty | {"n": n, "n_left_out": left_out}
    offset, variance = np.median(residual), residual.var(ddof=1)
    fourth = np.mean((residual - residual.mean()) ** 4)
    return {
        "rms": float(np.sqrt(np.mean(residual**2))),
        "offset": float(offset),
        "std": float(np.sqrt(variance)),
        "robust": float(MAD_TO_SIGMA * np.median(np.abs(residual - offset))),
        "std_error": float(np.sqrt(max(fourth - variance**2, 0) / n / (4 * variance))) if variance else 0.0,
        "n": n,
        "n_left_out": left_out,
    }


def residuals(log_mass, value, *, bins=None, min_count=10):
    """What is left of a quantity when its median at each mass is taken away.

    Parameters
    ----------
    log_mass, value : array_like, shape (n,)
    bins, min_count
        As for `running_median`.

    Returns
    -------
    ndarray, shape (n,)
        Distance to the running median, interpolated between the bins (constant in the half bins at the ends); NaN
        where the galaxy's own bin has too few, or a value is missing.
    """
    log_mass, value = np.broadcast_arrays(np.asarray(log_mass, float), np.asarray(value, float))
    finite = np.isfinite(log_mass) & np.isfinite(value)
    if not finite.any():
        return np.full(value.shape, np.nan)
    edges = mass_bins(log_mass[finite]) if bins is None else np.asarray(bins, float)
    binned = running_median(log_mass, value, bins=edges, min_count=min_count)
    known = np.isfinite(binned["median"].values)
    if not known.any():
        return np.full(value.shape, np.nan)
    place = np.clip(np.searchsorted(edges, log_mass, side="right") - 1, 0, known.size - 1)
    usable = finite & known[place] & (log_mass >= edges[0]) & (log_mass <= edges[-1])
    expected = np.interp(log_mass, binned["x"].values[known], binned["median"].values[known])
    return np.where(usable, value - expected, np.nan)


def spearman_at_fixed_mass(
    log_mass, oxygen, third, *, method="residuals", bins=None, min_count=10, n_bootstrap=300, seed=0
):
    """Whether metallicity follows a third quantity, star formation for one, among galaxies of the same mass.

    Parameters
    ----------
    log_mass, oxygen, third : array_like, shape (n,)
        Galaxies with a value missing are left out and counted.
    method : {"residuals", "partial"}
        Correlate the distances of both from their running medians, which may be any curves; or the partial rank
        correlation, which takes both to rise or fall steadily with mass.
    bins, min_count
        Of the running medians.
    n_bootstrap, seed
        As for `spearman`. The running medians are not redrawn.

    Returns
    -------
    Correlation
        Positive: at fixed mass the metal-rich have more of `third`.
    """
    options = {"n_bootstrap": n_bootstrap, "seed": seed}
    if method == "partial":
        return spearman(oxygen, third, control=log_mass, **options)
    if method != "residuals":
        raise ValueError(f"unknown method {method!r}: choose 'residuals' or 'partial'")
    oxygen, third = np.asarray(oxygen, float), np.asarray(third, float)
    both = np.isfinite(oxygen) & np.isfinite(third)
    kept = [np.where(both, v, np.nan) for v in (oxygen, third)]
    left = [residuals(log_mass, v, bins=bins, min_count=min_count) for v in kept]
    return spearman(*left, **options)


def correlate_residuals(log_mass, first, second, *, bins=None, min_count=10, n_bootstrap=300, seed=0):
    """Whether two measurements of the same galaxies agree on who is metal-rich for its mass.

    Parameters
    ----------
    log_mass, first, second : array_like, shape (n,)
        For instance true and de-noised metallicities.
    bins, min_count, n_bootstrap, seed
        As for `spearman_at_fixed_mass`.

    Returns
    -------
    Correlation
        Of the distances of both from their own running medians: 0 if the second knows mass alone.
    """
    return spearman_at_fixed_mass(
        log_mass, first, second, bins=bins, min_count=min_count, n_bootstrap=n_bootstrap, seed=seed
    )
