"""What recipes do beside training: other surveys' errors, seen and asked galaxies apart, components, the search."""

import numpy as np
import optuna
import pytest
import xarray as xr

from spectool.continuum import N_KEPT
from spectool.models.bands import read_inputs
from spectool.models.chunked import SN_LEVELS
from spectool.papers.scourfield2023.network import suggest
from spectool.papers.zahid2019.network import add_coefficient_noise, project
from spectool.papers.zahid2019.sample import HELDOUT_SEED, make_heldout
from spectool.surveys.gama import BANDS
from tests import ifu_toy, sed_toy
from tools.recipes import liewcain2021, marziano2024, surana2020, zahid2019

NAMES = list(BANDS)


def test_other_surveys_have_other_errors_and_the_noise_that_they_say():
    inputs = read_inputs(sed_toy.make_galaxies(4000), NAMES)
    true = np.maximum(inputs.value, 0)
    varied = surana2020.vary_errors(inputs, true, bands=NAMES, seed=0)
    pull = (varied.value - true) / varied.error
    assert pull.std() == pytest.approx(1, abs=0.02) and abs(pull.mean()) < 0.02
    factor = np.log(varied.error / inputs.error)[:, 0]
    expected = np.hypot(np.diff(np.log(surana2020.VARIED))[0] / np.sqrt(12), 0.5)
    assert factor.std() == pytest.approx(expected, rel=0.05)


def test_a_type_is_predicted_by_the_networks_of_both(monkeypatch):
    sample = ifu_toy.make_galaxies(16, 6)
    early = sample["is_early"].values[sample["galaxy_index"].values]
    truth, asked_of = sample["log_age"].values, []

    def answer(sample, output, seen, asked, **options):
        galaxy = sample["galaxy_index"].values
        assert len(np.intersect1d(galaxy[seen], galaxy[asked])) == 0
        assert len(np.unique(early[seen])) == 1
        asked_of.append(early[seen][0])
        # Late types' networks are off by 1 dex, and scatter for early types.
        off = np.where(early[asked], 1.0, 0.1) * np.where(np.arange(len(asked)) % 2, 1, -1)
        return truth[asked] + (off if not early[seen][0] else 0.0)

    monkeypatch.setattr(liewcain2021, "train_and_ask", answer)
    table = xr.Dataset.from_dict(liewcain2021.train_types(sample, "log_age"))
    assert asked_of == [True] * 4 + [False] * 4
    assert (table["sigma"].sel(training="early") < 1e-6).all()
    late = table["sigma"].sel(training="late")
    assert float(late.sel(application="early")) > 5 * float(late.sel(application="late")) > 0.1


def test_ten_components_of_bursts_hold_nearly_all_variance_and_galaxies():
    """The paper's statement, for ours; components are orthonormal, so that coefficients have the noise of pixels."""
    pca = zahid2019.fit_ssp_pca()
    assert pca.components.shape == (10, N_KEPT)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(10), atol=1e-4)
    more = zahid2019.fit_ssp_pca(n_components=60).variance
    assert float(more[:10].sum() / more.sum()) > 0.98
    flux = make_heldout(100, seed=HELDOUT_SEED)["flux"].values
    again = pca.components.T.numpy() @ project(pca, flux).T + pca.pixel_mean.numpy()[:, None]
    assert np.sqrt(np.mean((again.T - flux) ** 2)) < 0.15 * np.sqrt(np.mean(flux**2))
    noise = np.random.default_rng(0).normal(0, 0.1, (2000, N_KEPT)).astype("f4")
    through = project(pca, pca.pixel_mean.numpy() + noise)
    assert through.std(axis=0) == pytest.approx(0.1, rel=0.08)
    drawn = add_coefficient_noise(np.zeros((5000, 10), "f4"), seed=1)
    deviation = np.sqrt(np.mean(np.square(1 / np.array(SN_LEVELS))))
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.05)
    assert (drawn == 0).all(axis=1).mean() == 0.2


def test_a_small_network_on_coefficients_learns_a_curve_of_the_first():
    x = np.random.default_rng(0).normal(0, 1, (6000, 10)).astype("f4")
    y = np.tanh(x[:, 0]) + 0.1 * x[:, 1]
    train, valid, test = slice(4000), slice(4000, 5000), slice(5000, None)
    given = x[train], y[train], x[valid], y[valid]
    model, history = zahid2019.train_small_network(*given, epochs=8, progress=False)
    assert history.best_loss == history.column("valid_loss").min()
    off = model.predict(x[test])[0][:, 0] - y[test]
    assert np.sqrt(np.mean(off**2)) < 0.25 * y[test].std()


def test_hyperparameters_are_drawn_from_the_papers_ranges():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [suggest(study.ask()) for _ in range(1500)]
    assert {d["dropout"] for d in drawn} == {round(0.1 * k, 1) for k in range(10)}
    widths = [d["widths"] for d in drawn]
    assert {len(w) for w in widths} == {2, 3, 4} and {w[0] for w in widths} == set(range(100, 1001, 100))
    assert {w[1] for w in widths if w[0] == 500} == set(range(100, 501, 100))
    assert all(list(w) == sorted(w, reverse=True) and not np.any(np.array(w) % 100) for w in widths)


def test_survey_mask_is_the_range_in_the_rest_frame():
    mask = marziano2024.survey_mask(np.array([3700.0, 3900.0, 9000.0, 9300.0]), [0.0, 0.1])
    assert mask.tolist() == [[True, False, False, True], [False, False, True, True]]
