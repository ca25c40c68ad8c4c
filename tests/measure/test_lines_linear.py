"""The fast fit finds what was put in, says how well it knows it, and lives through bad spectra."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from spectool.measure.line_design import MEASURED, NUISANCE, ContinuumTemplates, continuum_templates
from spectool.measure.lines_linear import measure_lines_linear, net_line
from spectool.spectra import LINES, pixel_edges

from .line_mocks import gaussians, make_mocks

HALPHA = list(MEASURED).index("Hα")


def pulls(table, sample):
    """(measured - true) / error, and true / error."""
    true, error = sample["true_flux"].values, table["line_flux_error"].values
    return (table["line_flux"].values - true) / error, true / error


@pytest.fixture(scope="module", params=[5, 25], ids=["S/N 5", "S/N 25"])
def measured(request, grid):
    sample = make_mocks(grid, 1200, seed=11, sn=request.param)
    return sample, measure_lines_linear(sample)


@pytest.fixture(scope="module")
def few(grid):
    return make_mocks(grid, 40, seed=5, sn=20)


def test_each_line_is_unbiased(measured):
    """Also the faint ones, whose fluxes come out negative as often as noise makes them."""
    pull = pulls(measured[1], measured[0])[0]
    standard_error = pull.std(axis=0) / np.sqrt(len(pull))
    assert (np.abs(pull.mean(axis=0)) < 0.1 + 3 * standard_error).all()
    assert ((pull.std(axis=0) > 0.85) & (pull.std(axis=0) < 1.2)).all()


@pytest.mark.parametrize(("name", "limit"), [("Hδ", 0.10), ("Hγ", 0.10), ("Hβ", 0.05), ("Hα", 0.05)])
@pytest.mark.parametrize("quiescent", [True, False], ids=["quiescent", "star-forming"])
def test_stars_do_not_pass_for_balmer_emission(grid, name, limit, quiescent):
    """Without noise, the bias that the continuum leaves, in Angstrom of equivalent width."""
    sample = make_mocks(grid, 400, seed=3, sn=30, strength=0.3)
    table = measure_lines_linear(sample, variable="truth", keep_fit=True)
    at = int(np.abs(sample["wavelength"].values - LINES[name]).argmin())
    true = sample["true_flux"].values[:, list(MEASURED).index(name)]
    width = (table["line_flux"].sel(line=name).values - true) / table["continuum"].values[:, at]
    kind = sample["is_quiescent"].values == quiescent
    assert kind.sum() > 50
    assert abs(np.median(width[kind])) < limit
    assert np.percentile(np.abs(width[kind]), 90) < 5 * limit


def test_no_prior_and_fixed_kinematics_is_ordinary_weighted_least_squares(few):
    """Against numpy, with a basis of its own, for fluxes, errors and chi2."""
    wavelength, edges = few["wavelength"].values, pixel_edges(few["wavelength"].values)
    x = np.linspace(-1, 1, wavelength.size)
    vectors = np.stack([np.ones_like(x), x, x**2, np.sin(5 * x)])
    basis = ContinuumTemplates(vectors, np.full(4, np.inf))
    rng = np.random.default_rng(0)
    ivar = few["ivar"].values * rng.uniform(0.2, 2, few["ivar"].shape)
    mask = (rng.random(ivar.shape) < 0.1) & (wavelength > 5050) & (wavelength < 6500)
    sample = few.assign(ivar=(few["ivar"].dims, ivar), mask=(few["mask"].dims, mask))
    names = ("Hβ", "[O III] 4959", "[O III] 5007", "Hα")
    table = measure_lines_linear(
        sample, lines=names, continuum=basis, dispersions=(90.0,), velocity=False, broad=False, lsf=60.0
    )

    def column(centre):
        one = np.ones(1)
        return gaussians(edges, centre, one, 0 * one, 90 * one, 60 * one)[0]

    columns = [column(LINES["Hβ"]), column(LINES["[O III] 5007"]) + column(LINES["[O III] 4959"]) / 2.98]
    columns += [column(LINES["Hα"])] + [sum(s * column(c) for c, s in group) for group in NUISANCE]
    design = np.concatenate([columns, vectors])
    assert len(design) == 24
    for row in range(3):
        weight = np.sqrt(np.where(mask[row], 0, ivar[row]))
        matrix, data = (design * weight).T, few["flux"].values[row] * weight
        solution, residual, *_ = np.linalg.lstsq(matrix, data)
        error = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)))
        flux = table["line_flux"].values[row]
        np.testing.assert_allclose(flux[[0, 2, 3]], solution[:3], rtol=1e-5)
        np.testing.assert_allclose(table["line_flux_error"].values[row][[0, 2, 3]], error[:3], rtol=1e-5)
        assert table["chi2"].values[row] == pytest.approx(residual[0] / ((~mask[row]).sum() - 24), rel=1e-5)


def test_free_doublets_find_another_ratio(few):
    table = measure_lines_linear(few, variable="truth", doublets={})
    bright = few["true_flux"].values[:, HALPHA] > 20
    flux = table["line_flux"].values[bright]
    ratio = flux[:, MEASURED.index("[O III] 5007")] / flux[:, MEASURED.index("[O III] 4959")]
    np.testing.assert_allclose(ratio, 2.98, rtol=0.01)


def test_peak_is_that_of_the_profile_on_the_pixels(measured):
    sample, table = measured
    edges, sigma = pixel_edges(sample["wavelength"].values), 2.5 / 2.354820045 / LINES["Hα"] * 299792.458
    line = table.sel(line="Hα")
    profile = gaussians(
        edges, LINES["Hα"], np.ones(table.sizes["galaxy"]), line["gas_velocity"].values,
        line["gas_dispersion"].values, sigma,
    )  # fmt: skip
    np.testing.assert_allclose(line["line_peak"], line["line_flux"] * profile.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(line["line_peak"] / line["line_peak_error"], line["line_sn"], rtol=1e-9)


def test_results_scale_with_the_flux_and_do_not_depend_on_batches_or_company(few):
    table = measure_lines_linear(few)
    faint = few.assign(flux=few["flux"] * 1e-17, ivar=few["ivar"] * 1e34)
    faint["flux"].attrs["units"] = "erg / (s cm2 Angstrom)"
    scaled = measure_lines_linear(faint.isel(galaxy=slice(None, None, -1)), batch_size=7)
    backwards = table.isel(galaxy=slice(None, None, -1))
    for name in ("line_flux", "line_flux_error", "line_peak"):
        np.testing.assert_allclose(scaled[name], backwards[name] * 1e-17, rtol=1e-6)
    for name in ("gas_velocity", "gas_dispersion", "chi2", "net_h_alpha_sn"):
        np.testing.assert_allclose(scaled[name], backwards[name], rtol=1e-5, atol=1e-5)
    assert scaled["line_flux"].attrs["units"] == "erg / (s cm2)"


def test_finer_pixels_give_the_same_fluxes(grid):
    """SDSS's 69 km/s instead of 276, at a quarter of the ivar: the same information."""
    wavelength = 10 ** (np.log10(3700) + 1e-4 * np.arange(0, 3290))
    sample = make_mocks(grid, 150, seed=2, sn=10, wavelength=wavelength)
    pull, sn = pulls(measure_lines_linear(sample), sample)
    detected = sn > 5
    assert detected.sum() > 700
    assert abs(pull[detected].mean()) < 0.12
    assert 0.9 < pull[detected].std() < 1.1


