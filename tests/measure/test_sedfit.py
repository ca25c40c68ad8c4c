"""Fits with a library of models: the textbook's posterior, calibrated, blind to units and order; what errs in them."""

import numpy as np
import pytest
import xarray as xr

from benchmarks.sedfit import fit_one_by_one
from spectool.measure import sedfit
from spectool.surveys.gama import draw_gama, observe_gama
from spectool.surveys.photometry import REFERENCE_MPC, luminosity_distance, measure_photometry
from spectool.synth.population import age_of_universe
from tests.refusals import refused

ENDS = ("_fit", "_fit_low", "_fit_high")


def fit(sample, library, **options):
    return sedfit.fit_library(sample, library, progress=False, **options)


@pytest.fixture(scope="module")
def library(averages):
    return sedfit.draw_library(6000, averages=averages, seed=1, redshift_step=0.05, progress=False)


@pytest.fixture(scope="module")
def sample(averages):
    """Sixty galaxies of 3e10 Msun as GAMA sees them, some bands missing, some fluxes negative."""
    galaxies = draw_gama(60, averages=averages, seed=3, redshift_range=(0.02, 0.2))
    # Where models are compared without any shift.
    z = sedfit.CELL * np.round(galaxies["redshift"] / sedfit.CELL)
    models = sedfit.draw_models(60, age=averages.grid.age, seed=5)
    heavy = models.assign(mass_formed=models["mass_formed"] * 3e10, redshift=z.clip(sedfit.CELL))
    seen = measure_photometry(heavy, averages, progress=False)
    return observe_gama(seen.assign(is_quiescent=galaxies["is_quiescent"]), seed=4)


@pytest.fixture(scope="module")
def fitted(sample, library):
    return fit(sample, library)


def columns(fitted):
    return np.array([fitted[name + end].values for name in sedfit.PROPERTIES for end in ENDS])


def test_equals_the_textbooks_posterior_and_the_best_model_has_the_smallest_chi_square(
    fitted, sample, library
):
    assert sample["mask"].values.any(axis=1).sum() > 3 and (sample["flux"].values < 0).sum() > 20
    theirs = fit_one_by_one(sample, library).transpose(1, 2, 0).reshape(9, -1)
    np.testing.assert_allclose(columns(fitted), theirs, atol=0.012)
    assert np.median(np.abs(columns(fitted) - theirs)) < 0.004
    row = int(np.argmax(sample["mask"].values.any(axis=1)))
    z, used = float(sample["redshift"][row]), ~sample["mask"].values[row]
    models = sedfit.place_library(library, z).double().numpy()[:, used]
    flux, error = (sample[name].values[row, used].astype(float) for name in ("flux", "flux_error"))
    variance = error**2 + (0.1 * np.maximum(flux, 0)) ** 2
    amplitude = np.maximum((models * flux / variance).sum(1) / (models**2 / variance).sum(1), 0)
    chi2 = ((flux - amplitude[:, None] * models) ** 2 / variance).sum(1)
    assert fitted["best_model"][row] == chi2.argmin()
    np.testing.assert_allclose(fitted["chi2_fit"][row], chi2.min(), rtol=1e-6)
    # No model is older than the universe.
    age = library["age_form"].values[fitted["best_model"].values]
    assert (age <= age_of_universe(fitted["redshift"].values)).all()
    assert len(sedfit.place_library(library, 0.2)) < len(sedfit.place_library(library, 0.05))


