import numpy as np
import pytest
import xarray as xr

from spectool.continuum import kept_pixels, stack_wavelength
from spectool.measure.populations import fit_populations
from spectool.prepare import mask_bad_pixels, resample
from spectool.synth import sfh
from spectool.synth.synthesis import synthesize

FEW = (tuple(10 ** np.linspace(6.5, 10.1, 8)), (-1.7, -0.7, -0.4, 0.0, 0.4))
ROWS = ("galaxy", "wavelength")


def make(grid, log_z, *, dust=0.5, start=(1e10, 3e9, 8e9)):
    """Declining histories behind dust, without lines."""
    mass = sfh.delayed_tau(grid.age_edges, np.array(start), np.array([2e9, 1e9, 8e9]))
    galaxies = xr.Dataset(
        {
            "mass_formed": (("galaxy", "age"), 1e10 * mass, {"units": "Msun"}),
            "log_z_star": ("galaxy", np.array(log_z), {"units": "dex", "z_sun": 0.02}),
        },
        coords={"age": ("age", grid.age, {"units": "yr"})},
    )
    columns = {"dust1": 0.0, "dust2": dust, "dust_index": -0.7, "velocity_dispersion": 120.0}
    for name, value in columns.items():
        galaxies[name] = ("galaxy", np.full(3, value))
    return synthesize(galaxies, grid, wavelength=stack_wavelength(), nebular=False, progress=False)


@pytest.fixture(scope="module")
def galaxies(grid):
    return make(grid, [-0.6, 0.0, 0.2])


@pytest.fixture(scope="module")
def fitted(galaxies):
    return fit_populations(galaxies, n_workers=1, progress=False, keep_fit=True)


@pytest.fixture(scope="module")
def plain(galaxies):
    return fit_populations(galaxies, templates=FEW, n_workers=1, progress=False)


def test_metallicity_and_age_of_known_histories_come_out(galaxies, fitted):
    assert (fitted["fit_status"] == 0).all()
    np.testing.assert_allclose(fitted["log_z_lw"], galaxies["log_z_lw"], atol=0.06)
    np.testing.assert_allclose(np.log10(fitted["age_lw"] / galaxies["age_lw"]), 0, atol=0.06)
    np.testing.assert_array_equal(fitted["true_log_z_lw"], galaxies["log_z_lw"])
    assert (fitted["residual_rms"] < 2e-3).all()
    np.testing.assert_allclose(fitted["stellar_dispersion"], 120, atol=6)


def test_shares_of_light_are_what_the_means_are_made_of(fitted):
    share = fitted["light_share"]
    np.testing.assert_allclose(share.sum(("metallicity", "age")), 1, rtol=1e-5)
    np.testing.assert_allclose(
        (share * fitted["log_z"]).sum(("metallicity", "age")), fitted["log_z_lw"], atol=1e-5
    )


def test_the_label_is_that_of_the_synthesis(grid):
    """A burst at an age and a metallicity of the grid: both labels are those of the template itself."""
    age = int(np.abs(np.log(grid.age / 3e9)).argmin())
    flux = grid.rebinned_flux(np.arange(3999.5, 7400))[4, age]
    burst = xr.Dataset(
        {"flux": (ROWS, flux[None].astype(float), {"units": "Lsun / Angstrom"})},
        coords={"wavelength": ("wavelength", np.arange(4000.0, 7400))},
    )
    fit = fit_populations(burst, templates=((1e8, 3e9, 1e10), FEW[1]), n_workers=1, progress=False)
    np.testing.assert_allclose(fit["log_z_lw"], np.log10(grid.metallicity[4] / grid.z_sun), atol=0.01)
    np.testing.assert_allclose(fit["age_lw"], grid.age[age] / 1e9, rtol=0.03)


def noisy(galaxies, sn, seed):
    rng = np.random.default_rng(seed)
    sigma = (
        np.median(galaxies["flux"].values, axis=1, keepdims=True)
        / sn
        * np.ones((1, galaxies.sizes["wavelength"]))
    )
    flux = galaxies["flux"].values + sigma * rng.standard_normal(galaxies["flux"].shape)
    return galaxies.assign(flux=(ROWS, flux, galaxies["flux"].attrs), ivar=(ROWS, sigma**-2.0, {"units": ""}))


