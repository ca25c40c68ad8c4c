"""What both line fitters promise: unbiased fluxes, right errors, one kind of table, and no harm from bad spectra."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u

from spectool.measure.line_design import DOUBLETS, MEASURED
from spectool.measure.lines_linear import measure_lines_linear
from spectool.measure.lines_ppxf import fit_lines
from spectool.spectra import LINES, pixel_edges
from tests.refusals import refused

from .line_mocks import gaussians, pulls

# Those of make_mocks, where pixels are too coarse to tell the two lines of [O II] from each other.
MOCK_DOUBLETS = DOUBLETS | {"[O II] 3729": ("[O II] 3726", 0.43 / 0.57)}


def fit_ppxf(sample, **options):
    return fit_lines(sample, n_workers=1, progress=False, **{"doublets": MOCK_DOUBLETS} | options)


@pytest.fixture(scope="module", params=[fit_ppxf, measure_lines_linear], ids=["pPXF", "linear"])
def fit(request):
    return request.param


@pytest.fixture(scope="module")
def table(fit, mocks):
    return fit(mocks, keep_fit=True)


def test_fluxes_are_unbiased_their_errors_right_and_the_noise_about_the_fit_is_white(mocks, table):
    pull = pulls(table, mocks["true_flux"].values)
    assert pull.size > 1000 and abs(pull.mean()) < 0.1 and 0.9 < pull.std() < 1.1
    assert float(table["chi2"].median()) == pytest.approx(1, abs=0.02)
    assert set(table["fit_status"].values) == {0}
    model = table["continuum"].values + table["line_model"].values
    chi2 = (((mocks["flux"].values - model) ** 2) * mocks["ivar"].values).sum(axis=1)
    ratio = chi2 / table["chi2"].values
    assert ((ratio > 740) & (ratio < 825)).all()  # degrees of freedom


def test_kinematics_come_back_where_lines_are_bright(mocks, table):
    bright = table["line_sn"].sel(line="Hα").values > 60
    assert bright.sum() > 30
    assert np.median(np.abs(table["gas_velocity"] - mocks["true_velocity"])[bright]) < 8
    assert abs(np.median((table["gas_dispersion"] - mocks["true_dispersion"])[bright])) < 8


def test_doublets_keep_their_ratios_and_columns_their_meaning(mocks, table):
    flux = table["line_flux"]
    for strong, (weak, share) in DOUBLETS.items():
        np.testing.assert_allclose(flux.sel(line=weak), share * flux.sel(line=strong), rtol=1e-12)
    np.testing.assert_allclose(table["line_sn"], flux / table["line_flux_error"])
    np.testing.assert_allclose(table["line_peak"] / table["line_peak_error"], table["line_sn"], rtol=1e-9)
    assert table["line"].values.tolist() == list(MEASURED)
    np.testing.assert_array_equal(table["line_wavelength"], [LINES[name] for name in MEASURED])
    assert u.Unit(flux.attrs["units"]) == u.Unit("1e-17 erg/(s cm2)")
    assert u.Unit(table["line_peak"].attrs["units"]) == u.Unit("1e-17 erg/(s cm2 Angstrom)")
    np.testing.assert_array_equal(table["true_dispersion"], mocks["true_dispersion"])


def test_peaks_are_those_of_the_profile_over_the_residuals(mocks, table):
    wavelength = table["wavelength"].values
    narrow = (table["broad_h_alpha_flux"].values <= 0) & (table["line_sn"].sel(line="Hβ").values > 3)
    top = table["line_model"].values[narrow][:, np.abs(wavelength - LINES["Hβ"]) < 15].max(axis=1)
    np.testing.assert_allclose(table["line_peak"].sel(line="Hβ")[narrow], top, rtol=0.01)
    near = np.abs(wavelength / LINES["Hα"] - 1) * 299792.458 <= 4500
    residual = (mocks["flux"] - table["continuum"] - table["line_model"]).values[:, near]
    expected = table["line_peak"].sel(line="Hα").values / np.sqrt((residual**2).mean(axis=1))
    np.testing.assert_allclose(table["line_an"].sel(line="Hα"), expected, rtol=0.1)


def test_broad_lines_are_found_and_leave_the_narrow_ones_alone(fit, mocks):
    linear = fit is measure_lines_linear
    some, edges = mocks.isel(galaxy=slice(40)), pixel_edges(mocks["wavelength"].values)
    broad = np.where(np.arange(40) < 20, 60.0 if linear else 150.0, 0.0)
    shares = {"Hα": 1.0, "Hβ": 0.3} | ({} if linear else {"Hγ": 0.13})
    wings = sum(gaussians(edges, LINES[name], s * broad, 0.0, 1500.0, 0.0) for name, s in shares.items())
    table = fit(some.assign(flux=some["flux"] + wings))
    flux = table["broad_h_alpha_flux"].values
    found = (table["broad_h_alpha_sn"] > 5) & (table["broad_gain"] > 30) if linear else flux > 0
    np.testing.assert_array_equal(found, broad > 0)
    np.testing.assert_allclose(flux[:20], broad[:20], rtol=0.15)
    has, true = table.isel(galaxy=slice(20)), some["true_flux"].values[:20]
    assert abs(np.median(pulls(has, true))) < 0.4
    if linear:
        assert abs(((1 - broad[:20] / flux[:20]) * has["broad_h_alpha_sn"].values).mean()) < 0.5
        narrow = (has["line_flux"].values - true) / has["line_flux_error"].values
        assert np.abs(narrow[:, MEASURED.index("Hα")]).mean() < 1.2
        assert "20 with broad Balmer lines" in table.attrs["history"]


def spoil(sample):
    spoilt = sample.copy(deep=True)
    flux, mask, wavelength = spoilt["flux"].values, spoilt["mask"].values, spoilt["wavelength"].values
    mask[0] = True
    flux[1] = np.nan
    flux[2] = 0
    flux[3] = -np.abs(flux[3])
    mask[4, 40:] = True
    mask[5, np.abs(wavelength - LINES["Hα"]) < 25] = True
    flux[6, 100:110], flux[6, 200] = np.nan, np.inf
    spoilt["ivar"].values[7, wavelength > 6650] = 0
    return spoilt


FEW, NONE = "fewer than 60 good pixels", "no good pixel: masked, not finite, without ivar or without redshift"
NEGATIVE = "the mean flux is negative: was too much sky subtracted?"
REASONS = {measure_lines_linear: [FEW, FEW, "", "", FEW]}
ZERO, SHORT = "the flux is zero in all good pixels", "only 40 good pixels of 825"
REASONS[fit_ppxf] = [NONE, NONE, ZERO, NEGATIVE, SHORT]


def test_bad_spectra_are_explained_and_stop_no_other(fit, few):
    bad = fit(spoil(few), keep_fit=True)
    messages, reasons = bad["fit_message"].values, REASONS[fit]
    assert messages[:5].tolist() == reasons
    np.testing.assert_array_equal(bad["fit_status"], [int(text != "") for text in reasons] + [0] * 4)
    lost = bad["fit_status"].values != 0
    assert np.isnan(bad["line_flux"].values[lost]).all() and np.isnan(bad["continuum"].values[lost]).all()
    if fit is measure_lines_linear:
        np.testing.assert_allclose(bad["line_flux"].values[2], 0, atol=1e-12)
    gap, cut = (set(np.array(MEASURED)[np.isnan(bad["line_flux"].values[row])]) for row in (5, 7))
    assert gap == {"[N II] 6548", "Hα", "[N II] 6583"} and cut == {"[S II] 6716", "[S II] 6731"}
    assert np.isfinite(bad["line_flux"].values[[6, 8]]).all()
    history = bad.attrs["history"]
    assert f"9 spectra, {lost.sum()} with bad input, 0 failed" in history and "Hα: 1" in history
    assert "836 pixels with flux not finite left out" in history


def test_masked_pixels_do_not_matter_whatever_they_hold(fit, few):
    mask = np.random.default_rng(1).random(few["mask"].shape) < 0.03
    masked = few.assign(mask=(few["mask"].dims, mask))
    spoiled = masked.assign(flux=masked["flux"].where(~mask, 1e5))
    np.testing.assert_array_equal(fit(masked)["line_flux"], fit(spoiled)["line_flux"])


def test_without_a_line_in_range_the_stars_are_fitted(fit, few):
    wavelength = few["wavelength"]
    part = fit(few.sel(wavelength=wavelength[(wavelength > 4400) & (wavelength < 4800)]), lines=("Hα", "Hβ"))
    assert set(part["fit_status"].values) == {0}
    assert np.isnan(part["line_flux"]).all() and np.isfinite(part["chi2"]).all()
    assert "Hα: 9, Hβ: 9" in part.attrs["history"]


def test_unknown_noise_is_guessed(fit, few, table):
    guessed = fit(few.drop_vars("ivar"))
    ratio = (guessed["line_flux_error"] / table["line_flux_error"][:9]).values
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.15)
    assert "no ivar given: noise guessed" in guessed.attrs["history"]


CHAIN = {"Hα": ("Hβ", 0.3), "Hβ": ("Hγ", 0.5)}
REFUSED = [
    ({}, {"variable": "model"}, "no variable `model`"),
    ({}, {"lines": ("Hα", "H-alpha")}, "no line 'H-alpha'"),
    ({}, {"lines": ()}, "at least one line"),
    ({}, {"lines": ("Hα", "Hα")}, "each line once"),
    ({}, {"lsf": np.nan}, "must be finite"),
    ({}, {"lsf": -3.0}, "not negative"),
    ({}, {"doublets": CHAIN, "lines": ("Hα", "Hβ", "Hγ")}, "is tied"),
    ({"flux": ("galaxy", np.ones(9))}, {}, "has dimensions"),
]
OWN = {
    measure_lines_linear: [
        ({"dispersions": ()}, "at least one"),
        ({"continuum": "splines"}, "'templates' or a ContinuumTemplates"),
    ],
    fit_ppxf: [
        ({"kinematics": "loose"}, "'free' or 'fixed'"),
        ({"gas_dispersion": -5.0}, "gas_dispersion must be positive"),
        ({"templates": "some"}, "'compact', 'full'"),
    ],
}


def test_what_cannot_be_done_is_refused(fit, few):
    for change, options, message in [*REFUSED, *(({}, *case) for case in OWN[fit])]:
        refused(message, fit, few.assign(change), **options)
    bare = xr.Dataset({"flux": few["flux"].drop_vars("wavelength")})
    refused(r"no wavelengths|common rest-frame grid", fit, bare)
