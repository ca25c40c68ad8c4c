"""Spectra seen through J-PAS: real ones with their errors and gaps, and mock ones with J-PAS's noise.

A sample of bands is a Dataset with dims (spectrum, band): ``flux`` (f_nu), ``flux_error`` where errors are known,
``mask`` (True = no flux: NaN). Columns of the spectra stay.
"""

import warnings

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.prepare import (
    PrepareWarning,
    add_history,
    mask_bad_pixels,
    spectral_coordinate,
    to_rest_frame,
)
from spectool.surveys.jpas import BANDS, FILTERS, LIEWCAIN_BANDS, MIN_COVERAGE, band_weights
from spectool.wavelength import pixel_edges

APERTURE_AREA = np.pi * 1.5**2
"""Of the depths: 3 arcsec across [arcsec2]."""
_BLUEST, _REDDEST = (FILTERS[name].wavelength for name in (BANDS[0], BANDS[-1]))
DEPTHS = {
    name: 23.5 - 1.5 * (one.wavelength - _BLUEST) / (_REDDEST - _BLUEST) for name, one in FILTERS.items()
}
"""Five-sigma depths [AB mag in 3 arcsec]: from 23.5 in the bluest band to 22.0 in the reddest.

The range is that of the narrow bands in miniJPAS (Bonoli et al. 2021, A&A 653, A31); that it falls evenly with
wavelength is a simplification of ours.
"""


def measure_bands(spectra, bands=LIEWCAIN_BANDS, *, frame="rest", min_coverage=MIN_COVERAGE):
    """Fluxes of spectra in bands of J-PAS, with errors, and with bands masked that a spectrum does not cover.

    Parameters
    ----------
    spectra : Dataset
        dims (galaxy, wavelength), or another in the place of galaxy, in the observed frame or at rest. ``ivar`` and
        ``mask`` are honoured; pixels that are not finite are left out.
    bands : sequence of str
    frame : "rest" or "observed"
        Where the bands lie. Between frames the column ``redshift`` is needed. The paper measured CALIFA's spectra at
        rest; at z = 0.03 H-alpha would lie in J0680.
    min_coverage : float
        Smallest share of a band that good pixels must cover. The rest is left out of both integrals of
        `spectool.surveys.jpas.band_matrix`, as if f_nu were there what it is elsewhere in the band.

    Returns
    -------
    Dataset, dims (spectrum, band)
        ``flux`` [Jy if the spectra are calibrated], ``flux_error`` if they have ``ivar`` (of independent pixels),
        ``mask``, ``coverage``, the columns of the spectra; coordinates ``band`` and ``band_wavelength`` [Angstrom].
        How many bands are masked is in the history.

    Warns
    -----
    PrepareWarning
        If a spectrum covers no band.

    Raises
    ------
    ValueError
        If J-PAS has no such band, or a redshift is needed and not there.
    """
    if frame not in ("rest", "observed"):
        raise ValueError(f'frame must be "rest" or "observed", not {frame!r}')
    dims = spectra["flux"].dims if "flux" in spectra else ()
    if len(dims) != 2 or "wavelength" not in dims:
        raise ValueError(f"spectra need a variable `flux` with dims (galaxy, wavelength), not {dims}")
    (rows,) = set(dims) - {"wavelength"}
    given = mask_bad_pixels(spectra.rename({rows: "galaxy"} if rows != "galaxy" else {}))
    wavelength, at_rest = spectral_coordinate(given)
    if frame == "rest" and not at_rest:
        given = to_rest_frame(given)
        wavelength, _ = spectral_coordinate(given)
    elif frame == "observed" and at_rest:
        wavelength = wavelength * _stretch(given)  # f_nu in units of its own: its factor (1 + z) is left out
    flux, variance, coverage = _average(given, wavelength, bands)
    mask = ~(coverage >= min_coverage)
    scale, unit = _unit(spectra["flux"].attrs.get("units", ""))
    pixels = {"units": unit, "description": "f_nu" if unit else "f_nu, relative"}
    both = ("spectrum", "band")
    columns = {
        name: ("spectrum", values.values, values.attrs)
        for name, values in given.data_vars.items()
        if values.dims == ("galaxy",)
    }
    result = xr.Dataset(
        columns
        | {
            "flux": (both, np.where(mask, np.nan, flux * scale), pixels),
            "mask": (both, mask, {"units": "", "description": "True = no flux"}),
            "coverage": (both, coverage.astype("f4"), {"units": "", "description": "share of the band"}),
        },
        coords={
            "band": list(bands),
            "band_wavelength": ("band", [FILTERS[name].wavelength for name in bands], {"units": "Angstrom"}),
        },
        attrs={"history": given.attrs["history"], "frame": frame},
    )
    if "ivar" in spectra:
        result["flux_error"] = (both, np.where(mask, np.nan, np.sqrt(variance) * scale), pixels)
    empty = np.flatnonzero(mask.all(axis=1))
    if empty.size:
        told = f"{empty.size} spectra cover none of the {len(bands)} bands, the first is row {empty[0]}"
        warnings.warn(told, PrepareWarning, stacklevel=2)
    return add_history(
        result,
        f"J-PAS ({frame} frame): {mask.sum()} of {mask.size} bands masked, less than {min_coverage:.0%} covered; "
        f"{mask.any(axis=1).sum()} of {len(mask)} spectra lack some, {empty.size} all",
    )