def test_finds_a_model_of_the_library_again(library):
    models, z = np.array([400, 1500, 2200, 3500]), float(library["redshift"][2])
    flux = library["flux"].values[2, models].astype(float) * 10.0**10.5
    flux *= (REFERENCE_MPC / luminosity_distance(z)) ** 2
    fluxes = {"flux": flux, "flux_error": 0.05 * flux}
    columns = {name: (("galaxy", "band"), values, {"units": "Jy"}) for name, values in fluxes.items()}
    galaxies = xr.Dataset(columns, coords={"band": library["band"].values})
    found = fit(galaxies.assign(redshift=("galaxy", np.full(4, z))), library, model_error=0.0)
    np.testing.assert_array_equal(found["best_model"], models)
    np.testing.assert_allclose(found["log_amplitude_fit"], 10.5, atol=1e-5)
    assert found["chi2_fit"].values.max() < 1e-6


def test_calibrated_on_galaxies_drawn_from_the_prior(averages, library):
    """Where errors are wide beside the distance between models, 68% of the truths lie within 16-84%."""
    rng = np.random.default_rng(11)
    models = sedfit.draw_models(3000, age=averages.grid.age, seed=8)
    models = models.isel(galaxy=models["age_form"].values < age_of_universe(0.1))
    n = models.sizes["galaxy"]
    mass = models["mass_formed"] * xr.DataArray(10 ** rng.uniform(8, 13, n), dims="galaxy")
    placed = models.assign(mass_formed=mass, redshift=("galaxy", np.full(n, 0.1)))
    seen = measure_photometry(placed, averages, progress=False)
    seen = seen.sel(band=["FUV", "u", "g", "r", "K", "W3", "S250"])
    typical = (seen["flux"] / 10 ** seen["log_mass"]).median("galaxy") * 10**10.5
    seen["flux_error"] = seen["flux"] * 0 + typical
    seen["flux"] = seen["flux"] + seen["flux_error"] * rng.standard_normal(seen["flux"].shape)
    total = ((seen["flux"] / typical) ** 2).sum("band")  # chosen by what is seen, so no bias by choice
    seen = seen.isel(galaxy=np.flatnonzero((total > 30) & (total < 300)))
    scores, n = sedfit.score_fit(fit(seen, library, model_error=0.0)), seen.sizes["galaxy"]
    np.testing.assert_allclose(scores["coverage"], 0.68, atol=0.02 + 3 * np.sqrt(0.68 * 0.32 / n))
    np.testing.assert_allclose(scores["bias"], 0, atol=4 * scores["half_width"].max() / n**0.5)


def test_the_amplitudes_error_is_in_the_percentiles(sample, library):
    """Quadrature gives what drawing the amplitude of every model from its own posterior gives."""
    row = sample.isel(galaxy=[7]).sel(band=["g", "r", "i", "S250"])
    row["flux_error"] = 0.25 * np.abs(row["flux"])
    found, z = fit(row.drop_vars("mask"), library), float(row["redshift"][0])
    models = sedfit.place_library(library, z, bands=row["band"].values).double().numpy() * 1e-9
    models *= (REFERENCE_MPC / luminosity_distance(z)) ** 2
    flux, error = row["flux"].values[0], row["flux_error"].values[0]
    inverse = 1 / (error**2 + (0.1 * flux.clip(0)) ** 2)
    curvature = (models**2 * inverse).sum(1)
    best = (models * flux * inverse).sum(1) / curvature
    chi2 = ((flux - best[:, None] * models) ** 2 * inverse).sum(1)
    deviates = np.random.default_rng(0).standard_normal((best.size, 50))
    drawn = best[:, None] + deviates / np.sqrt(curvature)[:, None]
    values = np.log10(np.maximum(drawn, 1e-30)) + library["log_mass"].values[: best.size, None]
    weight = np.broadcast_to(np.exp(-0.5 * (chi2 - chi2.min()))[:, None], values.shape).ravel()
    order = np.argsort(values.ravel())
    cumulative = np.cumsum(weight[order])
    theirs = values.ravel()[order][np.searchsorted(cumulative, np.array([0.5, 0.16, 0.84]) * cumulative[-1])]
    np.testing.assert_allclose([float(found["log_mass" + end][0]) for end in ENDS], theirs, atol=0.02)


