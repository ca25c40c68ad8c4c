"""Read data cubes of CALIFA (``*.V500.rscube.fits.gz``), MaNGA and their like as one spectrum for each spaxel."""

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
from spectool.spectra import FWHM_TO_SIGMA, KM_S
from spectool.surveys import refusing
from spectool.surveys.axes import header_number, header_wavelengths
from spectool.surveys.files import HIGHEST_REDSHIFT
from spectool.surveys.layouts import ERRORS, find_roles
from spectool.surveys.manga import MANGA_BITS
from spectool.surveys.sdss import open_fits
from spectool.surveys.units import parse_unit

CUBE_UNIT = "1e-16 erg / (Angstrom s cm2)"
CUBE_IVAR_UNIT = "1e32 Angstrom2 s2 cm4 / erg2"
POWERS = {"error": 1, "variance": 2, "ivar": -2}
"""Planes of noise, and which power of its standard deviation they hold."""
LARGEST_ERROR = 1e8
"""In the cube's unit: CALIFA gives pixels without data errors of 1e10."""

PIXEL_PROBLEMS = ("flux not finite", "flagged bad", "no valid error")
SPAXEL_PROBLEMS = ("empty", "covered too little", "too noisy")
OPTICAL = (3000.0, 11000.0)
SPAXEL_SIZES = (0.1, 5.0)


def read_cube(
    path,
    *,
    redshift=None,
    center=None,
    rest_frame=True,
    medium=None,
    wavelength_unit=None,
    flux_unit=None,
    min_coverage=0.5,
    min_sn=0.0,
    name=None,
):
    """Read a data cube as spectra with positions: CALIFA's V500 (3745-7500 A), MaNGA's LOGCUBE or LINCUBE, MUSE's.

    CALIFA has planes of flux density, ``ERROR`` (1 sigma) and ``BADPIX`` (1: bad; Sanchez et al. 2016, DR3), corrected
    for the Milky Way's dust. MaNGA has ``IVAR``, ``MASK`` (of DRP3PIXMASK the bits NOCOV, LOWCOV, DEADFIBER, FORESTAR
    and DONOTUSE are bad) and ``WAVE`` (vacuum), not corrected for dust. Noise in ``STAT``, ``VAR`` or ``SIGMA`` and
    flags in ``DQ`` (not 0: bad) are read as well; units are obeyed.

    Parameters
    ----------
    path, name
        FITS, gzipped or not; the galaxy's name, by default the file's up to the first point.
    redshift : float, optional
        Default: the header's ``MED_VEL`` [km/s] over c. MaNGA's cubes have none: their catalogue DRPall has.
    center : (float, float), optional
        Right ascension and declination [deg]. Default: the brightest spaxel, which may be a star in front.
    rest_frame : bool
        Divide the wavelengths by 1 + z (one z for all: rotation stays in), and conserve flux.
    medium : {"air", "vacuum"}, optional
        What the file's wavelengths are in; default what its header says, else air, as CALIFA's are.
    wavelength_unit, flux_unit : str, optional
        Where the header does not say it (CUNIT3, BUNIT), or not rightly.
    min_coverage, min_sn : float
        Spaxels with a smaller share of good pixels, or a lower median signal-to-noise per pixel, are left out.

    Returns
    -------
    xarray.Dataset, dims (spectrum, wavelength)
        ``flux`` [1e-16 erg/s/cm2/A], ``ivar``, ``mask`` (True: bad; flux and ivar are 0), coordinate ``wavelength``
        (rest frame) or ``observed_wavelength`` [Angstrom, vacuum]; ``x``, ``y`` [arcsec to the east and the north of
        the centre], ``row``, ``column`` (the spaxel's, from 0), ``galaxy_index`` (0), ``redshift``;
        ``pixel_problems`` and ``spaxel_problems``: how many pixels of the spaxels that are kept are masked, and how
        many spaxels are left out, for what. Of MaNGA also ``lsf_sigma`` [km/s] (from ``LSFPOST``, ``DISP`` or
        ``SPECRES``) and ``ebv`` [mag]. ``attrs["history"]`` says it in words. `measure.gradients.add_radius` adds
        face-on radii.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file: truncated or no FITS, a plane missing or of another shape, no wavelengths or positions or
        impossible ones, a centre outside of the field, another unit than flux density, no redshift, no spaxel left.
    """
    if medium not in (None, "air", "vacuum"):
        raise ValueError(f"medium is {medium!r}: it must be 'air' or 'vacuum'")
    path = Path(path).expanduser()
    hdus = open_fits(path, path.name)
    with refusing(path.name):
        header, flux, noise, flags, notes = _planes(hdus)
        is_manga = "MANGAID" in header
        if is_manga and "WAVE" in hdus and hdus["WAVE"].shape == flux.shape[:1]:
            wavelength = np.asarray(hdus["WAVE"].data, float)
        else:
            asked = {"medium": medium, "unit": wavelength_unit, "assumed": "air", "hdus": hdus}
            wavelength, more = header_wavelengths(header, len(flux.data), axis=3, name=path.name, **asked)
            notes += more
        scale, error = _calibrate(header, flux, noise, wavelength, path.name, flux_unit, notes)
        redshift = _redshift(header, redshift)
        pixels = _pixels(flux.data, error, flags, scale)
        lsf = _resolution(hdus, wavelength, flux.data.shape)
        low, high = sorted((wavelength[0], wavelength[-1]))
        if not OPTICAL[0] < low < high < OPTICAL[1]:
            run = f"{low:g} to {high:g} A (CRVAL3, CDELT3, CRPIX3, CUNIT3)"
            raise ValueError(f"its wavelengths run from {run}: the WCS is wrong, or the cube is not optical")
        if wavelength[0] > low:
            wavelength, pixels = wavelength[::-1], [plane[::-1] for plane in pixels]
            lsf = None if lsf is None else lsf[::-1]
        kept, spaxel_problems = _choose_spaxels(*pixels[:3], min_coverage, min_sn)
        x, y, where = _positions(header, pixels[0], pixels[2], kept, center)
        ebv = header_number(header, "EBVGAL")
        survey = "MaNGA" if is_manga else str(header.get("INSTRUME", "PMAS")).replace("PMAS", "CALIFA")
    flux, ivar, mask, why = (np.ascontiguousarray(plane[:, kept].T) for plane in pixels)
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
    if lsf is not None:
        about = {"units": "km / s", "description": "instrumental resolution, Gaussian sigma"}
        sample["lsf_sigma"] = (dims, np.ascontiguousarray(lsf[:, kept].T, "f4"), about)
    if ebv is not None:
        sample["ebv"] = ("spectrum", np.full(row.size, ebv), {"units": "mag"})
    summary = [f"read {path.name}: {row.size} of {kept.size} spaxels", *notes, where]
    pixel_problems = [int((why == 1 + k).sum()) for k in range(len(PIXEL_PROBLEMS))]
    for done, what, problems, counts in (
        ("left out", "spaxel", SPAXEL_PROBLEMS, spaxel_problems),
        ("masked", "pixel", PIXEL_PROBLEMS, pixel_problems),
    ):
        sample[f"{what}_problems"] = (f"{what}_problem", counts, {"units": ""})
        sample[f"{what}_problem"] = list(problems)
        summary += [f"{done}, {why}: {n} {what}s" for why, n in zip(problems, counts, strict=True) if n]
    galaxy = name or path.name.split(".")[0]
    return sample.assign_attrs(survey=survey, galaxy_name=galaxy, history="\n".join(summary))


