"""The tool fills memory maps, goes on where it was, and what it kept can be rebuilt from the numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from spectool.papers.zahid2019.sample import rebuild, stored_flux
from tools.make import zahid2019_selection as tool
from tools.make.zahid2019_selection import CUTS


def run(what, folder, **more):
    options = {"--size": 90, "--blocks": 1, "--cache": folder, **more}
    return tool.main([what, "--quiet", *(str(part) for pair in options.items() for part in pair)])[what]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zahid2019")
    return {what: run(what, folder) for what in ("main", "null")}


@pytest.mark.parametrize("what", ["main", "null"])
def test_spectra_are_rebuilt_from_the_numbers(made, what):
    flux, table = tool.open_memmap(Path(made[what]["folder"]))
    assert flux.shape == (90, 3251) and table.sizes["galaxy"] == 90
    assert isinstance(flux, np.memmap) and tuple(table.data_vars) == tool.COLUMNS
    assert all("units" in column.attrs for column in table.data_vars.values())
    rows = np.array([0, 1, 60, 89])
    again = rebuild(table["candidate"].values[rows], null=what == "null")
    np.testing.assert_allclose(stored_flux(again).astype("f4"), flux[rows].astype("f4"), atol=4e-3, rtol=4e-3)
    for name in ("log_z_lw", "log_mass", "log_sfr", "sn", "redshift"):
        np.testing.assert_allclose(again[name], table[name][rows], rtol=2e-3, atol=1e-4)


def test_what_the_cuts_leave_is_the_sample_and_its_stacks(made):
    report = made["main"]
    values = list(report["counts"].values())
    assert tuple(report["counts"]) == ("drawn", "screened", *CUTS)
    assert values == sorted(values, reverse=True) and values[-1] >= 90
    assert values[0] == 4096 * report["recipe"]["blocks"]
    _, table = tool.open_memmap(Path(report["folder"]))
    assert (table["r_magnitude"] < 17.77).all()
    assert (table["line_sn"].sel(line=["Hβ", "Hα", "[N II] 6583"]) >= 5).all()
    assert table["redshift"].min() >= 0.0269 and table["redshift"].max() <= 0.2501
    with xr.open_dataset(f"{report['folder']}/stacks.nc", engine="h5netcdf") as stacks:
        mass = table["log_mass"].values
        assert int(stacks["n_galaxies"].sum()) == ((mass >= 8.5) & (mass < 11.0)).sum()
        assert stacks["flux"].shape == (25, 3661)


def test_an_interrupted_run_goes_on_and_ends_the_same(made, tmp_path, monkeypatch):
    batches, original = [], tool.select_batch

    def select_batch(what, batch, options):
        batches.append(batch)
        if batches == [0, 1]:
            raise KeyboardInterrupt
        return original(what, batch, options)

    monkeypatch.setattr(tool, "select_batch", select_batch)
    with pytest.raises(KeyboardInterrupt):
        run("main", tmp_path)
    with pytest.raises(FileNotFoundError, match="not complete: run python -m tools"):
        tool.open_memmap(next(tmp_path.iterdir()))
    report = run("main", tmp_path)
    assert batches == [0, 1, *range(1, batches[-1] + 1)]
    assert report["counts"] == made["main"]["counts"]
    (flux, table), (before, expected) = (tool.open_memmap(Path(r["folder"])) for r in (report, made["main"]))
    np.testing.assert_array_equal(flux, before)
    xr.testing.assert_equal(table, expected)
    done = list(batches)
    assert json.dumps(run("main", tmp_path)) == json.dumps(report) and batches == done
