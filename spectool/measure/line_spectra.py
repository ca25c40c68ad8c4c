"""Spectra as the line fits and the population fits read them: noise, masks, resolution, pixels."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.prepare import LOWEST_REDSHIFT, pixel_variance, spectral_coordinate, typical_lsf
from spectool.spectra import FWHM_TO_SIGMA, KM_S, PIXEL_VELOCITY, pixel_edges
from spectool.surveys.spectrograph import lsf_pixels, resolving_power

_UNKNOWN = 70.0  # km/s, where a sample says nothing of its resolution
_TEMPLATE_FWHM, _TEMPLATE_PIXEL = 2.5, 0.9  # Angstrom, of the embedded grid (MILES)
_NOISE_FLOOR = 1e-3  # of the median flux, where the noise has to be guessed
_UNIFORM = 0.02  # share of a pixel by which steps in log wavelength may differ
_DIMS = ("galaxy", "wavelength")


@dataclass(frozen=True)
class Spectra:
    """Arrays of a sample and what they mean; `log_first` and `step` where pixels are uniform in log wavelength."""

    flux: np.ndarray
    ivar: np.ndarray | None
    mask: np.ndarray | None
    added: np.ndarray | None  # sigma of noise that was added to what `ivar` belongs to
    scale: np.ndarray | None  # by which that was multiplied
    wavelength: np.ndarray  # typical, rest frame
    lsf: np.ndarray
    coordinate: xr.DataArray
    units: str
    variable: str
    stretch: np.ndarray | None = None  # 1 + z of spectra in the observed frame, NaN if unknown
    log_first: np.ndarray | None = None
    step: float = np.nan
    fit_range: tuple = (0.0, np.inf)

    @property
    def has_ivar(self):
        """Whether the noise is known."""
        return self.ivar is not None or self.added is not None

    @property
    def velscale(self):
        """km/s per pixel."""
        return float(self.step * KM_S)

    @property
    def reach(self):
        """Shortest and longest rest wavelength [Angstrom]."""
        last = self.log_first.max() + self.step * (self.flux.shape[1] - 1)
        return float(np.exp(self.log_first.min())), float(np.exp(last))

    def weights(self, rows):
        """Flux and inverse variance (0: not to be used) of some rows, float64, as given or guessed."""
        flux = np.asarray(self.flux[rows], dtype=float)
        bad = ~np.isfinite(flux)
        if self.mask is not None:
            bad |= self.mask[rows]
        if self.ivar is not None:
            ivar = np.asarray(self.ivar[rows], dtype=float)
        elif self.added is not None:
            ivar = np.full(flux.shape, np.finfo(float).max)
        else:
            ivar = np.broadcast_to(_guess_ivar(np.where(bad, np.nan, flux))[:, None], flux.shape)
        bad |= ~np.isfinite(ivar) | ~(ivar > 0)
        return flux, np.where(bad, 0.0, ivar)

    def at_rest(self, k):
        """Flux, noise (0: not to be used) and ln of the first wavelength of one spectrum, all in the rest frame."""
        rows = slice(k, k + 1)
        flux, ivar = self.weights(rows)
        good = ivar > 0
        variance = np.divide(1.0, ivar, out=np.zeros(flux.shape), where=good)
        if self.added is not None:
            scale = 1.0 if self.scale is None else self.scale[rows, None]
            variance = variance * scale**2 + self.added[rows].astype(float) ** 2
            good &= np.isfinite(variance) & (variance > 0)
        noise = np.sqrt(np.where(good, variance, 0.0), dtype=np.float32).astype(float)
        if self.stretch is not None:
            known = np.isfinite(self.stretch[k])
            flux = flux * (self.stretch[k] if known else 1.0)
            noise = noise * self.stretch[k] if known else np.zeros(noise.shape)
        pixel = np.exp(self.log_first[k] + self.step * np.arange(flux.shape[1]))
        noise[0, (pixel < self.fit_range[0]) | (pixel > self.fit_range[1])] = 0.0
        return flux[0], noise[0], float(self.log_first[k])

    def lsf_at(self, wavelength):
        """Sigma of the line-spread function [km/s] at rest wavelengths [Angstrom]."""
        return np.interp(wavelength, self.wavelength, self.lsf)


def _guess_ivar(flux):
    """Inverse variance of the noise, from each pixel's distance to the mean of its neighbours."""
    distance = np.abs(flux[:, 1:-1] - 0.5 * (flux[:, 2:] + flux[:, :-2]))
    seen = np.isfinite(distance).any(axis=1)
    sigma = np.zeros(len(flux))
    sigma[seen] = 1.4826 / 1.5**0.5 * np.nanmedian(distance[seen], axis=1)
    sigma[seen] = np.maximum(sigma[seen], _NOISE_FLOOR * np.nanmedian(np.abs(flux[seen]), axis=1))
    return np.divide(1.0, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)


