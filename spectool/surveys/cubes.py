"""Read what CALIFA distributes: data cubes (``*.V500.rscube.fits.gz``) as one spectrum for each spaxel."""

import re
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.constants import c
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales
from astropy.wcs.wcs import InvalidTransformError, SingularMatrixError

from spectool.prepare import LOWEST_REDSHIFT
from spectool.spectra import air_to_vacuum
from spectool.surveys.files import HIGHEST_REDSHIFT
from spectool.surveys.sdss import open_fits

CUBE_UNIT = "1e-16 erg / (Angstrom s cm2)"
CUBE_IVAR_UNIT = "1e32 Angstrom2 s2 cm4 / erg2"
PLANES = ("ERROR", "BADPIX")
LARGEST_ERROR = 1e8
"""In the cube's unit: CALIFA gives pixels without data errors of 1e10."""

PIXEL_PROBLEMS = ("flux not finite", "flagged bad", "no valid error")
SPAXEL_PROBLEMS = ("empty", "covered too little", "too noisy")
OPTICAL = (3000.0, 11000.0)
SPAXEL_SIZES = (0.1, 5.0)


def read_califa_cube(
    path,
    *,
    redshift=None,
    center=None,
    rest_frame=True,
    medium="air",
    min_coverage=0.5,
    min_sn=0.0,
    name=None,
):
    """Read a cube of CALIFA's low-resolution setup V500 (3745-7500 A) as spectra with positions.

    The file holds planes of flux density, ``ERROR`` (1 sigma) and ``BADPIX`` (1: bad) on the same pixels (Sanchez et
    al. 2016, DR3). CALIFA has corrected them for the Milky Way's dust, and its wavelengths are in air.

    Parameters
    ----------
    path, name
        FITS, gzipped or not; the galaxy's name, by default the file's up to the first point.
    redshift : float, optional
        Default: the header's ``MED_VEL`` [km/s] over c.
    center : (float, float), optional
        Right ascension and declination [deg]. Default: the brightest spaxel, which may be a star in front.
    rest_frame : bool
        Divide the wavelengths by 1 + z (one z for all: rotation stays in), and conserve flux.
    medium : {"air", "vacuum"}
        What the file's wavelengths are in.
    min_coverage, min_sn : float
        Spaxels with a smaller share of good pixels, or a lower median signal-to-noise per pixel, are left out.

    Returns
    -------
    xarray.Dataset, dims (spectrum, wavelength)
        ``flux`` [1e-16 erg/s/cm2/A], ``ivar``, ``mask`` (True: bad; flux and ivar are 0), coordinate ``wavelength``
        (rest frame) or ``observed_wavelength`` [Angstrom, vacuum]; ``x``, ``y`` [arcsec to the east and the north of
        the centre], ``row``, ``column`` (the spaxel's, from 0), ``galaxy_index`` (0), ``redshift``;
        ``pixel_problems`` and ``spaxel_problems``: how many pixels of the spaxels that are kept are masked, and how
        many spaxels are left out, for what. ``attrs["history"]`` says it in words. `measure.gradients.add_radius`
        adds face-on radii.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file: truncated or no FITS, a plane missing or of another shape, no wavelengths or positions or
        impossible ones, a centre outside of the field, another unit than flux density, no redshift, no spaxel left.
    """
    if medium not in ("air", "vacuum"):
        raise ValueError(f"medium is {medium!r}: it must be 'air' or 'vacuum'")
    path = Path(path).expanduser()
    hdus = open_fits(path, path.name)
    try:
        header, cube, error, bad = _planes(hdus)
        scale, note = _flux_scale(header)
        wavelength = _wavelengths(header, len(cube))
        redshift = _redshift(header, redshift)
        pixels = _pixels(cube, error, bad, scale)
        kept, spaxel_problems = _choose_spaxels(*pixels[:3], min_coverage, min_sn)
        x, y, where = _positions(header, pixels[0], pixels[2], kept, center)
    except ValueError as problem:
        raise ValueError(f"{path.name}: {problem}") from problem
    flux, ivar, mask, why = (np.ascontiguousarray(plane[:, kept].T) for plane in pixels)
    wavelength = air_to_vacuum(wavelength) if medium == "air" else wavelength
    coordinate, stretch = ("wavelength", 1 + redshift) if rest_frame else ("observed_wavelength", 1.0)
    attrs = {"units": "Angstrom", "description": "vacuum" + ", rest frame" * rest_frame}
    sample = xr.Dataset(coords={coordinate: ("wavelength", wavelength / stretch, attrs)})
    dims, (row, column) = ("spectrum", "wavelength"), np.nonzero(kept)
    sample["flux"] = (dims, (flux * stretch).astype("f4"), {"units": CUBE_UNIT})
    sample["ivar"] = (dims, (ivar / stretch**2).astype("f4"), {"units": CUBE_IVAR_UNIT})
    sample["mask"] = (dims, mask, {"units": "", "description": "True = bad"})
    sample["x"] = ("spectrum", x, {"units": "arcsec", "description": "to the east"})
    sample["y"] = ("spectrum", y, {"units": "arcsec", "description": "to the north"})
    places = {"row": row, "column": column, "galaxy_index": np.zeros(row.size, int)}
    for key, values in (places | {"redshift": np.full(row.size, redshift)}).items():
        sample[key] = ("spectrum", values, {"units": ""})
    summary = [f"read {path.name}: {row.size} of {kept.size} spaxels", *note, where]
    pixel_problems = [int((why == 1 + k).sum()) for k in range(len(PIXEL_PROBLEMS))]
    for done, what, problems, counts in (
        ("left out", "spaxel", SPAXEL_PROBLEMS, spaxel_problems),
        ("masked", "pixel", PIXEL_PROBLEMS, pixel_problems),
    ):
        sample[f"{what}_problems"] = (f"{what}_problem", counts, {"units": ""})
        sample[f"{what}_problem"] = list(problems)
        summary += [f"{done}, {why}: {n} {what}s" for why, n in zip(problems, counts, strict=True) if n]
    galaxy = name or path.name.split(".")[0]
    return sample.assign_attrs(survey="CALIFA", galaxy_name=galaxy, history="\n".join(summary))


