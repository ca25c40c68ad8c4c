"""pPXF's populations: known histories come out, and what does not matter does not."""

import numpy as np
import pytest

from spectool.continuum import kept_pixels, stack_wavelength
from spectool.measure.populations import fit_populations
from spectool.prepare import mask_bad_pixels, resample
from spectool.synth import sfh
from spectool.synth.synthesis import synthesize
from tests.refusals import refused
from tests.samples import make_spectra
from tests.stars import bare_stars

FEW = (tuple(10 ** np.linspace(6.5, 10.1, 8)), (-1.7, -0.7, -0.4, 0.0, 0.4))
ROWS = ("galaxy", "wavelength")


def fit(sample, **options):
    return fit_populations(sample, **{"templates": FEW, "n_workers": 1, "progress": False} | options)


@pytest.fixture(scope="module")
def galaxies(grid):
    mass = sfh.delayed_tau(grid.age_edges, np.array([1e10, 3e9, 8e9]), np.array([2e9, 1e9, 8e9]))
    drawn = bare_stars(1e10 * mass, [-0.6, 0.0, 0.2], dust2=0.5, velocity_dispersion=120.0)
    return synthesize(drawn, grid, wavelength=stack_wavelength(), nebular=False, progress=False)


@pytest.fixture(scope="module")
def plain(galaxies):
    return fit(galaxies)


def test_metallicity_and_age_of_known_histories_come_out(galaxies):
    fitted = fit_populations(galaxies, n_workers=1, progress=False, keep_fit=True)
    assert (fitted["fit_status"] == 0).all()
    np.testing.assert_allclose(fitted["log_z_lw"], galaxies["log_z_lw"], atol=0.06)
    np.testing.assert_allclose(np.log10(fitted["age_lw"] / galaxies["age_lw"]), 0, atol=0.06)
    assert (fitted["residual_rms"] < 2e-3).all()
    np.testing.assert_allclose(fitted["stellar_dispersion"], 120, atol=6)
    # Shares of light are what the means are made of.
    share, plane = fitted["light_share"], ("metallicity", "age")
    np.testing.assert_allclose(share.sum(plane), 1, rtol=1e-5)
    np.testing.assert_allclose((share * fitted["log_z"]).sum(plane), fitted["log_z_lw"], atol=1e-5)


def test_the_label_is_that_of_the_synthesis(grid):
    age = int(np.abs(np.log(grid.age / 3e9)).argmin())
    flux = grid.rebinned_flux(np.arange(3999.5, 7400))[4, age]
    burst = make_spectra(flux.astype(float), np.arange(4000.0, 7400), units="Lsun / Angstrom")
    found = fit(burst, templates=((1e8, 3e9, 1e10), FEW[1]))
    np.testing.assert_allclose(found["log_z_lw"], np.log10(grid.metallicity[4] / grid.z_sun), atol=0.01)
    np.testing.assert_allclose(found["age_lw"], grid.age[age] / 1e9, rtol=0.03)


def test_chi2_is_one_where_the_noise_is_known_and_errors_come_from_a_bootstrap(galaxies):
    fits, flux = [], galaxies["flux"].values
    for seed in (0, 1):
        sigma = np.median(flux, axis=1, keepdims=True) / 60 * np.ones(flux.shape[1])
        noisy = flux + sigma * np.random.default_rng(seed).standard_normal(flux.shape)
        sample = galaxies.assign(flux=(ROWS, noisy, galaxies["flux"].attrs), ivar=(ROWS, sigma**-2.0))
        fits.append(fit(sample, n_bootstrap=8))
    # Linear pixels of 1 A, rebinned to coarser ones at the blue end: their noise is nearly independent.
    assert all(np.abs(found["chi2"] - 1).max() < 0.15 for found in fits)
    off = np.concatenate([found["log_z_lw"] - found["true_log_z_lw"] for found in fits])
    error = np.concatenate([found["log_z_lw_error"] for found in fits])
    assert 0.005 < np.median(error) < 0.2
    assert np.sqrt(np.mean(off**2)) < 4 * np.median(error)


def test_emission_lines_do_not_matter(galaxies):
    lines = ~kept_pixels(galaxies["wavelength"].values)
    # Rebinning mixes the two sides of a window's ends.
    near = np.convolve(lines, np.ones(7), "same")
    edge = (near > 0) & (near < 7)
    second = galaxies.isel(galaxy=[1]).assign(mask=(ROWS, edge[None]))
    bright = second.assign(flux=second["flux"] * np.where(lines, 30.0, 1.0))
    first, other = (fit(sample)["log_z_lw"] for sample in (second, bright))
    np.testing.assert_allclose(first, other, atol=1e-6)


def test_a_bad_spectrum_is_told_and_stops_no_other_and_bad_samples_are_refused(galaxies):
    flux = galaxies["flux"].values.copy()
    flux[0] *= -1
    flux[1, :-80] = np.nan
    found = fit(galaxies.assign(flux=(ROWS, flux)))
    assert found["fit_status"].values.tolist() == [1, 1, 0]
    assert np.isnan(found["log_z_lw"][:2]).all() and np.isfinite(found["log_z_lw"][2])
    assert "not positive" in str(found["fit_message"].values[0])
    assert "good pixels" in str(found["fit_message"].values[1])
    assert "2 with bad input" in found.attrs["history"]
    gaps = galaxies.isel(wavelength=np.flatnonzero(kept_pixels(galaxies["wavelength"].values)))
    refused("has gaps", fit, gaps)
    refused("no variable `nothing`", fit, galaxies, variable="nothing")
    refused("must not be negative", fit, galaxies, mdegree=-1)


def test_stacks_observed_spectra_and_workers_give_the_same(galaxies, plain):
    stacks = fit(galaxies.rename(galaxy="stack"), n_workers=2)
    np.testing.assert_array_equal(stacks["log_z_lw"], plain["log_z_lw"])
    # The same light, redshifted, on SDSS's pixels.
    observed, stretch = 10 ** np.arange(3.61, 3.88, 1e-4), 1.05
    rest = resample(mask_bad_pixels(galaxies), observed / stretch)
    columns = {"mask": rest["mask"].values, "redshift": stretch - 1}
    shifted = make_spectra(rest["flux"].values / stretch, observed, frame="observed_wavelength", **columns)
    shifted = fit(shifted)
    np.testing.assert_allclose(shifted["log_z_lw"], plain["log_z_lw"], atol=0.03)
