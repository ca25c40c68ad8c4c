"""Catalogues as surveys publish them (GAMA, DustPedia, Pipe3D): its own file, the one that reads tables."""

import re
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.registry import IORegistryError
from astropy.table import Table

from spectool.prepare import SENTINELS, add_history, are_magnitudes
from spectool.spectra import AB_JY, Z_SUN
from spectool.surveys import SurveyWarning, column_values, refusing
from spectool.surveys.gama import BANDS
from spectool.surveys.layouts import fits_table, name_unit
from spectool.surveys.photometry import luminosity_distance
from spectool.surveys.sdss import open_fits
from spectool.surveys.sources import fetch
from spectool.surveys.text import read_text
from spectool.surveys.units import parse_unit

PROBLEMS = ("no data", "sentinel", "no error", "error not positive", "flagged", "looks like magnitudes")
"""Why a flux is masked; the first that holds counts."""
_REDSHIFTS = (
    "redshift z z_tonry z_best zbest best_z z_spec zspec spec_z specz spz z_sp zsp redshift_spec z_helio zhelio "
    "helio_z z_hel zhel z_vi z_final z_cmb zcmb z_gal z_noqso z_phot zphot phot_z photz photo_z photoz z_ph zph "
    "redshift_phot z_peak z_a z_b z_ml z_mc z_median spectroscopic_redshift photometric_redshift"
)
REDSHIFT_NAMES = tuple(_REDSHIFTS.split())
"""In any case; the first counts."""
HIGHEST_REDSHIFT = 12.0
OPTICAL = {"r": 6175.0, "i": 7491.0, "g": 4702.0, "z": 8946.0, "J": 12528.0, "K": 21503.0}
"""Pivot wavelengths [Angstrom] of bands that tell whether a galaxy's luminosity is possible, the first known counts."""
LUMINOSITY_RANGE = (4.0, 12.3)
"""log nu L_nu [Lsun] of galaxies in these bands; the brightest of clusters have 12."""

GAMA_LABELS = {
    "log_mass": "mass_stellar_percentile50",
    "log_sfr": "SFR_0_1Gyr_percentile50",
    "log_dust_luminosity": "L_dust_percentile50",
}
"""MAGPHYS's medians. GAMA's fluxes (LambdarCat, MagPhys) are ``FUV_flux`` [Jy], -999 where there are no data."""
DUSTPEDIA_COLUMNS = {
    "FUV": "GALEX_FUV",
    "NUV": "GALEX_NUV",
    **{band: f"SDSS_{band}" for band in "ugriz"},
    **{"J": "2MASS_J", "H": "2MASS_H", "K": "2MASS_Ks"},
    **{"W1": "WISE_3.4", "W2": "WISE_4.6", "W3": "WISE_12", "W4": "WISE_22"},
    **{f"P{micron}": f"PACS_{micron}" for micron in (100, 160)},
    **{f"S{micron}": f"SPIRE_{micron}" for micron in (250, 350, 500)},
}
"""DustPedia's tables (Clark et al. 2018), in Jy: 19 of GAMA's bands, the near-infrared ones 2MASS's for VISTA's."""
DUSTPEDIA_LABELS = {
    "log_mass": "Mstar__Msol",
    "log_sfr": "SFR__Msol_per_yr",
    "log_dust_luminosity": "Ldust__Lsol",
}
"""CIGALE's, Nersesian et al. (2019); for the initial mass function of Salpeter (1955)."""
LABEL_UNITS = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "log_dust_luminosity": "dex(solLum)"}

# What errors are called, behind the flux's name, in it or before it, and the power of the error that they are.
_ERROR_WORD = re.compile(
    r"_?(?P<ivar>ivar|invvar|inv_var|inverse_variance)(?=_|$)|_?(?P<var>variance|var)(?=_|$)"
    r"|_?(error|err|sigma|sig|uncertainty|uncert|unc|std|rms)(?=_|$)|^e_",
    re.IGNORECASE,
)
_UNIT_IN_NAME = re.compile(r"\s*[\[(][^\[\]]*[\])]\s*$|_[munk]?jy$", re.IGNORECASE)


