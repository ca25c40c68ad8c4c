"""How each configuration of the beta-VAE is best trained: keyword arguments for
`spectool.models.training.fit`."""

from __future__ import annotations

from spectool.models.training import halve_every, one_cycle


def training_recipe(name: str) -> dict:
    """Options of `fit` for a named configuration of `spectool.models.autoencoder.CONFIGURATIONS`.

    ``paper`` is Section 3.2.3 of Marziano (2024), word for word: Adam at 3e-4, halved every 10 epochs,
    coupled weight decay 0.1, batches of 32, 100 epochs, patience 20. The others have minutes, not days: one
    cycle of a higher learning rate, and decoupled weight decay, which AdamW scales with the learning rate.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    quick = {"optimizer": "adamw", "weight_decay": 1e-4, "patience": None, "clip": 10.0, "batch_size": 32}
    recipes = {
        "paper": {
            "optimizer": "adam",
            "weight_decay": 0.1,
            "lr": 3e-4,
            "schedule": halve_every(10),
            "batch_size": 32,
            "epochs": 100,
            "patience": 20,
        },
        "light": {**quick, "lr": 4e-3, "schedule": one_cycle(0.1), "epochs": 12},
        "reference": {**quick, "lr": 4e-3, "schedule": one_cycle(0.03), "epochs": 1000},
    }
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(recipes)}")
    return recipes[name]
