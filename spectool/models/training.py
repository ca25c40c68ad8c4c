"""One training loop for all networks, and one way through arrays in batches."""

from __future__ import annotations

import collections
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from spectool.io import atomic
from spectool.models.store import read_tensors

CHECKPOINT_SECONDS = 60.0
PLATEAU_DROP, PLATEAU_PATIENCE, PLATEAU_FACTOR = 0.1, 5, 0.1
OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "fused adam": functools.partial(torch.optim.Adam, fused=True),
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}


class Rows:
    """Some rows of an array, without copying it: ``Rows(array, index)[k]`` is ``array[index[k]]``."""

    def __init__(self, array, index: np.ndarray) -> None:
        self.array, self.index = array, np.asarray(index, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key) -> np.ndarray:
        return take(self.array, self.index[key])


def take(array, rows: np.ndarray) -> np.ndarray:
    """Rows of any array that `Rows` takes, as a NumPy array, read from disk in their order there."""
    if isinstance(array, Rows):
        return array[rows]
    if isinstance(array, torch.Tensor):
        return array[torch.as_tensor(rows)].cpu().numpy()
    if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        return array[rows]
    order = np.argsort(rows, kind="stable")
    select = array.oindex if hasattr(array, "oindex") else array
    sorted_rows = np.asarray(select[rows[order]])
    out = np.empty_like(sorted_rows)
    out[order] = sorted_rows
    return out


def select(arrays: Mapping[str, object], index: np.ndarray) -> dict[str, Rows]:
    """The same rows of all arrays, lazily: a part of a split for `spectool.models.training.fit`."""
    return {name: Rows(array, index) for name, array in arrays.items()}


def split(n: int, fractions=(0.8, 0.1, 0.1), *, seed) -> list[np.ndarray]:
    """Random disjoint parts of ``range(n)``, each sorted, of fractions that add up to 1; the last has what is left."""
    if abs(sum(fractions) - 1.0) > 1e-9:
        raise ValueError(f"the fractions {fractions} add up to {sum(fractions)}, not 1")
    edges = np.round(np.cumsum(fractions)[:-1] * n).astype(int)
    return [np.sort(part) for part in np.split(np.random.default_rng(seed).permutation(n), edges)]


def read_batch(arrays: Mapping[str, object], rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Rows of all arrays as tensors: floats in float32, others as they are."""
    batch = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(take(array, rows)))
        batch[name] = tensor.float() if tensor.is_floating_point() else tensor
    return batch


def in_batches(
    model: nn.Module, function: Callable[..., tuple], *arrays, usable=None, batch_size: int = 512
) -> list[np.ndarray]:
    """What a function of tensors, such as ``model.encode``, returns for all rows of arrays; NaN if not usable."""
    rows = np.arange(len(arrays[0])) if usable is None else np.flatnonzero(usable)
    outputs = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, max(len(rows), 1), batch_size):
            batch = read_batch(dict(enumerate(arrays)), rows[start : start + batch_size])
            outputs.append(function(*batch.values()))
    result = [torch.cat(parts).numpy() for parts in zip(*outputs, strict=True)]
    if usable is None:
        return result
    whole = [np.full((len(usable), *part.shape[1:]), np.nan, part.dtype) for part in result]
    for out, part in zip(whole, result, strict=True):
        out[rows] = part
    return whole


def check_rows(arrays: Mapping[str, object], what: str) -> int:
    """Common number of rows."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"the arrays of {what} have no rows or different numbers of rows: {lengths}")
    return next(iter(lengths.values()))


def replay_plateau(losses: Sequence[float]) -> tuple[float, bool]:
    """Factor of the learning rate of the next epoch, and whether to stop: `fit`'s rule, after these losses."""
    reference, waited, rate = math.inf, 0, 1.0
    for loss in losses:
        if loss < reference - PLATEAU_DROP * abs(reference) or not math.isfinite(reference):
            reference, waited = loss, 0
            continue
        waited += 1
        if waited == PLATEAU_PATIENCE:
            rate *= PLATEAU_FACTOR
        elif waited >= 2 * PLATEAU_PATIENCE:
            return rate, True
    return rate, False


@dataclass(frozen=True)
class Step:
    """Where the training stands: what a loss, an augmentation and a schedule may depend on."""

    epoch: float
    fraction: float
    training: bool
    generator: torch.Generator


@dataclass
class History:
    """What happened: one record per epoch, and how it ended."""

    records: list[dict] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    stopped: str = ""
    seconds: float = 0.0

    def column(self, name: str) -> np.ndarray:
        """One entry of all records, (n_epochs,)."""
        return np.array([record[name] for record in self.records])


def one_cycle(warmup: float = 0.1) -> Callable[[Step], float]:
    """Rises linearly over the first part of the training, then falls as a cosine to 0 (Smith & Topin 2018)."""

    def factor(step: Step) -> float:
        if step.fraction < warmup:
            return max(step.fraction / warmup, 0.01)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step.fraction - warmup) / (1.0 - warmup))))

    return factor