def read_photometry(
    source,
    *,
    columns=None,
    errors=None,
    flags=None,
    bad_flags="",
    units=None,
    redshift=None,
    distance=None,
    labels=None,
    label_suffix="",
    sentinels=SENTINELS,
    relative_error=None,
    name=None,
):
    """Read a catalogue of fluxes into a sample, telling what is wrong with it.

    Parameters
    ----------
    source : path, astropy Table or pandas DataFrame
        FITS, VOTable, ECSV, or CSV.
    columns, errors, flags : dict of str to str, optional
        Band -> column of fluxes, of 1-sigma errors, of flags. Default: recognised by name (``r_flux``, ``FLUX_R``,
        ``mag_r``; ``r_err``, ``e_r``, ``FLUX_IVAR_R``, ...; ``r_flux_flag``). Errors whose column has a unit of its own
        are converted; variances are known by name. Bands of GAMA that the table lacks are masked.
    bad_flags : str
        Letters; a flux whose flag holds one of them is masked. DustPedia's: "A", "C", "N" (artefacts, contamination,
        not covered; the small letters are minor).
    units : str or dict of str to str, optional
        Of the fluxes, as astropy reads them ("Jy", "mJy", "mag(AB)", "3.631e-6 Jy"); wins over the table's own units.
        Needed where it has none: what a column is in is never guessed.
    redshift, distance : str or array_like, optional
        Column or values; distance in Mpc. Default: a column named like `REDSHIFT_NAMES`. A column ``z`` with errors is
        a band if it follows the others, else the redshift; history says which.
    labels, label_suffix : dict of str to str, str
        Our name -> column with a linear quantity (Msun, Msun/yr, Lsun), such as `GAMA_LABELS`; names that begin with
        ``log_`` are its logarithm, NaN where it is not positive. The suffix is put after our names ("_cigale").
    sentinels, relative_error : tuple of float, float
        Values of fluxes or errors, in the table's unit, that mean "no data"; errors as a share of the flux, for tables
        without columns of errors.
    name : str, optional
        For messages; default the file's.

    Returns
    -------
    xarray.Dataset, dims (galaxy, band)
        ``flux``, ``flux_error`` [Jy] and ``mask`` (True: no use; flux and error are NaN), ``redshift`` or ``distance``
        where known, the labels, ``photometry_problems`` (problem, band): how many fluxes were masked for what;
        ``n_negative`` (band): negative fluxes with errors are measurements and are kept;
        ``implausible_luminosity`` (galaxy): too bright or faint in the optical for a galaxy at its distance, as when
        mJy are read as Jy; such galaxies are kept and counted. ``attrs["history"]`` tells it all in words.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and column: no band found, no unit, no errors, a band twice with different values (equal ones
        are taken once, and this is told), or most galaxies' fluxes being magnitudes.
    """
    table, name, notes = read_table(source, name)
    names, errors = list(table.colnames), errors or {}
    if not len(table):
        raise ValueError(f"{name}: has no rows: no galaxy is left")
    absent = [column for column in (*(columns or {}).values(), *errors.values()) if column not in names]
    if absent:
        raise ValueError(f"{name}: no columns {', '.join(absent)}; there are {', '.join(names[:40])}")
    candidates = _find_columns(names, columns, name)
    history = [f"read {name}: {len(table)} galaxies", *notes]
    if redshift is None or isinstance(redshift, str):
        redshift = _redshift_column(table, candidates, redshift, columns, history, name)
        if redshift is None and distance is None:
            history.append("no redshift was recognised among the columns: name it by redshift='...'")
    bands = list(BANDS) if set(candidates) <= set(BANDS) else list(candidates)
    shape = (len(table), len(bands))
    flux, error = np.full(shape, np.nan), np.full(shape, np.nan)
    why = np.ones(shape, int)  # 0: fine, else 1 + index of PROBLEMS
    for i, band in enumerate(bands):
        if band in candidates:
            column = _only(table, candidates[band], band, name, history)
            error_column = errors.get(band) or _find_error(column, names, band)
            given = units.get(band) if isinstance(units, dict) else units
            unit = _unit(table, column, given, name)
            is_named_magnitude = columns is None and "mag" in column.lower()
            if is_named_magnitude and not isinstance(unit, u.LogUnit):
                advice = f'a magnitude by its name, not in {unit}: say units="mag(AB)", or columns='
                raise ValueError(f"{name}: column {column!r} is {advice}")
            values = _read_band(table, column, error_column, unit, sentinels, relative_error, name)
            flux[:, i], error[:, i], wrong = values
            wrong.append(_flagged(table, (flags or {}).get(band, f"{column}_flag"), bad_flags))
            why[:, i] = np.select(wrong, range(1, 1 + len(wrong)), 0)
    suspect = are_magnitudes(flux, why > 0, bands, name)
    why[suspect[:, None] & (why == 0)] = len(PROBLEMS)
    mask = why > 0
    problems = np.stack([(why == 1 + k).sum(axis=0) for k in range(len(PROBLEMS))])
    dims, jansky = ("galaxy", "band"), {"units": "Jy"}
    sample = xr.Dataset(
        {
            "flux": (dims, np.where(mask, np.nan, flux).astype("f4"), jansky),
            "flux_error": (dims, np.where(mask, np.nan, error).astype("f4"), jansky),
            "mask": (dims, mask, {"units": "", "description": "True: no measurement"}),
            "photometry_problems": (("problem", "band"), problems, {"units": ""}),
            "n_negative": ("band", (~mask & (flux < 0)).sum(axis=0), {"units": ""}),
        },
        coords={"band": bands, "problem": list(PROBLEMS)},
    )
    _add_distances(sample, table, redshift, distance, name)
    for ours, theirs in (labels or {}).items():
        sample[ours + label_suffix] = ("galaxy", *_label(table, ours, theirs, name))
    _flag_luminosities(sample)
    if repeated := int(pd.DataFrame(np.hstack([flux, error])[(~mask).any(1)]).duplicated().sum()):
        history.append(f"{repeated} rows repeat the fluxes and errors of earlier ones")
    return sample.assign_attrs(history="\n".join(history + _report(sample)))


