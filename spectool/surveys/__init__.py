"""How galaxies are seen: loaders for real files and simulators of each survey."""

from contextlib import contextmanager
from importlib import import_module

import numpy as np

# Each is imported when it is asked for: some need a second or more.
LATER = {
    "observe_sdss": "spectrograph",
    "packaged_spectra": "sdss",
    "read_califa_cube": "cubes",
    "read_cube": "cubes",
    "read_desi": "desi",
    "read_manga": "manga",
    "read_photometry": "tables",
    "read_sdss": "sdss",
    "read_spectrum": "files",
    "sdss_wavelength": "spectrograph",
}
__all__ = list(LATER)


class SurveyWarning(UserWarning):
    """A file or spectrum of a batch could not be used as it is."""


@contextmanager
def refusing(name):
    """Whatever a library raises at a damaged file comes out as an error that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        if name in str(error):
            raise
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{name}: {error}") from error
    except Exception as error:  # damaged FITS and text make their readers raise anything
        text = f"{name}: cannot be read ({type(error).__name__}: {error}); is it damaged?"
        raise ValueError(text) from error


def column_values(table, column, name):
    """A column as floats, NaN where it is masked or empty; an error that names file and column if it holds words."""
    values = getattr(table[column], "value", table[column])
    if hasattr(values, "unmasked"):
        values = np.ma.array(values.unmasked, mask=values.mask)
    values = np.ma.asarray(values)
    if values.dtype.kind in "OUS":
        values = np.ma.masked_where(values.astype(str) == "", values).filled("nan").astype(str)
    try:
        return np.ma.filled(values.astype(float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: column {column!r} is not numeric ({error})") from error


def __getattr__(name):
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
