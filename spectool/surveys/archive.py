"""Spectra and tables from public archives: asked for by name, checked and cached."""

import contextlib
import hashlib
import io
import logging
import threading
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pooch
import xarray as xr
from astropy.table import Table
from tqdm.auto import tqdm

from spectool.io import atomic
from spectool.spectra import LINES
from spectool.surveys.sdss import SurveyWarning, open_fits, parse_sdss, read_sdss

SERVER = "vizier.cds.unistra.fr"
RECORD = "sha256.txt"
"""File in the cache that holds the checksum of each answer, recorded at its first download."""


def query_vizier(
    catalogue, *, columns=("*",), n_rows=-1, checksum=None, cache=None, server=SERVER, timeout=300.0
):
    """A table of VizieR, ready for `spectool.surveys.tables.read_photometry`.

    Parameters
    ----------
    catalogue : str
        Name of one table, such as "J/MNRAS/452/2087/gama".
    columns : sequence of str
        "*" for VizieR's default columns, "**" for all.
    n_rows : int
        The first rows; -1 for all.
    checksum : str, optional
        sha256 that the answer must have, in the place of the one recorded at the first download.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``.
    server : str
        A mirror's name.
    timeout : float
        Seconds.

    Returns
    -------
    astropy Table
        With units and masked cells as in VizieR.

    Raises
    ------
    ConnectionError
        If VizieR cannot be reached and the cache does not hold the table.
    ValueError
        If VizieR has no such table, several, or the file is not the one that was recorded.
    """
    folder = Path(pooch.os_cache("spectool") if cache is None else cache) / "vizier"
    key = hashlib.sha256(f"{catalogue} {','.join(columns)} {n_rows}".encode()).hexdigest()[:16]
    path = folder / f"{key}.vot"
    if not path.exists():
        content = _ask(catalogue, columns, n_rows, server, timeout)
        _parse(content, catalogue)
        _write(content, path)
    content = path.read_bytes()
    found, known = hashlib.sha256(content).hexdigest(), checksum or _recorded(folder, path.name)
    if known and found != known:
        raise ValueError(
            f"{path}: is not the table of {catalogue} that was {'asked for' if checksum else 'first fetched'} "
            f"(sha256 {found[:12]}..., not {known[:12]}...): remove the file to fetch it again"
        )
    return _parse(content, catalogue)


def _ask(catalogue, columns, n_rows, server, timeout):
    """VizieR's answer, as it comes."""
    from astroquery.exceptions import TimeoutError as AstroqueryTimeout
    from astroquery.vizier import Vizier

    client = Vizier(columns=list(columns), row_limit=n_rows, timeout=timeout, vizier_server=server)
    try:
        answer = client.get_catalogs_async(catalogue)
        answer.raise_for_status()
    except (OSError, AstroqueryTimeout) as error:
        raise ConnectionError(
            f"VizieR ({server}) could not be reached ({error}): {catalogue} needs a network the first time"
        ) from error
    return answer.content


def _parse(content, catalogue):
    """The one table of an answer."""
    from astropy.io.votable import parse
    from astropy.io.votable.exceptions import VOTableSpecError

    try:
        tables = [table for table in parse(io.BytesIO(content)).iter_tables() if len(table.array)]
    except (VOTableSpecError, ValueError, IndexError) as error:
        raise ConnectionError(f"VizieR did not answer with a table, but with {content[:120]!r}") from error
    if len(tables) != 1:
        names = ", ".join(str(table.name) for table in tables)
        raise ValueError(
            f"VizieR has no table {catalogue!r}, or an empty one: look its name up"
            if not tables
            else f"{catalogue!r} holds several tables, name one of {names}"
        )
    return tables[0].to_table(use_names_over_ids=True)


def _write(content, path):
    """Write whole or not at all, and record the checksum."""
    with atomic(path) as part:
        part.write_bytes(content)
    with (path.parent / RECORD).open("a") as record:
        record.write(f"{path.name} {hashlib.sha256(content).hexdigest()}\n")


def _recorded(folder, name):
    """The checksum recorded last for a file, or None."""
    record = folder / RECORD
    pairs = [line.split() for line in record.read_text().splitlines()] if record.exists() else []
    return next((pair[1] for pair in reversed(pairs) if len(pair) == 2 and pair[0] == name), None)


SAS_URL = "https://data.sdss.org/sas"
DATA_RELEASE = 17
"""File in the cache that holds the checksum of each spectrum, recorded at its first download."""