def move_to_redshift(sample, redshift):
    """Near galaxies as they would appear at one redshift: fluxes and errors times (1 + z) (D / d_L(z))^2.

    The sample needs ``flux``, ``flux_error`` and ``distance`` [Mpc], which stays. The shift of the bands (5% in
    wavelength for z = 0.05) is neglected.
    """
    if "distance" not in sample:
        raise ValueError("the sample has no distances: read it with distance=...")
    scale = (1 + redshift) * (sample["distance"] / float(luminosity_distance(redshift))) ** 2
    moved = {
        name: (sample[name] * scale).astype("f4").assign_attrs(sample[name].attrs)
        for name in ("flux", "flux_error")
    }
    z = xr.DataArray(np.full(sample.sizes["galaxy"], float(redshift)), dims="galaxy", attrs={"units": ""})
    return add_history(sample.assign(**moved, redshift=z), f"moved to z = {redshift:g} by distance")


def read_table(source, name=None, *, kind="a table (FITS, VOTable, ECSV, CSV)", **options):
    """A table from a path or address (options go to astropy), a DataFrame or a Table; what to call it; notes."""
    if isinstance(source, Table):
        return source, name or str(source.meta.get("name", "table")), []
    if hasattr(source, "iloc"):  # a DataFrame
        return Table.from_pandas(source.reset_index(drop=True).rename(columns=str)), name or "table", []
    content, name, notes = fetch(source, name=name)
    with refusing(name):
        if options:
            try:
                return Table.read(source, **options), name, notes
            except (OSError, ValueError, TypeError, KeyError, IndexError, IORegistryError) as error:
                raise ValueError(f"{name}: cannot be read as {kind}: {error}") from error
        if not content.startswith(b"SIMPLE") and not re.search(r"\.fits?(\.|$)", name.lower()):
            table, more = read_text(content, name)
            return table, name, notes + more
        hdus = open_fits(content, name)
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise ValueError(f"{name}: holds no table; it is truncated or damaged, or holds images alone")
        return fits_table(tables[0]), name, notes + [f"not read: table {hdu.name}" for hdu in tables[1:]]


