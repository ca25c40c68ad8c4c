"""Mock SDSS spectra: what the instrument makes of a galaxy, its sampling, resolution and noise."""

import numpy as np
from astropy import units as u

from spectool.prepare import add_history
from spectool.spectra import (
    DLOGLAM,
    FLUX_UNIT,
    FWHM_TO_SIGMA,
    IVAR_UNIT,
    LOGLAM0,
    PIXEL_VELOCITY,
    pixel_edges,
    rebin_common,
)

# Dark continuum of the sky in a 3" fibre [1e-17 erg/s/cm2/A]: wavelength, flux.
# fmt: off
SKY_CONTINUUM = np.array([
    (3850, 4.5), (4250, 5.0), (4500, 5.6), (5000, 5.1), (5400, 4.9), (5700, 6.0), (5850, 7.5), (6000, 7.0),
    (6200, 5.7), (6500, 4.4), (7000, 3.9), (7500, 3.7), (8000, 4.1), (8500, 2.9), (9000, 2.9), (9150, 2.3),
])

# Its lines (city mercury and sodium, airglow of O I, O2, OH): vacuum wavelength [A], [1e-17 erg/s/cm2].
SKY_EMISSION = np.array([
    (4360.1, 120), (5579.6, 910), (5891.1, 280), (6302.3, 360), (6366.5, 120), (6831.2, 120), (6865.9, 110),
    (7242.7, 320), (7277.8, 250), (7318.1, 170), (7343.4, 210), (7372.2, 170), (7404.6, 110), (7526.6, 140),
    (7717.9, 430), (7753.5, 300), (7796.5, 210), (7823.5, 250), (7856.0, 370), (7872.3, 160), (7892.2, 170),
    (7915.9, 380), (7934.1, 110), (7967.1, 250), (7981.8, 130), (7996.5, 280), (8027.9, 230), (8064.9, 110),
    (8290.9, 380), (8300.4, 350), (8346.4, 640), (8384.9, 160), (8402.3, 440), (8417.8, 180), (8433.3, 520),
    (8454.7, 190), (8468.4, 380), (8495.7, 110), (8507.5, 230), (8550.7, 110), (8631.8, 370), (8657.6, 360),
    (8770.0, 760), (8780.1, 550), (8794.3, 160), (8828.8, 1010), (8853.2, 120), (8869.5, 250), (8887.9, 670),
    (8906.4, 320), (8922.8, 800), (8945.4, 260), (8959.8, 590), (8990.8, 210), (9003.3, 380), (9053.2, 190),
])

# Electrons per pixel of 1e-4 dex in EXPOSURE seconds for a flux of 1e-17 erg/s/cm2/A. The step is the dichroic.
EXPOSURE = 2700.0
SENSITIVITY = np.array([
    (3850, 8.3), (4000, 12.8), (4250, 19.3), (4500, 25.0), (5000, 34.4), (5500, 39.2), (5750, 38.3),
    (5850, 37.0), (5950, 48.6), (6200, 57.0), (6500, 72.0), (7000, 75.8), (7500, 69.4), (8000, 51.8),
    (8500, 43.0), (9000, 27.5), (9150, 24.4),
])
# fmt: on
READ_NOISE = 13.0  # electrons per pixel: 3 exposures x 3.5 rows x (4 electrons)^2, in quadrature
CALIBRATION_FLOOR = 0.010  # of the flux: flat fields and calibration, per pixel


def resolving_power(wavelength):
    """R = lambda / FWHM of the spectrographs' two arms, after Smee et al. (2013, AJ 146, 32)."""
    wavelength = np.asarray(wavelength, float)
    blue = 1560 + (2270 - 1560) * (wavelength - 3700) / 2300
    red = 1850 + (2650 - 1850) * (wavelength - 6000) / 3000
    share = np.clip((wavelength - 5750) / 250, 0, 1)
    return 1 / np.sqrt((1 - share) / blue**2 + share / red**2)


def lsf_pixels(wavelength):
    """Sigma of the line-spread function in pixels of 1e-4 dex, the pixel itself included (like ``wdisp``)."""
    return FWHM_TO_SIGMA / resolving_power(wavelength) / (np.log(10) * DLOGLAM)


