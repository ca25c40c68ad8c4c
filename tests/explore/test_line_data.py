"""What is drawn from the table of lines: logarithms, percentiles, scatter, diagnostics."""

import re

import numpy as np
import pytest
from scipy.stats import binned_statistic

from spectool.explore import line_data as data
from spectool.measure.classes import CLASSES

from .line_fakes import MODELS, make_product


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
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nc is not there.*measure_scourfield2023\.py"):
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


def test_percentiles_agree_with_scipys_bins(rng):
    x = rng.normal(size=700)
    y = x + rng.normal(size=700)
    bins = data.running_percentiles(x, y)
    assert bins["count"].sum() == 700
    for name, percent in (("low", 16), ("middle", 50), ("high", 84)):
        expected = binned_statistic(x, y, lambda v, p=percent: np.percentile(v, p), bins=10).statistic
        np.testing.assert_allclose(bins[name], expected)
    np.testing.assert_array_equal(bins["count"], np.histogram(x, 10)[0])


def test_a_bin_is_filled_with_more_than_its_share_of_eleven():
    # 110 points in ten bins: a bin needs more than 10.
    counts = [60, 11, 10, 9, 4, 4, 4, 4, 3, 1]
    x = np.concatenate([np.full(n, k + 0.5) for k, n in enumerate(counts)])
    x[0], x[-1] = 0.0, 10.0
    bins = data.running_percentiles(x, x)
    assert bins["count"].tolist() == counts
    assert bins["filled"].tolist() == [True, True] + [False] * 8


def test_pairs_with_a_gap_do_not_count(rng):
    x, y = rng.normal(size=(2, 200))
    gaps_x, gaps_y = np.append(x, [np.nan, 9.0]), np.append(y, [0.0, np.nan])
    with_gaps, without = data.running_percentiles(gaps_x, gaps_y), data.running_percentiles(x, y)
    np.testing.assert_array_equal(with_gaps["middle"], without["middle"])
    assert with_gaps["bin"][-2:].tolist() == [-1, -1]


def test_the_scatter_that_was_put_in_comes_out(rng):
    x = rng.uniform(0, 3, 40_000)
    found = data.summarize(x, x + rng.normal(0.1, 0.3, x.size), data.running_percentiles(x, x))
    assert found["sigma"] == pytest.approx(0.3, abs=0.005)
    assert found["sigma_fill"] == pytest.approx(0.3, abs=0.01)
    assert found["median"] == pytest.approx(0.1, abs=0.01)
    assert found["n_recovered"] == found["n_original"] == x.size


def test_the_scatter_of_filled_bins_leaves_the_others_out(rng):
    x = np.concatenate([rng.uniform(0, 0.8, 1000), rng.uniform(9, 10, 20)])
    y = x + np.concatenate([rng.normal(0, 0.1, 1000), rng.normal(0, 3.0, 20)])
    found = data.summarize(x, y, data.running_percentiles(x, y))
    assert found["sigma_fill"] == pytest.approx(np.std((y - x)[:1000]))
    assert found["sigma"] == pytest.approx(np.std(y - x))


def test_no_pair_is_no_number_and_no_error():
    nothing = np.full(5, np.nan)
    bins = data.running_percentiles(nothing, nothing)
    found = data.summarize(nothing, nothing, bins)
    assert found["n_recovered"] == 0
    assert np.isnan([found["sigma"], found["sigma_fill"], found["median"]]).all()
    assert not bins["filled"].any()


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


def test_the_papers_scatter_is_that_of_its_table(shared):
    text = (shared / "papers/scourfield2023.txt").read_text(encoding="utf-8")
    table = text[text.index("2 dimensions") : text.index("Table 6. The standard deviations")]
    size, found = None, {}
    for row in table.splitlines():
        head = re.match(r"(\d+) dimensions", row)
        size = int(head[1]) if head else size
        values = re.findall(r"\d\.\d\d", row)
        if len(values) == 12:
            found[f"{row.split()[0]} {size}"] = [float(value) for value in values]
    assert set(found) == set(MODELS)
    for source, values in found.items():
        ours = [v for line in data.PAPER_LINES for v in data.paper_scatter(source, line)]
        assert ours == values, source


def test_the_paper_says_nothing_of_other_lines_and_sources():
    assert data.paper_scatter("VAE 4", "Hβ") is None
    assert data.paper_scatter("noise-added", "Hα") is None
