"""The honest test of a network that was trained on model spectra: spectra of another library."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from spectool.models.calibration import figures_of_merit
from spectool.models.chunked import add_white_noise
from spectool.papers import as_columns
from spectool.papers.zahid2019.network import predict_ensemble
from spectool.papers.zahid2019.sample import HELDOUT_TEST_SEED, make_heldout
from spectool.spectra import SIGMA_TO_FWHM
from spectool.synth.grid import SSPGrid

LOG_Z_EDGES = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.4)
LOG_AGE_EDGES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.2)  # dex(Gyr), light-weighted
PERTURBED_RANGE = (3600.0, 7700.0)
_CONTINUUM = 100.0  # Angstrom: sigma of the smoothing that tells features from continua
_SMOOTH = (40.0, 150.0)  # Angstrom: over which wrong depths, of lines and of bands, and wrong continua change


def perturb_grid(
    grid, *, older=0.1, depth=1.05, depth_scatter=0.1, continuum=0.01, extra_fwhm=1.0, seed=0
) -> SSPGrid:
    """A mock of another library: a grid with wrong isochrones, features, continua and resolution.

    Real libraries differ in ways that this has not, and its amplitudes are guesses. ValueError if one is negative or
    the grid does not cover the optical.

    Parameters
    ----------
    grid : SSPGrid
        To be changed; the copy covers 3600-7700 A and has no nebular emission.
    older : float
        Isochrones: a population of an age has the spectrum of one older by this fraction.
    depth, depth_scatter : float
        All features, relative to a continuum smoothed over 100 A, are multiplied by this; and by a factor of this
        scatter that changes with wavelength, over 40 and 150 A, and with each dex of metallicity.
    continuum : float
        Scatter of a factor on the continuum, alike for all populations, over 40 and over 150 A.
    extra_fwhm : float
        Blur [Angstrom] that the copy's ``fwhm`` does not tell of.
    """
    if min(older, depth, depth_scatter, continuum, extra_fwhm) < 0:
        raise ValueError("amplitudes of a perturbation must not be negative")
    inside = np.flatnonzero((grid.wavelength >= PERTURBED_RANGE[0]) & (grid.wavelength <= PERTURBED_RANGE[1]))
    if inside.size < 1000 or grid.wavelength[inside[-1]] < 7350 or grid.wavelength[inside[0]] > 4000:
        raise ValueError("only a grid that covers 4000-7350 A can be perturbed")
    wavelength = grid.wavelength[inside]
    pixel = float(np.median(np.diff(wavelength)))
    flux = _interpolate_age(grid.flux[..., inside], grid.age, 1 + older).astype(float)
    if extra_fwhm:
        flux = gaussian_filter1d(flux, extra_fwhm / SIGMA_TO_FWHM / pixel, mode="nearest")
    rng = np.random.default_rng(seed)
    gain, slope, wrong = (_smooth_noise(rng, wavelength.size, pixel) for _ in range(3))
    log_z = np.log10(grid.metallicity / grid.z_sun)[:, None, None]
    smooth = gaussian_filter1d(flux, _CONTINUUM / pixel, mode="nearest")
    features = (flux / smooth - 1) * depth * (1 + depth_scatter * (gain + log_z * slope))
    flux = smooth * (1 + features) * (1 + continuum * wrong)
    note = {"older": older, "depth": depth, "depth_scatter": depth_scatter}
    note |= {"continuum": continuum, "extra_fwhm": extra_fwhm, "seed": int(seed)}
    name = f"mock of another library: {grid.provenance.get('name', 'a grid')}, perturbed"
    return replace(
        grid,
        edges=grid.edges[inside[0] : inside[-1] + 2],
        flux=flux.astype("f4"),
        surviving_mass=_interpolate_age(grid.surviving_mass, grid.age, 1 + older),
        nebular=None,
        provenance=dict(grid.provenance) | {"name": name, "perturbation": note},
    )


def _interpolate_age(values, age, factor):
    """Rows (Z, a, ...) at ages times a factor, linear in log age, the last beyond the end."""
    log = np.log(np.maximum(age, 1.0))
    place = np.interp(log + np.log(factor), log, np.arange(age.size))
    low = np.minimum(place.astype(int), age.size - 2)
    share = (place - low).reshape(-1, *[1] * (values.ndim - 2))
    return values[:, low] * (1 - share) + values[:, low + 1] * share


def _smooth_noise(rng, n, pixel):
    """Of unit scatter, half its variance on each scale."""
    total = 0.0
    for width in _SMOOTH:
        margin = int(4 * width / pixel)
        noise = gaussian_filter1d(rng.standard_normal(n + 2 * margin), width / pixel)[margin : margin + n]
        total = total + (noise - noise.mean()) / noise.std() / np.sqrt(len(_SMOOTH))
    return total


def network_predictor(members) -> Callable[[xr.Dataset], np.ndarray]:
    """What `score_on_library` takes, of one network, a list of them, or what `load` gives: its first output [dex]."""
    members = [members] if not hasattr(members, "__len__") and hasattr(members, "filters") else members
    return lambda prepared: predict_ensemble(members, prepared)[0][:, 0]


def score_on_library(predict, grid, *, n=2000, sn=np.inf, seed=HELDOUT_TEST_SEED) -> xr.Dataset:
    """Bias and scatter of predicted metallicities of held-out histories made of a grid's stars."""
    prepared = make_heldout(n, seed=seed, grid=grid)
    noisy = add_white_noise(prepared["flux"].values, sn, seed=[seed, 1])
    sigma = np.full(noisy.shape, 0.0 if np.isinf(sn) else 1.0 / sn, np.float32)
    dims = ("galaxy", "wavelength")
    seen = prepared.assign(flux=(dims, noisy, prepared["flux"].attrs), sigma=(dims, sigma, {"units": ""}))
    result = np.asarray(predict(seen), float)
    if result.shape != (n,):
        raise ValueError(f"the predictor gave values of shape {result.shape} for {n} spectra")
    truth, known = prepared["log_z_lw"].values, np.isfinite(result)
    figures, bivariate = figures_of_merit(result, truth), known.sum() > 2
    overall = {
        "bias": (figures.get("bias", np.nan), "dex"),
        "scatter": (figures.get("sigma", np.nan), "dex"),
        "rms": (figures.get("rmse", np.nan), "dex"),
        "correlation": (np.corrcoef(result[known], truth[known])[0, 1] if bivariate else np.nan, ""),
        "slope": (np.polyfit(truth[known], result[known], 1)[0] if bivariate else np.nan, ""),
        "n_missing": (int((~known).sum()), ""),
    }
    columns, coords = as_columns(overall, dim=()), {}
    places = {
        "log_z": (truth, LOG_Z_EDGES, "dex"),
        "log_age": (np.log10(prepared["age_lw"].values), LOG_AGE_EDGES, "dex(Gyr)"),
    }
    for name, (values, edges, unit) in places.items():
        edges = np.asarray(edges, float)
        coords[name] = (name, 0.5 * (edges[1:] + edges[:-1]), {"units": unit})
        which = np.clip(np.digitize(values, edges) - 1, 0, edges.size - 2)
        rows = [figures_of_merit(result[which == k], truth[which == k]) for k in range(edges.size - 1)]
        for statistic, key, of in (("bias", "bias", "dex"), ("scatter", "sigma", "dex"), ("n", "n", "")):
            numbers = np.array([row.get(key, np.nan) for row in rows])
            columns[f"{statistic}_by_{name}"] = (name, numbers, {"units": of})
    about = {"library": str(grid.provenance.get("name", "")), "sn": float(sn), "seed": int(seed), "n": int(n)}
    return xr.Dataset(columns, coords, about)


def compare_libraries(
    predictors: Mapping[str, Callable[[xr.Dataset], np.ndarray]], grids: Mapping[str, SSPGrid], **options
) -> xr.Dataset:
    """Every predictor on every library (dicts by name; options of `score_on_library`): dims ``model``, ``library``."""
    if not predictors or not grids:
        raise ValueError("a comparison needs at least one predictor and one grid")
    rows = []
    for predict in predictors.values():
        row = [score_on_library(predict, grid, **options) for grid in grids.values()]
        rows.append(xr.concat([item.drop_attrs(deep=False) for item in row], "library"))
    table = xr.concat(rows, "model").assign_coords(model=list(predictors), library=list(grids))
    return table.assign_attrs({name: value for name, value in options.items() if np.isscalar(value)})
