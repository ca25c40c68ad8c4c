"""Wavelengths as FITS headers state them: FITS WCS paper III, IRAF, SDSS."""

import re
import warnings

import numpy as np
from astropy import units as u
from astropy.constants import c
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from spectool.spectra import air_to_vacuum
from spectool.surveys import refusing
from spectool.surveys.units import parse_unit

# Axis types of Greisen et al. (2006, A&A 446, 747).
_DOPPLER = {"VRAD": u.doppler_radio, "VOPT": u.doppler_optical, "ZOPT": u.doppler_optical}
_DOPPLER |= {"VELO": u.doppler_relativistic, "BETA": u.doppler_relativistic}
_STANDARD = re.compile(rf"(WAVE|AWAV|FREQ|ENER|WAVN|{'|'.join(_DOPPLER)})(-(LOG|TAB|GR[IA]|[FWVA]2[FWVA]))?")
_WAVELENGTHS = re.compile(r"$|.*(WAV|LAM|WL|ANGS|SPEC|DISP|LINEAR|LOG|LN|AIR|VAC)")
_POSSIBLE = (50.0, 1e7)  # Angstrom
_LOG10 = (3.0, 4.5)  # of Angstrom: 1000 A to 3 um
_MEDIUM_WORD = re.compile(r"(?:I[NS]_?)?(?:WAVE?_?|LAM_?)?(VAC|AIR)(?:UUM)?(?:_?WAVE?|_?LAM\w*)?")
_MEDIA = {"air": "air|awav", "vacuum": "vac|vacuum"}
_TRUTH = {"t": True, "true": True, "yes": True, "f": False, "false": False, "no": False}
_SERIES = {1: np.polynomial.Chebyshev, 2: np.polynomial.Legendre}


def header_wavelengths(
    header, n_pixels, *, axis=1, name, medium=None, unit=None, hdus=None, assumed="vacuum"
):
    """The wavelengths of an image's pixels along one axis.

    Read are FITS WCS paper III (through wcslib: WAVE, AWAV, FREQ, ENER, WAVN, velocities with a rest wavelength;
    -LOG, -F2W, -GRI, -TAB), IRAF (DC-FLAG, WAT, multispec with linear, log, Chebyshev or Legendre dispersion),
    SDSS (COEFF0, COEFF1), and headers with no more than a start and a step.

    Parameters
    ----------
    header : astropy.io.fits.Header
    n_pixels, axis : int
        The axis as FITS counts, from 1.
    name : str
        The file, for errors.
    medium, unit : str, optional
        ``"air"`` or ``"vacuum"``; ``"nm"``, ``"log10(Angstrom)"`` ... Both win over the header.
    hdus : HDUList, optional
        Where a -TAB axis keeps its table.
    assumed : str
        The medium where nothing says it.

    Returns
    -------
    ndarray, shape (n_pixels,)
        Vacuum wavelength [Angstrom] in the order of the pixels; it may fall.
    list of str
        What was assumed or changed.

    Raises
    ------
    ValueError
        Naming the file: no wavelengths, impossible or ambiguous ones, and what to say then.
    """
    notes = []
    with refusing(name):
        wavelength, implied = _read_axis(header, int(n_pixels), axis, name, unit, hdus, notes)
    low, high = np.nanmin(wavelength), np.nanmax(wavelength)
    with np.errstate(invalid="ignore"):
        is_sorted = (np.diff(wavelength) > 0).all() or (np.diff(wavelength) < 0).all()
    if not (is_sorted and _POSSIBLE[0] <= low < high <= _POSSIBLE[1]):
        run = f"{wavelength[0]:g} to {wavelength[-1]:g} Angstrom"
        words = f"CRVAL{axis}, CDELT{axis}, CUNIT{axis}, CTYPE{axis}"
        raise ValueError(
            f"{name}: its wavelengths run from {run}, which is impossible: the WCS is wrong ({words})"
        )
    frame = str(header.get("SPECSYS", "")).strip().upper()
    if frame and not frame.startswith(("HELIO", "BARY", "SOURCE")):
        notes.append(f"SPECSYS = {frame!r}: wavelengths, and a redshift from them, are not heliocentric")
    words = [str(header.get(f"{word}{axis}", "")) for word in ("CTYPE", "CUNIT")]
    stated = header_medium(header, words, name=name, asked=medium)
    if stated == "air" and implied == "vacuum":
        notes.append(f"CTYPE{axis} = {words[0].strip()!r} says vacuum, another header word air")
    stated = stated or implied
    if medium and stated and medium != stated:
        notes.append(f"the header says that wavelengths are in {stated}: taken as {medium}, as asked")
    elif not medium and not stated:
        notes.append(f"the header does not say whether wavelengths are in air or vacuum: taken as {assumed}")
    elif stated == "air":
        notes.append("the header says that wavelengths are in air: converted to vacuum")
    if (medium or stated or assumed) == "air":
        far = wavelength >= 2000  # below, wavelengths are given in vacuum by convention
        wavelength[far] = air_to_vacuum(wavelength[far]) if far.any() else 0
    return wavelength, notes