def _find_columns(names, columns, name):
    """The columns that may hold each band: fluxes, else magnitudes, else a column called as the band."""
    if columns is not None:
        return {band: _copies(column, names) for band, column in columns.items()}
    bare = {_UNIT_IN_NAME.sub("", column): column for column in reversed(names)}
    known = {word.lower(): column for word, column in bare.items()} | bare
    result = {}
    for band in BANDS:
        fluxes = [f"{band}_flux", DUSTPEDIA_COLUMNS.get(band), f"flux_{band}", f"f_{band}"]
        hits = [known.get(word, known.get(word.lower())) for word in fluxes if word]
        hits.append(known.get(f"F{band}"))
        if not any(hits):
            magnitudes = (f"{band}_mag", f"mag_{band}", f"{band}mag")
            hits = [known.get(word, known.get(word.lower())) for word in magnitudes]
        if not any(hits) and _find_error(band, names):
            hits = [known.get(band)]  # a bare "z" may be a redshift, "X" and "Y" places on a chip
        hits = [copy for column in dict.fromkeys(filter(None, hits)) for copy in _copies(column, names)]
        if hits:
            result[band] = hits
    if not result:
        advice = 'say which are which by columns={"FUV": ..., "r": ...}'
        raise ValueError(f"{name}: no band of GAMA among the columns {', '.join(names[:40])}: {advice}")
    return result


def _find_error(column, names, band=None):
    """The column of a flux column's errors, else variances, else inverse variances; or None.

    That is one with the same words and one of `_ERROR_WORD`; of a known band, in any case or without the word flux.
    """
    ranked, words = [], set(_UNIT_IN_NAME.sub("", column).split("_"))
    # z_err may be a redshift's
    alone = {band.lower()} - {"z", *(other.lower() for other in names)} if band else set()
    for place, other in enumerate(names):
        plain = _UNIT_IN_NAME.sub("", other)
        match = None if other == column else _ERROR_WORD.search(plain)
        if match:
            rest = set(re.split("_+", plain[: match.start()] + "_" + plain[match.end() :])) - {""}
            lower = {word.lower() for word in rest}
            alike = lower == {word.lower() for word in words}
            same = rest == words, band is not None and alike, bool(alone) and lower == alone
            if any(same):
                ranked.append((same.index(True), abs(_power(other)), -_power(other), place))
    return names[min(ranked)[-1]] if ranked else None


def _power(error_column):
    """1 for errors, 2 for variances, -2 for inverse variances, by the column's name."""
    match = _ERROR_WORD.search(_UNIT_IN_NAME.sub("", error_column))
    return 1 if not match else -2 if match["ivar"] else 2 if match["var"] else 1


def _redshift_column(table, candidates, given, columns, history, name):
    """The column of redshifts, which is then no band's; a column z with errors is one or the other by its values."""
    names = table.colnames
    if given is not None:
        given = given if given in names else next((c for c in names if c.lower() == given.lower()), given)
        for band in [band for band, hits in candidates.items() if given in hits]:
            if columns is not None:
                raise ValueError(f"{name}: column {given!r} cannot be both redshift and band {band!r}")
            del candidates[band]
        return given
    used = {column for hits in candidates.values() for column in hits}
    unused = [column for column in names if column not in used]
    hits = [column for word in REDSHIFT_NAMES for column in unused if column.lower() == word]
    values = {column: column_values(table, column, name) for column in [*hits, *used & {"z"}]}
    hits = [column for column in hits if column != "z" or _are_redshifts(values[column])]
    if columns is None and candidates.get("z") == ["z"]:
        is_same = any(np.allclose(values["z"], values[c], equal_nan=True) for c in hits)
        if is_same or (not hits and _is_z_redshift(table, values["z"], candidates, name)):
            del candidates["z"]
            hits = hits or ["z"]
            history.append(
                "column 'z' was taken as the redshift, not as a band: if it is none, say redshift="
            )
        else:
            history.append("column 'z' was taken as a band: if it is the redshift, say redshift='z'")
    if hits:
        differ = [c for c in hits[1:] if not np.allclose(values[c], values[hits[0]], equal_nan=True)]
        others = f"; not {', '.join(differ)}, which differ" if differ else ""
        history.append(f"redshift from column {hits[0]!r}{others}")
    return hits[0] if hits else None


