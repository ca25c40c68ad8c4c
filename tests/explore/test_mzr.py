"""The mass-metallicity dashboard on samples that were made backwards from its answers."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import binned_statistic_2d

from spectool.explore import mzr
from spectool.explore.mzr import (
    NONE,
    PREDICTED,
    TRUTH,
    MzrState,
    MzrView,
    check_sample,
    measure_gas,
    measure_stars,
    paint_cells,
)
from spectool.measure.mzr import RELATIONS, STELLAR_RELATIONS
from spectool.spectra import LINES, extinction_curve

MEASURED = ("Hβ", "[O III] 5007", "Hα", "[N II] 6583")
SOURCES = {"original": 0.0, "DESI-like": 0.15, "de-noised": 0.02}  # noise over the median Hα
OXYGEN_SUN = 8.91
MAIN, NULL = "SDSS main sample", "null: SDSS main sample"


def make_gas(n=400, *, seed=0):
    """Star-forming galaxies in three versions; ratios of lines are those that PP04's O3N2 and N2 turn into O/H."""
    rng = np.random.default_rng(seed)
    mass, excess = rng.uniform(8.6, 11.2, n), rng.normal(0, 0.3, n)
    oxygen = 8.35 + 0.13 * (mass - 9) - 0.25 * excess + rng.normal(0, 0.03, n)
    h_beta = 10 ** (0.35 * rng.normal(size=n) - 0.3 * (mass - 10) ** 2)
    n2 = 10 ** ((oxygen - 8.90) / 0.57)
    o3 = 10 ** ((8.73 - oxygen) / 0.32) * n2
    true = h_beta[:, None] * np.stack([np.ones(n), o3, np.full(n, 2.86), 2.86 * n2], axis=1)
    columns = {
        "log_mass": mass,
        "log_sfr": mass - 10 + excess,
        "log_z_gas": oxygen - OXYGEN_SUN,
        "candidate": 1000 + rng.permutation(n),
        "spectral_class": np.full(n, "emission line galaxy"),
    }
    coords = {"line": list(MEASURED), "line_wavelength": ("line", [LINES[name] for name in MEASURED])}
    sample = xr.Dataset({name: ("galaxy", values) for name, values in columns.items()}, coords=coords)
    sample["log_z_gas"].attrs["oxygen_sun"] = OXYGEN_SUN
    samples = {}
    for name, noise in SOURCES.items():
        sigma = max(noise, 0.004) * np.median(true[:, 2])
        flux = true + (noise > 0) * sigma * rng.normal(size=true.shape)
        lines = {"line_flux": flux, "line_flux_error": np.full(true.shape, sigma)}
        lines = {key: (("galaxy", "line"), values) for key, values in lines.items()}
        samples[name] = sample.assign(lines).assign_attrs(family="gas")
    return samples


def make_stars(n=3000, *, seed=0, trend=-0.3):
    """A network that errs as it says, but for a twentieth that it flags."""
    rng = np.random.default_rng(seed)
    mass, excess = rng.uniform(8.5, 11.0, n), rng.normal(0, 0.3, n)
    truth = STELLAR_RELATIONS["Zahid et al. 2017"].curve(mass) + trend * excess + rng.normal(0, 0.05, n)
    sn, outlier = 10 ** rng.normal(1.1, 0.25, n), rng.random(n) < 0.05
    error = 0.03 + 1.5 / sn
    columns = {
        "candidate": 10_000 + rng.permutation(n),
        "log_mass": mass,
        "log_sfr": 0.8 * (mass - 10) + excess,
        "log_z_lw": truth,
        "log_age_lw": rng.normal(0, 0.3, n),
        "log_z_predicted": truth + error * rng.normal(size=n) + 2 * outlier,
        "log_z_error": error,
        "sn": sn,
        "outlier": outlier,
    }
    sample = xr.Dataset({name: ("galaxy", values) for name, values in columns.items()})
    return sample.assign_attrs(family=f"stars {seed}")


def make_samples():
    return make_gas() | {MAIN: make_stars(), NULL: make_stars(seed=1, trend=0.0)}


