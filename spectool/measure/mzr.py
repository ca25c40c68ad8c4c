"""The mass-metallicity relation: published ones, bins, medians and trends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import betainc

from spectool.measure.stats import finite_rows, group_rows, percentiles_by_group, spearman
from spectool.spectra import Z_SUN
from spectool.synth.relations import stellar_metallicity


@dataclass(frozen=True)
class Relation:
    """A published mass-metallicity relation."""

    name: str
    curve: Callable
    mass_range: tuple
    scale: str
    reference: str
    note: str = ""

    def __call__(self, log_mass):
        """Metallicity at given masses, NaN beyond the relation's; `scale` says of what."""
        log_mass = np.asarray(log_mass, float)
        inside = (log_mass >= self.mass_range[0]) & (log_mass <= self.mass_range[1])
        return np.where(inside, self.curve(log_mass), np.nan)


def _turnover(oxygen, log_mass_0, slope, width):
    """The form of Curti et al. (2020, eq. 2): a power law that saturates over a width."""
    return lambda log_mass: oxygen - slope / width * np.log10(1 + 10.0 ** (-width * (log_mass - log_mass_0)))


_ROWS = (
    Relation(
        "Scholte et al. 2024",
        _turnover(8.854, 10.49, 0.2439, 1.20),
        (6.5, 11.5),
        "R23 and N2 of DESI's star-forming galaxies",
        "Scholte et al. (2024, arXiv:2408.03996), the fit to the line-flux-limited sample as its first author gives it",
        "Stands in for Scholte & Saintonge (2023, MNRAS 518, 353), the reference of Scourfield et al. (2023), of whose "
        "curve we found no public numbers: same first author, another sample (DESI, not SDSS) and scale. Approximate: "
        "compare scatter and shape, not the zero point.",
    ),
    Relation(
        "Tremonti et al. 2004",
        np.polynomial.Polynomial((-1.492, 1.847, -0.08026)),
        (8.5, 11.5),
        "photo-ionisation models fitted to all strong lines (Charlot & Longhetti 2001): some 0.3 dex above PP04",
        "Tremonti et al. (2004, ApJ 613, 898), eq. 3",
    ),
    Relation(
        "Kewley & Ellison 2008",
        np.polynomial.Polynomial((32.1488, -8.51258, 0.976384, -0.0359763)),
        (8.5, 11.1),
        "PP04 O3N2",
        "Kewley & Ellison (2008, ApJ 681, 1183), Table 2, row PP04 O3N2",
    ),
    Relation(
        "Andrews & Martini 2013",
        _turnover(8.798, 8.901, 0.640, 0.640),
        (7.4, 10.5),
        "electron temperatures in stacked SDSS spectra",
        "Andrews & Martini (2013, ApJ 765, 140), eq. 5 and Table 4",
    ),
    Relation(
        "Curti et al. 2020",
        _turnover(8.793, 10.02, 0.28, 1.2),
        (7.95, 11.85),
        "Curti 2020: strong lines tied to electron temperatures",
        "Curti et al. (2020, MNRAS 491, 944), eq. 2 and Table 4",
    ),
)

RELATIONS = {relation.name: relation for relation in _ROWS}
"""Name -> `Relation` of the gas. Masses are for a Kroupa or Chabrier IMF (0.03 dex apart, not told apart)."""

# Zahid et al. (2017), Table 4: log Z/Zsun (0.0142) in bins of 0.1 dex around log M* = 8.55, 8.65, ... 10.95. Here the
# mean over its five bins of star-formation rate, which hold equally many galaxies each.
_ZAHID_MASS = 8.55 + 0.1 * np.arange(25)
_ZAHID_2017 = np.array(
    [
        [-0.652, -0.569, -0.586, -0.599, -0.474],
        [-0.498, -0.448, -0.416, -0.355, -0.285],
        [-0.228, -0.190, -0.144, -0.120, -0.078],
        [-0.040, -0.008, 0.024, 0.029, 0.046],
        [0.050, 0.044, 0.031, 0.021, 0.014],
    ]
).ravel()

_STELLAR_ROWS = (
    Relation(
        "Zahid et al. 2017",
        lambda log_mass: np.interp(log_mass, _ZAHID_MASS, _ZAHID_2017) + np.log10(0.0142 / Z_SUN),
        (8.55, 10.95),
        "single bursts of FSPS (MIST, MILES) fitted to stacks of star-forming SDSS galaxies, weighted by light",
        "Zahid et al. (2017, ApJ 847, 18), Table 4, mean over its five bins of star-formation rate",
        "Counted from Zsun = 0.0142 there, from 0.02 here: 0.149 dex lower for the same metals.",
    ),
    Relation(
        "Gallazzi et al. 2005",
        lambda log_mass: stellar_metallicity(log_mass)[0],
        (8.91, 11.91),
        "five absorption indices of single SDSS galaxies against BC03 models, weighted by light, Zsun = 0.02",
        "Gallazzi et al. (2005, MNRAS 362, 41), Table 2, medians",
        "Of galaxies of all kinds. The mock galaxies were drawn from it: to find it again says nothing about galaxies.",
    ),
)