read_califa_cube = read_cube  # its name from before other surveys' cubes were read


def _planes(hdus):
    """The header, the flux, the noise with its power, flags (wavelength, row, column; True = bad), notes."""
    images = {hdu.name: hdu for hdu in hdus if hdu.is_image and hdu.data is not None}
    planes = {role: images[name] for role, name in find_roles(images).items()}
    flux = hdus[0] if hdus[0].data is not None else planes.get("flux")
    if flux is None or flux.data.ndim != 3:
        n_axes = 0 if flux is None else flux.data.ndim
        raise ValueError(f"is no cube: its first image has {n_axes} axes, not 3")
    header, notes = flux.header.copy(), []
    header.extend(hdus[0].header, unique=True)
    held = ", ".join(name for name, hdu in images.items() if hdu is not flux) or "none"
    noise, power = next(((planes[role], POWERS[role]) for role in ERRORS if role in planes), (None, 1))
    if noise is None:
        raise ValueError(f"lacks a plane of noise, such as ERROR; beside the flux it holds: {held}")
    for hdu in (noise, *(planes[role] for role in ("mask", "good") if role in planes)):
        if hdu.shape != flux.shape:
            raise ValueError(f"the plane {hdu.name} has shape {hdu.shape}, the flux {flux.shape}")
    bad = ~(planes["good"].data > 0) if "good" in planes else np.zeros(flux.shape, bool)
    if "mask" in planes:
        bits = planes["mask"].data
        bits = bits.astype(np.int64) & MANGA_BITS.sum() if "MANGAID" in header else bits
        bad = bad | (bits != 0)
    elif "good" not in planes:
        notes.append(f"no plane of flags, such as BADPIX or DQ; beside the flux it holds: {held}")
    if int(header_number(header, "DRP3QUAL", 0)) >> 30 & 1:
        notes.append("DRP3QUAL has the bit CRITICAL: the pipeline's authors say not to use this cube")
    return header, flux, (noise, power), bad, notes