def _are_redshifts(values):
    """Whether numbers may be redshifts of galaxies."""
    known = values[np.isfinite(values) & ~np.isin(values, (*SENTINELS, -9.0, -1.0, 99.0))]
    return known.size > 0 and np.mean((known > -0.01) & (known <= 8)) > 0.9 and np.median(known) > 5e-4


def _is_z_redshift(table, values, candidates, name):
    """Whether a column z beside z_err holds redshifts: not if it follows the next band; an error if nobody can tell."""
    beside = next((candidates[band][0] for band in "irgYJu" if band in candidates), None)
    if not _are_redshifts(values):
        return False
    other = column_values(table, beside, name) if beside else np.full(values.shape, np.nan)
    with np.errstate(all="ignore"):
        ratio = np.log10(values / other)
    ratio = ratio[np.isfinite(ratio)]
    typical = np.median(ratio) if ratio.size else np.nan
    if typical < -0.6 or typical > 1.5:
        return True
    if (
        -0.2 < typical < 0.7 and np.std(ratio) < 0.15
    ):  # galaxies are seldom fainter there than in a bluer band
        return False
    advice = 'say redshift="z", or redshift=... and columns={"z": "z", ...}'
    raise ValueError(f"{name}: is column 'z' the redshift or the z band? {advice}")


def _copies(column, names):
    """A column, and its namesakes: readers of text call a second ``r`` ``r.1``, those of other formats ``r_1``."""
    pattern = re.compile(re.escape(column) + r"(\.\d+|_\d{1,2})")
    return [column, *(name for name in names if pattern.fullmatch(name))]


def _only(table, candidates, band, name, history):
    """The one column of a band, or an error if there are several that differ."""
    first, *others = candidates
    for other in others:
        both = (column_values(table, column, name) for column in (first, other))
        if not np.array_equal(*both, equal_nan=True):
            raise ValueError(
                f"{name}: columns {', '.join(candidates)} all look like band {band!r}, and differ: choose by "
                f"columns={{{band!r}: ...}}, or rename one"
            )
        history.append(f"band {band} is there twice: column {other} equals {first} and was left out")
    return first


def _read_band(table, column, error_column, unit, sentinels, relative_error, name):
    """Fluxes and errors of one band [Jy], and where each of the first four `PROBLEMS` is."""
    is_magnitude = isinstance(unit, u.LogUnit)
    flux = column_values(table, column, name)
    error_unit, power = unit, 1
    if error_column is not None:
        error, power = column_values(table, error_column, name), _power(error_column)
        error_unit = _error_unit(table, column, error_column, unit, name)
    elif relative_error is not None:
        error = np.full(flux.shape, relative_error) if is_magnitude else np.abs(flux) * relative_error
    else:
        raise ValueError(
            f"{name}: no column holds the errors of {column!r}: name it by errors={{band: column}}, or give "
            "relative_error=0.1 (a share of the flux)"
        )
    if flux.ndim != 1 or error.ndim != 1:
        raise ValueError(f"{name}: columns {column!r} and {error_column!r} hold several numbers for a galaxy")
    sentinel = np.isin(error, sentinels) | np.isin(flux, sentinels)
    sentinel |= np.isin(flux, (99.0, 999.0)) & np.isin(error, (*sentinels, 99.0, 999.0))
    if is_magnitude:
        sentinel |= (np.abs(flux) >= 90) | (np.abs(error) >= 90)
    with np.errstate(all="ignore"):
        if power != 1:
            error = np.where(error > 0, np.abs(error) ** (1 / power), np.where(np.isnan(error), error, 0.0))
        wrong = [~np.isfinite(flux), sentinel, ~np.isfinite(error), ~(error > 0)]
        if not is_magnitude:
            flux = flux * _jansky(unit, column, name)
            if error_unit == u.percent:
                return flux, np.abs(flux) * error / 100, wrong
            return flux, error * _jansky(error_unit, error_column, name), wrong
        if not unit.physical_unit.is_equivalent(u.Jy):
            advice = "only AB magnitudes are fluxes without more"
            raise ValueError(f"{name}: column {column!r} is in {unit}; {advice}")
        flux = (flux * unit).to_value(u.Jy)
        return flux, flux * np.expm1(0.4 * np.log(10) * error), wrong


