"""MaNGA: single spectra with their resolution, as its pipelines pass them on; its own file, as each survey has."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from spectool.spectra import FLUX_UNIT, FWHM_TO_SIGMA, KM_S
from spectool.surveys.sdss import build_sample, naming_damage, open_fits
from spectool.surveys.units import image_factor

MANGA_BITS = 1 << np.array([0, 1, 2, 3, 10])
"""Of DRP3PIXMASK: NOCOV, LOWCOV, DEADFIBER, FORESTAR, DONOTUSE."""


def is_manga(hdus):
    """Whether an HDUList holds MaNGA spectra (a row each) and their resolution SRES; cubes are another matter."""
    shapes = {hdu.name: hdu.shape for hdu in hdus if isinstance(hdu, fits.ImageHDU)}
    return {"WAVE", "FLUX", "IVAR", "MASK", "SRES"} <= set(shapes) and len(shapes["FLUX"]) in (1, 2)


def read_manga(source, *, targets=None, name=None):
    """Read MaNGA spectra of one file (HDUs WAVE, FLUX, IVAR, MASK, SRES; Z if there), gzipped or not.

    Parameters
    ----------
    source : path or HDUList
    targets : int or sequence of int, optional
        Rows, counted from 0; default all.
    name : str, optional
        For messages; default the file's name.

    Returns
    -------
    Dataset
        dims (galaxy, wavelength): ``flux`` [1e-17 erg/s/cm2/A], ``ivar``, ``mask`` (any of `MANGA_BITS`),
        ``lsf_sigma`` [km/s] (c / SRES as a Gaussian sigma, NaN where SRES is not positive); ``redshift`` if known;
        coordinates ``observed_wavelength`` [Angstrom, vacuum] and ``name``, the row.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing, damaged or not MaNGA's, or the row that it lacks.
    """
    if isinstance(source, fits.HDUList):
        hdus, name = source, name or "this file"
    else:
        name = name or Path(source).name
        hdus = open_fits(source, name)
    with naming_damage(name):
        if not is_manga(hdus):
            held = ", ".join(hdu.name for hdu in hdus)
            raise ValueError(
                f"{name}: holds no MaNGA spectra (WAVE, FLUX, IVAR, MASK, SRES); it holds {held}"
            )
        wavelength = np.asarray(hdus["WAVE"].data, float)
        pixels = {part: np.atleast_2d(hdus[part].data) for part in ("FLUX", "IVAR", "MASK", "SRES")}
        redshift = np.asarray(hdus["Z"].data, float).ravel() if "Z" in hdus else None
        factor = image_factor(hdus["FLUX"], name)
    shape = pixels["FLUX"].shape
    wrong = [
        part for part, values in pixels.items() if values.shape != shape or shape[1:] != wavelength.shape
    ]
    if wrong:
        text = f"{pixels[wrong[0]].shape}, FLUX {shape} and WAVE {wavelength.shape}"
        raise ValueError(f"{name}: shapes do not fit: {wrong[0]} {text}")
    rows = np.arange(len(pixels["FLUX"])) if targets is None else np.atleast_1d(np.asarray(targets, int))
    missing = rows[(rows < 0) | (rows >= shape[0])]
    if missing.size:
        raise ValueError(f"{name}: has no spectrum {missing[0]}; its {shape[0]} are counted from 0")
    flux, ivar, bits, power = (values[rows] for values in pixels.values())
    flux, ivar, power = flux.astype(float) * factor, ivar.astype(float) / factor**2, power.astype(float)
    mask = np.bitwise_and(bits.astype(int), MANGA_BITS.sum()) != 0
    mask |= ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    lsf = np.divide(KM_S * FWHM_TO_SIGMA, power, out=np.full(power.shape, np.nan), where=power > 0)
    arrays = {"flux": np.where(np.isfinite(flux), flux, 0), "ivar": np.where(mask, 0, ivar), "mask": mask}
    facts = {} if redshift is None or redshift.size != shape[0] else {"redshift": (redshift[rows], "")}
    notes = [f"read {rows.size} MaNGA spectr{'um' if rows.size == 1 else 'a'} of {name}"]
    notes += [] if "BUNIT" in hdus["FLUX"].header else [f"flux has no unit in the file: taken as {FLUX_UNIT}"]
    if (empty := rows[mask.all(axis=1)]).size:
        notes.append(f"no good pixel in spectrum {', '.join(map(str, empty))}")
    names = [f"{name} {row}" for row in rows]
    return build_sample(wavelength, arrays | {"lsf_sigma": lsf}, facts, names, "MaNGA", "\n".join(notes))