def header_medium(header, words=(), *, name="the file", asked=None):
    """What a header, and other words such as the names of columns, say of the wavelengths' medium.

    Parameters
    ----------
    header : mapping
        Of an image or a table: VACUUM, AIRORVAC, AIR ..., else comments on wavelengths.
    words : iterable of str
        Column names (``wavelength (air)``), units, axis types.
    name, asked : str, optional
        The file, for the error; what the user says, which ends a contradiction.

    Returns
    -------
    {"air", "vacuum", None}
    """
    header = {str(key).upper(): value for key, value in dict(header).items()}
    comments = [header.pop(key, "") for key in ("COMMENT", "COMMENTS")]
    named = [(word, _speaks_of(word)) for word in words]
    for key, value in header.items():
        value = _TRUTH.get(value.strip().lower(), value) if isinstance(value, str) else value
        if isinstance(value, str) and re.search(r"AIR|VAC|WAV|LAM|MEDIUM", key):
            named.append((key, _speaks_of(value)))
        is_true = isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1))
        if is_true and (match := _MEDIUM_WORD.fullmatch(key)):
            named.append((key, "vacuum" if bool(value) == (match[1] == "VAC") else "air"))
    named = {medium: key for key, medium in named if medium}
    if len(named) == 2 and not asked:
        problem = f"speaks of air ({named['air']}) and of vacuum ({named['vacuum']})"
        raise ValueError(f"{name}: {problem}: say which with medium='air' or medium='vacuum'")
    for line in "\n".join("\n".join(t) if isinstance(t, list) else str(t) for t in comments).splitlines():
        if not named and re.search(r"wave|lambda", line.lower()) and not re.search(r"\bnot\b", line):
            named = {medium: line for medium in [_speaks_of(line)] if medium}
    return next(iter(named)) if len(named) == 1 else None


def _speaks_of(text):
    """The one medium that a text names, in a word of its own or joined to that for a wavelength; else None."""
    text, wave = str(text).replace("_", " ").lower(), "wave|wav|wl|lam|lambda"
    patterns = {m: rf"(?<![a-z])(({wave})?({w})|({w})({wave})[a-z]*)(?![a-z])" for m, w in _MEDIA.items()}
    media = [medium for medium, pattern in patterns.items() if re.search(pattern, text)]
    return media[0] if len(media) == 1 else None


