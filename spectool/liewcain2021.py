"""The mock CALIFA sample of Liew-Cain et al. (2021): 19,727 spectra of 190 galaxies, with true and fitted labels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from spectool.measure.ifu_labels import add_fitted_labels
from spectool.surveys.califa import N_GALAXIES, N_SPECTRA, NUISANCES, draw_califa

SEED = 2021
LABEL_STREAM = 4


def make_liewcain2021(
    n_galaxies: int = N_GALAXIES,
    *,
    spectra_per_galaxy: float = N_SPECTRA / N_GALAXIES,
    stream: int | None = None,
    nuisances=NUISANCES,
    progress: bool = False,
) -> xr.Dataset:
    """The galaxies that the shipped networks were trained on, in some seconds.

    Parameters
    ----------
    n_galaxies, spectra_per_galaxy, nuisances, progress
        See `spectool.surveys.califa.draw_califa`. The defaults are the paper's sample.
    stream
        Another number gives other galaxies; default: those of the folds.

    Returns
    -------
    Dataset
        As of `draw_califa`, with ``log_age_fit`` and ``log_z_fit`` of `add_fitted_labels`.
    """
    seed = np.random.default_rng(SEED if stream is None else [SEED, stream])
    sample = draw_califa(
        n_galaxies, spectra_per_galaxy=spectra_per_galaxy, seed=seed, nuisances=nuisances, progress=progress
    )
    return add_fitted_labels(sample, seed=[SEED, LABEL_STREAM])
