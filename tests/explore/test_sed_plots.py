"""Figures of the broadband notebook draw what they were given."""

import numpy as np
import pytest
import xarray as xr
from bokeh.models import (
    BoxAnnotation,
    HBar,
    Image,
    Line,
    Quad,
    Scatter,
    Segment,
    Span,
    Step,
    VArea,
    VBar,
    Whisker,
)

from spectool.explore import sed_checks_plots, sed_network_plots, sed_plots
from spectool.explore.style import FIGURE_WIDTH, to_bokeh
from spectool.models.bands import FACILITY_BANDS, SedMLP, read_inputs
from spectool.models.training import History
from spectool.papers.surana2020.network import RECIPES, TABLE_3, UNITS, score_properties
from spectool.surveys.gama import BANDS
from tests.explore.plot_parts import drawn, glyphs, labels, plots_of
from tests.sed_toy import make_galaxies

OUTPUTS = list(UNITS)
RNG = np.random.default_rng(6)


@pytest.fixture(scope="module")
def sample():
    """Toy galaxies with gaps, whose teacher is 0.1 dex too high and in quiescent ones another 0.5 dex."""
    toy = make_galaxies(2000, seed=4, gaps=0.2)
    quiescent = RNG.random(2000) < 0.4
    columns = {"is_quiescent": ("galaxy", quiescent, {"units": ""})}
    for name in OUTPUTS:
        truth = toy[f"{name}_fit"].values - 0.1 - 0.5 * quiescent
        columns[name] = ("galaxy", truth, {"units": UNITS[name]})
    return toy.assign(columns).assign_coords(band_wavelength=("band", np.geomspace(1500, 5e6, len(BANDS))))


def axis_names(layout):
    """Titles of the axes that are shown."""
    plots = plots_of(layout)
    return [axis.axis_label for plot in plots for axis in (*plot.xaxis, *plot.yaxis) if axis.visible]


def check_page(layout):
    """No wider than a laptop leaves; drawn by Bokeh."""
    to_bokeh(layout)
    plots = plots_of(layout)
    assert max(plot.width for plot in plots) <= FIGURE_WIDTH
    assert any("(" in (name or "") or "galaxies" in (name or "") for name in axis_names(layout))


def test_histograms_count_every_galaxy(sample):
    redshifts = sed_plots.plot_redshifts(sample["redshift"].values)
    assert drawn(glyphs(redshifts, Quad)[0], "top").sum() == pytest.approx(2000, abs=4)
    cut = glyphs(redshifts, Line)[-1]
    np.testing.assert_array_equal(drawn(cut, "x"), 0.5)
    masses = {"teacher": sample["log_mass_fit"].values, "truth": sample["log_mass"].values}
    plot = sed_plots.plot_masses(masses)
    assert labels(plot) == ["teacher", "truth", "limit"]
    steps = drawn(glyphs(plot, Line)[0])[:-1]  # each count twice
    assert steps.sum() / 2 == pytest.approx(2000, abs=4)
    layout = sed_plots.plot_labels(sample)
    assert [plot.xaxis.axis_label for plot in plots_of(layout)] == list(sed_plots.LABELS.values())
    check_page(layout)


def test_poor_fluxes_are_counted_by_facility_and_missing_ones_apart(sample):
    plot = sed_plots.plot_low_sn(sample, threshold=5)
    bars = glyphs(plot, VBar)
    assert labels(plot) == [*FACILITY_BANDS, "no flux"]
    counted = {band: n for r in bars[:-1] for band, n in zip(drawn(r, "x"), drawn(r, "top"), strict=True)}
    sn = sample["flux"] / sample["flux_error"]
    for band in BANDS:
        assert counted[band] == int((sn.sel(band=band) < 5).sum())
    gaps = drawn(bars[-1], "top") - drawn(bars[-1], "bottom")
    np.testing.assert_array_equal(gaps, sample["mask"].values.sum(axis=0))
    assert gaps[0] > 0 and gaps[2] == 0
    check_page(plot)


