"""Every registered model that applies answers; those that do not say why. Bad spectra are flagged, never invented."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from spectool import papers
from spectool.models.store import load_model


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(papers, "list_papers", list)
    monkeypatch.setattr(papers, "REGISTERED", {})


def make_toy(low=4000.0, high=5000.0):
    def predict(prepared):
        n, dims = prepared.sizes["galaxy"], ("galaxy", "quantity")
        answers = {"value": (dims, np.full((n, 1), 5.0)), "error": (dims, np.full((n, 1), 0.1))}
        flags = {"out_of_range": ("galaxy", np.zeros(n, bool)), "reason": ("galaxy", [""] * n)}
        about = {name: ("quantity", [text]) for name, text in (("label", "X"), ("unit", "K"), ("note", ""))}
        return xr.Dataset(answers | flags, coords={"quantity": ["x"], **about})

    return papers.Predictor("Toy", (low, high), lambda s: s, predict)


def test_no_paper_is_imported_before_it_is_asked():
    code = "import sys, spectool.papers; assert 'spectool.papers.marziano2024' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registered_models_are_asked_and_say_what_they_lack(alone, packaged):
    papers.register("toy", make_toy)
    (answer,) = papers.ask_all(packaged)
    assert (answer.name, answer.title, answer.reason) == ("toy", "Toy", "")
    assert answer.result["value"].values.tolist() == [[5.0], [5.0]]
    with pytest.raises(ValueError, match="registered as 'toy' already"):
        papers.register("toy", make_toy)
    papers.register("far", lambda: make_toy(20000.0, 21000.0))
    papers.register("vae", lambda: load_model("none.safetensors"))
    _, missed, lost = papers.ask_all(packaged)
    assert missed.result is None and "20000-21000 A" in missed.reason and "cover 0%" in missed.reason
    assert lost.result is None and "weights are not here" in lost.reason


def test_covered_fraction_counts_good_pixels_in_the_rest_frame(packaged):
    assert papers.covered_fraction(packaged, (5000, 5500)) == pytest.approx([1, 1], abs=0.01)
    assert papers.covered_fraction(packaged, (1000, 2000)).tolist() == [0, 0]
    half = packaged.copy(deep=True)
    rest = half["observed_wavelength"].values / (1 + half["redshift"].values[0])
    half["ivar"].values[0, (rest > 5000) & (rest < 5250)] = 0
    assert papers.covered_fraction(half, (5000, 5500)) == pytest.approx([0.5, 1], abs=0.01)