@dataclass(frozen=True)
class Fetched:
    """What `fetch_spectra` brings."""

    paths: list
    failures: dict
    n_downloaded: int


def spectrum_name(plate, mjd, fiberid):
    """Name of a spectrum's file: ``spec-0266-51602-0001.fits``."""
    return f"spec-{int(plate):04d}-{int(mjd)}-{int(fiberid):04d}.fits"


def spectrum_url(plate, mjd, fiberid, *, run2d="26", data_release=DATA_RELEASE, base_url=SAS_URL):
    """Address of a spectrum of SDSS-I/II ("lite": coadded spectrum, fit and redshift)."""
    folder = f"{base_url.rstrip('/')}/dr{data_release}/sdss/spectro/redux/{run2d}/spectra/lite"
    return f"{folder}/{int(plate):04d}/{spectrum_name(plate, mjd, fiberid)}"


def cache_folder(cache=None):
    """Folder where spectra and tables of SDSS are kept, by default in the user's cache."""
    return Path(pooch.os_cache("spectool") if cache is None else cache) / "sdss"


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
    """Fetch spectra through ``pooch``, those in the cache without any network; an interrupted call is resumed."""
    rows = [(int(p), int(m), int(f)) for p, m, f in zip(plate, mjd, fiberid, strict=True)]
    reductions = [str(run2d)] * len(rows) if isinstance(run2d, str) else [str(r) for r in run2d]
    where = {"data_release": data_release, "base_url": base_url}
    urls = {
        spectrum_name(*row): spectrum_url(*row, run2d=r, **where)
        for row, r in zip(rows, reductions, strict=True)
    }
    folder = cache_folder(cache) / f"dr{data_release}"
    archive = _Archive(folder, urls, checksums or {}, base_url, retries, timeout)
    with _quiet():
        work = (joblib.delayed(archive.fetch)(name) for name in urls)
        pool = joblib.Parallel(n_jobs=n_connections, backend="threading", return_as="generator_unordered")
        bar = tqdm(pool(work), total=len(urls), desc="SDSS spectra", unit="file", disable=not progress)
        for _ in bar:  # once the archive is found offline, the rest return at once
            pass
    if archive.offline:
        kept = sum((folder / name).exists() for name in urls)
        raise ConnectionError(
            f"{base_url} could not be reached ({archive.offline}). {kept} of {len(urls)} spectra are in {folder}; "
            "run it again with a network, and only the others will be fetched"
        )
    names = [spectrum_name(*row) for row in rows]
    failures = {row: archive.failed[name] for row, name in enumerate(names) if name in archive.failed}
    paths = [None if row in failures else folder / name for row, name in enumerate(names)]
    return Fetched(paths, failures, archive.n_downloaded)


class _Archive:
    """One batch of downloads: who is done, who failed, and the record of checksums."""

    def __init__(self, folder, urls, checksums, base_url, retries, timeout):
        self.folder, self.checksums, self.timeout = folder, checksums, timeout
        self.failed, self.offline, self.n_downloaded = {}, "", 0
        self.lock = threading.Lock()
        self.recorded = _read_record(folder / RECORD)
        known = {name: checksums.get(name, self.recorded.get(name)) for name in urls}
        self.pooch = pooch.Pooch(folder, base_url, registry=known, urls=urls, retry_if_failed=retries)

    def fetch(self, name):
        """Bring one file, or note why not."""
        if self.offline:
            return
        path, known = self.folder / name, self.pooch.registry[name]
        there = path.exists()
        if there and known is not None and pooch.hashes.hash_matches(str(path), known):
            return
        try:
            downloader = pooch.HTTPDownloader(timeout=self.timeout, chunk_size=65536)
            self.pooch.fetch(name, downloader=downloader)
            self._keep_if_whole(name, path, downloaded=not there or known is not None)
        except ValueError as error:
            self._note(name, self._why_refused(name, error))
        except OSError as error:  # all errors of requests are
            response = getattr(error, "response", None)
            if response is None and not _broke_off(error):
                self.offline = str(error)[:200]
                return
            self._note(name, "truncated download" if response is None else _http_reason(response))

    def _keep_if_whole(self, name, path, downloaded):
        """Record the checksum of a file that reads as a spectrum; remove any other (ValueError)."""
        try:
            parse_sdss(open_fits(path, name), name)
        except ValueError:
            path.unlink(missing_ok=True)
            raise
        with self.lock:
            self.n_downloaded += downloaded
            if name not in self.recorded:
                self.recorded[name] = pooch.file_hash(str(path))
                with (self.folder / RECORD).open("a") as record:
                    record.write(f"{name} {self.recorded[name]}\n")

    def _why_refused(self, name, error):
        if "hash" not in str(error):
            return str(error).removeprefix(f"{name}: ")
        if name in self.checksums:
            return "its sha256 is not the one asked for"
        return f"its sha256 is not the one recorded at the first download; if SDSS changed it, remove it from {RECORD}"

    def _note(self, name, reason):
        with self.lock:
            self.failed[name] = reason


