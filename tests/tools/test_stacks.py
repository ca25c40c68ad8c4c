"""Stacks are the plain means of their members, in whatever batches they come."""

import numpy as np
import pytest

from spectool.papers.zahid2019.sample import draw_block, observe_candidates, to_angstrom
from tools.make.stacks import MASS_EDGES, average_spectra, sum_spectra
from tools.make.zahid2019_selection import screen


@pytest.fixture(scope="module")
def sample():
    block = draw_block(21)
    return to_angstrom(observe_candidates(block.isel(galaxy=screen(block)[:120])))


@pytest.fixture(scope="module")
def stacks(sample):
    return average_spectra([sum_spectra(sample)], sample)


@pytest.fixture(scope="module")
def members(sample, stacks):
    """The fullest bin, and its galaxies."""
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


def test_noise_of_a_stack_is_that_of_its_mean(stacks):
    """The difference to the noise-free stack, in units of the noise; normalising by noisy light adds a little."""
    pull = (stacks["flux"] - stacks["truth"]) * np.sqrt(stacks["ivar"])
    assert 0.6 < pull.values[stacks["n_galaxies"].values > 5].std() < 1.5


def test_light_weighted_labels_are_those_of_the_summed_light(members):
    """Weights from the noise-free spectra themselves, pixel by pixel."""
    stack, galaxies = members
    wavelength, truth = galaxies["wavelength"].values, galaxies["truth"].values.astype(float)
    normalised = truth / truth[:, (wavelength >= 4400) & (wavelength <= 4450)].mean(axis=1, keepdims=True)
    share = normalised[:, (wavelength >= 4050) & (wavelength <= 7300)].sum(axis=1)
    log_z = galaxies["log_z_lw"].values
    assert stack["log_z_light"] == pytest.approx((share * log_z).sum() / share.sum(), abs=1e-5)
    assert stack["median_log_z_lw"] == pytest.approx(np.median(log_z))
    assert stack["log_z_lw"] == pytest.approx(log_z.mean())


def test_batches_change_nothing(sample, stacks):
    parts = [sum_spectra(sample.isel(galaxy=rows)) for rows in (slice(50), slice(50, None))]
    again = average_spectra(parts, sample)
    for name in stacks.data_vars:
        # The scatter of one galaxy is 0, and a difference of sums in single precision.
        atol = 1e-3 if name == "scatter" else 1e-6
        np.testing.assert_allclose(again[name], stacks[name], rtol=1e-5, atol=atol)


def test_empty_bins_are_masked_and_galaxies_outside_left_out(sample, stacks):
    outside = sample.assign(log_mass=sample["log_mass"] * 0 + 11.2)
    empty = average_spectra([sum_spectra(outside)], outside)
    assert empty["n_galaxies"].sum() == 0 and empty["mask"].all() and np.isnan(empty["log_z_light"]).all()
    assert stacks.sizes["stack"] == 25 and stacks["mass_low"].values[0] == 8.5
    assert all("units" in stacks[name].attrs for name in stacks.data_vars)
