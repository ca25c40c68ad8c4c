"""Calibrations give the published numbers, within their limits, with errors that are the scatter of noisy fluxes."""

import numpy as np
import pytest
import xarray as xr
from uncertainties import ufloat, umath

from spectool.measure.metallicity import CALIBRATIONS, SOLAR_OXYGEN, deredden_lines, metallicity, o3n2_pp04
from spectool.measure.mzr import RELATIONS
from spectool.spectra import LINES

NAMES = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583", "[S II] 6716", "[S II] 6731")

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


def line_table(flux, error, **columns):
    flux = np.asarray(flux, float)
    dims = ("galaxy", "line") if flux.ndim == 2 else ("source", "galaxy", "line")
    error = np.broadcast_to(np.asarray(error, float), flux.shape)
    units = {"units": "Angstrom"}
    table = xr.Dataset({"line_flux": (dims, flux, units), "line_flux_error": (dims, error, units)})
    wavelength = ("line", [LINES[n] for n in NAMES], units)
    table = table.assign_coords(line=list(NAMES), line_wavelength=wavelength)
    return table.assign({n: ("galaxy", np.asarray(v), {"units": ""}) for n, v in columns.items()})


def typical(n=1):
    return np.tile([100.0, 70.0, 300.0, 100.0, 40.0, 35.0], (n, 1))


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_published_values(name):
    rule = CALIBRATIONS[name]
    for index, oxygen in BY_HAND[name].items():
        assert rule.from_index(index).value == pytest.approx(oxygen, abs=2e-4)


@pytest.mark.parametrize("name", [n for n, rule in CALIBRATIONS.items() if rule.inverse])
def test_inverted_polynomials_return_to_where_they_came_from(name):
    rule = CALIBRATIONS[name]
    oxygen = np.linspace(*rule.valid_range, 777)[1:-1]
    index = np.polynomial.Polynomial(rule.coefficients)(oxygen - SOLAR_OXYGEN)
    assert (np.diff(index) > 0).all() or (np.diff(index) < 0).all(), "one metallicity for each index"
    np.testing.assert_allclose(rule.from_index(index).value, oxygen, atol=1e-6)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_beyond_the_limits_there_is_no_value(name):
    rule = CALIBRATIONS[name]
    ends = np.array(rule.valid_range)
    if rule.inverse:
        ends = np.sort(np.polynomial.Polynomial(rule.coefficients)(ends - SOLAR_OXYGEN))
    inward = np.array([1e-6, -1e-6])
    inside, outside = ends + inward, ends - inward
    assert rule.from_index(inside).valid.all()
    result = rule.from_index(outside, 0.1)
    assert not result.valid.any()
    assert np.isnan(result.value).all() and np.isnan(result.error).all()


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_errors_are_those_of_the_uncertainties_package(name):
    rule = CALIBRATIONS[name]
    flux, error = typical()[0], np.array([5.0, 4.0, 6.0, 7.0, 3.0, 2.0])
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
    flux = typical(1500)
    error = np.minimum(flux / sn, 70 / sn)
    table = line_table(flux + error * rng.standard_normal(flux.shape), error)
    out = metallicity(table, min_sn=0, n_draws=n_draws, seed=1)
    truth = o3n2_pp04(line_table(typical(), 1)).value[0]
    pull = (out["oxygen"] - truth) / out["oxygen_error"]
    assert abs(pull.mean()) < 0.1
    assert pull.std() == pytest.approx(1, abs=0.1)


def test_draws_are_the_same_with_the_same_seed_and_carry_the_dust():
    table = line_table(typical(40) * [1, 1, 1.4, 1.4, 1.4, 1.4], 3)
    one, two = (metallicity(table, deredden=True, n_draws=200, seed=9) for _ in range(2))
    np.testing.assert_array_equal(one["oxygen_error"], two["oxygen_error"])
    linear = metallicity(table, deredden=True)
    np.testing.assert_allclose(one["oxygen_error"], linear["oxygen_error"], rtol=0.2)
    with pytest.raises(ValueError, match="need a seed"):
        metallicity(table, n_draws=10)


