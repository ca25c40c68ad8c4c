"""Why networks scatter about a fit more where galaxies form few stars: what of it is the labels' own.

Surana et al. (2020, Section 4) see it in their Figure 9 and leave the cause open. Here the fit can be asked again: with
another half of its models (what is arbitrary in a label, which no network can know), and with noise and errors a tenth
as large (what the photometry does not tell).
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from spectool.measure.sedfit import fit_library
from spectool.measure.sedfit_library import PROPERTIES

DEEPER = 10.0
MIN_COUNT = 30
_UNITS = dict(zip(PROPERTIES, ("dex(Msun)", "dex(Msun / yr)", "dex(solLum)"), strict=True))


def fit_again(sample, library, *, deeper=DEEPER, n_models=None, progress=True):
    """Fit galaxies with each half of a library, and as they would be seen with less noise.

    Parameters
    ----------
    sample : xarray.Dataset, dims (galaxy, band)
        As for `fit_library`, with the noise-free ``true_flux`` [Jy].
    library : xarray.Dataset
        From `draw_library`; every other model makes a half.
    deeper : float
        By this, noise and errors are divided.
    n_models : int, optional
        Of the library that made the labels, if another: the noise of labels falls as the root of the number of models.
        (That of a rate, from halves of 50,000, 25,000, 10,000 and 5,000 models: 0.026, 0.042, 0.054, 0.084 dex.)
        Default: the library's own.
    progress : bool

    Returns
    -------
    xarray.Dataset, dim (galaxy)
        For each property ``<property>_arbitrary`` [dex]: half of the difference between the two halves' medians, which
        scatters as labels of the whole library do from one choice of its models to another; and
        ``<property>_deep``, the median with less noise.

    Raises
    ------
    ValueError
        If the sample lacks a column.
    """
    if "true_flux" not in sample:
        raise ValueError("the sample lacks true_flux, the fluxes without noise")
    halves = [fit_library(sample, library.isel(model=slice(k, None, 2)), progress=progress) for k in range(2)]
    true = sample["true_flux"]
    flux = (true + (sample["flux"] - true) / deeper).transpose(*sample["flux"].dims)
    error = sample["flux_error"] / deeper
    units = {"units": "Jy"}
    seen = sample.assign(flux=flux.assign_attrs(units), flux_error=error.assign_attrs(units))
    deep = fit_library(seen, library, progress=progress)
    factor = 0.5 * np.sqrt(library.sizes["model"] / (n_models or library.sizes["model"]))
    columns = {}
    for name, unit in _UNITS.items():
        apart = halves[0][f"{name}_fit"] - halves[1][f"{name}_fit"]
        columns[f"{name}_arbitrary"] = ("galaxy", factor * apart.values, {"units": "dex"})
        columns[f"{name}_deep"] = ("galaxy", deep[f"{name}_fit"].values, {"units": unit})
    return xr.Dataset(columns)


def trace_scatter(sample, again, predicted, *, of_truth=None, quantity="log_sfr", width=0.5):
    """Scatter of a network's predictions, and of what could cause it, along the rate.

    Parameters
    ----------
    sample : xarray.Dataset
        Test galaxies with true properties, the fit's medians, 16 and 84%, and ``is_quiescent``.
    again : xarray.Dataset
        From `fit_again`.
    predicted : ndarray, shape (galaxy,)
        By a network that learnt the fit's medians.
    of_truth : ndarray, shape (galaxy,), optional
        By a network that learnt the truth.
    quantity : str
        One of `PROPERTIES`.
    width : float
        Of the bins of the fit's rate [dex].

    Returns
    -------
    dict of str to dict of str to (ndarray, ndarray)
        For all, star-forming and quiescent galaxies, by curve: rates at the middle of the bins and half of the 16-84%
        range [dex], NaN where fewer than `MIN_COUNT` galaxies are. (For the error stated: its median.)
    """
    label, true = (sample[quantity + end].values for end in ("_fit", ""))
    stated = 0.5 * (sample[f"{quantity}_fit_high"] - sample[f"{quantity}_fit_low"]).values
    curves = {
        "network - fit": predicted - label,
        "fit - fit with other models": again[f"{quantity}_arbitrary"].values,
        "error stated by the fit": (stated,),
        "fit - truth": label - true,
        "fit - truth, a tenth of the noise": again[f"{quantity}_deep"].values - true,
    }
    if of_truth is not None:
        curves["network taught by truth - truth"] = of_truth - true
    quiescent = sample["is_quiescent"].values.astype(bool)
    rate = sample["log_sfr_fit"].values
    parts = {"all": np.ones(rate.size, bool), "star-forming": ~quiescent, "quiescent": quiescent}
    return {title: spread_by(rate, curves, used=used, width=width) for title, used in parts.items()}


def spread_by(x, curves: Mapping, *, used=None, width=0.5, min_count=MIN_COUNT):
    """Half of the 16-84% range of differences in bins.

    Parameters
    ----------
    x : ndarray, shape (galaxy,)
    curves : mapping of str to ndarray, or to a tuple of one
        Differences, (galaxy,); of an array in a tuple the median is taken.
    used : ndarray of bool, optional
    width : float
        Of the bins, whose edges are its multiples.
    min_count : int

    Returns
    -------
    dict of str to (ndarray, ndarray)
        Middles of the bins and spreads, by curve; NaN in bins with too few galaxies.
    """
    used = np.isfinite(x) if used is None else used & np.isfinite(x)
    bins = np.floor(x / width)
    found = np.unique(bins[used])
    result = {}
    for name, values in curves.items():
        is_median = isinstance(values, tuple)
        values = values[0] if is_median else values
        spread = np.full(found.size, np.nan)
        for k, number in enumerate(found):
            here = values[used & (bins == number) & np.isfinite(values)]
            if here.size >= min_count:
                low, middle, high = np.percentile(here, (16, 50, 84))
                spread[k] = middle if is_median else 0.5 * (high - low)
        result[name] = ((found + 0.5) * width, spread)
    return result