def fit(
    model: nn.Module,
    train: Mapping[str, object],
    valid: Mapping[str, object],
    *,
    loss: Callable[[nn.Module, dict, Step], dict],
    epochs: int = 100,
    batch_size: int = 32,
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    schedule: Callable[[Step], float] | None = None,
    patience: int | None = 20,
    plateau: bool = False,
    max_seconds: float | None = None,
    augment: Callable[[dict, Step], dict] | None = None,
    callbacks: Sequence[Callable[[History], None]] = (),
    checkpoint: str | Path | None = None,
    clip: float | None = None,
    seed: int | np.random.Generator = 0,
    progress: bool = True,
) -> History:
    """Train `model`; it ends in evaluation mode with the weights of its best epoch, stopped by a notebook's button too.

    Parameters
    ----------
    model, loss
        Any module, and ``loss(model, batch, step)`` -> dict of scalar tensors, means over the batch, with ``"loss"``.
    train, valid
        Named arrays of equal first length: NumPy (memory-mapped too), zarr, torch or `Rows`; a batch is the same dict
        with floats as float32 tensors. Only the rows of a batch are read at a time.
    epochs, patience
        At most so many passes; stop after so many without a lower validation loss (None = never).
    batch_size, clip
        Rows per optimiser step; largest norm of its gradient (None = as it is).
    lr, schedule
        Learning rate, and a factor of it by `Step`, taken at every batch (such as `one_cycle`).
    weight_decay, optimizer
        ``"adam"``: coupled, an L2 penalty in the gradient; ``"adamw"``: decoupled (Loshchilov & Hutter 2019);
        ``"fused adam"``: as the first, seven times as quick for large dense layers; ``"sgd"``: with a Nesterov momentum
        of 0.9 and coupled weight decay.
    plateau
        Lower the learning rate tenfold after five epochs without a drop of the validation loss by 10%; stop after ten.
    max_seconds
        Stop, in the middle of an epoch if need be, after so long, earlier runs of the same `checkpoint` counted.
    augment, callbacks
        ``augment(batch, step)`` -> batch, for each training batch anew, not for `valid`; called with the `History`
        after each epoch, and ``callback.begin(model)`` before the first where there is one.
    checkpoint
        A safetensors file, written every minute and at the end; a killed training goes on where it was.
    seed
        Of shuffling, augmentation and noise: the same weights on one machine, without `max_seconds`.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite; the model has its best weights so far.
    """
    limits = schedule, plateau, max_seconds
    run = _Run(model, train, valid, loss, epochs, batch_size, lr, *limits, augment, clip)
    run.start(optimizer, weight_decay, seed)
    if checkpoint is not None and Path(checkpoint).exists():
        run.restore(checkpoint)
    saved, history = time.monotonic(), run.history
    done = run.n_batches * len(history.records)
    history.stopped = "epochs"
    bar = tqdm(total=epochs * run.n_batches, initial=done, disable=not progress)
    try:
        with bar, torch.random.fork_rng(devices=[]):
            for callback in callbacks:
                if hasattr(callback, "begin"):
                    callback.begin(model.eval())
            for epoch in range(len(history.records), epochs):
                if reason := run.reason_to_stop(epoch, patience):
                    history.stopped = reason
                    break
                run.one_epoch(epoch, bar)
                if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    run.save(checkpoint)
                    saved = time.monotonic()
                for callback in callbacks:
                    callback(history)
    except KeyboardInterrupt:
        history.stopped = "interrupted"
    finally:
        run.finish()
    if checkpoint is not None:
        run.save(checkpoint)
    return history


