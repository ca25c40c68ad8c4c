"""Spectra as the network of Zahid et al. (2019) takes them: masked, continuum-normalised, at one resolution."""

from spectool.continuum_basis import (
    N_KEPT,
    ContinuumBasis,
    kept_pixels,
    line_windows,
    normalize_continuum,
    stack_wavelength,
    zahid2019_wavelength,
)

__all__ = [
    "N_KEPT",
    "ContinuumBasis",
    "kept_pixels",
    "line_windows",
    "normalize_continuum",
    "stack_wavelength",
    "zahid2019_wavelength",
]
