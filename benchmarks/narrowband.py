"""Training of the sixteen networks of Liew-Cain et al. (2021), and ages and metallicities of a million spectra by them.

The sample is the paper's in size (190 galaxies, 19,727 spectra), with true labels. One thread, as in the notebook: a
second one waits, spinning, whenever another process has its core. Beside the networks: boosted trees of the same bands
and folds.
"""

import resource

import numpy as np
import torch
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.models.bands import N_FOLDS, read_bands, split_spectra
from spectool.models.ensemble import BandEnsemble
from spectool.models.peers import train_boosting
from spectool.papers.liewcain2021 import network as paper
from spectool.papers.liewcain2021.network import score_spectra
from spectool.surveys.califa import draw_califa

N_SEDS = 1_000_000
N_PEER = 50_000
LIMITS = {"spectrum": 0.03, "galaxy": 0.16}
"""The paper's robust scatter of ages in Sets A and B [dex]."""


def run():
    """Both rows: seconds for all sixteen networks, and for a million spectra, beside boosted trees."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure(draw_califa(seed=1, progress=False))
    finally:
        torch.set_num_threads(threads)


def measure(sample, *, n=N_SEDS, n_peer=N_PEER, limits=LIMITS, epochs=None):
    """Train, require the paper's scatter, and predict; ``epochs`` and ``limits`` for trials."""
    options = {"live": True, "progress": False} | ({"epochs": epochs} if epochs else {})
    trained, learners = {}, {}

    def train():
        for by in paper.SETS.values():
            for output in paper.UNITS:
                trained[by, output] = paper.train_folds(sample, output, by=by, **options)

    bands = [str(band) for band in sample["band"].values]
    x = trees_inputs(sample, bands)

    def grow():
        labels = paper.read_labels(sample)
        for by in paper.SETS.values():
            fold = split_spectra(sample, by=by)
            for k in range(N_FOLDS):
                learners[by, k] = train_boosting(x[fold != k], labels[fold != k])

    spent, peer_spent = seconds(train), seconds(grow)
    scatter = {
        by: score_spectra(trained[by, "log_age"].predicted, sample["log_age"].values)["sigma"]
        for by in paper.SETS.values()
    }
    require_scatter(scatter, limits)
    networks = BandEnsemble([trained["galaxy", output].models[0] for output in paper.UNITS])
    many = repeat(sample, n)
    before = peak_memory()
    predicted = seconds(paper.predict_populations, many, networks)
    grown = peak_memory() - before
    few = trees_inputs(many.isel(spectrum=slice(0, n_peer)), bands)
    peer = seconds(learners["galaxy", 0], few) * n / len(few)
    reached = ", ".join(f"{by}: {value:.3f}" for by, value in scatter.items())
    trees = "scikit-learn's boosted trees"
    return [
        make_row(
            "cnn_training_seconds",
            spent,
            "s",
            f"{trees}, same sixteen tasks; scatter of ages by {reached} dex; budget 360 s",
            peer_spent,
            higher_is_better=False,
        ),
        make_row(
            "narrowband_1e6_seconds",
            predicted,
            "s",
            f"{trees}, of {len(few):,} spectra and scaled; ours with reading, added {grown:.0f} MB; budget 10 s",
            peer,
            higher_is_better=False,
        ),
    ]


def repeat(sample, n) -> xr.Dataset:
    """Spectra of a sample over and over, up to n of them, each of another brightness."""
    rows = np.arange(n) % sample.sizes["spectrum"]
    brightness = 1 + np.arange(n, dtype=np.float32)[:, None] / n
    flux = sample["flux"].values[rows] * brightness
    return xr.Dataset(
        {"flux": (("spectrum", "band"), flux, {"units": ""})}, coords={"band": sample["band"].values}
    )


def trees_inputs(sample, bands) -> np.ndarray:
    """Magnitudes (spectrum, band) minus their mean, as the networks see them."""
    magnitude = read_bands(sample, bands).value
    return magnitude - magnitude.mean(axis=1, keepdims=True)


def require_scatter(scatter, limits):
    """Raise if the networks scatter more than the paper's: seconds count only for networks as good."""
    worse = [
        f"{by} {scatter[by]:.3f} dex (paper {limits[by]:.3f})"
        for by in limits
        if not scatter[by] <= limits[by]
    ]
    if worse:
        raise ValueError(f"ages scatter more than the paper's in the split by {', '.join(worse)}")


def peak_memory() -> float:
    """Largest resident memory of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
