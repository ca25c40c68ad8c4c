"""Spectra and tables from public archives, asked once, checked and cached: its own file, the one on the network."""

import hashlib
import io
import logging
import warnings
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pooch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import atomic
from spectool.spectra import LINES
from spectool.surveys import SurveyWarning
from spectool.surveys.sdss import open_fits, parse_sdss, read_sdss

VIZIER = "vizier.cds.unistra.fr"
SKYSERVER_URL = "https://skyserver.sdss.org"
SAS_URL = "https://data.sdss.org/sas"
DATA_RELEASE = 17
RECORD = "sha256.txt"
"""File in each folder of the cache that holds the checksums of the others, as they were first downloaded."""


def query_vizier(
    catalogue, *, columns=("*",), n_rows=-1, checksum=None, cache=None, server=VIZIER, timeout=300.0
):
    """A table of VizieR, ready for `spectool.surveys.tables.read_photometry`.

    Parameters
    ----------
    catalogue : str
        Name of one table, such as "J/MNRAS/452/2087/gama".
    columns, n_rows
        "*" for VizieR's default columns, "**" for all; the first rows, -1 for all.
    checksum : str, optional
        sha256 that the answer must have, in the place of the one recorded at the first download.
    cache, server, timeout
        A folder (default: the user's cache, as told by ``pooch``), a mirror's name, seconds.

    Returns
    -------
    astropy Table
        With units and masked cells as in VizieR.

    Raises
    ------
    ConnectionError, ValueError
        If VizieR cannot be reached and the cache does not hold the table; if it has no such table or several, or the
        file is not the one that was recorded.
    """
    key = hashlib.sha256(f"{catalogue} {','.join(columns)} {n_rows}".encode()).hexdigest()[:16]

    def ask():
        from astroquery import cache_conf
        from astroquery.vizier import Vizier

        client = Vizier(columns=list(columns), row_limit=n_rows, timeout=timeout, vizier_server=server)
        # astroquery's own cache would keep a page "down for maintenance" for a week.
        with _reaching(f"VizieR ({server})", catalogue), cache_conf.set_temp("cache_active", False):
            answer = client.get_catalogs_async(catalogue)
            answer.raise_for_status()
        _parse_votable(answer.content, catalogue)
        return answer.content

    path = cache_folder(cache, "vizier") / f"{key}.vot"
    return _parse_votable(_once(path, ask, f"the table of {catalogue}", checksum), catalogue)


@contextmanager
def _reaching(archive, what):
    """Say in our words that an archive could not be reached."""
    from astroquery.exceptions import TimeoutError as AstroqueryTimeout

    try:
        yield
    except (OSError, AstroqueryTimeout) as error:
        text = f"{archive} could not be reached ({error}): {what} needs a network the first time"
        raise ConnectionError(text) from error


def _parse_votable(content, catalogue):
    """The one table of an answer."""
    from astropy.io.votable import parse
    from astropy.io.votable.exceptions import VOTableSpecError

    try:
        tables = [table for table in parse(io.BytesIO(content)).iter_tables() if len(table.array)]
    except (VOTableSpecError, ValueError, IndexError) as error:
        raise ConnectionError(f"VizieR did not answer with a table, but with {content[:120]!r}") from error
    if not tables:
        raise ValueError(f"VizieR has no table {catalogue!r}, or an empty one: look its name up")
    if len(tables) > 1:
        names = ", ".join(str(table.name) for table in tables)
        raise ValueError(f"{catalogue!r} holds several tables, name one of {names}")
    return tables[0].to_table(use_names_over_ids=True)


def cache_folder(cache=None, archive="sdss"):
    """Folder where an archive's answers are kept, by default in the user's cache."""
    return Path(pooch.os_cache("spectool") if cache is None else cache) / archive


def _once(path, ask, what, checksum=None):
    """An answer's bytes: asked for at first, written whole or not at all, and the same ever after."""
    if not path.exists():
        content = ask()
        with atomic(path) as part:
            part.write_bytes(content)
        _record(path)
    known, digest = checksum or _recorded(path.parent).get(path.name), pooch.file_hash(str(path))
    if known and digest != known:
        how, digests = "asked for" if checksum else "first fetched", f"{digest[:12]}..., not {known[:12]}..."
        text = f"{path}: is not {what} that was {how} (sha256 {digests}): remove the file to fetch it again"
        raise ValueError(text)
    return path.read_bytes()


