"""Mock spectra with known lines, and averages over GAMA's bands: made once for all tests."""

import pytest

from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid

from .line_mocks import make_mocks


@pytest.fixture(scope="session")
def mocks(grid):
    return make_mocks(grid, 240, seed=3, sn=25)


@pytest.fixture(scope="session")
def few(mocks):
    return mocks.isel(galaxy=slice(9))


@pytest.fixture(scope="session")
def averages():
    return make_band_averages(SSPGrid.embedded("broadband"), load_filters(), highest_redshift=0.2, step=0.01)
