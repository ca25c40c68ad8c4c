"""Spectra on 1 A keep their flux and the noise of sums; the memory map holds what was selected."""

import numpy as np
import pytest

from spectool.continuum import kept_pixels, optical_wavelength, stack_wavelength
from spectool.papers.zahid2019.sample import (
    chunk_sigma,
    draw_block,
    observe_candidates,
    stored_flux,
    to_angstrom,
)
from spectool.spectra import pixel_edges
from tools.make.zahid2019_selection import screen


@pytest.fixture(scope="module")
def native():
    block = draw_block(3)
    return observe_candidates(block.isel(galaxy=screen(block)[:40]))


@pytest.fixture(scope="module")
def sample(native):
    return to_angstrom(native)


def test_rebinning_conserves_flux(native, sample):
    edges = pixel_edges(native["wavelength"].values)
    inside = (native["wavelength"].values > 4500.3) & (native["wavelength"].values < 5500.6)
    before = (native["truth"].values * np.diff(edges))[:, inside].sum(axis=1)
    low, high = edges[:-1][inside][0], edges[1:][inside][-1]
    overlap = np.diff(np.clip(pixel_edges(stack_wavelength()), low, high))
    np.testing.assert_allclose(sample["truth"].values @ overlap, before, rtol=1e-4)


def test_variance_is_that_of_sums_over_many_pixels(native, sample):
    """Neighbours share noise, and the variance stated makes up for it."""
    wavelength, width = native["wavelength"].values, np.diff(pixel_edges(native["wavelength"].values))
    clean = np.flatnonzero(~sample["mask"].values[:, 600:1400].any(axis=1))[:10]
    assert clean.size > 3
    low, high = stack_wavelength()[600] - 0.5, stack_wavelength()[1400] - 0.5
    inside = (wavelength > low) & (wavelength < high)
    exact = (width[inside] ** 2 / native["ivar"].values[clean][:, inside]).sum(axis=1)
    stated = (1 / sample["ivar"].values[clean, 600:1400]).sum(axis=1)
    np.testing.assert_allclose(stated, exact, rtol=5e-3)


def test_masked_pixels_stay_masked(native, sample):
    bad = sample["mask"].values
    assert 0.002 < bad.mean() < 0.04 and (sample["ivar"].values[bad] == 0).all()
    observed = stack_wavelength() * (1 + sample["redshift"].values[:, None])
    assert bad[np.abs(observed - 5578.89) < 6].all()
    assert not np.isnan(sample["flux"].values).any() and (sample["sn"] > 2).all()


def test_stored_spectra_have_a_mean_of_one_and_nan_where_bad(sample):
    stored = stored_flux(sample)
    wavelength = optical_wavelength()
    assert stored.dtype == np.float16 and stored.shape == (40, wavelength.size)
    window = (wavelength >= 4400) & (wavelength <= 4450)
    np.testing.assert_allclose(np.nanmean(stored[:, window].astype("f8"), axis=1), 1, atol=1e-3)
    part = (stack_wavelength() >= 4050) & (stack_wavelength() <= 7300)
    np.testing.assert_array_equal(np.isnan(stored), sample["mask"].values[:, part])


def test_noise_per_chunk_against_a_loop(sample):
    found = chunk_sigma(sample)
    part = (stack_wavelength() >= 4050) & (stack_wavelength() <= 7300)
    kept = np.flatnonzero(part)[kept_pixels(optical_wavelength())]
    for row in (0, 7):
        for k, chunk in enumerate(np.array_split(kept, 25)):
            good = chunk[~sample["mask"].values[row, chunk]]
            noise = np.sqrt((1 / sample["ivar"].values[row, good].astype(float)).mean())
            assert found[row, k] == pytest.approx(noise / sample["flux"].values[row, good].mean(), rel=1e-4)
    sample = sample.copy(deep=True)
    sample["mask"].values[0, np.array_split(kept, 25)[3]] = True
    assert np.isnan(chunk_sigma(sample)[0]).sum() == 1