def test_chi2_is_one_where_the_noise_is_known_and_errors_come_from_a_bootstrap(galaxies):
    fits = [
        fit_populations(noisy(galaxies, 60, k), templates=FEW, n_workers=1, progress=False, n_bootstrap=8)
        for k in range(2)
    ]
    # Linear pixels of 1 A, rebinned to coarser ones at the blue end: their noise is nearly independent.
    assert all(np.abs(fit["chi2"] - 1).max() < 0.15 for fit in fits)
    off = np.concatenate([fit["log_z_lw"] - fit["true_log_z_lw"] for fit in fits])
    error = np.concatenate([fit["log_z_lw_error"] for fit in fits])
    assert 0.005 < np.median(error) < 0.2
    assert np.sqrt(np.mean(off**2)) < 4 * np.median(error)
    again = fit_populations(noisy(galaxies, 60, 0), templates=FEW, n_workers=1, progress=False, n_bootstrap=8)
    np.testing.assert_array_equal(again["log_z_lw_error"], fits[0]["log_z_lw_error"])


def test_emission_lines_do_not_matter(galaxies):
    wavelength = galaxies["wavelength"].values
    lines = ~kept_pixels(wavelength)
    bright = galaxies.assign(flux=(ROWS, galaxies["flux"].values * np.where(lines, 30.0, 1.0)))
    # Rebinning mixes the two sides of a window's ends.
    near = np.convolve(lines, np.ones(7), "same")
    edge = (near > 0) & (near < 7)
    both = [
        fit_populations(
            one.assign(mask=(ROWS, np.broadcast_to(edge, one["flux"].shape))),
            templates=FEW,
            n_workers=1,
            progress=False,
        )
        for one in (galaxies.isel(galaxy=[1]), bright.isel(galaxy=[1]))
    ]
    np.testing.assert_allclose(both[0]["log_z_lw"], both[1]["log_z_lw"], atol=1e-6)


def test_a_bad_spectrum_is_told_and_stops_no_other(galaxies):
    flux = galaxies["flux"].values.copy()
    flux[0] *= -1
    flux[1, :-80] = np.nan
    fit = fit_populations(galaxies.assign(flux=(ROWS, flux)), templates=FEW, n_workers=1, progress=False)
    assert fit["fit_status"].values.tolist() == [1, 1, 0]
    assert np.isnan(fit["log_z_lw"][:2]).all() and np.isfinite(fit["log_z_lw"][2])
    assert "not positive" in str(fit["fit_message"].values[0])
    assert "good pixels" in str(fit["fit_message"].values[1])
    assert "2 with bad input" in fit.attrs["history"]


def test_stacks_observed_spectra_and_workers_give_the_same(galaxies, plain):
    stacks = fit_populations(galaxies.rename(galaxy="stack"), templates=FEW, n_workers=2, progress=False)
    assert stacks["log_z_lw"].dims == ("stack",)
    np.testing.assert_array_equal(stacks["log_z_lw"], plain["log_z_lw"])
    # The same light, redshifted, on SDSS's pixels.
    observed = 10 ** np.arange(3.61, 3.88, 1e-4)
    z = 0.05
    rest = resample(mask_bad_pixels(galaxies), observed / (1 + z))
    sample = xr.Dataset(
        {
            "flux": (ROWS, rest["flux"].values / (1 + z), {"units": "1e-17 erg / (Angstrom s cm2)"}),
            "mask": (ROWS, rest["mask"].values, {"units": ""}),
            "redshift": ("galaxy", np.full(3, z)),
        },
        coords={"observed_wavelength": ("wavelength", observed, {"units": "Angstrom"})},
    )
    shifted = fit_populations(sample, templates=FEW, n_workers=1, progress=False)
    np.testing.assert_allclose(shifted["log_z_lw"], plain["log_z_lw"], atol=0.03)


def test_what_cannot_be_fitted_is_refused(galaxies):
    gaps = galaxies.isel(wavelength=np.flatnonzero(kept_pixels(galaxies["wavelength"].values)))
    with pytest.raises(ValueError, match="has gaps"):
        fit_populations(gaps, progress=False)
    with pytest.raises(ValueError, match="no variable `nothing`"):
        fit_populations(galaxies, variable="nothing", progress=False)
    with pytest.raises(ValueError, match="must not be negative"):
        fit_populations(galaxies, mdegree=-1, progress=False)
