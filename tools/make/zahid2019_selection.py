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
from pathlib import Path

import numpy as np
import pooch
import torch
from tqdm.auto import tqdm

from spectool.papers.candidates import BLOCK, concatenate
from spectool.papers.zahid2019.sample import (
    COLUMNS,
    CUTS,
    MEASURED,
    SEED,
    MemoryMap,
    draw_block,
    observe_candidates,
    open_memmap,
    renew_metals,
    screen,
    select,
)
from tools.make.gaussian_lines import measure_candidates, measure_gaussian_lines
from tools.make.stacks import StackSums

SIZES = {"main": 200_000, "null": 50_000}
BLOCKS = 16
ROWS = 512


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
