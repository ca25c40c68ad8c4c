"""The SSP grid: what it holds, says of itself, and how one's own comes in."""

import numpy as np
import pytest
import xarray as xr

from spectool.synth import SSPGrid


def test_embedded_grid_covers_what_it_promises(grid):
    assert grid.edges[0] < 1000 and grid.edges[-1] > 10000
    assert len(grid.metallicity) == 7 and grid.age_edges[0] == 0 and grid.age_edges[-1] > 13.8e9
    step = np.diff(grid.edges)[(grid.wavelength > 3600) & (grid.wavelength < 7300)]
    assert np.allclose(step, 0.9, atol=0.01)
    assert np.isfinite(grid.flux).all() and (grid.flux >= 0).all()
    assert grid.provenance["error_against_full_grid"]["median"] < 1e-3


def test_both_grids_are_the_same_stars(grid, broadband):
    assert broadband.edges[0] <= 912 and broadband.edges[-1] > 5e6
    inside = (broadband.edges > 4000) & (broadband.edges < 7000)
    edges = broadband.edges[inside]
    first = int(np.flatnonzero(inside)[0])
    coarse = broadband.flux[..., first : first + edges.size - 1]
    assert np.abs(grid.rebinned_flux(edges) / coarse - 1).max() < 2e-3


def test_stars_fade_and_lose_mass(grid):
    luminosity = grid.flux.sum(-1)
    assert (luminosity[:, -1] < 1e-2 * luminosity[:, 10]).all()
    assert (np.diff(grid.surviving_mass, axis=1) < 1e-6).all()
    # The most metal-rich stars of the source hardly ionise at any age.
    assert (grid.ionizing_rate[:6, 0] > 1e3 * grid.ionizing_rate[:6, 40]).all()


def test_own_grid_goes_round(grid, tmp_path):
    grid.to_dataset().isel(wavelength=slice(0, 300)).to_netcdf(tmp_path / "own.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "own.nc", engine="h5netcdf") as stored:
        again = SSPGrid.from_dataset(stored)
    assert np.array_equal(again.flux, grid.flux[..., :300])
    assert again.provenance == grid.provenance and again.z_sun == grid.z_sun


def test_own_grid_without_what_it_needs_is_refused(grid):
    dataset = grid.to_dataset()
    del dataset.attrs["z_sun"]
    with pytest.raises(ValueError, match="lacks z_sun"):
        SSPGrid.from_dataset(dataset)
    with pytest.raises(ValueError, match="no embedded grid 'ultraviolet'"):
        SSPGrid.embedded("ultraviolet")
    with pytest.raises(ValueError, match="must increase"):
        SSPGrid(**{**vars(grid), "metallicity": grid.metallicity[::-1]})