def test_inputs_are_shown_as_they_are_encoded(sample):
    inputs = read_inputs(sample, list(BANDS))
    model = SedMLP(bands=list(BANDS), hidden=(4,), outputs=OUTPUTS[:1], units=["dex"])
    model.set_statistics(inputs, sample[["log_mass_fit"]].to_array().values.T)
    layout = sed_plots.plot_inputs(inputs, {"standardised": model}, bands=("FUV", "r"))
    before, after = plots_of(layout)
    assert labels(before) == ["FUV", "r"]
    x, share = (drawn(glyphs(after, Step)[1], axis) for axis in "xy")
    encoded = model.encode(inputs)[:, model.groups["r"][0]]
    middle = np.average(x, weights=share)
    assert middle == pytest.approx(encoded[encoded < np.quantile(encoded, 0.98)].mean(), abs=0.02)
    assert share.max() == 1
    check_page(layout)


def test_a_galaxy_shows_limits_gaps_and_its_best_model(sample):
    one = sample.isel(galaxy=[int(np.flatnonzero(sample["mask"].values.any(axis=1))[0])]).copy(deep=True)
    one["flux"][0, 20], one["flux_error"][0, 20] = -1e-3, 2e-3
    one["flux"][0, 5], one["flux_error"][0, 5] = 4e-3, 1e-3
    model_flux = np.geomspace(1, 2, 3)[None, :, None] * np.full((1, 3, len(BANDS)), 3e-3)
    nearest = xr.Dataset({"model_flux": (("galaxy", "nearest", "band"), model_flux, {"units": "Jy"})})
    plot = sed_plots.plot_sed(one, nearest=nearest)
    points = {r.glyph.marker: r for r in glyphs(plot, Scatter) if "band" in r.data_source.data}
    hollow = next(r for r in glyphs(plot, Scatter) if getattr(r.glyph, "fill_color", None) == "white")
    assert set(hollow.data_source.data["band"]) == {"FUV", "NUV"}
    limits = points["inverted_triangle"].data_source.data
    assert limits["y"][list(limits["band"]).index("S500")] == pytest.approx(6e-3)
    whisker = next(item for item in plot.center if isinstance(item, Whisker)).source.data
    at = whisker["x"] == one["band_wavelength"].values[5] / 1e4
    assert (whisker["low"][at].item(), whisker["high"][at].item()) == pytest.approx((3e-3, 5e-3))
    lines = glyphs(plot, Line)
    widths = [line.glyph.line_width for line in lines]
    np.testing.assert_allclose(drawn(lines[int(np.argmax(widths))]), 3e-3)
    assert len(lines) == 3 and labels(plot)[:2] == ["next best models", "best model"]
    check_page(plot)


def test_a_galaxy_without_any_flux_is_drawn_hollow(sample):
    empty = sample.isel(galaxy=[0]).copy(deep=True)
    empty["flux"][:] = np.nan
    plot = sed_plots.plot_sed(empty.drop_vars("mask"))
    (points,) = glyphs(plot, Scatter)
    assert len(points.data_source.data["band"]) == len(BANDS)


def test_layers_are_as_long_as_their_nodes():
    layout = sed_network_plots.plot_network({"mass": RECIPES["log_mass"].hidden})
    (plot,) = plots_of(layout)
    bars = glyphs(plot, Segment)
    lengths = [float(np.ravel(drawn(r, "y1"))[0] - np.ravel(drawn(r, "y0"))[0]) for r in bars]
    assert lengths == [22, 44, 66, 66]
    model = SedMLP(bands=list(BANDS), hidden=RECIPES["log_mass"].hidden, outputs=["log_mass"], units=["dex"])
    weights = sum(p.numel() for p in model.parameters())
    assert plot.title.text == f"mass: {weights:,} weights"