def read_spectra(sample, variable, lsf=None, *, fit_range=None, grid=None):
    """A sample's arrays: on a common grid at rest or, with `fit_range`, in any frame on the log pixels of pPXF."""
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    if set(sample[variable].dims) != set(_DIMS):
        raise ValueError(f"`{variable}` has dimensions {sample[variable].dims}, not {_DIMS}")
    arrays = {
        name: sample[name].transpose(*_DIMS).values if name in sample else None
        for name in (variable, "ivar", "mask", f"{variable}_sigma")
    }
    pixels = _log_pixels(sample, fit_range) if fit_range is not None else _common_pixels(sample)
    if lsf is None:
        common = fit_range is None
        wavelength = pixels["wavelength"]
        lsf = line_spread(sample, wavelength) if common else _blurred_templates(sample, wavelength, grid)
    lsf = np.broadcast_to(np.asarray(lsf, float), pixels["wavelength"].shape)
    if not (np.isfinite(lsf) & (lsf >= 0)).all():
        raise ValueError("lsf, the sigma of the line-spread function [km/s], must be finite and not negative")
    scale = sample.get(f"{variable}_scale")
    return Spectra(
        flux=arrays[variable],
        ivar=arrays["ivar"],
        mask=None if arrays["mask"] is None else arrays["mask"].astype(bool),
        # The linear fit goes by `ivar` alone.
        added=arrays[f"{variable}_sigma"] if fit_range is not None else None,
        scale=None if scale is None else scale.values,
        lsf=lsf,
        units=sample[variable].attrs.get("units", ""),
        variable=variable,
        **pixels,
    )


def _common_pixels(sample):
    if "wavelength" not in sample.coords or sample["wavelength"].dims != ("wavelength",):
        raise ValueError(
            "lines are fitted on a common rest-frame grid (coordinate `wavelength`): use "
            "spectool.prepare.to_rest_frame and resample first"
        )
    return {"wavelength": sample["wavelength"].values.astype(float), "coordinate": sample["wavelength"]}


