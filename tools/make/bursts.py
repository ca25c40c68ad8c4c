"""Ages and metallicities from narrow bands by a plain fit of single bursts: the peer of the networks."""

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.measure.sedfit import match_models
from spectool.prepare import add_history
from spectool.surveys.jpas import CALIFA_BANDS, band_matrix
from spectool.synth.dust import PIVOT
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import metallicity_weights

MODEL_ERROR = 0.02
MIN_BANDS = 10
PROPERTIES = {"log_age": "dex(Gyr)", "log_z": "dex", "a_v": "mag"}

_LOG_AGES = np.linspace(-2.0, 1.14, 41)  # dex(Gyr)
_METALLICITIES = np.linspace(-1.7, 0.4, 22)
_EXTINCTIONS = np.linspace(0.0, 2.4, 17)
_DUST_INDEX = -0.7


def make_burst_library(*, bands=CALIFA_BANDS, log_age=_LOG_AGES, log_z=_METALLICITIES):
    """Bands of single bursts of all ages, metallicities and extinctions, at rest."""
    grid, matrix = embedded_grid(), band_matrix(embedded_grid().wavelength, bands)
    age = np.unique([np.argmin(np.abs(np.log10(grid.age / 1e9) - value)) for value in log_age])
    seen = np.flatnonzero(matrix.any(axis=1))
    pixels = slice(seen[0], seen[-1] + 1)
    weights = metallicity_weights(grid.z_sun * 10.0 ** np.asarray(log_z), grid.metallicity)
    depth = (grid.wavelength[pixels] / PIVOT) ** _DUST_INDEX
    screens = 10 ** (-0.4 * np.outer(_EXTINCTIONS, depth))
    through = (screens[:, :, None] * matrix[pixels]).transpose(1, 0, 2).reshape(depth.size, -1)
    by_metallicity = np.stack([ages[age, pixels] @ through for ages in grid.flux])
    # To interpolate bands in metallicity is to interpolate spectra.
    flux = np.einsum("nz,zax->nax", weights, by_metallicity).reshape(-1, len(bands))
    flux /= flux.mean(axis=1, keepdims=True)
    mesh = np.meshgrid(log_z, np.log10(grid.age[age] / 1e9), _EXTINCTIONS, indexing="ij")
    values = dict(zip(("log_z", "log_age", "a_v"), (value.ravel() for value in mesh), strict=True))
    columns = {name: ("template", values[name], {"units": unit}) for name, unit in PROPERTIES.items()}
    return xr.Dataset(
        columns | {"flux": (("template", "band"), flux.astype("f4"), {"units": "", "description": "f_nu"})},
        coords={"band": list(bands)},
        attrs={"z_sun": grid.z_sun, "grid": str(grid.provenance.get("name", ""))},
    )


def fit_bursts(sample, library, *, model_error=MODEL_ERROR, batch_size=256, progress=True):
    """Fit each spectrum's bands with every burst of a library."""
    flux, weight, n_bands = _read(sample, model_error)
    reason = np.full(len(flux), "", dtype=object)
    reason[(flux * (weight > 0)).max(axis=1, initial=0) <= 0] = "no flux above zero"
    reason[n_bands < MIN_BANDS] = f"fewer than {MIN_BANDS} bands"
    models = torch.from_numpy(library["flux"].sel(band=sample["band"].values).values.astype(float))
    squares = models * models  # in float64: at high S/N, chi-square is a small difference of large sums
    values = torch.from_numpy(np.stack([library[name].values for name in PROPERTIES], axis=1))
    moments = torch.cat([values, values * values], dim=1)
    good = np.flatnonzero(reason == "")
    found = np.full((len(flux), moments.shape[1]), np.nan)
    chi2, best = np.full(len(flux), np.nan), np.full(len(flux), -1)
    batches = np.split(good, range(batch_size, good.size, batch_size)) if good.size else []
    with torch.inference_mode():
        for rows in tqdm(batches, desc="template fit", unit="batch", disable=not progress):
            f, w = (torch.from_numpy(x[rows]) for x in (flux, weight))
            gain, _ = match_models(f, w, models, squares)
            highest, index = gain.max(dim=1)
            likelihood = gain.sub_(highest[:, None]).mul_(0.5).exp_()
            found[rows] = (likelihood @ moments / likelihood.sum(dim=1, keepdim=True)).numpy()
            chi2[rows] = (weight[rows] * flux[rows] ** 2).sum(axis=1) - highest.numpy()
            best[rows] = index.numpy()
    return _assemble(sample, found, chi2, best, n_bands, reason)


def _read(sample, model_error):
    """Fluxes of order 1, their weights (0: missing), and how many bands each spectrum has."""
    both = ("spectrum", "band")
    flux = sample["flux"].transpose(*both).values.astype(float)
    missing = ~np.isfinite(flux)
    if "mask" in sample:
        missing |= sample["mask"].transpose(*both).values
    error = np.zeros(flux.shape)
    if "flux_error" in sample:
        error = sample["flux_error"].transpose(*both).values.astype(float)
        missing |= ~(np.isfinite(error) & (error > 0))
    flux, error = np.where(missing, 0.0, flux), np.where(missing, 0.0, error)
    unit = np.abs(flux).sum(axis=1) / np.maximum((~missing).sum(axis=1), 1)
    unit = np.where(unit > 0, unit, 1.0)[:, None]
    flux, error = flux / unit, error / unit
    variance = error**2 + (model_error * np.abs(flux)) ** 2
    missing |= ~(variance > 0)
    weight = np.where(missing, 0.0, 1 / np.where(missing, 1.0, variance))
    return flux, weight, (~missing).sum(axis=1)


def _assemble(sample, found, chi2, best, n_bands, reason):
    mean, square = np.split(found, 2, axis=1)
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    columns = {}
    for column, (name, unit) in enumerate(PROPERTIES.items()):
        columns[name] = ("spectrum", mean[:, column], {"units": unit})
        columns[f"{name}_error"] = ("spectrum", spread[:, column], {"units": unit.split("(")[0]})
    columns["chi2"] = ("spectrum", chi2, {"units": ""})
    columns["best_template"] = ("spectrum", best, {"units": ""})
    columns["n_bands"] = ("spectrum", n_bands, {"units": ""})
    columns["fit_reason"] = ("spectrum", reason.astype(str), {"units": ""})
    failed = (reason != "").sum()
    result = xr.Dataset(columns, attrs={"history": sample.attrs.get("history", "")})
    return add_history(result, f"fit of single bursts: {failed} of {len(reason)} spectra not fitted")
