"""Seconds for a matrix of mutual information, latents against parameters, beside gmm-mi as it comes."""

from importlib.metadata import version

import numpy as np
import xarray as xr

from benchmarks.row import make_row, seconds
from spectool.measure.information import mutual_information_matrix

N_GALAXIES = 2000
# The peer is timed on all pairs that depend on each other, and on a few of the many that do not.
DEPENDENT = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (0, 4))
INDEPENDENT = ((5, 5), (6, 7), (2, 6), (4, 1))


def draw_pairs(seed=0):
    """Seven latents and eight parameters: linear, curved, two-peaked, fanned out and independent."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((N_GALAXIES, 7))
    noise = rng.standard_normal((N_GALAXIES, 8))
    parameter = noise.copy()
    parameter[:, 0] = 0.9 * latent[:, 0] + 0.4 * noise[:, 0]
    parameter[:, 1] = latent[:, 1] ** 2 + 0.3 * noise[:, 1]
    parameter[:, 2] = np.where(latent[:, 2] > 0.5, 2.0, -1.0) + 0.4 * noise[:, 2]
    parameter[:, 3] = np.exp(0.5 * latent[:, 3]) * noise[:, 3]
    parameter[:, 4] = 0.5 * latent[:, 4] + 0.5 * latent[:, 0] + 0.7 * noise[:, 4]
    return (
        xr.DataArray(latent, dims=("galaxy", "latent")),
        xr.Dataset({f"parameter_{k}": ("galaxy", parameter[:, k]) for k in range(8)}),
    )


def mi_matrix():
    """Seconds for 7 x 8 pairs of 2000 galaxies with errors and bias, on all workers that are granted."""
    from gmm_mi.mi import EstimateMI

    latent, parameters = draw_pairs()

    def run_ours():
        mutual_information_matrix(latent, parameters, seed=0, progress=False)

    def run_peer(pairs):
        for i, j in pairs:
            pair = np.stack([latent.values[:, i], parameters[f"parameter_{j}"].values], axis=1)
            EstimateMI().fit_estimate(pair)

    ours = seconds(run_ours)
    n_independent = latent.sizes["latent"] * len(parameters.data_vars) - len(DEPENDENT)
    peer = seconds(run_peer, DEPENDENT) + seconds(run_peer, INDEPENDENT) * n_independent / len(INDEPENDENT)
    name = f"gmm-mi {version('gmm-mi')} with its defaults, one process, scaled from ten pairs"
    return make_row("mi_matrix_seconds", ours, "s", name, peer, higher_is_better=False)
