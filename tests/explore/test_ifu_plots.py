"""What the figures of the narrow-band notebook draw is what they were given, counted by independent code."""

import numpy as np
import pytest
import xarray as xr
from astropy.stats import mad_std
from bokeh.models import Axis, Plot, Scatter

from spectool.explore import ifu_plots
from spectool.explore.ifu_checks_plots import (
    galaxy_residuals,
    plot_band_importance,
    plot_dependence,
    plot_error_curves,
    plot_training_size,
    plot_types,
)
from spectool.explore.ifu_result_plots import (
    bin_equally,
    plot_gradient_differences,
    plot_gradients_by_mass,
    plot_one_to_one,
)
from spectool.models.training import History
from spectool.surveys.jpas import CALIFA_BANDS

from .ifu_fakes import CENTRES, OFFSET, make_predictions, make_sample, rebuild

AGE, METAL = "log age (Gyr)", "log Z/Z☉"


@pytest.fixture(scope="module")
def sample():
    return make_sample()


@pytest.fixture(scope="module")
def predictions(sample):
    return make_predictions(sample)


def panels(layout):
    """Plots of a layout, in the order of their titles' drawing."""
    return [layout] if isinstance(layout, Plot) else list(layout.select({"type": Plot}))


def titled(layout, text):
    (plot,) = (p for p in panels(layout) if p.title and p.title.text and text in p.title.text)
    return plot


def columns(plot, glyph):
    """Data of the renderers of one kind of glyph."""
    return [dict(r.data_source.data) for r in plot.renderers if isinstance(r.glyph, glyph)]


def every_axis_is_named(layout, *, shared):
    """Each panel has names on its axes, or leaves them to the panels beside and below it."""
    axes = [axis for plot in panels(layout) for axis in plot.select({"type": Axis})]
    named = [axis for axis in axes if axis.axis_label]
    assert len(named) >= (2 if shared else len(axes))


def test_bands_are_drawn_at_their_wavelengths_on_the_spectrum(sample):
    spectra = rebuild(sample, 0)
    layout = ifu_plots.plot_bands(sample, {"one": (7, spectra.wavelength.values, spectra.flux.values[7])})
    (plot,) = panels(layout)
    every_axis_is_named(plot, shared=False)
    (dots,) = columns(plot, Scatter)
    np.testing.assert_allclose(dots["x"], CENTRES, atol=0.1)
    np.testing.assert_allclose(np.mean(dots["y"]), 1, rtol=1e-5)
    line = next(d for r in plot.renderers if "x" in (d := r.data_source.data) and len(d["x"]) > 1000)
    np.testing.assert_allclose(np.interp(CENTRES, line["x"], line["y"]), dots["y"], rtol=1e-3)


def test_masked_bands_are_not_drawn(sample):
    spectra, row = rebuild(sample, 1), int(np.flatnonzero(sample["galaxy_index"].values == 1)[0])
    layout = ifu_plots.plot_bands(sample, {"one": (row, spectra.wavelength.values, spectra.flux.values[0])})
    (dots,) = columns(panels(layout)[0], Scatter)
    assert len(dots["x"]) == CENTRES.size - 1
    assert np.abs(dots["x"] - CENTRES[3]).min() > 50


def test_every_spectrum_is_in_one_quarter(sample):
    fold = np.arange(sample.sizes["spectrum"]) % 4
    by_galaxy = sample["galaxy_index"].values % 4
    layout = ifu_plots.plot_split(sample, {"A": fold, "B": by_galaxy}, galaxies=[0, 2])
    index = sample["galaxy_index"].values
    for galaxy in (0, 2):
        drawn = columns(titled(layout, f"A: mock {galaxy}"), Scatter)
        assert [len(d["x"]) for d in drawn] == np.bincount(fold[index == galaxy]).tolist()
        drawn = columns(titled(layout, f"B: mock {galaxy}"), Scatter)
        assert [len(d["x"]) > 0 for d in drawn] == [k == galaxy for k in range(4)]
    every_axis_is_named(layout, shared=True)


def test_quarters_differ_in_colour_and_in_shape():
    assert all(len(set(look)) == 4 for look in zip(*ifu_plots.FOLDS, strict=True))


