"""How wide an unresolved emission line is in a sample's spectra, pixels aside."""

import numpy as np

from spectool.surveys.sdss_files import PIXEL_VELOCITY
from spectool.surveys.sdss_noise import FWHM_TO_SIGMA, resolving_power

KM_S = 299792.458
UNKNOWN = 70.0
TEMPLATE_PIXEL = 0.9  # Angstrom: the sampling of MILES, and of the embedded grid


def line_spread(sample, wavelength):
    """Sigma of the line-spread function at rest wavelengths, from what a sample says of itself.

    - A variable ``lsf_sigma`` (wavelength,) is believed.
    - Spectra of SDSS, and what is made of them, have the resolving power of Smee et al. (2013) at the median
      redshift. Rebinning adds the variance w^2 / 12 of its pixels of 69 km/s: flux is spread evenly over the pixel it
      came from.
    - Simulated ones are nowhere sharper than the templates behind them (``attrs["fwhm"]``, Angstrom), whose own
      pixels count twice: once for being means, once for being rebinned.
    - Spectra from `synthesize` alone have the templates' resolution.
    - All others: 70 km/s.

    Parameters
    ----------
    sample : Dataset
    wavelength : ndarray, shape (n,)
        Vacuum [Angstrom], rest frame, increasing.

    Returns
    -------
    ndarray, shape (n,)
        [km/s]
    """
    if "lsf_sigma" in sample and sample["lsf_sigma"].dims == ("wavelength",):
        return np.interp(wavelength, sample["wavelength"].values, sample["lsf_sigma"].values)
    survey = str(sample.attrs.get("survey", ""))
    templates = np.full(np.shape(wavelength), np.nan)
    if "fwhm" in sample.attrs:
        templates = float(sample.attrs["fwhm"]) * FWHM_TO_SIGMA / wavelength * KM_S
    if not survey.startswith(("SDSS", "DESI")):
        return np.where(np.isnan(templates), UNKNOWN, templates)
    redshift = sample["redshift"].values if "redshift" in sample else np.zeros(1)
    typical = float(np.nanmedian(redshift)) if np.isfinite(redshift).any() else 0.0
    variance = (KM_S * FWHM_TO_SIGMA / resolving_power(wavelength * (1 + typical))) ** 2
    box = PIXEL_VELOCITY**2 / 12
    if "simulated" in survey:
        template_box = (TEMPLATE_PIXEL / wavelength * KM_S) ** 2 / 12
        variance = np.fmax(variance, templates**2 + template_box + box) + template_box
    return np.sqrt(variance + box)
