"""Ask the shipped networks of zahid2019 about the mock samples, and write the tables that notebook and dashboard open.

    python -m tools.measure_zahid2019 stacks      25 stacks by mass: widths of their lines, a chi-square fit with pPXF
    python -m tools.measure_zahid2019 galaxies    the 200,000 galaxies of the main sample
    python -m tools.measure_zahid2019 null        the 50,000 whose metallicity does not know their star formation

``stacks`` comes first: individual galaxies are broadened by what the stacks of their mass lack to 330 km/s. Needs the
memory maps of ``tools/select_zahid2019.py`` and the weights of ``tools/train_zahid2019.py``. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pooch
import torch
import xarray as xr

from spectool.measure.line_widths import extra_fwhm, fit_width_mass, spectral_fwhm
from spectool.measure.populations import fit_populations
from spectool.models.metallicity_stream import stream_metallicity
from spectool.zahid2019 import DATA, FILES, SEED, STACKS, open_memmap, read_stacks
from tools.measure_scourfield2023 import round_mantissa
from tools.select_zahid2019 import BLOCKS, SIZES

SAMPLES = {"galaxies": "main", "null": "null"}
#: What is kept of each galaxy, and in steps of what: whole numbers compress.
STEPS = {
    "candidate": 1,
    "redshift": 2e-5,
    "log_mass": 5e-4,
    "log_sfr": 5e-4,
    "log_z_lw": 5e-4,
    "log_age_lw": 2e-3,
    "log_z_predicted": 5e-4,
    "log_z_error": 5e-4,
    "sn": 0.02,
    "h_alpha_sn": 0.2,
    "velocity_dispersion": 0.5,
    "dust2": 5e-3,
    "outlier": 1,
}


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("stacks", *SAMPLES), nargs="+")
    parser.add_argument("--size", type=int, help="of a sample that is not the whole one (a trial)")
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "zahid2019")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = {}
    for what in options.what:
        report[what] = measure_stacks(options) if what == "stacks" else measure_galaxies(what, options)
        print(json.dumps({what: report[what]}))
    return report


def sample_folder(sample, options) -> Path:
    """Where ``tools/select_zahid2019.py`` has put a sample."""
    return options.cache / f"{sample}_{options.size or SIZES[sample]}_seed{SEED}_{BLOCKS}"


def measure_stacks(options) -> dict:
    """Line widths and chi-square metallicities of the stacks; both are columns of the file that is written."""
    with xr.open_dataset(sample_folder("main", options) / "stacks.nc", engine="h5netcdf") as file:
        stacks = file.load()
    stacks = stacks.isel(stack=np.flatnonzero(stacks["n_galaxies"].values > 0)).drop_vars("scatter")
    stacks = stacks.assign(spectral_fwhm(stacks).data_vars)
    fitted = fit_populations(stacks, n_workers=1, n_bootstrap=10, progress=not options.quiet)
    for name in ("log_z_lw", "log_z_lw_error", "age_lw", "chi2", "fit_seconds", "stellar_dispersion"):
        stacks[f"ppxf_{name}"] = ("stack", fitted[name].values, fitted[name].attrs)
    for name in ("ivar", "truth"):  # 0.2% of these will do
        stacks[name] = stacks[name].copy(data=round_mantissa(np.ascontiguousarray(stacks[name].values)))
    encoding = {name: {"zlib": True, "complevel": 9, "shuffle": True} for name in stacks.data_vars}
    path = options.out / STACKS
    stacks.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    path.chmod(0o644)
    seconds = float(fitted["fit_seconds"].mean())
    return {"stacks": stacks.sizes["stack"], "mb": path.stat().st_size / 1e6, "seconds per fit": seconds}


def measure_galaxies(what, options) -> dict:
    """Metallicities of a sample, each galaxy broadened by what its mass asks for."""
    folder = sample_folder(SAMPLES[what], options)
    _, table = open_memmap(folder)
    stacks = read_stacks(options.out / STACKS)
    extra, above = extra_fwhm(table["log_mass"].values, fit_width_mass(stacks))
    begin = time.perf_counter()
    said = stream_metallicity(folder, extra_fwhm=extra, progress=not options.quiet)
    seconds = time.perf_counter() - begin
    product = tabulate(said.assign(chunk_columns(table)))
    product.attrs = {"recipe": table.attrs["recipe"], "counts": table.attrs["counts"], "z_sun": 0.02}
    path = options.out / FILES[SAMPLES[what]]
    product.to_netcdf(path, engine="h5netcdf", encoding=whole_numbers(product))
    path.chmod(0o644)
    off = product["log_z_predicted"].values - product["log_z_lw"].values
    return {
        "galaxies": product.sizes["galaxy"],
        "seconds": seconds,
        "mb": path.stat().st_size / 1e6,
        "wider than the models": float(above.mean()),
        "outliers": float(product["outlier"].values.mean()),
        "bias": float(np.nanmedian(off)),
        "scatter": float(0.5 * np.diff(np.nanpercentile(off, [15.87, 84.13]))[0]),
    }


def chunk_columns(table) -> dict:
    """Columns that are made of those of the memory map's table."""
    dex_gyr = {"units": "dex(Gyr)", "long_name": "true light-weighted age"}
    h_alpha = table["line_sn"].sel(line="Hα", drop=True)
    return {
        "log_age_lw": ("galaxy", np.log10(table["age_lw"].values), dex_gyr),
        "h_alpha_sn": ("galaxy", h_alpha.values, {"units": "", "long_name": "S/N of Hα"}),
    }


def tabulate(said) -> xr.Dataset:
    """The columns that are kept."""
    return xr.Dataset({name: ("galaxy", said[name].values, said[name].attrs) for name in STEPS})


def whole_numbers(product) -> dict:
    """How to store columns as whole numbers; the lowest of them stands for NaN."""
    encoding = {}
    for name, step in STEPS.items():
        compress = {"zlib": True, "complevel": 9, "shuffle": True}
        if step == 1:
            encoding[name] = compress | {"dtype": "i4" if name == "candidate" else "i1"}
            product[name] = product[name].astype(encoding[name]["dtype"])
            continue
        values = product[name].values
        middle = float(np.round(0.5 * (np.nanmin(values) + np.nanmax(values)), 3))
        reach = 32766 * step
        product[name] = product[name].copy(data=np.clip(values, middle - reach, middle + reach))
        packed = {"dtype": "i2", "scale_factor": step, "add_offset": middle, "_FillValue": -32768}
        encoding[name] = compress | packed
    return encoding


if __name__ == "__main__":
    main()
