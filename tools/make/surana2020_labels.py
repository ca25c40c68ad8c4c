"""Make the mock GAMA sample with its teacher, and write the teacher's labels that the package ships.

    python -m tools.make.surana2020_labels        # 120,114 galaxies, 50,000 models: 10 minutes on one core, resumable

The galaxies themselves are drawn again from their seed by `spectool.papers.surana2020.sample.read_surana2020`.
"""

from __future__ import annotations

import torch

from spectool.measure.sedfit import N_MODELS
from spectool.papers.surana2020 import sample as surana2020
from spectool.parallel import n_workers
from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid
from tools.command import CACHE, make_parser

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
    sample = surana2020.make_surana2020(
        options.n, n_models=options.n_models, cache=options.cache, progress=not options.quiet
    )
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    surana2020.write_labels(sample, options.out, averages=averages)
    print(f"{options.out}: {options.n} galaxies, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
