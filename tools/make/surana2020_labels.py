"""Make the mock GAMA sample with its teacher, and write the teacher's labels that the package ships.

    python -m tools.make.surana2020_labels        # 120,114 galaxies, 50,000 models: 10 minutes on one core, resumable

The galaxies themselves are drawn again from their seed by `spectool.papers.surana2020.sample.read_surana2020`.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from spectool.measure.sedfit import N_MODELS, PROPERTIES
from spectool.papers.surana2020 import sample as surana2020
from spectool.papers.surana2020.sample import CHI2_STEP, SEED, STATED, STEP, block_seed
from spectool.parallel import n_workers
from spectool.surveys.gama import draw_gama, load_filters
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid
from tools.command import CACHE, make_parser, write_table

OPTIONS = {
    "n": (surana2020.PAPER_TOTAL, "galaxies before the cuts"),
    "n_models": (N_MODELS, "of the teacher's library"),
    "out": (surana2020.LABELS, "file to write"),
    "cache": (CACHE / "surana2020", "folder for what is made on the way"),
    "threads": (None, "default: what the machine grants"),
}


def main(arguments=None) -> None:
    """Do what the command line says."""
    options = make_parser(__doc__, OPTIONS).parse_args(arguments)
    torch.set_num_threads(options.threads or n_workers())
    choice = {"n_models": options.n_models, "cache": options.cache, "progress": not options.quiet}
    sample = surana2020.make_surana2020(options.n, **choice)
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    mb = write_labels(sample, options.out, averages=averages)
    print(f"{options.out}: {options.n} galaxies, {mb:.2f} MB")


def write_labels(sample, path, *, averages) -> float:
    """Write what the teacher gave for a sample of `make_surana2020`, for `read_surana2020`."""
    drawn = [
        draw_gama(surana2020.BLOCK, averages=averages, seed=block_seed(SEED, block))["candidate"].values
        for block in range(-(-sample.sizes["galaxy"] // surana2020.BLOCK))
    ]
    # What rises little from galaxy to galaxy, or is small, takes little space.
    columns = {}
    for name in PROPERTIES:
        fit, low, high = (np.round(sample[f"{name}_fit{end}"].values / STEP) for end in ("", "_low", "_high"))
        columns |= {f"{name}_fit": fit, f"{name}_fit_low": fit - low, f"{name}_fit_high": high - fit}
    columns["chi2_fit"] = np.round(sample["chi2_fit"].values / CHI2_STEP)
    largest = max(np.abs(values).max() for values in columns.values())
    if not largest < 2**15:
        raise ValueError(f"a label needs over 16 bits: {largest} steps (a galaxy that was not fitted?)")
    candidates = np.concatenate([np.diff(numbers, prepend=0) for numbers in drawn])
    stored = {name: ("galaxy", values.astype("i2")) for name, values in columns.items()}
    about = {"seed": SEED, "block": surana2020.BLOCK, "step": STEP, "chi2_step": CHI2_STEP}
    about["columns"] = "low and high as distances from the median; candidates of whole blocks, as steps"
    about |= {name: sample.attrs[name] for name in STATED}
    stored["candidate"] = ("drawn", candidates.astype("i4"))
    return write_table(xr.Dataset(stored, attrs=about), path)


if __name__ == "__main__":
    main()
