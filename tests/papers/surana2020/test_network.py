"""The paper's networks on toy galaxies: how they are trained, and what is refused."""

import numpy as np
import pytest

from spectool.models.bands import read_inputs
from spectool.papers.surana2020 import network as paper
from spectool.surveys.gama import BANDS
from tests.refusals import refused
from tests.sed_toy import make_galaxies

NAMES, PROPERTIES = list(BANDS), list(paper.UNITS)


@pytest.fixture(scope="module")
def data():
    samples = [make_galaxies(n, seed=seed) for seed, n in enumerate((4000, 2000, 3000))]
    return [(read_inputs(sample, NAMES), paper.read_labels(sample)) for sample in samples]


def test_the_papers_training_is_that_of_table_2(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(paper, "fit", lambda model, train, valid, **options: seen.update(options))
    (x, y), (vx, vy), _ = data
    paper.train_network(x, y[:, :1], vx, vy[:, :1], outputs=["log_sfr"], live=False)
    names = ("epochs", "patience", "lr", "batch_size", "optimizer")
    assert [seen[name] for name in names] == [1500, 500, 1e-3, 256, "fused adam"]
    assert "schedule" not in seen


def test_one_network_for_all_learns(data):
    options = {"outputs": PROPERTIES, "scaling": "asinh", "epochs": 6, "progress": False}
    model, history = paper.train_network(*data[0], *data[1], **options)
    assert model.config["hidden"] == list(paper.TOGETHER.hidden)
    assert history.best_loss == history.column("valid_loss").min()
    off = model.predict(model.encode(data[2][0]))[0] - data[2][1]
    assert (off.std(axis=0) < 0.5 * data[2][1].std(axis=0)).all()


def test_figures_are_those_of_table_3():
    rng = np.random.default_rng(0)
    labels = rng.normal(10, 0.5, (4000, 1))
    off = rng.normal(0.02, 0.1, labels.shape)
    found = paper.score_properties(labels + off, labels, ["x"], error=np.full(labels.shape, 0.1))["x"]
    assert found["sigma"] == pytest.approx(off.std()) and found["mad"] == pytest.approx(np.abs(off).mean())
    assert found["rmse"] ** 2 == pytest.approx(found["sigma"] ** 2 + found["bias"] ** 2)
    assert found["r2"] == pytest.approx(1 - np.mean(off**2) / labels.var())
    assert found["r2_adjusted"] < found["r2"] and found["coverage"] == pytest.approx(0.68, abs=0.03)


def test_what_cannot_be_is_said(data):
    x, y = data[0]
    refused("lacks log_mass,", paper.read_labels, make_galaxies(3), suffix="")
    with pytest.raises(ValueError, match="nothing for training"):
        hidden = x.hide(np.array(NAMES) == "r")
        paper.train_network(hidden, y[:, :1], x, y[:, :1], outputs=["log_mass"])
