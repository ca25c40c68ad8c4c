"""The random search of Scourfield et al. (2023), Section 3.2, with Optuna. Not rerun by default: 100 trials take an
hour or two on one core."""

from __future__ import annotations

import numpy as np

from spectool.models.plateau import Plateau
from spectool.models.scourfield2023 import make_model, train_denoiser

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
        ``dropout`` and ``widths``, as `spectool.models.dense.DenseAutoencoder` takes them.
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
    """Train networks with random hyperparameters and rank them by their validation loss.

    Parameters
    ----------
    train, valid : dict
        From `spectool.models.scourfield2023.make_arrays`.
    kind : str
        ``"ae"`` or ``"vae"``.
    n_latent : int
    n_trials, epochs : int
        The paper: 100 networks, up to 25 epochs each.
    seed : int
        Of the draws and of the training.
    progress : bool

    Returns
    -------
    dict
        ``best`` (dropout, widths), ``loss`` (its validation reconstruction loss) and ``trials``: a list of dicts with
        ``dropout``, ``widths``, ``loss``, ``epochs``, best first. A network whose loss is not finite comes last, with
        loss None.

    Raises
    ------
    ValueError
        If no network learnt anything.
    """
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
