"""The papers that are retold: which there are, and what each of them claims."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from spectool.measure import scores
from spectool.parallel import Usage

FOLDER = Path(__file__).parent


def list_papers() -> list[str]:
    """Keys of the papers that have claims."""
    return sorted(path.parent.name for path in FOLDER.glob("*/claims.toml"))


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
        The paper, such as "marziano2024"; its claims stand in ``spectool/papers/<key>/claims.toml``.
    values : dict of str to float
        Our figure for each claim, by the claim's name, in the unit that the name says. True and False are
        allowed, for a claim that holds or does not.
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
        If a name is no claim, a claim has no value, a value is not one finite number, or a note's field is
        missing.
    ScoreError
        After the file is written: a figure is out of its tolerance, or more than a third of them differ.

    Examples
    --------
    >>> check_claims("marziano2024", {"pixels per spectrum": 4582, ...}, usage)  # doctest: +SKIP
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
        rows.append(scores.score(name, ours=values[name], note=note, **claim))
    scores.write(key, rows, usage)
    return scores.table(rows)
