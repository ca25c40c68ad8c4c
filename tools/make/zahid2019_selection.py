"""Select the mock SDSS main galaxy sample of zahid2019 and its null sample; write their spectra as memory maps.

    python -m tools.make.zahid2019_selection main
    python -m tools.make.zahid2019_selection null
    python -m tools.make.zahid2019_selection check

Candidates are drawn, screened, observed, measured and selected, sixteen blocks of 4096 at a time, until there are
enough; each such batch is kept, so that a run that was interrupted goes on where it was. Stacks by mass are summed in
passing. In one process 200,000 galaxies take some twenty minutes. ``check`` compares the quick line fluxes with pPXF's.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import pooch
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import write_dataset
from spectool.measure.classes import kauffmann2003
from spectool.papers.candidates import BLOCK, R_BAND, concatenate
from spectool.papers.zahid2019.sample import (
    MEASURED,
    REDSHIFT_RANGE,
    SEED,
    chunk_sigma,
    draw_block,
    observe_candidates,
    renew_metals,
    stored_flux,
)
from spectool.prepare import optical_wavelength
from spectool.spectra import AB_CGS, ANGSTROM_S
from spectool.surveys.sdss import luminosity_to_flux
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import metallicity_weights
from tools.make.gaussian_lines import measure_candidates, measure_gaussian_lines
from tools.make.scourfield2023_selection import MAGNITUDE_LIMIT, predict_h_alpha
from tools.make.stacks import StackSums

SIZES = {"main": 200_000, "null": 50_000}
BLOCKS = 16
ROWS = 512
SCREEN_MAGNITUDE = MAGNITUDE_LIMIT + 0.3
SCREEN_H_ALPHA = 30.0
"""Limits of `screen`: r [mag] of the stars, H-alpha [1e-17 erg/s/cm2]."""
_NODES = np.arange(REDSHIFT_RANGE[0], REDSHIFT_RANGE[1] + 0.01, 0.01)  # where magnitudes are predicted
COLUMNS = (
    "candidate",
    "redshift",
    "log_mass",
    "log_sfr",
    "log_z_star",
    "log_z_lw",
    "age_lw",
    "log_z_gas",
    "log_u",
)
COLUMNS += (
    "dust1",
    "dust2",
    "dust_index",
    "velocity_dispersion",
    "fibre_fraction",
    "r_magnitude",
    "is_quiescent",
)
COLUMNS += ("is_agn", "norm", "light", "sn", "gas_dispersion", "line_flux", "line_sn", "chunk_sigma")
"""What the table of a memory map holds of each galaxy."""
MASS_RANGE = (8.5, 11.5)
MIN_SN = 5.0
MAX_LOG_N2 = -0.05
STEPS = {"redshift": 1e-5, "age_lw": 0.01, "sn": 0.05, "line_sn": 0.1, "line_flux": 0.1, "r_magnitude": 0.005}
"""Precision of columns in shipped files; see `write_selection`."""
CUTS = (
    "r < 17.77",
    "8.5 < log M < 11.5",
    "Hβ S/N >= 5",
    "Hα S/N >= 5",
    "[N II] 6583 S/N >= 5",
    "star-forming (BPT)",
)


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    torch.set_num_threads(1)
    report = check_lines(options) if options.what == "check" else make_sample(options)
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return report


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("main", "null", "check"))
    parser.add_argument(
        "--size", type=int, help="galaxies wanted; default 200,000 (main), 50,000 (null), 500 (check)"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of candidates per batch")
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "zahid2019")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


@cache
def _band_light():
    """Photons of the SSPs in r at redshifts `_NODES`, relative to magnitude 0: (node, Z * age)."""
    grid = embedded_grid()
    wavelength, width = grid.wavelength, np.diff(grid.edges)
    light = []
    for redshift in _NODES:
        inside = np.flatnonzero(np.abs(wavelength * (1 + redshift) - np.mean(R_BAND)) < np.ptp(R_BAND) / 2)
        reference = (width / wavelength)[inside].sum() / (1 + redshift) ** 2
        photons = (grid.flux[..., inside] * (wavelength * width)[inside]).sum(axis=-1)
        light.append(photons / (reference * AB_CGS * ANGSTROM_S / 1e-17))
    distance = luminosity_to_flux(_NODES)
    return np.array(light).reshape(_NODES.size, -1).astype("f4"), np.log(distance)


def predict_r(galaxies):
    """Magnitudes r of the stars of candidates, without synthesizing them; gas and nuclei only make them brighter."""
    grid = embedded_grid()
    light, log_distance = _band_light()
    redshift = galaxies["redshift"].values
    weights = metallicity_weights(10 ** galaxies["log_z_star"].values * grid.z_sun, grid.metallicity)
    mass = galaxies["mass_formed"].values
    node = np.clip(np.rint((redshift - _NODES[0]) / (_NODES[1] - _NODES[0])).astype(int), 0, _NODES.size - 1)
    photons = np.empty(redshift.size)
    for k in np.unique(node):
        rows = np.flatnonzero(node == k)
        by_metallicity = mass[rows] @ light[k].reshape(len(grid.metallicity), -1).T
        photons[rows] = (by_metallicity * weights[rows]).sum(axis=1)
    to_flux = np.exp(np.interp(np.log(redshift), np.log(_NODES), log_distance))
    where = np.mean(R_BAND) / (1 + redshift) / 5500
    depth = galaxies["dust2"].values * where ** galaxies["dust_index"].values
    return -2.5 * np.log10(photons * to_flux) + 1.0857 * depth


def screen(galaxies):
    """Rows of candidates that may pass the selection: r of their stars < 18.07, and H-alpha above 30e-17
    erg/s/cm2.
    """
    bright = np.flatnonzero(predict_r(galaxies) < SCREEN_MAGNITUDE)
    if not bright.size:
        return bright
    return bright[predict_h_alpha(galaxies.isel(galaxy=bright)) > SCREEN_H_ALPHA]


def open_memmap(folder):
    """A sample of spectra on disk, opened without reading them."""
    folder = Path(folder)
    if not (folder / "table.nc").exists():
        state = (
            "is not complete: run the tool again, it goes on where it was"
            if (folder / "flux.npy").exists()
            else ""
        )
        raise FileNotFoundError(
            f"{folder} {state or 'holds no spectra: make them with tools/make/zahid2019_selection.py'}"
        )
    return np.load(folder / "flux.npy", mmap_mode="r"), xr.load_dataset(
        folder / "table.nc", engine="h5netcdf"
    )


class MemoryMap:
    """Writes spectra batch by batch into a folder, and goes on where it was."""

    def __init__(self, folder, size):
        self.folder, self.size = Path(folder), int(size)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "flux.npy"
        shape = (self.size, optical_wavelength().size)
        if path.exists():
            self.flux = np.load(path, mmap_mode="r+")
            if self.flux.shape != shape:
                raise ValueError(f"{path} is for {len(self.flux)} galaxies, not {size}: remove it")
        else:
            self.flux = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)

    def write(self, batch, first, sample):
        """Write the spectra and the columns of one batch; rows from `first`. Returns how many had room."""
        n = min(sample.sizes["galaxy"], self.size - first)
        sample = sample.isel(galaxy=slice(n))
        if n:
            self.flux[first : first + n] = stored_flux(sample)
            self.flux.flush()
        table = sample.assign(chunk_sigma=(("galaxy", "chunk"), chunk_sigma(sample), {"units": ""}))
        columns = {name: table[name].transpose("galaxy", ...).values for name in COLUMNS}
        np.savez(self.folder / f"batch_{batch:05d}.npz", **columns)
        return n

    def finish(self, n_batches, attrs, units, lines):
        """Put the batches' columns together into ``table.nc`` and remove them."""
        paths = [self.folder / f"batch_{batch:05d}.npz" for batch in range(n_batches)]
        parts = [dict(np.load(path)) for path in paths]
        dims = {
            "line_flux": ("galaxy", "line"),
            "line_sn": ("galaxy", "line"),
            "chunk_sigma": ("galaxy", "chunk"),
        }
        table = xr.Dataset(attrs={k: v if isinstance(v, str) else json.dumps(v) for k, v in attrs.items()})
        for name in COLUMNS:
            values = np.concatenate([part[name] for part in parts])
            values = values.astype("f4") if values.dtype.kind == "f" else values
            table[name] = (dims.get(name, ("galaxy",)), values, {"units": units.get(name, "")})
        table = table.assign_coords(line=list(lines))
        write_dataset(table, self.folder / "table.nc", encoding={n: {"zlib": True} for n in COLUMNS})
        for path in paths:
            path.unlink()
        return table


