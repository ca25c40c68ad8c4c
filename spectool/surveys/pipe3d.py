"""Read tables of Pipe3D: what it measured in each spaxel of a CALIFA galaxy, as the ``edge-pydb`` package has them."""

from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table

Z_SUN = 0.02
"""Of Pipe3D's metallicities: what their tables of light by metallicity, averaged in log Z, agree with."""

LOG_AGE_RANGE = (-4.0, 1.2)
"""dex(Gyr); what is outside is no age of stars."""

COLUMNS = {"log_age_fit": "age_lwt", "log_z_fit": "ZH_lwt", "a_v": "Av_ssp"}
UNITS = {"log_age_fit": "dex(Gyr)", "log_z_fit": "dex", "a_v": "mag"}
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
        One row for each of the zones (``cont_segm``) that Pipe3D binned its spaxels into, at their mean position: all
        spaxels of a zone have the same values, and counting them one by one would understate errors. Otherwise one
        row for each spaxel.
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
    FileNotFoundError
    ValueError
        Naming the file and the column that is missing or in a wrong unit; or if nothing is left.
    """
    table, label = _read_table(source)
    needed = [*COLUMNS.values(), *POSITIONS, *[ZONE] * by_zone, *[LIGHT] * (center is None)]
    missing = [column for column in needed if column not in table.colnames]
    if missing:
        raise ValueError(f"{label}: no column {', '.join(missing)}; is this Pipe3D's table SSP?")
    values = {ours: _in_unit(table, theirs, UNITS[ours], label) for ours, theirs in COLUMNS.items()}
    finite = np.isfinite(np.stack(list(values.values()))).all(axis=0)
    possible = (values["log_age_fit"] > LOG_AGE_RANGE[0]) & (values["log_age_fit"] < LOG_AGE_RANGE[1])
    zone = np.asarray(table[ZONE], float) if by_zone else np.arange(len(table)) + 1.0
    binned = np.isfinite(zone) & (zone > 0)
    kept = finite & possible & binned
    if not kept.any():
        raise ValueError(f"{label}: none of {len(table)} spaxels has an age and a metallicity")
    world = SkyCoord(*(_in_unit(table, column, "deg", label) for column in POSITIONS), unit="deg")
    middle = SkyCoord(*center, unit="deg") if center is not None else world[_brightest(table)]
    east, north = (offset.to_value("arcsec") for offset in middle.spherical_offsets_to(world))
    _, group, count = np.unique(zone[kept], return_inverse=True, return_counts=True)
    columns = {"x": (east, "arcsec"), "y": (north, "arcsec")}
    columns |= {ours: (numbers, UNITS[ours]) for ours, numbers in values.items()}
    sample = xr.Dataset(
        {
            ours: ("spectrum", np.bincount(group, weights=numbers[kept]) / count, {"units": unit})
            for ours, (numbers, unit) in columns.items()
        }
    )
    sample["log_z_fit"].attrs["z_sun"] = Z_SUN
    sample["n_spaxels"] = ("spectrum", count, {"units": ""})
    sample["galaxy_index"] = ("spectrum", np.zeros(count.size, int), {"units": ""})
    galaxy = name or (str(table["Name"][0]) if "Name" in table.colnames else label)
    sample["galaxy_name"] = ("galaxy", [galaxy], {"units": ""})
    text = f"read {label}: {kept.sum()} of {len(table)} spaxels" + f" in {count.size} zones" * by_zone
    counted = {
        "no age, metallicity or dust": ~finite,
        "impossible age": finite & ~possible,
        "no zone": finite & possible & ~binned,
    }
    told = [f"left out, {why}: {rows.sum()} spaxels" for why, rows in counted.items() if rows.any()]
    return sample.assign_attrs(survey="CALIFA", history="\n".join([text, *told]))


def _read_table(source):
    if isinstance(source, Table):
        return source, str(source.meta.get("name", "table"))
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return Table.read(path, path="SSP", format="hdf5"), path.name
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name}: holds no readable HDF5 table SSP of Pipe3D: {error}") from error


def _in_unit(table, column, unit, label):
    """A column in a unit; dex of years is turned into dex of Gyr, and so on."""
    values = np.ma.filled(np.ma.asarray(table[column].data, dtype=float), np.nan)
    given = table[column].unit
    try:
        return (values * u.Unit("" if given is None else given)).to_value(unit)
    except u.UnitsError as error:  # a plain one where equivalencies are enabled
        raise ValueError(f"{label}: column {column} is in {given or 'no unit'}, not in {unit}") from error


def _brightest(table):
    return int(np.nanargmax(np.ma.filled(np.ma.asarray(table[LIGHT].data, dtype=float), np.nan)))
