"""Equally populated bins in stellar mass and then in star-formation rate (Zahid et al. 2019, Fig. 4)."""

import numpy as np
import xarray as xr

from spectool.measure.mzr import running_median
from spectool.measure.ranks import finite_rows, spearman

N_MASS, N_SFR = 15, 10


def equal_bins(values, n):
    """Sort values into bins that hold the same number of them, to within one.

    Parameters
    ----------
    values : array_like, shape (k,)
        Finite.
    n : int

    Returns
    -------
    ndarray of int, shape (k,)
        0 for the smallest. Equal values may fall into different bins (the earlier row into the lower one).

    Raises
    ------
    ValueError
        If there are fewer values than bins.
    """
    values = np.asarray(values, float)
    if values.size < n:
        raise ValueError(f"{values.size} galaxies cannot fill {n} bins")
    place = np.empty(values.size, int)
    place[np.argsort(values, kind="stable")] = np.arange(values.size) * n // values.size
    return place


def bin_mass_and_sfr(log_mass, log_sfr, log_z, *, n_mass=N_MASS, n_sfr=N_SFR):
    """Medians in bins of mass, each cut into bins of star-formation rate, all with as many galaxies.

    Parameters
    ----------
    log_mass, log_sfr, log_z : array_like, shape (galaxy,)
        [dex(Msun)], [dex(Msun / yr)], [dex]. Rows that are not finite are left out and counted.
    n_mass, n_sfr : int
        15 and 10 in the paper.

    Returns
    -------
    Dataset
        (mass_bin, sfr_bin): medians ``log_mass``, ``log_sfr``, ``log_z``; ``excess``, the median distance from the
        straight line of log Z on mass within the mass bin; ``log_z_error``, the standard error of both (Maritz &
        Jarrett 1978); ``count``. (mass_bin,): ``rho`` and ``rho_error``, Spearman's correlation of log Z with SFR among
        the galaxies of a mass bin at fixed rank of mass. ``attrs``: ``n_left_out``.

        A bin has a width, the outer ones a large one, and both SFR and log Z rise with mass: without ``excess`` and
        the partial correlation, a sample without any trend at fixed mass seems to have a positive one.

    Raises
    ------
    ValueError
        If fewer than ten galaxies are left for a cell.
    """
    (mass, sfr, metal), left_out = finite_rows(log_mass, log_sfr, log_z)
    if mass.size < 10 * n_mass * n_sfr:
        raise ValueError(
            f"{mass.size} galaxies with mass, SFR and metallicity are too few for {n_mass} x {n_sfr} bins of ten"
        )
    names = ("log_mass", "log_sfr", "log_z", "excess", "log_z_error", "count")
    cells = {name: np.empty((n_mass, n_sfr)) for name in names}
    trend = {name: np.empty(n_mass) for name in ("rho", "rho_error")}
    by_mass = equal_bins(mass, n_mass)
    for i in range(n_mass):
        rows = np.flatnonzero(by_mass == i)
        by_sfr = equal_bins(sfr[rows], n_sfr)
        excess = metal[rows] - np.polyval(np.polyfit(mass[rows], metal[rows], 1), mass[rows])
        binned = running_median(by_sfr, excess, bins=np.arange(n_sfr + 1) - 0.5)
        cells["excess"][i], cells["log_z_error"][i] = binned["median"], binned["median_error"]
        cells["count"][i] = binned["count"]
        for name, values in (("log_mass", mass), ("log_sfr", sfr), ("log_z", metal)):
            cells[name][i] = [np.median(values[rows[by_sfr == j]]) for j in range(n_sfr)]
        found = spearman(sfr[rows], metal[rows], control=mass[rows], n_bootstrap=0)
        trend["rho"][i], trend["rho_error"][i] = found.rho, found.error
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
        ``rho``, ``rho_error``: mean of the bins' correlations and its standard error from theirs;
        ``change``, ``change_error``: mean over mass bins of the change of ``excess`` [dex] from the lowest to the
        highest bin of SFR, and its standard error; ``n_negative``, ``n_positive``: mass bins whose correlation is
        negative or positive by more than 3 of its errors; ``n``: mass bins.
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
