"""Sets A and B of Liew-Cain et al. (2021): spectra of galaxies split by spectrum, or by galaxy."""

from __future__ import annotations

import numpy as np
import xarray as xr

N_FOLDS = 4
VALIDATION = 0.2
"""Part of the training spectra (Set A) or galaxies (Set B) that stops the training."""


def split_spectra(sample: xr.Dataset, *, by: str, n_folds: int = N_FOLDS, seed=0) -> np.ndarray:
    """Fold of each spectrum (spectrum,), int.

    Parameters
    ----------
    sample
        With ``galaxy_index`` (spectrum).
    by
        ``"spectrum"``: Set A, the spectra of each galaxy are dealt out to the folds, as equally as can be.
        ``"galaxy"``: Set B, the galaxies are.
    n_folds
    seed

    Raises
    ------
    ValueError
        If `by` is unknown, or there are fewer galaxies than folds.
    """
    rng = np.random.default_rng(seed)
    galaxies, which = np.unique(sample["galaxy_index"].values, return_inverse=True)
    if by == "galaxy":
        if len(galaxies) < n_folds:
            raise ValueError(f"{len(galaxies)} galaxies cannot be split into {n_folds} folds")
        return (rng.permutation(len(galaxies)) % n_folds)[which]
    if by != "spectrum":
        raise ValueError(f'spectra are split by "spectrum" or by "galaxy", not by {by!r}')
    # Shuffled within each galaxy, then dealt out in turn, from a fold that differs from galaxy to galaxy.
    order = np.lexsort((rng.random(len(which)), which))
    first = np.searchsorted(which[order], np.arange(len(galaxies)))
    place = (
        np.arange(len(which)) - first[which[order]] + rng.integers(n_folds, size=len(galaxies))[which[order]]
    )
    fold = np.empty(len(which), dtype=int)
    fold[order] = place % n_folds
    return fold


def set_a_folds(sample: xr.Dataset, *, seed=0) -> np.ndarray:
    """Set A: a quarter of the spectra of each galaxy in each of four folds."""
    return split_spectra(sample, by="spectrum", seed=seed)


def set_b_folds(sample: xr.Dataset, *, seed=0) -> np.ndarray:
    """Set B: a quarter of the galaxies, with all their spectra, in each of four folds."""
    return split_spectra(sample, by="galaxy", seed=seed)


def hold_out(sample: xr.Dataset, rows: np.ndarray, *, by: str, share: float = VALIDATION, seed=0):
    """Split rows of training spectra into those that train and those that stop the training.

    Parameters
    ----------
    sample
    rows
        Indices of spectra.
    by
        ``"spectrum"``: single spectra are held out. ``"galaxy"``: whole galaxies.
    share, seed

    Returns
    -------
    train, valid : ndarray of int
    """
    rng = np.random.default_rng(seed)
    label = rows if by == "spectrum" else sample["galaxy_index"].values[rows]
    names = np.unique(label)
    held = rng.permutation(names)[: max(1, round(share * len(names)))]
    valid = np.isin(label, held)
    return rows[~valid], rows[valid]
