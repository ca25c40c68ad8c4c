"""How galaxies are seen: loaders for real files and simulators of each survey."""

from importlib import import_module

from spectool.surveys.files import read_spectrum
from spectool.surveys.sdss import observe_sdss, packaged_spectra, read_sdss, sdss_wavelength

__all__ = ["observe_sdss", "packaged_spectra", "read_sdss", "read_spectrum", "sdss_wavelength"]

_LATER = {"read_photometry": "tables", "read_califa_cube": "cubes"}  # whose imports take a second or more


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
