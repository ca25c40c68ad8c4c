"""The paper's networks on toy galaxies: they learn, their errors hold what they say, and bad galaxies are named."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.bands import FACILITY_BANDS, RandomBands, read_inputs
from spectool.models.ensemble import BandEnsemble, band_importance
from spectool.papers.surana2020 import network as paper
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies
from tools.make.references import fit_band_outliers

NAMES, PROPERTIES = list(BANDS), list(paper.UNITS)


@pytest.fixture(scope="module")
def data():
    """Inputs and labels of training, validation and test galaxies."""
    found = {}
    for seed, (part, n) in enumerate({"train": 4000, "valid": 2000, "test": 3000}.items()):
        sample = make_galaxies(n, seed=seed)
        found[part] = read_inputs(sample, NAMES), paper.read_labels(sample)
    return found


@pytest.fixture(scope="module")
def ensemble(data):
    return paper.train_ensemble(*data["train"], *data["valid"], n_members=2, epochs=16, progress=False)[0]


@pytest.fixture(scope="module")
def networks(data):
    """A network per property, as in the paper."""
    (x, y), (vx, vy) = data["train"], data["valid"]
    return BandEnsemble(
        [
            paper.train_network(
                x, y[:, [k]], vx, vy[:, [k]], outputs=[name], scaling="asinh", epochs=12, progress=False
            )[0]
            for k, name in enumerate(PROPERTIES)
        ]
    )


def test_the_split_is_64_16_20():
    rows = paper.split_galaxies(1000)
    assert [len(rows[part]) for part in ("train", "valid", "test")] == [640, 160, 200]
    assert len(np.unique(np.concatenate(list(rows.values())))) == 1000


def test_the_papers_training_is_that_of_table_2(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(paper, "fit", lambda model, train, valid, **options: seen.update(options))
    (x, y), (vx, vy) = data["train"], data["valid"]
    paper.train_network(x, y[:, :1], vx, vy[:, :1], outputs=["log_sfr"], live=False)
    names = ("epochs", "patience", "lr", "batch_size", "optimizer")
    assert [seen[name] for name in names] == [1500, 500, 1e-3, 256, "fused adam"]
    assert "schedule" not in seen


def test_a_network_per_property_learns(data, networks):
    inputs, labels = data["test"]
    mean, error = networks.predict(inputs)
    found = paper.score_properties(mean, labels, networks.outputs)
    assert networks.outputs == tuple(PROPERTIES) and networks.needs_all_bands
    assert min(row["r2"] for row in found.values()) > 0.9
    assert np.isnan(error).all()


def test_one_network_for_all_learns_too(data):
    model, history = paper.train_network(
        *data["train"], *data["valid"], outputs=PROPERTIES, scaling="asinh", epochs=6, progress=False
    )
    assert model.config["hidden"] == list(paper.TOGETHER.hidden)
    assert history.best_loss == history.column("valid_loss").min()
    off = model.predict(model.encode(data["test"][0]))[0] - data["test"][1]
    assert (off.std(axis=0) < 0.5 * data["test"][1].std(axis=0)).all()


def test_errors_hold_two_thirds_with_and_without_bands(data, ensemble):
    inputs, labels = data["test"]
    hidden = RandomBands(ensemble.members[0], full=0.0).hide(inputs, seed=9)
    for part in (inputs, hidden):
        mean, error = ensemble.predict(part)
        found = paper.score_properties(mean, labels, ensemble.outputs, error=error)
        np.testing.assert_allclose([row["coverage"] for row in found.values()], 0.6827, atol=0.04)


def test_less_is_known_of_a_galaxy_with_fewer_bands(data, ensemble):
    curve = paper.missing_curve(ensemble, *data["test"], counts=(0, 8, 16))
    assert (np.diff(curve["sigma"], axis=0) > 0).all() and (np.diff(curve["error"], axis=0) > 0).all()
    lost = paper.missing_facilities(ensemble, *data["test"])
    assert lost["facility"].values.tolist() == ["none", *FACILITY_BANDS]
    assert (lost["error"].sel(facility="none") <= lost["error"] * 1.02).all()


def test_predictions_take_larger_errors_in(data, ensemble):
    inputs = data["test"][0]
    worse = type(inputs)(inputs.value, inputs.error * 2, inputs.mask, inputs.redshift)
    assert np.median(ensemble.predict(worse)[1][:, 0]) > 1.1 * np.median(ensemble.predict(inputs)[1][:, 0])


def test_bad_galaxies_are_named(ensemble, data):
    outliers = fit_band_outliers(data["train"][0], data["valid"][0])
    sample = make_galaxies(400, seed=7)
    sample["mask"].values[0, 2:] = True
    sample["redshift"].values[1:3] = np.nan, 2.0
    sample["flux"].values[3] *= 1e3
    sample["flux_error"].values[3] *= 1e3
    found = paper.predict_properties(sample, ensemble, outliers=outliers)
    reasons = found["reason"].values
    assert "fewer than 3 bands" in reasons[0] and "no redshift" in reasons[1]
    assert "redshift outside" in reasons[2] and "unit" in reasons[3]
    assert np.isnan(found["log_mass"].values[:2]).all() and np.isfinite(found["log_mass"].values[2:]).all()
    assert (found["reason"].values[4:] == "").mean() > 0.95
    assert found["n_missing"].values[:2].tolist() == [19, 0]
    assert (
        "no redshift: 1 galaxies" in found.attrs["history"] and "fluxes masked: 19" in found.attrs["history"]
    )


def test_the_papers_networks_need_all_bands(networks):
    sample = make_galaxies(100, seed=8, gaps=0.3)
    found = paper.predict_properties(sample, networks)
    gap = sample["mask"].values.any(axis=1)
    np.testing.assert_array_equal(np.isnan(found["log_sfr"]), gap)
    assert (found["reason"].values[gap] == "bands missing").all()


def test_stored_networks_say_the_same(ensemble, tmp_path):
    arrays = {"error_calibration": ensemble.calibration}
    paths = [
        store.save_model(tmp_path / f"m{k}", model, recipe={}, metrics={}, arrays=arrays)
        for k, model in enumerate(ensemble.members)
    ]
    again, _ = paper.load_networks(*paths)
    sample = make_galaxies(30, seed=6, gaps=0.3)
    found, expected = (paper.predict_properties(sample, one) for one in (again, ensemble))
    for name in (*PROPERTIES, "log_sfr_error"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_redshift_matters_to_masses(data, networks):
    inputs, labels = data["test"]
    found = band_importance(networks.members[0], inputs.take(slice(0, 500)), labels[:500, :1])
    assert found["importance"].dims == ("input", "property")
    assert float(found["importance"].sel(input="redshift").item()) > 0.05
    assert set(found["input"].values) == {*NAMES, "redshift"}


def test_figures_are_those_of_table_3():
    rng = np.random.default_rng(0)
    labels = rng.normal(10, 0.5, (4000, 1))
    off = rng.normal(0.02, 0.1, labels.shape)
    found = paper.score_properties(labels + off, labels, ["log_mass"], error=np.full(labels.shape, 0.1))[
        "log_mass"
    ]
    assert found["sigma"] == pytest.approx(off.std()) and found["mad"] == pytest.approx(np.abs(off).mean())
    assert found["rmse"] ** 2 == pytest.approx(found["sigma"] ** 2 + found["bias"] ** 2)
    assert found["r2"] == pytest.approx(1 - np.mean(off**2) / labels.var())
    assert found["r2_adjusted"] < found["r2"] and found["coverage"] == pytest.approx(0.68, abs=0.03)


def test_what_cannot_be_is_said(data, networks):
    x, y = data["train"]
    with pytest.raises(ValueError, match="no property age"):
        paper.train_network(x, y, x, y, outputs=["age"])
    with pytest.raises(ValueError, match="lacks log_mass,"):
        paper.read_labels(make_galaxies(3), suffix="")
    with pytest.raises(ValueError, match="nothing for training"):
        hidden = x.hide(np.array(NAMES) == "r")
        paper.train_network(hidden, y[:, :1], x, y[:, :1], outputs=["log_mass"])
    with pytest.raises(ValueError, match="nothing to calibrate"):
        paper.calibrate(networks, *data["valid"])
