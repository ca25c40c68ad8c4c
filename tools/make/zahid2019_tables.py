"""Ask the shipped networks of zahid2019 about the mock samples, and write the tables that notebook and dashboard open.

    python -m tools.make.zahid2019_tables stacks      25 stacks by mass: widths of lines, a chi-square fit with pPXF
    python -m tools.make.zahid2019_tables galaxies    the 200,000 galaxies of the main sample
    python -m tools.make.zahid2019_tables null        the 50,000 whose metallicity does not know their star formation
    python -m tools.make.zahid2019_tables bins        both, stacked in 15 x 10 bins of mass and star-formation rate

``stacks`` comes first: individual galaxies are broadened by what the stacks of their mass lack to 330 km/s. Needs the
memory maps of ``tools.make.zahid2019_selection`` and the weights of zahid2019. Two minutes on two cores.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from spectool.continuum import optical_wavelength
from spectool.measure.line_widths import extra_fwhm, fit_width_mass, spectral_fwhm
from spectool.measure.mzr import N_MASS, N_SFR, equal_bins
from spectool.measure.populations import fit_populations
from spectool.papers.zahid2019.reader import FWHM, prepare_zahid2019, stream_metallicity
from spectool.papers.zahid2019.sample import DATA, FILES, SEED, read_products
from tools.command import CACHE, run, write_table
from tools.make.scourfield2023_lines import round_mantissa
from tools.make.stacks import by_bin
from tools.make.zahid2019_selection import BLOCKS, SIZES, open_memmap

SAMPLES = {"galaxies": "main", "null": "null"}
OPTIONS = {
    "size": (None, "of a sample that is not the whole one (a trial)"),
    "blocks": (BLOCKS, "that the sample was made with"),
    "cache": (CACHE / "zahid2019", "folder of samples"),
    "out": (DATA, "folder"),
}
ROWS = 4096
#: What is kept of each galaxy, and in steps of what: whole numbers compress.
STEPS = {
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
}


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    return run(__doc__, OPTIONS, COMMANDS, arguments)


def sample_folder(sample, options) -> Path:
    """Where ``tools/make/zahid2019_selection.py`` has put a sample."""
    return options.cache / f"{sample}_{options.size or SIZES[sample]}_seed{SEED}_{options.blocks}"


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
    mb, seconds = write_table(stacks, options.out / FILES["stacks"]), float(fitted["fit_seconds"].mean())
    return {"stacks": stacks.sizes["stack"], "mb": mb, "seconds per fit": seconds}


def measure_galaxies(what, options) -> dict:
    """Metallicities of a sample, each galaxy broadened by what its mass asks for."""
    folder = sample_folder(SAMPLES[what], options)
    _, table = open_memmap(folder)
    stacks = read_products("stacks", path=options.out / FILES["stacks"])
    extra, above = extra_fwhm(table["log_mass"].values, fit_width_mass(stacks))
    begin = time.perf_counter()
    said = stream_metallicity(folder, extra_fwhm=extra, progress=not options.quiet)
    seconds = time.perf_counter() - begin
    product = tabulate(said, table)
    product.attrs = {"recipe": table.attrs["recipe"], "counts": table.attrs["counts"], "z_sun": 0.02}
    mb = write_table(product, options.out / FILES[SAMPLES[what]], steps=STEPS)
    off = product["log_z_predicted"].values - product["log_z_lw"].values
    return {
        "galaxies": product.sizes["galaxy"],
        "seconds": seconds,
        "mb": mb,
        "wider than the models": float(above.mean()),
        "outliers": float(product["outlier"].values.mean()),
        "bias": float(np.nanmedian(off)),
        "scatter": float(0.5 * np.diff(np.nanpercentile(off, [15.87, 84.13]))[0]),
    }


def tabulate(said, table) -> xr.Dataset:
    """The columns that are kept, some made of those of the memory map's table."""
    about = {"units": "dex(Gyr)", "long_name": "true light-weighted age"}
    said["log_age_lw"] = ("galaxy", np.log10(table["age_lw"].values), about)
    h_alpha = table["line_sn"].sel(line="Hα", drop=True)
    said["h_alpha_sn"] = ("galaxy", h_alpha.values, {"units": "", "long_name": "S/N of Hα"})
    outlier = ("galaxy", said["outlier"].values.astype("i1"), said["outlier"].attrs)
    return said[["candidate", *STEPS]].assign(outlier=outlier)


