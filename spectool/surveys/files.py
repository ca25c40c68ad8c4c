"""One spectrum from whatever a visitor brings (FITS, ECSV, CSV; path, URL, bytes): its own file, bound to no survey."""

import re
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from spectool.prepare import LOWEST_REDSHIFT
from spectool.spectra import FLUX_UNIT, IVAR_UNIT, air_to_vacuum
from spectool.surveys import column_values
from spectool.surveys.sdss import combine_sdss, is_sdss, ivar_of, open_fits, parse_sdss

# What people call their columns, in lower case and without what follows a bracket or a unit.
COLUMN_NAMES = {
    "wavelength": "wavelength, wave, lambda, lam, wl, obs_wavelength, spectral_axis, loglam, log_lambda",
    "flux": "flux, flux_density, f_lambda, flam, flambda, fnu, f_nu, spectrum, flux_reduced",
    "error": "error, err, sigma, flux_err, flux_error, err_flux, e_flux, uncertainty, std, noise",
    "ivar": "ivar, inverse_variance, flux_ivar",
    "mask": "mask, and_mask, bad",
}
UNITS_IN_NAMES = {
    "nm": u.nm,
    "um": u.um,
    "micron": u.um,
    "a": u.AA,
    "aa": u.AA,
    "ang": u.AA,
    "angstrom": u.AA,
}
HIGHEST_REDSHIFT = 12.0


def read_spectrum(
    source,
    *,
    redshift=None,
    ebv=None,
    name=None,
    medium="vacuum",
    wavelength_unit=None,
    flux_unit=None,
    sha256=None,
):
    """Read a single spectrum into a sample of one galaxy.

    SDSS files are recognised; other FITS tables, ECSV and CSV are read through ``astropy.table`` by the names
    of their columns; FITS images with a wavelength axis through ``specutils``.

    Parameters
    ----------
    source : path, URL or bytes
        A URL is fetched by ``pooch`` (this needs a network) and kept in its cache.
    redshift : float, optional
        Needed where the file has none; wins over the file's.
    ebv : float, optional
        The Milky Way's E(B-V) [mag] towards the galaxy; likewise.
    name : str, optional
        For messages and to tell the format of bytes; default the file's name.
    medium : {"vacuum", "air"}
        What the wavelengths are in. SDSS files are in vacuum.
    wavelength_unit, flux_unit : str, optional
        As astropy.units reads them, where the file does not say.
    sha256 : str, optional
        Checksum that a downloaded file must have.

    Returns
    -------
    Dataset
        dims (galaxy: 1, wavelength), with ``flux`` [1e-17 erg/s/cm2/A, or no unit if the file gives none],
        ``ivar``, ``mask``, ``redshift`` and, if known, ``ebv``; coordinate ``observed_wavelength`` [Angstrom,
        vacuum]. Without errors in the file, ivar comes from the scatter of neighbouring pixels (history says
        so).

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        Saying which file, which column or row, and what to do.
    """
    content, name = _fetch(source, name, sha256)
    if content.startswith((b"SIMPLE", b"\x1f\x8b")) or Path(name).suffix.lower() in (".fits", ".fit", ".fz"):
        hdus = open_fits(content, name)
        if is_sdss(hdus):
            return _with_facts(combine_sdss([parse_sdss(hdus, name)], [name]), name, redshift, ebv)
        table = _fits_columns(hdus, name)
    else:
        table = _text_columns(content, name)
    sample = _from_columns(table, name, medium, wavelength_unit, flux_unit)
    return _with_facts(sample, name, redshift, ebv, table.meta)


def _fetch(source, name, sha256):
    """The bytes of a path, URL or upload, and what to call them."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), name or "uploaded file"
    text = str(source)
    if re.match(r"(https?|ftp)://", text):
        text = _download(text, sha256)
    path = Path(text).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path.read_bytes(), name or re.sub(r"^[0-9a-f]{32}-", "", path.name)


def _download(url, sha256):
    import pooch

    known = f"sha256:{sha256}" if sha256 else None
    try:
        return pooch.retrieve(url, known_hash=known, path=pooch.os_cache("spectool"))
    except OSError as error:
        raise ConnectionError(f"{url}: could not be fetched; a URL needs a network ({error})") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error


def _text_columns(content, name):
    """Columns of an ECSV or delimited text file."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: is neither FITS nor text (ECSV, CSV); is it a spectrum?") from error
    is_ecsv = text.lstrip().startswith("# %ECSV")
    try:
        return QTable.read(text.splitlines(), format="ascii.ecsv" if is_ecsv else "ascii")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        kind = "ECSV" if is_ecsv else "a table with one line of column names and one of numbers per pixel"
        raise ValueError(f"{name}: cannot be read as {kind}") from error


