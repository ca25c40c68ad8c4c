"""What the SDSS spectrographs and the sky over Apache Point do to a spectrum: resolution and noise, as
numbers.

The noise numbers (sky, sensitivity, calibration floor) were fitted to the public SDSS legacy spectra: the sky
to the `sky` column of the two that ppxf ships, sensitivity and floor to the ivar of 851 galaxies (fibre
fluxes of 5 to 300), whose ivar the model then meets with a scatter of 0.24 dex, mostly that of their exposure
times.
"""

import numpy as np

from spectool.surveys.sdss_files import DLOGLAM

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))

# Dark continuum of the sky in a 3" fibre [1e-17 erg/s/cm2/A]: wavelength, flux.
# fmt: off
SKY_CONTINUUM = np.array([
    (3850, 4.5), (4250, 5.0), (4500, 5.6), (5000, 5.1), (5400, 4.9), (5700, 6.0), (5850, 7.5), (6000, 7.0),
    (6200, 5.7), (6500, 4.4), (7000, 3.9), (7500, 3.7), (8000, 4.1), (8500, 2.9), (9000, 2.9), (9150, 2.3),
])
# fmt: on

# Its lines (city mercury and sodium, airglow of O I, O2, OH): vacuum wavelength [A], [1e-17 erg/s/cm2].
# fmt: off
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
# fmt: on

# Electrons per pixel of 1e-4 dex in EXPOSURE seconds for a flux of 1e-17 erg/s/cm2/A. The step is the
# dichroic.
EXPOSURE = 2700.0
# fmt: off
SENSITIVITY = np.array([
    (3850, 8.3), (4000, 12.8), (4250, 19.3), (4500, 25.0), (5000, 34.4), (5500, 39.2), (5750, 38.3),
    (5850, 37.0), (5950, 48.6), (6200, 57.0), (6500, 72.0), (7000, 75.8), (7500, 69.4), (8000, 51.8),
    (8500, 43.0), (9000, 27.5), (9150, 24.4),
])
# fmt: on
READ_NOISE = 13.0  # electrons per pixel: 3 exposures x 3.5 rows x (4 electrons)^2, in quadrature
CALIBRATION_FLOOR = 0.010  # of the flux: flat fields and calibration, per pixel


def resolving_power(wavelength):
    """R = lambda / FWHM of the spectrographs' two arms, after Smee et al. (2013, AJ 146, 32).

    Blue: 1560 at 3700 A to 2270 at 6000 A; red: 1850 at 6000 A to 2650 at 9000 A; linear in between, and one
    goes over into the other between 5750 and 6000 A. (The ``wdisp`` of 851 SDSS legacy galaxies has a median
    within 6% of this.)

    Parameters
    ----------
    wavelength : ndarray
        Observed vacuum wavelength [Angstrom].

    Returns
    -------
    ndarray
    """
    wavelength = np.asarray(wavelength, float)
    blue = 1560 + (2270 - 1560) * (wavelength - 3700) / 2300
    red = 1850 + (2650 - 1850) * (wavelength - 6000) / 3000
    share = np.clip((wavelength - 5750) / 250, 0, 1)
    return 1 / np.sqrt((1 - share) / blue**2 + share / red**2)


def lsf_pixels(wavelength):
    """Sigma of the line-spread function in pixels of 1e-4 dex, the pixel itself included (like ``wdisp``)."""
    return FWHM_TO_SIGMA / resolving_power(wavelength) / (np.log(10) * DLOGLAM)


def sky_flux(wavelength):
    """The night sky in a fibre [1e-17 erg/s/cm2/A], as the spectrograph resolves it.

    Parameters
    ----------
    wavelength : ndarray, shape (n,)
        Observed vacuum wavelength [Angstrom].

    Returns
    -------
    ndarray, shape (n,)
    """
    wavelength = np.asarray(wavelength, float)
    continuum = np.interp(wavelength, *SKY_CONTINUUM.T)
    centre, flux = SKY_EMISSION.T[..., None]
    sigma = centre * FWHM_TO_SIGMA / resolving_power(centre)
    lines = flux / (np.sqrt(2 * np.pi) * sigma) * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    return continuum + lines.sum(axis=0)


def noise_variance(flux, wavelength, *, exposure=EXPOSURE):
    """Variance per pixel: photons of source and sky, read-out, and the calibration's floor.

    Parameters
    ----------
    flux : ndarray, shape (..., n)
        Noiseless source [1e-17 erg/s/cm2/A]; negative values count as none.
    wavelength : ndarray, shape (n,)
        Observed vacuum wavelength [Angstrom], SDSS pixels.
    exposure : float
        Seconds.

    Returns
    -------
    ndarray, shape (..., n)
        [(1e-17 erg/s/cm2/A)^2]
    """
    share = exposure / EXPOSURE
    electrons = np.interp(wavelength, *SENSITIVITY.T) * share
    source = np.clip(flux, 0, None)
    read_out = READ_NOISE**2 * share
    return (
        (source + sky_flux(wavelength)) / electrons
        + read_out / electrons**2
        + (CALIBRATION_FLOOR * source) ** 2
    )
