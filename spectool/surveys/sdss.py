"""See synthetic galaxies as the Sloan Digital Sky Survey would: its sampling, resolution and noise."""

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.rebin import rebin_spectra
from spectool.surveys.sdss_files import DLOGLAM, FLUX_UNIT, IVAR_UNIT, LOGLAM0, PIXEL_VELOCITY
from spectool.surveys.sdss_noise import EXPOSURE, FWHM_TO_SIGMA, lsf_pixels, noise_variance
from spectool.wavelength import pixel_edges

OVERSAMPLING = 3  # fine pixels per SDSS pixel while blurring
WINDOW = (5000.0, 5500.0)


def sdss_wavelength(low=3800.0, high=9200.0):
    """SDSS's pixel centres [Angstrom, vacuum]: steps of 1e-4 in log10, in phase with real spectra."""
    first = int(np.ceil((np.log10(low) - LOGLAM0) / DLOGLAM))
    last = int(np.floor((np.log10(high) - LOGLAM0) / DLOGLAM))
    return 10 ** (LOGLAM0 + DLOGLAM * np.arange(first, last + 1))


def blur(flux, sigma):
    """Convolve each pixel with its own Gaussian.

    Parameters
    ----------
    flux : ndarray, shape (batch, n)
    sigma : ndarray, shape (batch, n)
        In pixels; 0 leaves the pixel as it is.

    Returns
    -------
    ndarray, shape (batch, n)
        Kernels are cut at 4 sigma and renormalised; beyond the ends the flux stays constant.
    """
    reach = max(int(np.ceil(4 * sigma.max())), 1)
    padded = np.pad(flux, ((0, 0), (reach, reach)), mode="edge")
    narrow = -0.5 / np.maximum(sigma, 1e-6) ** 2
    total, weight = np.zeros_like(flux), np.zeros_like(flux)
    for step in range(-reach, reach + 1):
        kernel = np.exp(narrow * step**2)
        weight += kernel
        total += kernel * padded[:, reach + step : reach + step + flux.shape[1]]
    return total / weight


def luminosity_to_flux(redshift, cosmology=None):
    """Factor from Lsun/A in the rest frame to 1e-17 erg/s/cm2/A as observed: 1 / (4 pi d_L^2 (1+z)).

    Parameters
    ----------
    redshift : ndarray, shape (galaxy,)
        Positive.
    cosmology : astropy.cosmology.FLRW, optional
        Default Planck 2018.
    """
    from astropy.cosmology import Planck18

    distance = (cosmology or Planck18).luminosity_distance(redshift)
    return (u.L_sun / u.AA / (4 * np.pi * distance**2)).to_value(FLUX_UNIT) / (1 + redshift)


def _scale(sample, cosmology, fibre_fraction, median_flux):
    """Per-galaxy factor from the sample's flux to 1e-17 erg/s/cm2/A times (1+z), and the redshifts."""
    for column in ("flux", "redshift"):
        if column not in sample:
            raise ValueError(f"the sample has no column `{column}`")
    if "wavelength" not in sample.coords:
        raise ValueError("the sample needs the rest-frame coordinate `wavelength` (vacuum Angstrom)")
    redshift = np.asarray(sample["redshift"], float)
    bad = np.flatnonzero(~(redshift > 0) | ~np.isfinite(redshift))
    if bad.size:
        raise ValueError(
            f"redshift of galaxy {bad[0]} is {redshift[bad[0]]}: an observation needs a positive one"
        )
    unit = u.Unit(sample["flux"].attrs.get("units", ""))
    if unit.is_equivalent(u.L_sun / u.AA):
        luminous = unit.to(u.L_sun / u.AA)
        return luminous * np.asarray(fibre_fraction) * luminosity_to_flux(redshift, cosmology), redshift
    if unit != u.dimensionless_unscaled:
        raise ValueError(f"flux is in {unit}: it must be in Lsun / Angstrom, or without unit")
    if median_flux is None:
        raise ValueError(
            "flux has no unit: give median_flux, the flux at 5000-5500 A that the galaxies shall have"
        )
    return np.asarray(median_flux, float) / (1 + redshift), redshift


def _observe_batch(flux, edges, fwhm, redshift, fine_edges, wavelength):
    """Resample and blur one batch to SDSS pixels; returns flux (still rest-frame units) and coverage."""
    stretch = 1 + redshift[:, None]
    target = np.broadcast_to(fine_edges, (len(flux), fine_edges.size))
    good = np.isfinite(flux)
    fine, _, covered = rebin_spectra(flux, np.zeros(flux.shape), good, edges * stretch, target)
    centre = np.sqrt(fine_edges[1:] * fine_edges[:-1])
    to_pixels = 1 / (np.log(10) * DLOGLAM)
    own = np.interp(centre / stretch, 0.5 * (edges[1:] + edges[:-1]), fwhm) * FWHM_TO_SIGMA
    box = np.interp(centre / stretch, 0.5 * (edges[1:] + edges[:-1]), np.diff(edges))
    own_variance = (own**2 + box**2 / 12) * (stretch * to_pixels / centre) ** 2
    # SDSS's pixel, which wdisp includes and the final mean over fine pixels brings, is a box of variance
    # 1/12.
    variance = np.clip(lsf_pixels(centre) ** 2 - own_variance - 1 / 12, 0, None)
    blurred = blur(fine, np.sqrt(variance) * OVERSAMPLING)
    shape = (len(flux), wavelength.size, OVERSAMPLING)
    return blurred.reshape(shape).mean(axis=2), covered.reshape(shape).mean(axis=2)


