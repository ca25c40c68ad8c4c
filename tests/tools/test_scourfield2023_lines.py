"""The tool that measures what de-noisers say: its tables in small, and the shipped ones."""

import json

import numpy as np
import pytest
import xarray as xr

from spectool.measure.lines_ppxf import MEASURED
from tools.make import scourfield2023_lines as tool


@pytest.mark.parametrize("values", [np.array([1.0, -3.3e-7, 0.0, np.nan, np.inf, 1e30], "f4")])
def test_rounding_keeps_nine_bits_and_what_is_no_number(values):
    rounded = tool.round_mantissa(values)
    finite = np.isfinite(values)
    np.testing.assert_allclose(rounded[finite], values[finite], rtol=2.0**-tool.MANTISSA_BITS)
    np.testing.assert_array_equal(np.isfinite(rounded), finite)
    assert rounded[0] == 1 and rounded[2] == 0
    assert (rounded[finite].view(np.uint32) & ((1 << (23 - tool.MANTISSA_BITS)) - 1) == 0).all()


def test_calibrated_errors_cover_what_they_were_not_learnt_on():
    rng = np.random.default_rng(3)
    truth = 10 ** rng.uniform(-3, 0, (4000, 2))
    said = truth * (1 + 0.3 * rng.standard_normal(truth.shape)) + 0.01
    first, second = slice(0, 2000), slice(2000, None)
    errors = tool.calibrate(said[first], truth[first], said[second])
    share = np.mean(np.abs(said[second] - truth[second]) <= errors, axis=0)
    np.testing.assert_allclose(share, 0.68, atol=0.04)


def test_a_trial_is_written_resumed_and_counted(tmp_path, capsys):
    arguments = ["lines", "--n", "3", "--quiet", "--out", str(tmp_path), "--cache", str(tmp_path / "fits")]
    tool.main(arguments)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])["lines"]
    assert sum(report["failed"].values()) == 0
    first = xr.load_dataset(tmp_path / "scourfield2023_lines.nc", engine="h5netcdf")
    assert first.sizes["galaxy"] == 3 and first["line"].values.tolist() == list(MEASURED)
    assert len(first["source"]) == 14 and len(first["model"]) == 12
    assert len(list((tmp_path / "fits").glob("*.npz"))) == 14
    tool.main(arguments)
    again = xr.load_dataset(tmp_path / "scourfield2023_lines.nc", engine="h5netcdf")
    xr.testing.assert_identical(first, again)
    with xr.open_dataset(tool.DATA / "scourfield2023_lines.nc", engine="h5netcdf") as shipped:
        same = np.isin(first["candidate"].values, shipped["candidate"].values)
    assert same.all(), "the trial's galaxies are among the shipped ones"