def test_the_five_ways_to_have_no_metallicity_are_told_and_counted():
    flux = typical(6)
    flux[1, 0], flux[2, 3] = np.nan, 0
    flux[4, 3] = 3000  # O3N2 below -1
    error = np.full(flux.shape, 2.0)
    error[3, 2] = 25  # S/N of H-alpha is 12
    error[5, 0] = 50  # H-beta: too noisy for the decrement, not for this cut
    out = metallicity(line_table(flux, error, log_mass=np.arange(6.0)), deredden=True)
    reasons = [
        "",
        "not measured",
        "flux not positive",
        "S/N too low",
        "outside the calibration",
        "dust not known",
    ]
    assert out["reason"].values.tolist() == reasons
    assert out["valid"].values.tolist() == [True] + [False] * 5
    np.testing.assert_array_equal(np.isfinite(out["oxygen"]), out["valid"])
    np.testing.assert_array_equal(np.isfinite(out["oxygen_error"]), out["valid"])
    assert (
        "1 of 6 have a metallicity; 1 not measured, 1 flux not positive, 1 S/N too low"
        in out.attrs["history"]
    )
    assert out["log_mass"].values.tolist() == list(range(6))
    assert "line" not in out.dims


def test_cuts_in_signal_to_noise():
    table = line_table(typical(), 8.0)
    assert metallicity(table)["valid"].item()
    assert not metallicity(table, min_sn=15)["valid"].item(), "[O III] 5007 has S/N 9"
    assert metallicity(table, min_sn=15, calibration="Marino 2013 N2")["reason"].item() == "S/N too low"
    assert metallicity(table, min_sn={"Hα": 37})["valid"].item()
    assert not metallicity(table, min_sn={"Hα": 38})["valid"].item()


def test_dust_hardly_moves_ratios_of_neighbours_and_is_taken_out_once():
    table = line_table(typical(3), 0.5)
    dusty = metallicity(table)
    clean = metallicity(table, deredden=True)
    assert 0 < abs(clean["oxygen"] - dusty["oxygen"]).max() < 0.005
    assert "corrected for dust" in clean.attrs["history"]
    with pytest.raises(ValueError, match="already"):
        metallicity(deredden_lines(table), deredden=True)
    xr.testing.assert_allclose(metallicity(deredden_lines(table))["oxygen"], clean["oxygen"])


def test_other_dimensions_stay():
    flux = np.stack([typical(4), 2 * typical(4), typical(4) * np.nan])
    out = metallicity(line_table(flux, 2.0), n_draws=400, seed=0)
    assert out["oxygen"].dims == ("source", "galaxy")
    assert out["valid"].sum("galaxy").values.tolist() == [4, 4, 0]
    np.testing.assert_allclose(out["oxygen"][0], out["oxygen"][1])
    assert (out["oxygen_error"][0] > 1.7 * out["oxygen_error"][1]).all()


def test_the_scale_is_told():
    attrs = metallicity(line_table(typical(), 1))["oxygen"].attrs
    assert attrs["oxygen_sun"] == 8.69
    assert attrs["calibration"] == "PP04 O3N2" and "MNRAS 348" in attrs["reference"]
    assert attrs["units"] == "dex" and attrs["calibration_scatter"] == 0.14 and "electron" in attrs["scale"]
    for rule in CALIBRATIONS.values():
        assert rule.scale and rule.reference and set(rule.lines) <= set(NAMES)


def test_errors_for_people():
    table = line_table(typical(), 1)
    with pytest.raises(ValueError, match="unknown calibration 'D16': choose from PP04 O3N2"):
        metallicity(table, calibration="D16")
    with pytest.raises(ValueError, match=r"no '\[O III\] 5007'"):
        metallicity(table.sel(line=["Hα", "[N II] 6583"]))


def test_real_galaxies_lie_where_kewley_and_ellison_found_them(shared):
    """Median PP04 O3N2 of ECO (MPA-JHU lines) against the fit of Kewley & Ellison (2008) to SDSS."""
    table = np.genfromtxt(shared / "data" / "eco_lines.csv", delimiter=",", names=True, encoding="utf-8")
    columns = ("h_beta", "oiii_5007", "h_alpha", "nii_6584", "sii_6717", "sii_6731")
    flux, error = (np.stack([table[f"{n}_flux{end}"] for n in columns], 1) for end in ("", "_err"))
    lines = line_table(flux, error).assign_attrs(dust_corrected="by MPA-JHU")
    out = metallicity(lines, min_sn=5)
    mass = table["logmstar"]
    residual = out["oxygen"].values - RELATIONS["Kewley & Ellison 2008"](mass)
    n2, o3 = np.log10(flux[:, 3] / flux[:, 2]), np.log10(flux[:, 1] / flux[:, 0])
    star_forming = (o3 < 0.61 / (n2 - 0.05) + 1.3) & (n2 < 0)
    residual = residual[star_forming & np.isfinite(residual)]
    assert residual.size > 500
    assert abs(np.median(residual)) < 0.1
    assert residual.std() < 0.2
