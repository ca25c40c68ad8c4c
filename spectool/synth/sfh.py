"""Star-formation histories as the mass formed in each age bin of an SSP grid."""

import numpy as np

RECENT = 1e8


def age_bin_edges(age):
    """Edges of the age bins around the ages of a grid."""
    age = np.asarray(age, dtype=float)
    if age[0] <= 0:
        age = np.concatenate([[age[1] * 1e-3], age[1:]])
    inner = np.sqrt(age[1:] * age[:-1])
    return np.concatenate([[0.0], inner, [age[-1] ** 1.5 / age[-2] ** 0.5]])


def constant(edges, start, end=0.0):
    """Constant star formation between two lookback times."""
    start, end = (np.atleast_1d(np.asarray(x, float))[:, None] for x in (start, end))
    if np.any(start <= end):
        raise ValueError("star formation must begin before it ends: start (lookback) must exceed end")
    return np.diff(np.clip((np.asarray(edges) - end) / (start - end), 0, 1), axis=1)


def delayed_tau(edges, start, tau, end=0.0):
    """Delayed exponential, SFR proportional to t exp(-t / tau) with t since the onset, cut off at ``end``."""
    start, tau, end = (np.atleast_1d(np.asarray(x, float))[:, None] for x in (start, tau, end))
    if np.any(start <= end) or np.any(tau <= 0):
        raise ValueError("need start > end (lookback times) and tau > 0")

    def formed_since_onset(lookback):
        x = np.clip(start - np.maximum(lookback, end), 0, None) / tau
        return -np.expm1(-x) - x * np.exp(-x)

    formed = formed_since_onset(np.asarray(edges, float)[None, :])
    return (formed[:, :-1] - formed[:, 1:]) / formed_since_onset(end)


def share_younger_than(edges, age):
    """Share of each age bin that lies below ``age`` [yr], shape (n,): 1 below, 0 above, between where it straddles."""
    edges = np.asarray(edges, float)
    return np.clip((age - edges[:-1]) / np.diff(edges), 0, 1)


def star_formation_rate(mass_formed, edges):
    """Star-formation rate averaged over the last `RECENT` years."""
    return np.asarray(mass_formed) @ share_younger_than(edges, RECENT) / RECENT
