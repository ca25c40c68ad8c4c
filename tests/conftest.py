"""Fixtures for every test: the shared data (when there), a grid and a small population."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.denoising_toy import toy as toy
from tests.denoising_toy import trained as trained
from tests.samples import make_spectra

ROOT = Path(__file__).resolve().parents[1]


def pytest_terminal_summary(terminalreporter):
    """What each notebook cost."""
    for report in terminalreporter.stats.get("passed", []):
        for name, cost in report.user_properties:
            terminalreporter.write_line(f"{name}: {cost}")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two workers of two threads each on two cores wait for each other: ten times the CPU time for small layers."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that lie beside the checkout in CI and at the developers' places, not at users'."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder of real test data (shared/, beside the checkout) is not here")
    return folder


@pytest.fixture(scope="session")
def sdss_table(shared):
    """What is known of 996 real galaxies."""
    table = pd.read_csv(shared / "data/sdss_galaxies.csv")
    return table.assign(forming=table["subclass"].fillna("").str.contains("STAR"))


@pytest.fixture(scope="session")
def sdss_arrays(shared):
    """Their spectra as they were collected."""
    with np.load(shared / "data/sdss_galaxies.npz") as data:
        arrays = {name: data[name] for name in ("flux", "ivar", "wdisp")}
        first, step = data["loglam0"], data["dloglam"]
    return arrays | {"wavelength": 10 ** (first + step * np.arange(arrays["flux"].shape[1]))}


@pytest.fixture(scope="session")
def sdss_galaxies(sdss_table, sdss_arrays):
    """A function of rows of the table that gives their spectra as a sample."""
    flux, ivar, wavelength = (sdss_arrays[name] for name in ("flux", "ivar", "wavelength"))

    def take(rows):
        redshift, dispersion = (sdss_table[name].values[rows] for name in ("z", "vdisp"))
        columns = {"redshift": redshift, "velocity_dispersion": dispersion}
        columns |= {"ivar": ivar[rows], "mask": ivar[rows] <= 0}
        sample = make_spectra(flux[rows], wavelength, frame="observed_wavelength", **columns)
        return sample.assign_attrs(survey="SDSS")

    return take


@pytest.fixture(scope="session")
def packaged():
    """The two real galaxies that come with pPXF."""
    from spectool.surveys import packaged_spectra, read_sdss

    return read_sdss(list(packaged_spectra().values()))


@pytest.fixture(scope="session")
def grid():
    """The embedded optical SSP grid."""
    from spectool.synth.grid import embedded_grid

    return embedded_grid()


@pytest.fixture(scope="session")
def broadband():
    """The embedded grid that reaches the infrared."""
    from spectool.synth.grid import SSPGrid

    return SSPGrid.embedded("broadband")


@pytest.fixture(scope="session")
def population(grid):
    """Sixty-four galaxies with the relations of real ones, ready for ``synthesize``."""
    from spectool.synth.population import draw_population

    return draw_population(64, grid_age=grid.age, seed=20240)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
