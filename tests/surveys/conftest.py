"""Fixtures of the photometric surveys: band averages take some seconds, so they are made once."""

import pytest


@pytest.fixture(scope="session")
def broadband():
    from spectool.synth.grid import SSPGrid

    return SSPGrid.embedded("broadband")


@pytest.fixture(scope="session")
def filters():
    from spectool.surveys.gama import load_filters

    return load_filters()


@pytest.fixture(scope="session")
def averages(broadband, filters):
    from spectool.surveys.photometry import make_band_averages

    return make_band_averages(broadband, filters)


@pytest.fixture(scope="session")
def galaxies(broadband):
    """Forty galaxies, their redshifts spread over the range."""
    import numpy as np

    from spectool.synth.population import draw_population

    drawn = draw_population(40, grid_age=broadband.age, seed=11, redshift_range=(0.005, 0.5))
    return drawn.assign(redshift=("galaxy", np.linspace(0.004, 0.4999, 40), {"units": ""}))
