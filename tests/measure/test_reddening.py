"""Dust put into lines by hand comes out again; the correction is made once, and what has none is told."""

import numpy as np
import pytest
import xarray as xr
from uncertainties import ufloat, umath

from spectool.measure.metallicity import CASE_B, balmer_decrement, deredden_lines, pick
from spectool.spectra import LINES, extinction_curve

NAMES = ("Hδ", "Hβ", "[O III] 5007", "Hα", "[N II] 6583")
# Cardelli et al. (1989) with R_V = 3.1 as tabulated for H-beta and H-alpha in pyMCZ (Bianco et al. 2016)
K_BETA, K_ALPHA = 3.609, 2.535


def line_table(flux, error=None):
    flux = np.asarray(flux, float)
    error = flux / 50 if error is None else np.broadcast_to(np.asarray(error, float), flux.shape)
    columns = {
        name: (("galaxy", "line"), v, {"units": "Angstrom"})
        for name, v in {"line_flux": flux, "line_flux_error": error, "line_peak": flux / 5}.items()
    }
    wavelength = ("line", [LINES[n] for n in NAMES], {"units": "Angstrom"})
    return xr.Dataset(columns, coords={"line": list(NAMES), "line_wavelength": wavelength})


def intrinsic(n=3):
    return np.tile([0.259, 1.0, 0.7, CASE_B, 0.9], (n, 1)) * 100


def test_the_curve_is_that_of_another_code():
    dust = balmer_decrement(line_table([[0, 100, 0, CASE_B * 100 * 10**0.4, 0]]))
    assert dust["ebv_gas"].item() == pytest.approx(1 / (K_BETA - K_ALPHA), rel=2e-3)
    assert dust["a_h_alpha"].item() == pytest.approx(K_ALPHA / (K_BETA - K_ALPHA), rel=2e-3)


def test_dust_put_in_comes_out():
    ebv = np.array([0.0, 0.2, 1.1])
    clean = line_table(intrinsic())
    dusty = clean.copy()
    gain = 10 ** (0.4 * np.outer(ebv, extinction_curve(clean["line_wavelength"].values, law="CCM89")))
    for name in ("line_flux", "line_flux_error", "line_peak"):
        dusty[name] = clean[name] / gain
    out = deredden_lines(dusty)
    np.testing.assert_allclose(out["ebv_gas"], ebv, atol=1e-12)
    for name in ("line_flux", "line_flux_error", "line_peak"):
        np.testing.assert_allclose(out[name], clean[name], rtol=1e-12)
        assert out[name].dims == ("galaxy", "line")
        assert out[name].attrs["units"] == "Angstrom"
    assert "Hα/Hβ = 2.86" in out.attrs["dust_corrected"]


def test_errors_are_those_of_the_uncertainties_package():
    table = line_table([[1, 90.0, 1, 400.0, 1]], error=[[1, 9.0, 1, 20.0, 1]])
    dust = balmer_decrement(table)
    ratio = ufloat(400, 20) / ufloat(90, 9)
    slope = dust["ebv_gas"].item() / np.log10(400 / 90 / CASE_B)
    expected = slope * umath.log10(ratio / CASE_B)
    assert dust["ebv_gas"].item() == pytest.approx(expected.n)
    assert dust["ebv_gas_error"].item() == pytest.approx(expected.s)
    assert dust["a_h_alpha_error"].item() == pytest.approx(
        expected.s * dust["a_h_alpha"].item() / dust["ebv_gas"].item()
    )


def test_noise_on_dust_free_lines_is_clipped_and_counted():
    rng = np.random.default_rng(3)
    flux = intrinsic(2000)
    dust = balmer_decrement(line_table(flux * (1 + 0.02 * rng.standard_normal(flux.shape))))
    assert (dust["ebv_gas"] >= 0).all()
    assert dust["ebv_clipped"].sum() == dust.attrs["n_clipped"]
    assert 0.45 < dust["ebv_clipped"].mean() < 0.55, "half of dust-free galaxies scatter below 0"
    positive = dust["ebv_gas"].values[~dust["ebv_clipped"].values]
    pull = positive / dust["ebv_gas_error"].values[~dust["ebv_clipped"].values]
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.05), "the error is the scatter"


def test_a_second_correction_is_refused():
    once = deredden_lines(line_table(intrinsic()))
    for correct in (deredden_lines, balmer_decrement):
        with pytest.raises(ValueError, match="corrected for dust already"):
            correct(once)


def test_catalogue_fluxes_that_are_corrected_already_have_no_dust_left(shared):
    table = np.genfromtxt(shared / "data" / "eco_lines.csv", delimiter=",", names=True, encoding="utf-8")
    flux, error = (
        np.stack(
            [table[f"{n}_flux{end}"] for n in ("h_delta", "h_beta", "oiii_5007", "h_alpha", "nii_6584")], 1
        )
        for end in ("", "_err")
    )
    usable = (flux[:, [1, 3]] > 10 * error[:, [1, 3]]).all(axis=1) & (error[:, [1, 3]] > 0).all(axis=1)
    lines = line_table(flux[usable], error[usable])
    assert usable.sum() > 1000
    ebv = balmer_decrement(lines)["ebv_gas"]
    assert np.median(ebv) < 1e-3
    with pytest.raises(ValueError, match="corrected for dust already"):
        deredden_lines(lines.assign_attrs(dust_corrected="by MPA-JHU"))


def test_what_has_no_decrement_is_told_and_never_a_number():
    flux = intrinsic(5)
    flux[1, 1], flux[2, 3] = np.nan, -5
    error = np.full_like(flux, 2.0)
    error[3, 1], error[4, 1] = 60, 0
    out = deredden_lines(line_table(flux, error))
    expected = ["", "not measured", "flux not positive", "S/N too low", "not measured"]
    assert out["dust_reason"].values.tolist() == expected
    assert np.isnan(out["ebv_gas"].values).tolist() == [False, True, True, True, True]
    assert np.isnan(out["line_flux"].values[1:]).all() and np.isfinite(out["line_flux"].values[0]).all()
    assert "1 of 5 have a Balmer decrement; 2 not measured, 1 flux not positive" in out.attrs["history"]


def test_errors_for_people():
    table = line_table(intrinsic())
    with pytest.raises(ValueError, match="no 'Hα'; it has Hδ"):
        balmer_decrement(table.sel(line=["Hδ", "Hβ"]))
    with pytest.raises(ValueError, match="no `line_sn`"):
        pick(table, "line_sn", "Hα")
