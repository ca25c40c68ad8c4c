"""J-PAS: its narrow bands, and what they measure of a spectrum."""

import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import xarray as xr
from astropy import constants
from astropy import units as u
from scipy.integrate import cumulative_trapezoid
from scipy.special import ndtr

from spectool.prepare import PrepareWarning, add_history, mask_bad_pixels, spectral_coordinate, to_rest_frame
from spectool.spectra import pixel_edges

EDGE = 6.4
"""Sigma of the Gaussian that softens a band's edges [Angstrom]: they fall from 90% to 10% within 16.4 A."""
MIN_COVERAGE = 0.95
"""A band counts where at least this share of it is covered by good pixels."""

DIMS = ("spectrum", "band")
_REACH = 5.0  # edges are followed to so many sigma
_STEP = 0.25  # sampling of a band where it is integrated [Angstrom]
_LIGHT = constants.c.to_value("Angstrom / s")


class Filter(NamedTuple):
    """A narrow band: photon-weighted mean wavelength and full width at half maximum [Angstrom]."""

    wavelength: float
    fwhm: float


# Of the filters as CEFCA measured them (curves of 2017-03-16, with detector, optics and atmosphere; published with
# miniJPAS: Bonoli et al. 2021, A&A 653, A31), to 1 A. They lie up to 22 A redward of the round numbers in their names.
# fmt: off
FILTERS = {name: Filter(*rest) for name, *rest in (
    ("J0378", 3797, 155), ("J0390", 3905, 144), ("J0400", 4007, 145), ("J0410", 4116, 144), ("J0420", 4210, 146),
    ("J0430", 4311, 148), ("J0440", 4409, 148), ("J0450", 4515, 148), ("J0460", 4609, 147), ("J0470", 4705, 146),
    ("J0480", 4809, 143), ("J0490", 4907, 150), ("J0500", 5006, 150), ("J0510", 5102, 147), ("J0520", 5209, 149),
    ("J0530", 5304, 150), ("J0540", 5398, 148), ("J0550", 5502, 148), ("J0560", 5605, 149), ("J0570", 5710, 149),
    ("J0580", 5812, 147), ("J0590", 5920, 148), ("J0600", 6010, 149), ("J0610", 6118, 148), ("J0620", 6209, 148),
    ("J0630", 6313, 148), ("J0640", 6411, 147), ("J0650", 6508, 147), ("J0660", 6608, 148), ("J0670", 6713, 147),
    ("J0680", 6811, 148), ("J0690", 6916, 147), ("J0700", 7009, 148), ("J0710", 7122, 147), ("J0720", 7212, 146),
    ("J0730", 7312, 146), ("J0740", 7416, 147), ("J0750", 7502, 140), ("J0760", 7600, 144), ("J0770", 7721, 142),
    ("J0780", 7808, 141), ("J0790", 7908, 141), ("J0800", 8007, 139), ("J0810", 8114, 142), ("J0820", 8217, 140),
    ("J0830", 8319, 147), ("J0840", 8411, 147), ("J0850", 8509, 145), ("J0860", 8598, 147), ("J0870", 8709, 146),
    ("J0880", 8819, 146), ("J0890", 8911, 147), ("J0900", 9003, 146), ("J0910", 9101, 145),
)}
# fmt: on
BANDS = tuple(FILTERS)
CALIFA_BANDS = tuple(name for name in BANDS if "J0390" <= name <= "J0740" and name not in ("J0660", "J0670"))
"""The 34 bands that CALIFA spans at rest, without the two that may hold H-alpha."""


def transmission(band, wavelength):
    """Model of a band's transmission, relative to its flat top."""
    item = _filter(band)
    offset = np.asarray(wavelength, dtype=float) - item.wavelength
    return ndtr((offset + item.fwhm / 2) / EDGE) - ndtr((offset - item.fwhm / 2) / EDGE)


def band_matrix(wavelength, bands=CALIFA_BANDS):
    """Matrix that turns spectra into band fluxes: ``f_nu = f_lambda @ matrix``."""
    photons, flat, whole = band_weights(pixel_edges(wavelength), bands)
    covered = flat.sum(axis=0)
    enough = covered >= MIN_COVERAGE * whole
    scale = np.divide(1.0, covered, out=np.full(covered.shape, np.nan), where=enough)
    return photons * scale