def test_units_batches_orders_and_missing_bands_do_not_matter_and_fewer_say_less(fitted, sample, library):
    ten = fit(sample.assign(flux=10 * sample.flux, flux_error=10 * sample.flux_error), library)
    np.testing.assert_allclose(columns(ten), columns(fitted) + 1, atol=0.006)
    rng = np.random.default_rng(0)
    order, bands = rng.permutation(60), rng.permutation(21)
    mixed = fit(sample.isel(galaxy=order, band=bands), library, batch_size=7)
    np.testing.assert_allclose(columns(mixed), columns(fitted)[:, order], atol=1e-3)
    np.testing.assert_array_equal(mixed["best_model"], fitted["best_model"][order])
    gap = sample["mask"].copy()
    gap.loc[{"band": ["W4", "S500"]}] = True
    flux = sample["flux"].where(sample["band"] != "W4", 1e3).where(sample["band"] != "S500", np.nan)
    masked, without = fit(sample.assign(mask=gap, flux=flux), library), sample.drop_sel(band=["W4", "S500"])
    np.testing.assert_allclose(columns(masked), columns(fit(without, library)), atol=1e-3)
    optical = fit(sample.sel(band=list("ugriz")), library)
    wide, narrow = sedfit.score_fit(optical)["half_width"], sedfit.score_fit(fitted)["half_width"]
    assert (wide.values > 1.2 * narrow.values).all()


def test_what_cannot_be_fitted_is_named_and_counted(sample, library):
    few = sample.isel(galaxy=slice(0, 7)).copy(deep=True)
    few["mask"][:] = False
    few["flux"][:] = np.abs(few["flux"].fillna(1e-5)) + 1e-6
    few["flux_error"][:] = 1e-6
    few["redshift"][0] = 0.9
    few["mask"][1, 2:] = True
    few["flux"][2:4] = -few["flux"][2:4]
    few["flux"].values[3, 5], few["flux"].values[6] = 1e-9, 17.3
    few["flux"].values[4, :4] = np.nan, np.nan, few["flux"].values[4, 2], -99.0
    few["flux_error"].values[4, [2, 4]] = 0.0, 9999.0
    found, too_few = fit(few, library), "fewer than 3 bands"
    reasons = ["redshift is not in 0-0.2", too_few, "no flux above zero", "no model has a positive amplitude"]
    assert found["fit_reason"].values.tolist() == [*reasons, "", "", too_few]
    assert np.isnan(columns(found)[:, :4]).all() and np.isfinite(columns(found)[:, 4:6]).all()
    assert found["best_model"].values[:4].tolist() == [-1] * 4
    assert found["n_bands_fit"].values[4:].tolist() == [16, 21, 0]
    assert "5 of 7 galaxies not fitted; fluxes masked: 19; fluxes no data: 2" in found.attrs["history"]
    assert fit(sample.isel(galaxy=[]), library)["log_mass_fit"].shape == (0,)
    other = sample.assign_coords(band="x" + sample["band"].astype(object))
    refused("the library has no bands xFUV", fit, other, library)
    refused("lacks flux", fit, sample.drop_vars("flux"), library)


def test_nearest_models_are_those_of_the_smallest_chi_square(fitted, sample, library):
    few = sample.isel(galaxy=slice(10, 14))
    near = sedfit.nearest_models(few, library, n=4)
    np.testing.assert_array_equal(near["model"][:, 0], fitted["best_model"][10:14])
    assert (np.diff(near["chi2"], axis=1) >= 0).all()
    variance = few["flux_error"] ** 2 + (0.1 * few["flux"].clip(0)) ** 2
    chi2 = ((few["flux"] - near["model_flux"]) ** 2 / variance).where(~few["mask"]).sum("band")
    np.testing.assert_allclose(chi2, near["chi2"], rtol=2e-3, atol=0.02)
    with pytest.raises(ValueError, match="row 0: redshift is not in"):
        sedfit.nearest_models(few.assign(redshift=few["redshift"] + 1), library)


