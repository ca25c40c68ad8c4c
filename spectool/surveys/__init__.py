"""How galaxies are seen: loaders for real files and simulators of each survey."""

from spectool.surveys.files import read_spectrum
from spectool.surveys.sdss import observe_sdss, packaged_spectra, read_sdss, sdss_wavelength

__all__ = ["observe_sdss", "packaged_spectra", "read_sdss", "read_spectrum", "sdss_wavelength"]
