"""See synthetic galaxies as the Sloan Digital Sky Survey would: its sampling, resolution and noise."""

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.rebin import rebin_common
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


def blur(flux, sigma, *, reach=None):
    """Convolve each pixel with its own Gaussian.

    Parameters
    ----------
    flux : ndarray, shape (batch, n)
    sigma : ndarray, shape (batch, n)
        In pixels; 0 leaves the pixel as it is.
    reach : int, optional
        Pixels after which kernels are cut; default 4 times the largest sigma.

    Returns
    -------
    ndarray, shape (batch, n)
        Kernels are renormalised; beyond the ends the flux stays constant.
    """
    reach = max(int(np.ceil(4 * sigma.max())), 1) if reach is None else reach
    total, n = np.empty_like(flux), flux.shape[1]
    for first in range(0, len(flux), 8):  # a few rows at once stay in the processor's cache
        part = slice(first, first + 8)
        padded = np.pad(flux[part], ((0, 0), (reach, reach)), mode="edge")
        # exp(-s^2 / 2 sigma^2) for s = 1, 2, ... by multiplication: k_s = k_(s-1) a^(2s-1), a = k_1.
        kernel = np.exp(-0.5 / np.maximum(sigma[part], 1e-6) ** 2).astype(flux.dtype)
        ratio, square = kernel.copy(), kernel * kernel
        weight, blurred = 1 + 2 * kernel, flux[part].copy()
        for step in range(1, reach + 1):
            if step > 1:
                ratio *= square
                kernel *= ratio
                weight += 2 * kernel
            both = padded[:, reach - step : reach - step + n] + padded[:, reach + step : reach + step + n]
            both *= kernel
            blurred += both
        total[part] = blurred / weight
    return total


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
    fine, covered = rebin_common(flux, edges, fine_edges / stretch)
    centre = np.sqrt(fine_edges[1:] * fine_edges[:-1])
    to_pixels = 1 / (np.log(10) * DLOGLAM)
    own = np.interp(centre / stretch, 0.5 * (edges[1:] + edges[:-1]), fwhm) * FWHM_TO_SIGMA
    box = np.interp(centre / stretch, 0.5 * (edges[1:] + edges[:-1]), np.diff(edges))
    own_variance = (own**2 + box**2 / 12) * (stretch * to_pixels / centre) ** 2
    # SDSS's pixel, which wdisp includes and the final mean over fine pixels brings, is a box of variance
    # 1/12.
    variance = np.clip(lsf_pixels(centre) ** 2 - own_variance - 1 / 12, 0, None)
    reach = int(np.ceil(4 * OVERSAMPLING * lsf_pixels(centre).max()))  # the same for every batch
    blurred = blur(fine.astype("f4"), np.sqrt(variance) * OVERSAMPLING, reach=reach)
    shape = (len(flux), wavelength.size, OVERSAMPLING)
    return blurred.reshape(shape).mean(axis=2, dtype=float), covered.reshape(shape).mean(axis=2)


def observe_sdss(
    sample,
    *,
    seed,
    wavelength=None,
    fibre_fraction=0.3,
    median_flux=None,
    exposure=EXPOSURE,
    noise=True,
    keep_truth=False,
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
    seed : int, numpy.random.Generator, or array_like of int, shape (galaxy, k)
        With one row per galaxy each has a noise of its own that does not depend on which others are observed.
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
    keep_truth : bool
        Keep ``truth``, the same without noise.
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
    scale, redshift = _scale(sample, cosmology, fibre_fraction, median_flux)
    draw = _noise_source(seed, redshift.size)
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
    truth = np.empty(shape, np.float32) if keep_truth else None
    for first in range(0, redshift.size, batch_size):
        part = slice(first, min(first + batch_size, redshift.size))
        given = sample["flux"].isel(galaxy=part).transpose("galaxy", "wavelength").values.astype(float)
        seen, covered = _observe_batch(given, edges, fwhm, redshift[part], fine_edges, wavelength)
        seen *= scale[part, None]
        variance = noise_variance(seen, wavelength, exposure=exposure)
        mask[part] = covered < 0.999
        if keep_truth:
            truth[part] = np.where(mask[part], 0, seen)
        if noise:
            seen = seen + draw(part, seen.shape) * np.sqrt(variance)
        flux[part], ivar[part] = np.where(mask[part], 0, seen), np.where(mask[part], 0, 1 / variance)
    pixels = {"flux": flux, "ivar": ivar, "mask": mask}
    return _observed(sample, wavelength, pixels | ({"truth": truth} if keep_truth else {}), exposure)


def _noise_source(seed, n_galaxies):
    """A function of (rows, shape) that gives their normal deviates."""
    if not isinstance(seed, np.random.Generator) and np.ndim(seed) == 2:
        seeds = np.asarray(seed)
        if len(seeds) != n_galaxies:
            raise ValueError(f"there are {len(seeds)} seeds for {n_galaxies} galaxies")
        return lambda rows, shape: np.stack(
            [np.random.default_rng(row.tolist()).standard_normal(shape[1]) for row in seeds[rows]]
        )
    rng = np.random.default_rng(seed)
    return lambda rows, shape: rng.standard_normal(shape)


def _observed(sample, wavelength, pixels, exposure):
    """Put the observation together with the sample's per-galaxy columns."""
    columns = sample.drop_vars([n for n in sample.variables if "wavelength" in sample[n].dims])
    dims, units = (
        ("galaxy", "wavelength"),
        {"flux": FLUX_UNIT, "truth": FLUX_UNIT, "ivar": IVAR_UNIT, "mask": ""},
    )
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
