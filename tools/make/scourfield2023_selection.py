"""Select the galaxies of scourfield2023 and write the list that the package ships.

    python -m tools.make.scourfield2023_selection

Some 200,000 candidates are observed, measured and classified, block by block; every finished block is kept in a cache
folder, so that a run that was interrupted goes on where it was. Then the bins of H-alpha flux are filled, and the
constant of the normalisation is found from the uniform sample's training spectra. Takes some ten minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import joblib
import numpy as np
import pooch
import torch
import xarray as xr
from tqdm.auto import tqdm

from spectool.io import atomic
from spectool.measure.classes import CLASSES
from spectool.papers.scourfield2023 import sample as denoising
from spectool.papers.scourfield2023 import sample as selection
from spectool.papers.scourfield2023.sample import SEED, SELECTION, draw_block, rebuild
from spectool.parallel import n_workers

PILOT_BLOCKS = 4


def main(arguments=None) -> dict:
    """Do what the command line says; the figures are printed and returned."""
    options = parse(arguments)
    samples = {}
    for name, recipe in selection.SAMPLES.items():
        if options.blocks:
            recipe = selection.Recipe(**asdict(recipe) | {"n_blocks": options.blocks})
        table = measure_pool(recipe, options)
        samples[name] = selection.select(table, recipe, seed=options.seed)
        samples[name].attrs["recipe"] = json.dumps(asdict(recipe) | {"seed": options.seed})
    constant = find_constant(samples["uniform"], options)
    for sample in samples.values():
        sample.attrs["constant"] = constant
    write(samples, options.out)
    report = {name: summarize(sample) for name, sample in samples.items()}
    print(json.dumps(report, indent=1))
    return report


def parse(arguments) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--blocks", type=int, help="instead of the recipes' (for a trial)")
    parser.add_argument("--out", type=Path, default=SELECTION)
    parser.add_argument("--cache", type=Path, default=Path(pooch.os_cache("spectool")) / "candidates")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def measure_pool(recipe, options) -> xr.Dataset:
    """Measured candidates of all blocks of a recipe; samples of one population share them."""
    probability = make_probability(recipe, options)
    stated = json.dumps([options.seed, recipe.metallicity_sfr, probability.tolist()])
    folder = options.cache / f"scourfield2023_{hashlib.sha256(stated.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {block: folder / f"block_{block:04d}.npz" for block in range(recipe.n_blocks)}
    missing = [block for block, path in files.items() if not path.exists()]
    jobs = (joblib.delayed(measure_block)(b, probability, recipe, options.seed, files[b]) for b in missing)
    done = joblib.Parallel(n_jobs=n_workers(), return_as="generator_unordered")(jobs)
    for _ in tqdm(done, total=len(missing), desc="candidates", unit="block", disable=options.quiet):
        pass
    tables = [dict(np.load(path)) for path in files.values()]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return xr.Dataset({name: ("galaxy", values) for name, values in columns.items()})


def make_probability(recipe, options) -> np.ndarray:
    """Probabilities to be observed, from the predicted fluxes of a few whole blocks."""
    n = min(PILOT_BLOCKS, recipe.n_blocks)
    pilot = [
        selection.predict_h_alpha(
            draw_block(block, seed=options.seed, metallicity_sfr=recipe.metallicity_sfr)
        )
        for block in range(n)
    ]
    return selection.keep_probability(np.concatenate(pilot), recipe.n_blocks / n, recipe.wanted)


def measure_block(block, probability, recipe, seed, path) -> None:
    """One block's table, written so that it is whole or not there."""
    torch.set_num_threads(1)
    galaxies = selection.screen_block(block, probability, seed=seed, metallicity_sfr=recipe.metallicity_sfr)
    table = selection.measure_candidates(galaxies, seed=seed)
    with atomic(path) as part:
        np.savez_compressed(part, **{name: table[name].values for name in table.data_vars})


def find_constant(sample, options) -> float:
    """The constant of the normalisation, from the noise-free training spectra of the uniform sample."""
    ids = sample["candidate"].values[sample["split"].values == "train"]
    return denoising.fit_constant(rebuild(ids, seed=options.seed, progress=not options.quiet))


def write(samples, path) -> None:
    """All selections in one small file, a group each; classes and splits as numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for position, (name, sample) in enumerate(samples.items()):
        codes = {
            "spectral_class": np.array([CLASSES.index(k) for k in sample["spectral_class"].values], "i1"),
            "is_test": (sample["split"].values == "test").astype("i1"),
            "candidate": sample["candidate"].values.astype("i4"),
            "h_alpha_flux": sample["h_alpha_flux"].values.astype("f4"),
            "h_alpha_bin": sample["h_alpha_bin"].values.astype("i1"),
        }
        units = {"h_alpha_flux": "1e-17 erg / (s cm2)"}
        stored = xr.Dataset({k: ("galaxy", v, {"units": units.get(k, "")}) for k, v in codes.items()})
        stored.attrs = sample.attrs | {"classes": json.dumps(CLASSES)}
        compress = {k: {"zlib": True, "complevel": 9, "shuffle": True} for k in codes}
        mode = "a" if position else "w"
        stored.to_netcdf(path, mode=mode, group=name, engine="h5netcdf", encoding=compress)


def summarize(sample) -> dict:
    """What a selection holds."""
    counts = json.loads(sample.attrs["counts"])
    return {
        "galaxies": sample.sizes["galaxy"],
        "test": int((sample["split"].values == "test").sum()),
        "per_bin": np.sum(list(counts.values()), axis=0).tolist(),
        "counts": counts,
        "natural": json.loads(sample.attrs["natural"]),
        "observed": int(sample.attrs["observed"]),
        "constant": sample.attrs["constant"],
    }


if __name__ == "__main__":
    main()
