"""Rank correlations, percentiles in bins, recovery of true values."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.stats import rankdata

_FEWEST = 10
_N_BINS = 10
_CHUNK = 4_000_000  # numbers in memory at once while bootstrapping


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and how certain it is."""

    rho: float
    error: float
    n: int
    n_left_out: int

    @property
    def sign(self):
        """1 or -1 where the correlation differs from 0 by more than 2 errors, else 0."""
        return int(np.sign(self.rho)) if abs(self.rho) > 2 * self.error else 0


def finite_rows(*columns):
    """Columns without the rows that miss a value, and how many rows those are."""
    columns = np.broadcast_arrays(*(np.asarray(c, float).ravel() for c in columns))
    good = np.isfinite(columns).all(axis=0)
    return [c[good] for c in columns], int((~good).sum())


def numeric_columns(values):
    """Columns (galaxy, k) of a Dataset or of a DataArray as float64, and their names."""
    if isinstance(values, xr.Dataset):
        columns = values.data_vars.items()
        names = [name for name, v in columns if v.dims == ("galaxy",) and v.dtype.kind in "fiu"]
        if not names:
            raise ValueError("the Dataset has no numeric per-galaxy column")
        return np.stack([values[n].values.astype(float) for n in names], axis=1), names
    if not isinstance(values, xr.DataArray) or values.ndim != 2 or "galaxy" not in values.dims:
        raise ValueError("give a Dataset of per-galaxy columns or a DataArray (galaxy, columns)")
    values = values.transpose("galaxy", ...)
    return values.values.astype(float), values[values.dims[1]].values.tolist()


def spearman(x, y, *, control=None, n_bootstrap=300, seed=0):
    """Spearman's rank correlation, at fixed rank of a third quantity if asked, and its error."""
    columns, left_out = finite_rows(x, y) if control is None else finite_rows(x, y, control)
    columns, n = np.stack(columns), columns[0].size
    if n < _FEWEST:
        return Correlation(np.nan, np.nan, n, left_out)
    rho = float(_rank_correlation(columns[:, None])[0])
    if not n_bootstrap:
        error = (1 - rho**2) * np.sqrt((1 + rho**2 / 2) / (n - len(columns) - 1))
        return Correlation(rho, float(error), n, left_out)
    rng, drawn = np.random.default_rng(seed), []
    step = max(1, _CHUNK // (n * len(columns)))
    for first in range(0, n_bootstrap, step):
        rows = rng.integers(n, size=(min(step, n_bootstrap - first), n))
        drawn.append(_rank_correlation(columns[:, rows]))
    return Correlation(rho, float(np.nanstd(np.concatenate(drawn))), n, left_out)


def _rank_correlation(columns):
    """(Partial) rank correlations; shape (2 or 3, draw, n) -> (draw,)."""
    ranks = rankdata(columns, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    norm = np.sqrt((ranks**2).sum(axis=-1))

    def r(i, j):
        return (ranks[i] * ranks[j]).sum(axis=-1) / (norm[i] * norm[j])

    with np.errstate(divide="ignore", invalid="ignore"):
        if len(ranks) == 2:
            return r(0, 1)
        return (r(0, 1) - r(0, 2) * r(1, 2)) / np.sqrt((1 - r(0, 2) ** 2) * (1 - r(1, 2) ** 2))


def group_rows(place, n):
    """Rows in each of n bins, given every row's bin; rows placed elsewhere are in none."""
    # Short integers are sorted by digits, five times faster.
    place = np.where((place >= 0) & (place < n), place, n).astype(np.int16)
    order = np.argsort(place, kind="stable")
    return np.split(order, np.searchsorted(place[order], np.arange(1, n + 1)))[:-1]


def percentiles_by_group(values, groups, *, min_count=1):
    """16th, 50th and 84th percentile in each group of rows, (3, group); NaN with fewer than min_count."""
    result = np.full((3, len(groups)), np.nan)
    for k, rows in enumerate(groups):
        if rows.size >= min_count:
            result[:, k] = np.percentile(values[rows], (16, 50, 84))
    return result


def running_percentiles(x, y):
    """Percentiles of recovered in equal bins of original flux (Scourfield et al. 2023, Fig. 9).

    Parameters
    ----------
    x, y : array_like, shape (galaxy,)
        Logarithms of original and recovered flux; pairs that are not both finite are left out.

    Returns
    -------
    dict of str to ndarray, each shape (10,)
        ``x`` (centre), ``count``, ``low``, ``middle``, ``high`` (16th, 50th, 84th percentile of `y`; NaN in an empty
        bin), ``filled`` (more than N / 11 pairs); ``bin`` (galaxy,) of every pair, -1 where it has none.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    both = np.isfinite(x) & np.isfinite(y)
    n = int(both.sum())
    low, high = (x[both].min(), x[both].max()) if n else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), _N_BINS + 1)
    of_pair = np.full(x.shape, -1)
    of_pair[both] = np.clip(np.searchsorted(edges, x[both], side="right") - 1, 0, _N_BINS - 1)
    count = np.bincount(of_pair[both], minlength=_N_BINS)
    low, middle, high = percentiles_by_group(y, group_rows(of_pair, _N_BINS))
    bins = {"x": 0.5 * (edges[1:] + edges[:-1]), "low": low, "middle": middle, "high": high}
    return bins | {"count": count, "filled": count > n / (_N_BINS + 1), "bin": of_pair}


def summarize(x, y, bins):
    """Scatter of recovered about original flux.

    Parameters
    ----------
    x, y : array_like, shape (galaxy,)
        Logarithms of original and recovered flux.
    bins : dict
        From `running_percentiles` of the same pairs.

    Returns
    -------
    dict
        ``n_original`` (with the line in the original), ``n_recovered`` (in both); of log recovered minus original
        [dex] ``sigma`` (standard deviation), ``sigma_fill`` (in filled bins), ``median``; NaN without a pair.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    paired = bins["bin"] >= 0
    filled = paired & bins["filled"][bins["bin"]]
    difference = y - x
    return {
        "n_original": int(np.isfinite(x).sum()),
        "n_recovered": int(paired.sum()),
        "sigma": float(np.std(difference[paired])) if paired.any() else np.nan,
        "sigma_fill": float(np.std(difference[filled])) if filled.any() else np.nan,
        "median": float(np.median(difference[paired])) if paired.any() else np.nan,
    }
