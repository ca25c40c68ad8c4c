"""What is shipped of the mock main sample is what the tool makes, and what the networks say of rebuilt galaxies."""

import shutil

import numpy as np
import pytest
import xarray as xr

from spectool.measure.line_widths import fit_width_mass
from spectool.papers.zahid2019.reader import predict as predict_metallicity
from spectool.papers.zahid2019.sample import DATA, FILES, read_products, rebuild
from tools.make import zahid2019_selection
from tools.make import zahid2019_tables as tool


def test_means_of_bins_are_those_of_their_galaxies():
    rng = np.random.default_rng(1)
    flux = rng.normal(1, 0.1, (500, 30)).astype(np.float16)
    flux[::7, 3] = np.nan
    cell = rng.integers(-1, 3, 500)
    mean = tool.mean_spectra(flux, cell, progress=False)
    assert mean.shape == (150, 30) and np.isnan(mean[3:]).all()
    for k in range(3):
        np.testing.assert_allclose(mean[k], np.nanmean(flux[cell == k].astype(float), axis=0), rtol=1e-5)


def test_bins_hold_equal_numbers_in_order_and_no_outliers():
    rng = np.random.default_rng(2)
    galaxies = {"log_mass": rng.normal(10, 0.5, 3100), "log_sfr": rng.normal(0, 0.5, 3100)}
    galaxies["log_sfr"][5] = -np.inf
    outlier = np.zeros(3100)
    outlier[:3] = 1
    table = xr.Dataset({k: ("galaxy", v) for k, v in (galaxies | {"outlier": outlier}).items()})
    cell = tool.place_galaxies(table)
    assert (cell[[0, 1, 2, 5]] == -1).all()
    count = np.bincount(cell[cell >= 0], minlength=150)
    assert count.min() >= 20 and count.max() <= 22
    low, high = (galaxies["log_mass"][(cell >= 0) & (cell // 10 == k)] for k in (3, 4))
    assert low.max() <= high.min()
    low, high = (galaxies["log_sfr"][cell == k] for k in (73, 74))
    assert low.max() <= high.min()


def test_a_trial_is_measured_and_agrees_with_the_shipped_table(tmp_path):
    made = ["--size", "60", "--blocks", "1", "--cache", str(tmp_path), "--quiet"]
    zahid2019_selection.main(["main", *made])
    shutil.copy(DATA / FILES["stacks"], tmp_path)
    report = tool.main(["galaxies", *made, "--out", str(tmp_path)])
    assert report["galaxies"]["galaxies"] == 60
    trial, shipped = read_products(path=tmp_path / FILES["main"]), read_products()
    common, rows, places = np.intersect1d(trial["candidate"], shipped["candidate"], return_indices=True)
    assert common.size == 60
    for name, tolerance in (("log_z_lw", 1e-3), ("log_mass", 1e-3), ("log_z_predicted", 0.02), ("sn", 0.2)):
        np.testing.assert_allclose(trial[name][rows], shipped[name][places], atol=tolerance)


@pytest.mark.parametrize("sample", ["main", "null"])
def test_networks_say_of_rebuilt_galaxies_what_is_shipped(sample):
    table = read_products(sample).isel(galaxy=slice(0, 40))
    galaxies = rebuild(table["candidate"].values, null=sample == "null", keep_truth=False)
    np.testing.assert_allclose(galaxies["log_z_lw"], table["log_z_lw"], atol=1e-3)
    width = fit_width_mass(read_products("stacks"))(galaxies["log_mass"].values)
    said = predict_metallicity(galaxies, spectral_fwhm=width)
    difference = np.abs(said["log_z_predicted"].values - table["log_z_predicted"].values)
    # The table's spectra are float16 and were broadened in other steps.
    assert np.median(difference) < 0.01 and difference.max() < 0.1


def test_shipped_stacks_are_as_wide_as_the_papers_and_fitted():
    stacks = read_products("stacks")
    width = stacks["spectral_fwhm"].values
    assert abs(width[-1] - 330) < 5 and (np.diff(width) > -3).all()
    off = stacks["ppxf_log_z_lw"].values - stacks["log_z_light"].values
    assert np.abs(np.median(off)) < 0.1 and np.abs(off).max() < 0.2


def test_shipped_bins_are_those_of_both_samples():
    bins = read_products("bins")
    bins = {"main": bins.sel(sample="galaxies", drop=True), "null": bins.sel(sample="null", drop=True)}
    for name, sample in bins.items():
        table = read_products(name)
        assert int(sample["count"].sum()) == int((table["outlier"] == 0).sum())
        assert np.isfinite(sample["flux"]).all() and np.abs(sample["flux"]).max() < 0.3
        mass = sample["log_mass"].values.reshape(15, 10)
        assert (np.diff(mass.mean(axis=1)) > 0).all()
    label = {name: s["log_z_light"].values.reshape(15, 10) for name, s in bins.items()}
    trend = {name: (z[:, -1] - z[:, 0]).mean() for name, z in label.items()}
    assert trend["main"] < -0.2 and abs(trend["null"]) < 0.05


def test_what_is_shipped_is_small():
    size = sum((DATA / name).stat().st_size for name in FILES.values())
    assert size < 7e6