def band_weights(edges, bands):
    """The two integrals of a band over each pixel, for spectra with gaps."""
    if isinstance(bands, str) or not len(bands):
        raise ValueError(f"bands must be a sequence of names such as J0390, not {bands!r}")
    if len(set(bands)) < len(bands):
        raise ValueError(f"a band is named twice in {', '.join(bands)}")
    photons, flat = (np.empty((len(edges) - 1, len(bands))) for _ in range(2))
    whole = np.empty(len(bands))
    for column, name in enumerate(bands):
        grid, of_photons, of_flat = _integrals(name)
        photons[:, column] = np.diff(np.interp(edges, grid, of_photons))
        flat[:, column] = np.diff(np.interp(edges, grid, of_flat))
        whole[column] = of_flat[-1]
    return photons, flat, whole


@cache
def _integrals(name):
    """Wavelengths across a band, and its two integrals up to each of them."""
    item = _filter(name)
    reach = item.fwhm / 2 + _REACH * EDGE
    grid = np.arange(item.wavelength - reach, item.wavelength + reach + _STEP, _STEP)
    curve = transmission(name, grid)
    integrals = (curve * grid, _LIGHT * curve / grid)
    return grid, *(cumulative_trapezoid(values, grid, initial=0) for values in integrals)


def _filter(name):
    if name not in FILTERS:
        raise ValueError(f"J-PAS has no band {name!r}; there are {BANDS[0]}, {BANDS[1]}, ... {BANDS[-1]}")
    return FILTERS[name]


APERTURE_AREA = np.pi * 1.5**2
"""Of the depths: 3 arcsec across [arcsec2]."""
_BLUEST, _REDDEST = (FILTERS[name].wavelength for name in (BANDS[0], BANDS[-1]))
DEPTHS = {k: 23.5 - 1.5 * (band.wavelength - _BLUEST) / (_REDDEST - _BLUEST) for k, band in FILTERS.items()}
"""Five-sigma depths [AB mag in 3 arcsec], the range of miniJPAS's narrow bands (Bonoli et al. 2021, A&A 653, A31);
that they fall evenly with wavelength is a simplification of ours."""


