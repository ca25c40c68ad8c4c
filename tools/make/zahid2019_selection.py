"""Select the mock SDSS main galaxy sample of zahid2019 and its null sample; write their spectra as memory maps.

    python -m tools.make.zahid2019_selection main
    python -m tools.make.zahid2019_selection null

Candidates are drawn, screened, observed, measured and selected, sixteen blocks of 4096 at a time, until there are
enough; each such batch is kept, so that a run that was interrupted goes on where it was. Stacks by mass are summed in
passing. In one process 200,000 galaxies take some twenty minutes.
"""

from __future__ import annotations

import json
import time
from functools import cache, partial

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from spectool.continuum import optical_wavelength
from spectool.io import read_dataset, read_or_make, write_dataset
from spectool.measure.classes import kauffmann2003
from spectool.papers.candidates import BLOCK, R_BAND
from spectool.papers.zahid2019.sample import (
    REDSHIFT_RANGE,
    SEED,
    chunk_sigma,
    draw_block,
    renew_metals,
    stored_flux,
)
from spectool.spectra import AB_CGS, ANGSTROM_S
from spectool.surveys.spectrograph import luminosity_to_flux
from spectool.synth.grid import embedded_grid
from spectool.synth.population import concatenate
from spectool.synth.synthesis import metallicity_weights
from tools.command import CACHE, run
from tools.make.gaussian_lines import measure_candidates
from tools.make.scourfield2023_selection import MAGNITUDE_LIMIT, predict_h_alpha
from tools.make.stacks import average_spectra, sum_spectra

SIZES = {"main": 200_000, "null": 50_000}
BLOCKS = 16
OPTIONS = {
    "size": (None, "galaxies wanted; default 200,000 (main), 50,000 (null)"),
    "seed": (SEED, ""),
    "blocks": (BLOCKS, "of candidates per batch"),
    "cache": (CACHE / "zahid2019", "folder for samples"),
}
ROWS = 512
SCREEN_MAGNITUDE = MAGNITUDE_LIMIT + 0.3
SCREEN_H_ALPHA = 30.0
"""Limits of `screen`: r [mag] of the stars, H-alpha [1e-17 erg/s/cm2]."""
_NODES = np.arange(REDSHIFT_RANGE[0], REDSHIFT_RANGE[1] + 0.01, 0.01)  # where magnitudes are predicted
COLUMNS = (
    "candidate", "redshift", "log_mass", "log_sfr", "log_z_star", "log_z_lw", "age_lw", "log_z_gas",
    "log_u", "dust1", "dust2", "dust_index", "velocity_dispersion", "fibre_fraction", "r_magnitude",
    "is_quiescent", "is_agn", "norm", "light", "sn", "gas_dispersion", "line_flux", "line_sn",
    "chunk_sigma",
)  # fmt: skip
"""What the table holds of each galaxy."""
MASS_RANGE = (8.5, 11.5)
MIN_SN = 5.0
MAX_LOG_N2 = -0.05
CUTS = (
    "r < 17.77", "8.5 < log M < 11.5", "Hβ S/N >= 5", "Hα S/N >= 5", "[N II] 6583 S/N >= 5", "star-forming (BPT)",
)  # fmt: skip


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    return run(__doc__, OPTIONS, {what: partial(make_sample, what) for what in SIZES}, arguments)


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
    redshift, mass = galaxies["redshift"].values, galaxies["mass_formed"].values
    weights = metallicity_weights(10 ** galaxies["log_z_star"].values * grid.z_sun, grid.metallicity)
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
    """Rows of candidates that may pass the selection: r of their stars < 18.07, H-alpha above 30e-17 erg/s/cm2."""
    bright = np.flatnonzero(predict_r(galaxies) < SCREEN_MAGNITUDE)
    return bright[predict_h_alpha(galaxies.isel(galaxy=bright)) > SCREEN_H_ALPHA]


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


def make_sample(what, options) -> dict:
    """Batch after batch until there are enough galaxies; then their table and the stacks."""
    size = options.size or SIZES[what]
    folder = options.cache / f"{what}_{size}_seed{options.seed}_{options.blocks}"
    if (folder / "table.nc").exists():
        return describe(folder)
    flux, batches, rows = open_flux(folder, size), [], 0
    with tqdm(total=size, desc=what, unit="galaxy", disable=options.quiet) as bar:
        while rows < size:
            make = partial(make_batch, what, len(batches), flux[rows:], options)
            batches.append(read_or_make(folder / f"batch_{len(batches):05d}.nc", make))
            n = batches[-1].sizes["galaxy"]
            rows += n
            bar.update(n)
    table = xr.concat([batch[list(COLUMNS)] for batch in batches], "galaxy").drop_encoding()
    write_dataset(average_spectra(batches, table), folder / "stacks.nc")
    counts = pd.DataFrame([json.loads(batch.attrs["counts"]) for batch in batches]).sum()
    recipe = {
        "sample": what,
        "seed": options.seed,
        "blocks": len(batches) * options.blocks,
        "seconds": round(sum(batch.attrs["seconds"] for batch in batches)),
    }
    table.attrs = {"counts": json.dumps(counts.to_dict()), "recipe": json.dumps(recipe)}
    for name, column in table.data_vars.items():
        values = column.values.astype("f4") if column.dtype.kind == "f" else column.values
        table[name] = (column.dims, values, {"units": column.attrs.get("units", "")})
    write_dataset(table, folder / "table.nc", encoding={name: {"zlib": True} for name in COLUMNS})
    for path in folder.glob("batch_*.nc"):
        path.unlink()
    return describe(folder)


def open_flux(folder, size) -> np.memmap:
    """Where the spectra (galaxy, 3251) are written, float16."""
    path = folder / "flux.npy"
    if path.exists():
        return np.load(path, mmap_mode="r+")
    folder.mkdir(parents=True, exist_ok=True)
    shape = (size, optical_wavelength().size)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def open_memmap(folder):
    """Spectra of a finished sample, opened without reading them, and their table."""
    if not (folder / "table.nc").exists():
        raise FileNotFoundError(f"{folder} is not complete: run python -m tools.make.zahid2019_selection")
    return np.load(folder / "flux.npy", mmap_mode="r"), read_dataset(folder / "table.nc")


def make_batch(what, batch, flux, options) -> xr.Dataset:
    """The columns of a batch, and the sums of its stacks; its spectra go into the first rows of `flux`."""
    begin = time.perf_counter()
    chosen, counts = select_batch(what, batch, options)
    chosen = chosen.isel(galaxy=slice(len(flux)))
    flux[: chosen.sizes["galaxy"]] = stored_flux(chosen)
    flux.flush()
    sigma = ("galaxy", "chunk"), chunk_sigma(chosen), {"units": ""}
    table = chosen.assign(chunk_sigma=sigma)[list(COLUMNS)].drop_vars("line_wavelength")
    table.attrs = {"counts": json.dumps(counts), "seconds": time.perf_counter() - begin}
    return table.assign(sum_spectra(chosen))


def select_batch(what, batch, options):
    """The selected galaxies among some blocks, measured; and how many each cut left."""
    null, seed = what == "null", options.seed
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
    stated = {name: json.loads(table.attrs[name]) for name in ("counts", "recipe")}
    return {"folder": str(folder), "galaxies": table.sizes["galaxy"], **stated}


if __name__ == "__main__":
    main()
