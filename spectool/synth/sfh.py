"""Star-formation histories as the mass formed in each age bin of an SSP grid.

Each function takes one value per galaxy and returns ``(galaxy, age)`` fractions of the mass ever formed; they add,
so that a delayed-tau history with a burst is ``(1 - f) * delayed_tau(...) + f * constant(...)``. The bins are
integrated exactly: no sampling of the history in time.
"""

import numpy as np


def age_bin_edges(age):
    """Edges of the age bins around the ages of a grid.

    Parameters
    ----------
    age : array_like, shape (n,)
        Increasing ages [yr].

    Returns
    -------
    ndarray, shape (n + 1,)
        Edges [yr]: 0, geometric means of neighbours, and the last age moved by its half bin.
    """
    age = np.asarray(age, dtype=float)
    if age[0] <= 0:
        age = np.concatenate([[age[1] * 1e-3], age[1:]])
    inner = np.sqrt(age[1:] * age[:-1])
    return np.concatenate([[0.0], inner, [age[-1] ** 1.5 / age[-2] ** 0.5]])


def constant(edges, start, end=0.0):
    """Constant star formation between two lookback times.

    Parameters
    ----------
    edges : array_like, shape (n + 1,)
        Age-bin edges [yr].
    start, end : float or array_like, shape (galaxy,)
        Lookback times [yr] at which star formation began and ended; ``start > end``.

    Returns
    -------
    ndarray, shape (galaxy, n)
        Fraction of the mass formed in each bin; rows sum to 1.
    """
    start, end = (np.atleast_1d(np.asarray(x, float))[:, None] for x in (start, end))
    if np.any(start <= end):
        raise ValueError("star formation must begin before it ends: start (lookback) must exceed end")
    return np.diff(np.clip((np.asarray(edges) - end) / (start - end), 0, 1), axis=1)


def delayed_tau(edges, start, tau, end=0.0):
    """Delayed exponential, SFR proportional to t exp(-t / tau) with t since the onset, cut off at ``end``.

    Parameters
    ----------
    edges : array_like, shape (n + 1,)
        Age-bin edges [yr].
    start : float or array_like, shape (galaxy,)
        Lookback time of the onset [yr].
    tau : float or array_like, shape (galaxy,)
        Time of the peak after the onset, and the e-folding time of the decline [yr].
    end : float or array_like, shape (galaxy,)
        Lookback time [yr] after which no more stars form (0: still forming).

    Returns
    -------
    ndarray, shape (galaxy, n)
        Fraction of the mass formed in each bin; rows sum to 1.
    """
    start, tau, end = (np.atleast_1d(np.asarray(x, float))[:, None] for x in (start, tau, end))
    if np.any(start <= end) or np.any(tau <= 0):
        raise ValueError("need start > end (lookback times) and tau > 0")

    def formed_since_onset(lookback):
        x = np.clip(start - np.maximum(lookback, end), 0, None) / tau
        return -np.expm1(-x) - x * np.exp(-x)

    formed = formed_since_onset(np.asarray(edges, float)[None, :])
    return (formed[:, :-1] - formed[:, 1:]) / formed_since_onset(end)


def piecewise(edges, bin_edges, bin_mass):
    """Non-parametric history: constant star formation within each of the user's bins.

    Parameters
    ----------
    edges : array_like, shape (n + 1,)
        Age-bin edges of the grid [yr].
    bin_edges : array_like, shape (k + 1,)
        Lookback times of the user's bins [yr], increasing.
    bin_mass : array_like, shape (galaxy, k)
        Mass (or mass fraction) formed in each.

    Returns
    -------
    ndarray, shape (galaxy, n)
        Mass formed in each of the grid's bins; rows sum to those of ``bin_mass`` if the grid covers the bins.
    """
    low, high = np.asarray(bin_edges, float)[:-1, None], np.asarray(bin_edges, float)[1:, None]
    share = np.diff(np.clip((np.asarray(edges, float)[None, :] - low) / (high - low), 0, 1), axis=1)
    return np.atleast_2d(bin_mass) @ share


def share_younger_than(edges, age):
    """Share of each age bin that lies below ``age`` [yr], shape (n,): 1 below, 0 above, between where it straddles."""
    edges = np.asarray(edges, float)
    return np.clip((age - edges[:-1]) / np.diff(edges), 0, 1)


def star_formation_rate(mass_formed, edges, timescale=1e8):
    """Star-formation rate averaged over the last ``timescale`` years.

    Parameters
    ----------
    mass_formed : array_like, shape (..., n)
        Mass formed in each age bin [Msun].
    edges : array_like, shape (n + 1,)
        Age-bin edges [yr].
    timescale : float
        [yr]

    Returns
    -------
    ndarray, shape (...,)
        [Msun / yr]
    """
    return np.asarray(mass_formed) @ share_younger_than(edges, timescale) / timescale
