"""The catalogue of MPA-JHU: measurements of real SDSS galaxies, by SQL.

MPA-JHU (Brinchmann et al. 2004; Kauffmann et al. 2003; Tremonti et al. 2004) measured the spectra of SDSS DR7; SDSS
distributes its tables since DR8 as galSpecLine, galSpecInfo, galSpecExtra and galSpecIndx. Line fluxes there are
corrected for the Milky Way's dust, not for the galaxy's own, and scaled to the r-band fibre magnitude.
"""

import hashlib
from itertools import pairwise

import numpy as np
import xarray as xr
from astropy.table import Table
from tqdm.auto import tqdm

from spectool.surveys.sdss_archive import DATA_RELEASE, cache_folder
from spectool.wavelength import LINES

SKYSERVER_URL = "https://skyserver.sdss.org"
REDSHIFT_RANGE = (0.024, 0.05)
H_ALPHA_EDGES = tuple(10 ** np.linspace(0.2, 3.4, 11))
"""Ten bins of H-alpha flux [1e-17 erg/s/cm2] of Scourfield et al. (2023, Section 2)."""

# The tables hold -9999 where there is nothing, in some columns -1: what is not above these is no value.
NO_VALUE, NO_POSITIVE = -99.0, 0.0

CATALOGUE_LINES = {
    "[O II] 3726": "oii_3726",
    "[O II] 3729": "oii_3729",
    "Hδ": "h_delta",
    "Hγ": "h_gamma",
    "[O III] 4363": "oiii_4363",
    "Hβ": "h_beta",
    "[O III] 4959": "oiii_4959",
    "[O III] 5007": "oiii_5007",
    "[O I]": "oi_6300",
    "[N II] 6548": "nii_6548",
    "Hα": "h_alpha",
    "[N II] 6583": "nii_6584",
    "[S II] 6716": "sii_6717",
    "[S II] 6731": "sii_6731",
}
"""Our names of lines, and those of galSpecLine."""

# Our name of a column, SQL, unit.
_COLUMNS = (
    ("specobjid", "s.specObjID", ""),
    ("plate", "s.plate", ""),
    ("mjd", "s.mjd", "d"),
    ("fiberid", "s.fiberID", ""),
    ("run2d", "s.run2d", ""),
    ("ra", "s.ra", "deg"),
    ("dec", "s.dec", "deg"),
    ("redshift", "s.z", ""),
    ("sn_median", "s.snMedian", ""),
    ("sdss_class", "s.class", ""),
    ("subclass", "i.subclass", ""),
    ("ebv", "i.e_bv_sfd", "mag"),
    ("velocity_dispersion", "i.v_disp", "km / s"),
    ("bptclass", "e.bptclass", ""),
    ("log_mass", "e.lgm_tot_p50", "dex(Msun)"),
    ("log_mass_p16", "e.lgm_tot_p16", "dex(Msun)"),
    ("log_mass_p84", "e.lgm_tot_p84", "dex(Msun)"),
    ("log_sfr", "e.sfr_tot_p50", "dex(Msun / yr)"),
    ("log_sfr_p16", "e.sfr_tot_p16", "dex(Msun / yr)"),
    ("log_sfr_p84", "e.sfr_tot_p84", "dex(Msun / yr)"),
    ("oxygen_mpa_jhu", "e.oh_p50", "dex"),
    ("lick_hd_a", "x.lick_hd_a_sub", "Angstrom"),
    ("lick_hd_a_error", "x.lick_hd_a_sub_err", "Angstrom"),
    ("d4000_n", "x.d4000_n_sub", ""),
)
_TEXT = ("run2d", "sdss_class", "subclass")
_INTEGER = ("specobjid", "plate", "mjd", "fiberid", "bptclass")
_POSITIVE = (
    "redshift",
    "log_mass",
    "log_mass_p16",
    "log_mass_p84",
    "oxygen_mpa_jhu",
    "velocity_dispersion",
    "d4000_n",
)