STELLAR_RELATIONS = {relation.name: relation for relation in _STELLAR_ROWS}
"""Name -> `Relation` of the stars: log Z/Zsun, Zsun = `Z_SUN`."""


BIN_WIDTH = 0.2
N_MASS, N_SFR = 15, 10


def mass_bins(x):
    """Edges of bins of one width, at its multiples, that hold all finite values."""
    x = np.asarray(x, float)
    x = x[np.isfinite(x)]
    if not x.size:
        raise ValueError("there is no finite value to bin")
    first, last = np.floor(x.min() / BIN_WIDTH), np.floor(x.max() / BIN_WIDTH) + 1
    return BIN_WIDTH * np.arange(first, last + 1)


def equal_bins(values, n):
    """Sort values into bins that hold the same number of them, to within one."""
    values = np.asarray(values, float)
    if values.size < n:
        raise ValueError(f"{values.size} galaxies cannot fill {n} bins")
    place = np.empty(values.size, int)
    place[np.argsort(values, kind="stable")] = np.arange(values.size) * n // values.size
    return place


def running_median(x, y, *, bins=None, min_count=10):
    """Median and percentiles of y in bins of x.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Rows that are not finite are left out and counted.
    bins : array_like, optional
        Edges; the lower belongs to a bin, as does the last one's upper. Default `mass_bins`.
    min_count : int

    Returns
    -------
    Dataset, dim ``bin``
        ``x`` (median in the bin), ``low``, ``high`` (edges), ``q16``, ``median``, ``q84``, ``median_error`` (Maritz and
        Jarrett 1978, JASA 73, 194: what infinitely many bootstraps give), ``count``. ``attrs``: ``n_left_out``, rows
        that are not finite or beyond the bins.
    """
    (x, y), left_out = finite_rows(x, y)
    edges = mass_bins(x) if bins is None else np.asarray(bins, float)
    place = np.searchsorted(edges, x, side="right") - 1
    place[x == edges[-1]] = edges.size - 2
    groups, fewest = group_rows(place, edges.size - 1), max(min_count, 2)
    count = np.array([rows.size for rows in groups])
    percentiles = percentiles_by_group(y, groups, min_count=fewest)
    out = dict(zip(("q16", "median", "q84"), percentiles, strict=True))
    enough = [rows if rows.size >= fewest else rows[:0] for rows in groups]
    out["median_error"] = np.array([_median_error(y[rows]) if rows.size else np.nan for rows in enough])
    out["x"] = np.array([np.median(x[rows]) if rows.size else np.nan for rows in enough])
    out |= {"low": edges[:-1], "high": edges[1:], "count": count}
    columns = {name: ("bin", values, {"units": ""}) for name, values in out.items()}
    return xr.Dataset(columns, attrs={"n_left_out": left_out + x.size - int(count.sum())})


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
        [dex]: ``offset``, the median residual; ``std`` about the mean residual (blind to a constant between scales)
        and ``std_error``, from the residuals' fourth moment. And ``n``, ``n_left_out``.
    """
    log_mass = np.asarray(log_mass, float)
    (residual,), left_out = finite_rows(np.asarray(oxygen, float) - relation(log_mass))
    n = residual.size
    result = dict.fromkeys(("offset", "std", "std_error"), np.nan) | {"n": n, "n_left_out": left_out}
    if n < 2:
        return result
    variance, fourth = residual.var(ddof=1), np.mean((residual - residual.mean()) ** 4)
    error = float(np.sqrt(max(fourth - variance**2, 0) / n / (4 * variance))) if variance else 0.0
    return result | {
        "offset": float(np.median(residual)),
        "std": float(np.sqrt(variance)),
        "std_error": error,
    }


def residuals(log_mass, value, *, bins=None, min_count=10):
    """What is left of a quantity when its median at each mass is taken away."""
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


def spearman_at_fixed_mass(log_mass, first, second, *, bins=None, min_count=10, n_bootstrap=300, seed=0):
    """Whether one quantity follows another among galaxies of the same mass.

    Parameters
    ----------
    log_mass, first, second : array_like, shape (n,)
        Say metallicity and star formation, or true and measured metallicity. Rows with a value missing are left out.
    bins, min_count, n_bootstrap, seed
        As for `running_median` and `spearman`; the running medians are not redrawn.

    Returns
    -------
    Correlation
        Of the distances of both from their own running medians, which may be any curves: 0 if one knows mass alone.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(first) & np.isfinite(second)
    kept = [np.where(both, v, np.nan) for v in (first, second)]
    left = [residuals(log_mass, v, bins=bins, min_count=min_count) for v in kept]
    return spearman(*left, n_bootstrap=n_bootstrap, seed=seed)