def observe_sdss(
    sample,
    *,
    seed,
    wavelength=None,
    fibre_fraction=0.3,
    median_flux=None,
    exposure=EXPOSURE,
    noise=True,
    cosmology=None,
    batch_size=64,
):
    """Observe rest-frame galaxies with the SDSS spectrographs.

    Redshift, flux calibration through the luminosity distance, SDSS's log-lambda pixels, blur to its
    line-spread function (by the difference in quadrature to the templates' own resolution), and noise of
    source, sky, read-out and calibration.

    Parameters
    ----------
    sample : Dataset
        dims (galaxy, wavelength): ``flux`` in Lsun / Angstrom (or without unit), column ``redshift`` (> 0),
        coordinate ``wavelength`` [Angstrom, vacuum, rest frame], and ``attrs["fwhm"]`` or a variable ``fwhm``
        (wavelength,): the templates' resolution [Angstrom]; default 2.5, that of MILES.
    seed : int or numpy.random.Generator
    wavelength : ndarray, optional
        SDSS pixels (constant steps of 1e-4 dex); default `sdss_wavelength`.
    fibre_fraction : float or array_like (galaxy,)
        Share of the galaxy's light in the 3" fibre; a third is typical (Brinchmann et al. 2004, MNRAS 351,
        1151).
    median_flux : float or array_like (galaxy,), optional
        For spectra without unit, normalised to 1 at 5000-5500 A: the flux there [1e-17 erg/s/cm2/A].
    exposure : float
        Seconds; SDSS's standard is 2700.
    noise : bool
        Without it ``flux`` is what noise would be added to, and ``ivar`` stays that of the noise.
    cosmology : astropy.cosmology.FLRW, optional
        Default Planck 2018.
    batch_size : int
        Galaxies worked on at once; does not change the result.

    Returns
    -------
    Dataset
        ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask`` (pixels that the templates do not reach),
        ``lsf_sigma`` (wavelength,) [km/s], coordinate ``observed_wavelength``, and all per-galaxy columns of
        `sample`. ``ivar`` is that of the true variance. Where the templates are coarser than SDSS
        (MILES in the blue arm, from redshifts of about 0.05) nothing is blurred and their own width stays.

    Raises
    ------
    ValueError
        If a column or unit is missing, or a redshift is not positive.
    """
    rng = np.random.default_rng(seed)
    scale, redshift = _scale(sample, cosmology, fibre_fraction, median_flux)
    scale = np.broadcast_to(scale, redshift.shape)
    wavelength = sdss_wavelength() if wavelength is None else np.asarray(wavelength, float)
    step = DLOGLAM / OVERSAMPLING
    fine_edges = 10 ** (
        np.log10(wavelength[0]) - DLOGLAM / 2 + step * np.arange(OVERSAMPLING * wavelength.size + 1)
    )
    rest = sample["wavelength"].values
    edges = pixel_edges(rest)
    fwhm = sample["fwhm"].values if "fwhm" in sample else sample.attrs.get("fwhm", 2.5)
    fwhm = np.broadcast_to(np.asarray(fwhm, float), rest.shape)
    shape = (redshift.size, wavelength.size)
    flux, ivar, mask = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, bool)
    for first in range(0, redshift.size, batch_size):
        part = slice(first, min(first + batch_size, redshift.size))
        given = sample["flux"].isel(galaxy=part).transpose("galaxy", "wavelength").values.astype(float)
        seen, covered = _observe_batch(given, edges, fwhm, redshift[part], fine_edges, wavelength)
        seen *= scale[part, None]
        variance = noise_variance(seen, wavelength, exposure=exposure)
        if noise:
            seen = seen + rng.standard_normal(seen.shape) * np.sqrt(variance)
        mask[part] = covered < 0.999
        flux[part], ivar[part] = np.where(mask[part], 0, seen), np.where(mask[part], 0, 1 / variance)
    return _observed(sample, wavelength, {"flux": flux, "ivar": ivar, "mask": mask}, exposure)


def _observed(sample, wavelength, pixels, exposure):
    """Put the observation together with the sample's per-galaxy columns."""
    columns = sample.drop_vars([n for n in sample.variables if "wavelength" in sample[n].dims])
    dims, units = ("galaxy", "wavelength"), {"flux": FLUX_UNIT, "ivar": IVAR_UNIT, "mask": ""}
    new = {n: xr.Variable(dims, values, {"units": units[n]}) for n, values in pixels.items()}
    lsf = lsf_pixels(wavelength) * PIXEL_VELOCITY
    new["lsf_sigma"] = xr.Variable(
        ("wavelength",), lsf, {"units": "km / s", "description": "instrumental sigma"}
    )
    attrs = {"units": "Angstrom", "description": "vacuum"}
    out = columns.assign(new).assign_coords(observed_wavelength=("wavelength", wavelength, attrs))
    text = f"observed with SDSS, {exposure:g} s"
    before = sample.attrs.get("history")
    return out.assign_attrs(survey="SDSS (simulated)", history=f"{before}\n{text}" if before else text)
