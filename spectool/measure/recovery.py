"""Recovered against original line fluxes: percentiles in bins, scatter, and the paper's own figures beside them."""

import numpy as np

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
