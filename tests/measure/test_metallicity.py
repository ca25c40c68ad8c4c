"""Calibrations give the published numbers, with errors that are the scatter of noisy fluxes; dust comes out, once."""

import numpy as np
import pytest
import xarray as xr
from uncertainties import ufloat, umath

from spectool.measure import metallicity as rules
from spectool.measure.metallicity import CALIBRATIONS, CASE_B, balmer_decrement, deredden_lines, metallicity
from spectool.measure.mzr import RELATIONS
from spectool.spectra import LINES, SOLAR_OXYGEN, extinction_curve
from tests.refusals import refused

NAMES = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")
DUSTY = ("Hδ", "Hβ", "[O III] 5007", "Hα", "[N II] 6583")
TYPICAL = np.array([[100.0, 70.0, 300.0, 100.0, 40.0, 35.0]])
INTRINSIC = 100 * np.array([[0.259, 1.0, 0.7, CASE_B, 0.9]])
# Cardelli et al. (1989) with R_V = 3.1 as tabulated for H-beta and H-alpha in pyMCZ (Bianco et al. 2016)
K_BETA, K_ALPHA = 3.609, 2.535

# By hand, to four digits, from the formulas as public codes write them: pyMCZ, pyOxy, spaxelsleuth.
BY_HAND = {
    "PP04 O3N2": {0.0: 8.73, 1.0: 8.41, -0.5: 8.89},
    "PP04 N2": {-0.5: 8.6300, -1.0: 8.2800, -2.0: 7.7900},
    "PP04 N2 linear": {-0.5: 8.615, -1.0: 8.33},
    "Marino 2013 O3N2": {0.0: 8.533, 1.0: 8.319},
    "Marino 2013 N2": {-0.5: 8.512, -1.0: 8.281},
    "Curti 2020 O3N2": {0.281: 8.69, 2.0965: 8.19},
    "Curti 2020 N2": {-0.489: 8.69, -1.4016: 8.19},
    "Curti 2020 O3S2": {0.191: 8.69, 1.7166: 8.19},
}


def line_table(flux, error, names=NAMES, **columns):
    flux = np.asarray(flux, float)
    dims = ("galaxy", "line") if flux.ndim == 2 else ("source", "galaxy", "line")
    error, units = np.broadcast_to(np.asarray(error, float), flux.shape), {"units": "Angstrom"}
    values = {"line_flux": flux, "line_flux_error": error, "line_peak": flux / 5}
    table = xr.Dataset({name: (dims, v, units) for name, v in values.items()})
    wavelength = ("line", [LINES[n] for n in names], units)
    table = table.assign_coords(line=list(names), line_wavelength=wavelength)
    return table.assign({n: ("galaxy", np.asarray(v), {"units": ""}) for n, v in columns.items()})


def dusty_table(flux, error=None):
    return line_table(flux, np.asarray(flux, float) / 50 if error is None else error, DUSTY)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_published_values_within_the_limits_none_beyond_and_errors(name):
    rule = CALIBRATIONS[name]
    assert rule.scale and rule.reference and set(rule.lines) <= set(NAMES)
    for index, oxygen in BY_HAND[name].items():
        assert rule.from_index(index).value == pytest.approx(oxygen, abs=2e-4)
    ends = np.array(rule.valid_range)
    if rule.inverse:
        oxygen = np.linspace(*rule.valid_range, 777)[1:-1]
        polynomial = np.polynomial.Polynomial(rule.coefficients)
        index = polynomial(oxygen - SOLAR_OXYGEN)
        assert (np.diff(index) > 0).all() or (np.diff(index) < 0).all(), "one metallicity for each index"
        np.testing.assert_allclose(rule.from_index(index).value, oxygen, atol=1e-6)
        ends = np.sort(polynomial(ends - SOLAR_OXYGEN))
    inward = np.array([1e-6, -1e-6])
    assert rule.from_index(ends + inward).valid.all()
    result = rule.from_index(ends - inward, 0.1)
    assert not result.valid.any()
    assert np.isnan(result.value).all() and np.isnan(result.error).all()

    # Errors are those of the uncertainties package.
    flux, error = TYPICAL[0], np.array([5.0, 4.0, 6.0, 7.0, 3.0, 2.0])
    f = dict(zip(NAMES, [ufloat(*pair) for pair in zip(flux, error, strict=True)], strict=True))
    n2, o3 = f["[N II] 6583"] / f["Hα"], f["[O III] 5007"] / f["Hβ"]
    s2 = (f["[S II] 6716"] + f["[S II] 6731"]) / f["Hα"]
    index = umath.log10({"N2": n2, "O3N2": o3 / n2, "O3S2": o3 / s2}[rule.index])
    got = rule(line_table([flux], [error]))
    if rule.inverse:
        x = ufloat(got.value[0] - SOLAR_OXYGEN, got.error[0])
        back = sum(c * x**power for power, c in enumerate(rule.coefficients))
        assert back.n == pytest.approx(index.n, abs=1e-5)
        assert back.s == pytest.approx(index.s, rel=1e-4)
    else:
        expected = sum(c * index**power for power, c in enumerate(rule.coefficients))
        assert got.value[0] == pytest.approx(expected.n)
        assert got.error[0] == pytest.approx(expected.s)


