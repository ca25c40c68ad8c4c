"""Training of the three networks of Surana et al. (2020), and their galaxies per second beside the fit they learn from.

As many galaxies as the paper's (76,455; 64% of them train), with labels of a teacher that knows 15,000 models, which is
quicker to draw than the usual 50,000. One thread: a second one does not help networks so small.
"""

import torch

from benchmarks.row import make_row, seconds
from benchmarks.synthesis import take_turns
from spectool.measure.sedfit import draw_library, fit_library
from spectool.models.bands import read_inputs
from spectool.models.ensemble import BandEnsemble
from spectool.papers.surana2020.network import (
    TABLE_3,
    UNITS,
    read_labels,
    score_properties,
    split_galaxies,
    train_network,
)
from spectool.papers.surana2020.sample import PAPER_LEFT
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid

N_MODELS = 15_000
N_PEER = 500
BUDGET = 180.0


def run():
    """Both rows: seconds for all three networks beside the budget, and galaxies per second beside the library fit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure(*make_data(PAPER_LEFT, N_MODELS))
    finally:
        torch.set_num_threads(threads)


def make_data(n, n_models):
    """Galaxies with all bands and the teacher's labels, and the teacher's library."""
    averages = make_band_averages(SSPGrid.embedded("broadband"), load_filters())
    library = draw_library(n_models, averages=averages, seed=0, redshift_step=0.04, progress=False)
    sample = observe_gama(draw_gama(n, averages=averages, seed=1), seed=2, facilities={})
    return fit_library(sample, library, progress=False), library


def measure(sample, library, *, epochs=None, limits=TABLE_3):
    """Train, require the paper's scatter, and time the predictions; ``epochs`` and ``limits`` for trials."""
    inputs, labels = read_inputs(sample, list(sample["band"].values)), read_labels(sample)
    rows = split_galaxies(len(inputs))
    members = []

    def train():
        for k, name in enumerate(UNITS):
            parts = [(inputs.take(rows[part]), labels[rows[part], k : k + 1]) for part in ("train", "valid")]
            model, _ = train_network(*parts[0], *parts[1], outputs=(name,), epochs=epochs, progress=False)
            members.append(model)

    spent = seconds(train)
    networks = BandEnsemble(members)
    scores = score_properties(
        networks.predict(inputs.take(rows["test"]))[0], labels[rows["test"]], networks.outputs
    )
    require_scatter(scores, limits)
    few = sample.isel(galaxy=slice(0, N_PEER))
    n_few = few.sizes["galaxy"]
    rate, peer_rate = take_turns(
        lambda: networks.predict(read_inputs(sample, networks.bands)),
        len(inputs),
        lambda: fit_library(few, library, progress=False),
        n_few,
    )
    reached = ", ".join(f"{row['sigma']:.3f}" for row in scores.values())
    theirs = sum(row["seconds"] for row in TABLE_3.values())
    budget = (
        f"the budget; the paper took {theirs} s on an i7 of 2.2 GHz; sigma {reached} dex (mass, SFR, dust) on "
        f"{len(rows['test'])} test galaxies, one thread"
    )
    peer = f"fit_library, the teacher, {library.sizes['model']} models, one thread each"
    return [
        make_row("sednet_training_seconds", spent, "s", budget, BUDGET, higher_is_better=False),
        make_row("sednet_galaxies_per_second", rate, "galaxies/s", peer, peer_rate, higher_is_better=True),
    ]


def require_scatter(scores, limits):
    """Raise if a network is worse than the paper's: seconds count only for networks as good."""
    worse = [
        f"{name} {scores[name]['sigma']:.4f} dex (paper {limits[name]['sigma']:.4f})"
        for name in limits
        if not scores[name]["sigma"] <= limits[name]["sigma"]
    ]
    if worse:
        raise ValueError(
            f"the networks scatter more than the paper's about their teacher: {', '.join(worse)}"
        )