def rebuild(candidate):
    """Spectra with one bump whose height is the candidate's number; the second is noisy."""
    wavelength = np.geomspace(3700.0, 7900.0, 825)
    bump = candidate * np.exp(-0.5 * ((wavelength - LINES["Hα"]) / 8) ** 2)
    noise = np.random.default_rng(1).normal(size=825)
    flux = np.stack([bump + 0.2 * noise, bump + noise, bump]).astype(np.float32)
    return xr.Dataset(
        {"flux": (("source", "wavelength"), flux)}, {"source": list(SOURCES), "wavelength": wavelength}
    )


def make_view(folder):
    state = MzrState(make_samples(), rebuild={"gas": rebuild}, start=lambda function: function())
    return MzrView(state, export_folder=folder)


@pytest.fixture(scope="module")
def samples():
    return make_samples()


@pytest.fixture
def state(samples):
    return MzrState(samples, rebuild={"gas": rebuild}, start=lambda function: function())


@pytest.fixture
def view(state, tmp_path):
    return MzrView(state, export_folder=tmp_path)


# ---- what is measured


@pytest.mark.parametrize("scale", ["PP04 O3N2", "PP04 N2 linear", TRUTH])
def test_metallicities_are_those_that_the_lines_were_made_for(samples, scale):
    value = measure_gas(check_sample("", samples["original"]), scale)["value"].to_numpy()
    inside = np.isfinite(value)
    assert inside.mean() > 0.7
    truth = samples["original"]["log_z_gas"].values + OXYGEN_SUN
    np.testing.assert_allclose(value[inside], truth[inside], atol=2e-4)


def test_another_sun_is_taken_into_account(samples):
    ours = check_sample("", samples[MAIN])
    theirs = ours.copy()
    theirs["log_z_predicted"] = theirs["log_z_predicted"].assign_attrs(z_sun=0.0142)
    shift = measure_stars(theirs, PREDICTED)["value"] - measure_stars(ours, PREDICTED)["value"]
    np.testing.assert_allclose(shift[~samples[MAIN]["outlier"].values], np.log10(0.0142 / 0.02), atol=1e-12)


def test_a_sample_of_little_is_shown_as_far_as_it_goes():
    own = xr.Dataset({"log_mass": ("galaxy", np.linspace(9, 11, 60)), "oxygen": ("galaxy", np.full(60, 8.5))})
    state = MzrState({"own": own})
    assert (state.right, len(state.panels[0])) == (NONE, 60)
    for _, color in state.options("color"):
        state.set(color=color)
    assert np.isnan(state.correlate()[0][0].rho)
    state.set(calibration=TRUTH)
    assert len(state.panels[0]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop_vars("log_mass"), "no column 'log_mass'"),
        (lambda s: s.drop_vars("line_flux"), "no column 'line_flux' .nor metallicities"),
        (lambda s: s.isel(galaxy=slice(0, 0)), "holds no galaxy"),
        (lambda s: s.sel(line=["Hβ"]), "no line 'Hα'"),
        (lambda s: s.assign(log_sfr=s["line_flux"]), "'log_sfr' of the sample 'mine' is"),
    ],
)
def test_a_sample_that_lacks_something_is_refused_by_name(samples, change, message):
    with pytest.raises(ValueError, match=message) as error:
        check_sample("mine", change(samples["original"]))
    assert "'mine'" in str(error.value)


# ---- the state


def test_a_panel_holds_who_passes_the_cut_and_has_a_metallicity(state, samples):
    for cut in (15, 20):
        state.set(min_sn=cut)
        for name, panel, bins in zip(("original", "DESI-like"), state.panels, state.bins, strict=True):
            table = measure_gas(state.samples[name], "PP04 O3N2")
            rows = np.flatnonzero(np.isfinite(table["value"]) & (table["sn"] > cut))
            np.testing.assert_array_equal(panel.index, rows)
            np.testing.assert_allclose(panel["value"], table["value"][rows], rtol=1e-6)
            assert bins["count"].sum() == rows.size