def _record(path):
    """Note a file's checksum for later calls."""
    with (path.parent / RECORD).open("a") as record:
        record.write(f"{path.name} {pooch.file_hash(str(path))}\n")


def _recorded(folder):
    """File name -> sha256; lines that an interrupt cut short are skipped."""
    record = folder / RECORD
    lines = record.read_text().splitlines() if record.exists() else []
    pairs = (line.split() for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and len(pair[1]) == 64}


def spectrum_name(plate, mjd, fiberid):
    """Name of a spectrum's file: ``spec-0266-51602-0001.fits``."""
    return f"spec-{int(plate):04d}-{int(mjd)}-{int(fiberid):04d}.fits"


def spectrum_url(plate, mjd, fiberid, *, run2d="26", data_release=DATA_RELEASE, base_url=SAS_URL):
    """Address of a spectrum of SDSS-I/II ("lite": coadded spectrum, fit and redshift)."""
    folder = f"{base_url.rstrip('/')}/dr{data_release}/sdss/spectro/redux/{run2d}/spectra/lite"
    return f"{folder}/{int(plate):04d}/{spectrum_name(plate, mjd, fiberid)}"


def fetch_spectra(
    plate,
    mjd,
    fiberid,
    *,
    run2d="26",
    cache=None,
    checksums=None,
    base_url=SAS_URL,
    data_release=DATA_RELEASE,
    n_connections=4,
    retries=2,
    timeout=60.0,
    progress=True,
):
    """Paths of spectra (None: no such), row -> why not, and how many were downloaded; an interrupted call goes on."""
    names = [spectrum_name(*key) for key in zip(plate, mjd, fiberid, strict=True)]
    runs = np.broadcast_to(run2d, len(names)).astype(str)
    urls = {
        name: spectrum_url(*key, run2d=run, data_release=data_release, base_url=base_url)
        for name, run, *key in zip(names, runs, plate, mjd, fiberid, strict=True)
    }
    folder = cache_folder(cache) / f"dr{data_release}"
    recorded, checksums = _recorded(folder), checksums or {}
    known = {name: checksums.get(name, recorded.get(name)) for name in urls}
    archive = pooch.Pooch(folder, base_url, registry=known, urls=urls, retry_if_failed=retries)
    transfer = pooch.HTTPDownloader(timeout=timeout, chunk_size=65536)
    asked = set()
    offline = []  # why, once the archive is found to be: the other files then need not wait for it

    def download(url, output, client):
        asked.add(url)
        transfer(url, output, client)

    def fetch(name):
        """A file's name, and why it cannot be had."""
        if offline:
            return name, ""
        try:
            archive.fetch(name, downloader=download)
        except ValueError:  # the checksum
            if name in checksums:
                return name, "its sha256 is not the one asked for"
            reason = "its sha256 is not the one recorded at the first download"
            return name, f"{reason}; if SDSS changed it, remove it from {RECORD}"
        except OSError as error:  # all errors of requests are
            reason = _broken(error)
            if not reason:
                offline.append(str(error)[:200])
            return name, reason
        is_new = urls[name] in asked or not known[name]
        return name, _check_spectrum(folder / name) if is_new else ""

    failed = {}
    logger = pooch.get_logger()  # a line for each of thousands of files
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        pool = joblib.Parallel(n_jobs=n_connections, backend="threading", return_as="generator_unordered")
        work = pool(joblib.delayed(fetch)(name) for name in urls)
        bar = {"desc": "SDSS spectra", "unit": "file", "disable": not progress}
        for name, reason in tqdm(work, total=len(urls), **bar):
            if reason:
                failed[name] = reason
            elif name not in recorded and not offline:
                _record(folder / name)
    finally:
        logger.setLevel(level)
    if offline:
        kept = sum((folder / name).exists() for name in urls)
        there = f"{kept} of {len(urls)} spectra are in {folder}"
        advice = "run it again with a network, and only the others will be fetched"
        raise ConnectionError(f"{base_url} could not be reached ({offline[0]}). {there}; {advice}")
    failures = {row: failed[name] for row, name in enumerate(names) if name in failed}
    n_downloaded = sum(urls[name] in asked and name not in failed for name in urls)
    return [None if name in failed else folder / name for name in names], failures, n_downloaded