def _broke_off(error):
    """Whether a download began and ended too early (and not: never began)."""
    import requests

    return isinstance(
        error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError
    )


def _http_reason(response):
    if response.status_code == 404:
        return "not in the archive (404)"
    return f"the server answered {response.status_code} {response.reason}"


def _read_record(path):
    """File name -> sha256; lines that an interrupt cut short are skipped."""
    if not path.exists():
        return {}
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and len(pair[1]) == 64}


@contextlib.contextmanager
def _quiet():
    """Keep pooch from logging a line for each of thousands of files."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


SKYSERVER_URL = "https://skyserver.sdss.org"
REDSHIFT_RANGE = (0.024, 0.05)
H_ALPHA_EDGES = tuple(10 ** np.linspace(0.2, 3.4, 11))
"""Ten bins of H-alpha flux [1e-17 erg/s/cm2]."""

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
    """The query of one bin of H-alpha flux, as SkyServer takes it: short, because it travels in the address."""
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
            lines = _ask_mpa_jhu(sql, skyserver_url, data_release, timeout)
            with atomic(path) as part:
                part.write_text("\n".join(lines))
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


def _ask_mpa_jhu(sql, url, data_release, timeout):
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


def fetch_usable(catalogue, *, cache=None, **options):
    """Bring the spectra of a catalogue's galaxies to the cache, and keep the galaxies that have one."""
    keys = [catalogue[name].values for name in ("plate", "mjd", "fiberid")]
    got = fetch_spectra(*keys, run2d=catalogue["run2d"].values, cache=cache, **options)
    rows = np.array([row for row, path in enumerate(got.paths) if path is not None], int)
    reasons = _summary(got.failures)
    if not rows.size:
        raise ConnectionError(f"not one of {len(got.paths)} spectra could be fetched: {reasons}")
    text = f"{rows.size} spectra, {got.n_downloaded} of them fetched now"
    if got.failures:
        told = f"{len(got.failures)} of {len(got.paths)} galaxies left out: {reasons}"
        warnings.warn(told, SurveyWarning, stacklevel=2)
        text += f"; {told}"
    kept = catalogue.isel(galaxy=rows)
    return kept.assign_attrs(history=f"{catalogue.attrs['history']}\n{text}"), [
        got.paths[row] for row in rows
    ]


def join_spectra(catalogue, paths):
    """Spectra as `read_sdss` gives them, in the observed frame, with the columns of a catalogue."""
    spectra = read_sdss(paths).rename(spectral_class="sdss_label")
    pixels = spectra.drop_vars([name for name in spectra.data_vars if name in catalogue])
    return pixels.assign(catalogue.data_vars).assign_coords(catalogue.coords).assign_attrs(catalogue.attrs)


def _summary(failures):
    """Reasons with how many galaxies each costs, and one row as an example."""
    kinds = {}
    for row, reason in failures.items():
        kinds.setdefault(reason, []).append(row)
    return "; ".join(f"{len(rows)} {reason} (row {rows[0]})" for reason, rows in kinds.items())


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
    progress : bool
    base_url, n_connections, retries
        Of `spectool.surveys.archive.fetch_spectra`.
    **options
        Of `query_catalogue`.

    Returns
    -------
    Dataset
        See `query_catalogue` and `join_spectra`; galaxies without a usable spectrum as in `fetch_usable`.
    """
    catalogue = query_catalogue(n_per_bin, cache=cache, progress=progress, **options)
    where = {"base_url": base_url, "data_release": options.get("data_release", DATA_RELEASE)}
    how = {"n_connections": n_connections, "retries": retries, "progress": progress}
    return join_spectra(*fetch_usable(catalogue, cache=cache, **where, **how))