def test_scores_and_spreads_are_those_put_in():
    n = 4001
    true, apart = np.linspace(9, 11, n), np.random.default_rng(2).normal(0.1, 0.2, n)
    ends = {"": true, "_fit": true + apart, "_fit_low": true + apart - 0.2, "_fit_high": true + apart + 0.2}
    table = xr.Dataset({name + end: ("galaxy", v) for name in sedfit.PROPERTIES for end, v in ends.items()})
    scores = sedfit.score_fit(table).isel(property=0)
    for name, expected in {"bias": 0.1, "scatter": 0.2, "half_width": 0.2}.items():
        assert float(scores[name]) == pytest.approx(expected, abs=0.01)
    np.testing.assert_allclose(scores["r2"], 1 - np.mean(apart**2) / true.var())
    assert scores["n"] == n and scores["coverage"] == np.mean(np.abs(apart) <= 0.2)
    rng = np.random.default_rng(0)
    rate = np.append(rng.uniform(-2, 1, 30_000), -3.7)
    scatter = np.where(rate < -0.5, 0.4, 0.1)
    rows = {"log_sfr": 0 * rate, "log_sfr_fit": rate, "is_quiescent": rate < -0.1}
    rows |= {"log_sfr_fit_low": rate - scatter, "log_sfr_fit_high": rate + scatter}
    rows |= {"log_sfr_arbitrary": scatter * rng.standard_normal(rate.size), "log_sfr_deep": 0 * rate}
    table = xr.Dataset({name: ("galaxy", values) for name, values in rows.items()})
    predicted, of_truth = (v + s * rng.standard_normal(rate.size) for v, s in ((rate, 0.05), (0, 0.02)))
    found = sedfit.trace_scatter(table, table, predicted, of_truth=of_truth)
    assert list(found) == ["all", "star-forming", "quiescent"] and len(found["all"]) == 6
    for name, expected in {"network - fit": 0.05, "network taught by truth - truth": 0.02}.items():
        np.testing.assert_allclose(found["all"][name][1][1:], expected, rtol=0.05)
    middles, spread = found["all"]["fit - fit with other models"]
    np.testing.assert_allclose(middles, [-3.75, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75])
    assert np.isnan(spread[0])
    np.testing.assert_allclose(spread[1:], [0.4] * 3 + [0.1] * 3, rtol=0.05)
    np.testing.assert_allclose(found["all"]["error stated by the fit"][1][1:], [0.4] * 3 + [0.1] * 3)
    np.testing.assert_array_equal(found["star-forming"]["fit - truth"][0], [-0.25, 0.25, 0.75])


def width(values):
    return np.diff(np.percentile(values, (16, 84)))


def test_less_noise_brings_fits_nearer_to_the_truth_and_fewer_models_are_more_arbitrary(averages, library):
    galaxies = draw_gama(400, averages=averages, seed=3, redshift_range=(0.02, 0.2))
    population = fit(observe_gama(galaxies, seed=4, facilities={}), library)
    again = sedfit.fit_again(population, library)
    for name in ("log_sfr", "log_dust_luminosity"):
        true, plain, deep = population[name], population[f"{name}_fit"], again[f"{name}_deep"]
        assert width(deep - true) < 0.9 * width(plain - true)
    eighth = library.isel(model=slice(0, None, 8))
    few, scaled = sedfit.fit_again(population, eighth), sedfit.fit_again(population, eighth, n_models=6000)
    for name in ("log_mass_arbitrary", "log_sfr_arbitrary"):
        assert 1.5 < width(few[name]) / width(again[name]) < 2 * np.sqrt(8)
        np.testing.assert_allclose(scaled[name] * np.sqrt(8), few[name])
    refused("lacks true_flux", sedfit.fit_again, population.drop_vars("true_flux"), library)