def _check_spectrum(path):
    """Why a file does not read as a spectrum ("" if it does); such a one is removed."""
    try:
        parse_sdss(open_fits(path, path.name), path.name)
    except ValueError as error:
        path.unlink(missing_ok=True)
        return str(error).removeprefix(f"{path.name}: ")
    return ""


def _broken(error):
    """What went wrong with a download that began; "" if it never did."""
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError

    response = getattr(error, "response", None)
    if response is None:
        broke_off = isinstance(error, ChunkedEncodingError | ContentDecodingError)
        return "truncated download" if broke_off else ""
    if response.status_code == 404:
        return "not in the archive (404)"
    return f"the server answered {response.status_code} {response.reason}"


REDSHIFT_RANGE = (0.024, 0.05)
H_ALPHA_EDGES = tuple(10 ** np.linspace(0.2, 3.4, 11))
"""Ten bins of H-alpha flux [1e-17 erg/s/cm2]."""

# fmt: off
CATALOGUE_LINES = {
    "[O II] 3726": "oii_3726", "[O II] 3729": "oii_3729", "Hδ": "h_delta", "Hγ": "h_gamma",
    "[O III] 4363": "oiii_4363", "Hβ": "h_beta", "[O III] 4959": "oiii_4959", "[O III] 5007": "oiii_5007",
    "[O I]": "oi_6300", "[N II] 6548": "nii_6548", "Hα": "h_alpha", "[N II] 6583": "nii_6584",
    "[S II] 6716": "sii_6717", "[S II] 6731": "sii_6731",
}
# fmt: on
"""Our names of lines, and those of galSpecLine."""
_FLUXES = [f"{line}_flux{end}" for line in CATALOGUE_LINES.values() for end in ("", "_err")]
_TABLES = {"l": "galSpecLine", "i": "galSpecInfo", "e": "galSpecExtra", "x": "galSpecIndx"}

# Our name of a column, SQL, unit, type; of numbers, what is not above the last entry is no value: the tables hold
# -9999 where there is nothing, in some columns -1.
_COLUMNS = (
    ("specobjid", "s.specObjID", "", int, None),
    ("plate", "s.plate", "", int, None),
    ("mjd", "s.mjd", "d", int, None),
    ("fiberid", "s.fiberID", "", int, None),
    ("run2d", "s.run2d", "", str, None),
    ("ra", "s.ra", "deg", float, -99),
    ("dec", "s.dec", "deg", float, -99),
    ("redshift", "s.z", "", float, 0),
    ("sn_median", "s.snMedian", "", float, -99),
    ("sdss_class", "s.class", "", str, None),
    ("subclass", "i.subclass", "", str, None),
    ("ebv", "i.e_bv_sfd", "mag", float, -99),
    ("velocity_dispersion", "i.v_disp", "km / s", float, 0),
    ("bptclass", "e.bptclass", "", int, None),
    ("log_mass", "e.lgm_tot_p50", "dex(Msun)", float, 0),
    ("log_mass_p16", "e.lgm_tot_p16", "dex(Msun)", float, 0),
    ("log_mass_p84", "e.lgm_tot_p84", "dex(Msun)", float, 0),
    ("log_sfr", "e.sfr_tot_p50", "dex(Msun / yr)", float, -99),
    ("log_sfr_p16", "e.sfr_tot_p16", "dex(Msun / yr)", float, -99),
    ("log_sfr_p84", "e.sfr_tot_p84", "dex(Msun / yr)", float, -99),
    ("oxygen_mpa_jhu", "e.oh_p50", "dex", float, 0),
    ("lick_hd_a", "x.lick_hd_a_sub", "Angstrom", float, -99),
    ("lick_hd_a_error", "x.lick_hd_a_sub_err", "Angstrom", float, -99),
    ("d4000_n", "x.d4000_n_sub", "", float, 0),
)
_NAMES = [name for name, *_ in _COLUMNS] + _FLUXES