def catalogue_sql(low, high, n, *, redshift_range=REDSHIFT_RANGE, star_forming=False, seed=0):
    """The query of one bin of H-alpha flux, as SkyServer takes it: short, because it travels in the address.

    Parameters
    ----------
    low, high : float
        Flux of H-alpha [1e-17 erg/s/cm2].
    n : int
        Galaxies wanted.
    redshift_range : (float, float)
    star_forming : bool
        Only MPA-JHU's subclass STARFORMING.
    seed : int
        Chooses which, by an order of plates and fibres that knows nothing of galaxies.

    Returns
    -------
    str
    """
    a, b = np.random.default_rng(seed).integers(100_000, 1_000_000, 2)
    wanted = [sql for _, sql, _ in _COLUMNS]
    wanted += [f"l.{line}_flux{end}" for line in CATALOGUE_LINES.values() for end in ("", "_err")]
    tables = " ".join(
        f"JOIN {table} {short} ON {short}.specObjID=s.specObjID"
        for table, short in (
            ("galSpecLine", "l"),
            ("galSpecInfo", "i"),
            ("galSpecExtra", "e"),
            ("galSpecIndx", "x"),
        )
    )
    return (
        f"SELECT TOP {int(n)} {','.join(wanted)} FROM SpecObj s {tables} "
        f"WHERE s.z>{redshift_range[0]:g} AND s.z<{redshift_range[1]:g} AND s.zWarning=0 AND i.reliable=1 "
        f"AND l.h_alpha_flux>={low:.6g} AND l.h_alpha_flux<{high:.6g} "
        + ("AND i.subclass='STARFORMING' " if star_forming else "")
        + f"ORDER BY (CAST(s.plate AS bigint)*{a}+CAST(s.fiberID AS bigint)*{b})%1000003,s.specObjID"
    )


def query_catalogue(
    n_per_bin,
    *,
    h_alpha_edges=H_ALPHA_EDGES,
    redshift_range=REDSHIFT_RANGE,
    star_forming=False,
    seed=0,
    cache=None,
    skyserver_url=SKYSERVER_URL,
    data_release=DATA_RELEASE,
    timeout=300.0,
    progress=True,
):
    """Galaxies of MPA-JHU in bins of H-alpha flux, through ``astroquery``; kept on disk bin by bin.

    Parameters
    ----------
    n_per_bin : int
        Bins that hold fewer galaxies give all they have.
    h_alpha_edges : sequence of float
        [1e-17 erg/s/cm2], increasing.
    redshift_range, star_forming, seed
        See `catalogue_sql`.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``.
    skyserver_url : str
    data_release : int
    timeout : float
        Seconds for a bin.
    progress : bool

    Returns
    -------
    Dataset, dims (galaxy, line)
        A line table: ``line_flux``, ``line_flux_error`` [1e-17 erg/s/cm2], ``line_sn``; ``h_alpha_flux``,
        ``h_alpha_bin``, ``redshift``, ``log_mass`` and ``log_sfr`` (medians, with 16th and 84th percentiles),
        ``oxygen_mpa_jhu``, ``ebv`` (Milky Way), ``plate``, ``mjd``, ``fiberid``, ... NaN where MPA-JHU has no value.
        Errors of fluxes are formal, as in the table.

    Raises
    ------
    ConnectionError
        If SkyServer cannot be reached or does not answer with a table.
    ValueError
        If no galaxy is found at all.
    """
    edges = np.asarray(h_alpha_edges, float)
    folder = cache_folder(cache) / "mpa_jhu"
    header, rows, counts = [], [], []
    bins = pairwise(edges)
    for low, high in tqdm(
        bins, total=edges.size - 1, desc="MPA-JHU catalogue", unit="bin", disable=not progress
    ):
        sql = catalogue_sql(
            low, high, n_per_bin, redshift_range=redshift_range, star_forming=star_forming, seed=seed
        )
        key = hashlib.sha256(f"{skyserver_url} {data_release} {sql}".encode()).hexdigest()[:16]
        path = folder / f"bin_{key}.csv"
        if path.exists():
            lines = path.read_text().splitlines()
        else:
            lines = _ask(sql, skyserver_url, data_release, timeout)
            _write(lines, path)
        header, rows = lines[:1], rows + lines[1:]
        counts.append(len(lines) - 1)
    if not rows:
        raise ValueError(
            f"no galaxy of MPA-JHU has a redshift of {redshift_range[0]:g}-{redshift_range[1]:g} and an H-alpha flux "
            f"of {edges[0]:.3g}-{edges[-1]:.3g}e-17 erg/s/cm2: widen the ranges"
        )
    table = _tidy(Table.read(header + rows, format="ascii.csv"))
    return _to_dataset(table, edges, counts, n_per_bin, data_release)


