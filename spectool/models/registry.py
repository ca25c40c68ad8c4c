"""Which trained models can say something about a spectrum: each paper registers one, and `ask_all` asks them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from spectool.prepare import spectral_coordinate

# name -> function that returns a Predictor, as itself or as "module:function".
ENTRIES = {
    "marziano2024": "spectool.papers.marziano2024.network:make_predictor",
    "zahid2019": "spectool.papers.zahid2019.reader:make_predictor",
}


@dataclass(frozen=True)
class Predictor:
    """A trained model, ready to be asked about spectra."""

    name: str
    paper: str
    title: str
    wavelength_range: tuple[float, float]
    prepare: Callable[[xr.Dataset], xr.Dataset]
    predict: Callable[[xr.Dataset], xr.Dataset]
    min_fraction: float = 0.5


@dataclass(frozen=True)
class Answer:
    """What a registered model says of a sample."""

    name: str
    title: str
    prepared: xr.Dataset | None
    result: xr.Dataset | None
    reason: str


def register(name, entry):
    """Register a model.

    Parameters
    ----------
    name : str
    entry : callable or str
        Returns a `Predictor`; as a string, "module:function", imported when asked.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if name in ENTRIES:
        raise ValueError(f"a model is registered as {name!r} already")
    ENTRIES[name] = entry


def load_predictor(name):
    """Make the predictor that is registered under a name."""
    if name not in ENTRIES:
        raise KeyError(f"no model is registered as {name!r}; there are: {', '.join(ENTRIES) or 'none'}")
    entry = ENTRIES[name]
    if isinstance(entry, str):
        module, _, function = entry.partition(":")
        entry = getattr(importlib.import_module(module), function)
    return entry()


def covered_fraction(sample, wavelength_range):
    """Share of a rest-frame range that good pixels of each spectrum cover."""
    wavelength, rest = spectral_coordinate(sample)
    wavelength = np.broadcast_to(wavelength, sample["flux"].shape)
    if not rest:
        wavelength = wavelength / (1 + sample["redshift"].values[:, None])
    good = np.isfinite(sample["flux"].values)
    if "mask" in sample:
        good &= ~sample["mask"].values
    if "ivar" in sample:
        good &= sample["ivar"].values > 0
    width = np.gradient(wavelength, axis=1)
    inside = (wavelength >= wavelength_range[0]) & (wavelength <= wavelength_range[1])
    return (width * (good & inside)).sum(axis=1) / (wavelength_range[1] - wavelength_range[0])


def ask(name, sample):
    """Ask one model about an observed sample."""
    try:
        predictor = load_predictor(name)
    except FileNotFoundError as error:
        return Answer(name, name, None, None, f"its weights are not here ({error})")
    low, high = predictor.wavelength_range
    covered = covered_fraction(sample, predictor.wavelength_range)
    if not (covered >= predictor.min_fraction).any():
        reason = (
            f"needs at least {predictor.min_fraction:.0%} of {low:.0f}-{high:.0f} A in the rest frame; "
            f"good pixels of the spectrum cover {covered.max(initial=0):.0%}"
        )
        return Answer(name, predictor.title, None, None, reason)
    prepared = predictor.prepare(sample)
    return Answer(name, predictor.title, prepared, predictor.predict(prepared), "")


def ask_all(sample):
    """Ask every registered model; returns a list of `Answer`, those that do not apply included, with the reason."""
    return [ask(name, sample) for name in ENTRIES]


def answer_table(answers, galaxy=0):
    """Answers about one galaxy as a table."""
    import pandas as pd

    rows = []
    for answer in answers:
        if answer.result is None:
            rows.append(
                {"model": answer.title, "quantity": "does not apply", "note": answer.reason, "detail": False}
            )
            continue
        one = answer.result.isel(galaxy=galaxy)
        for k in range(one.sizes["quantity"]):
            row = {"model": answer.title, "quantity": str(one["label"].values[k])}
            row |= {"value": float(one["value"][k]), "error": float(one["error"][k])}
            row |= {"unit": str(one["unit"].values[k]), "out of range": bool(one["out_of_range"])}
            detail = bool(one["detail"].values[k]) if "detail" in one.coords else False
            rows.append(row | {"note": str(one["note"].values[k]), "detail": detail})
    columns = ["model", "quantity", "value", "error", "unit", "out of range", "note", "detail"]
    return pd.DataFrame(rows, columns=columns)