def select(table):
    """Apply the selection of Section 3.1: main galaxies with lines, star-forming after Kauffmann et al. (2003)."""
    flux, sn = (
        {name: table[column].sel(line=name).values for name in table["line"].values}
        for column in ("line_flux", "line_sn")
    )
    log_mass = table["log_mass"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        log_n2 = np.log10(flux["[N II] 6583"] / flux["Hα"])
        log_o3 = np.where(flux["[O III] 5007"] <= 0, -np.inf, np.log10(flux["[O III] 5007"] / flux["Hβ"]))
    steps = (
        table["r_magnitude"].values < MAGNITUDE_LIMIT,
        (log_mass > MASS_RANGE[0]) & (log_mass < MASS_RANGE[1]),
        *(sn[name] >= MIN_SN for name in ("Hβ", "Hα", "[N II] 6583")),
        (log_o3 < kauffmann2003(log_n2)) & (log_n2 < MAX_LOG_N2),
    )
    passed, counts = np.ones(log_mass.size, bool), {}
    for name, step in zip(CUTS, steps, strict=True):
        passed = passed & step
        counts[name] = int(passed.sum())
    return passed, counts


def write_selection(sample, path, *, steps=None):
    """Write per-galaxy columns in little space, for `read_products`: floats as multiples of a step, compressed."""
    encoding = {}
    for name, column in sample.data_vars.items():
        encoding[name] = {"zlib": True, "complevel": 9, "shuffle": True}
        if column.dtype.kind == "f":
            step = (STEPS | (steps or {})).get(name, 0.002)
            largest = float(np.nanmax(np.abs(column.values), initial=0.0)) / step
            kind, fill = ("i2", -(2**15)) if largest < 2**15 - 1 else ("i4", -(2**31))
            encoding[name] |= {"dtype": kind, "scale_factor": step, "_FillValue": fill}
    sample.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def make_sample(options) -> dict:
    """Go on until the memory map is full; then its table and the stacks."""
    size = options.size or SIZES[options.what]
    folder = options.cache / f"{options.what}_{size}_seed{options.seed}_{options.blocks}"
    if (folder / "table.nc").exists():
        return describe(folder)
    store, state = MemoryMap(folder, size), folder / "progress.npz"
    stacks, done = StackSums.load(state) if state.exists() else (StackSums(), {})
    batch, rows, seconds = int(done.get("batch", 0)), int(done.get("rows", 0)), float(done.get("seconds", 0))
    counts = json.loads(str(done["counts"])) if done else {}
    with tqdm(total=size, initial=rows, desc=options.what, unit="galaxy", disable=options.quiet) as bar:
        while rows < size:
            begin = time.perf_counter()
            chosen, some = select_batch(batch, options)
            n = store.write(batch, rows, chosen)
            stacks.add(chosen.isel(galaxy=slice(n)))
            counts = {name: counts.get(name, 0) + value for name, value in some.items()}
            batch, rows, seconds = batch + 1, rows + n, seconds + time.perf_counter() - begin
            about = {"batch": batch, "rows": rows, "seconds": seconds, "counts": json.dumps(counts)}
            stacks.save(state, **about)
            bar.update(n)
    recipe = {
        "sample": options.what,
        "seed": options.seed,
        "blocks": batch * options.blocks,
        "seconds": round(seconds),
    }
    units = {name: chosen[name].attrs.get("units", "") for name in COLUMNS if name in chosen}
    stacks.to_dataset().to_netcdf(folder / "stacks.nc", engine="h5netcdf")
    store.finish(batch, {"counts": counts, "recipe": recipe}, units, MEASURED)
    return describe(folder)


def select_batch(batch, options):
    """The selected galaxies among some blocks, measured; and how many each cut left."""
    null, seed = options.what == "null", options.seed
    blocks = range(batch * options.blocks, (batch + 1) * options.blocks)
    drawn = (draw_block(block, seed=seed, null=null) for block in blocks)
    galaxies = concatenate([some.isel(galaxy=screen(some)) for some in drawn])
    counts = {"drawn": BLOCK * options.blocks, "screened": galaxies.sizes["galaxy"]}
    chosen, counts = [], counts | dict.fromkeys(CUTS, 0)
    for first in range(0, galaxies.sizes["galaxy"], ROWS):
        some = galaxies.isel(galaxy=slice(first, first + ROWS))
        seen = measure_candidates(some, seed=seed)
        passed, left = select(seen)
        counts = {name: value + left.get(name, 0) for name, value in counts.items()}
        if null:
            seen = measure_candidates(renew_metals(some.isel(galaxy=passed), seed=seed), seed=seed)
        chosen.append(seen if null else seen.isel(galaxy=passed))
    return concatenate(chosen), counts


def describe(folder) -> dict:
    """What a finished sample is."""
    _, table = open_memmap(folder)
    quartiles = {
        name: np.percentile(table[name].values, [5, 50, 95]).round(3).tolist()
        for name in ("redshift", "log_mass", "sn", "log_z_lw")
    }
    return {
        "folder": str(folder),
        "galaxies": table.sizes["galaxy"],
        "counts": json.loads(table.attrs["counts"]),
        "recipe": json.loads(table.attrs["recipe"]),
        "5, 50, 95%": quartiles,
        "active nuclei left": float(table["is_agn"].mean()),
    }


def check_lines(options) -> dict:
    """Quick fluxes against pPXF's, on galaxies of the main sample: ratio, and scatter in units of the error."""
    from spectool.measure.lines_ppxf import fit_lines

    size, galaxies, block = options.size or 500, [], 0
    while sum(some.sizes["galaxy"] for some in galaxies) < size:
        some = draw_block(block, seed=options.seed)
        some = some.isel(galaxy=screen(some))
        passed, _ = select(measure_candidates(some, seed=options.seed))
        galaxies.append(some.isel(galaxy=passed))
        block += 1
    sample = observe_candidates(concatenate(galaxies).isel(galaxy=slice(size)), seed=options.seed)
    spectra = sample.drop_vars(["true_line_flux", "truth"]).drop_dims("line")
    begin = time.perf_counter()
    quick = measure_gaussian_lines(spectra)
    middle = time.perf_counter()
    slow = fit_lines(spectra, n_workers=1, progress=not options.quiet)
    seconds = {"gaussian": middle - begin, "ppxf": time.perf_counter() - middle}
    report = {"galaxies": size, "ms per galaxy": {k: round(1e3 * v / size, 2) for k, v in seconds.items()}}
    for name in ("Hβ", "[O III] 5007", "Hα", "[N II] 6583"):
        one, two = (table["line_flux"].sel(line=name).values for table in (quick, slow))
        error = quick["line_flux_error"].sel(line=name).values
        true = sample["true_line_flux"].sel(line=name).values
        with np.errstate(divide="ignore"):  # pPXF's fluxes can be exactly 0
            ratio = one / two
        report[name] = {
            "median ratio to pPXF": round(float(np.nanmedian(ratio)), 4),
            "scatter of the ratio (68%)": round(float(np.diff(np.nanpercentile(ratio, [16, 84]))[0] / 2), 4),
            "median difference / error": round(float(np.nanmedian((one - two) / error)), 3),
            "rms difference / error": round(float(np.sqrt(np.nanmean(((one - two) / error) ** 2))), 3),
            "median ratio to truth": round(float(np.nanmedian(one / true)), 4),
            "pPXF's median ratio to truth": round(float(np.nanmedian(two / true)), 4),
        }
    return report


if __name__ == "__main__":
    main()
