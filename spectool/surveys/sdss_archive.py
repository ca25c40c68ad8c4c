"""Spectra from the SDSS Science Archive: fetched once, checked, kept; what is missing is counted and named."""

import contextlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import joblib
import pooch
from tqdm.auto import tqdm

from spectool.surveys.sdss_files import open_fits, parse_sdss

SAS_URL = "https://data.sdss.org/sas"
DATA_RELEASE = 17
RECORD = "sha256.txt"
"""File in the cache that holds the checksum of each spectrum, recorded at its first download."""


@dataclass(frozen=True)
class Fetched:
    """What `fetch_spectra` brings.

    Attributes
    ----------
    paths : list of (Path or None)
        In the order asked for; None where there is no usable file.
    failures : dict of int to str
        Row -> why.
    n_downloaded : int
        The others were in the cache.
    """

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
    """Fetch spectra through ``pooch``, those in the cache without any network; an interrupted call is resumed.

    SDSS gives no checksums beside its spectra: that of each file is recorded in the cache when it is first fetched
    whole, and the file is held to it ever after. A damaged file in the cache is fetched again.

    Parameters
    ----------
    plate, mjd, fiberid : array_like of int, shape (n,)
    run2d : str or array_like of str
        Reduction; "26" is that of DR7's galaxies, "103" and "104" those of SEGUE.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``.
    checksums : dict of str to str, optional
        File name -> sha256 that it must have, in the place of the recorded one.
    base_url : str
        Of the archive or a mirror.
    data_release : int
    n_connections : int
        Downloads at a time.
    retries : int
        After a failed download.
    timeout : float
        Seconds that the server may stay silent.
    progress : bool

    Returns
    -------
    Fetched
        Missing, truncated or changed files are no error: `Fetched.failures` tells them.

    Raises
    ------
    ConnectionError
        If the archive cannot be reached; what was fetched until then is kept.
    """
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
