"""The mock GAMA sample with its teacher: reproducible, resumable; the paper's cuts take what they say, and count it."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.sedfit import PROPERTIES, score_fit
from spectool.papers.surana2020 import sample as surana2020
from spectool.papers.surana2020.sample import PAPER_FAILING, PAPER_LEFT, PAPER_TOTAL, select_galaxies
from tests.refusals import refused
from tools.make.surana2020_labels import write_labels


@pytest.fixture(scope="module")
def made():
    return surana2020._make_library(1500, False)


@pytest.fixture(scope="module")
def averages(made):
    return made["averages"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, made):
    monkeypatch.setattr(surana2020, "BLOCK", 150)
    monkeypatch.setattr(surana2020, "_make_library", lambda n_models, progress: made)


def make(n, **options):
    return surana2020.make_surana2020(n, n_models=1500, progress=False, **options)


def test_a_sample_is_made_block_by_block_and_read_again(tmp_path, monkeypatch):
    first = make(200, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and {path.suffix for path in files} == {".nc"}
    files[1].unlink()
    assert make(150, cache=tmp_path)["flux"].equals(first["flux"][:150])
    again = make(200, cache=tmp_path)
    xr.testing.assert_identical(again["log_sfr_fit"], first["log_sfr_fit"])
    xr.testing.assert_identical(again["flux"], first["flux"])
    monkeypatch.setattr(surana2020, "_make_library", None)
    few = make(160, cache=tmp_path)
    assert few.sizes["galaxy"] == 160 and few.attrs["survey"] == "GAMA"


def test_the_teacher_knows_roughly_what_is_true_and_cuts_go_by_its_mass():
    sample = make(150)
    found = score_fit(sample)
    assert (np.abs(found["bias"]) < 0.3).all() and float(found["scatter"][0]) < 0.15
    assert all(np.isfinite(sample[f"{name}_fit"]).all() for name in PROPERTIES)
    sample["log_mass_fit"].values[:5] = 8.0
    kept, cuts = surana2020.select_taught(sample)
    assert float(kept["log_mass_fit"].min()) >= 9
    assert int(cuts["lost"].sel(cut="mass")) >= 5
    assert int(cuts["lost"].sel(cut="negative flux")) == 0 and (kept["flux"].values < 0).any()


def test_stored_labels_and_the_seed_give_the_sample_again(tmp_path, averages):
    sample, path = make(200), tmp_path / "labels.nc"
    write_labels(sample, path, averages=averages)
    again = surana2020.read_surana2020(path=path, averages=averages, progress=False)
    absent = ["best_model", "log_amplitude_fit"]
    assert set(sample.data_vars) - set(again.data_vars) == set(absent)
    fits = [name for name in again.data_vars if "_fit" in name]
    xr.testing.assert_allclose(again.drop_vars(fits), sample.drop_vars([*fits, *absent]), rtol=1e-4)
    for name in set(fits) - {"fit_reason"}:
        assert again[name].attrs == sample[name].attrs
        np.testing.assert_allclose(again[name], sample[name], atol=0.011 if name == "chi2_fit" else 0.00051)
    few = surana2020.read_surana2020(20, path=path, averages=averages, progress=False)
    xr.testing.assert_allclose(few, again.isel(galaxy=slice(0, 20)), rtol=1e-5)
    refused("holds 200 galaxies: 201", surana2020.read_surana2020, 201, path=path, averages=averages)
    sample["log_mass_fit"].values[3] = np.nan
    refused("16 bits", write_labels, sample, path, averages=averages)


def test_the_stored_labels_are_those_of_the_teacher(averages):
    sample = surana2020.read_surana2020(3000, averages=averages, progress=False)
    found = score_fit(sample.isel(galaxy=sample["log_mass"].values > 9))
    assert (found["scatter"].values < (0.1, 0.5, 0.4)).all() and (found["r2"] > 0.6).all()
    assert ((found["coverage"] > 0.5) & (found["coverage"] < 0.85)).all()
    assert (sample["fit_reason"] == "").all() and sample.sizes["galaxy"] == 3000


@pytest.fixture
def sample():
    """Ten galaxies: five fail one cut each, one fails two, four are good."""
    n, bands = 10, [f"b{i}" for i in range(21)]
    flux, error = np.full((n, 21), 10.0), np.full((n, 21), 1.0)
    mask = np.zeros((n, 21), bool)
    redshift, log_mass = np.full(n, 0.2), np.full(n, 10.0)
    redshift[0], log_mass[1] = 0.51, 8.9
    mask[2, 20], flux[2, 20], error[2, 20] = True, np.nan, np.nan
    flux[3, 5] = -1.0
    flux[4, :16] = 2.9  # five bands at S/N >= 3
    redshift[5], log_mass[5] = 0.6, 8.0
    flux[6, :15] = 2.9  # six
    redshift[7], log_mass[7] = 0.5, 9.0  # at the limits
    columns = {"redshift": redshift, "log_mass": log_mass, "number": np.arange(n)}
    photometry = {"flux": flux, "flux_error": error, "mask": mask}
    sample = xr.Dataset({name: (("galaxy", "band"), v) for name, v in photometry.items()})
    return sample.assign({name: ("galaxy", v) for name, v in columns.items()}).assign_coords(band=bands)


def test_each_cut_takes_its_galaxy_and_the_papers_counts_stand_beside_ours(sample):
    selected, cuts = select_galaxies(sample)
    assert selected["number"].values.tolist() == [6, 7, 8, 9]
    assert cuts["failing"].values.tolist() == [2, 2, 1, 1, 1]
    assert cuts["lost"].values.tolist() == [2, 1, 1, 1, 1]
    assert cuts["left"].values.tolist() == [8, 7, 6, 5, 4]
    assert "4 of 10 galaxies left; lost: redshift 2, mass 1" in selected.attrs["history"]
    assert cuts["paper_failing"].sel(cut="missing band") == 36_768
    assert np.isnan(cuts["paper_failing"].sel(cut="signal-to-noise"))
    stated = np.nansum(list(PAPER_FAILING.values()))
    assert stated > PAPER_TOTAL - PAPER_LEFT, "so the paper counts some galaxies under more than one cut"


def test_negative_fluxes_may_stay_and_what_is_unknown_fails(sample):
    selected, cuts = select_galaxies(sample, drop_negative=False)
    assert selected["number"].values.tolist() == [3, 6, 7, 8, 9]
    assert cuts["lost"].sel(cut="negative flux") == 0
    sample["redshift"][8], sample["log_mass"][9] = np.nan, np.nan
    sample["flux_error"][6, :] = 0.0
    assert select_galaxies(sample)[0]["number"].values.tolist() == [7]


def test_no_galaxy_is_no_fault(sample):
    empty = select_galaxies(sample.isel(galaxy=slice(0, 0)))[1]
    assert (empty["left"] == 0).all() and (empty["failing_fraction"] == 0).all()
