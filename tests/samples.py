"""Samples of spectra for tests."""

import numpy as np
import xarray as xr

FLUX_UNIT = "1e-17 erg / (Angstrom s cm2)"


def make_spectra(flux, wavelength, *, frame="wavelength", units=FLUX_UNIT, **columns):
    """Spectra on common pixels; columns hold a value per pixel (such as ``ivar``), per galaxy, or for all."""
    flux, dims = np.atleast_2d(flux), ("galaxy", "wavelength")
    values = {"flux": (dims, flux, {"units": units})}
    for name, value in columns.items():
        of_pixels = name in ("ivar", "mask") or np.ndim(value) == 2
        shape, unit = (flux.shape if of_pixels else len(flux)), (units if name == "truth" else "")
        column = np.broadcast_to(value, shape).copy()
        values[name] = (dims if of_pixels else "galaxy", column, {"units": unit})
    return xr.Dataset(values, coords={frame: ("wavelength", wavelength, {"units": "Angstrom"})})