def test_broad_lines_are_found_where_they_are_and_only_there(grid):
    sample = make_mocks(grid, 200, seed=9, sn=20)
    edges = pixel_edges(sample["wavelength"].values)
    broad = np.where(np.arange(200) < 40, 60.0, 0.0)
    extra = sum(gaussians(edges, LINES[n], s * broad, 0 * broad, 1500 + 0 * broad, 0 * broad) for n, s in
                (("Hα", 1.0), ("Hβ", 0.3)))  # fmt: skip
    table = measure_lines_linear(sample.assign(flux=sample["flux"] + extra))
    found = (table["broad_h_alpha_sn"] > 5).values & (table["broad_gain"] > 30).values
    np.testing.assert_array_equal(found, broad > 0)
    has = table.isel(galaxy=slice(40))
    error = has["broad_h_alpha_flux"] / has["broad_h_alpha_sn"]
    assert abs(float(((has["broad_h_alpha_flux"] - 60) / error).mean())) < 0.5
    pull = pulls(has, sample.isel(galaxy=slice(40)))[0]
    assert np.abs(pull[:, HALPHA]).mean() < 1.2  # narrow Hα is not led astray
    assert "40 with broad Balmer lines" in table.attrs["history"]


def test_line_at_the_edge_needs_four_fifths_of_its_flux(few):
    """[N II] 6583 at the red end: measured until a fifth of the line is cut off."""
    edges = pixel_edges(few["wavelength"].values)
    last = int(np.searchsorted(edges, LINES["[N II] 6583"]))
    for cut in range(last - 1, last + 4):
        sample = few.isel(wavelength=slice(0, cut))
        flat = ContinuumTemplates(np.ones((1, cut)), np.array([np.inf]))
        table = measure_lines_linear(
            sample, variable="truth", lines=("[N II] 6583", "Hα"), velocity=False, lsf=48.0, continuum=flat
        )
        sigma = LINES["[N II] 6583"] / 299792.458 * np.hypot(table["gas_dispersion"].values, 48.0)
        covered = norm.cdf((edges[cut] - LINES["[N II] 6583"]) / sigma)
        kept = np.isfinite(table["line_flux"].sel(line="[N II] 6583").values)
        np.testing.assert_array_equal(kept, covered >= 0.8)