def _names():
    names = [name for name, _, _ in _COLUMNS]
    return names + [f"{line}_flux{end}" for line in CATALOGUE_LINES.values() for end in ("", "_err")]


def _ask(sql, url, data_release, timeout):
    """One query's answer as lines of CSV: a header of our columns, and a row for each galaxy."""
    from astroquery.exceptions import TimeoutError as AstroqueryTimeout
    from astroquery.sdss import SDSS, conf

    try:
        with conf.set_temp("skyserver_baseurl", url.rstrip("/")):
            answer = SDSS.query_sql_async(sql, data_release=data_release, timeout=timeout, cache=False)
    except (OSError, AstroqueryTimeout) as error:
        raise ConnectionError(
            f"{url} could not be reached ({error}): the catalogue of MPA-JHU needs a network the first time"
        ) from error
    if not answer.ok:
        raise ConnectionError(f"{url}: the server answered {answer.status_code} {answer.reason}")
    lines = [line for line in answer.text.splitlines() if line.strip() and not line.startswith("#")]
    ours = ",".join(_names())
    if len(lines) == 1 and lines[0].strip('"').startswith("No objects have been found"):
        return [ours]
    theirs = [name.split(".")[1].lower() for _, name, _ in _COLUMNS] + _names()[len(_COLUMNS) :]
    if (
        not lines
        or [name.strip(' "').lower() for name in lines[0].split(",")] != theirs
        or any(line.count(",") != ours.count(",") for line in lines)
    ):
        raise ConnectionError(
            f"{url} did not answer with the table asked for, but with {answer.text[:200]!r}"
        )
    return [ours, *lines[1:]]


def _tidy(table):
    """The table with the types that we need: an answer's own depend on which cells happen to be empty."""
    for name in table.colnames:
        column = np.ma.asarray(table[name])
        if name in _TEXT:
            table[name] = np.char.strip(np.ma.filled(column.astype(str), ""))
        elif name in _INTEGER:
            table[name] = np.ma.filled(column, -1).astype(np.int64)
        else:
            values = np.ma.filled(column.astype(float), np.nan)
            table[name] = np.where(values > (NO_POSITIVE if name in _POSITIVE else NO_VALUE), values, np.nan)
    return table


def _write(lines, path):
    """Write whole or not at all: an interrupt leaves no half table behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines))
    part.replace(path)


def _to_dataset(table, edges, counts, n_per_bin, data_release):
    columns = {name: ("galaxy", np.asarray(table[name]), {"units": unit}) for name, _, unit in _COLUMNS}
    flux, error = (
        np.stack([table[f"{line}_flux{end}"] for line in CATALOGUE_LINES.values()], axis=1)
        for end in ("", "_err")
    )
    bad = ~(error > 0)  # MPA-JHU marks lines that it did not fit by errors of -1 or 0
    flux, error = np.where(bad, np.nan, flux), np.where(bad, np.nan, error)
    dims, unit = ("galaxy", "line"), {"units": "1e-17 erg / (s cm2)"}
    columns |= {"line_flux": (dims, flux, unit), "line_flux_error": (dims, error, unit)}
    columns["line_sn"] = (dims, flux / error, {"units": ""})
    columns["h_alpha_flux"] = ("galaxy", np.asarray(table["h_alpha_flux"]), unit)
    columns["h_alpha_bin"] = ("galaxy", np.repeat(np.arange(len(counts)), counts), {"units": ""})
    wavelength = [LINES[name] for name in CATALOGUE_LINES]
    coords = {
        "line": list(CATALOGUE_LINES),
        "line_wavelength": ("line", wavelength, {"units": "Angstrom", "description": "vacuum, rest frame"}),
    }
    short = [f"{i} ({count})" for i, count in enumerate(counts) if count < n_per_bin]
    text = f"{len(table)} galaxies of MPA-JHU (SDSS DR{data_release}), {n_per_bin} per bin of H-alpha flux"
    text += f"; bins with fewer: {', '.join(short)}" if short else ""
    attrs = {"survey": "SDSS", "history": text, "h_alpha_edges": edges}
    return xr.Dataset(columns, coords=coords, attrs=attrs)
