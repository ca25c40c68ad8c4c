"""Memory maps are filled, resumed and rebuilt; what is shipped is what the tools make and what networks say of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from spectool.measure.line_widths import fit_width_mass
from spectool.papers.zahid2019 import sample as paper
from spectool.papers.zahid2019.reader import predict as predict_metallicity
from spectool.papers.zahid2019.sample import DATA, FILES, read_products, rebuild
from tools.make import zahid2019_selection as selection
from tools.make import zahid2019_tables as tables
from tools.make.stacks import MASS_EDGES, average_spectra, sum_spectra
from tools.make.zahid2019_selection import CUTS, screen


def run(what, folder, **more):
    options = {"--size": 90, "--blocks": 1, "--cache": folder, **more}
    return selection.main([what, "--quiet", *(str(part) for pair in options.items() for part in pair)])[what]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zahid2019")
    return {what: run(what, folder) for what in ("main", "null")}


@pytest.mark.parametrize("what", ["main", "null"])
def test_spectra_are_rebuilt_from_the_numbers(made, what):
    flux, table = selection.open_memmap(Path(made[what]["folder"]))
    assert flux.shape == (90, 3251) and table.sizes["galaxy"] == 90
    assert isinstance(flux, np.memmap) and tuple(table.data_vars) == selection.COLUMNS
    rows = np.array([0, 1, 60, 89])
    again = rebuild(table["candidate"].values[rows], null=what == "null")
    stored = paper.stored_flux(again).astype("f4")
    np.testing.assert_allclose(stored, flux[rows].astype("f4"), atol=4e-3, rtol=4e-3)
    for name in ("log_z_lw", "log_mass", "log_sfr", "sn", "redshift"):
        np.testing.assert_allclose(again[name], table[name][rows], rtol=2e-3, atol=1e-4)


def test_what_the_cuts_leave_is_the_sample_and_its_stacks(made):
    report = made["main"]
    values = list(report["counts"].values())
    assert tuple(report["counts"]) == ("drawn", "screened", *CUTS)
    assert values == sorted(values, reverse=True) and values[-1] >= 90
    assert values[0] == 4096 * report["recipe"]["blocks"]
    _, table = selection.open_memmap(Path(report["folder"]))
    assert (table["r_magnitude"] < 17.77).all()
    assert (table["line_sn"].sel(line=["Hβ", "Hα", "[N II] 6583"]) >= 5).all()
    assert table["redshift"].min() >= 0.0269 and table["redshift"].max() <= 0.2501
    with xr.open_dataset(f"{report['folder']}/stacks.nc", engine="h5netcdf") as stacks:
        mass = table["log_mass"].values
        assert int(stacks["n_galaxies"].sum()) == ((mass >= 8.5) & (mass < 11.0)).sum()
        assert stacks["flux"].shape == (25, 3661)


def test_an_interrupted_run_goes_on_and_ends_the_same(made, tmp_path, monkeypatch):
    batches, original = [], selection.select_batch

    def select_batch(what, batch, options):
        batches.append(batch)
        if batches == [0, 1]:
            raise KeyboardInterrupt
        return original(what, batch, options)

    monkeypatch.setattr(selection, "select_batch", select_batch)
    with pytest.raises(KeyboardInterrupt):
        run("main", tmp_path)
    with pytest.raises(FileNotFoundError, match="not complete: run python -m tools"):
        selection.open_memmap(next(tmp_path.iterdir()))
    report = run("main", tmp_path)
    assert batches == [0, 1, *range(1, batches[-1] + 1)]
    assert report["counts"] == made["main"]["counts"]
    folders = (Path(one["folder"]) for one in (report, made["main"]))
    (flux, table), (before, expected) = map(selection.open_memmap, folders)
    np.testing.assert_array_equal(flux, before)
    xr.testing.assert_equal(table, expected)
    done = list(batches)
    assert json.dumps(run("main", tmp_path)) == json.dumps(report) and batches == done


def test_a_trial_is_measured_and_agrees_with_the_shipped_table(tmp_path):
    made = ["--size", "60", "--blocks", "1", "--cache", str(tmp_path), "--quiet"]
    selection.main(["main", *made])
    shutil.copy(DATA / FILES["stacks"], tmp_path)
    report = tables.main(["galaxies", *made, "--out", str(tmp_path)])
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
    width, off = stacks["spectral_fwhm"].values, (stacks["ppxf_log_z_lw"] - stacks["log_z_light"]).values
    assert abs(width[-1] - 330) < 5 and (np.diff(width) > -3).all()
    assert np.abs(np.median(off)) < 0.1 and np.abs(off).max() < 0.2
    label = bins["log_z_light"].values.reshape(2, 15, 10)
    trend = dict(zip(bins["sample"].values, (label[..., -1] - label[..., 0]).mean(axis=1), strict=True))
    assert trend["galaxies"] < -0.2 and abs(trend["null"]) < 0.05
    for name, sample in (("main", "galaxies"), ("null", "null")):
        usual = int((read_products(name)["outlier"] == 0).sum())
        assert int(bins["count"].sel(sample=sample).sum()) == usual
    assert sum((DATA / name).stat().st_size for name in FILES.values()) < 7e6


@pytest.fixture(scope="module")
def sample():
    block = paper.draw_block(21)
    return paper.to_angstrom(paper.observe_candidates(block.isel(galaxy=screen(block)[:120])))


@pytest.fixture(scope="module")
def stacks(sample):
    return average_spectra([sum_spectra(sample)], sample)


@pytest.fixture(scope="module")
def members(sample, stacks):
    k, mass = int(np.argmax(stacks["n_galaxies"].values)), sample["log_mass"].values
    return stacks.isel(stack=k), sample.isel(galaxy=(mass >= MASS_EDGES[k]) & (mass < MASS_EDGES[k + 1]))


def test_a_stack_is_the_mean_of_its_normalised_members(members):
    stack, galaxies = members
    assert stack["n_galaxies"] == galaxies.sizes["galaxy"] > 5
    flux = np.where(galaxies["mask"], np.nan, galaxies["flux"] / galaxies["norm"]).astype(float)
    np.testing.assert_allclose(stack["flux"], np.nanmean(flux, axis=0), rtol=2e-5)
    np.testing.assert_allclose(stack["scatter"], np.nanstd(flux, axis=0), atol=2e-3)
    assert stack["flux"].values[700:751].mean() == pytest.approx(1, abs=0.01)
    assert stack["truth"].values[700:751].mean() == pytest.approx(1, abs=1e-5)


def test_light_weighted_labels_are_those_of_the_summed_light(members):
    stack, galaxies = members
    wavelength, truth = galaxies["wavelength"].values, galaxies["truth"].values.astype(float)
    normalised = truth / truth[:, (wavelength >= 4400) & (wavelength <= 4450)].mean(axis=1, keepdims=True)
    share = normalised[:, (wavelength >= 4050) & (wavelength <= 7300)].sum(axis=1)
    log_z = galaxies["log_z_lw"].values
    assert stack["log_z_light"] == pytest.approx((share * log_z).sum() / share.sum(), abs=1e-5)
    assert [stack["median_log_z_lw"], stack["log_z_lw"]] == pytest.approx([np.median(log_z), log_z.mean()])


def test_batches_change_nothing_and_empty_bins_are_masked(sample, stacks):
    parts = [sum_spectra(sample.isel(galaxy=rows)) for rows in (slice(50), slice(50, None))]
    again = average_spectra(parts, sample)
    for name in stacks.data_vars:
        # The scatter of one galaxy is 0, and a difference of sums in single precision.
        atol = 1e-3 if name == "scatter" else 1e-6
        np.testing.assert_allclose(again[name], stacks[name], rtol=1e-5, atol=atol)
    outside = sample.assign(log_mass=sample["log_mass"] * 0 + 11.2)
    empty = average_spectra([sum_spectra(outside)], outside)
    assert empty["n_galaxies"].sum() == 0 and empty["mask"].all() and np.isnan(empty["log_z_light"]).all()
    assert stacks.sizes["stack"] == 25 and stacks["mass_low"].values[0] == 8.5
