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
    flux, cell = rng.normal(1, 0.1, (500, 30)).astype(np.float16), rng.integers(-1, 3, 500)
    flux[::7, 3] = np.nan
    mean = tool.mean_spectra(flux, cell, progress=False)
    assert mean.shape == (150, 30) and np.isnan(mean[3:]).all()
    for k in range(3):
        np.testing.assert_allclose(mean[k], np.nanmean(flux[cell == k].astype(float), axis=0), rtol=1e-5)


def test_bins_hold_equal_numbers_in_order_and_no_outliers():
    rng = np.random.default_rng(2)
    mass, sfr = rng.normal(10, 0.5, 3100), rng.normal(0, 0.5, 3100)
    sfr[5] = -np.inf
    columns = {"log_mass": mass, "log_sfr": sfr, "outlier": 1.0 * (np.arange(3100) < 3)}
    cell = tool.place_galaxies(xr.Dataset({name: ("galaxy", values) for name, values in columns.items()}))
    assert (cell[[0, 1, 2, 5]] == -1).all()
    count = np.bincount(cell[cell >= 0], minlength=150)
    assert count.min() >= 20 and count.max() <= 22
    assert mass[cell // 10 == 3].max() <= mass[cell // 10 == 4].min()
    assert sfr[cell == 73].max() <= sfr[cell == 74].min()


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


def test_shipped_tables_are_those_of_both_samples_and_small():
    stacks, bins = read_products("stacks"), read_products("bins")
    width = stacks["spectral_fwhm"].values
    assert abs(width[-1] - 330) < 5 and (np.diff(width) > -3).all()
    off = stacks["ppxf_log_z_lw"].values - stacks["log_z_light"].values
    assert np.abs(np.median(off)) < 0.1 and np.abs(off).max() < 0.2
    assert np.isfinite(bins["flux"]).all() and np.abs(bins["flux"]).max() < 0.3
    assert (np.diff(bins["log_mass"].values.reshape(2, 15, 10).mean(axis=2)) > 0).all()
    label = bins["log_z_light"].values.reshape(2, 15, 10)
    trend = dict(zip(bins["sample"].values, (label[..., -1] - label[..., 0]).mean(axis=1), strict=True))
    assert trend["galaxies"] < -0.2 and abs(trend["null"]) < 0.05
    for name, sample in (("main", "galaxies"), ("null", "null")):
        usual = int((read_products(name)["outlier"] == 0).sum())
        assert int(bins["count"].sel(sample=sample).sum()) == usual
    assert sum((DATA / name).stat().st_size for name in FILES.values()) < 7e6
