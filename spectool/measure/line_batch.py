"""Many fits: over the cores, with progress, resumed where they were interrupted."""

import hashlib
import json
import os
import time
import warnings
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from spectool.measure.line_worker import BAD_INPUT, FAILED, OK, fit_chunk
from spectool.parallel import n_workers as granted_workers
from spectool.parallel import release_memory

CHUNK = 32
NOT_FITTED = -1
SAVE_EVERY = 10.0  # seconds
STATUS = {OK: "ok", BAD_INPUT: "bad input", FAILED: "failed"}


class Results:
    """Results galaxy by galaxy, kept in a file too if one is named.

    Parameters
    ----------
    n_galaxies, n_lines, n_pixels : int
        `n_pixels` is 0 where no fit is kept.
    path : path, optional
        ``.npz``; read if it exists, written every `SAVE_EVERY` seconds and at the end.
    fingerprint : str
        Of spectra and settings: a file of others is refused.

    Raises
    ------
    ValueError
        If the file belongs to other spectra or settings, or is none of ours.
    """

    def __init__(self, n_galaxies, n_lines, n_pixels=0, *, path=None, fingerprint=""):
        shapes = {"flux": n_lines, "error": n_lines, "peak": n_lines, "peak_error": n_lines, "an": n_lines}
        shapes |= {"gas": 2, "star": 2, "broad": None, "chi2": None}
        shapes |= {"continuum": n_pixels, "line_model": n_pixels} if n_pixels else {}
        self.values = {
            name: np.full(n_galaxies if size is None else (n_galaxies, size), np.nan)
            for name, size in shapes.items()
        }
        self.status = np.full(n_galaxies, NOT_FITTED, np.int8)
        self.message = np.full(n_galaxies, "", dtype="<U200")
        self.path, self.fingerprint = None if path is None else Path(path), fingerprint
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self._load()

    def pending(self):
        """Rows that are still to be fitted."""
        return np.flatnonzero(self.status == NOT_FITTED)

    def add(self, done):
        """Take over what `fit_chunk` returned."""
        for row, result in done:
            for name, values in self.values.items():
                if name in result:
                    values[row] = result[name]
            self.status[row], self.message[row] = result["status"], result["message"]
        if self.path is not None and time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self):
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        part = self.path.with_name(self.path.name + ".part")
        with part.open("wb") as file:
            np.savez(
                file,
                fingerprint=self.fingerprint,
                fit_status=self.status,
                fit_message=self.message,
                **self.values,
            )
        os.replace(part, self.path)
        self._saved = time.monotonic()

    def _load(self):
        try:
            with np.load(self.path) as archive:
                kept = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is no checkpoint of fit_lines ({error}): remove it") from error
        if str(kept.get("fingerprint")) != self.fingerprint:
            raise ValueError(
                f"{self.path} holds fits of other spectra or with other settings: remove it, or choose another file"
            )
        self.status, self.message = kept["fit_status"], kept["fit_message"].astype("<U200")
        self.values = {name: kept[name] for name in self.values}


def fingerprint(setup, arrays):
    """A hash of spectra and settings, by which a checkpoint is known."""
    digest = hashlib.sha256()
    options = {}
    for field in fields(setup):
        value = getattr(setup, field.name)
        if isinstance(value, np.ndarray):
            if not field.name.endswith("rfft"):
                digest.update(np.ascontiguousarray(value).tobytes())
        else:
            options[field.name] = value
    digest.update(json.dumps(options, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def run_fits(setup, jobs, results, *, n_workers=None, backend="loky", progress=True):
    """Fit what is pending, chunk by chunk.

    Parameters
    ----------
    setup : FitSetup
    jobs : callable
        ``jobs(rows)`` gives the list that `fit_chunk` takes.
    results : Results
        Filled in place.
    n_workers : int, optional
        Default `spectool.parallel.n_workers`. 1 works in this process, unless a Dask backend is asked for.
    backend : str
        Of joblib: "loky", "threading", or "dask" with a ``distributed.Client`` at hand.
    progress : bool

    Returns
    -------
    bool
        Whether everything is done: an interrupt (stop button) keeps what is.
    """
    rows = results.pending()
    if not rows.size:
        return True
    n_workers = n_workers or granted_workers()
    chunks = [rows[first : first + CHUNK] for first in range(0, rows.size, CHUNK)]
    count = results.status.size
    bar = tqdm(
        total=count, initial=count - rows.size, desc="fitting lines", unit="spectrum", disable=not progress
    )
    try:
        for done in _fit_chunks(setup, jobs, chunks, n_workers, backend):
            results.add(done)
            bar.update(len(done))
    except KeyboardInterrupt:
        warnings.warn(
            f"interrupted: {results.pending().size} spectra are not fitted"
            + (f"; the others are kept in {results.path}" if results.path else ""),
            stacklevel=3,
        )
        return False
    finally:
        bar.close()
        results.save()
    return True


def _fit_chunks(setup, jobs, chunks, n_workers, backend):
    """Yield each chunk's results as they come."""
    if n_workers == 1 and backend == "loky":
        for rows in chunks:
            # Matrices this small are only slowed down by threads.
            with threadpool_limits(1):
                done = fit_chunk(setup, jobs(rows))
            yield done
        return
    release_memory()
    options = {"inner_max_num_threads": 1} if backend == "loky" else {}
    work = (delayed(fit_chunk)(setup, jobs(rows)) for rows in chunks)
    with parallel_config(backend=backend, **options):
        # Dask decides on its workers itself.
        parallel = Parallel(n_jobs=n_workers, return_as="generator_unordered")
        yield from parallel(work)
    if backend == "loky":
        # Idle workers would keep 200 MB each, of the 1 GB that Binder grants.
        get_reusable_executor().shutdown(wait=True)