def test_learning_curves_begin_at_random_guesses():
    records = [{"epoch": k, "train_mse": 0.1 / k, "valid_mse": 0.12 / k} for k in range(1, 6)]
    history = History(records=records, best_epoch=5)
    layout = ifu_plots.plot_learning({"Set A": history, "Set B": history}, start=0.25)
    for plot in panels(layout):
        train, valid = (r.data_source.data for r in plot.renderers)
        assert train["x"][0] == 0
        assert train["y"][0] == valid["y"][0] == 0.25
        np.testing.assert_allclose(valid["y"][1:], [0.12 / k for k in range(1, 6)], rtol=1e-6)
        assert plot.y_range.end > 0.25


def test_profiles_name_the_gradient_that_was_put_in(sample, predictions):
    layout = ifu_plots.plot_profiles(sample, 0, predictions, sources=("truth", "Set B"))
    slopes = [plot.title.text for plot in panels(layout) if plot.title.text.startswith("truth")]
    assert sorted(slopes) == ["truth: −0.20 ± 0.00 dex/Re", "truth: −0.30 ± 0.00 dex/Re"]
    small = ifu_plots.plot_profiles(sample, 4, predictions)
    assert all("no gradient" in plot.title.text for plot in panels(small))


def test_one_to_one_states_scatter_and_offset(sample, predictions):
    label, predicted = sample["log_age"].values, predictions["Set B"]["log_age"].values
    layout = plot_one_to_one(
        {
            "A": (AGE, label, predictions["Set A"]["log_age"].values),
            "B": (AGE, label, np.where(np.arange(label.size) == 3, np.nan, predicted)),
        }
    )
    apart = np.delete(predicted - label, 3)
    plot = titled(layout, "B: ")
    assert f"σ = {mad_std(apart):.3f}" in plot.title.text
    assert f"{np.median(apart):+.3f}" in plot.title.text
    ranges = {(p.x_range.start, p.x_range.end, p.y_range.start, p.y_range.end) for p in panels(layout)}
    assert len(ranges) == 1, "sets are compared on one scale"
    every_axis_is_named(layout, shared=False)


def test_gradient_differences_count_every_galaxy(rng):
    metal, age = 0.1 * rng.normal(size=(2, 80))
    metal[5] = np.nan
    layout = plot_gradient_differences({"Set B": (metal, 0 * age + 0.02, age, 0 * age + 0.02)}, reach=0.6)
    top = titled(layout, "Set B (79)")
    assert f"σ(age) {mad_std(np.delete(age, 5)):.3f}" in top.title.text
    counts = columns(top, type(top.renderers[0].glyph))[0]
    assert sum(counts["top"]) == 79
    edges = np.append(counts["left"], counts["right"][-1])
    np.testing.assert_allclose(np.diff(edges), 0.05)


def test_bins_hold_equal_numbers_and_the_rest(rng):
    x, y = rng.permutation(25).astype(float), np.arange(25.0)
    centre, size, _ = bin_equally(x, y, 6, np.size, np.size)
    assert size.tolist() == [6, 6, 6, 7]
    np.testing.assert_array_equal(centre, [2.5, 8.5, 14.5, 21.0])
    assert [v.size for v in bin_equally(x[:4], y[:4], 6, np.mean, np.std)] == [1, 1, 1]
    assert [v.size for v in bin_equally(x[:0], y[:0], 6, np.mean, np.std)] == [0, 0, 0]


def test_gradients_by_mass_draw_types_apart(sample):
    slopes = np.array([-0.1, -0.2, np.nan, -0.4, -0.5])
    layout = plot_gradients_by_mass(sample, {"label": slopes, "Set A": slopes}, bins=(1, 1))
    early = sample["is_early"].values
    drawn = columns(panels(layout)[0], Scatter)
    np.testing.assert_array_equal(np.sort(drawn[0]["y"]), np.sort(slopes[early & np.isfinite(slopes)]))
    np.testing.assert_array_equal(np.sort(drawn[2]["y"]), np.sort(slopes[~early]))
    every_axis_is_named(layout, shared=True)


def test_residuals_of_galaxies_are_those_of_their_spectra(sample, predictions):
    residual = predictions["Set B"]["log_age"].values - sample["log_age"].values
    residual[:3] = np.nan
    median, scatter = galaxy_residuals(sample, residual)
    index = sample["galaxy_index"].values
    for galaxy in range(5):
        one = residual[index == galaxy]
        one = one[np.isfinite(one)]
        np.testing.assert_allclose([median[galaxy], scatter[galaxy]], [np.median(one), mad_std(one)])
    odd = np.arange(5) % 2 == 1
    assert abs(np.median(median[odd]) - OFFSET) < 0.05
    residual[index == 2] = np.nan
    assert np.isnan([values[2] for values in galaxy_residuals(sample, residual)]).all()


