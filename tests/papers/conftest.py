"""Real SDSS galaxies, of which tests of all papers take some."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr


@pytest.fixture(scope="session")
def sdss_table(shared):
    """What is known of the 996 galaxies."""
    table = pd.read_csv(shared / "data/sdss_galaxies.csv")
    return table.assign(forming=table["subclass"].fillna("").str.contains("STAR"))


@pytest.fixture(scope="session")
def sdss_galaxies(shared, sdss_table):
    """A function of rows of the table that gives their spectra."""
    with np.load(shared / "data/sdss_galaxies.npz") as data:
        flux, ivar, first, step = (data[name] for name in ("flux", "ivar", "loglam0", "dloglam"))
    wavelength, pixels = 10 ** (first + step * np.arange(flux.shape[1])), ("galaxy", "wavelength")

    def take(rows):
        return xr.Dataset(
            {
                "flux": (pixels, flux[rows], {"units": "1e-17 erg / (Angstrom s cm2)"}),
                "ivar": (pixels, ivar[rows], {"units": ""}),
                "mask": (pixels, ivar[rows] <= 0, {"units": ""}),
                "redshift": ("galaxy", sdss_table["z"].values[rows]),
                "velocity_dispersion": ("galaxy", sdss_table["vdisp"].values[rows], {"units": "km / s"}),
            },
            coords={"observed_wavelength": ("wavelength", wavelength, {"units": "Angstrom"})},
            attrs={"survey": "SDSS"},
        )

    return take


@pytest.fixture(scope="session")
def compare():
    """A function that says, and prints, how two measurements agree: correlation, median offset, robust scatter."""

    def told(name, ours, theirs):
        off = np.asarray(ours - theirs)
        offset = np.median(off)
        scatter = 1.4826 * np.median(np.abs(off - offset))
        correlation = np.corrcoef(ours, theirs)[0, 1]
        figures = f"correlation {correlation:.2f}, offset {offset:+.3f} dex, scatter {scatter:.3f} dex"
        print(f"{name}: {off.size} galaxies, {figures}")
        return correlation, offset, scatter

    return told


# Within 0.04 dex of 16 ages and a polynomial of degree 10, in a quarter of the time; metallicities that networks know.
QUICK = {"templates": (tuple(10 ** np.linspace(6.7, 10.1, 8)), (-1.7, -0.7, -0.4, 0.0, 0.4)), "mdegree": 6}


@pytest.fixture(scope="session")
def fit_quickly():
    """Ages and metallicities by pPXF."""
    from spectool.measure.populations import fit_populations

    return lambda galaxies: fit_populations(galaxies, progress=False, **QUICK)
