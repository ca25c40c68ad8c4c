"""Who knows one paper knows five: the same verbs, and networks that load without being named."""

import importlib

import pytest

from spectool import papers

VERBS = ("make_sample", "train", "load", "predict")
WHERE_THERE_IS_SOMETHING = {"rebuild", "read_products", "make_predictor"}


@pytest.fixture(params=papers.list_papers())
def paper(request):
    return importlib.import_module(f"spectool.papers.{request.param}")


def test_each_paper_has_the_same_verbs(paper):
    assert set(VERBS) <= set(paper.__all__) <= set(VERBS) | WHERE_THERE_IS_SOMETHING
    for verb in paper.__all__:
        function = getattr(paper, verb)
        assert callable(function) and function.__doc__, f"{paper.__name__}.{verb}"


def test_what_loads_predicts(paper):
    """What `load` returns is what `predict` takes after the sample."""
    import inspect

    first, second = list(inspect.signature(paper.predict).parameters.values())[:2]
    assert first.name == "sample" and second.kind is second.POSITIONAL_OR_KEYWORD
    assert paper.load() is not None
