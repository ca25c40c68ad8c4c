"""Metallicities of spectra that are never all in memory: hundreds of thousands, read from a file batch by batch.

Whatever has to be done to a spectrum is done while it is in the processor's cache: bad pixels filled, broadened,
divided by its pseudo-continuum (`spectool.continuum_basis`), read by all networks at once with what its noise does to
their mean, and compared with the training spectra. The steps are those of `spectool.models.metallicity`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.broaden import fill_bad
from spectool.continuum import SIGMA_STEP
from spectool.continuum_basis import normalize_continuum, zahid2019_wavelength
from spectool.models.metallicity_flags import DEAD, LOST_CHUNK, UNUSABLE, Found, describe
from spectool.models.metallicity_reader import ANSWERS, SUSPICIONS, MetallicityReader
from spectool.parallel import n_workers
from spectool.surveys.sdss_noise import FWHM_TO_SIGMA

GROUP = 512
MIN_CHUNK = 0.5


def stream_metallicity(
    source,
    table: xr.Dataset | None = None,
    *,
    members=None,
    extra_fwhm=None,
    batch_size: int = 8192,
    threads: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Read metallicities from spectra in stored form: at rest, on `zahid2019_wavelength`, in a memory map.

    Parameters
    ----------
    source
        A folder with ``flux.npy`` (N, 3251), float16 or wider, bad pixels NaN, any normalisation near 1, and
        ``table.nc``; or that array or memory map. Of a map, no more than a few batches are mapped at any time.
    table
        Per galaxy: ``chunk_sigma`` (galaxy, chunk), the noise of a pixel relative to the flux; without it, spectra
        count as free of noise. Default: the folder's. Other columns of one number per galaxy are kept.
    members
        Networks, as of `spectool.models.zahid2019.load_ensemble`; default: the shipped ones.
    extra_fwhm
        What each galaxy is to be broadened by (N,), or one number [km/s, FWHM]; default: the table's column
        ``extra_fwhm``, or else 0.
    batch_size
        Rows per batch.
    threads
        Default `spectool.parallel.n_workers`.
    progress
        Show a progress bar.

    Returns
    -------
    Dataset
        As of `spectool.models.metallicity.predict_metallicity`, without pixels.

    Raises
    ------
    FileNotFoundError
        If the folder lacks the spectra.
    ValueError
        If spectra, table and widths do not belong together.
    """
    rows, table = _open(source, table)
    reader = MetallicityReader(members)
    sigma = _widths(extra_fwhm, table, len(rows))
    noise = _noise(table, len(rows), reader.stacked.n_chunks)
    for width in np.unique(sigma):
        reader.broaden_by(width)
    found = _empty(len(rows), reader)
    starts = range(0, len(rows), batch_size)

    def work(start):
        part = slice(start, min(start + batch_size, len(rows)))
        _read_batch(reader, rows.read(part), sigma[part], noise[part], {n: a[part] for n, a in found.items()})
        return part.stop - part.start

    threads = n_workers() if threads is None else threads
    with (
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        tqdm(total=len(rows), desc="metallicities", unit="galaxy", disable=not progress) as bar,
    ):
        for n_done in pool.map(work, starts):
            bar.update(n_done)
    error = reader.calibrate(found, noise)
    return describe(Found.of_codes(found, error), reader, _columns(table, len(rows)))


@dataclass(frozen=True)
class _Rows:
    """Rows of an array; if that is a file, mapped no longer than they are needed."""

    array: np.ndarray

    def __len__(self):
        return len(self.array)

    def read(self, part):
        """Rows of a slice."""
        array = self.array
        if not self._is_whole_map():
            return array[part]
        # Pages of a map count as this process's memory until it is closed: a map of its own for each batch.
        start = array.offset + part.start * array.strides[0]
        return np.memmap(array.filename, array.dtype, "r", start, (part.stop - part.start, *array.shape[1:]))

    def _is_whole_map(self):
        """A part of a map does not tell where in the file it begins."""
        array = self.array
        if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
            return False
        return Path(array.filename).stat().st_size == array.offset + array.nbytes


def _empty(n, reader):
    """Room for the results of all spectra."""
    found = {name: np.full((n, len(reader.outputs)), np.nan, "f4") for name in ANSWERS}
    if reader.knows_outliers:
        found |= {name: np.zeros(n, "i2" if name in ("pixel", "which") else "f4") for name in SUSPICIONS}
    return found | {"code": np.zeros(n, "i1")}