def test_median_scatter_and_trends_are_those_that_were_put_in(state):
    bins = state.bins[0]
    pull = (bins["median"] - (8.35 + 0.13 * (bins["x"] - 9))) / bins["median_error"]
    assert np.isfinite(pull).sum() >= 10 and np.nanmax(np.abs(pull)) < 5
    (first, second), agreement = state.correlate()
    assert first.rho < -0.8 and second.rho < -3 * second.error and agreement.rho > 0.5
    state.set(right="original")
    assert state.correlate()[1] is None
    state.set(quantity="stars")
    (first, second), agreement = state.correlate()
    assert first.rho < -0.3 and abs(second.rho) < 3 * second.error and agreement is None


def test_colours_are_what_they_say(state, samples):
    state.set(quantity="stars")
    sample, rows = samples[MAIN], state.panels[0].index
    known = {
        "S/N": "sn",
        "truth": "log_z_lw",
        "error": "log_z_error",
        "log SFR": "log_sfr",
        "age": "log_age_lw",
    }
    for color, column in known.items():
        state.set(color=color)
        np.testing.assert_allclose(
            state.panels[0]["color"], sample[column].values[rows], rtol=1e-5, atol=1e-6
        )
    state.set(color="excess")
    excess = sample["log_sfr"].values - 0.8 * (sample["log_mass"].values - 10)
    assert np.nanstd(state.panels[0]["color"] - excess[rows]) < 0.05
    before = state.color_range
    state.set(min_sn=20)
    assert state.color_range == before


def test_dust_that_was_put_in_is_taken_out(samples):
    dusty = samples["original"].copy(deep=True)
    curve = extinction_curve(dusty["line_wavelength"].values, law="CCM89")
    dusty["line_flux"] = dusty["line_flux"] * xr.DataArray(10 ** (-0.4 * 0.4 * curve), dims="line")
    state = MzrState({"dusty": dusty, "clean": samples["original"]})
    state.set(min_sn=0, dust_corrected=True)
    values = [table["value"] for table in state.tables]
    assert np.isfinite(values[0]).sum() > 350
    np.testing.assert_allclose(values[0].dropna(), values[1][values[0].notna()], atol=1e-3)


