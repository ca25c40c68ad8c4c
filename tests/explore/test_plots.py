"""Figures of the paper notebooks: what they draw is what they were given."""

import numpy as np
import torch
from bokeh.models import ColorBar, Image, Line, MultiLine, Text, WheelZoomTool, Whisker

from spectool.explore import plots, style
from spectool.models.training import History, fit
from tests.explore.plot_parts import drawn, glyphs, labels, plots_of


def test_live_loss_follows_the_history():
    curve = plots.LiveLoss("β = 0.3")
    records = [{"epoch": k, "train_loss": 10.0 / k, "valid_loss": 12.0 / k} for k in (1, 2, 3)]
    curve(History(records=records))
    assert np.allclose(curve.source.data["train"], [10, 5, 10 / 3])
    assert np.allclose(curve.source.data["valid"], [12, 6, 4])
    assert curve.source.data["train"].dtype == np.float32


def test_decades_name_every_axis_sparsely():
    for low, high in ((1, 1.3), (2e-5, 0.4), (3, 700), (80, 90)):
        ticks = [place for place, _ in plots.decades([low, high])]
        shown = [place for place in ticks if low <= place <= high]
        assert len(shown) <= 6
        assert min(ticks) <= low
        assert max(ticks) >= high
    assert dict(plots.decades([1e-6, 1e4]))[1e-5] == "10⁻⁵"


def test_curves_leave_the_wheel_to_the_page_and_the_legend_outside():
    wavelength, flux = np.linspace(6000, 7000, 50), np.ones(50)
    options = {"y_label": "flux", "bands": {"a": (flux - 1, flux + 1)}, "lines": {"Hα": 6564.6}}
    plot = style.to_bokeh(plots.curves(wavelength, {"a": flux, "b": 2 * flux}, **options))
    assert plot.select_one(WheelZoomTool).modifiers == {"ctrl": True}
    assert plot.legend[0] in plot.above
    assert labels(plot) == ["a", "b"]
    assert (plot.xaxis[0].axis_label, plot.yaxis[0].axis_label) == ("rest wavelength (Å, vacuum)", "flux")
    assert any("Hα" in r.data_source.data.get("label", ()) for r in glyphs(plot, Text))


def test_a_figure_keeps_no_view_of_the_sample():
    flux = np.ones(50, np.float32)
    overlay = plots.curves(np.arange(50), {"a": flux})
    flux[:] = 5
    plot = style.to_bokeh(overlay)
    assert (drawn(glyphs(plot, Line)[0]) == 1).all()


def test_a_matrix_is_read_by_row_and_column_and_nan_stays_empty():
    plot = style.to_bokeh(plots.matrix([[np.nan, 0.5], [0.25, 0.9]], ["a", "b"], ["x", "y"]))
    texts = {}
    for renderer in glyphs(plot, Text):
        data = renderer.data_source.data
        texts |= {(r, c): t for r, c, t in zip(data["row"], data["column"], data["text"], strict=True)}
    assert texts == {("a", "y"): "0.50", ("b", "x"): "0.25", ("b", "y"): "0.90"}
    assert plot.select_one(ColorBar).title == "mutual information (nat)"


def test_density_counts_the_central_99_percent_and_its_contours_hold_their_share(rng):
    x, y = rng.normal(size=(2, 4000))
    plot = style.to_bokeh(plots.density(x, y, bins=20, contours=(0.5, 0.9)))
    (image,) = glyphs(plot, Image)
    assert 0.97 * 4000 < (image.data_source.data["image"][0] ** 2).sum() <= 4000
    assert len(glyphs(plot, MultiLine)) == 1


def test_panels_of_a_stack_share_one_axis_and_show_it_once():
    x = np.linspace(4000, 5000, 20)
    panels = [plots.curves(x, {"a": x * k, "b": x}, title=str(k), y_label="flux") for k in (1, 2)]
    upper, lower = plots_of(style.to_bokeh(plots.stack(panels, heights=(100, 60))))
    assert upper.x_range is lower.x_range
    assert upper.y_range is not lower.y_range
    assert (upper.frame_height, lower.frame_height) == (100, 60)
    assert upper.xaxis[0].major_label_text_font_size == "0pt"
    assert bool(labels(upper)) and not labels(lower)


def test_points_have_their_errors_and_grids_their_places():
    panel = plots.points([1, 2], [3, 4], errors=[0.1, 0.2], x_label="x", y_label="y") * plots.identity()
    counts = plots.histogram({"a": [1, 2, 2]}, np.arange(4) - 0.5)
    first, second, third = plots_of(
        style.to_bokeh(plots.grid([[panel, None], [counts, plots.density([1, 2], [1, 2])]]))
    )
    assert first.select_one(Whisker) is not None
    assert drawn(glyphs(second, Line)[0]).max() == 2
    assert len(glyphs(third, Image)) == 1


def test_live_loss_redraws_what_it_watches():
    now = [0.0]
    curve = plots.LiveLoss(x=[1, 2], watch=lambda: {"galaxy": [1, 2], "model": [curve.model(), now[0]]})
    curve.begin(lambda: 7.0)
    assert list(curve.example.data["model"]) == [7.0, 0.0]
    now[0] = 1.5
    curve(History(records=[{"epoch": 1, "train_loss": 3.0, "valid_loss": 4.0}]))
    assert list(curve.example.data["model"]) == [7.0, 1.5]
    assert curve.beside.title.text == "after epoch 1"


def test_what_is_watched_changes_no_training():
    def train(watching):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
        x = np.linspace(0, 1, 24, dtype=np.float32).reshape(12, 2)

        def draw():
            with torch.no_grad():
                return {"galaxy": x[0], "model": model(torch.rand(1, 2))[0].numpy()}

        calls = [plots.LiveLoss(x=[0, 1], watch=draw)] if watching else []
        options = {"loss": lambda m, b, _: {"loss": (m(b["x"]) - b["x"]).square().mean()}, "epochs": 3}
        fit(model, {"x": x}, {"x": x}, callbacks=calls, batch_size=4, progress=False, **options)
        return model[0].weight.detach().numpy()

    assert (train(True) == train(False)).all()
