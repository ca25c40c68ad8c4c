"""The library's priors are those stated, its fluxes those of the photometry."""

from itertools import pairwise

import numpy as np
import pytest
from astropy.cosmology import Planck18
from scipy.integrate import quad
from scipy.stats import kstest

from spectool.measure.sedfit import draw_library, draw_models, redshift_nodes
from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import make_band_averages, measure_photometry
from spectool.synth import SSPGrid, sfh


@pytest.fixture(scope="module")
def averages():
    return make_band_averages(SSPGrid.embedded("broadband"), load_filters(), highest_redshift=0.1, step=0.01)


@pytest.fixture(scope="module")
def library(averages):
    return draw_library(300, averages=averages, seed=1, redshift_step=0.02, progress=False)


@pytest.fixture(scope="module")
def models():
    return draw_models(20_000, age=SSPGrid.embedded("broadband").age, seed=7)


@pytest.mark.parametrize(
    ("name", "density", "highest"),
    [
        ("age_form", lambda x: float(x > 0.1), 13.5),
        ("gamma_sfh", lambda x: 1 - np.tanh(8 * x - 6), 1.5),
        ("tau_v", lambda x: 1 - np.tanh(1.5 * x - 6.7), 8.0),
        ("mu", lambda x: 1 - np.tanh(8 * x - 6), 1.0),
    ],
)
def test_priors_are_those_of_da_cunha(models, name, density, highest):
    nodes = np.linspace(0, highest, 201)
    pieces = [quad(density, a, b)[0] for a, b in pairwise(nodes)]
    cumulative = np.concatenate([[0], np.cumsum(pieces)]) / np.sum(pieces)
    assert kstest(models[name].values, lambda x: np.interp(x, nodes, cumulative)).pvalue > 1e-3


def test_metals_are_uniform_and_dust_is_shared_out(models):
    assert kstest(10 ** models["log_z_star"].values, "uniform", args=(0.02, 1.98)).pvalue > 1e-3
    np.testing.assert_allclose(models["dust1"] + models["dust2"], models["tau_v"])
    np.testing.assert_allclose(models["dust2"], models["mu"] * models["tau_v"])
    assert (models["dust_index"] == -0.7).all()
    assert models["log_z_gas"].max() <= np.log10(1.2)


def test_each_history_forms_one_sun_and_begins_at_its_onset(models):
    mass = models["mass_formed"].values
    np.testing.assert_allclose(mass.sum(axis=1), 1, rtol=1e-5)
    edges = sfh.age_bin_edges(models["age"].values)
    assert (mass[edges[:-1] > 1e9 * models["age_form"].values[:, None]] == 0).all()
    assert (mass >= 0).all()


def test_a_history_without_bursts_is_the_exponential(models):
    quiet = models.isel(galaxy=np.flatnonzero(models["n_bursts"].values == 0)[:50])
    edges = 1e-9 * sfh.age_bin_edges(quiet["age"].values)
    for onset, rate, mass in zip(
        quiet["age_form"].values, quiet["gamma_sfh"].values, quiet["mass_formed"].values, strict=True
    ):
        cut = np.minimum(edges, onset)
        integrals = [quad(lambda t, r=rate, o=onset: np.exp(-r * (o - t)), a, b)[0] for a, b in pairwise(cut)]
        np.testing.assert_allclose(mass, np.array(integrals) / np.sum(integrals), atol=1e-6)


def test_half_of_the_galaxies_had_a_burst_in_two_billion_years(models):
    """Of a galaxy's bursts, which come at any time, a share of 2 Gyr / age lies in the last 2 Gyr."""
    old = models["age_form"].values > 2
    share = 2 / models["age_form"].values[old]
    none = (1 - share) ** models["n_bursts"].values[old]
    np.testing.assert_allclose(none.mean(), 0.5, atol=0.015)


def test_the_same_seed_gives_the_same_models():
    first, again, other = (draw_models(50, age=np.geomspace(1e6, 1.4e10, 40), seed=s) for s in (1, 1, 2))
    assert first.identical(again) and not first["mu"].equals(other["mu"])
    assert (np.diff(first["age_form"]) >= 0).all()


def test_fluxes_are_those_of_the_photometry(library, averages):
    heavy = draw_models(300, age=averages.grid.age, seed=1)
    heavy = heavy.assign(mass_formed=2e10 * heavy["mass_formed"])
    for k in (2, 5):
        z = float(library["redshift"][k])
        seen = measure_photometry(
            heavy.assign(redshift=("galaxy", np.full(300, z))), averages, progress=False
        )
        to_galaxy = 2e10 * (10 / Planck18.luminosity_distance(z).to_value("Mpc")) ** 2
        np.testing.assert_allclose(library["flux"][k] * to_galaxy, seen["flux"], rtol=1e-3)
        for name in ("log_mass", "log_sfr", "log_dust_luminosity"):
            np.testing.assert_allclose(library[name] + np.log10(2e10), seen[name], atol=1e-4)
            assert library[name].attrs["units"] == seen[name].attrs["units"]


def test_redshifts_between_nodes_lie_on_straight_lines_nearly(library, averages):
    """Lines that cross the edge of a band are the worst; a fit allows models 10%."""
    fine = draw_library(300, averages=averages, seed=1, redshift_step=0.01, progress=False)
    between = fine["flux"].sel(redshift=[0.03, 0.05, 0.07], method="nearest").values
    straight = 0.5 * (library["flux"].values[1:4] + library["flux"].values[2:5])
    apart = np.quantile(np.abs(straight / between - 1), (0.5, 0.99, 0.999))
    assert (apart < (0.001, 0.03, 0.08)).all()


def test_nodes_reach_the_highest_redshift_and_no_models_are_an_error():
    np.testing.assert_allclose(redshift_nodes(0.1, 0.03), [0.001, 0.03, 0.06, 0.09, 0.1])
    np.testing.assert_allclose(redshift_nodes(0.1, 0.05), [0.001, 0.05, 0.1])
    with pytest.raises(ValueError, match=r"between 0 and the highest redshift 0.1, not 0.2"):
        redshift_nodes(0.1, 0.2)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        draw_models(0, age=np.geomspace(1e6, 1.4e10, 40), seed=1)
