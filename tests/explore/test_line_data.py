"""What is drawn from the table of lines: logarithms, percentiles, scatter, diagnostics."""

import numpy as np
import pytest

from spectool.explore import line_data as data
from spectool.measure.classes import CLASSES

from .line_fakes import make_product


@pytest.fixture(scope="module")
def product():
    return make_product()


def test_a_table_comes_back_from_disk(product, tmp_path):
    path = tmp_path / "lines.nc"
    product.to_netcdf(path, engine="h5netcdf")
    opened = data.open_lines(path)
    np.testing.assert_array_equal(opened["line_peak"].values, product["line_peak"].values)
    assert opened["spectral_class"].values.tolist() == product["spectral_class"].values.tolist()


def test_a_missing_table_says_what_makes_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere\.nc is not there.*tools/make/scourfield2023_lines\.py"
    ):
        data.open_lines(tmp_path / "nowhere.nc")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.drop_vars("latent"), "lacks latent"),
        (lambda p: p.transpose("galaxy", ...), "lacks line_flux, line_flux_error"),
        (lambda p: p.drop_sel(line="Hβ"), "lacks Hβ"),
        (lambda p: p.drop_sel(source="original"), "lacks the source 'original'"),
    ],
    ids=["variable", "order of dims", "line", "original"],
)
def test_a_table_that_lacks_something_says_what(product, tmp_path, spoil, message):
    path = tmp_path / "lines.nc"
    spoil(product).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=message):
        data.open_lines(path)


def test_what_has_no_logarithm_has_none():
    values = data.log_positive([100.0, 0.0, -3.0, np.nan, np.inf])
    np.testing.assert_array_equal(values, [2.0, np.nan, np.nan, np.nan, np.nan])


def test_a_flux_and_its_error_are_told_in_dex(product):
    lines = product.sel(source="VAE 6")
    value, error = data.log_flux(lines, "Hβ", "integrated")
    flux, sigma = (lines[n].sel(line="Hβ").values for n in ("line_flux", "line_flux_error"))
    good = flux > 0
    assert 0 < good.sum() < good.size
    np.testing.assert_allclose(10 ** value[good], flux[good], rtol=1e-6)
    np.testing.assert_allclose(error[good], sigma[good] / flux[good] * np.log10(np.e), rtol=1e-6)
    assert np.isnan(value[~good]).all()
    assert np.isnan(error[~good]).all()


def test_signal_to_noise_is_zero_where_nothing_was_measured(product):
    flux = product["line_flux"].sel(source="original", line="Hα").values
    sn = data.signal_to_noise(product)
    assert (sn[np.isnan(flux)] == 0).all()
    np.testing.assert_allclose(sn[np.isfinite(flux)], flux[np.isfinite(flux)] / 1e-2, rtol=1e-5)


def test_diagnostics_follow_the_papers_equation(product):
    lines = product.sel(source="original")
    classes = product["spectral_class"].values
    found = data.diagnostics(lines, classes)
    flux = {name: lines["line_flux"].sel(line=name).values.astype(float) for name in data.BPT_LINES}
    n2, o3 = flux["[N II] 6583"] / flux["Hα"], flux["[O III] 5007"] / flux["Hβ"]
    np.testing.assert_allclose(found["n2"], np.log10(n2))
    np.testing.assert_allclose(found["o3"], np.log10(o3))
    expected = 8.73 - 0.32 * np.log10(o3 / n2)
    given = np.isfinite(found["oh"])
    np.testing.assert_allclose(found["oh"][given], expected[given])
    assert given.sum() > 50
    assert set(classes[given]) == {CLASSES[0]}


def test_a_line_that_vanished_leaves_no_ratio(product):
    lines = product.sel(source="PCA 2").copy(deep=True)
    lines["line_flux"].loc[{"line": "[N II] 6583"}] = 0.0
    found = data.diagnostics(lines, product["spectral_class"].values)
    assert np.isnan(found["n2"]).all()
    assert np.isnan(found["oh"]).all()
    assert np.isfinite(found["o3"]).any()
