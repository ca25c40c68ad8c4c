"""Principal components of single bursts, and a small network on them (Zahid et al. 2019, Section 8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.models.chunked import SN_LEVELS, assign_levels
from spectool.models.denoise import PCAModel, fit_pca
from spectool.models.layers import GaussianMLP, gaussian_loss
from spectool.models.training import History, fit, one_cycle
from spectool.papers.zahid2019.network import add_coefficient_noise
from spectool.papers.zahid2019.sample import FWHM
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import SSPGrid
from spectool.synth.histories import metallicities, metallicity_operator

YOUNGEST, OLDEST = 1e6, 14e9
HIDDEN = (64, 32)


def fit_ssp_pca(grid: SSPGrid | None = None, *, n_components: int = 10, fwhm: float = FWHM) -> PCAModel:
    """Principal components of prepared single bursts: all of a grid's ages from 1 Myr to 14 Gyr, 21 metallicities."""
    grid = grid or SSPGrid.embedded()
    continuum = ContinuumBasis.optical()
    ages = (grid.age >= YOUNGEST) & (grid.age <= OLDEST)
    ssps = smooth_ssps(grid, continuum.kept_wavelength, fwhm)[:, ages]
    bursts = np.tensordot(metallicity_operator(metallicities(), grid), ssps, 1)
    prepared = normalize_continuum(bursts.reshape(-1, bursts.shape[-1]), None, continuum)[0]
    return fit_pca(prepared, continuum.kept_wavelength, n_latent=n_components)


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
    """A network of two layers on coefficients, noise drawn afresh, stopped on held-out histories."""
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
