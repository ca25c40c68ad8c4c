"""A sample's spectra as pPXF takes them: on pixels uniform in log wavelength, each with its noise."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.measure.line_setup import KM_S
from spectool.measure.linear_table import guess_ivar
from spectool.measure.ppxf_templates import FWHM_TO_SIGMA
from spectool.prepare import LOWEST_REDSHIFT, spectral_coordinate
from spectool.surveys.sdss_files import PIXEL_VELOCITY
from spectool.surveys.sdss_noise import lsf_pixels

TEMPLATE_FWHM, TEMPLATE_PIXEL = 2.5, 0.9  # Angstrom, of the embedded grid (MILES)
_UNIFORM = 0.02  # share of a pixel by which steps in log wavelength may differ


@dataclass(frozen=True)
class Spectra:
    """Arrays of a sample and what they mean.

    Attributes
    ----------
    flux, noise : ndarray, shape (galaxy, n)
        Noise is 0 where a pixel cannot be used.
    log_first : ndarray, shape (galaxy,)
        ln of the first pixel's rest wavelength.
    step : float
        Of ln(wavelength).
    lsf_wavelength, lsf : ndarray, shape (m,)
        Rest wavelength [Angstrom], sigma [km/s].
    coordinate : DataArray
        The rest-frame wavelengths.
    units, variable : str
    has_ivar : bool
    n_not_finite : int
    """

    flux: np.ndarray
    noise: np.ndarray
    log_first: np.ndarray
    step: float
    lsf_wavelength: np.ndarray
    lsf: np.ndarray
    coordinate: xr.DataArray
    units: str
    variable: str
    has_ivar: bool
    n_not_finite: int

    @property
    def n_galaxies(self):
        """Number of spectra."""
        return len(self.flux)

    @property
    def n_pixels(self):
        """Pixels of each."""
        return self.flux.shape[1]

    @property
    def velscale(self):
        """km/s per pixel."""
        return float(self.step * KM_S)

    @property
    def reach(self):
        """Shortest and longest rest wavelength [Angstrom]."""
        return float(np.exp(self.log_first.min())), float(
            np.exp(self.log_first.max() + self.step * (self.n_pixels - 1))
        )

    def arrays(self):
        """What a checkpoint has to match."""
        return self.flux, self.noise, self.log_first

    def one(self, k):
        """Flux, noise and ln of the first wavelength of one spectrum."""
        return self.flux[k].astype(float), self.noise[k].astype(float), float(self.log_first[k])

    def lsf_at(self, wavelength):
        """Sigma of the line-spread function [km/s] at rest wavelengths [Angstrom]."""
        return np.interp(wavelength, self.lsf_wavelength, self.lsf)


def read_spectra(sample, variable, lsf, fit_range, grid=None):
    """Take a sample apart and check it.

    Parameters
    ----------
    sample : Dataset
    variable : str
    lsf : float, array_like (wavelength,) or None
    fit_range : (float, float)
        Pixels beyond these rest wavelengths [Angstrom] are not used.
    grid : SSPGrid, optional
        Whose resolution stands in where none is known.

    Returns
    -------
    Spectra

    Raises
    ------
    ValueError
        If a variable is missing or the pixels are not uniform in log wavelength.
    """
    dims = ("galaxy", "wavelength")
    if variable not in sample:
        raise ValueError(
            f"the sample has no variable `{variable}`, only {sorted(map(str, sample.data_vars))}"
        )
    if set(sample[variable].dims) != set(dims):
        raise ValueError(f"`{variable}` has dimensions {sample[variable].dims}, not {dims}")
    if sample.sizes["galaxy"] == 0:
        raise ValueError("the sample holds no galaxy")
    flux = sample[variable].transpose(*dims).values
    noise, has_ivar = _noise(sample, variable, flux)
    wavelength, rest = spectral_coordinate(sample)
    stretch = np.ones(len(flux))
    if not rest:
        stretch, flux, noise = _to_rest(sample, flux, noise)
    log_first, step = _log_pixels(wavelength if wavelength.ndim == 2 else wavelength[None])
    if not (rest and wavelength.ndim == 1):
        log_first = np.broadcast_to(log_first, len(flux)) - np.log(stretch)
    # One row for a common grid, which tens of thousands of spectra share.
    pixel = np.exp(log_first[:, None] + step * np.arange(flux.shape[1]))
    noise[np.broadcast_to((pixel < fit_range[0]) | (pixel > fit_range[1]), noise.shape)] = 0.0
    typical = np.median(pixel, axis=0)
    coordinate = sample["wavelength"] if rest and wavelength.ndim == 1 else None
    if coordinate is None:
        attrs = {"units": "Angstrom", "description": "vacuum, rest frame"}
        coordinate = xr.DataArray(pixel, dims=dims, name="rest_wavelength", attrs=attrs)
    return Spectra(
        flux=flux,
        noise=noise,
        log_first=np.broadcast_to(log_first, len(flux)),
        step=step,
        lsf_wavelength=typical,
        lsf=_lsf(sample, lsf, typical, grid),
        coordinate=coordinate,
        units=sample[variable].attrs.get("units", ""),
        variable=variable,
        has_ivar=has_ivar,
        n_not_finite=int((~np.isfinite(flux)).sum()),
    )


def _noise(sample, variable, flux):
    """Noise per pixel, 0 where it cannot be used, and whether it is known."""
    dims = ("galaxy", "wavelength")
    good = np.isfinite(flux)
    if "mask" in sample:
        good &= ~sample["mask"].transpose(*dims).values.astype(bool)
    added = sample[f"{variable}_sigma"].transpose(*dims).values if f"{variable}_sigma" in sample else None
    has_ivar = "ivar" in sample or added is not None
    variance = np.zeros(flux.shape)
    if "ivar" in sample:
        ivar = sample["ivar"].transpose(*dims).values.astype(float)
        good &= np.isfinite(ivar) & (ivar > 0)
        variance = np.divide(1.0, ivar, out=variance, where=good)
    if added is not None:
        scale = sample[f"{variable}_scale"].values if f"{variable}_scale" in sample else np.ones(len(flux))
        variance = variance * scale[:, None] ** 2 + added.astype(float) ** 2
    if not has_ivar:
        ivar = guess_ivar(np.where(good, flux, np.nan).astype(float))[:, None]
        variance = np.divide(1.0, ivar, out=np.zeros_like(ivar), where=ivar > 0) + variance
    good &= np.isfinite(variance) & (variance > 0)
    return np.sqrt(np.where(good, variance, 0.0), dtype=np.float32), has_ivar


def _to_rest(sample, flux, noise):
    """Flux densities in the rest frame; a spectrum without a redshift keeps no pixel."""
    if "redshift" not in sample:
        raise ValueError("the redshift is unknown: give the column `redshift`, or spectra in the rest frame")
    redshift = sample["redshift"].values.astype(float)
    known = np.isfinite(redshift) & (redshift >= LOWEST_REDSHIFT)
    stretch = np.where(known, 1 + redshift, 1.0)
    return stretch, flux * stretch[:, None], np.where(known[:, None], noise * stretch[:, None], 0.0)


def _log_pixels(centres):
    """ln of the first wavelength of each row, and the common step."""
    if centres.shape[1] < 60 or not (np.isfinite(centres).all() and (centres > 0).all()):
        raise ValueError("wavelengths must be finite and positive, 60 pixels at least")
    log = np.log(centres)
    steps = np.diff(log, axis=1)
    step = float(np.median((log[:, -1] - log[:, 0]) / (log.shape[1] - 1)))
    worst = np.abs(steps / step - 1).max() if step > 0 else np.inf
    if worst > _UNIFORM:
        raise ValueError(
            "pPXF takes pixels uniform in log wavelength, but steps differ by "
            f"{worst:.1%}: resample with spectool.prepare.resample first"
        )
    return log.mean(axis=1) - step * (log.shape[1] - 1) / 2, step


def _lsf(sample, lsf, rest, grid):
    """Sigma of the line-spread function [km/s] at the typical rest wavelengths of the pixels."""
    if lsf is not None:
        lsf = np.broadcast_to(np.asarray(lsf, float), rest.shape)
        if not (np.isfinite(lsf) & (lsf >= 0)).all():
            raise ValueError("lsf, the sigma of the line-spread function [km/s], must be finite and >= 0")
        return lsf
    survey = str(sample.attrs.get("survey", ""))
    fwhm = TEMPLATE_FWHM if grid is None else grid.fwhm
    templates = fwhm * FWHM_TO_SIGMA / rest * KM_S
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        known = sample["lsf_sigma"].values.astype(float)
    elif survey.startswith(("SDSS", "DESI")):
        redshift = sample["redshift"].values if "redshift" in sample else np.zeros(1)
        # Rounded, so that a part of a sample is fitted like the whole.
        typical = np.round(np.nanmedian(redshift), 2) if np.isfinite(redshift).any() else 0.0
        known = lsf_pixels(rest * (1 + typical)) * PIXEL_VELOCITY
    else:
        return templates
    if "simulated" not in survey:
        return known
    # Simulated spectra are nowhere sharper than what they are made of: templates, on their pixels, on SDSS's.
    pixels = (TEMPLATE_PIXEL / rest * KM_S) ** 2 / 12 + PIXEL_VELOCITY**2 / 12
    return np.maximum(known, np.sqrt(templates**2 + pixels))
