"""From the numbers in a catalogue's columns to fluxes and errors in Jy, and what is wrong with each of them."""

import numpy as np
from astropy import units as u

SENTINELS = (-99.0, -999.0, -9999.0, 9999.0)
"""Numbers that stand for "no data"; in magnitudes 99 too."""
PROBLEMS = ("no data", "sentinel", "no error", "error not positive", "flagged", "looks like magnitudes")
"""Why a flux is masked; the first that holds is told."""

_NO_DATA, _SENTINEL, _NO_ERROR, _BAD_ERROR, _FLAGGED, _MAGNITUDES = range(1, 7)
_STARLIGHT = ("FUV", "NUV", "u", "g", "r", "i", "z", "X", "Y", "J", "H", "K", "W1", "W2")
_MAGNITUDE_RANGE = (8.0, 32.0)


def to_numbers(table, column, name):
    """A column as floats, NaN where it is masked or empty.

    Raises
    ------
    ValueError
        If the column holds text.
    """
    values = np.ma.asarray(table[column])
    if values.dtype.kind in "OUS":
        values = np.ma.masked_where(values.astype(str) == "", values)
        values = np.ma.array(values.filled("nan").astype(str), mask=False)
    try:
        return np.ma.filled(values.astype(float), np.nan)
    except ValueError as error:
        raise ValueError(f"{name}: column {column!r} is not numeric ({error})") from error


def read_band(table, column, error_column, unit, *, sentinels, relative_error, name):
    """Fluxes and errors of one band.

    Parameters
    ----------
    table : astropy Table
    column, error_column : str, str or None
    unit : str or None
        None: the column's own.
    sentinels : tuple of float
    relative_error : float or None
        In the place of a column of errors.
    name : str
        Of the catalogue, for messages.

    Returns
    -------
    flux, error : ndarray, shape (galaxy,)
        [Jy]
    why : ndarray of int, shape (galaxy,)
        0 where the flux is of use, else 1 + index of `PROBLEMS`. Negative fluxes are of use; an error of 0 would be an
        infinite weight and is not.

    Raises
    ------
    ValueError
        Without a unit or without errors, or if the unit is no flux per frequency and no magnitude.
    """
    unit = _unit(table, column, unit, name)
    is_magnitude = isinstance(unit, u.LogUnit)
    if is_magnitude:
        sentinels = (*sentinels, 99.0)
    flux = to_numbers(table, column, name)
    if error_column is not None:
        error = to_numbers(table, error_column, name)
    elif relative_error is not None:
        error = np.full(flux.shape, relative_error) if is_magnitude else np.abs(flux) * relative_error
    else:
        raise ValueError(
            f"{name}: no column holds the errors of {column!r}: name it by errors={{band: column}}, or give "
            "relative_error=0.1 (a share of the flux)"
        )
    why = np.zeros(flux.shape, int)
    why[~(error > 0)] = _BAD_ERROR
    why[~np.isfinite(error)] = _NO_ERROR
    why[np.isin(error, sentinels) | np.isin(flux, sentinels)] = _SENTINEL
    why[~np.isfinite(flux)] = _NO_DATA
    if not is_magnitude:
        factor = _to_jansky(unit, column, name)
        return flux * factor, error * factor, why
    if not unit.physical_unit.is_equivalent(u.Jy):
        raise ValueError(
            f"{name}: column {column!r} is in {unit}; only AB magnitudes are fluxes without more"
        )
    with np.errstate(over="ignore"):  # of sentinels
        flux = (flux * unit).to_value(u.Jy)
        return flux, flux * np.expm1(0.4 * np.log(10) * error), why


def mark_flagged(why, table, flag_column, bad_flags):
    """Mark, in place, the good fluxes whose flag holds one of some letters."""
    if not bad_flags or flag_column not in table.colnames:
        return
    texts = np.ma.filled(np.ma.asarray(table[flag_column]).astype(object), "")
    flagged = np.array([any(letter in str(text) for letter in bad_flags) for text in texts], bool)
    why[flagged & (why == 0)] = _FLAGGED


def mark_magnitudes(flux, why, bands, name):
    """Mark, in place, galaxies whose "fluxes" look like magnitudes: from far UV to infrared all within a factor of 3.

    Between 8 and 32 Jy in all of at least five bands of starlight is no galaxy: even the few that are so bright differ
    by more from band to band. Magnitudes do not.

    Raises
    ------
    ValueError
        If most galaxies do.
    """
    starlight = np.isin(bands, _STARLIGHT)
    values = np.where((why == 0) & starlight, flux, np.nan)
    n = np.isfinite(values).sum(axis=1)
    low, high = (
        f(np.where(np.isfinite(values), values, e), axis=1) for f, e in ((np.min, np.inf), (np.max, -np.inf))
    )
    suspect = (n >= 5) & (low > _MAGNITUDE_RANGE[0]) & (high < _MAGNITUDE_RANGE[1]) & (high < 3 * low)
    if suspect.sum() > 0.5 * max((n >= 5).sum(), 1):
        row = int(suspect.argmax())
        raise ValueError(
            f"{name}: the fluxes look like magnitudes ({suspect.sum()} of {len(flux)} galaxies have {low[row]:.4g} to "
            f'{high[row]:.4g} in all bands, as in row {row}): pass units="mag(AB)"'
        )
    why[suspect[:, None] & (why == 0)] = _MAGNITUDES


def _unit(table, column, given, name):
    """The unit a caller or a table states."""
    unit = given if given is not None else getattr(table[column], "unit", None)
    if unit is None or str(unit) == "":
        raise ValueError(
            f'{name}: column {column!r} has no unit: say it, such as units="Jy" or units="mag(AB)"'
        )
    if str(unit) == "mag":
        raise ValueError(f'{name}: column {column!r} is in magnitudes of an unnamed system: units="mag(AB)"?')
    try:
        return u.Unit(unit)
    except ValueError as error:
        raise ValueError(f"{name}: {unit!r} is not a unit that astropy reads ({error})") from error


def _to_jansky(unit, column, name):
    try:
        return unit.to(u.Jy, equivalencies=u.zero_point_flux(3631 * u.Jy))
    except u.UnitConversionError as error:
        raise ValueError(
            f"{name}: column {column!r} is in {unit}, which is no flux per frequency: convert it to Jy"
        ) from error