def observe_jpas(sample, *, seed, magnitude, reference="J0620", area=APERTURE_AREA, floor=0.0, depths=None):
    """Add the noise of J-PAS to noise-free bands.

    The noise is that of the sky: it does not depend on the galaxy and grows with the square root of the area. What a
    bright galaxy's own photons and the calibration add goes into `floor`.

    Parameters
    ----------
    sample : Dataset
        dims (spectrum, band), without ``flux_error``.
    seed : int or numpy.random.Generator
    magnitude : float or array_like (spectrum,)
        AB magnitude in `reference` that each spectrum is scaled to, of the light that falls into `area`.
    reference : str
        A band of the sample.
    area : float or array_like (spectrum,)
        What a spectrum was summed over [arcsec2]; default a circle 3 arcsec across.
    floor : float
        Relative error in quadrature.
    depths : dict of str to float, optional
        Five-sigma AB magnitudes in 3 arcsec; default `DEPTHS`.

    Returns
    -------
    Dataset
        With ``flux``, ``flux_error`` and ``true_flux`` [Jy]. Fluxes may be negative. A spectrum without `reference` is
        masked and counted.

    Raises
    ------
    ValueError
        If the sample is noisy already, or has no band `reference`.
    """
    if "flux_error" in sample:
        raise ValueError("the sample has errors (flux_error) already: add noise to noise-free bands")
    names = list(sample["band"].values)
    if reference not in names:
        raise ValueError(
            f"the sample has no band {reference!r} to scale to; it has {names[0]} ... {names[-1]}"
        )
    depths = np.array([(DEPTHS if depths is None else depths)[name] for name in names])
    given = sample["flux"].transpose("spectrum", "band").values.astype(float)
    known = ~sample["mask"].transpose("spectrum", "band").values if "mask" in sample else np.isfinite(given)
    anchor = np.where(known, given, np.nan)[:, names.index(reference)]
    lost = ~(anchor > 0)
    scale = (np.asarray(magnitude, float) * u.ABmag).to_value(u.Jy) / np.where(lost, np.nan, anchor)
    true = np.where(known & ~lost[:, None], given * scale[:, None], np.nan)
    sky = (
        0.2 * (depths * u.ABmag).to_value(u.Jy) * np.sqrt(np.asarray(area, float) / APERTURE_AREA)[..., None]
    )
    error = np.where(np.isfinite(true), np.hypot(sky, floor * np.abs(true)), np.nan)
    noisy = true + error * np.random.default_rng(seed).standard_normal(true.shape)
    both, pixels = ("spectrum", "band"), {"units": "Jy", "description": "f_nu"}
    return add_history(
        sample.assign(
            flux=(both, noisy, pixels),
            flux_error=(both, error, pixels),
            true_flux=(both, true, pixels | {"description": "f_nu without noise"}),
            mask=(both, ~np.isfinite(true), {"units": "", "description": "True = no flux"}),
        ),
        f"noise of J-PAS; {lost.sum()} of {len(lost)} spectra masked for want of light in {reference}",
    )


