"""One spectrum (or a stack) from whatever a visitor brings: FITS, ECSV, CSV; path, URL, bytes."""

import re
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u

from spectool.prepare import LOWEST_REDSHIFT
from spectool.spectra import FLUX_UNIT, IVAR_UNIT, air_to_vacuum
from spectool.surveys import refusing
from spectool.surveys.desi import is_desi, read_desi, redrock_beside
from spectool.surveys.layouts import WAVELENGTHS, choose, name_unit, read_columns, read_hdus
from spectool.surveys.manga import is_manga, read_manga
from spectool.surveys.sdss import combine_sdss, is_sdss, ivar_of, naming_damage, open_fits, parse_sdss
from spectool.surveys.sources import fetch, local_path
from spectool.surveys.text import read_text
from spectool.surveys.units import flux_factor, parse_unit

HIGHEST_REDSHIFT = 12.0
HEADER_WORDS = {
    "redshift": "redshift z z_helio zhelio helio_z z_best zbest z_spec zspec specz z_vi z_tonry",
    "ebv": "ebv e(b-v) ebv_sfd",
}
LOG_ANGSTROM = (3.0, 4.7)
"""Wavelengths without unit within these are log10 of Angstrom, or micrometres: nobody can tell."""


def read_spectrum(
    source,
    *,
    redshift=None,
    ebv=None,
    name=None,
    medium=None,
    wavelength_unit=None,
    flux_unit=None,
    target=None,
    sha256=None,
):
    """Read a spectrum into a sample of one galaxy, or a stack of them into one of many.

    The layouts of SDSS I-V, LAMOST, DESI, MaNGA, PypeIt, 6dF, IRAF, HST, JWST and ESO are recognised by their headers;
    other tables (FITS, ECSV, CSV and other text) are read by the names of their columns, images by their axes. What was
    assumed or left out is said in ``attrs["history"]``.

    Parameters
    ----------
    source : path, URL or bytes
        Packed or not (gzip, bzip2, zip). A URL needs a network the first time; the file is kept.
    redshift : float, optional
        Needed where the file has none; wins over the file's.
    ebv : float, optional
        The Milky Way's E(B-V) [mag] towards the galaxy; likewise.
    name : str, optional
        For messages; default the file's name.
    medium : {"vacuum", "air"}, optional
        What the wavelengths are in; default what the file says, else vacuum.
    wavelength_unit, flux_unit : str, optional
        As astropy.units reads them; they win over the file's. ``flux_unit=""``: only the shape counts.
    target : int, list of int or "all", optional
        Where a file holds several spectra: a DESI TARGETID, a row from 0.
    sha256 : str, optional
        Checksum that a downloaded file must have.

    Returns
    -------
    Dataset
        dims (galaxy, wavelength), with ``flux`` [1e-17 erg/s/cm2/A, or no unit if the file gives none],
        ``ivar``, ``mask``, ``redshift`` and, if known, ``ebv`` and ``lsf_sigma`` [km/s]; coordinate
        ``observed_wavelength`` [Angstrom, vacuum]. Pixels that the file leaves out at a gap are there, masked. Without
        errors in the file, ivar comes from the scatter of neighbouring pixels (history says so).

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        Saying which file, which column or row, and what to do.
    """
    if medium not in (None, "vacuum", "air"):
        raise ValueError(f"medium is {medium!r}: it must be 'vacuum' or 'air'")
    content, name, notes = fetch(source, name=name, sha256=sha256)
    with refusing(name), np.errstate(all="ignore"):
        if not (content.startswith(b"SIMPLE") or Path(name).suffix.lower() in (".fits", ".fit")):
            table, more = read_text(content, name)
            raw = read_columns(table, name, notes=more, target=target)
        else:
            hdus = open_fits(content, name, whole=False)
            with naming_damage(name):
                sample = _survey_sample(hdus, name, target, source)
            if sample is not None:
                sample.attrs["history"] = "\n".join([*notes, sample.attrs["history"]])
                return _with_facts(sample, name, redshift, ebv, [])
            hdus = open_fits(content, name)
            raw = read_hdus(hdus, name, target=target, medium=medium, wavelength_unit=wavelength_unit)
        raw.attrs["notes"] = [f"read {name}", *notes, *raw.attrs["notes"]]
        sample = _calibrated(raw, name, medium, wavelength_unit, flux_unit)
        return _with_facts(sample, name, redshift, ebv, raw.attrs.get("headers", [raw.attrs["header"]]))


