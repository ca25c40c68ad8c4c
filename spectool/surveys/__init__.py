"""How galaxies are seen: loaders for real files and simulators of each survey."""

from spectool.surveys.files import read_spectrum
from spectool.surveys.sdss_files import read_sdss

__all__ = ["read_sdss", "read_spectrum"]