@pytest.mark.parametrize(("sn", "n_draws"), [(20, 0), (20, 300), (6, 300)])
def test_errors_are_the_scatter_of_noisy_fluxes(sn, n_draws):
    rng = np.random.default_rng(5)
    flux = np.tile(TYPICAL, (1500, 1))
    error = np.minimum(flux / sn, 70 / sn)
    table = line_table(flux + error * rng.standard_normal(flux.shape), error)
    out = metallicity(table, min_sn=0, n_draws=n_draws, seed=1)
    truth = rules.o3n2_pp04(line_table(TYPICAL, 1)).value[0]
    pull = (out["oxygen"] - truth) / out["oxygen_error"]
    assert abs(pull.mean()) < 0.1 and pull.std() == pytest.approx(1, abs=0.1)


def test_draws_carry_the_dust_and_need_a_seed():
    table = line_table(np.tile(TYPICAL, (40, 1)) * [1, 1, 1.4, 1.4, 1.4, 1.4], 3)
    drawn = metallicity(table, deredden=True, n_draws=200, seed=9)["oxygen_error"]
    np.testing.assert_allclose(drawn, metallicity(table, deredden=True)["oxygen_error"], rtol=0.2)
    refused("need a seed", metallicity, table, n_draws=10)


def test_the_five_ways_to_have_no_metallicity_are_told_and_counted():
    flux = np.tile(TYPICAL, (6, 1))
    flux[1, 0], flux[2, 3] = np.nan, 0
    flux[4, 3] = 3000  # O3N2 below -1
    error = np.full(flux.shape, 2.0)
    error[3, 2] = 25  # S/N of H-alpha is 12
    error[5, 0] = 50  # H-beta: too noisy for the decrement, not for this cut
    out = metallicity(line_table(flux, error, log_mass=np.arange(6.0)), deredden=True)
    reasons = ["not measured", "flux not positive", "S/N too low", "outside the calibration"]
    assert out["reason"].values.tolist() == ["", *reasons, "dust not known"]
    for name in ("oxygen", "oxygen_error"):
        np.testing.assert_array_equal(np.isfinite(out[name]), out["valid"])
    assert out["valid"].values.tolist() == [True] + [False] * 5
    counts = "1 of 6 have a metallicity; 1 not measured, 1 flux not positive, 1 S/N too low"
    assert counts in out.attrs["history"]
    assert out["log_mass"].values.tolist() == list(range(6)) and "line" not in out.dims
    table = line_table(TYPICAL, 8.0)
    assert metallicity(table)["valid"].item()
    assert not metallicity(table, min_sn=15)["valid"].item(), "[O III] 5007 has S/N 9"
    assert metallicity(table, min_sn=15, calibration="Marino 2013 N2")["reason"].item() == "S/N too low"
    assert metallicity(table, min_sn={"Hα": 37})["valid"].item()
    assert not metallicity(table, min_sn={"Hα": 38})["valid"].item()


def test_dust_hardly_moves_ratios_of_neighbours_and_is_taken_out_once():
    table = line_table(np.tile(TYPICAL, (3, 1)), 0.5)
    dusty, clean, once = metallicity(table), metallicity(table, deredden=True), deredden_lines(table)
    assert 0 < abs(clean["oxygen"] - dusty["oxygen"]).max() < 0.005
    assert "corrected for dust" in clean.attrs["history"]
    xr.testing.assert_allclose(metallicity(once)["oxygen"], clean["oxygen"])
    for correct in (deredden_lines, balmer_decrement, lambda lines: metallicity(lines, deredden=True)):
        refused("corrected for dust already", correct, once)


def test_the_scale_is_told_and_what_is_missing():
    table = line_table(TYPICAL, 1)
    attrs = {"oxygen_sun": 8.69, "calibration": "PP04 O3N2", "units": "dex", "calibration_scatter": 0.14}
    assert attrs.items() <= metallicity(table)["oxygen"].attrs.items()
    refused("unknown calibration 'D16': choose from PP04 O3N2", metallicity, table, calibration="D16")
    refused(r"no '\[O III\] 5007'", metallicity, table.sel(line=["Hα", "[N II] 6583"]))
    refused("no 'Hα'; it has Hβ", balmer_decrement, table.sel(line=["Hβ", "[O III] 5007"]))
    refused("no `line_sn`", rules.pick, table, "line_sn", "Hα")


