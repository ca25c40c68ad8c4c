"""A training's state on disk, as safetensors: weights now and at best, the optimiser's moments, the
history."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


def write_checkpoint(
    path, weights: dict, best: dict, optimizer: torch.optim.Optimizer, history: dict
) -> None:
    """Write the state of a training; a kill in the middle leaves the former file whole."""
    tensors = {f"last/{name}": value for name, value in weights.items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for k, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{k}/{name}": torch.as_tensor(value) for name, value in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, partial, metadata={"history": json.dumps(history)})
    partial.replace(path)


def read_checkpoint(path, optimizer: torch.optim.Optimizer) -> tuple[dict, dict, dict]:
    """Weights, best weights and history; the optimiser's moments are put into `optimizer`.

    Raises
    ------
    ValueError
        If the file is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            history = json.loads((file.metadata() or {})["history"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} is no checkpoint of a training ({error}); remove it to start anew"
        ) from error
    parts = {"last": {}, "best": {}}
    state = {}
    for name, value in tensors.items():
        part, rest = name.split("/", 1)
        if part == "optimizer":
            k, key = rest.split("/")
            state.setdefault(int(k), {})[key] = value
        else:
            parts[part][rest] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return parts["last"], parts["best"], history
