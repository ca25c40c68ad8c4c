"""What is made of Datasets, networks and trainings: arrays by name."""

import numpy as np
import xarray as xr

WORDS = ("reason", "remark", "note", "message")
"""Columns of prose: only where they are empty must not move."""


def arrays_of(dataset, prefix=""):
    """Variables and coordinates of a Dataset; of prose, where it is empty."""
    found = {name: v.values for name, v in dataset.variables.items() if "seconds" not in name}
    for name, values in found.items():
        if values.dtype.kind in "OU":
            values = values.astype(str)
            found[name] = values == "" if any(word in name for word in WORDS) else values
    return {f"{prefix}{name}": values for name, values in found.items()}


def weights_of(model, prefix):
    """Weights of a network that was trained."""
    return {f"{prefix}{name}": value.numpy() for name, value in model.state_dict().items()}


def trained(model, history, prefix):
    """Weights and losses of a training."""
    losses = np.array([record["valid_loss"] for record in history.records])
    return weights_of(model, prefix) | {f"{prefix}valid_loss": losses}


def only(dataset, *names):
    """Some variables of a Dataset."""
    return {name: dataset[name].values for name in names}


def pair(found):
    """Mean and error, where there is one."""
    return {name: values for name, values in zip(("mean", "error"), found, strict=True) if values is not None}


def flatten(found, prefix=""):
    """Whatever is returned, down to arrays by name."""
    if isinstance(found, xr.Dataset):
        return arrays_of(found, prefix)
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    elif hasattr(found, "__dict__") and not isinstance(found, xr.DataArray):
        found = vars(found)
    if not isinstance(found, dict):
        return {} if found is None else {prefix.strip(): np.asarray(found)}
    return {k: v for key, value in found.items() for k, v in flatten(value, f"{prefix}{key} ").items()}
