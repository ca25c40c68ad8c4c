"""The script that makes the embedded grid, on a slice of its source, against the file that is shipped."""

import numpy as np

from spectool.synth.sfh import age_bin_edges
from tools.make import ssp_grids as tool


def test_slice_of_the_source_gives_the_shipped_spectra(grid):
    wavelength, age, flux, living = tool.read_stars(tool.source_folder(), [4])
    edges = tool.optical_edges(wavelength)
    assert np.allclose(edges, grid.edges)
    slice_ = (edges > 3800) & (edges < 4200)
    first = int(np.flatnonzero(slice_)[0])
    binned = tool.bin_in_age(tool.rebin_flux(flux, wavelength, edges[slice_]), age, age_bin_edges(tool.AGE))
    shipped = grid.flux[4, :, first : first + binned.shape[-1]]
    assert np.abs(shipped / binned[0] - 1).max() < 1e-3
    living = tool.bin_in_age(living, age, age_bin_edges(tool.AGE))
    assert np.allclose(living[0], grid.surviving_mass[4], atol=1e-6)


def test_compression_restores_to_half_a_part_in_a_thousand(rng):
    centres = np.linspace(1000, 10000, 500)
    flux = 1e-4 * (centres / 5500) ** -2 * rng.uniform(0.5, 1.5, (2, 3, 500))
    restored = tool.restore(tool.compress(flux, centres), centres)
    assert np.abs(restored / flux - 1).max() < 6e-4