def _read_batch(reader, flux, sigma, noise, found):
    """Read a batch of stored spectra into its part of the results; those of one width go together."""
    order = np.argsort(sigma, kind="stable")
    buffers = torch.empty(GROUP, flux.shape[1]), torch.empty(GROUP, reader.stacked.n_kept)
    for rows in np.split(order, np.flatnonzero(np.diff(sigma[order])) + 1):
        for first in range(0, len(rows), GROUP):
            some = rows[first : first + GROUP]
            work, x = (buffer[: len(some)] for buffer in buffers)
            work.copy_(torch.from_numpy(np.ascontiguousarray(flux[some])))
            operator, products = reader.broaden_by(sigma[some[0]])
            bad, code = _prepare(work, x, operator, reader)
            for name, values in (reader.read(x, noise[some], bad, products) | {"code": code}).items():
                found[name][some] = values


def _prepare(work, x, operator, reader):
    """Prepare the stored spectra `work`, which are changed, into `x`; bad pixels, and codes of what is wrong."""
    bad = ~np.isfinite(work.numpy())
    fill_bad(work.numpy(), bad)
    bad = torch.from_numpy(np.take(bad, np.flatnonzero(reader.basis.keep), axis=1))
    _, polynomial = normalize_continuum(operator.apply(work, x), bad, reader.basis, in_place=True)
    starts = reader.stacked.starts
    share = np.add.reduceat(bad.numpy(), starts[:-1], axis=1, dtype="i4") / np.diff(starts)
    code = np.where(np.isnan(polynomial[:, 0]), UNUSABLE, 0)
    code = np.where((share > MIN_CHUNK).any(axis=1), LOST_CHUNK, code)
    return bad, np.where((share == 1).all(axis=1), DEAD, code)


def _open(source, table):
    """Rows and table of a folder or an array."""
    if isinstance(source, str | Path):
        folder = Path(source)
        path = folder / "flux.npy"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no spectra: there is no flux.npy")
        source = np.load(path, mmap_mode="r")
        if table is None and (folder / "table.nc").is_file():
            table = xr.load_dataset(folder / "table.nc", engine="h5netcdf")
    n_pixels = zahid2019_wavelength().size
    if source.ndim != 2 or source.shape[1] != n_pixels:
        raise ValueError(
            f"spectra have shape {source.shape}: stored ones are (N, {n_pixels}), 4050-7300 A by 1 A"
        )
    if table is not None and table.sizes["galaxy"] != len(source):
        raise ValueError(f"{len(source)} spectra, but a table of {table.sizes['galaxy']} galaxies")
    return _Rows(source), table


def _widths(extra_fwhm, table, n):
    """Sigma per galaxy [km/s], in steps."""
    if extra_fwhm is None:
        extra_fwhm = table["extra_fwhm"].values if table is not None and "extra_fwhm" in table else 0.0
    extra = np.broadcast_to(np.asarray(extra_fwhm, float), n)
    wrong = np.flatnonzero(~(extra >= 0))
    if wrong.size:
        raise ValueError(f"extra_fwhm of galaxy {wrong[0]} is {extra[wrong[0]]} km/s: it must be 0 or more")
    return np.round(extra * FWHM_TO_SIGMA / SIGMA_STEP) * SIGMA_STEP


def _noise(table, n, n_chunks):
    """(N, n_chunks), float32; 0 where nothing is known."""
    if table is None or "chunk_sigma" not in table:
        return np.zeros((n, n_chunks), np.float32)
    noise = table["chunk_sigma"].transpose("galaxy", ...).values
    if noise.shape != (n, n_chunks):
        raise ValueError(f"chunk_sigma has shape {noise.shape}, the networks have {n_chunks} chunks")
    return np.nan_to_num(noise.astype(np.float32), nan=0.0, posinf=0.0)


def _columns(table, n):
    """Per-galaxy columns of a table, without what is only needed to read the spectra."""
    if table is None:
        return xr.Dataset(coords={"galaxy": np.arange(n)}).drop_vars("galaxy")
    return table[[name for name in table.data_vars if table[name].dims == ("galaxy",)]]
