"""Train networks of a paper, score them, and write the weights that the package ships.

    python -m tools.train surana2020 --help                # its recipes and their options
    python -m tools.train surana2020 mass sfr dust         # three recipes, one after the other
    python -m tools.train surana2020 mass --epochs 3 --out trial

Recipes are data: tools/recipes/KEY.py has a table of them; options that are given here replace theirs. Figures are
those of the weights as they are stored; they are printed, in one line of JSON. A long training that was killed goes on
where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from types import SimpleNamespace

import torch

from spectool.papers import list_papers
from spectool.parallel import n_workers
from tools import command, recipes


def main(arguments=None) -> dict:
    """Do what the command line says; figures by recipe."""
    key, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if key not in list_papers():
        raise SystemExit(f"{__doc__}\nKEY is one of {', '.join(list_papers())}")
    paper = importlib.import_module(f"tools.recipes.{key}")
    given = vars(make_parser(key, paper).parse_args(rest[:-1]))
    names, quick = given.pop("what"), given.pop("quick")
    found = {}
    for name in names:
        options = choose(key, name, **((paper.QUICK if quick else {}) | given))
        torch.set_num_threads(options.threads or n_workers())
        found[name] = getattr(options, "run", paper.train)(options)
        print(json.dumps({name: found[name]}), flush=True)
    return found


def choose(key: str, recipe: str, **given) -> SimpleNamespace:
    """Options of a recipe: what is `given`, else the recipe's, else the defaults."""
    paper = importlib.import_module(f"tools.recipes.{key}")
    defaults = {name: default for name, (default, _) in (recipes.OPTIONS | paper.OPTIONS).items()}
    options = defaults | {"quiet": False, "name": f"{key}_{recipe}"} | paper.RECIPES[recipe] | given
    return SimpleNamespace(paper=key, recipe=recipe, **options)


def make_parser(key: str, paper) -> argparse.ArgumentParser:
    """Command line of one paper: the names of its recipes, and an option for each of its `OPTIONS`."""
    parser = command.make_parser(
        paper.__doc__,
        recipes.OPTIONS | paper.OPTIONS,
        paper.RECIPES,
        prog=f"python -m tools.train {key}",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--quick", action="store_true", default=False, help="a tiny trial of everything")
    return parser


if __name__ == "__main__":
    main()
