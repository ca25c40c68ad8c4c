"""The training set's benchmark compares the same spectra, and says no where they are others."""

import numpy as np
import pytest

from benchmarks.training_set import make_directly, require_same
from spectool.papers.zahid2019.sample import make_sample, training_table


@pytest.fixture(scope="module")
def pair(grid):
    rows = training_table().isel(galaxy=slice(100, None, 2205))
    return make_sample(grid, table=rows, dtype="float32")["flux"].values, make_directly(rows, grid)


def test_both_ways_make_the_same_spectra(pair):
    require_same(*pair)


def test_a_time_for_other_spectra_does_not_count(pair):
    ours, theirs = pair
    with pytest.raises(ValueError, match="they differ by"):
        require_same(ours, np.roll(theirs, 1, axis=0))