def stack_bins(options) -> dict:
    """Mean spectra of the bins of the paper's Fig. 4, in both samples, prepared as the networks take them."""
    relation = fit_width_mass(read_products("stacks", path=options.out / FILES["stacks"]))
    parts = []
    for what, sample in SAMPLES.items():
        galaxies = read_products(sample, path=options.out / FILES[sample])
        flux, table = open_memmap(sample_folder(sample, options))
        cell = place_galaxies(galaxies)
        mean = mean_spectra(flux, cell, progress=not options.quiet)
        parts.append(prepare_bins(mean, cell, galaxies, table["light"].values, relation))
        parts[-1] = parts[-1].expand_dims(sample=[what])
    product = xr.concat(parts, "sample").assign_attrs(z_sun=0.02, fwhm_kms=FWHM)
    steps = {"flux": 1e-4, "log_mass": 5e-4, "log_sfr": 5e-4, "log_z_light": 5e-4}
    mb = write_table(product, options.out / FILES["bins"], steps=steps)
    return {"bins": product.sizes["galaxy"], "mb": mb}


def place_galaxies(galaxies) -> np.ndarray:
    """Bin of each galaxy, mass bin times 10 plus SFR bin; -1 for outliers."""
    cell = np.full(galaxies.sizes["galaxy"], -1)
    rows = np.flatnonzero((galaxies["outlier"].values == 0) & np.isfinite(galaxies["log_sfr"].values))
    by_mass = equal_bins(galaxies["log_mass"].values[rows], N_MASS)
    for k in range(N_MASS):
        some = rows[by_mass == k]
        cell[some] = N_SFR * k + equal_bins(galaxies["log_sfr"].values[some], N_SFR)
    return cell


def mean_spectra(flux, cell, *, progress) -> np.ndarray:
    """Means (bin, pixel) over the galaxies of each bin, each of equal weight, read batch by batch."""
    total = np.zeros((N_MASS * N_SFR, flux.shape[1]))
    count = np.zeros_like(total)
    for first in tqdm(range(0, len(flux), ROWS), desc="stacking", unit="batch", disable=not progress):
        rows = first + np.flatnonzero(cell[first : first + ROWS] >= 0)
        spectra = flux[rows].astype("f4")
        member = np.zeros((len(total), rows.size), "f4")
        member[cell[rows], np.arange(rows.size)] = 1
        good = np.isfinite(spectra)
        total += member @ np.where(good, spectra, 0)
        count += member @ good.astype("f4")
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def prepare_bins(mean, cell, galaxies, light, relation) -> xr.Dataset:
    """The bins' spectra, prepared, with medians of their galaxies and their true light-weighted metallicity."""
    names, truth = ("log_mass", "log_sfr"), galaxies["log_z_lw"].values
    columns = {name: by_bin(np.median, galaxies[name].values, cell, len(mean)) for name in names}

    def weighted(rows):
        return np.average(truth[rows], weights=light[rows])

    columns["log_z_light"] = by_bin(weighted, np.arange(cell.size), cell, len(mean))
    wavelength = {"wavelength": ("wavelength", optical_wavelength(), {"units": "Angstrom"})}
    spectra = xr.Dataset({"flux": (("galaxy", "wavelength"), mean, {"units": ""})}, coords=wavelength)
    prepared = prepare_zahid2019(spectra, spectral_fwhm=relation(columns["log_mass"]))
    units = {"log_mass": "dex(Msun)", "log_sfr": "dex(Msun / yr)", "log_z_light": "dex"}
    columns = {name: ("galaxy", values, {"units": units[name]}) for name, values in columns.items()}
    count = ("galaxy", np.bincount(cell[cell >= 0], minlength=len(mean)).astype("i4"), {"units": ""})
    return prepared[["flux"]].assign(columns | {"count": count})


COMMANDS = {
    "stacks": measure_stacks,
    "galaxies": partial(measure_galaxies, "galaxies"),
    "null": partial(measure_galaxies, "null"),
    "bins": stack_bins,
}

if __name__ == "__main__":
    main()