@dataclass
class _Run:
    """The state of one training; `fit` drives it, and its fields are options of `fit`."""

    model: nn.Module
    train: Mapping[str, object]
    valid: Mapping[str, object]
    loss: Callable
    epochs: int
    batch_size: int
    lr: float
    schedule: Callable | None
    plateau: bool
    max_seconds: float | None
    augment: Callable | None
    clip: float | None

    def start(self, optimizer: str, weight_decay: float, seed) -> None:
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
        self.n_train, self.n_valid = check_rows(self.train, "train"), check_rows(self.valid, "valid")
        self.n_batches = math.ceil(self.n_train / self.batch_size)
        weights = self.model.parameters()
        self.optimizer = OPTIMIZERS[optimizer](weights, lr=self.lr, weight_decay=weight_decay)
        self.seed = int(seed.integers(2**62)) if isinstance(seed, np.random.Generator) else int(seed)
        self.history, self.best, self.last = History(), None, None
        self.elapsed_before, self.started = 0.0, time.monotonic()

    def elapsed(self) -> float:
        return self.elapsed_before + time.monotonic() - self.started

    def out_of_time(self) -> bool:
        return self.max_seconds is not None and self.elapsed() >= self.max_seconds

    def reason_to_stop(self, epoch: int, patience: int | None) -> str:
        if self.out_of_time():
            return "time"
        if patience is not None and epoch - self.history.best_epoch >= patience:
            return "patience"
        return "plateau" if self.plateau_state()[1] else ""

    def plateau_state(self) -> tuple[float, bool]:
        return replay_plateau(self.history.column("valid_loss")) if self.plateau else (1.0, False)

    def generators(self, *key: int) -> tuple[np.random.Generator, torch.Generator]:
        sequence = np.random.SeedSequence([self.seed, *key])
        noise = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        return np.random.default_rng(sequence), noise

    def step(self, epoch: float, generator: torch.Generator, *, training: bool) -> Step:
        fraction = epoch / self.epochs
        if self.max_seconds is not None:
            fraction = max(fraction, self.elapsed() / self.max_seconds)
        return Step(epoch, min(1.0, fraction), training, generator)

    def one_epoch(self, epoch: int, bar: tqdm) -> None:
        shuffle, noise = self.generators(0, epoch)
        torch.manual_seed(noise.initial_seed())
        order = shuffle.permutation(self.n_train)
        self.model.train()
        sums, seen, factor, lowered = collections.Counter(), 0, 1.0, self.plateau_state()[0]
        for k in range(self.n_batches):
            step = self.step(epoch + k / self.n_batches, noise, training=True)
            factor = lowered * (self.schedule(step) if self.schedule is not None else 1.0)
            rows = order[k * self.batch_size : (k + 1) * self.batch_size]
            self.update(rows, step, self.lr * factor, sums)
            seen += len(rows)
            if not math.isfinite(sums["loss"]):
                raise FloatingPointError(
                    f"the loss is not finite in epoch {epoch + 1}, batch {k + 1}: lower the "
                    "learning rate (lr) or clip the gradient, and look for NaN in the training arrays"
                )
            bar.update()
            if self.out_of_time():
                break
        record = {f"train_{name}": value / seen for name, value in sums.items()}
        record |= {f"valid_{name}": value / self.n_valid for name, value in self.validate(epoch + 1).items()}
        history, loss = self.history, record["valid_loss"]
        history.seconds = self.elapsed()
        head = {"epoch": epoch + 1, "lr": self.lr * factor, "seconds": history.seconds}
        history.records.append(head | record)
        if loss < history.best_loss:
            history.best_loss, history.best_epoch, self.best = loss, epoch + 1, self.weights()
        bar.set_postfix(epoch=epoch + 1, valid=f"{loss:.4g}", best=f"{history.best_loss:.4g}")

    def update(self, rows: np.ndarray, step: Step, lr: float, sums: dict) -> None:
        batch = read_batch(self.train, rows)
        if self.augment is not None:
            batch = self.augment(batch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        values = self.loss(self.model, batch, step)
        values["loss"].backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        _add(sums, values, len(rows))

    def validate(self, epoch: int) -> dict[str, float]:
        self.model.eval()
        _, noise = self.generators(1)
        sums, size = collections.Counter(), max(self.batch_size, 256)
        with torch.inference_mode():
            for start in range(0, self.n_valid, size):
                rows = np.arange(start, min(start + size, self.n_valid))
                batch, step = read_batch(self.valid, rows), self.step(epoch, noise, training=False)
                _add(sums, self.loss(self.model, batch, step), len(rows))
        return sums

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def finish(self) -> None:
        self.last = self.weights()
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        self.history.seconds = self.elapsed()

    def save(self, path: str | Path) -> None:
        last = self.last or self.weights()
        parts = {"last": last, "best": self.best or last}
        parts |= {f"optimizer/{k}": state for k, state in self.optimizer.state_dict()["state"].items()}
        tensors = {f"{part}/{k}": value for part, values in parts.items() for k, value in values.items()}
        tensors = {k: torch.as_tensor(v).detach().cpu().contiguous().clone() for k, v in tensors.items()}
        with atomic(path) as part:
            save_file(tensors, part, metadata={"history": json.dumps(asdict(self.history))})

    def restore(self, path: str | Path) -> None:
        try:
            metadata, parts = read_tensors(path)
            self.history = History(**json.loads(metadata["history"]))
        except (ValueError, KeyError) as error:
            why = f"{path} is no checkpoint of a training ({error}); remove it to start anew"
            raise ValueError(why) from error
        state = collections.defaultdict(dict)
        for name, value in parts["optimizer"].items():
            k, key = name.split("/")
            state[int(k)][key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.model.load_state_dict(parts["last"])
        self.best, self.elapsed_before = parts["best"], self.history.seconds


def _add(sums: dict, values: dict[str, torch.Tensor], n_rows: int) -> None:
    for name, value in values.items():
        sums[name] += float(value.detach()) * n_rows
