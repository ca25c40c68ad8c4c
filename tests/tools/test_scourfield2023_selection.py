"""The selecting tool goes on where it was, and writes what `read_products` reads."""

import json

import numpy as np
import pytest

from spectool.papers.scourfield2023.sample import read_products
from tools.make import scourfield2023_selection as tool

FEW = ((-9.0, 25),)
SAMPLES = {
    "uniform": tool.Recipe(0.2, 3.4, False, True, 2, FEW, n_bin=4, n_top=4),
    "star-forming": tool.Recipe(1.4, 3.2, True, True, 2, FEW, n_bin=4, n_top=3),
    "null": tool.Recipe(1.4, 3.2, True, False, 2, FEW, n_bin=4, n_top=3),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two blocks of each population, in one process."""
    folder = tmp_path_factory.mktemp("selection")
    arguments = ["--out", str(folder / "selection.nc"), "--cache", str(folder / "cache"), "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPU_LIMIT", "1")
        patch.setattr(tool, "SAMPLES", SAMPLES)
        report = tool.main(arguments)
        yield folder, arguments, report


def test_the_file_is_what_the_reader_reads(made):
    folder, _, report = made
    for name, recipe in SAMPLES.items():
        sample = read_products(name, path=folder / "selection.nc")
        assert sample.sizes["galaxy"] == report[name]["galaxies"] > 20
        assert json.loads(sample.attrs["recipe"])["metallicity_sfr"] == recipe.metallicity_sfr
        assert sample.attrs["constant"] == report["uniform"]["constant"] > 10
        per_bin = np.bincount(sample["h_alpha_bin"].values, minlength=10)
        assert per_bin.tolist() == report[name]["per_bin"] and per_bin.max() <= 4
        assert (sample["split"] == "test").sum() == report[name]["test"]


def test_a_second_run_measures_nothing_and_selects_the_same(made, monkeypatch):
    folder, arguments, report = made
    before = read_products("uniform", path=folder / "selection.nc")

    monkeypatch.setattr(tool, "screen_block", lambda *args, **options: pytest.fail("measured again"))
    assert tool.main(arguments) == report
    assert read_products("uniform", path=folder / "selection.nc").identical(before)


def test_an_interrupted_run_goes_on_with_the_missing_block(made, monkeypatch):
    folder, arguments, report = made
    lost = sorted((folder / "cache").rglob("block_0001.nc"))
    assert len(lost) == 2  # the uniform and the star-forming sample share their candidates
    lost[0].unlink()
    measured, original = [], tool.screen_block

    def count(block, *args, **options):
        measured.append(block)
        return original(block, *args, **options)

    monkeypatch.setattr(tool, "screen_block", count)
    assert tool.main(arguments) == report
    assert measured == [1]
