"""The fast fit is least squares, solves for every line without bias, and keeps stars and emission from each other."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from spectool.measure.line_design import MEASURED, NUISANCE, ContinuumTemplates, continuum_templates
from spectool.measure.lines_linear import measure_lines_linear, net_line
from spectool.spectra import LINES, pixel_edges

from .line_mocks import gaussians, make_mocks, pulls


@pytest.fixture(scope="module")
def forty(mocks):
    return mocks.isel(galaxy=slice(40))


@pytest.mark.parametrize("sn", [5, 25])
def test_each_line_is_unbiased(grid, sn):
    """Also the faint ones, whose fluxes come out negative as often as noise makes them."""
    sample = make_mocks(grid, 1200, seed=11, sn=sn)
    table = measure_lines_linear(sample)
    pull = ((table["line_flux"] - sample["true_flux"].values) / table["line_flux_error"]).values
    standard_error = pull.std(axis=0) / np.sqrt(len(pull))
    assert (np.abs(pull.mean(axis=0)) < 0.1 + 3 * standard_error).all()
    assert ((pull.std(axis=0) > 0.85) & (pull.std(axis=0) < 1.2)).all()


def test_stars_do_not_pass_for_balmer_emission(grid):
    """Without noise, the bias that the continuum leaves, in Angstrom of equivalent width."""
    sample = make_mocks(grid, 400, seed=3, sn=30, strength=0.3)
    table = measure_lines_linear(sample, variable="truth", keep_fit=True)
    for name, limit in {"Hδ": 0.10, "Hγ": 0.10, "Hβ": 0.05, "Hα": 0.05}.items():
        at = int(np.abs(sample["wavelength"].values - LINES[name]).argmin())
        true = sample["true_flux"].values[:, list(MEASURED).index(name)]
        width = (table["line_flux"].sel(line=name).values - true) / table["continuum"].values[:, at]
        for quiescent in (True, False):
            kind = sample["is_quiescent"].values == quiescent
            assert kind.sum() > 50
            assert abs(np.median(width[kind])) < limit
            assert np.percentile(np.abs(width[kind]), 90) < 5 * limit


def test_no_prior_and_fixed_kinematics_is_ordinary_weighted_least_squares(few):
    wavelength, edges = few["wavelength"].values, pixel_edges(few["wavelength"].values)
    x = np.linspace(-1, 1, wavelength.size)
    vectors = np.stack([np.ones_like(x), x, x**2, np.sin(5 * x)])
    rng = np.random.default_rng(0)
    ivar = few["ivar"].values * rng.uniform(0.2, 2, few["ivar"].shape)
    mask = (rng.random(ivar.shape) < 0.1) & (wavelength > 5050) & (wavelength < 6500)
    sample = few.assign(ivar=(few["ivar"].dims, ivar), mask=(few["mask"].dims, mask))
    options = {"lines": ("Hβ", "[O III] 4959", "[O III] 5007", "Hα"), "lsf": 60.0, "dispersions": (90.0,)}
    basis = ContinuumTemplates(vectors, np.full(4, np.inf))
    table = measure_lines_linear(sample, continuum=basis, velocity=False, broad=False, **options)

    def column(centre):
        return gaussians(edges, centre, 1.0, 0.0, 90.0, 60.0)[0]

    columns = [column(LINES["Hβ"]), column(LINES["[O III] 5007"]) + column(LINES["[O III] 4959"]) / 2.98]
    columns += [column(LINES["Hα"])] + [sum(s * column(c) for c, s in group) for group in NUISANCE]
    design = np.concatenate([columns, vectors])
    assert len(design) == 24
    for row in range(3):
        weight = np.sqrt(np.where(mask[row], 0, ivar[row]))
        matrix, data = (design * weight).T, few["flux"].values[row] * weight
        solution, residual, *_ = np.linalg.lstsq(matrix, data)
        error = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
        flux, stated = (table[name].values[row][[0, 2, 3]] for name in ("line_flux", "line_flux_error"))
        np.testing.assert_allclose(flux, solution[:3], rtol=1e-5)
        np.testing.assert_allclose(stated, error[:3], rtol=1e-5)
        assert table["chi2"].values[row] == pytest.approx(residual[0] / ((~mask[row]).sum() - 24), rel=1e-5)


def test_results_scale_with_the_flux_and_do_not_depend_on_batches_or_company(forty):
    table = measure_lines_linear(forty)
    faint = forty.assign(flux=forty["flux"] * 1e-17, ivar=forty["ivar"] * 1e34)
    faint["flux"].attrs["units"] = "erg / (s cm2 Angstrom)"
    scaled = measure_lines_linear(faint.isel(galaxy=slice(None, None, -1)), batch_size=7)
    backwards = table.isel(galaxy=slice(None, None, -1))
    for name in ("line_flux", "line_flux_error", "line_peak"):
        np.testing.assert_allclose(scaled[name], backwards[name] * 1e-17, rtol=1e-6)
    for name in ("gas_velocity", "gas_dispersion", "chi2", "net_h_alpha_sn"):
        np.testing.assert_allclose(scaled[name], backwards[name], rtol=1e-5, atol=1e-5)
    nothing = measure_lines_linear(forty.isel(galaxy=slice(0, 0)))
    assert dict(nothing.sizes) == {"galaxy": 0, "line": 14}


def test_finer_pixels_give_the_same_fluxes(grid):
    """SDSS's 69 km/s instead of 276, at a quarter of the ivar: the same information."""
    wavelength = 10 ** (np.log10(3700) + 1e-4 * np.arange(0, 3290))
    sample = make_mocks(grid, 150, seed=2, sn=10, wavelength=wavelength)
    pull = pulls(measure_lines_linear(sample), sample["true_flux"].values, free_only=False)
    assert pull.size > 700 and abs(pull.mean()) < 0.12 and 0.9 < pull.std() < 1.1


