"""Mock J-PAS galaxies of Liew-Cain et al. (2021), with true and fitted labels, and the bands of real ones."""

from typing import NamedTuple

import numpy as np

from spectool.measure.lines_linear import measure_lines_linear
from spectool.prepare import mask_bad_pixels, resample, to_rest_frame
from spectool.spectra import KM_S, PIXEL_VELOCITY
from spectool.surveys.califa import N_GALAXIES, N_SPECTRA, NUISANCES, draw_califa
from spectool.surveys.jpas import measure_bands

LABELS = ("log_age", "log_z")
REST_RANGE = (3700.0, 7560.0)
"""Of the rest-frame pixels for stellar bands [Angstrom]."""
PIVOT = (0.3, -0.2)
SEED = 2021
LABEL_STREAM = 4
_LIMITS = ((-1.5, 1.13), (-2.2, 0.6))


class ErrorModel(NamedTuple):
    """Errors of fitted (log age, log Z), fitted minus true [dex]."""

    bias: np.ndarray
    slope: np.ndarray
    between: np.ndarray
    within: np.ndarray
    n_spectra: int
    n_galaxies: int


def add_fitted_labels(sample, model, *, seed):
    """Put labels beside the truth that err as an `ErrorModel` says."""
    rng = np.random.default_rng(seed)
    galaxy = sample["galaxy_index"].values
    true = np.stack([sample[name].values for name in LABELS], axis=1)
    shared = rng.standard_normal((int(galaxy.max()) + 1, 2)) @ _root(model.between).T
    own = rng.standard_normal((galaxy.size, 2)) @ _root(model.within).T
    fitted = true + model.bias + (true - PIVOT) @ np.asarray(model.slope).T + shared[galaxy] + own
    for k, name in enumerate(LABELS):
        attrs = dict(sample[name].attrs) | {"long_name": f"fitted {name}"}
        sample = sample.assign({f"{name}_fit": ("spectrum", np.clip(fitted[:, k], *_LIMITS[k]), attrs)})
    return sample


def _root(covariance):
    values, vectors = np.linalg.eigh(np.asarray(covariance, float))
    return vectors * np.sqrt(np.maximum(values, 0))


MEASURED = ErrorModel(
    bias=np.array([0.0388, -0.0418]),
    slope=np.array([[-0.2371, 0.0728], [0.0507, -0.0022]]),
    between=np.array([[0.0074, -0.0005], [-0.0005, 0.0023]]),
    within=np.array([[0.0043, -0.0023], [-0.0023, 0.0047]]),
    n_spectra=216,
    n_galaxies=36,
)
"""Made by ``tools/make/liewcain2021_labels.py``: galaxies share errors of 0.09 dex in age and 0.05 dex in
metallicity, spectra have 0.07 dex of their own in both, anti-correlated (-0.5), and old ages come out too young."""


def make_liewcain2021(
    n_galaxies=N_GALAXIES, *, spectra_per_galaxy=N_SPECTRA / N_GALAXIES, stream=None, nuisances=NUISANCES
):
    """The galaxies that the shipped networks were trained on, in some seconds.

    Parameters
    ----------
    n_galaxies, spectra_per_galaxy, nuisances
        See `spectool.surveys.califa.draw_califa`. The defaults are the paper's sample.
    stream : int, optional
        Another number gives other galaxies; default: those of the folds.

    Returns
    -------
    Dataset
        As of `draw_califa`, with ``log_age_fit`` and ``log_z_fit`` of `add_fitted_labels`.
    """
    seed = np.random.default_rng(SEED if stream is None else [SEED, stream])
    sample = draw_califa(
        n_galaxies, spectra_per_galaxy=spectra_per_galaxy, seed=seed, nuisances=nuisances, progress=False
    )
    return add_fitted_labels(sample, MEASURED, seed=[SEED, LABEL_STREAM])


def measure_stellar_bands(spectra):
    """Rest-frame bands of observed spectra, with the lines of `measure_lines_linear` fitted and subtracted.

    At rest H-alpha lies as much in J0650 as in J0660, so that leaving out a band is not enough. Spectra (galaxy,
    wavelength) come in the observed frame, with ``ivar`` and ``redshift``; a spectrum in which the fit fails is masked.

    Returns
    -------
    Dataset, dims (spectrum, band)
        As of `measure_bands`; with ``line_share``, by which subtracting lines changed each band.
    """
    wavelength = np.exp(np.arange(*np.log(REST_RANGE), PIXEL_VELOCITY / KM_S))
    rest = resample(to_rest_frame(mask_bad_pixels(spectra)), wavelength)
    fit = measure_lines_linear(rest, keep_fit=True)
    lines = fit["line_model"].values
    failed = fit["fit_status"].values != 0
    pixels = ("galaxy", "wavelength")
    stars = rest.assign(
        flux=(pixels, rest["flux"].values - np.nan_to_num(lines), rest["flux"].attrs),
        mask=(pixels, rest["mask"].values | failed[:, None], rest["mask"].attrs),
    )
    seen = measure_bands(stars)
    share = measure_bands(rest)["flux"] / seen["flux"] - 1
    return seen.assign(line_share=(("spectrum", "band"), share.values, {"units": ""}))
