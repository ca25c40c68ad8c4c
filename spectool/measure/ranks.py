"""Rank correlations, plain and partial, with errors."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

FEWEST = 10
_CHUNK = 4_000_000  # numbers in memory at once while bootstrapping


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and how certain it is.

    Attributes
    ----------
    rho, error : float
        NaN with fewer than 10 galaxies.
    n, n_left_out : int
        Galaxies used, and those with a value missing or too few neighbours in mass.
    """

    rho: float
    error: float
    n: int
    n_left_out: int

    @property
    def sign(self):
        """1 or -1 where the correlation differs from 0 by more than 2 errors, else 0."""
        return int(np.sign(self.rho)) if abs(self.rho) > 2 * self.error else 0


def finite_rows(*columns):
    """Columns without the rows that miss a value, and how many rows those are.

    Parameters
    ----------
    *columns : array_like, shape (n,)

    Returns
    -------
    list of ndarray, int
    """
    columns = np.broadcast_arrays(*(np.asarray(c, float).ravel() for c in columns))
    good = np.isfinite(columns).all(axis=0)
    return [c[good] for c in columns], int((~good).sum())


def spearman(x, y, *, control=None, n_bootstrap=300, seed=0):
    """Spearman's rank correlation, at fixed rank of a third quantity if asked, and its error.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    control : array_like, shape (n,), optional
        Partial correlation: (r_xy - r_xc r_yc) / sqrt((1 - r_xc^2) (1 - r_yc^2)) of the ranks.
    n_bootstrap : int
        Resamplings for the error; 0: (1 - rho^2) sqrt((1 + rho^2 / 2) / (n - 3)), instantly (Bonett & Wright 2000,
        Psychometrika 65, 23, whose square root is that of arctanh rho; n - 4 if partial).
    seed : int or numpy.random.Generator

    Returns
    -------
    Correlation
    """
    columns, left_out = finite_rows(x, y) if control is None else finite_rows(x, y, control)
    columns, n = np.stack(columns), columns[0].size
    if n < FEWEST:
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
