"""How galaxies are seen: loaders for real files and simulators of each survey."""

from importlib import import_module

from spectool.surveys.sdss import observe_sdss, packaged_spectra, read_sdss, sdss_wavelength

__all__ = ["observe_sdss", "packaged_spectra", "read_sdss", "read_spectrum", "sdss_wavelength"]

# What not every user of a survey needs: their imports take a second or more.
_LATER = {"read_spectrum": "files", "read_photometry": "tables", "read_califa_cube": "cubes"}


def __getattr__(name):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
