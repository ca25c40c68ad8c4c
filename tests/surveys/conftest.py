"""Files and samples that the tests of surveys share; band averages take some seconds, so they are made once."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from tests.samples import make_spectra

LOGLAM = 3.58 + 1e-4 * np.arange(500)
FIVE = ("FUV", "g", "r", "i", "K")
CENTER = (180.7111, 48.6362)  # of NGC 4047
MED_VEL = 3420.0
# rows, columns and wavelengths of a small cube
NY, NX, AIR = 24, 20, 5000 + 20.0 * np.arange(60)
CUBE_HEADER = {
    **{"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"},
    **{"CRVAL1": CENTER[0], "CRVAL2": CENTER[1], "CRPIX1": 11.0, "CRPIX2": 9.0},
    **{"CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "CRVAL3": 5000.0, "CDELT3": 20.0, "CRPIX3": 1.0},
    **{"MED_VEL": MED_VEL, "OBJECT": "NGC4047"},
}


def write_spec(path, loglam=LOGLAM, *, redshift=0.1, subclass="", **columns):
    """A spectrum as SDSS writes it since DR8, into a path or an open file."""
    n = len(loglam)
    pixels = {"flux": np.ones(n, "f4"), "loglam": np.asarray(loglam, "f4"), "ivar": np.full(n, 4, "f4")}
    columns = pixels | {"and_mask": np.zeros(n, "i4"), "wdisp": np.full(n, 0.9, "f4")} | columns
    primary = fits.PrimaryHDU()
    primary.header["PLUG_RA"], primary.header["PLUG_DEC"] = 150.0, 2.0
    facts = Table({"Z": [redshift], "CLASS": ["GALAXY"], "SUBCLASS": [subclass]})
    hdus = fits.HDUList([primary, fits.BinTableHDU(Table(columns)), fits.BinTableHDU(facts)])
    hdus.writeto(path, overwrite=True)
    return path


def write_cube(
    path, *, flux=None, error=0.05, bad=None, drop=(), error_name="ERROR", error_unit="", **changes
):
    """A cube as CALIFA writes them; its brightest spaxel is row 8, column 10, at the reference pixel."""
    if flux is None:
        row, column = np.mgrid[:NY, :NX]
        noise = np.random.default_rng(5).standard_normal((AIR.size, NY, NX))
        flux = np.exp(-np.hypot(row - 8, column - 10) / 5) * (1 + 0.05 * noise)
    error = np.full(flux.shape, error) if np.ndim(error) == 0 else error
    bad = np.zeros(flux.shape) if bad is None else bad
    planes = {"ERROR": error.astype("f4"), "ERRWEIGHT": np.ones(flux.shape, "f4"), "BADPIX": bad.astype("u1")}
    primary = fits.PrimaryHDU(flux.astype("f4"))
    words = CUBE_HEADER | changes
    primary.header.update({word: value for word, value in words.items() if value is not None})
    hdus = [fits.ImageHDU(data, name=name) for name, data in planes.items() if name not in drop]
    for hdu in hdus[:1] * ("ERROR" not in drop):
        hdu.name, hdu.header["BUNIT"] = error_name, error_unit
    fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)
    return flux.astype("f4")


def make_catalogue():
    """Eight galaxies in five bands, as GAMA's tables have them: mJy-bright, with redshifts."""
    bright = np.random.default_rng(0).uniform(0.5e-3, 2e-3, 8)
    columns = {"CATAID": np.arange(8), "Z": np.linspace(0.05, 0.2, 8)}
    for band, colour in zip(FIVE, (0.02, 0.6, 1.0, 1.4, 2.5), strict=True):
        columns |= {f"{band}_flux": bright * colour, f"{band}_fluxerr": 0.05 * bright * colour}
    columns |= {"mass_stellar_percentile50": np.full(8, 1e10), "L_dust_percentile50": np.full(8, 3e10)}
    return Table(columns | {"SFR_0_1Gyr_percentile50": np.r_[0.0, np.full(7, 2.0)]})


def pipe3d_path():
    """In the package's folder: importing it would write a file there."""
    folder = Path(find_spec("edge_pydb").submodule_search_locations[0])
    return folder / "img_califa" / "NGC4047_allpix.pipe3d.hdf5"


def has_units(sample):
    for name in sample.variables:
        assert "units" in sample[name].attrs or sample[name].dtype.kind in "OU" or name in sample.coords, name
        if sample[name].dtype.kind == "f":
            u.Unit(sample[name].attrs["units"])
    return True


def make_rest(flux, redshift, units="Lsun / Angstrom", wavelength=None, fwhm=2.5):
    from spectool.spectra import sps_wavelength

    wavelength = sps_wavelength() if wavelength is None else wavelength
    redshift = np.atleast_1d(redshift).astype(float)
    flux = np.broadcast_to(flux, (redshift.size, wavelength.size))
    sample = make_spectra(flux, wavelength, units=units, redshift=redshift, log_mass=10.0)
    return sample.assign_attrs(fwhm=fwhm)


def make_observed(level=20.0, redshift=(0.03, 0.045), sn=30.0, n=1):
    """Flat galaxies with truth and noise as the SDSS reader would give them, for `observe_desi_like`."""
    wavelength, redshift = np.geomspace(3703.0, 7897.0, 825), np.repeat(redshift, n).astype(float)
    truth = np.full((redshift.size, wavelength.size), level, "f4")
    columns = {"truth": truth, "mask": False, "redshift": redshift, "candidate": np.arange(redshift.size)}
    return make_spectra(truth, wavelength, ivar=np.float32((sn / level) ** 2), **columns)


@pytest.fixture(scope="session")
def filters():
    from spectool.surveys.gama import load_filters

    return load_filters()


@pytest.fixture(scope="session")
def averages(broadband, filters):
    from spectool.surveys.photometry import make_band_averages

    return make_band_averages(broadband, filters)


@pytest.fixture(scope="session")
def gama_sample(averages):
    from spectool.surveys.gama import draw_gama

    return draw_gama(1500, averages=averages, seed=3)


@pytest.fixture(scope="session")
def flat_bands():
    from spectool.surveys.jpas import CALIFA_BANDS

    flux = (("spectrum", "band"), np.ones((3000, 34)), {"units": ""})
    return xr.Dataset({"flux": flux}, coords={"band": list(CALIFA_BANDS)})


@pytest.fixture(scope="session")
def few_califa():
    from spectool.surveys.califa import draw_califa

    return draw_califa(12, spectra_per_galaxy=30, seed=3, progress=False)


@pytest.fixture(scope="session")
def galaxies(broadband):
    """Forty galaxies, their redshifts spread over the range."""
    from spectool.synth.population import draw_population

    drawn = draw_population(40, grid_age=broadband.age, seed=11, redshift_range=(0.005, 0.5))
    return drawn.assign(redshift=("galaxy", np.linspace(0.004, 0.4999, 40), {"units": ""}))
