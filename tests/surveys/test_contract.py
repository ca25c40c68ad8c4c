"""What surveys share: bad files are refused by name, seeds repeat, noise is what errors say, columns have units."""

import gzip
import shutil

import numpy as np
import pytest
import xarray as xr

from spectool import surveys
from spectool.surveys import desi_spectrograph as desi
from spectool.surveys import gama, jpas, photometry
from spectool.surveys.califa import draw_califa, rebuild_galaxy
from spectool.surveys.tables import GAMA_LABELS, read_pipe3d
from tests.refusals import refused
from tests.surveys import conftest as toys
from tests.surveys.conftest import has_units

READERS = {
    "sdss.fits": (surveys.read_sdss, toys.write_spec),
    "spectrum.fits": (lambda path: surveys.read_spectrum(path, redshift=0.1), toys.write_spec),
    "cube.fits.gz": (surveys.read_califa_cube, toys.write_cube),
    "gama.fits": (
        lambda path: surveys.read_photometry(path, units="Jy", labels=GAMA_LABELS),
        lambda path: toys.make_catalogue().write(path),
    ),
    "pipe3d.hdf5": (read_pipe3d, lambda path: shutil.copy(toys.pipe3d_path(), path)),
}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def truncate_inside(path):
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    path.write_bytes(gzip.compress(content[: len(content) // 3]))


SPOIL = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "cut": (truncate, "truncated or damaged"),
    "cut inside": (truncate_inside, "truncated or damaged"),
    "letter": (lambda path: path.write_text("not a spectrum, a letter"), "is not a FITS file"),
    "packed letter": (lambda path: path.write_bytes(gzip.compress(b"a letter")), "is not a FITS file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
}


@pytest.mark.parametrize("how", SPOIL)
@pytest.mark.parametrize("name", READERS)
def test_bad_files_are_refused_by_name(tmp_path, name, how):
    (read, write), (spoil, says) = READERS[name], SPOIL[how]
    path = tmp_path / name
    write(path)
    spoil(path)
    error = FileNotFoundError if how == "missing" else ValueError
    refused(rf"{name}.*({says}|cannot be read as )", read, path, error=error)


def watch_sdss(samples, **rest):
    return surveys.observe_sdss(toys.make_rest(1.0, rest.pop("redshift", 0.1), **rest), seed=0)


def watch_desi(samples, **options):
    return desi.observe_desi_like(toys.make_observed(), seed=0, **options)


def watch_jpas(samples, **options):
    return jpas.observe_jpas(samples["flat"], **{"seed": 1, "magnitude": 20.0} | options)


def average(samples, grid="broadband", low=4e3, high=5e3, transmission=1.0):
    curve = np.array([low, high]), np.full(2, transmission)
    return photometry.make_band_averages(samples[grid], {"mine": curve})


WAVELENGTH = np.arange(4000.0, 6000.0, 2.0)
LINE, REST = toys.make_observed().isel(galaxy=[0]), toys.make_rest(1.0, np.full(6, 0.1))
SOLAR = LINE.assign(flux=LINE["flux"].assign_attrs(units="Lsun / AA"))
# What is said -> what is asked.
REFUSALS = {
    r"redshift of galaxy 1 is -0\.1": lambda s: watch_sdss(s, redshift=[0.1, -0.1]),
    "give median_flux": lambda s: watch_sdss(s, units=""),
    "must be in Lsun / Angstrom": lambda s: watch_sdss(s, units="km"),
    "no column `redshift`": lambda s: surveys.observe_sdss(REST.drop_vars("redshift"), seed=0),
    "coordinate `wavelength`": lambda s: surveys.observe_sdss(REST.drop_vars("wavelength"), seed=0),
    "2 seeds for 6 galaxies": lambda s: surveys.observe_sdss(REST, seed=np.ones((2, 2), int)),
    "lacks ivar": lambda s: desi.observe_desi_like(LINE.drop_vars("ivar"), seed=0),
    "positive redshifts": lambda s: watch_desi(s, redshift=0.0),
    "DESI sees 3600-9800 A": lambda s: watch_desi(s, redshift=0.5),
    "exposure must be positive": lambda s: watch_desi(s, exposure=0),
    "flux is in solLum": lambda s: desi.observe_desi_like(SOLAR, seed=0),
    "no band 'J0385'": lambda s: jpas.band_matrix(WAVELENGTH, ["J0385"]),
    "named twice": lambda s: jpas.band_matrix(WAVELENGTH, ["J0400", "J0400"]),
    "sequence of names": lambda s: jpas.band_matrix(WAVELENGTH, "J0400"),
    "must increase": lambda s: jpas.band_matrix(WAVELENGTH[::-1]),
    '"rest" or "observed"': lambda s: jpas.measure_bands(LINE, frame="galaxy"),
    "need the column `redshift`": lambda s: jpas.measure_bands(LINE.drop_vars("redshift"), frame="observed"),
    r"dims \(galaxy, wavelength\)": lambda s: jpas.measure_bands(s["flat"]),
    "has errors": lambda s: jpas.observe_jpas(watch_jpas(s), seed=1, magnitude=20.0),
    "no band 'J0900' to scale to": lambda s: watch_jpas(s, reference="J0900"),
    "GAMA has no band 'B'": lambda s: gama.load_filters(["B"]),
    "GAMA has no bands J0390": lambda s: gama.observe_gama(s["flat"], seed=0),
    "'keep' or 'zero'": lambda s: gama.observe_gama(s["gama"], seed=6, negative="drop"),
    "bands need a grid into the infrared": lambda s: average(s, grid="optical"),
    "band 'mine' sees": lambda s: average(s, low=1e8, high=2e8),
    "band 'mine' transmits nothing": lambda s: average(s, transmission=0.0),
    "must be positive": lambda s: photometry.make_band_averages(s["broadband"], {}, step=0.0),
    "of 1 or more, not 0": lambda s: draw_califa(0, seed=0),
    "of 1 or more, not 3 and 0": lambda s: draw_califa(3, spectra_per_galaxy=0, seed=0),
    "no such nuisance: moon": lambda s: draw_califa(3, nuisances=("tilt", "moon"), seed=0),
    "galaxies are 0 to 11": lambda s: rebuild_galaxy(s["califa"], 12),
}


@pytest.mark.parametrize("says", REFUSALS)
def test_what_cannot_be_observed_is_refused_in_words(samples, says):
    refused(says, REFUSALS[says], samples)


SIMULATORS = {
    "sdss": lambda samples, seed: surveys.observe_sdss(samples["rest"], seed=seed, keep_truth=True),
    "desi": lambda samples, seed: desi.observe_desi_like(samples["observed"], seed=seed),
    "gama": lambda samples, seed: gama.observe_gama(samples["gama"], seed=seed, facilities={}),
    "jpas": lambda samples, seed: jpas.observe_jpas(samples["flat"], seed=seed, magnitude=20.0),
}


@pytest.fixture(scope="module")
def samples(grid, broadband, gama_sample, flat_bands, few_califa):
    shared = {"gama": gama_sample, "flat": flat_bands, "califa": few_califa, "broadband": broadband}
    rest, observed = toys.make_rest(2e7, np.linspace(0.05, 0.2, 60)), toys.make_observed(sn=1e4, n=100)
    return shared | {"optical": grid, "rest": rest, "observed": observed}


@pytest.mark.parametrize("survey", SIMULATORS)
def test_seeds_repeat_and_noise_is_what_errors_say(samples, survey):
    simulate = SIMULATORS[survey]
    seen = simulate(samples, 4)
    xr.testing.assert_identical(seen, simulate(samples, 4))
    assert not np.array_equal(seen["flux"], simulate(samples, 5)["flux"])
    truth = seen["truth" if "truth" in seen else "true_flux"]
    assert truth.attrs["units"] == seen["flux"].attrs["units"] and not seen["mask"].any()
    error = seen["flux_error"] if "flux_error" in seen else seen["ivar"] ** -0.5
    pull = ((seen["flux"] - truth) / error).values.astype(float)
    assert pull.mean() == pytest.approx(0, abs=4 / np.sqrt(pull.size))
    assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size))
    if survey in ("gama", "jpas"):  # in each band
        np.testing.assert_allclose(pull.mean(axis=0), 0, atol=4.5 / np.sqrt(len(pull)))
        np.testing.assert_allclose(pull.std(axis=0), 1, atol=4.3 / np.sqrt(2 * len(pull)))


def test_columns_have_units_that_astropy_reads(tmp_path, samples, few_califa):
    for name, (read, write) in READERS.items():
        write(tmp_path / name)
        assert has_units(read(tmp_path / name)) and read(tmp_path / name).attrs["history"].startswith("read ")
    assert has_units(few_califa)
    for simulate in SIMULATORS.values():
        bare = ["redshift", "log_mass", "wavelength"]  # of the toy samples
        assert has_units(simulate(samples, 1).drop_vars(bare, errors="ignore"))


def test_califa_has_one_sample_for_a_seed(few_califa):
    again, other = (draw_califa(12, spectra_per_galaxy=30, seed=seed, progress=False) for seed in (3, 4))
    assert all(again[n].values.tobytes() == few_califa[n].values.tobytes() for n in few_califa.variables)
    assert (other["log_mass"] != few_califa["log_mass"]).any()
