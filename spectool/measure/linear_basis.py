"""A small linear basis of stellar continua with which many spectra are fitted at once."""

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.polynomial import legendre
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from spectool.synth.grid import SSPGrid
from spectool.synth.synthesis import synthesize
from spectool.wavelength import pixel_edges

N_MIXES = 3000
N_COMPONENTS = 25
DEGREE = 8

_CACHE = {}
_CACHED = 4
_NODES = np.array([6.0, 7.0, 8.0, 8.7, 9.3, 9.7, 10.2])  # log age [yr]


@dataclass(frozen=True)
class ContinuumBasis:
    """Continua as amplitude * (mean + sum of coefficients * components).

    Attributes
    ----------
    vectors : ndarray, shape (k, n)
        The mean continuum (its average over the pixels is 1), principal components of unit norm, and the mean
        times Legendre polynomials.
    spread : ndarray, shape (k,)
        Standard deviation of the coefficients, relative to the amplitude; infinite for the mean itself.
    n_components : int
        How many of the vectors are principal components.
    """

    vectors: np.ndarray
    spread: np.ndarray
    n_components: int


def continuum_basis(
    wavelength,
    *,
    grid=None,
    n_components=N_COMPONENTS,
    degree=DEGREE,
    dispersions=(30.0, 350.0),
    calibration=0.1,
    widening=2.0,
    n_mixes=N_MIXES,
    seed=1,
):
    """Principal components of random mixes of stellar populations, and polynomials for the calibration.

    The mixes are meant to be broader than any real population: star-formation histories that wander by a dex
    between nodes in log age, a third of them cut off, metallicities, dust and dispersions drawn independently.
    They hold the nebular continuum of their young stars, and no line. The components' spread is known, so
    it can serve as a prior: in noisy spectra it keeps the Balmer absorption to what stars can do.

    Parameters
    ----------
    wavelength : array_like, shape (n,)
        Pixel centres, vacuum [Angstrom], rest frame.
    grid : SSPGrid, optional
        Default: the embedded one.
    n_components : int
    degree : int
        Legendre polynomials of degree 1 to this multiply the mean continuum; 0 for none.
    dispersions : (float, float)
        Range of velocity dispersions [km/s] of the mixes, on top of the library's resolution. The spectrograph's
        broadening beyond the library's is within this range.
    calibration : float
        Spread of each polynomial's coefficient, relative to the continuum.
    widening : float
        Factor by which the spread of the components is widened before it serves as a prior.
    n_mixes : int
    seed : int

    Returns
    -------
    ContinuumBasis

    Raises
    ------
    ValueError
        If the wavelengths do not increase or reach beyond the grid.
    """
    wavelength = np.asarray(wavelength, float)
    options = (n_components, degree, tuple(dispersions), calibration, widening, n_mixes, seed)
    key = (wavelength.tobytes(), options)
    if grid is None and key in _CACHE:
        return _CACHE[key]
    mixes = _draw_mixes(grid or SSPGrid.embedded(), wavelength, dispersions, n_mixes, seed)
    with threadpool_limits(1):
        pca = PCA(n_components, svd_solver="randomized", random_state=seed).fit(mixes)
    mean = pca.mean_.astype(float)
    x = np.log(wavelength / wavelength[0]) / np.log(wavelength[-1] / wavelength[0])
    polynomials = mean * np.array(
        [legendre.legval(2 * x - 1, row) for row in np.eye(degree + 1)[1:]]
    ).reshape(degree, wavelength.size)
    spread = [[np.inf], widening * np.sqrt(pca.explained_variance_), np.full(degree, calibration)]
    basis = ContinuumBasis(
        vectors=np.concatenate([mean[None], pca.components_.astype(float), polynomials]),
        spread=np.concatenate(spread),
        n_components=n_components,
    )
    if grid is None:
        while len(_CACHE) >= _CACHED:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = basis
    return basis


def _draw_mixes(grid, wavelength, dispersions, n, seed):
    """Continua of random galaxies, each with mean flux 1, shape (n, pixel)."""
    rng = np.random.default_rng(seed)
    galaxies = xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), _draw_histories(grid, n, rng)),
            "log_z_star": ("galaxy", rng.uniform(-1.7, 0.39, n)),
            "log_z_gas": ("galaxy", rng.uniform(-1.0, 0.1, n)),
            "log_u": ("galaxy", rng.uniform(-3.7, -2.3, n)),
            "dust2": ("galaxy", 10 ** rng.uniform(-2.0, 0.4, n)),
            "dust_index": ("galaxy", rng.uniform(-1.3, -0.4, n)),
            "velocity_dispersion": ("galaxy", rng.uniform(*dispersions, n)),
        }
    )
    galaxies["dust1"] = galaxies["dust2"] * rng.uniform(0.0, 2.0, n)
    nebular = grid.nebular is not None
    if nebular:
        dark = replace(grid.nebular, line_luminosity=np.zeros_like(grid.nebular.line_luminosity))
        grid = replace(grid, nebular=dark)
    pixel_edges(wavelength)  # raises if they do not increase
    inside = (wavelength[0] + wavelength[-1]) / 2 + np.array([-1, 1]) * (wavelength[-1] - wavelength[0]) / 2
    flux = synthesize(
        galaxies, grid, wavelength=wavelength, nebular=nebular, label_range=tuple(inside), progress=False
    )["flux"].values
    return flux / flux.mean(axis=1, keepdims=True)


def _draw_histories(grid, n, rng):
    """Mass formed in the grid's age bins, shape (n, age): wandering rates, some cut off."""
    steps = rng.standard_normal((n, _NODES.size))
    rate = np.cumsum(np.where(np.arange(_NODES.size) == 0, 0.5, 0.7) * steps, axis=1)
    rate += rng.normal(0.0, 0.6, (n, 1)) * (_NODES - _NODES.mean())
    log_age = np.log10(np.maximum(grid.age, 1e5))
    place = np.clip(np.interp(log_age, _NODES, np.arange(_NODES.size)), 0, _NODES.size - 1)
    low = np.minimum(place.astype(int), _NODES.size - 2)
    log_rate = rate[:, low] * (1 - (place - low)) + rate[:, low + 1] * (place - low)
    cut = np.where(rng.random(n) < 0.35, rng.uniform(7.5, 9.9, n), 0.0)
    depth = rng.uniform(1.0, 5.0, n)
    log_rate -= np.where(log_age < cut[:, None], depth[:, None], 0.0)
    return 10.0**log_rate * np.diff(grid.age_edges)
