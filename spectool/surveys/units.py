"""Units as surveys, pipelines and spreadsheets write them, read in one place for spectra, cubes and catalogues."""

import re
import warnings
from contextlib import suppress
from functools import lru_cache

import numpy as np
from astropy import units as u

from spectool.spectra import AB_JY, FLUX_UNIT

# What stands for a unit in capitals, in full, in the plural, or for another one elsewhere (A is the ampere).
_SPELLINGS = {
    "Angstrom": "a å aa ang angs angst angstrom angstroms ångström",
    "nm": "nm nanometer nanometers nanometre nanometres",
    "um": "um µm μm mum micron microns micrometer micrometers",
    "erg": "erg ergs",
    "s": "s sec second seconds",
    "cm": "cm",
    "Hz": "hz hertz",
    "W": "w watt watts",
    "Jy": "jy jansky janskys",
    "uJy": "ujy µjy μjy mujy microjy microjansky",
    "nJy": "njy nanojansky",
    "nmgy": "nmgy nmaggy nmaggies nanomaggy nanomaggies",
    "mgy": "mgy maggy maggies",
    "photon": "photon photons",
    "count": "count counts cts",
    "adu": "adu dn",
    "electron": "electron electrons",
}
WORDS = {word: unit for unit, words in _SPELLINGS.items() for word in words.split()}
_NO_UNIT = ("", "-", "none", "unitless", "dimensionless", "normalized", "normalised", "relative", "arbitrary")
WHOLE = dict.fromkeys(_NO_UNIT, u.dimensionless_unscaled) | {
    "flam": u.erg / u.s / u.cm**2 / u.AA,
    "fnu": u.erg / u.s / u.cm**2 / u.Hz,
    "mags": u.mag,
    "magnitudes": u.mag,
    "photlam": u.photon / u.s / u.cm**2 / u.AA,
}
_EXAMPLES = {"flux_unit": "erg / (s cm2 Angstrom)", "wavelength_unit": "Angstrom", "units": "mJy"}
SYSTEMS = {"ab": u.ABmag, "st": u.STmag}
_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,2})?"
_TEN = r"10\s*(?:\^|\*\*)?\s*\(\s*([+-]?\d{1,2})\s*\)|10\s*(?:\^|\*\*)?\s*([+-]\d{1,2})|10(?:\^|\*\*)\s*(\d{1,2})"
_SCALE = re.compile(rf"[x×]?\s*(?:{_TEN}|({_NUMBER}))\s*[*x×]?\s*")
_POWER = re.compile(r"\(((?:[^()]|\([^()]*\))*)\)(?:\s*(?:\^|\*\*)?\s*\(?([+-]?\d)\)?)?")
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−·{}", "0123456789--.()")
# The flux of a fibre, a spaxel or a slit is a flux.
_APERTURE = re.compile(
    r"\s*(/|\bper\b)\s*(spaxel|fib(er|re)|slit)\b|\b(spaxel|fib(er|re))\s*\^?-1", re.IGNORECASE
)


def parse_unit(text, *, name, column, option):
    """The astropy unit that a string, or a unit that astropy could not read, stands for.

    Parameters
    ----------
    text : str or Unit
        As a header, a column or a user has it: ``1E-17 erg/cm^2/s/Ang``, ``ANGSTROMS``, ``nanomaggies``, ``AB mag``,
        ``log10(A)``. A is the Angstrom. Words such as ``normalized`` stand for no unit.
    name, column, option : str
        The file, the column or keyword, and the argument that overrides it: for the error.

    Raises
    ------
    ValueError
        Naming file, column, string and remedy.
    """
    is_read = isinstance(text, u.UnitBase | u.FunctionUnitBase) and not isinstance(text, u.UnrecognizedUnit)
    if is_read and u.A not in getattr(text, "bases", []):
        return text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        unit = _parse(str(text).strip().strip("'\"[]"))
    if unit is None:
        advice = f'say what it is, such as {option}="{_EXAMPLES.get(option, "Jy")}"'
        raise ValueError(f"{name}: the unit {str(text)!r} of {column!r} is not known: {advice}")
    return unit


@lru_cache(maxsize=256)
def _parse(text):
    """A unit, or None."""
    text = _APERTURE.sub("", text).translate(_PLAIN)
    lower = re.sub(r"\s+", " ", text.lower()).strip()
    if len(text) > 80:
        return None
    if lower in WHOLE:
        return WHOLE[lower]
    if match := re.fullmatch(r"(ab|st)[ _-]?(?:mags?|magnitudes?)?|mags?[ _]?\(?(ab|st)\)?", lower):
        return SYSTEMS[match[1] or match[2]]
    if match := re.fullmatch(r"(?:log10|log|dex)\s*\(?([^()]+)\)?", text, re.IGNORECASE):
        unit = _parse(match[1])
        return None if unit is None else u.dex(unit)
    if match := re.fullmatch(r"1(?:\.0*)?\s*/(.+)", text):
        unit = _parse(match[1].strip())
        return None if unit is None else unit**-1
    scale = 1.0
    if match := _SCALE.match(text):
        exponent = next((power for power in match.groups()[:3] if power), None)
        scale = 10.0 ** int(exponent) if exponent else float(match[4])
        text = text[match.end() :].strip()
        if text[:1] in set("*^0123456789"):
            return None
    if match := _POWER.fullmatch(text):
        unit = _parse(match[1])
        unit = None if unit is None else unit ** int(match[2] or 1)
    else:
        unit = _from_astropy(re.sub(r"[^\W\d_]+", lambda word: _spell(word[0], text.isupper()), text))
    return None if unit is None else u.Unit(scale * unit) if scale != 1 else unit


def _spell(word, in_capitals):
    """A word as astropy spells it; MJY may be a million or a thousandth."""
    if word in ("MJY", "per"):
        return {"per": "/"}.get(word, word)
    return WORDS.get(word.lower(), word.lower() if in_capitals else word)


def _from_astropy(text):
    with u.add_enabled_units([u.mgy, u.nmgy]):
        for form in (None, "cds", "ogip"):
            with suppress(ValueError, TypeError):
                return u.Unit(text, format=form)
    return None


def flux_factor(unit, wavelength):
    """What flux densities in a unit are multiplied by to be in `FLUX_UNIT`, or a `UnitConversionError`."""
    pairs = u.spectral_density(wavelength * u.AA) + u.zero_point_flux(AB_JY * u.Jy)
    return (np.ones(np.shape(wavelength)) * unit).to_value(FLUX_UNIT, pairs)


def image_factor(hdu, name):
    """What the values of an image are multiplied by to be in `FLUX_UNIT`: by its BUNIT, 1 where it has none."""
    unit = parse_unit(hdu.header.get("BUNIT", FLUX_UNIT), name=name, column=hdu.name, option="flux_unit")
    if not unit.is_equivalent(FLUX_UNIT):
        raise ValueError(f"{name}: {hdu.name} is in {unit}, which is no flux density per wavelength")
    return unit.to(FLUX_UNIT)