def test_a_quantity_comes_back_as_it_was_left_with_its_galaxy(state):
    state.select("original", 7)
    state.set(left="de-noised")
    galaxy = state.selected
    state.set(quantity="stars")
    assert (state.left, state.right, state.calibration, state.min_sn) == (MAIN, NULL, PREDICTED, 0.0)
    assert state.locate(MAIN) is not None
    state.set(left="DESI-like")  # a sample brings its quantity
    assert (state.quantity, state.left, state.selected) == ("gas", "DESI-like", galaxy)
    state.set(quantity="stars", right=NONE, relations=())
    state.set(quantity="gas")
    state.set(quantity="stars")
    assert (state.right, state.relations) == (NONE, ())
    state.reset()
    state.set(quantity="stars")
    assert state.right == NULL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": "original", "right": NULL}, "cannot be"),
        ({"min_sn": float("nan")}, "min_sn cannot be nan"),
        ({"selected": ["gas", -5]}, "no galaxy -5 of 'gas' in original or DESI-like"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(state, changes, message):
    before = state.panels
    with pytest.raises(ValueError, match=message):
        state.set(overlaid=True, **changes)
    assert state.panels is before and not state.overlaid


def test_an_ordinary_galaxy_is_looked_at_first_and_others_by_number_or_in_order_of_mass(state, samples):
    mass = samples["original"]["log_mass"].values
    assert abs(mass[state.locate("original")] - np.median(mass)) < 0.5
    rows = [state.locate("original")]
    for _ in range(5):
        state.step(1)
        rows.append(state.locate("original"))
    assert (np.diff(mass[rows]) > 0).all() and set(rows[1:]) <= set(state.panels[0].index)
    state.step(-1)
    assert state.locate("original") == rows[-2]
    state.choose(1000)
    assert state.selected == ("gas", 1000)
    assert float(state.spectrum["flux"].max()) == pytest.approx(1000, rel=0.01)
    with pytest.raises(ValueError, match="no galaxy 7"):
        state.choose(7)


def test_the_table_holds_every_galaxy_and_says_whose_metals(state, samples, tmp_path):
    state.set(quantity="stars", min_sn=5)
    state.save_csv(tmp_path / "galaxies.csv")
    table = pd.read_csv(tmp_path / "galaxies.csv", comment="#")
    main = table[table["sample"] == MAIN]
    np.testing.assert_allclose(main["true_log_z_star"], samples[MAIN]["log_z_lw"], rtol=1e-4, atol=1e-5)
    assert main["log_z_star"].isna().sum() == samples[MAIN]["outlier"].sum()
    assert main["measured"].sum() == len(state.panels[0])
    assert "log Z* / Z☉ by network's prediction; measured: S/N per Å above 5" in state.about()[0]


# ---- the view


def test_a_move_sends_one_patch(view, monkeypatch):
    patches = []
    monkeypatch.setattr(view.figure, "_send_patch", patches.append)
    view.controls["min_sn"].value = 18.0
    assert len(patches) == 1


def test_two_samples_share_a_panel_when_they_are_laid_over_each_other(view, state):
    assert view.figures[1].visible
    state.set(overlaid=True)
    assert not view.figures[1].visible and all(
        glyph.visible for layer in view._laid_over for glyph in layer.glyphs
    )
    assert view.figures[0].title.text == "original and DESI-like"
    state.set(right=NONE)
    assert not view.figures[1].visible and view.controls["overlaid"].disabled
    assert not any(glyph.visible for layer in view._laid_over for glyph in layer.glyphs)


def test_a_click_rings_the_galaxy_and_lists_it_on_every_scale(view, state):
    panel = state.panels[0]
    view.pick(0, float(panel["log_mass"][7]), float(panel["value"][7]))
    assert state.locate("original") == panel.index[7]
    assert list(view.layers[0].mark.data["x"]) == [panel["log_mass"][7]]
    assert all(scale in view.tables.value for scale in state.choices("calibration"))
    assert [item.label.value for item in view.legend.items] == ["DESI-like", "original", "de-noised"]
    assert np.nanmax(view.source.data["flux2"]) == pytest.approx(state.selected[1], rel=0.01)
    selected = state.selected
    view.pick(0, 8.0, 9.9)
    assert state.selected == selected


def test_the_table_compares_with_the_chosen_relation_and_correlations_come_late(view, state):
    for reference in ("Scholte et al. 2024", "Kewley & Ellison 2008"):
        state.set(reference=reference)
        panel = state.panels[0]
        residual = panel["value"] - RELATIONS[reference](panel["log_mass"])
        words = f"{residual.std():.3f} ±", f"{residual.median():+.3f}".replace("-", "−")
        assert all(word in view.tables.value for word in words)
    state.set(min_sn=16)
    assert "…" in view.tables.value
    view.show_correlations()
    assert "…" not in view.tables.value and "agreement" in view.tables.value


def test_many_galaxies_are_an_image_that_is_remade_on_zoom(view, state, monkeypatch):
    monkeypatch.setattr(mzr, "MAX_POINTS", 100)
    state.set(min_sn=14)
    layer, panel = view.layers[0], state.panels[0]
    image = layer.image.data["image"][0]
    assert len(layer.points.data["x"]) == 0
    assert set(image[np.isfinite(image)]) <= set(panel["color"].values)
    view.x_range.update(start=9.5, end=10.0)
    assert (layer.image.data["x"], layer.image.data["dw"]) == ([9.5], [0.5])


def test_cells_count_every_point_once_and_show_the_median():
    rng, window = np.random.default_rng(4), (9.0, 11.0, 8.0, 9.0)
    x, y, values = rng.normal(10, 0.6, 30_001), rng.normal(8.5, 0.3, 30_001), rng.normal(size=30_001)
    values[29_000:] = np.nan
    edges = [np.linspace(*window[k : k + 2], n + 1) for k, n in zip((0, 2), mzr.N_CELLS, strict=True)]
    expected = np.histogram2d(x, y, bins=edges)[0].T
    np.testing.assert_allclose(np.nan_to_num(10 ** paint_cells(x, y, window)), expected, rtol=1e-5)

    def lower_median(cell):
        return np.sort(cell)[(len(cell) - 1) // 2]

    known = np.isfinite(values)
    expected = binned_statistic_2d(x[known], y[known], values[known], lower_median, bins=edges)[0].T
    np.testing.assert_allclose(paint_cells(x, y, window, values), expected, rtol=1e-6)