def _read_axis(header, n, axis, name, unit, hdus, notes):
    """Wavelengths [Angstrom, whatever the medium] and the medium that the axis type implies."""
    iraf, ctype = _iraf_words(header), str(header.get(f"CTYPE{axis}", "")).strip().upper()
    unit, word = _axis_unit(header, iraf, axis, name, unit, notes)
    start, step = header_number(header, "COEFF0"), header_number(header, "COEFF1")
    if axis == 1 and None not in (start, step):
        return 10 ** (start + step * np.arange(n)), None
    if ctype.startswith("MULTISPE"):
        return (_multispec(iraf, header, n, notes) * (unit or u.AA)).to_value(u.AA, u.spectral()), None
    if header_number(header, "DC-FLAG") == -1 or ctype.startswith("PIX") or unit == u.pix:
        raise ValueError("its pixels have no wavelengths yet (CTYPE, CUNIT, DC-FLAG): calibrate it first")
    standard = _STANDARD.fullmatch(ctype)
    if standard is None and unit is None and not _WAVELENGTHS.match(ctype):
        raise ValueError(f"axis {axis} is {ctype!r} (CTYPE{axis}), which is no wavelength")
    linear, step = _linear(header, n, axis, notes)
    low, high = sorted((linear[0], linear[-1]))
    is_length = standard is None or (standard[1] in ("WAVE", "AWAV") and standard[3] != "TAB")
    in_log = (standard is None and re.search(r"LOG|LN", ctype)) or header_number(header, "DC-FLAG") == 1
    if isinstance(unit, u.function.FunctionUnitBase):
        in_log, unit = True, unit.physical_unit
    elif is_length and not in_log and unit == u.AA and _LOG10[0] <= low < high <= _LOG10[1]:
        in_log = True
        notes.append(f"{low:g} to {high:g} Angstrom cannot be: taken as log10(Angstrom)")
    elif is_length and not in_log and unit is None:
        unit = _guess_unit(low, high, step, axis, notes)
    if in_log:
        if unit is None:
            notes.append(f"the logarithms of axis {axis} have no unit (CUNIT{axis}): taken as of Angstrom")
        with np.errstate(over="ignore"):
            linear, standard = (np.e if high > 7 or ctype.startswith("LN") else 10.0) ** linear, None
    if standard is not None:
        implied = "vacuum" if standard[1] != "AWAV" else None
        return _from_wcslib(header, n, axis, standard[1], unit, step, hdus), implied
    try:
        return (linear * (unit or u.AA)).to_value(u.AA, u.spectral()), None
    except u.UnitConversionError:
        raise ValueError(f"axis {axis} is in {unit} ({word}), which is no wavelength") from None


def _axis_unit(header, iraf, axis, name, asked, notes):
    """The unit of an axis, None where nothing says it, and the header word that does."""
    word, text = f"CUNIT{axis}", str(header.get(f"CUNIT{axis}", "")).strip()
    if not text and axis == 1 and "units" in iraf:
        word, text = "WAT1_001", iraf["units"]
    text = re.sub(r"\W*\b(in )?(air|vac|vacuum)\b\W*", "", text, flags=re.IGNORECASE)
    if asked and text and text != str(asked):
        notes.append(f"the header says {text!r} ({word}): read as {asked}, as asked")
    text = asked or text
    return (parse_unit(text, name=name, column=word, option="wavelength_unit") if text else None), word


def header_number(header, word, default=None):
    """A header word as a number, also where it was written as a string; the default where it is blank or missing."""
    value = header.get(word)
    if value is None or isinstance(value, fits.card.Undefined) or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the header word {word} is {value!r}, not a number") from None


def _linear(header, n, axis, notes):
    """Coordinates CRVAL + (pixel - CRPIX) x step along an axis, and the step."""
    start, step = header_number(header, f"CRVAL{axis}"), header_number(header, f"CD{axis}_{axis}")
    width = header_number(header, f"CDELT{axis}", None if step is None else step)
    if step is None and width is not None:
        step = width * header_number(header, f"PC{axis}_{axis}", 1.0)
    elif width not in (None, 1.0) and not np.isclose(width, step):
        notes.append(f"CD{axis}_{axis} = {step:g} holds, not CDELT{axis} = {width:g}")
    if start is None or not step:
        words = f"CRVAL{axis} and CDELT{axis} or CD{axis}_{axis}"
        raise ValueError(f"has no wavelengths (header words {words}, not 0)")
    others = (f"{kind}{axis}_{j}" for kind in ("CD", "PC") for j in range(1, 5) if j != axis)
    if turned := [word for word in others if abs(header_number(header, word, 0.0)) > 1e-9]:
        raise ValueError(f"its wavelengths change along two axes ({turned[0]}): rectify it first")
    if f"CRPIX{axis}" not in header:
        notes.append(f"no CRPIX{axis}: the first pixel is taken to be at CRVAL{axis}")
    return start + (np.arange(n) + 1 - header_number(header, f"CRPIX{axis}", 1.0)) * step, step


def _guess_unit(low, high, step, axis, notes):
    """The unit of wavelengths whose header has none, by their size."""
    if step == 1 and low in (0, 1):
        raise ValueError(f"axis {axis} counts pixels ({low:g}, {low + 1:g} ...): it has no wavelengths")
    if _LOG10[0] <= low < high <= _LOG10[1]:
        choices = "wavelength_unit='log10(Angstrom)' or wavelength_unit='um'"
        raise ValueError(f"{low:g} to {high:g} without a unit is log10 of Angstrom or micron: give {choices}")
    unit = u.m if high < 1e-4 else u.um if high < 50 else u.nm if high < 1200 else u.AA
    notes.append(f"the wavelengths have no unit (CUNIT{axis}): taken as {unit}")
    return unit