def sky_flux(wavelength):
    """The night sky in a fibre [1e-17 erg/s/cm2/A], as the spectrograph resolves it."""
    wavelength = np.asarray(wavelength, float)
    continuum = np.interp(wavelength, *SKY_CONTINUUM.T)
    centre, flux = SKY_EMISSION.T[..., None]
    sigma = centre * FWHM_TO_SIGMA / resolving_power(centre)
    lines = flux / (np.sqrt(2 * np.pi) * sigma) * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    return continuum + lines.sum(axis=0)


def noise_variance(flux, wavelength, *, exposure=EXPOSURE):
    """Variance per pixel: photons of source and sky, read-out, and the calibration's floor."""
    share = exposure / EXPOSURE
    electrons = np.interp(wavelength, *SENSITIVITY.T) * share
    source = np.clip(flux, 0, None)
    read_out = READ_NOISE**2 * share
    photons = (source + sky_flux(wavelength)) / electrons
    return photons + read_out / electrons**2 + (CALIBRATION_FLOOR * source) ** 2


OVERSAMPLING = 3  # fine pixels per SDSS pixel while blurring


def sdss_wavelength(low=3800.0, high=9200.0):
    """SDSS's pixel centres [Angstrom, vacuum]: steps of 1e-4 in log10, in phase with real spectra."""
    first = int(np.ceil((np.log10(low) - LOGLAM0) / DLOGLAM))
    last = int(np.floor((np.log10(high) - LOGLAM0) / DLOGLAM))
    return 10 ** (LOGLAM0 + DLOGLAM * np.arange(first, last + 1))


def blur(flux, sigma, *, reach=None):
    """Convolve each pixel with its own Gaussian."""
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


def luminosity_to_flux(redshift):
    """Factor from Lsun/A in the rest frame to 1e-17 erg/s/cm2/A as observed: 1 / (4 pi d_L^2 (1+z))."""
    from astropy.cosmology import Planck18

    distance = Planck18.luminosity_distance(redshift)
    return (u.L_sun / u.AA / (4 * np.pi * distance**2)).to_value(FLUX_UNIT) / (1 + redshift)


def _scale(sample, fibre_fraction, median_flux):
    """Per-galaxy factor from the sample's flux to 1e-17 erg/s/cm2/A times (1+z), and the redshifts."""
    for column in ("flux", "redshift"):
        if column not in sample:
            raise ValueError(f"the sample has no column `{column}`")
    if "wavelength" not in sample.coords:
        raise ValueError("the sample needs the rest-frame coordinate `wavelength` (vacuum Angstrom)")
    redshift = np.asarray(sample["redshift"], float)
    bad = np.flatnonzero(~(redshift > 0) | ~np.isfinite(redshift))
    if bad.size:
        text = f"redshift of galaxy {bad[0]} is {redshift[bad[0]]}"
        raise ValueError(f"{text}: an observation needs a positive one")
    unit = u.Unit(sample["flux"].attrs.get("units", ""))
    if unit.is_equivalent(u.L_sun / u.AA):
        luminous = unit.to(u.L_sun / u.AA)
        return luminous * np.asarray(fibre_fraction) * luminosity_to_flux(redshift), redshift
    if unit != u.dimensionless_unscaled:
        raise ValueError(f"flux is in {unit}: it must be in Lsun / Angstrom, or without unit")
    if median_flux is None:
        raise ValueError("flux has no unit: give median_flux, the galaxies' flux at 5000-5500 A")
    return np.asarray(median_flux, float) / (1 + redshift), redshift


