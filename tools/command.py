"""Command lines from tables of options (a name, its default, what it means), and the tables that they write."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pooch
import torch

from spectool.io import write_dataset

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


def run(text: str, options: dict, products: dict, arguments=None) -> dict:
    """Make the products that the command line names, each by its function of the options; figures by product."""
    given = make_parser(text, options, products).parse_args(arguments)
    torch.set_num_threads(1)
    report = {}
    for what in given.what:
        report[what] = products[what](given)
        print(json.dumps({what: report[what]}, ensure_ascii=False), flush=True)
    return report


def write_table(table, path, *, steps=None) -> float:
    """Write a table in little space, floats as multiples of steps (0.002 unless named) if there are some; its MB."""
    encoding = {}
    for name, column in table.data_vars.items():
        encoding[name] = {"zlib": True, "complevel": 9, "shuffle": True}
        if steps is not None and column.dtype.kind == "f":
            step = steps.get(name, 0.002)
            largest = float(np.nanmax(np.abs(column.values), initial=0.0)) / step
            kind, fill = ("i2", -(2**15)) if largest < 2**15 - 1 else ("i4", -(2**31))
            encoding[name] |= {"dtype": kind, "scale_factor": step, "_FillValue": fill}
    write_dataset(table, path, encoding=encoding)
    return Path(path).stat().st_size / 1e6
