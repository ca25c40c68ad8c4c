"""Read photometry of real galaxies: GAMA's tables, DustPedia's, or any with named bands and units."""

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io.registry import IORegistryError
from astropy.table import Table
from pandas import read_csv

from spectool.surveys.gama import BANDS
from spectool.surveys.gama_columns import LABEL_UNITS, find_columns, find_error
from spectool.surveys.gama_photometry import luminosity_distance
from spectool.surveys.gama_values import (
    PROBLEMS,
    SENTINELS,
    mark_flagged,
    mark_magnitudes,
    read_band,
    to_numbers,
)
from spectool.surveys.sdss_files import SurveyWarning

REDSHIFT_NAMES = ("redshift", "Z", "Z_TONRY", "zspec", "z_spec", "zcmb")
OPTICAL = {"r": 6175.0, "i": 7491.0, "g": 4702.0, "z": 8946.0, "J": 12528.0, "K": 21503.0}
"""Pivot wavelengths [Angstrom] of bands that tell whether a galaxy's luminosity is possible, the first known counts."""
LUMINOSITY_RANGE = (4.0, 12.3)
"""log nu L_nu [Lsun] of galaxies in these bands; the brightest of clusters have 12."""


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
    columns : dict of str to str, optional
        Band -> column. Default: recognised by name (`find_columns`). Bands of GAMA that the table lacks are masked.
    errors : dict of str to str, optional
        Band -> column of 1-sigma errors in the fluxes' unit. Default: by name (``r_err``, ``r_fluxerr``, ``e_r``, ...).
    flags : dict of str to str, optional
        Band -> column of flags. Default: the flux column's name with ``_flag``, where ``bad_flags`` are given.
    bad_flags : str
        Letters; a flux whose flag holds one of them is masked. DustPedia's: "A", "C", "N" (artefacts, contamination,
        not covered; the small letters are minor).
    units : str or dict of str to str, optional
        Of the fluxes, as astropy reads them ("Jy", "mJy", "mag(AB)", "3.631e-6 Jy"); wins over the table's own units.
        Needed where it has none: what a column is in is never guessed.
    redshift, distance : str or array_like, optional
        Column or values; distance in Mpc. Default: a column named like `REDSHIFT_NAMES`.
    labels : dict of str to str, optional
        Our name -> column with a linear quantity (Msun, Msun/yr, Lsun), such as `gama_columns.GAMA_LABELS`; names that
        begin with ``log_`` are its logarithm, NaN where it is not positive.
    label_suffix : str
        Put after our names, to keep another code's answer apart from truth: "_cigale".
    sentinels : tuple of float
        Values of fluxes or errors, in the table's unit, that mean "no data".
    relative_error : float, optional
        Error as a share of the flux, for tables without columns of errors.
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
    FileNotFoundError
    ValueError
        Naming the file and column: no band found, no unit, no errors, a band twice with different values (equal ones
        are taken once, and this is told), or most galaxies' fluxes being magnitudes.
    """
    table, name = _read_table(source, name)
    names = list(table.colnames)
    try:
        candidates = find_columns(names, columns)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    bands = list(BANDS) if set(candidates) <= set(BANDS) else list(candidates)
    shape, history = (len(table), len(bands)), [f"read {name}: {len(table)} galaxies"]
    flux, error = np.full(shape, np.nan), np.full(shape, np.nan)
    why = np.ones(shape, int)  # 0: fine, else 1 + index of PROBLEMS
    for i, band in enumerate(bands):
        if band in candidates:
            column = _only(table, candidates[band], band, name, history)
            error_column = find_error(column, names, (errors or {}).get(band))
            unit = units.get(band) if isinstance(units, dict) else units
            flux[:, i], error[:, i], why[:, i] = read_band(
                table,
                column,
                error_column,
                unit,
                sentinels=sentinels,
                relative_error=relative_error,
                name=name,
            )
            mark_flagged(why[:, i], table, (flags or {}).get(band, f"{column}_flag"), bad_flags)
    mark_magnitudes(flux, why, bands, name)
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
    history += _report(sample)
    return sample.assign_attrs(history="\n".join(history))


def move_to_redshift(sample, redshift):
    """Galaxies of known distance as they would appear at one redshift, their bands seeing the same rest wavelengths.

    Fluxes and errors are multiplied by (1 + z) (D / d_L(z))^2. For near galaxies, where the shift of the bands
    (5% in wavelength for z = 0.05) is neglected.

    Parameters
    ----------
    sample : xarray.Dataset
        ``flux``, ``flux_error`` and ``distance`` [Mpc].
    redshift : float

    Returns
    -------
    xarray.Dataset
        With ``redshift`` set; ``distance`` stays as it was.
    """
    if "distance" not in sample:
        raise ValueError("the sample has no distances: read it with distance=...")
    scale = (1 + redshift) * (sample["distance"] / float(luminosity_distance(redshift))) ** 2
    moved = {
        name: (sample[name] * scale).astype("f4").assign_attrs(sample[name].attrs)
        for name in ("flux", "flux_error")
    }
    z = xr.DataArray(np.full(sample.sizes["galaxy"], float(redshift)), dims="galaxy", attrs={"units": ""})
    text = f"{sample.attrs.get('history', '')}\nmoved to z = {redshift:g} by distance".strip()
    return sample.assign(**moved, redshift=z).assign_attrs(history=text)


def _read_table(source, name):
    if isinstance(source, Table):
        return source, name or "table"
    if hasattr(source, "iloc"):  # a DataFrame
        return Table.from_pandas(source.reset_index(drop=True)), name or "table"
    path = Path(source).expanduser()
    name = name or path.name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".csv":
            return Table.from_pandas(read_csv(path, comment="#")), name
        return Table.read(path), name
    except (OSError, ValueError, TypeError, KeyError, IndexError, IORegistryError) as error:
        raise ValueError(f"{name}: cannot be read as a table (FITS, VOTable, ECSV, CSV): {error}") from error


def _only(table, found, band, name, history):
    """The one column of a band, or an error if there are several that differ."""
    first, *others = found
    for other in others:
        if not np.array_equal(to_numbers(table, first, name), to_numbers(table, other, name), equal_nan=True):
            raise ValueError(
                f"{name}: columns {', '.join(found)} all look like band {band!r}, and differ: choose by "
                f"columns={{{band!r}: ...}}, or rename one"
            )
        history.append(f"band {band} is there twice: column {other} equals {first} and was left out")
    return first


def _add_distances(sample, table, redshift, distance, name):
    if redshift is None:
        redshift = next((column for column in REDSHIFT_NAMES if column in table.colnames), None)
    for ours, given, unit in (("redshift", redshift, ""), ("distance", distance, "Mpc")):
        if given is None:
            continue
        if isinstance(given, str) and given not in table.colnames:
            raise ValueError(f"{name}: no column {given!r} of {ours}")
        values = to_numbers(table, given, name) if isinstance(given, str) else np.asarray(given, float)
        if values.shape != (len(table),):
            raise ValueError(f"{name}: {ours} has shape {values.shape} for {len(table)} galaxies")
        lowest = -0.01 if ours == "redshift" else 0.0  # near galaxies may approach us
        values = np.where(values > lowest, values, np.nan)
        sample[ours] = ("galaxy", values, {"units": unit})


def _label(table, ours, theirs, name):
    if theirs not in table.colnames:
        raise ValueError(f"{name}: no column {theirs!r} for {ours}")
    values = to_numbers(table, theirs, name)
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
            power = (
                flux
                * area
                * (1 * u.Jy * (wavelength * u.AA).to(u.Hz, u.spectral())).to_value(u.Lsun / u.m**2)
            )
            known = np.isnan(log_luminosity) & (power > 0)
            log_luminosity[known] = np.log10(power[known])
    low, high = LUMINOSITY_RANGE
    implausible = (log_luminosity < low) | (log_luminosity > high)
    sample["implausible_luminosity"] = ("galaxy", implausible, {"units": ""})


def _report(sample):
    """The counts in words."""
    bands = sample["band"].values
    told = []
    for problem in PROBLEMS:
        counts = sample["photometry_problems"].sel(problem=problem).values
        if counts.any():
            most = ", ".join(f"{bands[i]} {counts[i]}" for i in np.argsort(-counts)[:5] if counts[i])
            told.append(f"masked, {problem}: {counts.sum()} fluxes (most: {most})")
    negative = int(sample["n_negative"].sum())
    if negative:
        told.append(f"kept: {negative} negative fluxes with errors")
    if "redshift" in sample and np.isnan(sample["redshift"].values).any():
        told.append(f"{int(np.isnan(sample['redshift'].values).sum())} galaxies have no redshift")
    n = int(sample["implausible_luminosity"].sum())
    if n:
        text = f"{n} of {sample.sizes['galaxy']} galaxies have an impossible luminosity: wrong units or distances?"
        told.append(text)
        if n > 0.5 * sample.sizes["galaxy"]:
            warnings.warn(text, SurveyWarning, stacklevel=3)
    return told
