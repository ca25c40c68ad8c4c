"""Figures of the paper notebooks: what they draw is what they were given."""

import numpy as np
import pytest
from bokeh.models import ColorBar, GlyphRenderer, Plot, Rect

from spectool.explore import plots
from spectool.models.training import History


def glyphs(plot, kind):
    return [r for r in plot.renderers if isinstance(r, GlyphRenderer) and isinstance(r.glyph, kind)]


def test_live_loss_follows_the_history():
    curve = plots.LiveLoss("β = 0.3")
    records = [{"epoch": k, "train_loss": 10.0 / k, "valid_loss": 12.0 / k} for k in (1, 2, 3)]
    curve(History(records=records))
    assert np.allclose(curve.source.data["train"], [10, 5, 10 / 3])
    assert np.allclose(curve.source.data["valid"], [12, 6, 4])
    assert curve.source.data["train"].dtype == np.float32


def test_matrix_shows_its_numbers_and_leaves_nan_empty():
    plot = plots.plot_matrix([[np.nan, 0.5], [0.25, np.nan]], ["a", "b"], ["x", "y"])
    data = glyphs(plot, Rect)[0].data_source.data
    cells = set(zip(data["row"], data["column"], data["text"], strict=True))
    assert cells == {("a", "y", "0.50"), ("b", "x", "0.25")}
    assert plot.select_one(ColorBar).title == "mutual information (nat)"


def test_informativeness_counts_above_the_threshold():
    layout = plots.plot_informativeness({"β = 0.1": [0.5, 0.02, 0.001], "β = 0.9": [0.5, 0.001, 0.001]})
    titles = sorted(plot.title.text for plot in layout.select({"type": Plot}) if plot.title.text)
    assert titles == ["β = 0.1: 2 informative dimensions", "β = 0.9: 1 informative dimensions"]


def test_density_maps_hold_the_central_99_percent(rng):
    x, y = rng.normal(size=(2, 4000))
    layout = plots.plot_density_grid({"x": x}, {"y": y}, marked={("x", "y"): True}, bins=20)
    plot = layout.select_one({"type": Plot})
    counts = glyphs(plot, object)[0].data_source.data["image"][0] ** 2
    assert 0.97 * 4000 < counts.sum() <= 4000
    assert plot.outline_line_width == 3


def test_traversal_shows_the_change_of_each_pixel():
    wavelength = np.linspace(4000, 7000, 50)
    spectra = np.ones((3, 50)) + np.array([-0.5, 0, 0.5])[:, None] * (wavelength > 6500)
    layout = plots.plot_traversal(wavelength, [-1, 0, 1], spectra)
    right = next(
        plot for plot in layout.select({"type": Plot}) if plot.title and plot.title.text == "change per pixel"
    )
    drawn = right.renderers[0].data_source.data["y"]
    assert np.allclose(drawn, np.where(wavelength > 6500, 1.0, 0.0))


@pytest.mark.parametrize("identity", [False, True])
def test_points_carry_their_names(identity):
    plot = plots.plot_points([1, 2], [3, 4], names=["a", "b"], identity=identity)
    assert list(glyphs(plot, object)[0].data_source.data["name"]) == ["a", "b"]
    assert len(plot.renderers) == 1 + identity


def test_curves_on_a_log_axis_and_with_named_lines():
    wavelength = np.linspace(4000, 7000, 100)
    log = plots.plot_curves(wavelength, {"a": np.ones(100)}, y_axis_type="log", y_label="error")
    assert log.yaxis[0].axis_label == "error"
    named = plots.plot_curves(wavelength, {"a": np.ones(100), "b": 2 * np.ones(100)}, lines=True)
    assert [item.label.value for item in named.legend[0].items] == ["a", "b"]
