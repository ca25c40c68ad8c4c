"""Figures of the metallicity notebook draw what they were given, where they were given it."""

import numpy as np
import pytest
import xarray as xr
from bokeh.models import BoxAnnotation, HBar, Line, Scatter, VArea, Whisker

from spectool.continuum import ContinuumBasis
from spectool.explore import filter_plots, metallicity_checks, metallicity_plots
from spectool.measure.attribution import describe_filters, filter_patterns
from spectool.measure.indices import index_band
from spectool.measure.mzr import bin_mass_and_sfr
from spectool.measure.offset import explain_offset
from spectool.models.chunked import ChunkedMLP
from tests.explore.plot_parts import drawn, glyphs, labels, plots_of

RNG = np.random.default_rng(5)
KEPT = ContinuumBasis.optical().kept_wavelength


def test_no_line_is_drawn_over_masked_pixels():
    wavelength = np.array([1.0, 2, 3, 10, 11, 20])
    spread, values, gaps = metallicity_plots.with_gaps(wavelength, np.arange(12.0).reshape(2, 6))
    assert gaps == [(3.5, 9.5), (11.5, 19.5)]
    np.testing.assert_array_equal(np.isnan(values[0]), [0, 0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(values[1][np.isfinite(values[1])], np.arange(6, 12))
    assert (np.diff(spread) > 0).all()


def test_histories_are_steps_with_their_mean():
    edges, log_z = np.array([0, 0.1, 0.5, 1, 2, 4.0]), np.array([-1, 0.2, -1, -1, -1.0])
    layout = metallicity_plots.plot_histories({"4 Gyr": {"edges": edges, "log_z": log_z, "log_z_lw": -0.76}})
    above, below = plots_of(layout)
    assert max(drawn(glyphs(above, Line)[0])) == pytest.approx(1 / 4)
    step, mean = glyphs(below, Line)
    at = dict(zip(drawn(step, "x")[1::2], drawn(step)[1::2], strict=True))
    assert at[0.5] == 0.2 and at[1.0] == -1
    np.testing.assert_allclose(drawn(mean), -0.76)
    assert "label" in labels(below)[1]


def test_prepared_spectra_share_axes_and_hide_the_gaps():
    flux = RNG.normal(0, 0.05, (2, KEPT.size))
    panels = {"a": {"noisy": flux[0], "clean": flux[1]}, "b": {"clean": flux[1]}, "c": {"clean": flux[0]}}
    first, second, third = plots_of(metallicity_plots.plot_prepared(KEPT, panels))
    assert first.x_range is second.x_range and second.y_range is third.y_range
    inside = (flux[0] > first.y_range.start) & (flux[0] < first.y_range.end)
    assert inside.mean() > 0.95
    line = glyphs(first, Line)[-1]
    shown = drawn(line)[np.isfinite(drawn(line))]
    np.testing.assert_allclose(shown, flux[1].astype("f4"))
    masked = [b for b in first.center if isinstance(b, BoxAnnotation)]
    assert any(b.left < 4862.7 < b.right for b in masked)  # Hbeta


def test_the_relation_has_bands_bars_and_a_map():
    x = np.arange(8.5, 11, 0.1)
    curves = {
        "galaxies": {"x": x, "y": x - 10, "low": x - 10.2, "high": x - 9.8},
        "stacks": {"x": x, "y": np.where(x > 10, np.nan, x - 10), "error": 0 * x + 0.1},
        "truth": {"x": x, "y": x - 10, "dash": "dashed"},
    }
    cloud = RNG.uniform(9, 10, (2, 500))
    plot = metallicity_plots.plot_mzr(curves, galaxies=(cloud[0], cloud[1] - 10))
    assert labels(plot) == list(curves)
    assert len(glyphs(plot, VArea)) == 1 and len(glyphs(plot, Scatter)) == 2
    assert drawn(glyphs(plot, Line)[1]).size == (x <= 10).sum()
    image = next(r for r in plot.renderers if r.level == "image")
    assert (image.data_source.data["image"][0] ** 2).sum() == pytest.approx(500, rel=1e-5)
    assert "log Z" in plot.yaxis.axis_label and "M☉" in plot.xaxis.axis_label


@pytest.fixture(scope="module")
def binned():
    mass = RNG.normal(10, 0.4, 4000)
    off = RNG.normal(0, 0.3, 4000)
    return bin_mass_and_sfr(mass, mass - 10 + off, 0.3 * (mass - 10) - 0.3 * off)


def test_each_rank_of_star_formation_is_a_curve(binned):
    layout = metallicity_plots.plot_mass_sfr_bins({"main": binned, "null": binned})
    panels = plots_of(layout)
    assert len(panels) == 4 and panels[2].title.text == "B  main"
    curves = glyphs(panels[2], Line)
    assert len(curves) == 10
    np.testing.assert_allclose(drawn(curves[9]), binned["log_z"][:, 9], rtol=1e-5)
    assert panels[0].y_range is panels[1].y_range
    plot = metallicity_plots.plot_trends({"main": binned})
    np.testing.assert_allclose(drawn(glyphs(plot, Line)[0]), binned["rho"])
    assert len([r for r in plot.center if isinstance(r, Whisker)]) == 1


def test_scores_stand_at_their_noise_and_coverage_in_its_band():
    scores = {"one": {5: 0.5, 10: 0.3, np.inf: 0.1}, "other": {10: 0.2}}
    plot = metallicity_checks.plot_by_sn(scores)
    one, other = glyphs(plot, Line)
    np.testing.assert_allclose(drawn(one), [0.5, 0.3, 0.1])
    assert abs(drawn(other, "x")[0] - 1) < 0.1
    assert plot.xaxis.major_label_overrides[2] == "noise-free"
    errors = {"one": {5: 0.01}}
    plot = metallicity_checks.plot_by_sn({"one": {5: 0.68}}, errors=errors, band=(0.65, 0.71))
    assert plot.y_range.start < 0.65 and plot.y_range.end > 0.71
    assert any(isinstance(a, BoxAnnotation) for a in plot.center)


def test_the_ellipse_holds_68_percent_and_the_title_the_correlation():
    x, y = RNG.multivariate_normal([0.1, 0], [[1, -0.6], [-0.6, 1]], 4000).T
    plot = plots_of(metallicity_checks.plot_degeneracy({"S/N = 5": (x, y)}))[0]
    assert plot.title.text == f"S/N = 5: r = {np.corrcoef(x, y)[0, 1]:.2f}".replace("-", "−")
    ring = np.stack([drawn(glyphs(plot, Line)[0], a) for a in ("x", "y")])
    inverse = np.linalg.inv(np.cov(x, y))

    def distance(points):
        away = points - np.array([[x.mean()], [y.mean()]])
        return np.einsum("ik,ij,jk->k", away, inverse, away)

    assert np.mean(distance(np.stack([x, y])) < distance(ring).min()) == pytest.approx(0.68, abs=0.03)


def test_steps_of_the_offset_lead_from_zero_to_the_sum():
    mass = RNG.uniform(9, 10, 200)
    flux = RNG.uniform(0.5, 1.5, (200, 30)).astype("f4")
    views = {"clean": flux, "S/N: worse": flux**1.1}
    options = {"edges": [9, 9.5, 10], "n_bootstrap": 5}
    found = explain_offset(views, mass, mass, lambda f: np.log10(f.mean(axis=1)), **options)
    left, right = plots_of(metallicity_checks.plot_offset(found))
    bars = glyphs(right, HBar)[0].data_source.data
    start, stop = np.asarray(bars["left"], float), np.asarray(bars["right"], float)
    np.testing.assert_allclose(start[1:-1], stop[:-2])
    assert start[0] == start[-1] == 0 and stop[-1] == pytest.approx(float(found["mean_offset"]))
    assert labels(left)[-2:] == ["sum", "true labels"] and labels(left)[2] == "S/N"


@pytest.fixture(scope="module")
def looked_into():
    model = ChunkedMLP(wavelength=KEPT, hidden=(6,), seed=2)
    prepared = xr.Dataset(
        {
            "flux": (("galaxy", "wavelength"), RNG.normal(0, 0.05, (30, KEPT.size)).astype("f4")),
            "log_z_lw": ("galaxy", RNG.uniform(-1, 0, 30)),
        },
        coords={"wavelength": KEPT},
    )
    return model, prepared, describe_filters(model, prepared, steps=4)


def test_filters_are_turned_scaled_and_the_most_important_is_coloured(looked_into):
    model, prepared, table = looked_into
    mean = prepared["flux"].mean("galaxy").values
    patterns = filter_patterns(model, prepared)
    layout = filter_plots.plot_filters(model, mean, table=table, patterns=patterns, title="Filters")
    panels = plots_of(layout)
    assert len(panels) == 9 and panels[0].title.text == "Filters"
    assert labels(panels[1]) == ["the others", "most important of its chunk"]
    coloured = [r for r in glyphs(panels[1], Line) if r.glyph.line_width > 1]
    best = int(table["importance"].values[0].argmax())
    own = model.chunk_index == 0
    expected = table["sign"].values[0, best] * model.filters()[0, best, : own.sum()]
    assert len(coloured) == 1 and len(glyphs(panels[1], Line)) == 4
    shown = drawn(coloured[0])[np.isfinite(drawn(coloured[0]))][: own.sum()]
    np.testing.assert_allclose(shown, expected / np.sqrt(np.mean(expected**2)), rtol=1e-4)
    turned = 100 * table["sign"].values[0, best] * patterns[0, best, : own.sum()]
    shown = drawn(glyphs(panels[2], Line)[0])
    shown = shown[np.isfinite(shown)][: own.sum()]
    np.testing.assert_allclose(shown, turned, rtol=1e-4, atol=1e-6)


def test_known_indices_are_shaded_and_named_where_pixels_are_kept(looked_into):
    model, prepared, table = looked_into
    layout = filter_plots.plot_filters(model, prepared["flux"][0].values, table=table, rows=2)
    spectra = plots_of(layout)[::2]
    names = [
        n
        for p in spectra
        for r in p.renderers
        if "label" in r.data_source.data
        for n in r.data_source.data["label"]
    ]
    text = " ".join(names)
    assert all(name in text for name in ("Fe4383", "Mg b", "Fe5270", "Fe5335", "TiO₁"))
    assert "Na D" not in text and "Fe5782" not in text  # masked
    low, high = index_band("Fe5270")
    boxes = [b for b in spectra[0].center if isinstance(b, BoxAnnotation)]
    assert any(b.left == low and b.right == high for b in boxes)


def test_attributions_are_drawn(looked_into):
    values = RNG.normal(0, 1e-3, (5, KEPT.size)).astype("f4")
    layout = filter_plots.plot_attribution(KEPT, {"a": values[0], "b": values[1]}, values[2], smooth=1)
    panel = plots_of(layout)[1]
    assert labels(panel) == ["a", "b"]
    shown = drawn(glyphs(panel, Line)[1])
    np.testing.assert_allclose(shown[np.isfinite(shown)], 1e3 * values[1], rtol=1e-5)