def _planes(hdus):
    """The header, and the three planes, (wavelength, row, column)."""
    header, cube = hdus[0].header, hdus[0].data
    if cube is None or cube.ndim != 3:
        raise ValueError(f"is no cube: its first image has {0 if cube is None else cube.ndim} axes, not 3")
    result = {hdu.name: hdu.data for hdu in hdus[1:] if hdu.is_image}
    missing = [plane for plane in PLANES if result.get(plane) is None]
    if missing:
        held = ", ".join(result) or "none"
        raise ValueError(f"lacks the plane {' and '.join(missing)}; beside the flux it holds: {held}")
    for plane in PLANES:
        if result[plane].shape != cube.shape:
            raise ValueError(f"the plane {plane} has shape {result[plane].shape}, the flux {cube.shape}")
    return header, cube, *(result[plane] for plane in PLANES)


def _flux_scale(header):
    """What brings fluxes to `CUBE_UNIT`, and what to tell of it."""
    text = str(header.get("BUNIT", "")).strip()
    if not text:
        return 1.0, [f"the header has no unit of flux: taken as {CUBE_UNIT}"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # two slashes are common
            unit = u.Unit(re.sub(r"\bA\b", "Angstrom", text))  # astropy's A is the Ampere
        return unit.to(CUBE_UNIT), []
    except ValueError:
        problem = f"its fluxes are in {text!r} (BUNIT), which is no flux density per Angstrom"
        raise ValueError(problem) from None


def _wavelengths(header, n):
    """Wavelengths of the pixels [Angstrom], as the file has them."""
    step = header.get("CDELT3", header.get("CD3_3"))
    if step is None or "CRVAL3" not in header:
        raise ValueError("has no wavelengths (header words CRVAL3 and CDELT3 or CD3_3)")
    unit = u.Unit(header.get("CUNIT3", "").strip() or "Angstrom")
    values = header["CRVAL3"] + step * (np.arange(n) + 1 - header.get("CRPIX3", 1.0))
    wavelength = (values * unit).to_value(u.AA)
    if not step > 0 or wavelength[0] < OPTICAL[0] or wavelength[-1] > OPTICAL[1]:
        run = f"{wavelength[0]:g} to {wavelength[-1]:g} A (CRVAL3, CDELT3, CRPIX3, CUNIT3)"
        raise ValueError(f"its wavelengths run from {run}, which CALIFA's do not: the WCS is wrong")
    return wavelength


def _redshift(header, redshift):
    if redshift is None and not isinstance(header.get("MED_VEL"), int | float):
        raise ValueError("does not say its redshift (MED_VEL); give redshift=...")
    value = header["MED_VEL"] / c.to_value("km/s") if redshift is None else float(redshift)
    if not LOWEST_REDSHIFT <= value <= HIGHEST_REDSHIFT:
        raise ValueError(f"redshift {value:g} is outside {LOWEST_REDSHIFT:g} to {HIGHEST_REDSHIFT:g}")
    return value


def _pixels(cube, error, bad, scale):
    """Flux, ivar, mask, and why it is masked (0: not, else 1 + index of `PIXEL_PROBLEMS`)."""
    finite = np.isfinite(cube)
    valid = np.isfinite(error) & (error > 0) & (error < LARGEST_ERROR)
    why = np.select([~finite, bad != 0, ~valid], [1, 2, 3], 0).astype("u1")
    good = why == 0
    flux = np.where(good, cube, 0).astype("f4") * np.float32(scale)
    ivar = np.zeros(cube.shape, "f4")
    with np.errstate(over="ignore"):
        np.divide(1.0, (error * scale) ** 2, out=ivar, where=good, casting="same_kind")
    return flux, ivar, ~good, why


def _choose_spaxels(flux, ivar, mask, min_coverage, min_sn):
    """Which spaxels to keep, (row, column), and how many are not, for each of `SPAXEL_PROBLEMS`."""
    share = 1 - mask.mean(axis=0)
    kept = (share > 0) & (share >= min_coverage)
    noisy = np.zeros(kept.shape, bool)
    if min_sn > 0:
        sn = np.where(mask[:, kept], np.nan, flux[:, kept] * np.sqrt(ivar[:, kept]))
        noisy[kept] = np.nanmedian(sn, axis=0) < min_sn
    counts = [int((share == 0).sum()), int(((share > 0) & (share < min_coverage)).sum()), int(noisy.sum())]
    kept &= ~noisy
    if not kept.any():
        note = ", ".join(f"{n} {why}" for why, n in zip(SPAXEL_PROBLEMS, counts, strict=True) if n)
        raise ValueError(f"no spaxel is left of {kept.size}: {note}")
    return kept, counts


def _positions(header, flux, mask, kept, center):
    """Offsets of the kept spaxels from the centre [arcsec to the east, to the north], and what the centre is."""
    row, column = np.nonzero(kept)
    light = flux[:, kept].sum(axis=0) / np.maximum((~mask[:, kept]).sum(axis=0), 1)
    peak = int(np.argmax(light))
    sky = _celestial(header)
    if sky is None:
        if center is not None:
            raise ValueError("has no celestial coordinates (CTYPE1, CTYPE2): cannot be centred on a position")
        size = _check_size([abs(header.get(word, 0.0)) for word in ("CDELT1", "CDELT2")])
        east, north = -size[0] * (column - column[peak]), size[1] * (row - row[peak])
        return east, north, "no celestial coordinates: taken as north up and east to the left"
    world = sky.pixel_to_world(column, row)
    if center is None:
        middle, where = world[peak], f"centred on the brightest spaxel ({row[peak]}, {column[peak]})"
    else:
        middle = SkyCoord(*center, unit="deg")
        nearest = float(middle.separation(world).min().to_value("arcsec"))
        if nearest > 5:
            away = f"{nearest:.0f} arcsec from the field"
            raise ValueError(f"the centre {center} [deg] is {away}: wrong centre or WCS")
        where = f"centred on {middle.to_string('hmsdms', precision=1)}"
    east, north = (offset.to_value("arcsec") for offset in middle.spherical_offsets_to(world))
    return east, north, where


def _celestial(header):
    """The sky coordinates of a header, None if its axes have no types (as in CALIFA's first cubes)."""
    if not str(header.get("CTYPE1", "")).strip():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            sky = WCS(header).celestial
            if not sky.has_celestial:
                raise ValueError(f"no celestial axes among {header['CTYPE1']!r} and {header.get('CTYPE2')!r}")
            _check_size(proj_plane_pixel_scales(sky) * 3600)
    except (ValueError, InvalidTransformError, SingularMatrixError) as problem:
        raise ValueError(f"the WCS is wrong: {problem}") from problem
    return sky


def _check_size(size):
    """Spaxel sizes [arcsec], as they must be."""
    if not all(SPAXEL_SIZES[0] <= s <= SPAXEL_SIZES[1] for s in size):
        raise ValueError(f"its spaxels measure {size[0]:g} x {size[1]:g} arcsec; CALIFA's are 1 x 1")
    return size
