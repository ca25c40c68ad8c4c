"""Samples are read, checked, and given metallicities."""

import numpy as np
import pytest
import xarray as xr

from spectool.explore import mzr_data
from spectool.explore.mzr_data import check_sample, read_samples
from spectool.explore.mzr_quantities import TRUTH, measure_oxygen, without_dust
from spectool.papers.scourfield2023.sample import CALIBRATED, read_lines

from .mzr_fakes import OXYGEN_SUN, make_product


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("product") / "mzr.nc"
    make_product(120).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def samples(path):
    return read_lines(path=path)


def test_a_product_is_read_source_by_source(samples, path):
    assert list(samples) == ["original", "DESI-like", "de-noised", "de-noised" + CALIBRATED]
    product = make_product(120)
    np.testing.assert_array_equal(
        samples["DESI-like"]["line_flux"], product["line_flux"].sel(source="DESI-like")
    )
    assert all(sample["line_flux"].dims == ("galaxy", "line") for sample in samples.values())


def test_the_null_sample_is_told_apart(path):
    names = list(read_lines("null", path=path))
    assert names[:2] == ["null: original", "null: DESI-like"]


def test_calibrated_errors_belong_to_the_same_fluxes(samples):
    formal, calibrated = samples["de-noised"], samples["de-noised" + CALIBRATED]
    np.testing.assert_array_equal(formal["line_flux"], calibrated["line_flux"])
    np.testing.assert_allclose(calibrated["line_flux_error"], 3 * formal["line_flux_error"], rtol=1e-6)


def test_a_missing_product_names_the_tool_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m tools\.make\.scourfield2023_lines null"):
        read_lines("null", path=tmp_path / "nothing.nc")


def test_another_file_is_refused(tmp_path):
    xr.Dataset({"a": ("galaxy", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc .* no line, source"):
        read_lines(path=tmp_path / "other.nc")


@pytest.mark.parametrize("calibration", ["PP04 O3N2", "PP04 N2 linear"])
def test_metallicities_are_those_that_the_lines_were_made_for(samples, calibration):
    oxygen = measure_oxygen(samples["original"], calibration)
    truth = samples["original"]["log_z_gas"].values + OXYGEN_SUN
    inside = np.isfinite(oxygen.value)
    assert inside.mean() > 0.7
    np.testing.assert_allclose(oxygen.value[inside], truth[inside], atol=2e-4)


def test_the_truth_of_mocks_is_a_scale_of_its_own(samples):
    oxygen = measure_oxygen(samples["DESI-like"], TRUTH)
    np.testing.assert_allclose(oxygen.value, samples["DESI-like"]["log_z_gas"].values + OXYGEN_SUN)
    assert np.isfinite(oxygen.sn).all()


def test_dust_changes_nothing_where_there_is_none_and_is_taken_out_once(samples):
    clean = without_dust(samples["original"])
    before, after = (measure_oxygen(sample, "PP04 O3N2").value for sample in (samples["original"], clean))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert without_dust(clean) is clean


def test_a_sample_may_bring_its_own_metallicities():
    own = check_sample(
        "own", xr.Dataset({"log_mass": ("galaxy", [9.0, 10]), "oxygen": ("galaxy", [8.4, 8.6])})
    )
    oxygen = measure_oxygen(own, "PP04 O3N2")
    np.testing.assert_array_equal(oxygen.value, [8.4, 8.6])
    assert np.isnan(oxygen.error).all()
    assert np.isinf(oxygen.sn).all()
    assert own["candidate"].values.tolist() == [0, 1]
    assert without_dust(own) is own


def damaged(samples):
    good = samples["original"]
    return [
        (good.drop_vars("log_mass"), "no column 'log_mass'"),
        (good.drop_vars("line_flux"), "no column 'line_flux' .nor metallicities"),
        (good.isel(galaxy=slice(0, 0)), "holds no galaxy"),
        (good.sel(line=[line for line in good["line"].values if line != "Hα"]), "no line 'Hα'"),
        (good.assign(log_mass=good["line_flux"]), "dimensions"),
    ]


@pytest.mark.parametrize("case", range(5))
def test_a_sample_that_lacks_something_is_refused_by_name(samples, case):
    sample, message = damaged(samples)[case]
    with pytest.raises(ValueError, match=message) as error:
        check_sample("mine", sample)
    assert "'mine'" in str(error.value)


def test_other_papers_add_their_own(samples, monkeypatch):
    monkeypatch.setattr(mzr_data, "READERS", {"first": lambda: {"original": samples["original"]}})
    monkeypatch.setattr(mzr_data, "REBUILDERS", {})
    mzr_data.register_samples("second", lambda: {"original": samples["de-noised"]}, rebuild=abs)
    read = read_samples("first", "second")
    assert list(read) == ["original", "second: original"]
    assert [sample.attrs["family"] for sample in read.values()] == ["first", "second"]
    assert mzr_data.REBUILDERS["second"] is abs
    with pytest.raises(KeyError, match=r"third.*first, second"):
        read_samples("third")
