"""Mock spectra with known lines, drawn once for all tests of line fits."""

import pytest

from .line_mocks import make_mocks


@pytest.fixture(scope="session")
def mocks(grid):
    return make_mocks(grid, 240, seed=3, sn=25)


@pytest.fixture(scope="session")
def few(mocks):
    return mocks.isel(galaxy=slice(9))