def _from_wcslib(header, n, axis, kind, unit, step, hdus):
    """Wavelengths [Angstrom] of an axis of FITS WCS paper III."""
    lines = {word: header_number(header, word, 0.0) for word in ("RESTWAV", "RESTFRQ", "RESTFREQ")}
    words = {word: value for word, value in lines.items() if value > 0}
    rest = [value * (u.m if word == "RESTWAV" else u.Hz) for word, value in words.items()]
    if kind in _DOPPLER and not rest:
        raise ValueError(
            f"axis {axis} is a velocity ({kind}) and its line is missing: RESTWAV [m] or RESTFRQ [Hz]"
        )
    words |= {"CTYPE1": header[f"CTYPE{axis}"].strip().upper(), "CDELT1": step, "WCSAXES": 1}
    words["CRVAL1"], words["CRPIX1"] = (header_number(header, f"{w}{axis}", 1.0) for w in ("CRVAL", "CRPIX"))
    words |= {f"{k[:2]}1{k[3:]}": header[k] for k in header if re.fullmatch(rf"P[SV]{axis}_\d+", k)}
    try:
        words["CUNIT1"] = unit.to_string("fits") if unit else ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(fits.Header(words), hdus, naxis=1).wcs
        values = wcs.p2s(np.arange(n, dtype=float)[:, None], 0)["world"][:, 0] * wcs.cunit[0]
        values = values * c if kind in ("ZOPT", "BETA") else values
        return values.to_value(u.AA, _DOPPLER[kind](rest[0]) if kind in _DOPPLER else u.spectral())
    except (ValueError, LookupError, OSError, TypeError, MemoryError) as problem:
        reason = " ".join(str(problem).split())[-160:]
        raise ValueError(f"axis {axis} ({words['CTYPE1']}) cannot be read: {reason}") from problem


def _iraf_words(header):
    """IRAF's attributes: each WAT card holds 68 characters of one long text."""
    cards = sorted(word for word in header if re.fullmatch(r"WAT[123]_\d{3}", word))
    text = "".join(f"{header[word]!s:68s}" for word in cards)
    pairs = re.findall(r'(\w+)\s*=\s*(?:"([^"]*)"|(\S+))', text)
    return {word: quoted or plain for word, quoted, plain in reversed(pairs)}


def _multispec(iraf, header, n, notes):
    """Wavelengths of IRAF's multispec: all apertures must share them."""
    pixel = (np.arange(n) + 1 - header_number(header, "LTV1", 0.0)) / header_number(header, "LTM1_1", 1.0)
    axes = []
    for word in sorted(word for word in iraf if re.fullmatch(r"spec\d+", word)):
        _, _, kind, start, step, _, doppler, _, _, *functions = [float(v) for v in iraf[word].split()]
        if kind not in (0, 1, 2):
            raise ValueError(f"aperture {word[4:]} has no wavelengths yet (dispersion type {kind:g})")
        values = _dispersion(functions, pixel) if kind == 2 else start + step * (pixel - 1)
        axes.append((10**values if kind == 1 else values) / (1 + doppler))
        if doppler:
            notes.append(f"wavelengths are divided by 1 + {doppler:g}, the Doppler shift in {word}")
    if not axes:
        raise ValueError("its CTYPE is MULTISPE, but no card WAT2_001 ... holds the dispersion (spec1)")
    if not np.allclose(axes, axes[0], rtol=1e-6):
        raise ValueError(f"its {len(axes)} apertures have wavelengths of their own: save each as a file")
    return axes[0]


def _dispersion(values, pixel):
    """The sum of IRAF's dispersion functions."""
    total = np.zeros(pixel.size)
    while values:
        weight, zero, kind, order, low, high, *rest = values
        if kind not in _SERIES:
            raise ValueError(f"its dispersion is a spline or a table (IRAF's function {kind:g}): run dispcor")
        series = _SERIES[kind](rest[: int(order)], domain=[low, high])
        total, values = total + weight * (zero + series(pixel)), rest[int(order) :]
    return total
