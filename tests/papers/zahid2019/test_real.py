"""The shipped networks on real SDSS spectra, against metallicities that pPXF fits to the same spectra.

Both know the same library, so what they agree on is not yet the truth; what they disagree on, real spectra have and
training spectra have not. Bounds are wide: figures are printed as they are (``pytest -s``).
"""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from spectool.measure.populations import fit_populations
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.network import predict_ensemble
from spectool.papers.zahid2019.reader import prepare_zahid2019

N_OTHERS = 60
# Within 0.04 dex of 16 ages and a polynomial of degree 10, in a quarter of the time; metallicities that networks know.
QUICK = {"templates": (tuple(10 ** np.linspace(6.7, 10.1, 8)), (-1.7, -0.7, -0.4, 0.0, 0.4)), "mdegree": 6}


@pytest.fixture(scope="module")
def galaxies(shared):
    """All star-forming galaxies, and sixty others with a signal to noise above 25 per pixel."""
    table = pd.read_csv(shared / "data/sdss_galaxies.csv")
    forming = table["subclass"].fillna("").str.contains("STAR")
    near = table["z"].between(0.005, 0.24) & (table["vdisp"] > 0)
    others = np.random.default_rng(0).permutation(np.flatnonzero(near & ~forming & (table["sn"] > 25)))
    drawn = [np.flatnonzero(near & forming), others[:N_OTHERS]]
    rows = np.sort(np.concatenate(drawn))
    with np.load(shared / "data/sdss_galaxies.npz") as data:
        flux, ivar = data["flux"][rows], data["ivar"][rows]
        wavelength = 10 ** (data["loglam0"] + data["dloglam"] * np.arange(flux.shape[1]))
    pixels = ("galaxy", "wavelength")
    return xr.Dataset(
        {
            "flux": (pixels, flux, {"units": "1e-17 erg / (Angstrom s cm2)"}),
            "ivar": (pixels, ivar, {"units": ""}),
            "mask": (pixels, ivar <= 0, {"units": ""}),
            "redshift": ("galaxy", table["z"].values[rows]),
            "velocity_dispersion": ("galaxy", table["vdisp"].values[rows], {"units": "km / s"}),
            "is_forming": ("galaxy", forming.values[rows]),
        },
        coords={"observed_wavelength": ("wavelength", wavelength, {"units": "Angstrom"})},
        attrs={"survey": "SDSS"},
    )


@pytest.fixture(scope="module")
def compared(galaxies):
    """log Z of the networks and of pPXF, and which spectra both can say something about."""
    prepared = prepare_zahid2019(galaxies)
    mean, _, _ = predict_ensemble(load_ensemble(), prepared)
    fit = fit_populations(galaxies, progress=False, **QUICK)
    usable = ~prepared["mask"].values.all(axis=1) & (fit["fit_status"].values == 0) & np.isfinite(mean[:, 0])
    return mean[:, 0], fit["log_z_lw"].values, usable


def told(name, network, ppxf):
    """Number, correlation, median offset, robust scatter; printed."""
    off = network - ppxf
    offset = np.median(off)
    scatter = 1.4826 * np.median(np.abs(off - offset))
    correlation = np.corrcoef(network, ppxf)[0, 1]
    print(
        f"{name}: {off.size} galaxies, correlation {correlation:.2f}, network - pPXF {offset:+.3f} dex, "
        f"scatter {scatter:.3f} dex"
    )
    return off.size, correlation, offset, scatter


def test_nearly_all_of_a_hundred_real_spectra_can_be_compared(compared):
    usable = compared[2]
    assert usable.sum() >= 150 and usable.mean() > 0.9


def test_star_forming_galaxies(galaxies, compared):
    network, ppxf, usable = compared
    rows = usable & galaxies["is_forming"].values
    n, correlation, offset, scatter = told("star-forming", network[rows], ppxf[rows])
    assert n > 100 and correlation > 0.35 and abs(offset) < 0.3 and scatter < 0.25


def test_galaxies_within_the_models_resolution(galaxies, compared):
    network, ppxf, usable = compared
    rows = usable & (galaxies["velocity_dispersion"].values <= 140)
    n, correlation, offset, scatter = told("vdisp <= 140 km/s", network[rows], ppxf[rows])
    assert n > 30 and correlation > 0.35 and abs(offset) < 0.3 and scatter < 0.25


def test_galaxies_with_lines_wider_than_the_models(galaxies, compared):
    network, ppxf, usable = compared
    rows = usable & (galaxies["velocity_dispersion"].values > 140)
    n, _, offset, scatter = told("vdisp > 140 km/s", network[rows], ppxf[rows])
    # What is blurred looks metal-poor to a network that expects 330 km/s.
    assert n > 30 and -0.6 < offset < 0.1 and scatter < 0.25