def _fits_columns(hdus, name):
    """Columns of the first table with a wavelength and a flux, else of an image with a wavelength axis."""
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
            table = QTable.read(hdu, unit_parse_strict="warn")
            if len(table) == 1:  # ESO's way: one row whose cells are the whole arrays
                table = QTable(
                    {n: table[n][0] for n in table.colnames if np.ndim(table[n][0]) == 1}, meta=table.meta
                )
            if _find(table, "wavelength") and _find(table, "flux"):
                table.meta = {**hdus[0].header, **table.meta}
                return table
    if hdus[0].header.get("NAXIS") != 1:
        held = ", ".join(f"{h.name or 'image'} {h.shape if h.is_image else h.columns.names}" for h in hdus)
        wanted = "a table with wavelength and flux, or a 1-D image"
        raise ValueError(f"{name}: holds no spectrum ({wanted}); it has {held}")
    return _image_columns(hdus, name)


def _image_columns(hdus, name):
    from specutils import Spectrum

    header = hdus[0].header
    if "CRVAL1" not in header or not ("CDELT1" in header or "CD1_1" in header):
        raise ValueError(f"{name}: the image has no wavelengths (header words CRVAL1, CDELT1)")
    note = "" if "CUNIT1" in header else "the image's wavelengths have no unit: taken as Angstrom"
    header.setdefault("CTYPE1", "WAVE")
    header.setdefault("CUNIT1", "Angstrom")
    spectrum = Spectrum.read(hdus, format="wcs1d-fits", flux_unit=u.Unit(header.get("BUNIT", "")))
    return QTable(
        {"wavelength": spectrum.spectral_axis.to(u.AA), "flux": spectrum.flux}, meta={**header, "note": note}
    )


def _bare(column):
    """A column's name without unit: 'Wavelength [nm]' and 'wavelength_nm' are 'wavelength'."""
    bare = re.sub(r"[\[(].*$", "", column.lower()).strip().replace(" ", "_")
    stem, _, last = bare.rpartition("_")
    return stem if stem and last in UNITS_IN_NAMES else bare


def _find(table, role):
    """The table's column for a role, or None."""
    names = {_bare(n): n for n in reversed(table.colnames)}
    return next((names[n] for n in COLUMN_NAMES[role].split(", ") if n in names), None)


def _unit_of(table, column, given):
    """The unit of a column: what the caller says, the file's, or one written in the column's name."""
    if given is not None:
        return u.Unit(given)
    unit = getattr(table[column], "unit", None)
    if unit is not None:
        return unit
    in_brackets = re.search(r"[\[(](.*)[\])]", column)
    word = in_brackets.group(1) if in_brackets else column.lower().rpartition("_")[2]
    if word.lower() in UNITS_IN_NAMES:
        return UNITS_IN_NAMES[word.lower()]
    return u.Unit(word) if in_brackets else None


def _wavelength(table, name, medium, unit):
    """Vacuum wavelengths [Angstrom], and a note on how they were understood."""
    column, note = _find(table, "wavelength"), ""
    values, unit = column_values(table, column, name), _unit_of(table, column, unit)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise ValueError(f"{name}: column {column!r} is not a number at row {wrong[0]}")
    if _bare(column) in ("loglam", "log_lambda"):
        values, unit = 10**values, u.AA
    elif unit is None:
        typical = np.median(values)
        unit = u.um if typical < 30 else u.nm if typical < 2500 else u.AA
        note = f"column {column!r} has no unit: taken as {unit}"
    try:
        wavelength = (values * unit).to_value(u.AA, u.spectral())
    except u.UnitConversionError as error:
        raise ValueError(f"{name}: column {column!r} is in {unit}, which is no wavelength") from error
    if medium not in ("vacuum", "air"):
        raise ValueError(f"medium is {medium!r}: it must be 'vacuum' or 'air'")
    return air_to_vacuum(wavelength) if medium == "air" else wavelength, note


def _order(wavelength, name):
    """Indices that put pixels in increasing order: as they are, or reversed; anything else is an error."""
    step = np.diff(wavelength)
    if wavelength.size < 10:
        raise ValueError(f"{name}: has {wavelength.size} pixels; that is no spectrum")
    if (step > 0).all():
        return slice(None)
    if (step < 0).all():
        return slice(None, None, -1)
    row = int(np.flatnonzero(step <= 0 if (step > 0).mean() > 0.5 else step >= 0)[0])
    place = f"row {row + 1} ({wavelength[row + 1]:g} A) follows {wavelength[row]:g} A"
    raise ValueError(f"{name}: wavelengths are not sorted: {place}")


