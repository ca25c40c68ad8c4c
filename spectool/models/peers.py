"""Classical peers of the networks, and a search for their settings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spectool.models.chunked import SN_LEVELS, GaussianMLP, assign_levels, gaussian_loss
from spectool.models.denoise import PCAModel, fit_pca
from spectool.models.training import History, Plateau, fit, one_cycle
from spectool.papers.scourfield2023.network import make_model, train_denoiser
from spectool.papers.zahid2019.sample import FWHM
from spectool.parallel import n_workers
from spectool.prepare import ContinuumBasis, normalize_continuum
from spectool.synth.broadening import smooth_ssps
from spectool.synth.grid import SSPGrid
from spectool.synth.histories import metallicities, metallicity_operator

SVM_ROWS = 5000


def train_forest(
    x, labels, *, seed=0, n_trees: int = 100, min_leaf: int = 2
) -> Callable[[np.ndarray], np.ndarray]:
    """A random forest (Breiman 2001) per property."""
    from sklearn.ensemble import RandomForestRegressor

    def make():
        return RandomForestRegressor(
            n_trees, min_samples_leaf=min_leaf, max_features=0.5, random_state=seed, n_jobs=n_workers()
        )

    return _train(make, x, labels)


def train_svm(
    x, labels, *, seed=0, n_rows: int = SVM_ROWS, cost: float = 10.0, tolerance: float = 0.05
) -> Callable[[np.ndarray], np.ndarray]:
    """Support-vector regression with a Gaussian kernel per property, on some rows: its time grows as their square.

    Parameters
    ----------
    x, labels
    seed
        Of the choice of rows.
    n_rows
    cost, tolerance
        Of labels scaled to unit variance.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    def make():
        return TransformedTargetRegressor(SVR(C=cost, epsilon=tolerance), transformer=StandardScaler())

    rows = np.random.default_rng(seed).permutation(len(x))[:n_rows]
    return _train(make, x[rows], labels[rows])


def train_boosting(
    x, labels, *, seed=0, n_iterations: int = 500, rate: float = 0.08
) -> Callable[[np.ndarray], np.ndarray]:
    """Gradient-boosted trees (scikit-learn's histogram ones) per property; stops by a tenth of the rows."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def make():
        return HistGradientBoostingRegressor(
            max_iter=n_iterations, learning_rate=rate, early_stopping=True, random_state=seed
        )

    return _train(make, x, labels)


def _train(make, x, labels):
    """Fit one learner per column of labels."""
    fitted = []
    for column in np.asarray(labels).T:
        good = np.isfinite(column) & np.isfinite(x).all(axis=1)
        if not good.any():
            raise ValueError("no row has a finite label and finite inputs")
        fitted.append(make().fit(x[good], column[good]))

    def predict(x):
        found = np.full((len(x), len(fitted)), np.nan)
        good = np.isfinite(x).all(axis=1)
        if good.any():
            found[good] = np.stack([one.predict(x[good]) for one in fitted], axis=1)
        return found

    return predict


YOUNGEST = 1e6
OLDEST = 14e9
HIDDEN = (64, 32)


def fit_ssp_pca(grid: SSPGrid | None = None, *, n_components: int = 10, fwhm: float = FWHM) -> PCAModel:
    """Principal components of prepared single bursts: all of a grid's ages from 1 Myr to 14 Gyr, 21 metallicities."""
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


def train_spectral_forest(
    coefficients, labels, *, seed=0, repeats: int = 2, n_trees: int = 60, min_leaf: int = 20
):
    """A random forest on noisy coefficients; returns a function from coefficients to log Z (N,)."""
    from sklearn.ensemble import RandomForestRegressor

    x, y = _noisy_copies(coefficients, labels, repeats, seed)
    forest = RandomForestRegressor(
        n_trees, min_samples_leaf=min_leaf, max_features=0.5, random_state=seed, n_jobs=n_workers()
    )
    return forest.fit(x, y).predict


def train_spectral_boosting(
    coefficients, labels, *, seed=0, repeats: int = 4, n_iterations: int = 300, rate: float = 0.05
):
    """Gradient-boosted trees (scikit-learn's histogram ones, in place of xgboost); returns as
    `train_spectral_forest`."""
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


def _noisy_copies(coefficients, labels, repeats, seed):
    copies = [add_coefficient_noise(coefficients, seed=[seed, k]) for k in range(repeats)]
    return np.concatenate(copies), np.tile(labels, repeats)


STEP = 100
UNITS = (100, 1000)
LAYERS = (2, 4)
DROPOUT = (0.0, 0.9)


def suggest(trial) -> dict:
    """Hyperparameters of one trial, drawn from the paper's ranges: dropout 0 to 0.9 in steps of 0.1; 2 to 4 layers;
    units from 100 to 1000, or to the previous layer's, in steps of 100.

    Parameters
    ----------
    trial : optuna.trial.BaseTrial

    Returns
    -------
    dict
        ``dropout`` and ``widths``, as `spectool.models.denoise.DenseAutoencoder` takes them.
    """
    dropout = trial.suggest_float("dropout", *DROPOUT, step=0.1)
    widths, largest = [], UNITS[1]
    for k in range(trial.suggest_int("layers", *LAYERS)):
        # Optuna wants one range per name: a fraction of what the previous layer leaves.
        share = trial.suggest_float(f"share_{k + 1}", 0.0, 1.0)
        n = (largest - UNITS[0]) // STEP + 1
        largest = UNITS[0] + STEP * min(int(share * n), n - 1)
        widths.append(largest)
    return {"dropout": round(dropout, 1), "widths": tuple(widths)}


def search(
    train,
    valid,
    *,
    kind: str = "vae",
    n_latent: int = 6,
    n_trials: int = 100,
    epochs: int = 25,
    seed=0,
    progress=True,
) -> dict:
    """Train networks with random hyperparameters and rank them by their validation loss."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        options = suggest(trial)
        model = make_model(kind, n_latent, train["flux"], seed=seed, **options)
        try:
            history = train_denoiser(
                model, train, valid, seed=seed, epochs=epochs, plateau=Plateau(), progress=False
            )
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("epochs", len(history.records))
        return float(history.column("valid_reconstruction").min())

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=n_trials, show_progress_bar=progress)
    trials = [
        {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in suggest(trial_of(trial)).items()},
            "loss": trial.value,
            "epochs": trial.user_attrs.get("epochs"),
        }
        for trial in study.trials
    ]
    trials.sort(key=lambda t: np.inf if t["loss"] is None else t["loss"])
    if trials[0]["loss"] is None:
        raise ValueError("no network of the search learnt anything: look for NaN in the training arrays")
    best = {name: trials[0][name] for name in ("dropout", "widths")}
    return {"best": best, "loss": trials[0]["loss"], "trials": trials}


def trial_of(finished):
    """A finished trial in the form that `suggest` reads again."""
    import optuna

    return optuna.trial.FixedTrial(finished.params)
