"""Galaxies fitted per second with 50,000 models, beside a loop over galaxies in plain numpy; one thread each."""

import numpy as np
import torch

from benchmarks.row import make_row, seconds
from benchmarks.synthesis import take_turns
from spectool.measure.sedfit import MODEL_ERROR, fit_library
from spectool.measure.sedfit_library import PROPERTIES, draw_library
from spectool.surveys.band_averages import REFERENCE_MPC, make_band_averages
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.gama_photometry import luminosity_distance
from spectool.synth import SSPGrid
from spectool.synth.population import age_of_universe

N_OURS = 2_000
N_PEER = 32
REDSHIFTS = 0.05, 0.20
AGREEMENT = 0.02
"""[dex] A speed counts only for the same work: 95% of the medians and percentiles must be those of the peer to this;
the peer moves the models to the very redshift of each galaxy."""


def run():
    """Galaxies per second, from fluxes to medians and percentiles; the library is drawn before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure()
    finally:
        torch.set_num_threads(threads)


def _measure():
    averages = make_band_averages(
        SSPGrid.embedded("broadband"), load_filters(), highest_redshift=REDSHIFTS[1], step=0.01
    )
    made = []
    preparation = seconds(
        lambda: made.append(draw_library(averages=averages, seed=0, redshift_step=0.05, progress=False))
    )
    library = made[0]
    sample = observe_gama(draw_gama(N_OURS, averages=averages, seed=1, redshift_range=REDSHIFTS), seed=2)
    few = sample.isel(galaxy=slice(0, N_PEER))
    theirs = []

    def run_ours():
        return fit_library(sample, library, progress=False)

    def run_peer():
        theirs[:] = [fit_one_by_one(few, library)]

    run_peer()
    fitted = run_ours()
    ours = np.array(
        [
            [fitted[name + end].values[:N_PEER] for end in ("_fit", "_fit_low", "_fit_high")]
            for name in PROPERTIES
        ]
    )
    apart = float(np.percentile(np.abs(ours - theirs[0].transpose(1, 2, 0)), 95))
    if not apart < AGREEMENT:
        raise ValueError(f"the fits are not those of the peer: they differ by {apart:.3f} dex")
    rate, peer_rate = take_turns(run_ours, N_OURS, run_peer, N_PEER)
    n_models = library.sizes["model"]
    peer = f"numpy {np.__version__}, galaxy by galaxy, the same {n_models} models, drawn in {preparation:.0f} s once"
    return make_row("sedfit_galaxies_per_second", rate, "galaxies/s", peer, peer_rate, higher_is_better=True)


def fit_one_by_one(sample, library, *, model_error=MODEL_ERROR):
    """Median, 16 and 84% of each property by the textbook: every model at every galaxy's redshift, sorted exactly.

    Returns
    -------
    ndarray, shape (galaxy, property, 3)
    """
    return np.array(
        [_fit_one(sample.isel(galaxy=i), library, model_error) for i in range(sample.sizes["galaxy"])]
    )


def _fit_one(galaxy, library, model_error):
    z = float(galaxy["redshift"])
    nodes = library["redshift"].values
    k = min(int(np.searchsorted(nodes, z)) - 1, nodes.size - 2)
    share = (z - nodes[k]) / (nodes[k + 1] - nodes[k])
    allowed = library["age_form"].values <= age_of_universe(z)
    used = ~galaxy["mask"].values
    table = library["flux"].values
    model = ((1 - share) * table[k] + share * table[k + 1])[allowed][:, used].astype(float)
    model *= (REFERENCE_MPC / luminosity_distance(z)) ** 2
    flux, error = galaxy["flux"].values[used].astype(float), galaxy["flux_error"].values[used].astype(float)
    variance = error**2 + (model_error * np.maximum(flux, 0)) ** 2
    amplitude = (model * flux / variance).sum(1) / (model**2 / variance).sum(1)
    chi2 = ((flux - amplitude[:, None] * model) ** 2 / variance).sum(1)
    positive = amplitude > 0
    best = chi2[positive].min()
    spread = 1 / np.log(10) / np.sqrt((flux**2 / variance).sum() - best)  # of the amplitude's logarithm
    weight = np.exp(-0.5 * (chi2[positive] - best))
    found = []
    for name in PROPERTIES:
        values = np.log10(amplitude[positive]) + library[name].values[allowed][positive]
        order = np.argsort(values)
        cumulative = np.cumsum(weight[order])
        place = np.searchsorted(cumulative, np.array([0.5, 0.16, 0.84]) * cumulative[-1])
        median, low, high = values[order][place]
        found.append(
            (median, median - np.hypot(median - low, spread), median + np.hypot(high - median, spread))
        )
    return found