def _error_unit(table, column, error_column, unit, name):
    """The unit of 1-sigma errors: the error column's own (of its root), else that of the fluxes."""
    power = _power(error_column)
    if power == 1 and table[column].unit == table[error_column].unit and table[column].unit is not None:
        return unit  # whatever it is: the user's, if there is one, holds for both
    stated, own = (_stated_unit(table, c, name) for c in (column, error_column))
    if own is None or own in (stated, u.dimensionless_unscaled):
        return unit
    if isinstance(unit, u.LogUnit) != ("mag" in str(own)):
        raise ValueError(f"{name}: column {error_column!r} is in {own}, and {column!r} in {unit}")
    if isinstance(unit, u.LogUnit):
        return unit
    return unit if power != 1 and stated is not None and own == stated**power else own ** (1 / power)


def _jansky(unit, column, name):
    """What numbers in a unit are multiplied by to be in Jy."""
    try:
        with u.add_enabled_units([u.mgy, u.nmgy]):
            return unit.to(u.Jy, equivalencies=u.zero_point_flux(AB_JY * u.Jy))
    except u.UnitConversionError as error:
        advice = "which is no flux per frequency: convert it to Jy"
        raise ValueError(f"{name}: column {column!r} is in {unit}, {advice}") from error


def _stated_unit(table, column, name):
    """The unit that a table, or a column's name, states; None if neither does."""
    unit = getattr(table[column], "unit", None)
    if unit not in (None, ""):
        return parse_unit(unit, name=name, column=column, option="units")
    with suppress(ValueError):  # brackets may hold any word
        unit = name_unit(column) if _UNIT_IN_NAME.search(column) else None
        return unit and parse_unit(unit, name=name, column=column, option="units")
    return None


def _unit(table, column, given, name):
    """The unit a caller or a table states."""
    if given in (None, ""):
        unit = _stated_unit(table, column, name)
    else:
        unit = parse_unit(given, name=name, column=column, option="units")
    if unit == u.mag or (unit is None and re.search("mag", column, re.IGNORECASE)):
        raise ValueError(f'{name}: column {column!r} is in magnitudes of an unnamed system: units="mag(AB)"?')
    if unit is None or unit == u.dimensionless_unscaled:
        advice = 'say it, such as units="Jy" or units="mag(AB)"'
        raise ValueError(f"{name}: column {column!r} has no unit: {advice}")
    return unit


def _flagged(table, column, letters):
    """Where a column of flags holds one of some letters."""
    if not letters or column not in table.colnames:
        return np.zeros(len(table), bool)
    texts = np.ma.filled(np.ma.asarray(table[column]).astype(object), "")
    return np.array([any(letter in str(text) for letter in letters) for text in texts], bool)


def _add_distances(sample, table, redshift, distance, name):
    for ours, given, unit in (("redshift", redshift, ""), ("distance", distance, "Mpc")):
        if given is None:
            continue
        if isinstance(given, str) and given not in table.colnames:
            raise ValueError(f"{name}: no column {given!r} of {ours}")
        values = column_values(table, given, name) if isinstance(given, str) else np.asarray(given, float)
        if values.shape != (len(table),):
            raise ValueError(f"{name}: {ours} has shape {values.shape} for {len(table)} galaxies")
        stated = getattr(table[given], "unit", None) if isinstance(given, str) else None
        if ours == "redshift" and stated is not None and stated.is_equivalent(u.km / u.s):
            raise ValueError(f"{name}: column {given!r} is in {stated}: a redshift has no unit, name another")
        # near galaxies may approach us
        low, high = (-0.01, HIGHEST_REDSHIFT) if ours == "redshift" else (0.0, np.inf)
        sample[ours] = ("galaxy", np.where((values > low) & (values < high), values, np.nan), {"units": unit})