def measure_bands(spectra, bands=CALIFA_BANDS, *, frame="rest"):
    """Fluxes of spectra in bands of J-PAS, with errors, and with bands masked that a spectrum does not cover.

    Parameters
    ----------
    spectra : Dataset
        dims (galaxy, wavelength), or another in the place of galaxy, in the observed frame or at rest. ``ivar`` and
        ``mask`` are honoured; pixels that are not finite are left out.
    bands : sequence of str
    frame : "rest" or "observed"
        Where the bands lie. Between frames the column ``redshift`` is needed (else a ValueError, as for other bands).

    Returns
    -------
    Dataset, dims (spectrum, band)
        ``flux`` [Jy if the spectra are calibrated], ``flux_error`` if they have ``ivar`` (of independent pixels),
        ``mask`` (good pixels cover less than `MIN_COVERAGE`; above, what is missing is taken to be like the rest),
        ``coverage``, the columns of the spectra; coordinates ``band`` and ``band_wavelength`` [Angstrom].
        How many bands are masked is in the history; spectra that cover no band are warned of (`PrepareWarning`).
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
        if "redshift" not in given:
            raise ValueError("bands in the observed frame need the column `redshift`")
        # f_nu is in units of its own: its factor (1 + z) is left out
        wavelength = wavelength * (1 + given["redshift"].values.astype(float)[:, None])
    flux, variance, coverage = _average(given, wavelength, bands)
    mask = ~(coverage >= MIN_COVERAGE)
    scale, unit = _unit(spectra["flux"].attrs.get("units", ""))
    pixels = {"units": unit, "description": "f_nu" if unit else "f_nu, relative"}
    centres = ("band", [FILTERS[name].wavelength for name in bands], {"units": "Angstrom"})
    result = xr.Dataset(
        coords={"band": list(bands), "band_wavelength": centres},
        attrs={"history": given.attrs["history"], "frame": frame},
    )
    for name, values in given.data_vars.items():
        if values.dims == ("galaxy",):
            result[name] = ("spectrum", values.values, values.attrs)
    result["flux"] = (DIMS, np.where(mask, np.nan, flux * scale), pixels)
    result["mask"] = (DIMS, mask, {"units": "", "description": "True = no flux"})
    result["coverage"] = (DIMS, coverage.astype("f4"), {"units": "", "description": "share of the band"})
    if "ivar" in spectra:
        result["flux_error"] = (DIMS, np.where(mask, np.nan, np.sqrt(variance) * scale), pixels)
    empty = np.flatnonzero(mask.all(axis=1))
    if empty.size:
        note = f"{empty.size} spectra cover none of the {len(bands)} bands, the first is row {empty[0]}"
        warnings.warn(note, PrepareWarning, stacklevel=2)
    note = f"J-PAS ({frame} frame): {mask.sum()} of {mask.size} bands masked, less than {MIN_COVERAGE:.0%} covered; "
    note += f"{mask.any(axis=1).sum()} of {len(mask)} spectra lack some, {empty.size} all"
    return add_history(result, note)


def observe_jpas(sample, *, seed, magnitude, reference="J0620", area=APERTURE_AREA, floor=0.0):
    """Add the noise of J-PAS to noise-free bands.

    The noise is the sky's, by `DEPTHS`: it does not depend on the galaxy and grows with the square root of the area.
    What a bright galaxy's own photons and the calibration add goes into `floor`.

    Parameters
    ----------
    sample : Dataset
        dims (spectrum, band), without ``flux_error``.
    seed : int or numpy.random.Generator
    magnitude, reference : float or array_like (spectrum,), str
        AB magnitude in that band to which each spectrum is scaled, of the light that falls into `area`.
    area : float or array_like (spectrum,)
        What a spectrum was summed over [arcsec2]; default a circle 3 arcsec across.
    floor : float
        Relative error in quadrature.

    Returns
    -------
    Dataset
        With ``flux``, ``flux_error`` and ``true_flux`` [Jy]. Fluxes may be negative. A spectrum without `reference` is
        masked and counted; a sample that has errors already or lacks that band is refused (ValueError).
    """
    if "flux_error" in sample:
        raise ValueError("the sample has errors (flux_error) already: add noise to noise-free bands")
    names = list(sample["band"].values)
    if reference not in names:
        held = f"{names[0]} ... {names[-1]}"
        raise ValueError(f"the sample has no band {reference!r} to scale to; it has {held}")
    depths = (np.array([DEPTHS[name] for name in names]) * u.ABmag).to_value(u.Jy)
    given = sample["flux"].transpose(*DIMS).values.astype(float)
    known = ~sample["mask"].transpose(*DIMS).values if "mask" in sample else np.isfinite(given)
    anchor = np.where(known, given, np.nan)[:, names.index(reference)]
    lost = ~(anchor > 0)
    scale = (np.asarray(magnitude, float) * u.ABmag).to_value(u.Jy) / np.where(lost, np.nan, anchor)
    true = np.where(known & ~lost[:, None], given * scale[:, None], np.nan)
    sky = 0.2 * depths * np.sqrt(np.asarray(area, float) / APERTURE_AREA)[..., None]
    error = np.where(np.isfinite(true), np.hypot(sky, floor * np.abs(true)), np.nan)
    noisy = true + error * np.random.default_rng(seed).standard_normal(true.shape)
    pixels = {"units": "Jy", "description": "f_nu"}
    noisy = sample.assign(
        flux=(DIMS, noisy, pixels),
        flux_error=(DIMS, error, pixels),
        true_flux=(DIMS, true, pixels | {"description": "f_nu without noise"}),
        mask=(DIMS, ~np.isfinite(true), {"units": "", "description": "True = no flux"}),
    )
    note = f"noise of J-PAS; {lost.sum()} of {len(lost)} spectra masked for want of light in {reference}"
    return add_history(noisy, note)


def to_magnitudes(sample):
    """A sample of bands with ``magnitude`` (AB if the flux has a unit) and, if there are errors, ``magnitude_error``.

    NaN where the flux is not positive or below its error; ``mask`` holds these too, and the history their number.
    """
    flux = sample["flux"].transpose(*DIMS)
    values, unit = flux.values, u.Unit(flux.attrs.get("units", ""))
    absent = ~np.isfinite(values)
    if "mask" in sample:
        absent |= sample["mask"].transpose(*DIMS).values
    seen = ~absent & (np.where(absent, 0.0, values) > 0)
    if "flux_error" in sample:
        error = sample["flux_error"].transpose(*DIMS).values
        seen &= values >= error
    light = np.where(seen, values, np.nan)
    if unit.is_equivalent(u.Jy):
        magnitude, name = (light * unit).to_value(u.ABmag), "mag(AB)"
    else:
        magnitude, name = -2.5 * np.log10(light), "mag"
    result = sample.assign(
        magnitude=(DIMS, magnitude, {"units": name}),
        mask=(DIMS, ~seen, {"units": "", "description": "True = no magnitude"}),
    )
    if "flux_error" in sample:
        result["magnitude_error"] = (DIMS, 2.5 / np.log(10) * error / light, {"units": "mag"})
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


def _unit(text):
    """Factor and name of the unit of f_nu for spectra in a unit of f_lambda."""
    unit = u.Unit(text)
    if unit == u.dimensionless_unscaled:
        return 1.0, ""
    per_frequency = unit * u.AA / u.Hz
    if per_frequency.is_equivalent(u.Jy):
        return per_frequency.to(u.Jy), "Jy"
    return 1.0, per_frequency.to_string()
