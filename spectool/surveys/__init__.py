"""How galaxies are seen: loaders for real files and simulators of each survey."""

from importlib import import_module

# Each is imported when it is asked for: some need a second or more.
LATER = {
    "observe_sdss": "spectrograph",
    "packaged_spectra": "sdss",
    "read_califa_cube": "cubes",
    "read_photometry": "tables",
    "read_sdss": "sdss",
    "read_spectrum": "files",
    "sdss_wavelength": "spectrograph",
}
__all__ = list(LATER)


class SurveyWarning(UserWarning):
    """A file or spectrum of a batch could not be used as it is."""


def __getattr__(name):
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