def _label(table, ours, theirs, name):
    if theirs not in table.colnames:
        raise ValueError(f"{name}: no column {theirs!r} for {ours}")
    values = column_values(table, theirs, name)
    if not ours.startswith("log_"):
        return values, {"units": str(getattr(table[theirs], "unit", None) or "")}
    values = np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)
    return values, {"units": LABEL_UNITS.get(ours, "dex")}


def _flag_luminosities(sample):
    """Mark galaxies whose optical luminosity no galaxy has: wrong units, or a wrong distance."""
    n = sample.sizes["galaxy"]
    mpc = np.full(n, np.nan)
    if "distance" in sample:
        mpc = sample["distance"].values
    elif "redshift" in sample:
        z = sample["redshift"].values
        mpc = np.where(z > 0, luminosity_distance(np.where(z > 0, z, 1.0)), np.nan)
    log_luminosity = np.full(n, np.nan)
    area = (4 * np.pi * (mpc * u.Mpc) ** 2).to_value(u.m**2)
    for band, wavelength in OPTICAL.items():
        if band in sample["band"]:
            flux = sample["flux"].sel(band=band).values.astype(float)
            frequency = (wavelength * u.AA).to(u.Hz, u.spectral())
            power = flux * area * (1 * u.Jy * frequency).to_value(u.Lsun / u.m**2)
            known = np.isnan(log_luminosity) & (power > 0)
            log_luminosity[known] = np.log10(power[known])
    low, high = LUMINOSITY_RANGE
    implausible = (log_luminosity < low) | (log_luminosity > high)
    sample["implausible_luminosity"] = ("galaxy", implausible, {"units": ""})


def _report(sample):
    """The counts in words."""
    bands, lines = sample["band"].values, []
    for problem in PROBLEMS:
        counts = sample["photometry_problems"].sel(problem=problem).values
        if counts.any():
            most = ", ".join(f"{bands[i]} {counts[i]}" for i in np.argsort(-counts)[:5] if counts[i])
            lines.append(f"masked, {problem}: {counts.sum()} fluxes (most: {most})")
    negative = int(sample["n_negative"].sum())
    if negative:
        lines.append(f"kept: {negative} negative fluxes with errors")
    if "redshift" in sample and np.isnan(sample["redshift"].values).any():
        lines.append(f"{int(np.isnan(sample['redshift'].values).sum())} galaxies have no redshift")
    n = int(sample["implausible_luminosity"].sum())
    if n:
        text = f"{n} of {sample.sizes['galaxy']} galaxies have an impossible luminosity: wrong units or distances?"
        lines.append(text)
        if n > 0.5 * sample.sizes["galaxy"]:
            warnings.warn(text, SurveyWarning, stacklevel=3)
    return lines


LOG_AGE_RANGE = (-4.0, 1.2)
"""dex(Gyr); what is outside is no age of stars."""
# Pipe3D's metallicities are counted from `Z_SUN`: its tables of light by metallicity, averaged in log Z, agree.
COLUMNS = {"log_age_fit": "age_lwt", "log_z_fit": "ZH_lwt", "a_v": "Av_ssp"}
UNITS = {"log_age_fit": "dex(Gyr)", "log_z_fit": "dex", "a_v": "mag", "x": "arcsec", "y": "arcsec"}
POSITIONS = ("ra_abs", "dec_abs")
LIGHT, ZONE = "Vcont_ssp", "cont_segm"