def to_magnitudes(sample, *, min_snr=1.0):
    """AB magnitudes of bands; what is not detected is masked.

    Parameters
    ----------
    sample : Dataset
        dims (spectrum, band)
    min_snr : float
        Bands below this signal to noise have no magnitude; nor has flux that is not positive.

    Returns
    -------
    Dataset
        The sample with ``magnitude`` and, where there are errors, ``magnitude_error`` (NaN where masked); ``mask``
        holds the non-detections too, and the history their number. Flux without a unit gives magnitudes without a
        zero point.
    """
    flux = sample["flux"].transpose("spectrum", "band")
    values, unit = flux.values, u.Unit(flux.attrs.get("units", ""))
    absent = ~np.isfinite(values)
    if "mask" in sample:
        absent |= sample["mask"].transpose("spectrum", "band").values
    seen = ~absent & (np.where(absent, 0.0, values) > 0)
    error = None
    if "flux_error" in sample:
        error = sample["flux_error"].transpose("spectrum", "band").values
        seen &= values >= min_snr * error
    light = np.where(seen, values, np.nan)
    if unit.is_equivalent(u.Jy):
        magnitude, name = (light * unit).to_value(u.ABmag), "mag(AB)"
    else:
        magnitude, name = -2.5 * np.log10(light), "mag"
    both = ("spectrum", "band")
    result = sample.assign(
        magnitude=(both, magnitude, {"units": name}),
        mask=(both, ~seen, {"units": "", "description": "True = no magnitude"}),
    )
    if error is not None:
        result["magnitude_error"] = (both, 2.5 / np.log(10) * error / light, {"units": "mag"})
    lost = (~seen & ~absent).sum()
    return add_history(result, f"magnitudes: {lost} of {seen.size} bands masked as not detected")


def _average(given, wavelength, bands):
    """Band fluxes, their variances and the covered shares, shape (galaxy, band), float64."""
    pixels = ("galaxy", "wavelength")
    flux, ivar, mask = (given[name].transpose(*pixels).values for name in ("flux", "ivar", "mask"))
    rows = [slice(None)] if wavelength.ndim == 1 else [slice(i, i + 1) for i in range(len(flux))]
    shape = (len(flux), len(bands))
    total, variance, covered, share = (np.empty(shape) for _ in range(4))
    for part in rows:  # spectra with pixels of their own go one by one
        edges = pixel_edges(wavelength if wavelength.ndim == 1 else wavelength[part][0])
        photons, flat, whole = band_weights(edges, bands)
        good = ~mask[part]
        total[part] = flux[part] @ photons
        variance[part] = np.divide(1.0, ivar[part], out=np.zeros(good.shape), where=good) @ photons**2
        covered[part] = good @ flat
        share[part] = covered[part] / whole
    scale = np.divide(1.0, covered, out=np.full(shape, np.nan), where=covered > 0)
    return total * scale, variance * scale**2, share


def _stretch(given):
    """1 + z of each galaxy, shape (galaxy, 1)."""
    if "redshift" not in given:
        raise ValueError("bands in the observed frame need the column `redshift`")
    return 1 + given["redshift"].values.astype(float)[:, None]


def _unit(text):
    """Factor and name of the unit of f_nu for spectra in a unit of f_lambda."""
    unit = u.Unit(text)
    if unit == u.dimensionless_unscaled:
        return 1.0, ""
    per_frequency = unit * u.AA / u.Hz
    if per_frequency.is_equivalent(u.Jy):
        return per_frequency.to(u.Jy), "Jy"
    return 1.0, per_frequency.to_string()