def _log_pixels(sample, fit_range):
    """Where pixels lie whose steps in log wavelength are all the same; a spectrum without a redshift keeps none."""
    count = sample.sizes["galaxy"]
    if count == 0:
        raise ValueError("the sample holds no galaxy")
    wavelength, rest = spectral_coordinate(sample)
    stretch = None
    if not rest:
        if "redshift" not in sample:
            raise ValueError(
                "the redshift is unknown: give the column `redshift`, or spectra in the rest frame"
            )
        redshift = sample["redshift"].values.astype(float)
        stretch = np.where(np.isfinite(redshift) & (redshift >= LOWEST_REDSHIFT), 1 + redshift, np.nan)
    centres = np.atleast_2d(wavelength)
    if centres.shape[1] < 60 or not (np.isfinite(centres).all() and (centres > 0).all()):
        raise ValueError("wavelengths must be finite and positive, 60 pixels at least")
    log = np.log(centres)
    step = float(np.median((log[:, -1] - log[:, 0]) / (log.shape[1] - 1)))
    worst = np.abs(np.diff(log, axis=1) / step - 1).max() if step > 0 else np.inf
    if worst > _UNIFORM:
        raise ValueError(
            "pPXF takes pixels uniform in log wavelength, but steps differ by "
            f"{worst:.1%}: resample with spectool.prepare.resample first"
        )
    log_first = log.mean(axis=1) - step * (log.shape[1] - 1) / 2
    common = rest and wavelength.ndim == 1
    if not common:
        known = np.ones(count) if stretch is None else np.where(np.isfinite(stretch), stretch, 1.0)
        log_first = np.broadcast_to(log_first, count) - np.log(known)
    pixel = np.exp(log_first[:, None] + step * np.arange(log.shape[1]))
    attrs = {"units": "Angstrom", "description": "vacuum, rest frame"}
    each = None if common else xr.DataArray(pixel, dims=_DIMS, name="rest_wavelength", attrs=attrs)
    return {
        "stretch": stretch,
        "log_first": np.broadcast_to(log_first, count),
        "step": step,
        "wavelength": np.median(pixel, axis=0),
        "coordinate": sample["wavelength"] if common else each,
        "fit_range": fit_range,
    }


def line_spread(sample, wavelength):
    """Sigma of the line-spread function [km/s] at rest wavelengths, from what a sample says of itself."""
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        return np.interp(wavelength, sample["wavelength"].values, sample["lsf_sigma"].values)
    if (own := typical_lsf(sample)) is not None:  # profiles are averaged over pixels: without these
        pixels = pixel_variance(pixel_edges(wavelength))
        return np.sqrt(np.maximum(own**2 - pixels, 0.5 * pixels))
    survey = str(sample.attrs.get("survey", ""))
    templates = np.full(np.shape(wavelength), np.nan)
    if "fwhm" in sample.attrs:
        templates = float(sample.attrs["fwhm"]) * FWHM_TO_SIGMA / wavelength * KM_S
    if not survey.startswith(("SDSS", "DESI")):
        return np.where(np.isnan(templates), _UNKNOWN, templates)
    power = resolving_power(wavelength * (1 + _typical_redshift(sample)))
    variance = (KM_S * FWHM_TO_SIGMA / power) ** 2
    box = PIXEL_VELOCITY**2 / 12
    if "simulated" in survey:
        template_box = (_TEMPLATE_PIXEL / wavelength * KM_S) ** 2 / 12
        variance = np.fmax(variance, templates**2 + template_box + box) + template_box
    return np.sqrt(variance + box)


def _blurred_templates(sample, wavelength, grid):
    """The same for templates blurred to it; never sharper than these where spectra were made of them."""
    survey = str(sample.attrs.get("survey", ""))
    templates = (_TEMPLATE_FWHM if grid is None else grid.fwhm) * FWHM_TO_SIGMA / wavelength * KM_S
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        known = sample["lsf_sigma"].values.astype(float)
    elif (own := typical_lsf(sample)) is not None:
        return own
    elif survey.startswith(("SDSS", "DESI")):
        # Rounded, so that a part of a sample is fitted like the whole.
        known = lsf_pixels(wavelength * (1 + np.round(_typical_redshift(sample), 2))) * PIXEL_VELOCITY
    else:
        return templates
    if "simulated" not in survey:
        return known
    pixels = (_TEMPLATE_PIXEL / wavelength * KM_S) ** 2 / 12 + PIXEL_VELOCITY**2 / 12
    return np.maximum(known, np.sqrt(templates**2 + pixels))


def _typical_redshift(sample):
    redshift = sample["redshift"].values if "redshift" in sample else np.zeros(1)
    return float(np.nanmedian(redshift)) if np.isfinite(redshift).any() else 0.0