def test_net_lines_see_emission_and_absorption_together(few):
    """Stars alone are in absorption; strong emission on top of them is net emission."""
    stars = measure_lines_linear(few, variable="stars")
    assert (stars["net_h_beta_sn"] < 0).mean() > 0.9
    assert (stars["balmer_absorption_sn"] >= -stars["net_h_alpha_sn"]).all()
    bright = few["true_flux"].values[:, HALPHA] > 15
    assert (measure_lines_linear(few)["net_h_alpha_sn"].values[bright] > 10).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dispersions": ()}, "at least one"),
        ({"continuum": "splines"}, "'templates' or a ContinuumTemplates"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(few, options, message):
    with pytest.raises(ValueError, match=message):
        measure_lines_linear(few, **options)


def test_no_galaxy_gives_an_empty_table(few):
    table = measure_lines_linear(few.isel(galaxy=slice(0, 0)))
    assert dict(table.sizes) == {"galaxy": 0, "line": 14}


def test_basis_carries_continua_it_has_not_seen(grid, few):
    """To 0.5% of the flux for realistic galaxies, whose histories the basis was not drawn from."""
    basis = continuum_templates(few["wavelength"].values)
    stars = few["stars"].values
    coefficients = np.linalg.lstsq(basis.vectors.T, stars.T)[0]
    residual = (basis.vectors.T @ coefficients).T / stars - 1
    assert np.sqrt((residual**2).mean()) < 0.005
    assert continuum_templates(few["wavelength"].values) is basis
    other = continuum_templates(few["wavelength"].values, n_components=3, degree=0)
    assert other.vectors.shape == (4, 825)


def test_net_line_is_the_area_above_the_local_continuum(few):
    """On a slope, in emission and in absorption, with the error of linear least squares."""
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
    ivar[0, np.abs(bins - 6564.6) < 8] = 0
    ivar[1] = 0
    assert torch.isnan(net_line(flux, ivar, wavelength, 6564.6)[0]).tolist() == [True, True, False]
    assert torch.isnan(net_line(flux, ivar, wavelength, 9000.0)[0]).all()