def test_dependence_draws_a_point_per_galaxy(sample, predictions):
    residuals = {k: p["log_age"].values - sample["log_age"].values for k, p in predictions.items()}
    x = sample["log_ssfr"].values
    layout = plot_dependence(sample, x, residuals, x_label="log sSFR (1/yr)", per_bin=2)
    assert len(panels(layout)) == 4
    for name, residual in residuals.items():
        for part, values in zip(("median", "scatter"), galaxy_residuals(sample, residual), strict=True):
            dots = columns(titled(layout, f"{name}, {part}"), Scatter)[0]
            np.testing.assert_allclose(dots["y"], values.astype("f4"))
            np.testing.assert_allclose(dots["x"], x.astype("f4"))


def test_a_table_of_types_is_written_out():
    values = np.array([[0.1, 0.16], [0.14, 0.15]])  # by training, then by application
    kinds = {"training": ["early", "late"], "application": ["early", "late"]}
    scores = xr.Dataset({"sigma": (("training", "application"), values)}, coords=kinds)
    layout = plot_types({"log age": scores, "log Z": 2 * scores}, full={"log age": 0.145})
    cells = titled(layout, "log age").renderers[0].data_source.data
    written = dict(zip(zip(cells["column"], cells["row"], strict=True), cells["text"], strict=True))
    assert written == {
        ("early", "early"): "0.10",
        ("early", "late"): "0.16",
        ("late", "early"): "0.14",
        ("late", "late"): "0.15",
        ("full set", "full set"): "0.14",
    }
    every_axis_is_named(layout, shared=False)


def test_training_sizes_are_means_over_repeats(rng):
    def curve(sizes):
        sigma = 0.1 + 0.02 * rng.random((len(sizes), 3))
        columns = {"sigma": (("size", "repeat"), sigma), "n_galaxies": ("size", 190 * np.array(sizes))}
        return xr.Dataset(columns, coords={"size": sizes})

    few, many = curve([0.05, 0.25, 0.75]), curve([0.75]).assign(n_galaxies=("size", [750.0]))
    plot = plot_training_size({"Set A": [few], "Set B": [few, many]}, by="n_galaxies", random=0.45)
    line = next(d for r in plot.renderers if len((d := r.data_source.data)["x"]) == 4)
    np.testing.assert_allclose(line["x"], [9.5, 47.5, 142.5, 750])
    np.testing.assert_allclose(line["y"], [*few["sigma"].mean("repeat"), *many["sigma"].mean("repeat")])
    assert plot.y_range.start == 0
    assert plot.y_range.end > 0.45
    every_axis_is_named(plot, shared=False)


def test_error_curves_draw_scatter_error_and_coverage():
    def curve(values):
        return ("n_missing", "property"), np.stack([values, values], axis=1)

    columns = {"sigma": [0.1, 0.2, 5.0], "error": [0.1, 0.3, 0.4], "coverage": [0.68, 0.7, 0.6]}
    scores = xr.Dataset(
        {name: curve(values) for name, values in columns.items()},
        coords={"n_missing": [0, 5, 20], "property": ["log_age", "log_z"]},
    )
    blind = scores.assign({name: scores[name] * np.nan for name in ("error", "coverage")})
    both = {"ensemble": scores, "without errors": blind}
    layout = plot_error_curves(both, dim="n_missing", x_label="bands missing")
    assert len(panels(layout)) == 3
    age = titled(layout, "log age")
    assert {tuple(d["y"]) for d in (r.data_source.data for r in age.renderers)} == {
        (0.1, 0.2, 5.0),
        (0.1, 0.3, 0.4),
    }
    assert age.y_range.end < 1, "what errs by many dex must not flatten the rest"
    assert len(titled(layout, "coverage").renderers) == 2
    every_axis_is_named(layout, shared=False)


def test_importance_stands_beside_its_band():
    value = np.linspace(0, 0.03, CENTRES.size)
    both = ("band", "property"), np.stack([value, value[::-1]], axis=1)
    coords = {"band": list(CALIFA_BANDS), "property": ["log_age", "log_z"]}
    plot = plot_band_importance(xr.Dataset({"importance": both, "importance_error": both}, coords=coords))
    bars = [d for r in plot.renderers if "top" in (d := r.data_source.data)]
    middle = 0.5 * (np.asarray(bars[0]["x"]) + np.asarray(bars[1]["x"]))
    np.testing.assert_allclose(middle, CENTRES)
    np.testing.assert_array_equal(bars[1]["top"], value[::-1])
