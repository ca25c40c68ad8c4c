"""The SSP grid: what it holds, says of itself, and how one's own comes in."""

import numpy as np
import xarray as xr

from spectool.synth import SSPGrid
from tests.refusals import refused


def test_both_grids_are_the_same_stars(grid, broadband):
    assert broadband.edges[0] <= 912 and broadband.edges[-1] > 5e6
    inside = (broadband.edges > 4000) & (broadband.edges < 7000)
    edges = broadband.edges[inside]
    first = int(np.flatnonzero(inside)[0])
    coarse = broadband.flux[..., first : first + edges.size - 1]
    assert np.abs(grid.rebinned_flux(edges) / coarse - 1).max() < 2e-3


def test_own_grid_goes_round_or_is_refused_without_what_it_needs(grid, tmp_path):
    grid.to_dataset().isel(wavelength=slice(0, 300)).to_netcdf(tmp_path / "own.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "own.nc", engine="h5netcdf") as stored:
        again = SSPGrid.from_dataset(stored)
    assert np.array_equal(again.flux, grid.flux[..., :300])
    assert again.provenance == grid.provenance and again.z_sun == grid.z_sun
    dataset = grid.to_dataset()
    del dataset.attrs["z_sun"]
    refused("lacks z_sun", SSPGrid.from_dataset, dataset)
    refused("no embedded grid 'ultraviolet'", SSPGrid.embedded, "ultraviolet")
    refused("must increase", SSPGrid, **{**vars(grid), "metallicity": grid.metallicity[::-1]})