def catalogue_sql(low, high, n, *, redshift_range=REDSHIFT_RANGE, star_forming=False, seed=0):
    """The query of one bin of H-alpha flux, as SkyServer takes it: short, because it travels in the address."""
    a, b = np.random.default_rng(seed).integers(100_000, 1_000_000, 2)
    wanted = [sql for _, sql, *_ in _COLUMNS] + [f"l.{name}" for name in _FLUXES]
    joins = (f"JOIN {name} {short} ON {short}.specObjID=s.specObjID" for short, name in _TABLES.items())
    return (
        f"SELECT TOP {int(n)} {','.join(wanted)} FROM SpecObj s {' '.join(joins)} "
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
    redshift_range, star_forming, seed, cache, timeout
        See `catalogue_sql`; a folder (default: the user's cache, as told by ``pooch``), seconds for a bin.

    Returns
    -------
    Dataset, dims (galaxy, line)
        A line table: ``line_flux``, ``line_flux_error`` (formal) [1e-17 erg/s/cm2], ``line_sn``; ``h_alpha_flux``,
        ``h_alpha_bin``, ``redshift``, ``log_mass`` and ``log_sfr`` (medians, with 16th and 84th percentiles),
        ``oxygen_mpa_jhu``, ``ebv`` (Milky Way), ``plate``, ``mjd``, ``fiberid``, ... NaN where MPA-JHU has no value.

    Raises
    ------
    ConnectionError, ValueError
        If SkyServer cannot be reached or does not answer with a table; if no galaxy is found at all, or a file in the
        cache is not as it was recorded.
    """
    edges = np.asarray(h_alpha_edges, float)
    select = {"redshift_range": redshift_range, "star_forming": star_forming, "seed": seed}
    folder = cache_folder(cache) / "mpa_jhu"
    bar = {"desc": "MPA-JHU catalogue", "unit": "bin", "disable": not progress}
    tables = []
    for low, high in tqdm(pairwise(edges), total=edges.size - 1, **bar):
        sql = catalogue_sql(low, high, n_per_bin, **select)
        key = hashlib.sha256(f"{skyserver_url} {data_release} {sql}".encode()).hexdigest()[:16]
        ask = partial(_ask_skyserver, sql, skyserver_url, data_release, timeout)
        content = _once(folder / f"bin_{key}.csv", ask, "the bin of MPA-JHU's catalogue")
        tables.append(_read_bin(content))
    counts = [len(table) for table in tables]
    if not any(counts):
        raise ValueError(
            f"no galaxy of MPA-JHU has a redshift of {redshift_range[0]:g}-{redshift_range[1]:g} and an H-alpha flux "
            f"of {edges[0]:.3g}-{edges[-1]:.3g}e-17 erg/s/cm2: widen the ranges"
        )
    short = [f"{i} ({count})" for i, count in enumerate(counts) if count < n_per_bin]
    text = f"{sum(counts)} galaxies of MPA-JHU (SDSS DR{data_release}), {n_per_bin} per bin of H-alpha flux"
    text += f"; bins with fewer: {', '.join(short)}" if short else ""
    table = pd.concat([table for table in tables if len(table)])
    sample = _line_table(table, np.repeat(np.arange(len(counts)), counts))
    return sample.assign_attrs(survey="SDSS", history=text, h_alpha_edges=edges)


def _ask_skyserver(sql, url, data_release, timeout):
    """One query's answer as CSV: a header of our columns, and a row for each galaxy."""
    from astroquery.sdss import SDSS, conf

    skyserver = conf.set_temp("skyserver_baseurl", url.rstrip("/"))
    with _reaching(url, "the catalogue of MPA-JHU"), skyserver:
        answer = SDSS.query_sql_async(sql, data_release=data_release, timeout=timeout, cache=False)
    if not answer.ok:
        raise ConnectionError(f"{url}: the server answered {answer.status_code} {answer.reason}")
    lines = [line for line in answer.text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) == 1 and lines[0].strip('"').startswith("No objects have been found"):
        lines = []
    elif (
        not lines
        or [name.strip(' "').lower() for name in lines[0].split(",")]
        != [sql.split(".")[1].lower() for _, sql, *_ in _COLUMNS] + _FLUXES
        or any(line.count(",") != len(_NAMES) - 1 for line in lines)
    ):
        text = f"{url} did not answer with the table asked for, but with {answer.text[:200]!r}"
        raise ConnectionError(text)
    return "\n".join([",".join(_NAMES), *lines[1:]]).encode()


def _read_bin(content):
    """One answer with the types that we need, however few of its cells are filled."""
    table = pd.read_csv(io.BytesIO(content), dtype=str)
    for name, _, _, kind, least in [*_COLUMNS, *((name, "", "", float, -99) for name in _FLUXES)]:
        if kind is str:
            table[name] = table[name].fillna("").str.strip()
        elif kind is int:
            table[name] = table[name].fillna("-1").astype(np.int64)
        else:
            values = table[name].astype(float)
            table[name] = values.where(values > least)
    return table


def _line_table(table, in_bin):
    """The catalogue as a table of lines, in the bins of H-alpha flux."""
    columns = {}
    for name, _, unit, kind, _ in _COLUMNS:
        columns[name] = ("galaxy", table[name].to_numpy(str if kind is str else None), {"units": unit})
    values = table[_FLUXES].to_numpy().reshape(len(table), -1, 2)
    values = np.where(values[..., 1:] > 0, values, np.nan)  # errors of -1 or 0: lines that were not fitted
    dims, unit = ("galaxy", "line"), {"units": "1e-17 erg / (s cm2)"}
    columns |= {"line_flux": (dims, values[..., 0], unit), "line_flux_error": (dims, values[..., 1], unit)}
    columns["line_sn"] = (dims, values[..., 0] / values[..., 1], {"units": ""})
    columns["h_alpha_flux"] = ("galaxy", table["h_alpha_flux"].to_numpy(), unit)
    columns["h_alpha_bin"] = ("galaxy", in_bin, {"units": ""})
    attrs = {"units": "Angstrom", "description": "vacuum, rest frame"}
    wavelength = ("line", [LINES[name] for name in CATALOGUE_LINES], attrs)
    return xr.Dataset(columns, coords={"line": list(CATALOGUE_LINES), "line_wavelength": wavelength})


def fetch_usable(catalogue, *, cache=None, **options):
    """Bring the spectra of a catalogue's galaxies to the cache, and keep the galaxies that have one."""
    keys = [catalogue[name].values for name in ("plate", "mjd", "fiberid")]
    options = {"run2d": catalogue["run2d"].values, "cache": cache} | options
    paths, failures, n_downloaded = fetch_spectra(*keys, **options)
    rows = np.array([row for row, path in enumerate(paths) if path is not None], int)
    kinds = {}
    for row, reason in failures.items():
        kinds.setdefault(reason, []).append(row)
    reasons = "; ".join(f"{len(where)} {reason} (row {where[0]})" for reason, where in kinds.items())
    if not rows.size:
        raise ConnectionError(f"not one of {len(paths)} spectra could be fetched: {reasons}")
    text = f"{rows.size} spectra, {n_downloaded} of them fetched now"
    if failures:
        lost = f"{len(failures)} of {len(paths)} galaxies left out: {reasons}"
        warnings.warn(lost, SurveyWarning, stacklevel=2)
        text += f"; {lost}"
    kept = catalogue.isel(galaxy=rows)
    return kept.assign_attrs(history=f"{catalogue.attrs['history']}\n{text}"), [paths[row] for row in rows]


def join_spectra(catalogue, paths):
    """Spectra as `read_sdss` gives them, in the observed frame, with the columns of a catalogue."""
    spectra = read_sdss(paths).rename(spectral_class="sdss_label")
    pixels = spectra.drop_vars([name for name in spectra.data_vars if name in catalogue])
    return pixels.assign(catalogue.data_vars).assign_coords(catalogue.coords).assign_attrs(catalogue.attrs)


def read_real_sample(
    n_per_bin, *, cache=None, progress=True, base_url=SAS_URL, n_connections=4, retries=2, **options
):
    """Catalogue and spectra of real galaxies in one call.

    Parameters
    ----------
    n_per_bin : int
        Galaxies per bin of H-alpha flux. A thousand spectra are some 160 MB on disk, 50 MB in memory.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``. What is there needs no network.
    base_url, n_connections, retries, **options
        Of `fetch_spectra`, of `query_catalogue`.

    Returns
    -------
    Dataset
        See `query_catalogue` and `join_spectra`; galaxies without a usable spectrum as in `fetch_usable`.
    """
    catalogue = query_catalogue(n_per_bin, cache=cache, progress=progress, **options)
    where = {"base_url": base_url, "data_release": options.get("data_release", DATA_RELEASE)}
    how = {"n_connections": n_connections, "retries": retries, "progress": progress}
    return join_spectra(*fetch_usable(catalogue, cache=cache, **where, **how))
