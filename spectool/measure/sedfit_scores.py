"""How good fitted properties are: bias, scatter and coverage against truth; and the models nearest to a galaxy."""

import numpy as np
import torch
import xarray as xr

from spectool.measure.sedfit import MODEL_ERROR, place_library, read_fluxes, scale_fluxes
from spectool.measure.sedfit_library import PROPERTIES
from spectool.measure.sedfit_posterior import match_models


def score_fit(fitted, *, truth="", prediction="_fit"):
    """Compare properties with the truth, or with another estimate.

    Parameters
    ----------
    fitted : xarray.Dataset
        With, for each of ``log_mass``, ``log_sfr``, ``log_dust_luminosity``, a column with the ending ``truth`` and one
        with the ending ``prediction``; and, for the coverage, ``prediction`` + ``_low`` and ``_high``.
    truth, prediction : str
        Endings.

    Returns
    -------
    xarray.Dataset, dim (property)
        ``bias`` (median of prediction - truth), ``scatter`` (half of 16-84%), ``rms`` (standard deviation), ``r2``
        (share of the variance explained), ``coverage`` (share of truths between low and high; NaN without these),
        ``half_width`` (median of half of high - low) [dex]; ``n``, rows where both are finite.
    """
    rows = [_score(fitted, name + truth, name + prediction) for name in PROPERTIES]
    units = {
        "bias": "dex",
        "scatter": "dex",
        "rms": "dex",
        "r2": "",
        "coverage": "",
        "half_width": "dex",
        "n": "",
    }
    return xr.Dataset(
        {
            name: ("property", np.array([row[name] for row in rows]), {"units": unit})
            for name, unit in units.items()
        },
        coords={"property": list(PROPERTIES)},
    )


def _score(fitted, truth, prediction):
    true, found = (fitted[name].values.astype(float) for name in (truth, prediction))
    used = np.isfinite(true) & np.isfinite(found)
    row = dict.fromkeys(("bias", "scatter", "rms", "r2", "coverage", "half_width"), np.nan) | {
        "n": int(used.sum())
    }
    if not used.any():
        return row
    apart = (found - true)[used]
    low, high = np.percentile(apart, (16, 84))
    row |= {"bias": np.median(apart), "scatter": 0.5 * (high - low), "rms": apart.std()}
    row["r2"] = 1 - np.mean(apart**2) / true[used].var() if true[used].var() > 0 else np.nan
    if prediction + "_low" in fitted:
        low, high = (fitted[prediction + end].values[used] for end in ("_low", "_high"))
        row["coverage"] = np.mean((low <= true[used]) & (true[used] <= high))
        row["half_width"] = np.median(0.5 * (high - low))
    return row


def nearest_models(sample, library, *, n=5, model_error=MODEL_ERROR):
    """The models of the smallest chi-square for each of a few galaxies, as they would be observed.

    Parameters
    ----------
    sample, library : xarray.Dataset
        As for `fit_library`; galaxies one by one, 10 ms each with 50,000 models.
    n : int
        Models per galaxy.
    model_error : float

    Returns
    -------
    xarray.Dataset, dims (galaxy, nearest, band)
        ``model_flux`` [Jy] in the sample's bands, ``model`` (index in the library), ``chi2``, and the properties
        ``log_mass``, ``log_sfr``, ``log_dust_luminosity`` of each model at its best amplitude.

    Raises
    ------
    ValueError
        If a galaxy has no flux above zero, or its redshift is outside the library's; the row is named.
    """
    flux, error, missing = read_fluxes(sample)
    redshift = sample["redshift"].values.astype(float)
    usable = (np.where(missing, -1.0, flux) > 0).any(axis=1)
    usable &= (redshift > 0) & (redshift <= library["redshift"].values[-1] * (1 + 1e-9))
    if not usable.all():
        raise ValueError(
            f"row {int(np.argmin(usable))} has no flux above zero or a redshift outside the library's"
        )
    near, weight, log_scale = scale_fluxes(flux, error, missing, model_error, redshift)
    total = (weight * near**2).sum(axis=1)
    parts = []
    for i, z in enumerate(redshift):
        models = place_library(library, z, bands=sample["band"].values)
        rows = (torch.from_numpy(values[i : i + 1].astype("f4")) for values in (near, weight))
        gain, curvature = match_models(*rows, models, models * models)
        best, index = gain[0].topk(n)
        log_unit = 0.5 * torch.log10(best / curvature[0, index]).double().numpy()
        at_galaxy = np.log10(near[i].max()) - np.log10(flux[i][~missing[i]].max())
        parts.append(
            {
                "model": index.numpy(),
                "chi2": total[i] - best.double().numpy(),
                "model_flux": models[index].double().numpy() * 10 ** (log_unit - at_galaxy)[:, None],
            }
            | {name: library[name].values[index.numpy()] + log_unit + log_scale[i] for name in PROPERTIES}
        )
    dims = {"model_flux": ("galaxy", "nearest", "band")}
    units = {"model": "", "chi2": "", "model_flux": "Jy"}
    units |= dict(zip(PROPERTIES, ("dex(Msun)", "dex(Msun / yr)", "dex(solLum)"), strict=True))
    return xr.Dataset(
        {
            name: (
                dims.get(name, ("galaxy", "nearest")),
                np.array([part[name] for part in parts]),
                {"units": unit},
            )
            for name, unit in units.items()
        },
        coords={"band": sample["band"].values},
    )
