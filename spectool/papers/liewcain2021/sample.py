"""Mock J-PAS galaxies of Liew-Cain et al. (2021), with true and fitted labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from spectool.measure.populations import fit_populations
from spectool.spectra import KM_S
from spectool.surveys.califa import N_GALAXIES, N_SPECTRA, NUISANCES, draw_califa, rebuild_galaxy

LABELS = ("log_age", "log_z")
FITTED = ("log_age_fit", "log_z_fit")
PIVOT = (0.3, -0.2)
SN = 40.0
"""Signal to noise per Angstrom of the spectra that are fitted: what surveys bin to, a round number of ours."""
REGUL = 10.0
FIT_RANGE = (3800.0, 7400.0)
# CALIFA's V500 has 6 A FWHM: so many km/s at 5500 A beyond the grid's 2.5 A.
_V500_DISPERSION = 126.0
_PIXEL = 100.0  # km/s: V500 has pixels of 2 A
_LIMITS = ((-1.5, 1.13), (-2.2, 0.6))


class ErrorModel(NamedTuple):
    """Errors of fitted (log age, log Z), fitted minus true [dex]."""

    bias: np.ndarray
    slope: np.ndarray
    between: np.ndarray
    within: np.ndarray
    n_spectra: int
    n_galaxies: int


def fit_labels(
    sample, *, n_galaxies=30, per_galaxy=8, seed, sn=SN, regul=REGUL, grid=None, n_workers=None, progress=True
):
    """Ages and metallicities of some spectra with regularised pPXF."""
    if min(n_galaxies, per_galaxy) < 1 or not sn > 0:
        raise ValueError("n_galaxies, per_galaxy and sn must be positive")
    rng = np.random.default_rng(seed)
    coarse = sample.assign(velocity_dispersion=np.hypot(sample["velocity_dispersion"], _V500_DISPERSION))
    pixels = np.exp(np.arange(*np.log(FIT_RANGE), _PIXEL / KM_S))
    parts = []
    for galaxy in np.sort(rng.permutation(sample.sizes["galaxy"])[:n_galaxies]):
        spectra = rebuild_galaxy(coarse, int(galaxy), wavelength=pixels, grid=grid)
        rows = np.sort(rng.permutation(spectra.sizes["spectrum"])[:per_galaxy])
        parts.append(spectra.isel(spectrum=rows)[["flux", "row", "galaxy_index", *LABELS]])
    spectra = xr.concat(parts, "spectrum", coords="minimal", compat="override", join="override")
    flux = spectra["flux"].values
    level = flux[:, np.abs(pixels - 5500.0) < 50].mean(axis=1)
    noise = level[:, None] / (sn * np.sqrt(pixels * _PIXEL / KM_S))
    noisy = flux + noise * rng.standard_normal(flux.shape)
    dims = spectra["flux"].dims
    fitted = fit_populations(
        spectra.assign(flux=(dims, noisy, {"units": ""}), ivar=(dims, noise**-2, {"units": ""})),
        grid=grid,
        regul=regul,
        fit_range=FIT_RANGE,
        keep=np.isfinite,
        n_workers=n_workers,
        progress=progress,
    )
    table = spectra[["row", "galaxy_index", *LABELS]]
    for name in ("chi2", "fit_status", "fit_seconds"):
        table[name] = fitted[name]
    table["log_age_fit"] = ("spectrum", np.log10(fitted["age_lw"].values), {"units": "dex(Gyr)"})
    table["log_z_fit"] = ("spectrum", fitted["log_z_lw"].values, dict(fitted["log_z_lw"].attrs))
    return table.assign_attrs(sn=float(sn), regul=float(regul))


def fit_error_model(labels):
    """Describe the errors of fitted labels: a plane in true age and metallicity, and two covariances."""
    true = np.stack([labels[name].values for name in LABELS], axis=1)
    error = np.stack([labels[name].values for name in FITTED], axis=1) - true
    good = np.isfinite(error).all(axis=1)
    _, galaxy, count = np.unique(labels["galaxy_index"].values[good], return_inverse=True, return_counts=True)
    if (count > 1).sum() < 3:
        raise ValueError("an error model needs three galaxies with two or more fitted spectra each")
    design = np.column_stack([np.ones(good.sum()), true[good] - PIVOT])
    plane, *_ = np.linalg.lstsq(design, error[good], rcond=None)
    residual = error[good] - design @ plane
    mean = np.stack([np.bincount(galaxy, column) / count for column in residual.T], axis=1)
    inside = residual - mean[galaxy]
    within = inside.T @ inside / (good.sum() - count.size)
    scatter = (mean * count[:, None]).T @ mean / (count.size - 1)
    size = (good.sum() - (count**2).sum() / good.sum()) / (count.size - 1)
    return ErrorModel(
        plane[0], plane[1:].T, _positive((scatter - within) / size), within, int(good.sum()), count.size
    )


def add_fitted_labels(sample, *, seed, error_model=None):
    """Put labels beside the truth that err like fitted ones."""
    model = MEASURED if error_model is None else error_model
    rng = np.random.default_rng(seed)
    galaxy = sample["galaxy_index"].values
    true = np.stack([sample[name].values for name in LABELS], axis=1)
    shared = rng.standard_normal((int(galaxy.max()) + 1, 2)) @ _root(model.between).T
    own = rng.standard_normal((galaxy.size, 2)) @ _root(model.within).T
    fitted = true + model.bias + (true - PIVOT) @ np.asarray(model.slope).T + shared[galaxy] + own
    for k, name in enumerate(FITTED):
        attrs = dict(sample[LABELS[k]].attrs) | {"long_name": f"fitted {LABELS[k]}"}
        sample = sample.assign({name: ("spectrum", np.clip(fitted[:, k], *_LIMITS[k]), attrs)})
    return sample


def _positive(matrix):
    """The nearest covariance: no negative eigenvalues."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, 0)) @ vectors.T


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
metallicity (their histories differ from what regularisation prefers), and spectra have 0.07 dex of their own in
both, anti-correlated (-0.5). Old ages come out too young: -0.24 dex per dex.
With 36 galaxies, what they share is known to a fifth (jackknife)."""


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
