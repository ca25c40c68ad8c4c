"""How each paper's networks are trained: a file a paper, its recipes as data; here is what all of them share.

Such a file has ``OPTIONS`` (name: default and help), ``RECIPES`` (name: options that differ, and ``run``, the function
that is called with them if it is not the file's ``train``) and ``QUICK`` (options that make all tiny, for tests).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from spectool.models import store
from tools.command import CACHE

OPTIONS = {
    "seed": (0, "of splits and of the first network; the next has the next"),
    "threads": (None, "default: what the machine grants; small networks gain nothing"),
    "name": (None, "of the file or, for several, what their names begin with; default: KEY_RECIPE"),
    "out": (store.SHIPPED, "folder to write into"),
    "cache": (CACHE, "folder for samples and checkpoints"),
}
ELSEWHERE = {"threads", "name", "out", "cache", "quiet", "results"}
"""Options that do not change what is trained."""


def describe(options, **more) -> dict:
    """What has to be known to make a model again."""
    told = vars(options).items()
    return {name: value for name, value in told if name not in ELSEWHERE and not callable(value)} | more


def checkpoint_file(options, name: str) -> Path:
    """Where this very training stands: other options, another file."""
    recipe = json.dumps(describe(options), sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    return options.cache / "checkpoints" / f"{name}_{digest}.safetensors"


def fit_options(options, name: str) -> dict:
    """Options of `spectool.models.training.fit`: go on where a killed training was, say how far it is."""
    return {
        "checkpoint": checkpoint_file(options, name),
        "progress": not options.quiet,
        "callbacks": [report] if options.quiet else (),
    }


def report(history) -> None:
    """One line on the last epoch."""
    print(" ".join(f"{name} {value:.4g}" for name, value in history.records[-1].items()), flush=True)


def summarize(history) -> dict:
    """How a training went."""
    return {
        "best_epoch": history.best_epoch,
        "best_valid_loss": history.best_loss,
        "epochs": len(history.records),
        "seconds": history.seconds,
        "stopped": history.stopped,
    }


def write(
    options, name, model, history=None, *, metrics, arrays=(), curves=(), half=True, int8=False, **more
):
    """Store a model with its figures, its learning `curves` and how it was made; returns the figures."""
    arrays = dict(arrays)
    if history is not None:
        metrics = metrics | {"training": summarize(history)}
        arrays |= {f"history_{curve}": history.column(curve).astype("f4") for curve in curves}
    recipe = describe(options, **more)
    store.save_model(
        options.out / name, model, recipe=recipe, metrics=metrics, arrays=arrays, half=half, int8=int8
    )
    checkpoint_file(options, name).unlink(missing_ok=True)
    return metrics


def write_members(options, trained, metrics, arrays, **more) -> None:
    """Store the networks of an ensemble; the first file has the figures of all, and arrays."""
    for k, (model, history) in enumerate(trained):
        first = {"metrics": metrics, "arrays": arrays} if k == 0 else {"metrics": {}}
        write(options, f"{options.name}{k + 1}", model, history, member=k + 1, **first, **more)