def test_losses_mark_the_best_epoch_of_a_history_or_its_columns():
    valid = np.array([3.0, 0.5, 0.2, 0.3])
    records = [
        {"epoch": k + 1, "train_loss": 1.0 / (k + 1), "valid_loss": value} for k, value in enumerate(valid)
    ]
    columns = {name: np.array([r[name] for r in records]) for name in records[0]}
    layout = sed_network_plots.plot_losses({"one": History(records), "two": columns})
    for plot in plots_of(layout):
        (span,) = (item for item in plot.center if isinstance(item, Span))
        assert span.location == 3
        np.testing.assert_allclose(drawn(glyphs(plot, Line)[1]), valid)
        assert plot.y_range.start < 0.2 and 0.5 < plot.y_range.end < 3


def test_predictions_have_their_fit_and_their_scores():
    x = RNG.uniform(9, 11.5, 4000)
    y = 1 + 0.9 * x + RNG.normal(0, 0.05, x.size)
    y[:10] = np.nan
    layout = sed_network_plots.plot_predictions({"log_mass": (x, y), "log_sfr": (x - 10, x - 10)})
    plots = plots_of(layout)
    above, below = plots[0], plots[2]
    scores = score_properties(y[:, None], x[:, None], ["log_mass"])["log_mass"]
    assert above.title.text == f"σ {scores['sigma']:.3f} dex, r² {scores['r2']:.3f}"
    equal, fit = glyphs(above, Line)
    np.testing.assert_array_equal(drawn(equal, "x"), drawn(equal))
    np.testing.assert_allclose(drawn(fit), 1 + 0.9 * drawn(fit, "x"), atol=0.02)
    image = glyphs(above, Image)[0].data_source.data["image"][0]
    assert (image**2).sum() == pytest.approx(3990, rel=0.01)
    low, middle, high = (drawn(r) for r in glyphs(below, Line))
    np.testing.assert_allclose(middle, 1 - 0.1 * drawn(glyphs(below, Line)[1], "x"), atol=0.03)
    np.testing.assert_allclose(high - low, 0.1, atol=0.06)
    assert below.x_range is above.x_range
    check_page(layout)


def test_running_lines_leave_out_thin_bins():
    x = np.r_[np.linspace(0, 1, 1000), np.linspace(4, 5, 8)]
    middle, percentiles = sed_network_plots.running_lines(x, 2 * x, n_bins=10)
    assert middle.max() < 4 and percentiles.shape == (3, middle.size)
    middle, percentiles = sed_network_plots.running_lines([np.nan], [1.0])
    assert middle.size == 0 and percentiles.shape == (3, 0)


def test_peers_stand_beside_the_paper():
    scores = {
        "network": {name: {"sigma": 0.05 * (k + 1)} for k, name in enumerate(OUTPUTS)},
        "forest": {"log_sfr": {"sigma": 0.2}},
    }
    mass, sfr, dust = plots_of(sed_network_plots.plot_peers(scores))
    bar = glyphs(sfr, HBar)[0].data_source.data
    assert dict(zip(bar["y"], bar["value"], strict=True)) == {"network": 0.1, "forest": 0.2}
    assert list(glyphs(mass, HBar)[0].data_source.data["y"]) == ["network"]
    for plot, name in zip((mass, sfr, dust), OUTPUTS, strict=True):
        assert set(drawn(glyphs(plot, Line)[0], "x")) == {TABLE_3[name]["sigma"]}
    assert "dashed: the paper" in mass.xaxis[0].axis_label


def test_importance_is_coloured_by_facility():
    inputs = [*BANDS, "redshift"]
    dims = ("input", "property")
    value = RNG.uniform(0, 0.3, (22, 3))
    table = xr.Dataset(
        {"importance": (dims, value), "importance_error": (dims, 0.1 * value)},
        coords={"input": inputs, "property": OUTPUTS},
    )
    layout = sed_checks_plots.plot_importance(table)
    plots = plots_of(layout)
    for k, plot in enumerate(plots):
        bars = glyphs(plot, HBar)[0].data_source.data
        np.testing.assert_array_equal(bars["value"], value[:, k])
        np.testing.assert_allclose(bars["high"] - bars["low"], 0.2 * value[:, k])
        color = dict(zip(bars["y"], bars["color"], strict=True))
        assert color["g"] == color["z"] == sed_plots.FACILITY_COLORS["SDSS"] != color["K"]
    assert labels(plots[-1]) == [*FACILITY_BANDS, "redshift"]
    assert sum(plot.width for plot in plots) <= 1000


