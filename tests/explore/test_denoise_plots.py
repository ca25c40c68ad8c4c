import numpy as np
import pytest
from bokeh.models import GlyphRenderer, Line, Plot, Scatter

from spectool.explore import denoise_plots
from spectool.measure.stats import running_percentiles, summarize

RNG = np.random.default_rng(3)
PIXELS = np.geomspace(3700, 7900, 200)


def plots_of(layout):
    """In reading order: select() has none."""
    return [child for child, _, _ in sorted(layout.children, key=lambda c: c[1:]) if isinstance(child, Plot)]


def lines_of(plot):
    return [r for r in plot.select({"type": GlyphRenderer}) if isinstance(r.glyph, Line)]


def test_panels_share_their_wavelengths_and_hold_copies():
    flux = RNG.normal(1, 0.1, (2, 200)).astype("f4")
    panels = {"first": {"noisy": flux[0], "clean": flux[1]}, "second": {"noisy": flux[1]}}
    layout = denoise_plots.plot_stack(PIXELS, panels, ranges={"second": (0, 3)})
    first, second = plots_of(layout)
    assert first.x_range is second.x_range
    assert (second.y_range.start, second.y_range.end) == (0, 3)
    drawn = lines_of(second)[0].data_source.data["y"]
    np.testing.assert_array_equal(drawn, flux[1])
    assert drawn.base is not flux
    assert first.xaxis.axis_label is None and "wavelength" in second.xaxis.axis_label


def test_every_pair_is_drawn_once_and_classes_are_counted():
    columns = {f"z{k}": RNG.normal(size=60) for k in range(3)}
    classes = np.array(["a"] * 40 + ["b"] * 20)
    layout = denoise_plots.plot_class_pairs(columns, classes, {"a": "#000000", "b": "#FF0000"})
    assert len(plots_of(layout)) == 6 + 1  # a triangle, and the legend
    points = [
        r
        for p in plots_of(layout)
        if not p.legend
        for r in p.select({"type": GlyphRenderer})
        if isinstance(r.glyph, Scatter)
    ]
    assert sum(len(r.data_source.data["x"]) for r in points) == 3 * 60
    labels = [item.label.value for p in plots_of(layout) for legend in p.legend for item in legend.items]
    assert labels == ["a (40)", "b (20)"]


def test_the_recovery_grid_leaves_out_what_was_not_measured():
    x = RNG.uniform(-3, 0, 300)
    y = x + 0.1 * RNG.normal(size=300)
    y[:50] = np.nan
    bins = running_percentiles(x, y)
    cells = {
        ("VAE", "Hα"): (x, y, bins, summarize(x, y, bins)),
        ("VAE", "Hβ"): (x, 0 * y + np.nan, bins, summarize(x, y, bins)),
    }
    plots = plots_of(denoise_plots.plot_recovery_grid(cells, rows=["VAE"], columns=["Hα", "Hβ"]))
    points = [r for r in plots[0].select({"type": GlyphRenderer}) if isinstance(r.glyph, Scatter)]
    sizes = [len(r.data_source.data["x"]) for r in points]
    assert max(sizes) == 250
    assert plots[0].y_range.start < -3 < 0 < plots[0].y_range.end


@pytest.mark.parametrize("n", [0, 80])
def test_the_mzr_says_how_many_galaxies_are_measurable(n):
    mass = RNG.uniform(8.5, 11, 100)
    oxygen = np.where(np.arange(100) < n, 8.5 + 0.1 * RNG.normal(size=100), np.nan)
    marks = {name: np.array([9.0, 10.0]) for name in ("x", "low", "middle", "high")}
    panel = {"log_mass": mass, "oxygen": oxygen, "color": mass, "percentiles": marks}
    layout = denoise_plots.plot_mzr_panels(
        {"original": panel, "noisy": panel}, color_label="mass", color_range=(8, 11)
    )
    titles = [p.title.text for p in plots_of(layout) if p.title is not None and p.title.text]
    assert f"original: {n} of 100 measurable" in titles
    assert len(plots_of(layout)) == 4
