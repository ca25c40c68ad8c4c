"""Command lines from tables of options: a name, its default, and what it means."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pooch

CACHE = Path(pooch.os_cache("spectool"))


def make_parser(text: str, options: dict, what=(), **settings) -> argparse.ArgumentParser:
    """Names of `what` is to be done, if there is a choice, and an option for each entry (name: default and help)."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
    )
    if what:
        parser.add_argument("what", nargs="+", choices=tuple(what))
    for name, (default, about) in {**options, "quiet": (False, "no progress bars")}.items():
        kind = {"type": read_value if default is None else type(default)}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif isinstance(default, tuple):
            kind = {"type": type(default[0]), "nargs": "+"}
        if "argument_default" not in settings:
            kind["default"] = default
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"{about} (default: {default})", **kind)
    return parser


def read_value(text: str):
    """A number if it is one."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
