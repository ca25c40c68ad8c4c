"""FSPS for real, on stand-in data; and SPS_HOME wrong in every way, which must never end the interpreter."""

import json
import os
import shutil
import sys
import tarfile

import numpy as np
import pytest

from spectool.models.vae import encode_sample, fit_statistics
from spectool.papers.marziano2024.network import make_autoencoder
from spectool.papers.marziano2024.sample import make_sample as make_marziano2024
from spectool.papers.zahid2019.sample import make_basis, make_heldout, make_sample, training_table
from spectool.synth.broadening import grid_fwhm
from spectool.synth.grid import SSPGrid
from spectool.synth.population import draw_population
from spectool.synth.sources import FSPSError, check_sps_home, load_fsps_grid
from spectool.synth.synthesis import synthesize
from tests.refusals import refused
from tests.stars import bare_stars

NAME = "FSPS MIST + C3K_LR"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="python-fsps has no wheel for Windows")


@pytest.fixture(scope="module")
def sps_home(shared, tmp_path_factory):
    home = tmp_path_factory.mktemp("sps_home")
    with tarfile.open(shared / "fsps_fixture" / "sps_home.tar.xz") as archive:
        archive.extractall(home, filter="data")
    return home


@pytest.fixture
def broken(sps_home, tmp_path):
    return shutil.copytree(sps_home, tmp_path / "broken", symlinks=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fsps_grid(sps_home, cache):
    return SSPGrid.from_fsps(sps_home=sps_home, cache=cache, progress=False)


def test_grid_says_what_fsps_is_made_of_and_has_its_axes(fsps_grid):
    assert "fsps" not in sys.modules, "it may end the interpreter, and has one of its own"
    provenance = fsps_grid.provenance
    assert provenance["name"] == NAME
    assert "python-fsps" in provenance["source"] and provenance["imf"] == "Kroupa"
    assert "MILES" not in provenance["stars"] and "MILES" in provenance["nebular"]
    assert fsps_grid.metallicity[0] < 1e-4 and fsps_grid.metallicity[-1] > 0.05
    assert fsps_grid.z_sun == pytest.approx(0.0185) and fsps_grid.age[-1] > 1.37e10
    np.testing.assert_allclose(np.diff(np.log10(fsps_grid.age)), 0.05, atol=1e-6)
    assert fsps_grid.edges[0] < 980 and fsps_grid.edges[-1] > 10100
    optical = (fsps_grid.wavelength > 3000) & (fsps_grid.wavelength < 9990)
    assert np.diff(fsps_grid.edges)[optical].max() < 1.1
    assert np.all((fsps_grid.surviving_mass > 0.3) & (fsps_grid.surviving_mass <= 1.0))
    assert np.all(np.diff(fsps_grid.surviving_mass, axis=1) <= 1e-6)
    assert fsps_grid.nebular is not None and np.all(fsps_grid.ionizing_rate >= 0)
    # C3K_LR's resolution is constant in velocity, which a single number in Angstrom is not.
    wavelength = np.array([4100.0, 5500.0, 7200.0])
    fwhm = grid_fwhm(fsps_grid, wavelength)
    np.testing.assert_allclose(fwhm / wavelength * 299792.458, 235, atol=3)
    assert fwhm[1] == pytest.approx(fsps_grid.fwhm, rel=1e-3)


def test_cached_grids_are_read_unless_spoilt_or_of_other_options_or_files(
    fsps_grid, sps_home, cache, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr("spectool.synth.sources._run_worker", lambda *a: asked.append(a) or 1 / 0)
    again = SSPGrid.from_fsps(sps_home=sps_home, cache=cache, progress=False)
    for name in ("flux", "edges", "ionizing_rate"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fsps_grid, name))
    assert again.provenance == fsps_grid.provenance and not asked
    with pytest.raises(ZeroDivisionError):
        load_fsps_grid(imf="chabrier", sps_home=sps_home, cache=cache)
    touched = sps_home / "data" / "magsun.dat"
    before = touched.stat()
    touched.write_bytes(touched.read_bytes() + b"\n")
    with pytest.raises(ZeroDivisionError):
        load_fsps_grid(sps_home=sps_home, cache=cache)
    touched.write_bytes(touched.read_bytes()[:-1])
    os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [a[0]["imf_type"] for a in asked] == [1, 2]
    shutil.copytree(cache, tmp_path / "cache")
    next((tmp_path / "cache").glob("fsps_*.nc")).write_bytes(b"not a netCDF file")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(ZeroDivisionError):
        load_fsps_grid(sps_home=sps_home, cache=tmp_path / "cache")


def test_grid_goes_through_synthesis_and_the_papers_code(fsps_grid, monkeypatch):
    galaxies = draw_population(16, grid_age=fsps_grid.age, seed=1)
    sample = synthesize(galaxies, fsps_grid, wavelength=np.arange(3600.0, 7400.0, 2.0), progress=False)
    assert sample.flux.shape == (16, 1900) and (sample.flux > 0).all()
    # Labels agree with the draw but for the grid's own surviving mass.
    np.testing.assert_allclose(sample.log_sfr, galaxies.log_sfr, atol=1e-5)
    np.testing.assert_allclose(sample.log_mass, galaxies.log_mass, atol=0.2)
    mock = make_marziano2024(16, seed=3, grid=fsps_grid, progress=False)
    model = make_autoencoder("light", seed=0)
    fit_statistics(model, np.tile(mock.flux.values, (3, 1)), mock.wavelength.values, seed=0)
    assert mock.flux.shape == (16, 4582) and np.isfinite(encode_sample(model, mock).latent).all()
    made = make_sample(fsps_grid, table=training_table().isel(galaxy=slice(None, None, 463)))
    assert made["flux"].shape == (101, 2468) and made["flux"].any("wavelength").all()
    assert made["log_z_lw"].attrs["z_sun"] == 0.02 and float(np.abs(made["log_z_lw"]).max()) <= 2.0001
    assert np.isfinite(make_heldout(10, seed=1, grid=fsps_grid)["flux"]).all()
    for table in (sample, mock, made):
        assert np.isfinite(table["flux"]).all() and json.loads(table.attrs["ssp_grid"])["name"] == NAME
    monkeypatch.setattr("spectool.papers.zahid2019.sample.FWHM", 200.0)
    refused(r"resolution of 23\d km/s", make_basis, fsps_grid)


def test_grid_is_linear_in_mass_as_fsps_is(fsps_grid):
    edges, mass = np.arange(4000.0, 6001.0, 20.0), 1.0 * (np.arange(fsps_grid.age.size) == 60)[None]
    galaxies = bare_stars(mass, np.log10(fsps_grid.metallicity[[5]]), z_sun=1.0)
    options = {"wavelength": 0.5 * (edges[1:] + edges[:-1]), "nebular": False, "progress": False}
    sample = synthesize(galaxies, fsps_grid, **options)
    np.testing.assert_allclose(sample.flux[0], fsps_grid.rebinned_flux(edges)[5, 60], rtol=1e-4)


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("nebular/ZAU_ND_mist.lines", "nebular line file"),
        ("SPECTRA/C3K/c3k_lr/c3k_lr_feh-1.00_afe+0.0.spec.bin", "spectral library cannot be opened"),
        ("ISOCHRONES/MIST/isoc_feh_p000_afe_p0_vvcrit0.4_full.dat", "isochrone files cannot be opened"),
        ("dust/alldirty_c.dat", "End of file"),
    ],
)
def test_incomplete_sps_home_is_an_error_and_not_the_end(file, word, broken):
    (broken / file).unlink()
    with pytest.raises(FSPSError, match=word) as caught:
        load_fsps_grid(sps_home=broken, cache=False, progress=False)
    assert str(broken) in str(caught.value) and "git clone" in str(caught.value)


def test_homes_that_are_none_are_named_before_fsps_is_asked(broken, sps_home, tmp_path, monkeypatch):
    shutil.rmtree(broken / "ISOCHRONES")
    (broken / "data" / "FILTER_LIST").unlink()
    refused(r"lacks data/FILTER_LIST, ISOCHRONES", check_sps_home, broken, error=FSPSError)
    monkeypatch.setenv("SPS_HOME", str(sps_home))
    assert check_sps_home() == sps_home
    file, long = tmp_path / "file", tmp_path / ("x" * 120) / ("y" * 120)
    file.write_text("no folder")
    long.mkdir(parents=True)
    places = {"": "not set", tmp_path / "absent": "not a directory", file: "not a directory"}
    for place, message in (places | {long: "characters"}).items():
        monkeypatch.setenv("SPS_HOME", str(place))
        refused(message, SSPGrid.from_fsps, error=FSPSError)
    wrong = {"dust2: set by": {"parameters": {"dust2": 0.3}}, "no IMF 'kennicutt'": {"imf": "kennicutt"}}
    for message, options in (wrong | {"wavelength_range": {"wavelength_range": (5000, 4000)}}).items():
        refused(message, load_fsps_grid, sps_home=sps_home, **options)
