"""Rank correlations, recovery of true values."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

FEWEST = 10
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


def spearman(x, y, *, control=None, n_bootstrap=300, seed=0):
    """Spearman's rank correlation, at fixed rank of a third quantity if asked, and its error."""
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


N_BINS = 10

# Table 6 of Scourfield et al. (2023): scatter [dex] over all points and over filled bins, in its order.
PAPER_LINES = ("Hα", "Hδ", "[O III] 4363", "[S II] 6716", "[O III] 5007", "[N II] 6583")
PAPER_SCATTER = """
PCA 2:  0.52 0.33  0.51 0.39  0.82 0.61  0.64 0.44  0.65 0.54  0.68 0.50
AE 2:   0.45 0.36  0.52 0.35  0.75 0.60  0.61 0.45  0.53 0.42  0.64 0.48
VAE 2:  0.42 0.30  0.56 0.37  0.75 0.62  0.53 0.41  0.49 0.38  0.59 0.49
PCA 4:  0.44 0.31  0.56 0.39  1.00 0.59  0.58 0.37  0.70 0.56  0.64 0.51
AE 4:   0.41 0.34  0.54 0.34  0.71 0.59  0.55 0.42  0.52 0.41  0.62 0.52
VAE 4:  0.36 0.29  0.45 0.37  0.74 0.63  0.52 0.38  0.55 0.44  0.56 0.45
PCA 6:  0.43 0.37  0.70 0.42  0.82 0.55  0.58 0.38  0.72 0.57  0.62 0.49
AE 6:   0.43 0.35  0.52 0.36  0.72 0.57  0.51 0.39  0.52 0.44  0.61 0.48
VAE 6:  0.37 0.29  0.41 0.33  0.76 0.61  0.53 0.42  0.54 0.43  0.59 0.48
PCA 10: 0.55 0.37  0.64 0.40  0.86 0.61  0.60 0.42  0.73 0.56  0.71 0.57
AE 10:  0.41 0.32  0.48 0.38  0.80 0.60  0.59 0.40  0.67 0.45  0.60 0.49
VAE 10: 0.43 0.31  0.45 0.36  0.77 0.60  0.53 0.38  0.64 0.43  0.59 0.48
"""


def running_percentiles(x, y, *, n_bins=N_BINS):
    """Percentiles of recovered flux in bins of original flux, as in Fig. 9 of Scourfield et al. (2023).

    Parameters
    ----------
    x, y : array_like, shape (galaxy,)
        Logarithms of original and recovered flux; pairs that are not both finite are left out.
    n_bins : int
        Of equal width in `x`.

    Returns
    -------
    dict of str to ndarray, each shape (n_bins,)
        ``x`` (centre), ``count``, ``low``, ``middle``, ``high`` (16th, 50th, 84th percentile of `y`; NaN in
        an empty bin) and ``filled``: whether a bin holds more than N / (n_bins + 1) pairs; ``bin`` (galaxy,) is
        the bin of every pair, -1 where it has none.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    both = np.isfinite(x) & np.isfinite(y)
    n = int(both.sum())
    low, high = (x[both].min(), x[both].max()) if n else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), n_bins + 1)
    of_pair = np.full(x.shape, -1)
    of_pair[both] = np.clip(np.searchsorted(edges, x[both], side="right") - 1, 0, n_bins - 1)
    count = np.bincount(of_pair[both], minlength=n_bins)
    percentiles = np.full((3, n_bins), np.nan)
    for k in np.flatnonzero(count):
        percentiles[:, k] = np.percentile(y[of_pair == k], (16, 50, 84))
    return {
        "x": 0.5 * (edges[1:] + edges[:-1]),
        "count": count,
        **dict(zip(("low", "middle", "high"), percentiles, strict=True)),
        "filled": count > n / (n_bins + 1),
        "bin": of_pair,
    }


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
        ``n_original`` (galaxies with the line in the original), ``n_recovered`` (in both), and of log recovered
        minus log original [dex]: ``sigma`` (standard deviation), ``sigma_fill`` (in filled bins alone),
        ``median``. NaN where there is no pair.
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


def paper_scatter(source, line):
    """Scatter of peak fluxes in Table 6 of Scourfield et al. (2023).

    Parameters
    ----------
    source, line : str

    Returns
    -------
    (float, float) or None
        Over all points and over filled bins [dex]; None where the paper gives none.
    """
    rows = dict(row.split(":") for row in PAPER_SCATTER.strip().splitlines())
    if line not in PAPER_LINES or source not in rows:
        return None
    k = 2 * PAPER_LINES.index(line)
    sigma, filled = rows[source].split()[k : k + 2]
    return float(sigma), float(filled)
