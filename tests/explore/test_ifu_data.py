"""Cells, ellipses, sources, gradients and photometry that the galaxy-map dashboard draws."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from spectool.explore import ifu_data as data
from spectool.explore.ifu_gradients import fit_galaxy
from spectool.measure.gradients import deproject

from .ifu_fakes import CENTRES, SLOPES, make_predictions, make_sample, rebuild


@pytest.fixture(scope="module")
def sample():
    return make_sample()


def test_a_cell_holds_what_is_nearer_to_its_spectrum_than_to_any_other(rng):
    x, y = rng.normal(size=(2, 80))
    outlines = [Outline(outline.T) for outline in data.cell_outlines(x, y)]
    assert all(outlines[k].contains_point((x[k], y[k])) for k in range(80))
    probes = 0.5 * rng.normal(size=(300, 2))
    nearest = np.argmin(np.hypot(probes[:, :1] - x, probes[:, 1:] - y), axis=1)
    holds = [outlines[k].contains_point(probe) for k, probe in zip(nearest, probes, strict=True)]
    assert np.mean(holds) > 0.99  # a probe beyond the outermost spectra may lie outside the map


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]),
        ([1.0], [1.0]),
        ([0, 0, 1, 2], [0, 0, 1, 0]),
    ],
    ids=["two", "on a line", "one", "repeated"],
)
def test_few_or_repeated_positions_still_have_cells(x, y):
    outlines = data.cell_outlines(x, y)
    assert len(outlines) == len(x)
    for outline in outlines:
        assert outline.shape[1] > 2
        assert np.ptp(outline, axis=1).min() > 0


def test_spaxels_of_a_cube_get_their_squares():
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(6), np.arange(5)))
    inner = (x > 0) & (x < 5) & (y > 0) & (y < 4)
    for k in np.flatnonzero(inner):
        corners = data.cell_outlines(x, y)[k]
        np.testing.assert_allclose(np.ptp(corners, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(corners.mean(axis=1), [x[k], y[k]], atol=0.3)


def test_the_ellipse_lies_at_one_effective_radius(rng):
    x, y = 15 * rng.normal(size=(2, 60))
    disc = {"position_angle": 35.0, "inclination": 62.0, "re": 11.0}
    ellipse = data.radius_ellipse(x, y, deproject(x, y, **disc))
    np.testing.assert_allclose(deproject(*ellipse, **disc), 1, rtol=1e-6)
    assert data.radius_ellipse(x[:2], y[:2], np.ones(2))[0].size == 0
    assert data.radius_ellipse(x, y, np.full(60, np.nan))[0].size == 0


def test_sources_are_the_labels_and_the_predictions(sample):
    sources = data.read_sources(sample, make_predictions(sample))
    assert list(sources) == ["truth", "fitted", "Set A", "Set B"]
    assert [source.predicted for source in sources.values()] == [False, False, True, True]
    assert sources["truth"].errors == {}
    np.testing.assert_array_equal(sources["fitted"].values["log_z"], sample["log_z_fit"])
    assert list(data.read_sources(sample.drop_vars("log_z_fit"), {})) == ["truth"]


def test_what_does_not_fit_is_named(sample):
    n = sample.sizes["spectrum"]
    with pytest.raises(ValueError, match="sample lacks radius"):
        data.read_sources(sample.drop_vars("radius"), {})
    with pytest.raises(ValueError, match="Set A lacks log_z"):
        data.read_sources(sample, {"Set A": {"log_age": np.zeros(n)}})
    with pytest.raises(ValueError, match=f"Set A has shape.*{n} spectra"):
        data.read_sources(sample, {"Set A": {"log_age": np.zeros(3), "log_z": np.zeros(3)}})
    with pytest.raises(ValueError, match="'truth'"):
        data.read_sources(sample, {"truth": {"log_age": np.zeros(n), "log_z": np.zeros(n)}})


def test_gradients_are_those_put_in_and_bands_hold_their_errors(sample):
    rows = np.flatnonzero(sample["galaxy_index"].values == 0)
    one, columns = data.galaxy_sample(sample, rows, data.read_sources(sample, make_predictions(sample)))
    fits = fit_galaxy(one, columns)
    for quantity, slope in SLOPES.items():
        assert fits[data.column_name("truth", quantity)].slope == pytest.approx(slope, abs=1e-9)
        noisy = fits[data.column_name("Set B", quantity)]
        assert abs(noisy.slope - slope) < 4 * noisy.error
        low, mean, high = noisy.line([0.0, 0.5, 1.0])
        assert mean[0] == pytest.approx(noisy.central)
        np.testing.assert_allclose(np.diff(mean), noisy.slope / 2)
        np.testing.assert_allclose(high - mean, mean - low)
        assert (high - mean)[1] < (high - mean)[[0, 2]].min(), "a line is best known between its points"


def test_a_source_without_values_leaves_the_others_their_gradients(sample):
    n = sample.sizes["spectrum"]
    sources = data.read_sources(sample, {"none": dict.fromkeys(("log_age", "log_z"), np.full(n, np.nan))})
    rows = np.flatnonzero(sample["galaxy_index"].values == 0)
    fits = fit_galaxy(*data.galaxy_sample(sample, rows, sources))
    assert fits["truth|log_age"].known
    assert not fits["none|log_age"].known
    assert fits["none|log_age"].reason == "only 0 spectra inside 1 Re"
    assert fits["none|log_age"].text() == "no gradient"


def test_bands_are_relative_to_their_mean_and_masked_ones_missing(sample):
    row = int(np.flatnonzero(sample["galaxy_index"].values == 1)[0])
    flux, error = data.bands_of(sample, row)
    assert np.flatnonzero(~np.isfinite(flux)).tolist() == [3]
    assert np.nanmean(flux) == pytest.approx(1)
    np.testing.assert_allclose(np.delete(error / flux, 3), 0.02)
    bare = sample.drop_vars(["flux_error", "mask"])
    assert np.isfinite(data.bands_of(bare, row)[0]).all()
    assert not data.bands_of(bare, row)[1].any()


def test_a_spectrum_meets_its_bands_whatever_its_units(sample):
    spectra = rebuild(sample, 0)
    bands, _ = data.bands_of(sample, 0)
    for scale in (1.0, 1e-17):
        f_nu = data.to_f_nu(spectra.wavelength.values, scale * spectra.flux.values[0], CENTRES, bands)
        np.testing.assert_allclose(np.interp(CENTRES, spectra.wavelength, f_nu), bands, rtol=1e-3)
    nothing = data.to_f_nu(spectra.wavelength.values, spectra.flux.values[0], CENTRES, bands * np.nan)
    assert np.isnan(nothing).all()


def test_centres_and_widths_are_the_surveys(sample):
    wavelength, width = data.band_wavelengths(sample)
    np.testing.assert_array_equal(wavelength, CENTRES)
    assert ((width > 130) & (width < 170)).all()


def test_a_menu_says_what_a_galaxy_is(sample):
    text = data.describe_galaxy(sample, 0, 140)
    assert text.startswith("mock 0 · early · log M* ")
    assert text.endswith("140 spectra")
    bare = sample.drop_vars(["galaxy_name", "is_early", "log_mass", "inclination"])
    assert data.describe_galaxy(bare, 2, 1) == "galaxy 2 · 1 spectra"
