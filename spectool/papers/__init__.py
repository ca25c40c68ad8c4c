"""The papers that are retold: which there are, what each claims, and what their models say of a spectrum.

Each of them is a package ``spectool.papers.<key>`` with the same verbs, as far as it has something to do for them:
``make_sample`` (what it trains on), ``rebuild`` (galaxies of its mock sample by their numbers), ``train``, ``load``
(shipped networks), ``predict`` (what they say of a sample) and ``read_products`` (shipped tables). Claims are data,
``claims.toml``, and are read when they are asked for: `read_claims`. A paper that answers for any spectrum has
``make_predictor``, too, and is then asked by `ask_all`.
"""

import difflib
import importlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from spectool.measure import scores
from spectool.parallel import Usage
from spectool.prepare import spectral_coordinate

FOLDER = Path(__file__).parent
REGISTERED = {}
"""Name -> function that returns a `Predictor`: what `register` added to the papers' own."""


def list_papers() -> list[str]:
    """Keys of the papers that have claims."""
    return sorted(path.parent.name for path in FOLDER.glob("*/claims.toml"))


def find_parts(name: str) -> dict[str, ModuleType]:
    """The papers' modules of this name, such as what each of them hands to a dashboard, by the papers' keys."""
    keys = [key for key in list_papers() if (FOLDER / key / f"{name}.py").exists()]
    return {key: importlib.import_module(f"{__name__}.{key}.{name}") for key in keys}


def read_claims(key: str) -> dict[str, dict]:
    """What a paper claims, by the name of the row."""
    if key not in list_papers():
        raise ValueError(f"there is no paper {key!r}; there are {', '.join(list_papers())}")
    claims = tomllib.loads((FOLDER / key / "claims.toml").read_text(encoding="utf-8"))
    for claim in claims.values():
        if not claim.keys().isdisjoint({"at_least", "at_most"}):
            claim["tolerance"] = claim.pop("at_least", None), claim.pop("at_most", None)
    return claims


def check_claims(
    key: str, values: Mapping[str, float], usage: Usage, *, notes: Mapping | None = None
) -> pd.DataFrame:
    """Hold our figures against a paper's, and write ``results/<key>.json``.

    Parameters
    ----------
    key : str
        The paper; its claims stand in ``spectool/papers/<key>/claims.toml``.
    values : dict of str to float
        Our figure for each claim, by the claim's name, in the unit that the name says; True or False for a claim that
        holds or does not.
    usage : Usage
        Made in the notebook's first cell; it is stopped here.
    notes : dict, optional
        What the fields of the claims' notes are filled with.

    Returns
    -------
    pandas.DataFrame
        A line of text per claim: the paper's figure, ours, tolerance, status, why the two may differ.

    Raises
    ------
    ValueError
        If a name is no claim, a claim or a note's field has no value, or a value is not one finite number.
    ScoreError
        After the file is written: a figure is out of its tolerance, or more than a third of them differ.
    """
    claims = read_claims(key)
    if unknown := [name for name in values if name not in claims]:
        nearest = difflib.get_close_matches(unknown[0], claims, n=1, cutoff=0)
        raise ValueError(f"{key}: {unknown[0]!r} is not a claim; the nearest is {nearest[0]!r}")
    if missing := [name for name in claims if name not in values]:
        raise ValueError(f"{key}: a value is missing for {', '.join(map(repr, missing))}")
    rows = []
    for name, claim in claims.items():
        try:
            note = claim.pop("note", "").format_map(notes or {})
        except KeyError as field:
            raise ValueError(f"{key}: the note of {name!r} needs notes={{{field}: ...}}") from None
        rows.append(scores.compare(name, ours=values[name], note=note, **claim))
    scores.write(key, rows, usage)
    return scores.table(rows)


class Predictor(NamedTuple):
    """A trained model, ready to be asked about spectra whose good pixels cover ``min_fraction`` of its range.

    ``prepare`` makes of an observed sample what ``predict`` takes, which gives ``value``, ``error`` (galaxy, quantity),
    ``out_of_range`` and ``reason`` (galaxy), with the coordinates ``label``, ``unit``, ``note`` of the quantities.
    """

    title: str
    wavelength_range: tuple[float, float]
    prepare: Callable[[xr.Dataset], xr.Dataset]
    predict: Callable[[xr.Dataset], xr.Dataset]
    min_fraction: float = 0.5


class Answer(NamedTuple):
    """What a model says of a sample, as of `Predictor`; without a result, the reason why it does not apply."""

    name: str
    title: str
    result: xr.Dataset | None
    reason: str = ""


def register(name: str, make_predictor: Callable[[], Predictor]) -> None:
    """Add a model of one's own to those that `ask_all` asks; ValueError if the name is taken.

    `make_predictor` returns a `Predictor`, and is called whenever the model is asked.
    """
    if name in REGISTERED or name in list_papers():
        raise ValueError(f"a model is registered as {name!r} already")
    REGISTERED[name] = make_predictor


def ask_all(sample: xr.Dataset) -> list[Answer]:
    """Ask the models of all papers, and those that were registered, about a sample.

    The sample holds observed spectra, as `spectool.surveys.read_spectrum` gives them. Models that do not apply answer
    with the reason.
    """
    packages = {key: importlib.import_module(f"{__name__}.{key}") for key in list_papers()}
    makers = {key: getattr(paper, "make_predictor", None) for key, paper in packages.items()} | REGISTERED
    return [_ask(name, make_predictor, sample) for name, make_predictor in makers.items() if make_predictor]


def _ask(name, make_predictor, sample):
    try:
        predictor = make_predictor()
    except FileNotFoundError as error:
        return Answer(name, name, None, f"its weights are not here ({error})")
    low, high = predictor.wavelength_range
    covered = covered_fraction(sample, predictor.wavelength_range)
    if not (covered >= predictor.min_fraction).any():
        reason = (
            f"needs at least {predictor.min_fraction:.0%} of {low:.0f}-{high:.0f} A in the rest frame; "
            f"good pixels of the spectrum cover {covered.max(initial=0):.0%}"
        )
        return Answer(name, predictor.title, None, reason)
    return Answer(name, predictor.title, predictor.predict(predictor.prepare(sample)))


def covered_fraction(sample, wavelength_range):
    """Share of a rest-frame range that good pixels of each spectrum cover."""
    wavelength, rest = spectral_coordinate(sample)
    wavelength = np.broadcast_to(wavelength, sample["flux"].shape)
    if not rest:
        wavelength = wavelength / (1 + sample["redshift"].values[:, None])
    good = np.isfinite(sample["flux"].values)
    good &= ~sample["mask"].values if "mask" in sample else True
    good &= sample["ivar"].values > 0 if "ivar" in sample else True
    width = np.gradient(wavelength, axis=1)
    inside = (wavelength >= wavelength_range[0]) & (wavelength <= wavelength_range[1])
    return (width * (good & inside)).sum(axis=1) / (wavelength_range[1] - wavelength_range[0])


def as_columns(values: Mapping[str, tuple], dim: str = "galaxy") -> dict[str, tuple]:
    """Variables along a dimension from tuples of values, unit and, if there, long name."""
    about = {
        name: dict(zip(("units", "long_name"), column[1:], strict=False)) for name, column in values.items()
    }
    return {name: (dim, column[0], about[name]) for name, column in values.items()}
