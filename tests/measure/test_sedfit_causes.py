"""What scatter comes from: differences put in are found in their bins, and the fit asked again says what it should."""

import numpy as np
import pytest

from spectool.measure.sedfit import draw_library, fit_again, fit_library, spread_by, trace_scatter
from spectool.surveys.gama import draw_gama, load_filters, observe_gama
from spectool.surveys.photometry import make_band_averages
from spectool.synth import SSPGrid


@pytest.fixture(scope="module")
def averages():
    return make_band_averages(SSPGrid.embedded("broadband"), load_filters(), highest_redshift=0.2, step=0.02)


@pytest.fixture(scope="module")
def library(averages):
    return draw_library(4000, averages=averages, seed=1, redshift_step=0.05, progress=False)


@pytest.fixture(scope="module")
def sample(averages, library):
    galaxies = draw_gama(400, averages=averages, seed=3, redshift_range=(0.02, 0.2))
    return fit_library(observe_gama(galaxies, seed=4, facilities={}), library, progress=False)


@pytest.fixture(scope="module")
def again(sample, library):
    return fit_again(sample, library, progress=False)


def test_spreads_are_those_put_in():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 1, 30_000)
    scatter = np.where(x < -0.5, 0.4, 0.1)
    normal = scatter * rng.standard_normal(x.size)
    lone = np.append(x, -3.7)
    found = spread_by(lone, {"a": np.append(normal, 9.0), "b": (np.append(scatter, 9.0),)}, width=0.5)
    middles, spread = found["a"]
    np.testing.assert_allclose(middles, [-3.75, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75])
    assert np.isnan(spread[0])
    np.testing.assert_allclose(spread[1:], [0.4] * 3 + [0.1] * 3, rtol=0.05)
    np.testing.assert_array_equal(found["b"][1][1:], [0.4] * 3 + [0.1] * 3)
    few = spread_by(x, {"a": normal}, used=x > 0, width=0.5)["a"]
    np.testing.assert_array_equal(few[0], [0.25, 0.75])


def test_less_noise_brings_the_fit_nearer_to_the_truth(sample, again):
    for name in ("log_sfr", "log_dust_luminosity"):
        plain, deep = (
            np.diff(np.percentile(values - sample[name].values, (16, 84)))
            for values in (sample[f"{name}_fit"].values, again[f"{name}_deep"].values)
        )
        assert deep < 0.9 * plain


def test_labels_of_fewer_models_are_more_arbitrary(sample, again, library):
    few = fit_again(sample, library.isel(model=slice(0, None, 8)), progress=False)
    for name in ("log_mass", "log_sfr"):
        spread = [np.diff(np.percentile(one[f"{name}_arbitrary"].values, (16, 84))) for one in (few, again)]
        assert 1.5 < spread[0] / spread[1] < 2 * np.sqrt(8)
        scaled = fit_again(sample, library.isel(model=slice(0, None, 8)), n_models=4000, progress=False)
        np.testing.assert_allclose(scaled[f"{name}_arbitrary"] * np.sqrt(8), few[f"{name}_arbitrary"])


def test_causes_are_told_apart(sample, again):
    rng = np.random.default_rng(1)
    label, true = sample["log_sfr_fit"].values, sample["log_sfr"].values
    predicted = label + 0.05 * rng.standard_normal(label.size)
    panels = trace_scatter(sample, again, predicted, of_truth=true + 0.02 * rng.standard_normal(label.size))
    assert list(panels) == ["all", "star-forming", "quiescent"] and len(panels["all"]) == 6
    spread = {name: curve[1] for name, curve in panels["all"].items()}
    good = np.isfinite(spread["fit - truth"])
    assert good.sum() >= 4
    np.testing.assert_allclose(spread["network - fit"][good], 0.05, rtol=0.4)
    np.testing.assert_allclose(spread["network taught by truth - truth"][good], 0.02, rtol=0.4)
    stated = 0.5 * (sample["log_sfr_fit_high"] - sample["log_sfr_fit_low"]).values
    lowest = np.floor(label / 0.5) == np.floor(2 * panels["all"]["fit - truth"][0][good][0])
    assert spread["error stated by the fit"][good][0] == pytest.approx(np.median(stated[lowest]))
    assert spread["error stated by the fit"][good][0] > spread["error stated by the fit"][good][-1]


def test_noise_free_fluxes_are_needed(sample, library):
    with pytest.raises(ValueError, match="lacks true_flux"):
        fit_again(sample.drop_vars("true_flux"), library)