def _calibrate(header, flux, noise, wavelength, name, flux_unit, notes):
    """What brings fluxes to `CUBE_UNIT`, and errors in the flux's own unit."""
    (noise, power), own = noise, str(header.get("BUNIT", "")).strip()
    text = str(noise.header.get("BUNIT", "")).strip()
    scale = np.ones(wavelength.size)
    if flux_unit or own:
        scale = _to_cube_unit(flux_unit or own, 1, "BUNIT", wavelength, name)
    else:
        notes.append(f"the header has no unit of flux: taken as {CUBE_UNIT}")
    with np.errstate(divide="ignore"):
        error = np.where(noise.data > 0, noise.data, np.nan) ** (1 / power)
    if text == own and power != 1 and text:
        notes.append(f"{noise.name} has the flux's unit: taken as that to the {power}")
    elif text and text != own:
        error = error * (_to_cube_unit(text, power, noise.name, wavelength, name) / scale)[:, None, None]
    return scale.astype("f4")[:, None, None], error


def _to_cube_unit(text, power, column, wavelength, name):
    """Factors to `CUBE_UNIT` from the root of a unit, at each wavelength."""
    unit = parse_unit(text, name=name, column=column, option="flux_unit")
    try:
        pairs = u.spectral_density(wavelength * u.AA)
        return (unit ** (1 / power)).to(CUBE_UNIT, np.ones(wavelength.size), pairs)
    except (u.UnitConversionError, TypeError, ValueError):
        wanted = "no flux density" if power == 1 else f"not that of a flux density to the {power}"
        raise ValueError(f"{column} is in {text!r}, which is {wanted}") from None


def _resolution(hdus, wavelength, shape):
    """MaNGA's instrumental sigma [km/s] of each pixel, pixel's width included, or None."""
    for name in ("LSFPOST", "DISP"):
        if name in hdus and hdus[name].shape == shape:
            sigma = np.asarray(hdus[name].data, "f4")
            return (
                np.where(sigma > 0, sigma, np.nan) / wavelength[:, None, None].astype("f4") * np.float32(KM_S)
            )
    if "SPECRES" not in hdus:
        return None
    return np.broadcast_to((KM_S * FWHM_TO_SIGMA / hdus["SPECRES"].data)[:, None, None], shape)


def _redshift(header, redshift):
    if redshift is None and not isinstance(header.get("MED_VEL"), int | float):
        raise ValueError("does not say its redshift (MED_VEL); give redshift=...")
    value = header["MED_VEL"] / c.to_value("km/s") if redshift is None else float(redshift)
    if not LOWEST_REDSHIFT <= value <= HIGHEST_REDSHIFT:
        raise ValueError(f"redshift {value:g} is outside {LOWEST_REDSHIFT:g} to {HIGHEST_REDSHIFT:g}")
    return value


def _pixels(cube, error, bad, scale):
    """Flux, ivar, mask, and why it is masked (0: not, else 1 + index of `PIXEL_PROBLEMS`)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        flux = cube.astype("f4") * scale
        ivar = (1 / (error * scale) ** 2).astype("f4")
    valid = (error > 0) & (error < LARGEST_ERROR) & np.isfinite(ivar)
    why = np.select([~np.isfinite(flux), bad, ~valid], [1, 2, 3], 0).astype("u1")
    return np.where(why == 0, flux, 0), np.where(why == 0, ivar, 0), why != 0, why


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
        size = _check_size([abs(header_number(header, word, 0.0)) for word in ("CDELT1", "CDELT2")])
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
            words = header.copy()
            for word in ("CTYPE3", "CUNIT3"):  # the third axis is read elsewhere, and less strictly
                words.remove(word, ignore_missing=True)
            sky = WCS(words).celestial
            if not sky.has_celestial:
                raise ValueError(f"no celestial axes among {header['CTYPE1']!r} and {header.get('CTYPE2')!r}")
            _check_size(proj_plane_pixel_scales(sky) * 3600)
    except (ValueError, InvalidTransformError, SingularMatrixError) as problem:
        raise ValueError(f"the WCS is wrong: {problem}") from problem
    return sky


def _check_size(size):
    """Spaxel sizes [arcsec], as they must be."""
    if not all(SPAXEL_SIZES[0] <= s <= SPAXEL_SIZES[1] for s in size):
        raise ValueError(f"its spaxels measure {size[0]:g} x {size[1]:g} arcsec, which is impossible")
    return size