def _from_columns(table, name, medium, wavelength_unit, flux_unit):
    """A table with known or guessable column names as a sample of one galaxy."""
    for role in ("wavelength", "flux"):
        if _find(table, role) is None:
            advice = f"call it one of: {COLUMN_NAMES[role]}"
            raise ValueError(f"{name}: no {role} column among {table.colnames}; {advice}")
    wavelength, note = _wavelength(table, name, medium, wavelength_unit)
    order = _order(wavelength, name)
    notes = [f"read {name}", note, str(table.meta.get("note", ""))]
    column = _find(table, "flux")
    flux, unit, factor = column_values(table, column, name), _unit_of(table, column, flux_unit), 1.0
    calibrated = unit is not None and unit != u.dimensionless_unscaled
    if calibrated:
        try:
            each = np.ones(wavelength.size) * unit
            factor = each.to_value(FLUX_UNIT, u.spectral_density(wavelength * u.AA))
        except u.UnitConversionError as error:
            raise ValueError(f"{name}: column {column!r} is in {unit}, which is no flux density") from error
    else:
        notes.append("flux has no unit: only its shape is used")
    flux = flux * factor
    ivar = _ivar(table, name, flux, factor, notes)
    bad = ~np.isfinite(flux) | ~np.isfinite(ivar) | ~(ivar > 0)
    if column := _find(table, "mask"):
        bad |= column_values(table, column, name) != 0
    columns = {
        "flux": (np.where(np.isfinite(flux), flux, 0).astype("f4"), FLUX_UNIT),
        "ivar": (np.where(bad, 0, ivar).astype("f4"), IVAR_UNIT),
        "mask": (bad, ""),
    }
    attrs = {"units": "Angstrom", "description": "vacuum"}
    sample = xr.Dataset(
        coords={"observed_wavelength": ("wavelength", wavelength[order], attrs), "name": ("galaxy", [name])},
        attrs={"history": "\n".join(filter(None, notes))},
    )
    for role, (values, units) in columns.items():
        attrs = {"units": units if calibrated else ""}
        sample[role] = (("galaxy", "wavelength"), values[order][None], attrs)
    return sample


def _ivar(table, name, flux, factor, notes):
    """Inverse variance from a column of it, of errors, or from the pixels' scatter (noted in `notes`)."""
    if column := _find(table, "ivar"):
        return column_values(table, column, name) / factor**2
    if column := _find(table, "error"):
        return ivar_of(column_values(table, column, name) * factor)
    # DER_SNR (Stoehr et al. 2008): the noise from second differences, blind to smooth features.
    curvature = 2 * flux[2:-2] - flux[4:] - flux[:-4]
    noise = 1.482602 / np.sqrt(6) * np.nanmedian(np.abs(curvature))
    noise = max(noise, 0.001 * np.nanmedian(np.abs(flux)))
    notes.append(
        f"no errors in the file: {noise:.3g} everywhere, from the scatter of neighbouring pixels (DER_SNR)"
    )
    return np.full(flux.shape, 1 / noise**2 if noise > 0 else 0.0)


def _with_facts(sample, name, redshift, ebv, header=None):
    """The sample with redshift and E(B-V), the caller's or else the header's; an error if unknown or senseless."""
    header = {str(word).lower(): value for word, value in (header or {}).items()}
    asked = {"redshift": (redshift, ("redshift", "z"), ""), "ebv": (ebv, ("ebv", "e(b-v)"), "mag")}
    for fact, (value, words, unit) in asked.items():
        word = next((w for w in words if isinstance(header.get(w), int | float)), None)
        if value is None and word is not None:
            value = header[word]
            sample.attrs["history"] += f"\n{fact} {value:g} from the file's header ({word!r})"
        if value is not None:
            sample[fact] = ("galaxy", [float(value)], {"units": unit})
    value = sample["redshift"].item() if "redshift" in sample else np.nan
    if not np.isfinite(value):
        raise ValueError(f"{name}: does not say its redshift; give redshift=...")
    if not LOWEST_REDSHIFT <= value <= HIGHEST_REDSHIFT:
        raise ValueError(f"{name}: redshift {value:g} is outside {LOWEST_REDSHIFT:g} to {HIGHEST_REDSHIFT:g}")
    if "ebv" in sample and not 0 <= sample["ebv"].item() < 20:
        raise ValueError(f"{name}: E(B-V) = {sample['ebv'].item():g} mag makes no sense; it is 0 or more")
    return sample