def bin_mass_and_sfr(log_mass, log_sfr, log_z):
    """Medians in 15 bins of mass, each cut into 10 bins of star-formation rate, all with as many galaxies.

    Parameters
    ----------
    log_mass, log_sfr, log_z : array_like, shape (galaxy,)
        [dex(Msun)], [dex(Msun / yr)], [dex]. Rows that are not finite are left out and counted.

    Returns
    -------
    Dataset
        (mass_bin, sfr_bin): medians ``log_mass``, ``log_sfr``, ``log_z``; ``excess``, the median distance from the
        straight line of log Z on mass within the mass bin, as bins have a width; ``log_z_error``, the standard error
        of both; ``count``. (mass_bin,): ``rho`` and ``rho_error``, Spearman's correlation of log Z with SFR at fixed
        rank of mass. ``attrs``: ``n_left_out``.

    Raises
    ------
    ValueError
        If fewer than ten galaxies are left for a cell.
    """
    (mass, sfr, metal), left_out = finite_rows(log_mass, log_sfr, log_z)
    if mass.size < 10 * N_MASS * N_SFR:
        raise ValueError(
            f"{mass.size} galaxies with mass, SFR and metallicity are too few for {N_MASS} x {N_SFR} bins of ten"
        )
    names = ("log_mass", "log_sfr", "log_z", "excess", "log_z_error", "count")
    cells = {name: np.empty((N_MASS, N_SFR)) for name in names}
    trend = {name: np.empty(N_MASS) for name in ("rho", "rho_error")}
    for i, rows in enumerate(group_rows(equal_bins(mass, N_MASS), N_MASS)):
        by_sfr = equal_bins(sfr[rows], N_SFR)
        excess = metal[rows] - np.polyval(np.polyfit(mass[rows], metal[rows], 1), mass[rows])
        binned = running_median(by_sfr, excess, bins=np.arange(N_SFR + 1) - 0.5)
        cells["excess"][i], cells["log_z_error"][i] = binned["median"], binned["median_error"]
        cells["count"][i] = binned["count"]
        for name, values in (("log_mass", mass), ("log_sfr", sfr), ("log_z", metal)):
            cells[name][i] = [np.median(values[rows[some]]) for some in group_rows(by_sfr, N_SFR)]
        partial = spearman(sfr[rows], metal[rows], control=mass[rows], n_bootstrap=0)
        trend["rho"][i], trend["rho_error"][i] = partial.rho, partial.error
    units = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "count": ""}
    columns = {n: (("mass_bin", "sfr_bin"), v, {"units": units.get(n, "dex")}) for n, v in cells.items()}
    columns |= {n: ("mass_bin", v, {"units": ""}) for n, v in trend.items()}
    return xr.Dataset(columns, attrs={"n_left_out": left_out})


def trend_at_fixed_mass(binned):
    """How many mass bins show a trend with star formation, and how large it is.

    Parameters
    ----------
    binned : Dataset
        From `bin_mass_and_sfr`.

    Returns
    -------
    dict
        ``rho``, ``rho_error``: mean of the mass bins' correlations; ``change``, ``change_error``: mean change of
        ``excess`` [dex] from the lowest to the highest bin of SFR; ``n_negative``, ``n_positive``: bins whose
        correlation is not 0 by more than 3 errors; ``n``: bins.
    """
    rho, error = binned["rho"].values, binned["rho_error"].values
    difference = (binned["excess"][:, -1] - binned["excess"][:, 0]).values
    variance = (binned["log_z_error"][:, -1] ** 2 + binned["log_z_error"][:, 0] ** 2).values
    return {
        "rho": float(rho.mean()),
        "rho_error": float(np.sqrt((error**2).sum()) / rho.size),
        "change": float(difference.mean()),
        "change_error": float(np.sqrt(variance.sum()) / rho.size),
        "n_negative": int((rho < -3 * error).sum()),
        "n_positive": int((rho > 3 * error).sum()),
        "n": rho.size,
    }
