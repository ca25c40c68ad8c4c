"""Ten principal components and other learners: what Section 8 of Zahid et al. (2019) tried beside the network.

The components are those of single bursts over ages and metallicities. They are orthonormal, so white noise of the
pixels is white noise of the same deviation in the coefficients: it is drawn there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spectool.continuum_basis import ContinuumBasis, normalize_continuum
from spectool.models.chunked_noise import SN_LEVELS, assign_levels
from spectool.models.mlp import GaussianMLP, gaussian_loss
from spectool.models.pca import PCAModel, fit_pca
from spectool.models.training import History, fit, one_cycle
from spectool.parallel import n_workers
from spectool.synth.common_resolution import smooth_ssps
from spectool.synth.grid import SSPGrid
from spectool.synth.zahid2019 import FWHM
from spectool.synth.zahid2019_histories import metallicities, metallicity_operator

YOUNGEST = 1e6
OLDEST = 14e9
HIDDEN = (64, 32)


def fit_ssp_pca(grid: SSPGrid | None = None, *, n_components: int = 10, fwhm: float = FWHM) -> PCAModel:
    """Principal components of prepared single bursts: all of a grid's ages from 1 Myr to 14 Gyr, 21 metallicities.

    Parameters
    ----------
    grid
        Default: the embedded one.
    n_components
        The paper's are about 10.
    fwhm
        Resolution [km/s].

    Returns
    -------
    PCAModel
        On the pixels of `spectool.continuum.prepare_zahid2019`.
    """
    grid = grid or SSPGrid.embedded()
    continuum = ContinuumBasis.zahid2019()
    ages = (grid.age >= YOUNGEST) & (grid.age <= OLDEST)
    ssps = smooth_ssps(grid, continuum.kept_wavelength, fwhm)[:, ages]
    bursts = np.tensordot(metallicity_operator(metallicities(), grid), ssps, 1)
    prepared = normalize_continuum(bursts.reshape(-1, bursts.shape[-1]), None, continuum)[0]
    return fit_pca(prepared, continuum.kept_wavelength, n_latent=n_components)


def project(pca: PCAModel, flux, *, batch_size: int = 4096) -> np.ndarray:
    """Coefficients (N, n_components), float32, of prepared spectra (N, n_kept)."""
    found = np.empty((len(flux), pca.n_latent), np.float32)
    with torch.inference_mode():
        for start in range(0, len(flux), batch_size):
            part = np.ascontiguousarray(flux[start : start + batch_size], dtype=np.float32)
            found[start : start + batch_size] = pca.encode(torch.from_numpy(part))[0]
    return found


def add_coefficient_noise(coefficients: np.ndarray, *, seed, levels=SN_LEVELS) -> np.ndarray:
    """Coefficients with the noise of spectra, a fifth at each S/N, once: trees cannot have it drawn afresh."""
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    sigma = assign_levels(len(coefficients), levels, generator)[:, None]
    noise = torch.randn(coefficients.shape, generator=generator)
    return coefficients + (sigma * noise).numpy()


def train_forest(coefficients, labels, *, seed=0, repeats: int = 2, n_trees: int = 60, min_leaf: int = 20):
    """A random forest on noisy coefficients; returns a function from coefficients to log Z (N,)."""
    from sklearn.ensemble import RandomForestRegressor

    x, y = _noisy_copies(coefficients, labels, repeats, seed)
    forest = RandomForestRegressor(
        n_trees, min_samples_leaf=min_leaf, max_features=0.5, random_state=seed, n_jobs=n_workers()
    )
    return forest.fit(x, y).predict


def train_boosting(
    coefficients, labels, *, seed=0, repeats: int = 4, n_iterations: int = 300, rate: float = 0.05
):
    """Gradient-boosted trees (scikit-learn's histogram ones, in place of xgboost); returns as `train_forest`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, y = _noisy_copies(coefficients, labels, repeats, seed)
    boosted = HistGradientBoostingRegressor(
        max_iter=n_iterations, learning_rate=rate, early_stopping=False, random_state=seed
    )
    return boosted.fit(x, y).predict


def train_small_network(
    coefficients: np.ndarray,
    labels: np.ndarray,
    heldout: np.ndarray,
    heldout_labels: np.ndarray,
    *,
    epochs: int = 40,
    lr: float = 1e-2,
    batch_size: int = 512,
    seed: int = 0,
    callbacks: tuple[Callable[[History], None], ...] = (),
    progress: bool = True,
) -> tuple[GaussianMLP, History]:
    """A network of two layers on coefficients, noise drawn afresh, stopped on held-out histories.

    Parameters
    ----------
    coefficients, labels
        (N, n_components) without noise, (N,) log Z [dex].
    heldout, heldout_labels
        The same of histories that are not trained on.
    epochs, lr, batch_size, seed, callbacks, progress
        As of `spectool.models.training.fit`.

    Returns
    -------
    model, history
        The model's errors are scaled on the held-out histories.
    """
    model = GaussianMLP(
        n_in=coefficients.shape[1], n_out=1, hidden=HIDDEN, names=["log_z_lw"], units=["dex"], seed=seed
    )
    noisy = add_coefficient_noise(coefficients, seed=[seed, 0])
    model.set_statistics(noisy, labels[:, None])
    valid_x = np.tile(heldout, (len(SN_LEVELS), 1))
    valid_x = add_coefficient_noise(valid_x, seed=[seed, 1])
    valid = {"x": valid_x, "y": np.tile(heldout_labels[:, None], (len(SN_LEVELS), 1)).astype("f4")}

    def add_noise(batch, step):
        x = batch["x"]
        sigma = assign_levels(len(x), SN_LEVELS, step.generator)[:, None]
        return {**batch, "x": x + sigma * torch.randn(x.shape, generator=step.generator)}

    history = fit(
        model,
        {"x": coefficients, "y": labels[:, None].astype("f4")},
        valid,
        loss=gaussian_loss,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        schedule=one_cycle(),
        patience=None,
        augment=add_noise,
        callbacks=callbacks,
        seed=seed,
        progress=progress,
    )
    model.calibrate(valid["x"], valid["y"])
    return model, history


def _noisy_copies(coefficients, labels, repeats, seed):
    copies = [add_coefficient_noise(coefficients, seed=[seed, k]) for k in range(repeats)]
    return np.concatenate(copies), np.tile(labels, repeats)
