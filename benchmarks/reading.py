"""Spectra per second from files of SDSS and DESI, beside ``specutils.Spectrum.read`` told the format."""

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.row import make_row, seconds
from spectool.surveys import packaged_spectra, read_desi, read_sdss

REPEATS = 10
N_TARGETS = 50
ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}  # first pixel [A] and pixels of 0.8 A


def write_coadd(path, n):
    """A coadd laid out as DESI's: three arms with masks and resolution matrices."""
    rng = np.random.default_rng(0)
    units = {"FLUX": "10**-17 erg/(s cm2 Angstrom)", "IVAR": "10**+34 (s2 cm4 Angstrom2) / erg2"}
    table = {"TARGETID": np.arange(n), "TARGET_RA": np.zeros(n), "TARGET_DEC": np.zeros(n), "EBV": np.ones(n)}
    table |= {f"COLUMN_{k}": np.zeros(n) for k in range(len(table), 71)}  # as many as the survey's
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table(table), name="FIBERMAP")]
    row = np.exp(-0.5 * (np.arange(-5, 6) / 0.85) ** 2)
    for arm, (first, n_pixels) in ARMS.items():
        parts = {
            "WAVELENGTH": first + 0.8 * np.arange(n_pixels),
            "FLUX": rng.standard_normal((n, n_pixels)).astype("f4"),
            "IVAR": np.ones((n, n_pixels), "f4"),
            "MASK": np.zeros((n, n_pixels), "u4"),
            "RESOLUTION": np.tile((row / row.sum()).astype("f4")[:, None], (n, 1, n_pixels)),
        }
        for part, values in parts.items():
            hdu = fits.ImageHDU(values, name=f"{arm}_{part}")
            hdu.header["BUNIT"] = units.get(part, "Angstrom")
            hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
    return path


def run():
    """Rates of `read_sdss`, file by file, and of `read_desi` on a coadd of fifty targets, warm."""
    from specutils import Spectrum, SpectrumList

    paths = list(packaged_spectra().values())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coadd = write_coadd(Path(folder) / "coadd-main-dark-1.fits", N_TARGETS)
        jobs = {
            "read_spectra_per_second": (
                len(paths),
                lambda: [read_sdss(path) for path in paths],
                lambda: [Spectrum.read(path, format="SDSS-III/IV spec") for path in paths],
            ),
            "read_desi_spectra_per_second": (
                N_TARGETS,
                lambda: read_desi(coadd),
                lambda: SpectrumList.read(coadd, format="DESI coadd"),
            ),
        }
        rows = []
        for name, (n, ours, theirs) in jobs.items():
            rates = [n / min(seconds(read) for _ in range(REPEATS)) for read in (ours, theirs)]
            peer = f"specutils {version('specutils')} told the format, one thread each"
            rows.append(make_row(name, rates[0], "spectra/s", peer, rates[1], higher_is_better=True))
    return rows