def test_line_at_the_edge_needs_four_fifths_of_its_flux(forty):
    edges, name = pixel_edges(forty["wavelength"].values), "[N II] 6583"
    last = int(np.searchsorted(edges, LINES[name]))
    options = {"variable": "truth", "lines": (name, "Hα"), "velocity": False, "lsf": 48.0}
    for cut in range(last - 1, last + 4):
        flat = ContinuumTemplates(np.ones((1, cut)), np.array([np.inf]))
        table = measure_lines_linear(forty.isel(wavelength=slice(0, cut)), continuum=flat, **options)
        sigma = LINES[name] / 299792.458 * np.hypot(table["gas_dispersion"].values, 48.0)
        covered = norm.cdf((edges[cut] - LINES[name]) / sigma)
        np.testing.assert_array_equal(np.isfinite(table["line_flux"].sel(line=name)), covered >= 0.8)


def test_basis_carries_continua_it_has_not_seen(forty):
    """To 0.5% of the flux for realistic galaxies, whose histories the basis was not drawn from."""
    basis = continuum_templates(forty["wavelength"].values)
    stars = forty["stars"].values
    coefficients = np.linalg.lstsq(basis.vectors.T, stars.T)[0]
    residual = (basis.vectors.T @ coefficients).T / stars - 1
    assert np.sqrt((residual**2).mean()) < 0.005
    assert continuum_templates(forty["wavelength"].values) is basis


def test_net_line_is_the_area_above_the_local_continuum(few):
    bins = few["wavelength"].values
    wavelength = torch.from_numpy(bins.copy())
    sigma = 250.0 * 6564.6 / 299792.458
    shape = torch.exp(-0.5 * ((wavelength - 6564.6) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    slope = 1 + (wavelength - 6564.6) / 2000
    flux = torch.stack([slope + 5 * shape, slope - 3 * shape, slope])
    ivar = torch.full_like(flux, 400.0)
    area, error = net_line(flux, ivar, wavelength, 6564.6)
    np.testing.assert_allclose(area, [5, -3, 0], atol=1e-9)
    inside = np.abs(bins / 6564.6 - 1) * 299792.458 <= 2500
    design = np.stack([shape.numpy(), np.ones(825), bins - 6564.6])[:, inside]
    np.testing.assert_allclose(error, np.sqrt(np.linalg.inv(400 * design @ design.T)[0, 0]), rtol=1e-9)
    # Stars alone are in absorption; strong emission on top of them is net emission.
    stars, both = measure_lines_linear(few, variable="stars"), measure_lines_linear(few)
    assert (stars["net_h_beta_sn"] < 0).all() and (stars["balmer_absorption_sn"] > 0).all()
    assert (both["net_h_alpha_sn"].values[few["true_flux"].values[:, MEASURED.index("Hα")] > 15] > 10).all()
    ivar[0, np.abs(bins - 6564.6) < 8] = 0
    ivar[1] = 0
    assert torch.isnan(net_line(flux, ivar, wavelength, 6564.6)[0]).tolist() == [True, True, False]
    assert torch.isnan(net_line(flux, ivar, wavelength, 9000.0)[0]).all()
