"""The paper's networks on toy galaxies: they learn, their errors hold what they say, and bad galaxies are named."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.bands import read_inputs
from spectool.models.ensemble import (
    FACILITIES,
    VARIED,
    RandomBands,
    SedEnsemble,
    band_importance,
    hide_bands,
    missing_curve,
    missing_facilities,
    missing_shares,
    permutation_importance,
    score_properties,
    vary_errors,
)
from spectool.models.peers import train_boosting, train_forest, train_svm
from spectool.papers.surana2020 import network as paper
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies
from tools.make.outlier_references import fit_band_outliers

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
    return SedEnsemble(
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
    found = score_properties(mean, labels, networks.outputs)
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
        found = score_properties(mean, labels, ensemble.outputs, error=error)
        np.testing.assert_allclose([row["coverage"] for row in found.values()], 0.6827, atol=0.04)


def test_the_ensembles_variance_is_that_of_the_mixture(data, ensemble):
    """Law of total variance, before calibration."""
    inputs = data["test"][0].take(slice(0, 50))
    each = [member.predict(member.encode(inputs)) for member in ensemble.members]
    means, sigmas = (np.array(values, dtype=float) for values in zip(*each, strict=True))
    mean, error = SedEnsemble(ensemble.members).predict(inputs)
    np.testing.assert_allclose(mean, means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(error**2, (sigmas**2).mean(axis=0) + means.var(axis=0), rtol=1e-3)


def test_less_is_known_of_a_galaxy_with_fewer_bands(data, ensemble):
    curve = missing_curve(ensemble, *data["test"], counts=(0, 8, 16))
    assert (np.diff(curve["sigma"], axis=0) > 0).all() and (np.diff(curve["error"], axis=0) > 0).all()
    lost = missing_facilities(ensemble, *data["test"])
    assert lost["facility"].values.tolist() == ["none", *FACILITIES]
    assert (lost["error"].sel(facility="none") <= lost["error"] * 1.02).all()


def test_predictions_take_larger_errors_in(data, ensemble):
    inputs = data["test"][0]
    worse = type(inputs)(inputs.flux, inputs.error * 2, inputs.mask, inputs.redshift)
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


def test_hidden_bands_spare_galaxies_with_few(ensemble, data):
    hider = RandomBands(ensemble.members[0], full=0.25)
    poor = hide_bands(data["test"][0], NAMES, NAMES[4:])
    assert (~hider.hide(poor, seed=0).mask).sum(axis=1).min() == 3
    hidden = hider.hide(data["test"][0], seed=0).mask
    assert 0.25 < (~hidden.any(axis=1)).mean() < 0.5
    assert hidden.all(axis=0).sum() == 0
    shares = missing_shares(hidden, NAMES)
    assert shares.shape == (len(hidden), 2 + len(FACILITIES)) and (shares.sum(axis=0) > 0).all()
    assert missing_shares(poor.mask, NAMES)[0] == pytest.approx([1, 0, 0.6, 1, 1, 1, 1, (17 / 21) ** 2])


def test_other_surveys_have_other_errors_and_the_noise_that_they_say(data):
    inputs = data["train"][0]
    true = np.maximum(inputs.flux, 0)
    varied = vary_errors(inputs, true, bands=NAMES, seed=0)
    pull = (varied.flux - true) / varied.error
    assert pull.std() == pytest.approx(1, abs=0.02) and abs(pull.mean()) < 0.02
    factor = np.log(varied.error / inputs.error)
    assert factor[:, 0].std() == pytest.approx(
        np.hypot(np.diff(np.log(VARIED))[0] / np.sqrt(12), 0.5), rel=0.05
    )
    np.testing.assert_allclose(factor[:, 0], factor[:, 1])
    assert np.corrcoef(factor[:, 0], factor[:, 5])[0, 1] < 0.95


def test_importance_is_that_of_what_is_used():
    x = np.random.default_rng(0).normal(size=(5000, 4))
    labels = 2 * x[:, [0]] + x[:, [2]]
    groups = {"a": [0], "b": [1], "c": [2, 3]}
    mean, _ = permutation_importance(lambda v: 2 * v[:, [0]] + v[:, [2]], x, labels, groups, seed=1)
    # Mean |difference| of two normal deviates is 2 / sqrt(pi).
    np.testing.assert_allclose(mean[:, 0], np.array([2, 0, 1]) * 2 / np.sqrt(np.pi), atol=0.05)


def test_redshift_matters_to_masses(data, networks):
    found = band_importance(
        networks.members[0],
        *[
            part[:500] if k else part.take(slice(0, 500))
            for k, part in enumerate((data["test"][0], data["test"][1][:, :1]))
        ],
    )
    assert found["importance"].dims == ("input", "property")
    assert float(found["importance"].sel(input="redshift").item()) > 0.05
    assert set(found["input"].values) == {*NAMES, "redshift"}


def test_figures_are_those_of_table_3():
    rng = np.random.default_rng(0)
    labels = rng.normal(10, 0.5, (4000, 1))
    off = rng.normal(0.02, 0.1, labels.shape)
    found = score_properties(labels + off, labels, ["log_mass"], error=np.full(labels.shape, 0.1))["log_mass"]
    assert found["sigma"] == pytest.approx(off.std()) and found["mad"] == pytest.approx(np.abs(off).mean())
    assert found["rmse"] ** 2 == pytest.approx(found["sigma"] ** 2 + found["bias"] ** 2)
    assert found["r2"] == pytest.approx(1 - np.mean(off**2) / labels.var())
    assert found["r2_adjusted"] < found["r2"] and found["coverage"] == pytest.approx(0.68, abs=0.03)


@pytest.mark.parametrize("train", [train_forest, train_svm, train_boosting])
def test_peers_learn(data, networks, train):
    model = networks.members[0]
    (inputs, labels), (test, truth) = data["train"], data["test"]
    smaller = {
        train_forest: {"n_trees": 15},
        train_svm: {"n_rows": 1000},
        train_boosting: {"n_iterations": 60},
    }
    x = model.encode(inputs.take(slice(0, 2000)))
    predict = train(x, labels[:2000, :2], **smaller[train])
    found = model.encode(test)
    found[0, 3] = np.nan
    mean = predict(found)
    assert np.isnan(mean[0]).all() and np.isfinite(mean[1:]).all()
    assert (np.std(mean[1:] - truth[1:, :2], axis=0) < 0.5 * truth[:, :2].std(axis=0)).all()
    with pytest.raises(ValueError, match="no row"):
        train(x, np.full((2000, 1), np.nan))


def test_what_cannot_be_is_said(data, networks, ensemble):
    x, y = data["train"]
    with pytest.raises(ValueError, match="no property age"):
        paper.train_network(x, y, x, y, outputs=["age"])
    with pytest.raises(ValueError, match="at least one"):
        SedEnsemble([])
    with pytest.raises(ValueError, match="lacks log_mass,"):
        paper.read_labels(make_galaxies(3), suffix="")
    with pytest.raises(ValueError, match="no galaxy for training"):
        paper.train_network(hide_bands(x, NAMES, ["r"]), y[:, :1], x, y[:, :1], outputs=["log_mass"])
    with pytest.raises(ValueError, match="nothing to calibrate"):
        paper.calibrate(networks, *data["valid"])
    with pytest.raises(ValueError, match="no bands unknown"):
        hide_bands(x, NAMES, ["unknown"])
