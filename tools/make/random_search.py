"""A random search for the settings of the de-noisers, from the ranges of Scourfield et al. (2023, Section 3.2)."""

import numpy as np

from spectool.papers.scourfield2023.network import make_model, suggest
from spectool.papers.scourfield2023.network import train as train_denoiser


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
            history = train_denoiser(model, train, valid, seed=seed, epochs=epochs, progress=False)
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("epochs", len(history.records))
        return float(history.column("valid_reconstruction").min())

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=n_trials, show_progress_bar=progress)
    trials = [
        {
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in suggest(optuna.trial.FixedTrial(trial.params)).items()
            },
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
