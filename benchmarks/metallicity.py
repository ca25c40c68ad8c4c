"""Metallicities of 200,000 galaxies in seconds, streamed from a warm memory map; and beside pPXF's.

What is timed, from a folder to a Dataset: read, fill bad pixels, broaden by each galaxy's own width, fit and divide by
the continuum, six networks, errors with the noise of each chunk, outlier score. The memory map holds some thousands of
galaxies of the mock main sample, rebuilt from their numbers and repeated in random order to 200,000. It is read by a
process of its own, whose peak memory is told, too; the second of two rounds counts, when the file is in the page cache.
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.measure.populations import fit_populations
from spectool.papers.zahid2019.reader import FWHM, stream_metallicity
from spectool.papers.zahid2019.reader import predict as predict_metallicity
from spectool.papers.zahid2019.sample import chunk_sigma, read_products, rebuild, stored_flux
from spectool.parallel import Usage, n_workers
from spectool.spectra import SIGMA_TO_FWHM

N_TOTAL = 200_000
N_GALAXIES = 4000
N_PEER = 40
BUDGET = 10.0
INSTRUMENT = 65.0  # km/s, sigma


def run():
    """Both rows: seconds for 200,000 beside the budget, and spectra per second beside pPXF on as many workers."""
    sample = rebuild(read_products()["candidate"].values[:N_GALAXIES], keep_truth=False)
    width = SIGMA_TO_FWHM * np.hypot(sample["velocity_dispersion"].values, INSTRUMENT)
    with tempfile.TemporaryDirectory() as folder:
        write_map(Path(folder), sample, np.sqrt(np.clip(FWHM**2 - width**2, 0, None)), N_TOTAL)
        command = [sys.executable, "-m", "benchmarks.metallicity", folder]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    few = sample.isel(galaxy=slice(N_PEER)).assign(spectral_fwhm=("galaxy", width[:N_PEER]))
    require_agreement(done["first"], predict_metallicity(few))
    fit_populations(few.isel(galaxy=slice(2)), n_workers=1, progress=False)
    rate = n_workers() * N_PEER / seconds(lambda: fit_populations(few, n_workers=1, progress=False))
    budget = f"the budget; {n_workers()} cores, peak memory {done['peak_mb']:.0f} MB of 1200"
    peer = f"ppxf {version('ppxf')}, full-spectrum fits with fit_populations, one process, times {n_workers()} workers"
    return [
        make_row("metallicity_200k_seconds", done["seconds"], "s", budget, BUDGET, higher_is_better=False),
        make_row(
            "metallicity_vs_ppxf",
            N_TOTAL / done["seconds"],
            "spectra/s",
            peer,
            rate,
            higher_is_better=True,
        ),
    ]


def write_map(folder, sample, extra_fwhm, size, *, seed=0):
    """Write galaxies in the stored form: in their order, then in random order until there are enough."""
    rng = np.random.default_rng(seed)
    flux, n = stored_flux(sample), sample.sizes["galaxy"]
    rows = np.concatenate([np.arange(n), rng.integers(n, size=size)])[:size]
    out = np.lib.format.open_memmap(folder / "flux.npy", "w+", flux.dtype, (size, flux.shape[1]))
    for first in range(0, size, n):
        out[first : first + n] = flux[rows[first : first + n]]
    out.flush()
    noise, extra = chunk_sigma(sample)[rows], np.asarray(extra_fwhm)[rows]
    xr.Dataset(
        {
            "chunk_sigma": (("galaxy", "chunk"), noise.astype("f2").astype("f4"), {"units": ""}),
            "extra_fwhm": ("galaxy", extra.astype("f4"), {"units": "km / s"}),
        }
    ).to_netcdf(folder / "table.nc", engine="h5netcdf")


def require_agreement(first, found):
    """Raise unless streaming gave the metallicities that preparing galaxy by galaxy gives."""
    mine, theirs = np.array(first)[: found.sizes["galaxy"]], found["log_z_predicted"].values
    difference = float(np.nanmedian(np.abs(mine - theirs)))
    if not difference < 0.02:
        raise ValueError(f"streamed metallicities are off by {difference:.3f} dex in the median")


def main(folder):
    """Two rounds in this process; the second one's seconds, the peak memory and the first answers as JSON."""
    stream_metallicity(folder, progress=False)
    with Usage(interval=0.02) as usage:
        found = stream_metallicity(folder, progress=False)
    first = found["log_z_predicted"].values[:N_PEER].astype(float).tolist()
    print(json.dumps({"seconds": usage.seconds, "peak_mb": usage.peak_rss_mb, "first": first}))


if __name__ == "__main__":
    main(sys.argv[1])
