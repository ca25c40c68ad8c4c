"""The library's priors are those stated, its fluxes those of the photometry and near those of another code."""

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.cosmology import Planck18
from scipy.integrate import quad
from scipy.stats import kstest

from spectool.measure.sedfit import draw_library, draw_models, fit_library, redshift_nodes, score_fit
from spectool.surveys.gama import load_filters
from spectool.surveys.photometry import measure_photometry
from spectool.synth import sfh
from tests.refusals import refused

REDSHIFT, N = 0.1, 24


@pytest.fixture(scope="module")
def library(averages):
    return draw_library(300, averages=averages, seed=1, redshift_step=0.02, progress=False)


@pytest.fixture(scope="module")
def models(averages):
    return draw_models(20_000, age=averages.grid.age, seed=7)


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


def test_metals_are_uniform_dust_is_shared_out_and_each_history_forms_one_sun_from_its_onset(models):
    assert kstest(10 ** models["log_z_star"].values, "uniform", args=(0.02, 1.98)).pvalue > 1e-3
    np.testing.assert_allclose(models["dust1"] + models["dust2"], models["tau_v"])
    np.testing.assert_allclose(models["dust2"], models["mu"] * models["tau_v"])
    assert (models["dust_index"] == -0.7).all()
    assert models["log_z_gas"].max() <= np.log10(1.2)
    mass, onset = models["mass_formed"].values, models["age_form"].values
    np.testing.assert_allclose(mass.sum(axis=1), 1, rtol=1e-5)
    edges = 1e-9 * sfh.age_bin_edges(models["age"].values)
    assert (mass[edges[:-1] > onset[:, None]] == 0).all()
    assert (mass >= 0).all() and (np.diff(onset) >= 0).all()
    for row in np.flatnonzero(models["n_bursts"].values == 0)[:50]:
        rate, cut = float(models["gamma_sfh"][row]), np.minimum(edges, onset[row])
        integrals = [quad(lambda t, r=rate: np.exp(r * t), a, b)[0] for a, b in pairwise(cut)]
        np.testing.assert_allclose(mass[row], np.array(integrals) / np.sum(integrals), atol=1e-6)
    # Half of the galaxies had a burst in two billion years: of bursts at any time, a share of 2 Gyr / age.
    none = (1 - 2 / onset[onset > 2]) ** models["n_bursts"].values[onset > 2]
    np.testing.assert_allclose(none.mean(), 0.5, atol=0.015)


def test_fluxes_are_those_of_the_photometry(library, averages):
    heavy = draw_models(300, age=averages.grid.age, seed=1)
    heavy = heavy.assign(mass_formed=2e10 * heavy["mass_formed"])
    for k in (2, 5):
        z = float(library["redshift"][k])
        placed = heavy.assign(redshift=("galaxy", np.full(300, z)))
        seen = measure_photometry(placed, averages, progress=False)
        to_galaxy = 2e10 * (10 / Planck18.luminosity_distance(z).to_value("Mpc")) ** 2
        np.testing.assert_allclose(library["flux"][k] * to_galaxy, seen["flux"], rtol=1e-3)
        for name in ("log_mass", "log_sfr", "log_dust_luminosity"):
            np.testing.assert_allclose(library[name] + np.log10(2e10), seen[name], atol=1e-4)


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
    refused(r"between 0 and the highest redshift 0.1, not 0.2", redshift_nodes, 0.1, 0.2)
    refused("at least 1, not 0", draw_models, 0, age=np.geomspace(1e6, 1.4e10, 40), seed=1)


def draw_parameters(rng):
    """For bagpipes: exponential histories behind dust, within the library's priors."""
    return {
        "redshift": REDSHIFT,
        "exponential": {"age": rng.uniform(2, 11), "tau": rng.uniform(1.5, 6)}
        | {"massformed": rng.uniform(9.5, 11.5), "metallicity": rng.uniform(0.3, 1.8)},
        "dust": {"type": "CF00", "Av": rng.uniform(0.2, 1.5), "eta": rng.uniform(1.5, 3), "n": 0.7}
        | {"qpah": rng.uniform(1, 4), "umin": rng.uniform(0.5, 10), "gamma": rng.uniform(0.001, 0.05)},
        "nebular": {"logU": rng.uniform(-3.5, -2.5)},
        "t_bc": 0.01,
    }


def absorbed(model, parameters):
    """Log of the energy [Lsun] that dust takes: what is missing beside the same galaxy without dust."""
    energy = []
    for a_v in (0.0, parameters["dust"]["Av"]):
        model.update(parameters | {"dust": parameters["dust"] | {"Av": a_v}})
        energy.append(np.trapezoid(model.spectrum_full, model.wavelengths))
    area = 4 * np.pi * Planck18.luminosity_distance(REDSHIFT).to_value("cm") ** 2
    return np.log10((energy[0] - energy[1]) * (1 + REDSHIFT) * area * (u.erg / u.s).to(u.Lsun))


def test_our_fit_finds_what_went_into_bagpipes(averages, tmp_path):
    import bagpipes

    paths, curves, rng = [], load_filters(), np.random.default_rng(20)
    for name, curve in curves.items():
        paths.append(str(tmp_path / f"{name}.txt"))
        np.savetxt(paths[-1], np.transpose(curve))
    drawn = [draw_parameters(rng) for _ in range(N)]
    model = bagpipes.model_galaxy(drawn[0], filt_list=paths, phot_units="mujy")
    rows = []
    for parameters in drawn:
        model.update(parameters)
        rows.append((model.photometry * 1e-6, model.sfh.stellar_mass, np.log10(model.sfh.sfr)))
    model.dust_emission.spectrum = lambda *_: np.zeros_like(model.wavelengths)  # what dust takes is gone
    log_dust = [absorbed(model, parameters) for parameters in drawn]
    flux, log_mass, log_sfr = (np.array(values) for values in zip(*rows, strict=True))
    noisy = flux * (1 + 0.1 * rng.standard_normal(flux.shape))
    columns = {"log_mass": log_mass, "log_sfr": log_sfr, "log_dust_luminosity": log_dust}
    columns |= {"redshift": np.full(N, REDSHIFT)}
    fluxes = {"flux": noisy, "flux_error": 0.1 * flux}
    sample = xr.Dataset({name: (("galaxy", "band"), v, {"units": "Jy"}) for name, v in fluxes.items()})
    sample = sample.assign({name: ("galaxy", v) for name, v in columns.items()})
    sample = sample.assign_coords(band=list(curves))
    library = draw_library(12_000, averages=averages, seed=2, redshift_step=0.1, progress=False)
    scores = score_fit(fit_library(sample, library, progress=False))
    # exponentials without bursts are few in the library
    assert (np.abs(scores["bias"]) < (0.08, 0.05, 0.05)).all()
    assert (scores["scatter"] < (0.15, 0.10, 0.08)).all()
    assert (scores["r2"] > (0.92, 0.90, 0.97)).all()
