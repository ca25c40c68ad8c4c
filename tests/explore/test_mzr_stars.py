"""The metals of stars on the dashboard's axis: what the table holds is what is shown."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

from spectool.explore import mzr_data, mzr_view
from spectool.explore.mzr_choices import NONE
from spectool.explore.mzr_data import check_sample
from spectool.explore.mzr_quantities import PREDICTED, TRUTH, measure_stars
from spectool.explore.mzr_state import MzrState
from spectool.explore.mzr_tables import galaxy_table
from spectool.explore.mzr_zahid import NOISELESS, OBSERVED, read_zahid2019, rebuild_zahid2019
from spectool.measure.mzr import STELLAR_RELATIONS
from spectool.papers.candidates import BLOCK
from spectool.papers.zahid2019.sample import rebuild

from .mzr_fakes import make_samples, make_stellar_product, make_stellar_samples

MAIN, NULL = "SDSS main sample", "null: SDSS main sample"


@pytest.fixture(scope="module")
def samples():
    return make_samples() | make_stellar_samples(3000)


@pytest.fixture
def state(samples):
    state = MzrState(samples)
    state.set(quantity="stars")
    return state


# ---- the sample


def write(product, path):
    """As the tool writes it: small integers, compressed."""
    packed = {"zlib": True, "dtype": "i2", "scale_factor": 0.001, "_FillValue": -32768}
    encoding = dict.fromkeys(("log_mass", "log_z_predicted", "log_z_error", "log_z_lw"), packed)
    product.assign(outlier=product["outlier"].astype("i1")).to_netcdf(
        path, engine="h5netcdf", encoding=encoding
    )
    return path


@pytest.mark.parametrize(("sample", "name"), [("galaxies", MAIN), ("null", NULL)])
def test_a_product_is_read_as_it_was_written(sample, name, tmp_path):
    product = make_stellar_product(300)
    read = read_zahid2019(sample, path=write(product, tmp_path / "table.nc"))
    assert list(read) == [name]
    for column in ("log_mass", "log_z_predicted", "log_z_error", "log_z_lw", "log_sfr", "sn"):
        np.testing.assert_allclose(read[name][column], product[column], atol=6e-4)
    np.testing.assert_array_equal(read[name]["candidate"], product["candidate"])


def test_a_missing_or_foreign_product_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.nc .*python -m tools\.make\.zahid2019_tables null"
    ):
        read_zahid2019("null", path=tmp_path / "nothing.nc")
    make_stellar_product(9).drop_vars(["candidate", "log_z_predicted"]).to_netcdf(
        tmp_path / "other.nc", engine="h5netcdf"
    )
    with pytest.raises(ValueError, match=r"other\.nc .* no candidate, log_z_predicted"):
        read_zahid2019(path=tmp_path / "other.nc")


def test_without_the_product_the_dashboard_opens_on_the_others_and_says_so(samples, tmp_path, monkeypatch):
    gas = {name: sample for name, sample in samples.items() if "line_flux" in sample}
    nowhere = partial(read_zahid2019, path=tmp_path / "zahid2019_galaxies.nc")
    monkeypatch.setattr(mzr_data, "READERS", {"here": lambda: gas, "not here": nowhere})
    view = mzr_view.open_mzr_dashboard(["here", "not here"])
    assert view.state.sample_names == tuple(gas)
    assert view.state.choices("quantity") == ["gas"]
    assert view.controls.quantity.layout.display == "none"
    assert "zahid2019_galaxies.nc is not in" in view.message.value
    with pytest.raises(FileNotFoundError, match="zahid2019_galaxies"):
        mzr_view.open_mzr_dashboard(["not here"])


@pytest.mark.parametrize("sample", ["galaxies", "null"])
def test_a_galaxy_is_rebuilt_as_it_was_observed(sample):
    number = 3 * BLOCK + 17
    galaxy = rebuild([number], null=sample == "null").isel(galaxy=0)
    spectrum = rebuild_zahid2019(number, sample)["flux"]
    good = ~galaxy["mask"].values
    for source, column in ((OBSERVED, "flux"), (NOISELESS, "truth")):
        expected = galaxy[column].values / float(galaxy["norm"])
        np.testing.assert_allclose(
            spectrum.sel(source=source).values[good], expected[good], rtol=1e-5, atol=1e-6
        )
    assert np.isnan(spectrum.sel(source=OBSERVED).values[~good]).all()
    window = spectrum.sel(source=OBSERVED, wavelength=slice(4400, 4450))
    assert float(window.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop_vars("log_z_predicted"), "nor metallicities, 'oxygen' or 'log_z_predicted'"),
        (lambda s: s.drop_vars("log_mass"), "no column 'log_mass'"),
        (lambda s: s.assign(sn=(("galaxy", "chunk"), np.ones((3000, 2)))), "'sn' .* dimensions"),
    ],
)
def test_a_sample_that_lacks_something_is_refused_by_name(samples, change, message):
    with pytest.raises(ValueError, match=message) as error:
        check_sample("mine", change(samples[MAIN]))
    assert "'mine'" in str(error.value)


def test_another_sun_is_taken_into_account(samples):
    theirs = samples[MAIN].copy()
    theirs["log_z_predicted"] = theirs["log_z_predicted"].assign_attrs(z_sun=0.0142)
    shift = measure_stars(theirs, PREDICTED).value - measure_stars(samples[MAIN], PREDICTED).value
    np.testing.assert_allclose(shift[~samples[MAIN]["outlier"].values], np.log10(0.0142 / 0.02), atol=1e-12)
    np.testing.assert_array_equal(measure_stars(theirs, TRUTH).value, samples[MAIN]["log_z_lw"])


def test_a_sample_of_little_is_shown_as_far_as_it_goes():
    own = {
        "log_mass": ("galaxy", np.linspace(9, 11, 60)),
        "log_z_predicted": ("galaxy", np.linspace(-0.6, 0, 60)),
    }
    state = MzrState({"own": xr.Dataset(own)})
    assert (state.quantity, state.right) == ("stars", NONE)
    assert state.panels[0].mass.size == 60
    for color in state.choices("color"):
        state.set(color=color)
    state.set(calibration=TRUTH)
    assert state.panels[0].mass.size == 0


# ---- the state


def test_the_network_s_word_counts_unless_it_is_flagged_or_too_noisy(state, samples):
    state.set(min_sn=10)
    for panel in state.panels:
        sample = samples[panel.name]
        kept = np.flatnonzero(~sample["outlier"].values & (sample["sn"].values > 10))
        np.testing.assert_array_equal(panel.index, kept)
        np.testing.assert_allclose(panel.metallicity, sample["log_z_predicted"][kept], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(panel.error, sample["log_z_error"][kept], rtol=1e-6)
        assert panel.n_faint == np.sum(sample["sn"].values <= 10)


def test_the_truth_is_known_of_flagged_galaxies_too(state, samples):
    state.set(calibration=TRUTH)
    np.testing.assert_allclose(state.panels[0].metallicity, samples[MAIN]["log_z_lw"], rtol=1e-5, atol=1e-6)
    assert state.panels[0].scatter[0] == pytest.approx(np.hypot(0.3 * 0.3, 0.05), rel=0.06)


def test_the_trend_is_found_where_it_was_put_in_and_not_where_it_was_not(state):
    trends, agreement = state.correlate()
    assert trends[0].rho < -0.3
    assert abs(trends[1].rho) < 3 * trends[1].error
    assert agreement is None


def test_each_quantity_has_its_own_samples_scales_and_relations(state):
    assert (state.left, state.right) == (MAIN, NULL)
    assert state.choices("left") == [MAIN, NULL]
    assert state.choices("calibration") == [PREDICTED, TRUTH]
    assert state.choices("reference") == list(STELLAR_RELATIONS)
    assert state.relations == ("Zahid et al. 2017",)
    assert (state.min_sn, state.color) == (0.0, "log SFR")
    state.set(quantity="gas")
    assert MAIN not in state.choices("left")
    assert (state.left, state.calibration, state.min_sn) == ("original", "PP04 O3N2", 15.0)


def test_a_quantity_is_found_as_it_was_left(state):
    state.set(left=NULL, right=NONE, min_sn=7, relations=())
    state.set(quantity="gas", left="de-noised")
    state.set(quantity="stars")
    assert (state.left, state.right, state.min_sn, state.relations) == (NULL, NONE, 7.0, ())
    state.set(quantity="gas")
    assert state.left == "de-noised"
    state.reset()
    state.set(quantity="stars")
    assert (state.left, state.right, state.min_sn) == (MAIN, NULL, 0.0)


def test_a_sample_brings_the_quantity_that_it_has(state):
    state.set(left="DESI-like")
    assert (state.quantity, state.left, state.right) == ("gas", "DESI-like", "DESI-like")
    state.set(right=NULL)
    assert (state.quantity, state.left, state.right) == ("stars", MAIN, NULL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"left": "original", "right": NULL},
            "right cannot be 'null: SDSS main sample'; there are: none, original",
        ),
        ({"calibration": "PP04 N2"}, "calibration cannot be 'PP04 N2'; there are: network's prediction"),
        ({"quantity": "dust"}, "quantity cannot be 'dust'; there are: gas, stars"),
        ({"color": "class"}, "color cannot be 'class'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(state, changes, message):
    before = state.panels
    with pytest.raises(ValueError, match=message):
        state.set(**changes)
    assert state.panels is before
    assert (state.quantity, state.left) == ("stars", MAIN)


def test_colours_are_what_they_say(state, samples):
    sample, index = samples[MAIN], state.panels[0].index
    expected = {
        "S/N": sample["sn"],
        "truth": sample["log_z_lw"],
        "error": sample["log_z_error"],
        "log SFR": sample["log_sfr"],
        "age": sample["log_age_lw"],
    }
    for color, column in expected.items():
        state.set(color=color)
        np.testing.assert_allclose(state.panels[0].color, column.values[index], rtol=1e-5, atol=1e-6)
    state.set(color="excess")
    excess = sample["log_sfr"].values - 0.8 * (sample["log_mass"].values - 10)
    assert np.nanstd(state.panels[0].color - excess[index]) < 0.05


def test_a_galaxy_is_forgotten_when_its_samples_leave(state):
    state.select(MAIN, 5)
    assert "network" in galaxy_table(state) and "S/N" in galaxy_table(state)
    state.set(quantity="gas")
    assert state.selected == ()
    assert galaxy_table(state) == ""