def test_real_galaxies_lie_where_kewley_and_ellison_found_them(shared):
    """Median PP04 O3N2 of ECO (MPA-JHU lines) against the fit of Kewley & Ellison (2008) to SDSS."""
    columns = ("h_beta", "oiii_5007", "h_alpha", "nii_6584", "sii_6717", "sii_6731")
    table = np.genfromtxt(shared / "data" / "eco_lines.csv", delimiter=",", names=True, encoding="utf-8")
    flux, error = (np.stack([table[f"{n}_flux{end}"] for n in columns], 1) for end in ("", "_err"))
    lines = line_table(flux, error).assign_attrs(dust_corrected="by MPA-JHU")
    residual = metallicity(lines, min_sn=5)["oxygen"].values
    residual = residual - RELATIONS["Kewley & Ellison 2008"](table["logmstar"])
    n2, o3 = np.log10(flux[:, 3] / flux[:, 2]), np.log10(flux[:, 1] / flux[:, 0])
    star_forming = (o3 < 0.61 / (n2 - 0.05) + 1.3) & (n2 < 0)
    residual = residual[star_forming & np.isfinite(residual)]
    assert residual.size > 500 and abs(np.median(residual)) < 0.1 and residual.std() < 0.2


def test_dust_put_in_comes_out_by_the_curve_of_another_code():
    dust = balmer_decrement(dusty_table([[0, 100, 0, CASE_B * 100 * 10**0.4, 0]]))
    assert dust["ebv_gas"].item() == pytest.approx(1 / (K_BETA - K_ALPHA), rel=2e-3)
    assert dust["a_h_alpha"].item() == pytest.approx(K_ALPHA / (K_BETA - K_ALPHA), rel=2e-3)
    ebv = np.array([0.0, 0.2, 1.1])
    clean = dusty_table(np.tile(INTRINSIC, (3, 1)))
    curve = extinction_curve(clean["line_wavelength"].values, law="CCM89")
    names = ["line_flux", "line_flux_error", "line_peak"]
    out = deredden_lines(clean.assign(clean[names] / 10 ** (0.4 * np.outer(ebv, curve))))
    np.testing.assert_allclose(out["ebv_gas"], ebv, atol=1e-12)
    for name in names:
        np.testing.assert_allclose(out[name], clean[name], rtol=1e-12)


def test_errors_of_the_decrement_are_propagated_and_noise_on_dust_free_lines_is_clipped_and_counted():
    dust = balmer_decrement(dusty_table([[1, 90.0, 1, 400.0, 1]], error=[[1, 9.0, 1, 20.0, 1]]))
    ebv, alpha = dust["ebv_gas"].item(), dust["a_h_alpha"].item()
    expected = ebv / np.log10(400 / 90 / CASE_B) * umath.log10(ufloat(400, 20) / ufloat(90, 9) / CASE_B)
    assert ebv == pytest.approx(expected.n)
    assert dust["ebv_gas_error"].item() == pytest.approx(expected.s)
    assert dust["a_h_alpha_error"].item() == pytest.approx(expected.s * alpha / ebv)
    flux = INTRINSIC * (1 + 0.02 * np.random.default_rng(3).standard_normal((2000, 5)))
    dust = balmer_decrement(dusty_table(flux))
    assert (dust["ebv_gas"] >= 0).all()
    assert dust["ebv_clipped"].sum() == dust.attrs["n_clipped"]
    assert 0.45 < dust["ebv_clipped"].mean() < 0.55, "half of dust-free galaxies scatter below 0"
    pull = (dust["ebv_gas"] / dust["ebv_gas_error"]).values[~dust["ebv_clipped"].values]
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.05), "the error is the scatter"


def test_what_has_no_decrement_is_told_and_other_dimensions_stay():
    flux, error = np.tile(INTRINSIC, (5, 1)), np.full((5, 5), 2.0)
    flux[1, 1], flux[2, 3] = np.nan, -5
    error[3, 1], error[4, 1] = 60, 0
    out = deredden_lines(dusty_table(flux, error))
    expected = ["", "not measured", "flux not positive", "S/N too low", "not measured"]
    assert out["dust_reason"].values.tolist() == expected
    assert np.isnan(out["ebv_gas"].values).tolist() == [False, True, True, True, True]
    assert np.isnan(out["line_flux"].values[1:]).all() and np.isfinite(out["line_flux"].values[0]).all()
    assert "1 of 5 have a Balmer decrement; 2 not measured, 1 flux not positive" in out.attrs["history"]
    flux = TYPICAL * np.array([1, 2, np.nan])[:, None, None] * np.ones((3, 4, 1))
    out = metallicity(line_table(flux, 2.0), n_draws=400, seed=0)
    assert out["valid"].sum("galaxy").values.tolist() == [4, 4, 0]
    np.testing.assert_allclose(out["oxygen"][0], out["oxygen"][1])
    assert (out["oxygen_error"][0] > 1.7 * out["oxygen_error"][1]).all()
