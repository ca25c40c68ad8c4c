"""Mock samples in one call: normalised, reproducible, and without a second copy of the spectra."""

import numpy as np

from spectool.papers.marziano2024.sample import make_sample, normalize_mocks


def test_sample_is_normalised_and_complete(grid):
    sample = make_sample(32, seed=5, grid=grid, progress=False)
    window = (sample.wavelength > 5000) & (sample.wavelength < 5500)
    assert np.allclose(sample.flux[:, window.values].median("wavelength"), 1, rtol=1e-5)
    assert sample.flux.dtype == np.float32 and sample.flux.shape == (32, 4582)
    assert np.allclose(sample.log_ssfr, sample.log_sfr - sample.log_mass)
    assert all(
        "units" in sample[name].attrs for name in ("flux", "log_mass", "log_sfr", "age_lw", "log_z_lw")
    )


def test_the_same_seed_gives_the_same_bytes_and_normalising_works_in_place(grid):
    sample, again = (make_sample(4, seed=5, grid=grid, progress=False) for _ in range(2))
    assert sample.flux.values.tobytes() == again.flux.values.tobytes()
    sample["flux"] = sample.flux * 7
    memory = sample.flux.values
    assert np.shares_memory(normalize_mocks(sample).flux.values, memory)