def _survey_sample(hdus, name, target, source):
    """The sample of a file of SDSS, DESI or MaNGA, which have readers of their own; None of any other."""
    if is_sdss(hdus):
        choose([name], target, name, "spectrum")
        return combine_sdss([parse_sdss(hdus, name)], [name])
    targets = None if target == "all" else target
    if is_desi(hdus):
        sample = read_desi(hdus, targets=targets, redshifts=redrock_beside(local_path(source)), name=name)
        survey, numbers = "DESI", sample["name"].values
    elif is_manga(hdus):
        sample = read_manga(hdus, targets=targets, name=name)
        survey, numbers = "MaNGA", np.arange(sample.sizes["galaxy"])
    else:
        return None
    if target is None and numbers.size > 1:
        some = ", ".join(map(str, numbers[:4])) + ", ..." * (numbers.size > 4)
        advice = f"choose by target={numbers[0]} and so on, or target='all'"
        raise ValueError(f"{name}: is a {survey} file with {numbers.size} spectra ({some}): {advice}")
    return sample


def _wavelength(raw, name, medium, unit):
    """Vacuum wavelengths [Angstrom] of a layout's pixels; what was assumed goes into its notes."""
    role = next(role for role in WAVELENGTHS if role in raw)
    values, column, notes = raw[role].values, raw[role].attrs["column"], raw.attrs["notes"]
    if raw[role].attrs.get("is_vacuum"):
        return values
    if re.search(r"(?<![a-z])rest(?![a-z])", column.lower()):
        advice = "multiply by 1 + z, or name it otherwise and give redshift=0"
        raise ValueError(f"{name}: column {column!r} is in the rest frame: {advice}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise ValueError(f"{name}: column {column!r} is not a number at row {wrong[0]}")
    unit = (
        name_unit(column)
        if unit is None and not raw[role].attrs["units"]
        else unit or raw[role].attrs["units"]
    )
    unit = None if unit is None else parse_unit(unit, name=name, column=column, option="wavelength_unit")
    if unit == u.dimensionless_unscaled:
        unit = None
    if role != "wavelength" or isinstance(unit, u.DexUnit):
        if np.abs(values).max() > 20:
            raise ValueError(
                f"{name}: column {column!r} reaches {values.max():g}: that is no logarithm of a wavelength"
            )
        base = getattr(unit, "physical_unit", None)
        values, unit = np.exp(values) if role == "ln_wavelength" else 10**values, base or unit or u.AA
        unit = u.AA if unit == u.dimensionless_unscaled else unit
    elif unit is None:
        low, high = LOG_ANGSTROM
        if values.min() > low and values.max() < high:
            advice = 'wavelength_unit="log10(Angstrom)", or "um"'
            raise ValueError(
                f"{name}: column {column!r} holds log10 of Angstrom, or micrometres? Say {advice}"
            )
        typical = np.median(values)
        unit = u.um if typical < 30 else u.nm if typical < 2500 else u.AA
        notes.append(f"column {column!r} has no unit: taken as {unit}")
    try:
        wavelength = (values * unit).to_value(u.AA, u.spectral())
    except u.UnitConversionError as error:
        raise ValueError(f"{name}: column {column!r} is in {unit}, which is no wavelength") from error
    if not (wavelength > 0).all():
        row = int(np.flatnonzero(~(wavelength > 0))[0])
        raise ValueError(f"{name}: column {column!r} is {values[row]:g} at row {row}, which is no wavelength")
    stated = raw.attrs.get("medium")
    if medium and stated and medium != stated:
        notes.append(f"the file says that its wavelengths are in {stated}: taken as {medium}, as asked")
    elif stated == "air":
        notes.append("wavelengths in air, as the file says, converted to vacuum")
    elif not medium and not stated:
        notes.append("nothing says whether the wavelengths are in air or in vacuum: taken as vacuum")
    return air_to_vacuum(wavelength) if (medium or stated) == "air" else wavelength


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


def _gaps(place):
    """Where pixels were left out, and how many: steps far above those on both sides."""
    step = np.diff(place)
    sides = np.lib.stride_tricks.sliding_window_view(np.pad(step, 5, mode="edge"), 5)
    usual = np.maximum(np.median(sides[:-6], axis=1), np.median(sides[6:], axis=1))
    gap = np.flatnonzero(step > 1.8 * usual)
    return gap, np.clip(np.round(step[gap] / usual[gap]).astype(int) - 1, 1, 2 * place.size)


def _fill_gaps(wavelength, pixels, notes):
    """Put masked pixels where rows were left out: an interpolation across them would invent data."""
    steps = {np.log: np.diff(np.log(wavelength)), np.asarray: np.diff(wavelength)}
    scale = min(steps, key=lambda kind: np.ptp(np.quantile(steps[kind], [0.1, 0.9])) / np.median(steps[kind]))
    pixel = scale(wavelength)
    gap, count = _gaps(pixel)
    if not gap.size:
        return wavelength, pixels
    place = np.repeat(gap + 1, count)
    share = np.concatenate([np.arange(1, n + 1) / (n + 1) for n in count])
    new = np.repeat(pixel[gap], count) + share * np.repeat(np.diff(pixel)[gap], count)
    new = np.exp(new) if scale is np.log else new
    blank = {"mask": True}
    pixels = {role: np.insert(values, place, blank.get(role, 0), axis=1) for role, values in pixels.items()}
    low, high = wavelength[gap[0]], wavelength[gap[0] + 1]
    others = f" and at {gap.size - 1} more" if gap.size > 1 else ""
    notes.append(f"no rows from {low:.0f} to {high:.0f} A{others}: {place.size} masked pixels put in")
    return np.insert(wavelength, place, new), pixels


def _flux_unit(raw, name, given):
    """The unit of the flux, None where there is none: what the caller says, the file's, or the name's."""
    attrs = raw["flux"].attrs
    column = attrs["column"]
    unit = given if given is not None else attrs["units"]
    unit = name_unit(column) if unit is None else unit
    unit = None if unit is None else parse_unit(unit, name=name, column=column, option="flux_unit")
    return None if unit is None or unit.is_equivalent(u.dimensionless_unscaled) else unit


def _calibrated(raw, name, medium, wavelength_unit, flux_unit):
    """A layout's columns as a sample: vacuum wavelengths in order, gaps masked, fluxes and errors in one unit."""
    notes = raw.attrs["notes"]
    wavelength = _wavelength(raw, name, medium, wavelength_unit)
    order = _order(wavelength, name)
    unit, column = _flux_unit(raw, name, flux_unit), raw["flux"].attrs["column"]
    flux, factor = raw["flux"].values, 1.0
    is_magnitude = isinstance(unit, u.LogUnit) or unit == u.mag
    if unit is None:
        notes.append("flux has no unit: only its shape is used")
        typical = np.nanmedian(np.abs(flux))
        if 0 < typical < 1e-10:  # its inverse variance would not fit into four bytes
            factor = 10.0 ** -np.floor(np.log10(typical))
            notes.append(f"its numbers were multiplied by {factor:g}")
        if column.lower() in ("fnu", "f_nu", "flux_nu"):
            factor = factor * (np.median(wavelength) / wavelength) ** 2
            notes.append(f"column {column!r} was taken as a flux per frequency")
        flux = flux * factor
    elif is_magnitude:
        flux = _from_magnitudes(flux, unit, wavelength, name, column)
    else:
        factor = _factor(unit, wavelength, name, column)
        flux = flux * factor
    ivar = _ivar(raw, name, flux, unit, factor, wavelength)
    bad = ~np.isfinite(flux) | ~np.isfinite(ivar) | ~(ivar > 0)
    if "mask" in raw:
        bad |= raw["mask"].values
    pixels = {"flux": np.where(np.isfinite(flux), flux, 0), "ivar": np.where(bad, 0, ivar), "mask": bad}
    pixels = {role: values[:, order] for role, values in pixels.items()}
    wavelength, pixels = _fill_gaps(wavelength[order], pixels, notes)
    names = [name] if len(flux) == 1 else [f"{name} {row}" for row in range(len(flux))]
    attrs = {"units": "Angstrom", "description": "vacuum"}
    sample = xr.Dataset(
        coords={"observed_wavelength": ("wavelength", wavelength, attrs), "name": ("galaxy", names)},
        attrs={"history": "\n".join(filter(None, notes))},
    )
    units = {"flux": FLUX_UNIT * (unit is not None), "ivar": IVAR_UNIT * (unit is not None)}
    for role, values in pixels.items():
        values = values if role == "mask" else values.astype("f4")
        sample[role] = (("galaxy", "wavelength"), values, {"units": units.get(role, "")})
    return sample


def _factor(unit, wavelength, name, column):
    """What turns a unit of flux density into ours, or an error that says what it is in the place of one."""
    try:
        return flux_factor(unit, wavelength)
    except u.UnitConversionError as error:
        remedy = (
            'give flux_unit="", and only the shape is used'
            if unit.is_equivalent(u.ct) or "ct" in str(unit)
            else ("give flux_unit=, if that is not what it is in")
        )
        raise ValueError(
            f"{name}: column {column!r} is in {unit}, which is no flux density: {remedy}"
        ) from error


def _from_magnitudes(values, unit, wavelength, name, column):
    """AB or ST magnitudes as flux densities."""
    if not isinstance(unit, u.LogUnit):
        advice = 'flux_unit="mag(AB)", or "mag(ST)"'
        raise ValueError(
            f"{name}: column {column!r} is in magnitudes of a system that is not named: give {advice}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return (values * unit).physical.to_value(u.Unit(FLUX_UNIT), u.spectral_density(wavelength * u.AA))


def _ivar(raw, name, flux, flux_unit, factor, wavelength):
    """Inverse variances in the flux's unit, from a column in its own unit, or from the pixels' scatter (noted)."""
    notes = raw.attrs["notes"]
    role = next((role for role in ("ivar", "error", "variance") if role in raw), None)
    if role is None:
        # DER_SNR (Stoehr et al. 2008): the noise from second differences, blind to smooth features.
        curvature = np.abs(2 * flux[:, 2:-2] - flux[:, 4:] - flux[:, :-4])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a number
            noise = 1.482602 / np.sqrt(6) * np.nanmedian(curvature, axis=1)
            noise = np.maximum(noise, 0.001 * np.nanmedian(np.abs(flux), axis=1))
        notes.append(
            f"no errors in the file: {noise[0]:.3g} everywhere, from the scatter of neighbouring pixels (DER_SNR)"
        )
        return np.broadcast_to(ivar_of(np.nan_to_num(noise))[:, None], flux.shape)
    column, values = raw[role].attrs["column"], raw[role].values
    unit = raw[role].attrs["units"]
    unit = name_unit(column) if unit is None else unit
    unit = None if unit is None else parse_unit(unit, name=name, column=column, option="flux_unit")
    power = {"ivar": -2, "error": 1, "variance": 2}[role]
    if unit is not None and unit != u.percent and unit.is_equivalent(u.dimensionless_unscaled):
        unit = None
    if isinstance(flux_unit, u.LogUnit):
        if unit is not None and "mag" not in str(unit):
            raise ValueError(
                f"{name}: column {column!r} is in {unit}, and the flux in magnitudes: give both alike"
            )
        relative = 0.4 * np.log(10) * (values if power == 1 else np.abs(values) ** (1 / power))
        return ivar_of(np.abs(flux) * relative)
    if unit == u.percent:
        return ivar_of(np.abs(flux) * values / 100)
    if unit is not None and flux_unit is None:
        notes.append(
            f"column {column!r} is in {unit}, the flux in no unit: its numbers were taken as they are"
        )
    elif unit is not None:
        own = unit if power == 1 else unit ** (1 / power)
        try:
            factor = flux_factor(own, wavelength)
        except u.UnitConversionError as error:
            kind = {
                "ivar": "inverse square of a flux density",
                "error": "flux density",
                "variance": "square of one",
            }
            raise ValueError(f"{name}: column {column!r} is in {unit}, which is no {kind[role]}") from error
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if role == "ivar":
            return values / factor**2
        return ivar_of((values if role == "error" else np.sqrt(values)) * factor)


def _with_facts(sample, name, redshift, ebv, headers):
    """The sample with redshifts and E(B-V), the caller's or else the headers'; an error if unknown or senseless."""
    given = {"redshift": redshift, "ebv": ebv}
    n = sample.sizes["galaxy"]
    for fact, words in HEADER_WORDS.items():
        value = given[fact]
        if value is None and fact not in sample:
            rows = [_header_number(header, words.split()) for header in headers]
            word = next((word for word, number in rows if word), None)
            if word is not None:
                value = [number for _, number in rows]
                value = value * n if len(value) == 1 else value
                sample.attrs["history"] += f"\n{fact} {value[0]:g} from the file's header ({word!r})"
        if value is not None:
            units = {"units": "mag" if fact == "ebv" else ""}
            sample[fact] = ("galaxy", np.broadcast_to(np.asarray(value, float), n).copy(), units)
    redshifts = sample["redshift"].values if "redshift" in sample else np.full(n, np.nan)
    unknown = ~np.isfinite(redshifts)
    if unknown.all() or (unknown.any() and n == 1):
        raise ValueError(f"{name}: does not say its redshift; give redshift=...")
    wrong = np.flatnonzero(~unknown & ~((redshifts >= LOWEST_REDSHIFT) & (redshifts <= HIGHEST_REDSHIFT)))
    if wrong.size:
        value = f"redshift {redshifts[wrong[0]]:g}"
        raise ValueError(f"{name}: {value} is outside {LOWEST_REDSHIFT:g} to {HIGHEST_REDSHIFT:g}")
    if "ebv" in sample and not ((sample["ebv"] >= 0) & (sample["ebv"] < 20)).all():
        wrong = sample["ebv"].values[~((sample["ebv"] >= 0) & (sample["ebv"] < 20)).values][0]
        raise ValueError(f"{name}: E(B-V) = {wrong:g} mag makes no sense; it is 0 or more")
    return sample


def _header_number(header, words):
    """The first of some words that holds a number that may be meant, and the number; -9999 and T are none."""
    header = {str(word).lower(): value for word, value in header.items()}
    for word in words:
        value = header.get(word)
        if (
            isinstance(value, int | float | np.number)
            and not isinstance(value, bool | np.bool_)
            and value > -90
        ):
            return word, float(value)
    return None, np.nan