def read_pipe3d(source, *, center=None, by_zone=True, name=None):
    """Luminosity-weighted ages and metallicities across a galaxy, with positions.

    Parameters
    ----------
    source : path or astropy Table
        An HDF5 file with the table ``SSP``, such as ``NGC4047_allpix.pipe3d.hdf5``, or that table.
    center : (float, float), optional
        Right ascension and declination [deg]. Default: the spaxel that is brightest in V (``Vcont_ssp``).
    by_zone : bool
        One row for each zone (``cont_segm``) that Pipe3D binned its spaxels into, at their mean position, or for each
        spaxel: those of a zone have the same values, and counting them one by one would understate errors.
    name : str, optional
        The galaxy's; default that in the table.

    Returns
    -------
    xarray.Dataset, dims spectrum and galaxy (1)
        ``log_age_fit`` [dex(Gyr)], ``log_z_fit`` [dex, ``attrs["z_sun"]`` 0.02], ``a_v`` [mag]; ``x``, ``y`` [arcsec
        to the east and the north of the centre], ``n_spaxels``, ``galaxy_index`` (0); ``galaxy_name``. Spaxels
        without age or metallicity are left out, and counted in ``attrs["history"]``. There are no errors: in edge-pydb
        1.8 the column ``e_age_lwt`` is the mass-weighted age less 9, not an error.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the column that is missing or in a wrong unit; or if nothing is left.
    """
    table, label, _ = read_table(source, kind="Pipe3D's HDF5 table SSP", path="SSP", format="hdf5")
    needed = [*COLUMNS.values(), *POSITIONS, *[ZONE] * by_zone, *[LIGHT] * (center is None)]
    missing = [column for column in needed if column not in table.colnames]
    if missing:
        raise ValueError(f"{label}: no column {', '.join(missing)}; is this Pipe3D's table SSP?")
    values = {ours: _in_unit(table, theirs, UNITS[ours], label) for ours, theirs in COLUMNS.items()}
    known = np.isfinite(np.stack(list(values.values()))).all(axis=0)
    possible = (values["log_age_fit"] > LOG_AGE_RANGE[0]) & (values["log_age_fit"] < LOG_AGE_RANGE[1])
    zone = np.asarray(table[ZONE], float) if by_zone else np.arange(len(table)) + 1.0
    in_zone = np.isfinite(zone) & (zone > 0)
    checks = {"no age, metallicity or dust": ~known, "impossible age": ~possible, "no zone": ~in_zone}
    why = np.select(list(checks.values()), range(1, 1 + len(checks)), 0)
    kept = why == 0
    if not kept.any():
        raise ValueError(f"{label}: none of {len(table)} spaxels has an age and a metallicity")
    world = SkyCoord(*(_in_unit(table, column, "deg", label) for column in POSITIONS), unit="deg")
    brightest = None if center is not None else int(np.nanargmax(column_values(table, LIGHT, label)))
    middle = world[brightest] if center is None else SkyCoord(*center, unit="deg")
    east, north = (offset.to_value("arcsec") for offset in middle.spherical_offsets_to(world))
    _, group, count = np.unique(zone[kept], return_inverse=True, return_counts=True)
    sample = xr.Dataset()
    for ours, numbers in ({"x": east, "y": north} | values).items():
        mean = np.bincount(group, weights=numbers[kept]) / count
        sample[ours] = ("spectrum", mean, {"units": UNITS[ours]})
    sample["log_z_fit"].attrs["z_sun"] = Z_SUN
    sample["n_spaxels"] = ("spectrum", count, {"units": ""})
    sample["galaxy_index"] = ("spectrum", np.zeros(count.size, int), {"units": ""})
    galaxy = name or (str(table["Name"][0]) if "Name" in table.colnames else label)
    sample["galaxy_name"] = ("galaxy", [galaxy], {"units": ""})
    lines = [f"read {label}: {kept.sum()} of {len(table)} spaxels" + f" in {count.size} zones" * by_zone]
    counts = zip(checks, (int((why == 1 + k).sum()) for k in range(len(checks))), strict=True)
    lines += [f"left out, {reason}: {n} spaxels" for reason, n in counts if n]
    return sample.assign_attrs(survey="CALIFA", history="\n".join(lines))


def _in_unit(table, column, unit, label):
    """A column in a unit; dex of years is turned into dex of Gyr, and so on."""
    given = table[column].unit
    try:
        return (column_values(table, column, label) * u.Unit("" if given is None else given)).to_value(unit)
    except u.UnitsError as error:  # a plain one where equivalencies are enabled
        raise ValueError(f"{label}: column {column} is in {given or 'no unit'}, not in {unit}") from error
