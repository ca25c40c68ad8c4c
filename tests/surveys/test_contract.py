"""What surveys share: bad files are refused by name, seeds repeat, noise is what errors say, columns have units."""

import gzip
import shutil

import numpy as np
import pytest
import xarray as xr

from spectool.surveys import observe_sdss, read_califa_cube, read_photometry, read_sdss, read_spectrum
from spectool.surveys.califa import draw_califa
from spectool.surveys.desi import observe_desi_like
from spectool.surveys.gama import observe_gama
from spectool.surveys.jpas import observe_jpas
from spectool.surveys.tables import GAMA_LABELS, read_pipe3d
from tests.surveys.conftest import (
    has_units,
    make_catalogue,
    make_observed,
    make_rest,
    pipe3d_path,
    write_cube,
    write_spec,
)

READERS = {
    "sdss.fits": (read_sdss, write_spec),
    "spectrum.fits": (lambda path: read_spectrum(path, redshift=0.1), write_spec),
    "cube.fits.gz": (read_califa_cube, write_cube),
    "gama.fits": (
        lambda path: read_photometry(path, units="Jy", labels=GAMA_LABELS),
        lambda path: make_catalogue().write(path),
    ),
    "pipe3d.hdf5": (read_pipe3d, lambda path: shutil.copy(pipe3d_path(), path)),
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
    "empty": (lambda path: path.write_bytes(b""), "is not a FITS file"),
}


@pytest.mark.parametrize("how", SPOIL)
@pytest.mark.parametrize("name", READERS)
def test_bad_files_are_refused_by_name(tmp_path, name, how):
    (read, write), (spoil, says) = READERS[name], SPOIL[how]
    path = tmp_path / name
    write(path)
    spoil(path)
    error = FileNotFoundError if how == "missing" else ValueError
    with pytest.raises(error, match=rf"{name}.*({says}|cannot be read as )"):
        read(path)


SIMULATORS = {
    "sdss": lambda samples, seed: observe_sdss(samples["rest"], seed=seed, keep_truth=True),
    "desi": lambda samples, seed: observe_desi_like(samples["observed"], seed=seed),
    "gama": lambda samples, seed: observe_gama(samples["gama"], seed=seed, facilities={}),
    "jpas": lambda samples, seed: observe_jpas(samples["flat"], seed=seed, magnitude=20.0),
}


@pytest.fixture(scope="module")
def samples(gama_sample, flat_bands):
    rest, observed = make_rest(2e7, np.linspace(0.05, 0.2, 60)), make_observed(sn=1e4, n=100)
    return {"rest": rest, "observed": observed, "gama": gama_sample, "flat": flat_bands}


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
