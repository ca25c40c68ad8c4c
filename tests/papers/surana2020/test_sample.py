"""The mock GAMA sample with its teacher: reproducible, resumable, cut by the teacher's mass."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.sedfit import PROPERTIES, score_fit
from spectool.papers.surana2020 import sample as surana2020
from tools.make.surana2020_labels import write_labels


@pytest.fixture(scope="module")
def made():
    return surana2020._make_library(1500, False)


@pytest.fixture(scope="module")
def averages(made):
    return made["averages"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, made):
    """Of the same library, which takes seconds to draw."""
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


def test_the_teacher_knows_roughly_what_is_true():
    sample = make(150)
    found = score_fit(sample)
    assert (np.abs(found["bias"]) < 0.3).all() and float(found["scatter"][0]) < 0.15
    for name in PROPERTIES:
        assert np.isfinite(sample[f"{name}_fit"]).all() and name in sample


def test_cuts_go_by_the_teachers_mass_and_leave_negative_fluxes():
    sample = make(150)
    sample["log_mass_fit"].values[:5] = 8.0
    kept, cuts = surana2020.select_taught(sample)
    assert float(kept["log_mass_fit"].min()) >= 9
    np.testing.assert_array_equal(
        kept["log_mass"], sample["log_mass"][np.isin(sample["redshift"], kept["redshift"])]
    )
    assert int(cuts["lost"].sel(cut="mass")) >= 5
    assert int(cuts["lost"].sel(cut="negative flux")) == 0 and (kept["flux"].values < 0).any()
    assert not kept["mask"].any()


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
    with pytest.raises(ValueError, match="holds 200 galaxies: 201"):
        surana2020.read_surana2020(201, path=path, averages=averages)
    sample["log_mass_fit"].values[3] = np.nan
    with pytest.raises(ValueError, match="16 bits"):
        write_labels(sample, path, averages=averages)


def test_the_stored_labels_are_those_of_the_teacher(averages):
    """The teacher's medians stand beside the galaxies that they were found for."""
    sample = surana2020.read_surana2020(3000, averages=averages, progress=False)
    found = score_fit(sample.isel(galaxy=sample["log_mass"].values > 9))
    assert (found["scatter"].values < (0.1, 0.5, 0.4)).all() and (found["r2"] > 0.6).all()
    assert ((found["coverage"] > 0.5) & (found["coverage"] < 0.85)).all()
    assert (sample["fit_reason"] == "").all() and sample.sizes["galaxy"] == 3000


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="at least 1"):
        make(0)
