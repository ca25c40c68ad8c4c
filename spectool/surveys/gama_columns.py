"""What catalogues call bands, errors and properties, and how the columns of a band are found."""

import re

from spectool.surveys.gama import BANDS

GAMA_COLUMNS = {band: f"{band}_flux" for band in BANDS}
"""GAMA's tables (LambdarCat, MagPhys): Jy, -999 where there are no data; errors are ``FUV_fluxerr`` ..."""
GAMA_LABELS = {
    "log_mass": "mass_stellar_percentile50",
    "log_sfr": "SFR_0_1Gyr_percentile50",
    "log_dust_luminosity": "L_dust_percentile50",
}
"""MAGPHYS's medians, those that the paper learns."""
DUSTPEDIA_COLUMNS = {
    "FUV": "GALEX_FUV",
    "NUV": "GALEX_NUV",
    **{band: f"SDSS_{band}" for band in "ugriz"},
    "J": "2MASS_J",
    "H": "2MASS_H",
    "K": "2MASS_Ks",
    "W1": "WISE_3.4",
    "W2": "WISE_4.6",
    "W3": "WISE_12",
    "W4": "WISE_22",
    "P100": "PACS_100",
    "P160": "PACS_160",
    "S250": "SPIRE_250",
    "S350": "SPIRE_350",
    "S500": "SPIRE_500",
}
"""DustPedia's tables (Clark et al. 2018), in Jy: 19 of GAMA's bands, the near-infrared ones 2MASS's for VISTA's."""
DUSTPEDIA_LABELS = {
    "log_mass": "Mstar__Msol",
    "log_sfr": "SFR__Msol_per_yr",
    "log_dust_luminosity": "Ldust__Lsol",
}
"""CIGALE's, Nersesian et al. (2019); for the initial mass function of Salpeter (1955)."""
SALPETER_TO_KROUPA = {"log_mass": -0.18, "log_sfr": -0.17, "log_dust_luminosity": 0.0}
"""To be added to logarithms [dex] for the initial mass function of our stars: factors of 0.66 for masses and 0.67 for
rates (Madau & Dickinson 2014, ARA&A 52, 415, Section 3.1); Chabrier's differs from Kroupa's by 0.03 dex."""
LABEL_UNITS = {
    "log_mass": "dex(Msun)",
    "log_sfr": "dex(Msun / yr)",
    "log_dust_luminosity": "dex(solLum)",
}

_ERROR_PATTERNS = ("{}_err", "{}_error", "{}err", "{}_sigma", "e_{}", "err_{}", "sigma_{}", "{}_unc")
_FLUX_PATTERNS = ("{}_flux", "flux_{}", "f_{}", "F{}")


def find_columns(names, columns=None):
    """The column of each band.

    Parameters
    ----------
    names : list of str
        Of a table's columns.
    columns : dict of str to str, optional
        Band -> column. Default: those of GAMA's or DustPedia's tables, the bands' names with "flux", or alone if there
        is a column of their errors too.

    Returns
    -------
    dict of str to list of str
        Band -> columns that may be meant; more than one where a table holds a band twice.

    Raises
    ------
    ValueError
        If a column asked for is not there, or no band is found at all.
    """
    if columns is not None:
        absent = [column for column in columns.values() if column not in names]
        if absent:
            raise ValueError(f"no columns {', '.join(absent)}; there are {', '.join(names[:40])}")
        return {band: _copies(column, names) for band, column in columns.items()}
    found = {}
    for band in BANDS:
        wanted = [
            GAMA_COLUMNS[band],
            DUSTPEDIA_COLUMNS.get(band, ""),
            *(p.format(band) for p in _FLUX_PATTERNS),
        ]
        if find_error(band, names):  # a bare "z" may be a redshift, "X" and "Y" places on a chip
            wanted.append(band)
        hits = [
            copy for column in dict.fromkeys(wanted) if column in names for copy in _copies(column, names)
        ]
        if hits:
            found[band] = hits
    if not found:
        raise ValueError(
            f"no band of GAMA among the columns {', '.join(names[:40])}: say which are which by "
            'columns={"FUV": ..., "r": ...}'
        )
    return found


def find_error(column, names, given=None):
    """The column of a flux column's errors, or None."""
    if given is not None:
        if given not in names:
            raise ValueError(f"no column {given!r} of errors; there are {', '.join(names[:40])}")
        return given
    wanted = [pattern.format(column) for pattern in _ERROR_PATTERNS]
    return next((name for name in wanted if name in names), None)


def _copies(column, names):
    """A column, and its namesakes: readers of text call a second ``r`` ``r.1``, those of other formats ``r_1``."""
    pattern = re.compile(re.escape(column) + r"(\.\d+|_\d{1,2})")
    return [column, *(name for name in names if pattern.fullmatch(name))]
