"""The networks that come with spectool: as good as the paper's, errors that hold two thirds, wrong units flagged."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.bands import FACILITY_BANDS, read_inputs
from spectool.papers.surana2020 import network as paper
from spectool.papers.surana2020.sample import read_surana2020, select_taught

NAMES = dict(zip(paper.UNITS, ("mass", "sfr", "dust"), strict=True))


@pytest.fixture(scope="module")
def unseen():
    """Of the 20% that no network was trained or calibrated with."""
    sample, _ = select_taught(read_surana2020(progress=False))
    return sample.isel(galaxy=paper.split_galaxies(sample.sizes["galaxy"])["test"])


@pytest.fixture(scope="module")
def few(unseen):
    return unseen.isel(galaxy=slice(0, 2000))


@pytest.fixture(scope="module")
def ensemble():
    return paper.load_networks()


def test_the_papers_networks_reach_table_3(unseen):
    for name, short in NAMES.items():
        model, info = store.load_model(f"surana2020_{short}", expected="SedMLP")
        assert model.config["hidden"] == list(paper.RECIPES[name].hidden)
        mean, _ = model.predict(model.encode(read_inputs(unseen, model.bands)))
        found = paper.score_properties(mean, paper.read_labels(unseen, outputs=[name]), [name])[name]
        assert found["sigma"] <= paper.TABLE_3[name]["sigma"]
        assert found["r2_adjusted"] >= paper.TABLE_3[name]["r2_adjusted"]
        assert found["sigma"] == pytest.approx(info.metrics[name]["sigma"], rel=0.01)
        np.testing.assert_allclose(mean[:, 0], info.arrays["predicted_test"][:, 0], atol=5e-3)


def test_networks_taught_by_truth_come_nearer_to_it(few):
    inputs = read_inputs(few, list(few["band"].values))
    for name, short in NAMES.items():
        truth = paper.read_labels(few, suffix="", outputs=[name])
        spread = []
        for kind in ("", "truth_"):
            model, _ = store.load_model(f"surana2020_{kind}{short}")
            mean, _ = model.predict(model.encode(inputs))
            spread.append(paper.score_properties(mean, truth, [name])[name]["rmse"])
        assert spread[1] < 0.8 * spread[0]


def test_the_papers_networks_need_all_bands_and_have_no_errors(few):
    networks, _ = paper.load_networks(*(f"surana2020_{short}" for short in NAMES.values()))
    assert networks.outputs == tuple(paper.UNITS) and networks.needs_all_bands
    sample = few.isel(galaxy=slice(0, 30)).copy(deep=True)
    sample["mask"].values[:10, 3] = True
    found, gap = paper.predict_properties(sample, networks), np.arange(30) < 10
    np.testing.assert_array_equal(np.isnan(found["log_sfr"]), gap)
    assert (found["reason"].values[gap] == "bands missing").all() and np.isnan(found["log_sfr_error"]).all()
    with pytest.raises(ValueError, match="nothing to calibrate"):
        paper.calibrate(networks, read_inputs(few, networks.bands), paper.read_labels(few))


def test_errors_hold_two_thirds_of_the_unseen_and_grow_as_bands_go(unseen, few, ensemble):
    networks, _ = ensemble
    mean, error = networks.predict(read_inputs(unseen, networks.bands))
    labels = paper.read_labels(unseen)
    for row in paper.score_properties(mean, labels, networks.outputs, error=error).values():
        assert row["coverage"] == pytest.approx(0.6827, abs=0.03)
        assert row["sigma"] <= 0.12
    some = read_inputs(few, networks.bands), labels[:2000]
    curve = paper.missing_curve(networks, *some, counts=(0, 8, 16))
    assert (np.diff(curve["sigma"], axis=0) > 0).all() and (np.diff(curve["error"], axis=0) > 0).all()
    lost = paper.missing_facilities(networks, *some)
    assert lost["facility"].values.tolist() == ["none", *FACILITY_BANDS]
    assert (lost["error"].sel(facility="none") <= lost["error"] * 1.02).all()


def test_a_galaxy_without_herschel_gets_a_wider_error(few, ensemble):
    networks, _ = ensemble
    names = ["P100", "P160", "S250", "S350", "S500"]
    whole = paper.predict_properties(few, networks)
    without = paper.predict_properties(few.drop_sel(band=names), networks)
    assert (without["n_missing"] == 5).all() and np.isfinite(without["log_sfr"]).all()
    for name in ("log_sfr", "log_dust_luminosity"):
        wider = without[f"{name}_error"] / whole[f"{name}_error"]
        assert float(wider.median()) > 1.5
        away = np.abs(without[name] - few[f"{name}_fit"].values)
        assert float((away <= without[f"{name}_error"]).mean()) == pytest.approx(0.6827, abs=0.06)


def test_millijansky_taken_for_jansky_are_flagged(few, ensemble):
    networks, arrays = ensemble
    plain = paper.predict_properties(few, networks, outliers=arrays)
    assert plain["out_of_range"].values.mean() < 0.025
    wrong = few.assign({name: few[name] * 1e3 for name in ("flux", "flux_error")})
    for name in ("flux", "flux_error"):
        wrong[name].attrs["units"] = "Jy"
    found = paper.predict_properties(wrong, networks, outliers=arrays)
    assert (found["outlier_score"] >= 2).mean() > 0.99
    assert "another unit or survey?): 2000 galaxies" in found.attrs["history"]


def test_what_is_wrong_with_values_is_counted(few, ensemble):
    bad = few.isel(galaxy=slice(0, 6)).copy(deep=True)
    bad["flux"].values[0, :4] = np.nan, -99, 9999, -1e-5
    bad["flux_error"].values[1, 0] = 0
    bad["redshift"].values[[2, 4]] = 0.9, np.nan
    bad["flux"].values[3] = 17.3
    found = paper.predict_properties(bad, ensemble[0])
    assert found["n_missing"].values.tolist() == [3, 1, 0, 21, 0, 0]
    reasons = found["reason"].values
    assert "redshift outside" in reasons[2] and "fewer than 3 bands" in reasons[3]
    assert "no redshift" in reasons[4] and np.isnan(found["log_mass"].values[3:5]).all()
    for words in ("no data: 1", "sentinel: 2", "error not positive: 1", "look like magnitudes: 21"):
        assert words in found.attrs["history"]