def make_curve(dim, values):
    shape = (len(values), 3)
    columns = {name: ((dim, "property"), RNG.uniform(0.1, 0.5, shape)) for name in ("sigma", "error")}
    columns["coverage"] = ((dim, "property"), RNG.uniform(0.6, 0.8, shape))
    return xr.Dataset(columns, coords={dim: values, "property": OUTPUTS})


def test_missing_bands_cost_what_the_tables_say():
    curve, without = make_curve("n_missing", [0, 4, 8]), make_curve("facility", ["none", "WISE"])
    layout = sed_checks_plots.plot_missing_curve(curve, without)
    left, right = plots_of(layout)
    solid, dashed = glyphs(left, Line)[:2]
    np.testing.assert_array_equal(drawn(solid), curve["sigma"][:, 0])
    np.testing.assert_array_equal(drawn(dashed), curve["error"][:, 0])
    assert dashed.glyph.line_dash and not solid.glyph.line_dash
    for k, bars in enumerate(glyphs(right, VBar)):
        np.testing.assert_array_equal(drawn(bars, "top"), without["sigma"][:, k])
    assert labels(left) == list(sed_plots.NAMES.values())
    assert len(plots_of(sed_checks_plots.plot_missing_curve(curve))) == 1
    check_page(layout)


def test_coverage_of_right_errors_is_the_diagonal():
    labels_, error = np.zeros((20_000, 2)), np.full((20_000, 2), 0.1)
    predicted = RNG.normal(0, [0.1, 0.2], (20_000, 2))  # the second error is half of what it should be
    layout = sed_checks_plots.plot_coverage(
        predicted, labels_, error, OUTPUTS[:2], curve=make_curve("n_missing", [0, 9])
    )
    left, right = plots_of(layout)
    good, small = glyphs(left, Line)
    np.testing.assert_allclose(drawn(good), drawn(good, "x"), atol=1.5)
    assert (drawn(small)[5:-5] < drawn(good)[5:-5] - 5).all()
    named = labels(left)
    assert "68." in named[0] and "38." in named[1]
    (shade,) = (item for item in right.center if isinstance(item, BoxAnnotation))
    assert (shade.bottom, shade.top) == pytest.approx((65.27, 71.27))
    check_page(layout)


def test_the_teacher_is_off_by_class(sample):
    layout = sed_checks_plots.plot_teacher_vs_truth(sample)
    for plot in plots_of(layout):
        forming, quiescent = (drawn(r) for r in glyphs(plot, Line))
        np.testing.assert_allclose(forming, 0.1, atol=1e-9)
        np.testing.assert_allclose(quiescent, 0.6, atol=1e-9)
        assert len(glyphs(plot, VArea)) == 2
        assert "bias +" in plot.title.text
    assert labels(plots_of(layout)[0]) == ["star-forming", "quiescent"]
    check_page(layout)


def test_causes_of_the_scatter_keep_their_colours():
    x = np.array([-2.0, -1, 0])
    panels = {
        "star-forming": {"network − teacher": (x, np.array([np.nan, 0.2, 0.1]))},
        "quiescent": {"teacher − truth": (x, x + 3), "network − teacher": (x, 0.1 * x + 0.5)},
    }
    layout = sed_checks_plots.plot_scatter_cause(panels)
    left, right, key = plots_of(layout)
    (network,) = glyphs(left, Line)
    np.testing.assert_array_equal(drawn(network, "x"), [-1, 0])
    by_color = {line.glyph.line_color: drawn(line) for line in glyphs(right, Line)}
    np.testing.assert_allclose(by_color[network.glyph.line_color], 0.1 * x + 0.5)
    assert labels(key) == ["network − teacher", "teacher − truth"]
    shown = {item.label.value: item.renderers[0].glyph.fill_color for item in key.legend[0].items}
    assert shown["network − teacher"] == network.glyph.line_color
    assert left.y_range is right.y_range and right.y_range.end > 3
    check_page(layout)
