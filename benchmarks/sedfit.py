"""Galaxies fitted per second with 50,000 models, beside a loop over galaxies in plain numpy and a fit by bagpipes; one
thread each."""

import contextlib
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.row import make_row, seconds
from benchmarks.synthesis import take_turns
from spectool.measure.sedfit import MODEL_ERROR, PROPERTIES, draw_library, fit_library
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.photometry import REFERENCE_MPC, luminosity_distance, make_band_averages
from spectool.synth import SSPGrid
from spectool.synth.population import age_of_universe

N_OURS = 2_000
N_PEER = 32
N_LIVE = 300
REDSHIFTS = 0.05, 0.20
AGREEMENT = 0.02
"""[dex] A speed counts only for the same work: 95% of the medians and percentiles must be those of the peer to this;
the peer moves the models to the very redshift of each galaxy."""


SIGMAS = 2.0
"""Bagpipes has priors of its own: the medians must be the same to this many half-widths of 16-84%."""


def run():
    """Galaxies per second, from fluxes to medians and percentiles; the library is drawn before."""
    with _one_thread():
        library, sample, preparation = _prepare()
        few = sample.isel(galaxy=slice(0, N_PEER))
        theirs = []

        def run_ours():
            return fit_library(sample, library, progress=False)

        def run_peer():
            theirs[:] = [fit_one_by_one(few, library)]

        run_peer()
        ours = _columns(run_ours().isel(galaxy=slice(0, N_PEER)))
        apart = float(np.percentile(np.abs(ours - theirs[0]), 95))
        if not apart < AGREEMENT:
            raise ValueError(f"the fits are not those of the peer: they differ by {apart:.3f} dex")
        rate, peer_rate = take_turns(run_ours, N_OURS, run_peer, N_PEER)
    n_models = library.sizes["model"]
    peer = f"numpy {np.__version__}, galaxy by galaxy, the same {n_models} models, drawn in {preparation:.0f} s once"
    return make_row("sedfit_galaxies_per_second", rate, "galaxies/s", peer, peer_rate, higher_is_better=True)


def against_bagpipes():
    """Galaxies per second beside nested sampling by bagpipes, which takes a minute or two for its one galaxy."""
    with _one_thread():
        library, sample, preparation = _prepare()
        complete = ~sample["mask"].values.any(axis=1) & ~sample["is_quiescent"].values.astype(bool)
        one = sample.isel(galaxy=[int(np.argmax(complete))])
        theirs = []
        peer_seconds = seconds(lambda: theirs.append(fit_with_bagpipes(one)))
        ours = _columns(fit_library(one, library, progress=False))[0, :2]
        apart = np.abs(ours[:, 0] - theirs[0][:, 0])
        allowed = SIGMAS * 0.5 * np.hypot(*(found[:, 2] - found[:, 1] for found in (ours, theirs[0])))
        if not (apart < allowed).all():
            raise ValueError(f"the fits are not those of bagpipes: {ours.round(3)} and {theirs[0].round(3)}")
        rate = N_OURS / seconds(lambda: fit_library(sample, library, progress=False))
    peer = (
        f"bagpipes {version('bagpipes')}, nested sampling by nautilus with {N_LIVE} live points, one galaxy; medians "
        f"{apart[0]:.2f} (mass) and {apart[1]:.2f} dex (SFR) apart; our library was drawn in {preparation:.0f} s once"
    )
    return make_row(
        "sedfit_vs_bagpipes_fit", rate, "galaxies/s", peer, 1 / peer_seconds, higher_is_better=True
    )


@contextlib.contextmanager
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prepare():
    """A library, galaxies as GAMA sees them, and the seconds that the library took."""
    averages = make_band_averages(
        SSPGrid.embedded("broadband"), load_filters(), highest_redshift=REDSHIFTS[1], step=0.01
    )
    made = []
    preparation = seconds(
        lambda: made.append(draw_library(averages=averages, seed=0, redshift_step=0.05, progress=False))
    )
    sample = observe_gama(draw_gama(N_OURS, averages=averages, seed=1, redshift_range=REDSHIFTS), seed=2)
    return made[0], sample, preparation


def _columns(fitted):
    """Median, 16 and 84%, shape (galaxy, property, 3)."""
    ends = ("_fit", "_fit_low", "_fit_high")
    return np.array([[fitted[name + end].values for end in ends] for name in PROPERTIES]).transpose(2, 0, 1)


def fit_with_bagpipes(sample, *, model_error=MODEL_ERROR, n_live=N_LIVE):
    """Median, 16 and 84% of log mass and log SFR of the first galaxy; exponential histories, flat priors."""
    import bagpipes

    micro = 1e6 * sample["flux"].values[0].astype(float)
    error = np.hypot(1e6 * sample["flux_error"].values[0], model_error * np.maximum(micro, 0))
    history = {"age": (0.1, 13.0), "tau": (0.3, 10.0), "tau_prior": "log_10", "massformed": (8.0, 12.5)}
    dust = {"type": "CF00", "n": 0.7, "Av": (0.0, 3.0), "eta": (1.0, 4.0), "qpah": (0.47, 4.58)}
    dust |= {"umin": (0.1, 24.5), "umin_prior": "log_10", "gamma": (1e-4, 0.2), "gamma_prior": "log_10"}
    model = {
        "redshift": float(sample["redshift"][0]),
        "exponential": history | {"metallicity": (0.02, 2.0)},
        "dust": dust,
        "nebular": {"logU": -3.0},
        "t_bc": 0.01,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        paths = []
        for name, curve in load_filters(sample["band"].values).items():
            paths.append(str(Path(folder) / f"{name}.txt"))
            np.savetxt(paths[-1], np.transpose(curve))
        galaxy = bagpipes.galaxy(
            "1", lambda _: np.c_[micro, error], spectrum_exists=False, filt_list=paths, phot_units="mujy"
        )
        fit = bagpipes.fit(galaxy, model)
        fit.fit(verbose=False, n_live=n_live, sampler="nautilus")
        fit.posterior.get_basic_quantities()
        drawn = fit.posterior.samples["stellar_mass"], np.log10(fit.posterior.samples["sfr"])
    return np.percentile(drawn, (50, 16, 84), axis=1).T


def fit_one_by_one(sample, library, *, model_error=MODEL_ERROR):
    """Median, 16 and 84% of each property by the textbook: every model at every galaxy's redshift, sorted exactly."""
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