def _observe_batch(flux, edges, fwhm, redshift, fine_edges, wavelength):
    """Resample and blur one batch to SDSS pixels; returns flux (still rest-frame units) and coverage."""
    stretch = 1 + redshift[:, None]
    fine, covered = rebin_common(flux, edges, fine_edges / stretch)
    centre = np.sqrt(fine_edges[1:] * fine_edges[:-1])
    to_pixels = 1 / (np.log(10) * DLOGLAM)
    pixels = 0.5 * (edges[1:] + edges[:-1])
    own = np.interp(centre / stretch, pixels, fwhm) * FWHM_TO_SIGMA
    box = np.interp(centre / stretch, pixels, np.diff(edges))
    own_variance = (own**2 + box**2 / 12) * (stretch * to_pixels / centre) ** 2
    # SDSS's pixel, which wdisp includes and the final mean over fine pixels brings, is a box of variance 1/12.
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
    batch_size=64,
):
    """Observe rest-frame galaxies with the SDSS spectrographs.

    Redshift, flux calibration through the luminosity distance (Planck 2018), SDSS's log-lambda pixels, blur to its
    line-spread function (by the difference in quadrature to the templates' own), and noise of source, sky, read-out
    and calibration.

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
    fibre_fraction, median_flux : float or array_like (galaxy,)
        Share of the galaxy's light in the 3" fibre; a third is typical (Brinchmann et al. 2004, MNRAS 351, 1151). For
        spectra without unit, normalised to 1 at 5000-5500 A: the flux there [1e-17 erg/s/cm2/A].
    exposure, batch_size : float, int
        Seconds, SDSS's standard is 2700; galaxies worked on at once, which does not change the result.
    noise, keep_truth : bool
        Add noise; keep ``truth``, the flux without. ``ivar`` is that of the true variance in any case.

    Returns
    -------
    Dataset
        ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask`` (pixels that the templates do not reach), ``lsf_sigma``
        (wavelength,) [km/s], coordinate ``observed_wavelength``, and all per-galaxy columns of `sample`. Where the
        templates are coarser than SDSS (MILES in the blue arm, from redshifts of about 0.05) their own width stays.

    Raises
    ------
    ValueError
        If a column or unit is missing, or a redshift is not positive.
    """
    scale, redshift = _scale(sample, fibre_fraction, median_flux)
    draw = _noise_source(seed, redshift.size)
    scale = np.broadcast_to(scale, redshift.shape)
    wavelength = sdss_wavelength() if wavelength is None else np.asarray(wavelength, float)
    steps = DLOGLAM / OVERSAMPLING * np.arange(OVERSAMPLING * wavelength.size + 1)
    fine_edges = 10 ** (np.log10(wavelength[0]) - DLOGLAM / 2 + steps)
    rest = sample["wavelength"].values
    edges = pixel_edges(rest)
    fwhm = sample["fwhm"].values if "fwhm" in sample else sample.attrs.get("fwhm", 2.5)
    fwhm = np.broadcast_to(np.asarray(fwhm, float), rest.shape)
    names = ("flux", "ivar", "mask", "truth") if keep_truth else ("flux", "ivar", "mask")
    shape = (redshift.size, wavelength.size)
    pixels = {name: np.empty(shape, bool if name == "mask" else "f4") for name in names}
    for first in range(0, redshift.size, batch_size):
        part = slice(first, min(first + batch_size, redshift.size))
        given = sample["flux"].isel(galaxy=part).transpose("galaxy", "wavelength").values.astype(float)
        seen, covered = _observe_batch(given, edges, fwhm, redshift[part], fine_edges, wavelength)
        seen *= scale[part, None]
        variance = noise_variance(seen, wavelength, exposure=exposure)
        mask = pixels["mask"][part] = covered < 0.999
        if keep_truth:
            pixels["truth"][part] = np.where(mask, 0, seen)
        if noise:
            seen = seen + draw(part, seen.shape) * np.sqrt(variance)
        pixels["flux"][part], pixels["ivar"][part] = np.where(mask, 0, seen), np.where(mask, 0, 1 / variance)
    return _observed(sample, wavelength, pixels, exposure)


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
    out = sample.drop_vars([n for n in sample.variables if "wavelength" in sample[n].dims])
    units = {"flux": FLUX_UNIT, "truth": FLUX_UNIT, "ivar": IVAR_UNIT, "mask": ""}
    for name, values in pixels.items():
        out[name] = (("galaxy", "wavelength"), values, {"units": units[name]})
    attrs = {"units": "km / s", "description": "instrumental sigma"}
    out["lsf_sigma"] = ("wavelength", lsf_pixels(wavelength) * PIXEL_VELOCITY, attrs)
    attrs = {"units": "Angstrom", "description": "vacuum"}
    out = out.assign_coords(observed_wavelength=("wavelength", wavelength, attrs))
    return add_history(out.assign_attrs(survey="SDSS (simulated)"), f"observed with SDSS, {exposure:g} s")
