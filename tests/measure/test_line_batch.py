"""Batches of fits: over workers, interrupted and resumed, with nothing lost."""

import distributed
import numpy as np
import pytest
import xarray as xr

from spectool.measure import lines_ppxf
from spectool.measure.lines_ppxf import fit_lines

from .line_mocks import make_mocks


@pytest.fixture(scope="module")
def sample(grid):
    return make_mocks(grid, 12, seed=8, sn=20)


@pytest.fixture(scope="module")
def expected(sample):
    return fit(sample)


def fit(sample, **options):
    options = {"n_workers": 1, "progress": False} | options
    return fit_lines(sample, **options)


def same(found, expected):
    """Equal but for the sums' order in other processes."""
    xr.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found["fit_message"], expected["fit_message"])


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(lines_ppxf, "CHUNK", 4)


@pytest.fixture
def interrupted(monkeypatch, small_chunks):
    """The stop button, pressed while the second chunk is fitted."""
    chunks = []

    def until_stopped(setup, jobs):
        chunks.append([job[0] for job in jobs])
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return real(setup, jobs)

    real = lines_ppxf.fit_chunk
    monkeypatch.setattr(lines_ppxf, "fit_chunk", until_stopped)
    return chunks


def test_an_interrupt_keeps_what_is_done_and_the_next_call_goes_on(sample, expected, interrupted, tmp_path):
    file = tmp_path / "fits.npz"
    with pytest.warns(UserWarning, match=r"interrupted: 8 spectra are not fitted; the others are kept in"):
        part = fit(sample, checkpoint=file)
    assert part.attrs["interrupted"] == 1
    np.testing.assert_array_equal(part["fit_status"], [0] * 4 + [2] * 8)
    assert set(part["fit_message"].values[4:]) == {"not fitted: interrupted"}
    assert np.isnan(part["line_flux"].values[4:]).all()
    np.testing.assert_array_equal(part["line_flux"][:4], expected["line_flux"][:4])
    whole = fit(sample, checkpoint=file)
    assert interrupted == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7], [8, 9, 10, 11]]
    xr.testing.assert_identical(whole, expected)
    again = fit(sample, checkpoint=file)
    assert len(interrupted) == 4
    xr.testing.assert_identical(again, expected)


def test_without_a_file_too_what_is_done_is_kept(sample, interrupted):
    with pytest.warns(UserWarning, match="8 spectra are not fitted$"):
        part = fit(sample)
    assert np.isfinite(part["chi2"].values[:4]).all()
    assert "8 x not fitted: interrupted" in part.attrs["history"]


def test_the_file_is_written_while_the_batch_runs(sample, monkeypatch, small_chunks, tmp_path):
    monkeypatch.setattr(lines_ppxf, "SAVE_EVERY", 0.0)
    saved = []
    save = lines_ppxf.Results.save
    monkeypatch.setattr(lines_ppxf.Results, "save", lambda self: saved.append(save(self)))
    fit(sample, checkpoint=tmp_path / "fits.npz")
    assert len(saved) == 4  # after each of three chunks, and at the end
    assert [path.name for path in tmp_path.iterdir()] == ["fits.npz"]


def test_a_file_of_other_spectra_or_settings_is_refused(sample, tmp_path):
    file = tmp_path / "fits.npz"
    few = sample.isel(galaxy=slice(2))
    fit(few, checkpoint=file, kinematics="fixed")
    for other, options in ((few * 1.0, {}), (few.assign(flux=few["flux"] * 1.01), {"kinematics": "fixed"})):
        with pytest.raises(ValueError, match="holds fits of other spectra or with other settings"):
            fit(other, checkpoint=file, **options)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="no checkpoint of fit_lines"):
        fit(few, checkpoint=file, kinematics="fixed")


def test_failures_are_kept_in_the_file(sample, monkeypatch, tmp_path):
    file = tmp_path / "fits.npz"
    few = sample.isel(galaxy=slice(3)).copy(deep=True)
    few["mask"].values[1] = True
    first = fit(few, checkpoint=file, keep_fit=True)
    monkeypatch.setattr(lines_ppxf, "fit_chunk", lambda *_: pytest.fail("nothing is left to fit"))
    xr.testing.assert_identical(fit(few, checkpoint=file, keep_fit=True), first)
    assert int(first["fit_status"][1]) == 1


def test_two_processes_find_the_same(sample, expected, small_chunks):
    same(fit(sample, n_workers=2), expected)


def test_dask_finds_the_same(sample, expected, small_chunks):
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        same(fit(sample, n_workers=2, backend="dask"), expected)


def test_progress_is_shown(sample, capsys):
    fit(sample.isel(galaxy=slice(2)), progress=True)
    assert "fitting lines: 100%" in capsys.readouterr().err
