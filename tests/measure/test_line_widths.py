"""Widths of lines: what `line_spread` says after the telescope, what is measured, and its relation to mass."""

import numpy as np
import pytest
import xarray as xr

from spectool.continuum import stack_wavelength
from spectool.measure.line_spectra import line_spread
from spectool.measure.line_widths import WidthMassRelation, extra_fwhm, fit_width_mass, spectral_fwhm
from spectool.measure.lines_linear import measure_lines_linear
from spectool.papers.scourfield2023.sample import rest_wavelength
from spectool.prepare import resample, to_rest_frame
from spectool.surveys.spectrograph import observe_sdss, sdss_wavelength
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from tests.refusals import refused

CLOUDY = {"Hδ": 4102.888, "Hγ": 4341.68, "Hβ": 4862.678, "Hα": 6564.613}


def test_width_of_the_gas_comes_back_and_blue_lines_are_as_wide_as_they_should_be(grid):
    """Hα sets the width; were Hδ's wrong by the 20 km/s between the arms, its flux would be wrong by 12%."""
    galaxies = draw_population(250, grid_age=grid.age, seed=1, redshift_range=(0.024, 0.05))
    galaxies = galaxies.isel(galaxy=np.flatnonzero(~galaxies["is_quiescent"].values)[:120])
    native = grid.wavelength[(grid.wavelength > 3640) & (grid.wavelength < 8020)]
    rest = synthesize(galaxies, grid, wavelength=native, keep_lines=True, progress=False).drop_dims("age")
    seen = observe_sdss(rest, seed=1, wavelength=sdss_wavelength(3770, 8330), noise=False)
    sample = resample(to_rest_frame(seen), rest_wavelength())
    table = measure_lines_linear(sample, broad=False)
    bright = table["line_sn"].sel(line="Hα").values > 50
    assert bright.sum() > 30
    ratio = (table["gas_dispersion"] / sample["velocity_dispersion"]).values[bright]
    assert np.median(ratio) == pytest.approx(1, abs=0.04)
    places, light = rest["line_wavelength"].values, rest["line_luminosity"].values
    true = {name: light[:, np.abs(places - at).argmin()] for name, at in CLOUDY.items()}
    for name in ("Hδ", "Hγ", "Hβ"):
        decrement = (table["line_flux"].sel(line=name) / table["line_flux"].sel(line="Hα")).values
        clear = table["line_sn"].sel(line=name).values > 10
        assert clear.sum() > 30
        assert np.median(decrement[clear] / (true[name] / true["Hα"])[clear]) == pytest.approx(1, abs=0.025)


def test_a_sample_says_what_its_resolution_is():
    wavelength = np.array([4000.0, 5000.0, 6500.0])
    bare = xr.Dataset(coords={"wavelength": wavelength})
    np.testing.assert_array_equal(line_spread(bare, wavelength), 70.0)
    templates = line_spread(bare.assign_attrs(fwhm=2.5), wavelength)
    np.testing.assert_allclose(templates * wavelength, 2.5 / np.sqrt(8 * np.log(2)) * 299792.458)
    given = bare.assign(lsf_sigma=("wavelength", [90.0, 80.0, 70.0]))
    np.testing.assert_allclose(line_spread(given, np.array([4500.0, 6500.0])), [85.0, 70.0])
    real = line_spread(bare.assign_attrs(survey="SDSS"), wavelength)
    mock = line_spread(bare.assign_attrs(survey="SDSS (simulated)", fwhm=2.5), wavelength)
    assert (np.diff(real) < 0).all()
    assert (mock > np.maximum(real, templates)).all()
    expected = np.hypot(299792.458 / 2.3548 / 1961.3, 69.03 / np.sqrt(12))
    np.testing.assert_allclose(real[1], expected, rtol=1e-3)


DISPERSION = np.array([70.0, 110.0, 140.0, 200.0])
TO_FWHM = np.sqrt(8 * np.log(2))


@pytest.fixture(scope="module")
def galaxies(grid):
    """Stars, absorption, dust and lines, of four known widths."""
    drawn = draw_population(8, grid_age=grid.age, seed=31, redshift_range=(0.03, 0.1))
    drawn = drawn.isel(galaxy=np.flatnonzero(~drawn["is_quiescent"].values)[:4])
    drawn["velocity_dispersion"] = ("galaxy", DISPERSION, {"units": "km / s"})
    return synthesize(drawn, grid, wavelength=stack_wavelength(), progress=False)


@pytest.fixture(scope="module")
def clean(galaxies):
    return spectral_fwhm(galaxies)["spectral_fwhm"]


def with_noise(galaxies, sn, seed=1):
    flux = galaxies["flux"]
    sigma = flux.median("wavelength") / sn + 0 * flux
    noise = sigma.values * np.random.default_rng(seed).standard_normal(flux.shape)
    return galaxies.assign(flux=flux + noise, ivar=sigma**-2.0)


def test_the_width_that_went_in_comes_out_and_noise_scatters_it_by_its_error(clean, grid, galaxies):
    expected = np.hypot(TO_FWHM * DISPERSION, grid.fwhm / 6564.6 * 299792.458)
    np.testing.assert_allclose(clean, expected, rtol=0.03)
    found = [spectral_fwhm(with_noise(galaxies, 20, seed)) for seed in range(8)]
    pull = [(fit["spectral_fwhm"] - clean) / fit["spectral_fwhm_error"] for fit in found]
    assert 0.6 < np.std(pull) < 1.5 and abs(np.mean(pull)) < 0.6


def test_masked_pixels_are_not_looked_at_and_without_lines_there_is_no_width(galaxies, clean):
    spoilt = galaxies.assign(flux=galaxies["flux"].copy(), mask=galaxies["flux"] < 0)
    hit = {"wavelength": slice(2840, 2848)}
    spoilt["flux"][hit] = 1e12
    spoilt["mask"][hit] = True
    spoilt["flux"][{"wavelength": slice(1200, 1204)}] = np.nan
    np.testing.assert_allclose(spectral_fwhm(spoilt)["spectral_fwhm"], clean, rtol=0.01)
    smooth = with_noise(galaxies.assign(flux=xr.ones_like(galaxies["flux"])), 50)
    nothing = galaxies.assign(mask=xr.ones_like(galaxies["flux"], bool))
    for sample in (smooth, nothing):
        assert np.isnan(spectral_fwhm(sample)["spectral_fwhm"]).all()


def test_spectra_that_cannot_be_measured_are_refused(galaxies):
    refused("only 0 pixels within 6480", spectral_fwhm, galaxies.isel(wavelength=slice(0, 2000)))
    observed = galaxies.drop_vars("wavelength")
    observed = observed.assign_coords(observed_wavelength=("wavelength", stack_wavelength()))
    refused("common rest-frame grid", spectral_fwhm, observed)


def stacks(mass, fwhm):
    return xr.Dataset({"log_mass": ("stack", mass), "spectral_fwhm": ("stack", fwhm)})


def test_the_relation_of_width_and_mass_is_found_and_used():
    mass = np.linspace(8.5, 10.9, 25)
    truth = 200 + 20 * (mass - 8.5) + 12 * (mass - 8.5) ** 2
    fwhm = truth + 3 * np.random.default_rng(4).standard_normal(25)
    fwhm[3] = np.nan
    relation = fit_width_mass(stacks(mass, fwhm))
    np.testing.assert_allclose(relation(mass), truth, atol=4)
    assert 1.5 < relation.scatter < 4.5
    assert relation(7.0) == relation.fwhm[0] and relation(12.0) == relation.fwhm[-1]
    extra, above = extra_fwhm(mass, relation)
    np.testing.assert_allclose(np.hypot(extra, relation(mass))[~above], 330)
    assert not extra[above].any() and (relation(mass)[above] > 330).all()
    mass = np.linspace(9, 11, 9)
    assert (np.diff(fit_width_mass(stacks(mass, 250 - 30 * (mass - 10.3) ** 2)).fwhm) >= 0).all()
    refused("only 2 stacks", fit_width_mass, stacks([9.0, 10.0], [200.0, 250.0]))
    # A galaxy without mass gets no correction.
    relation = WidthMassRelation(np.array([9.0, 11.0]), np.array([200.0, 400.0]), 0.0)
    extra, above = extra_fwhm([np.nan, 9.0, 10.9], relation)
    np.testing.assert_allclose(extra, [np.nan, np.sqrt(330**2 - 200**2), 0])
    assert above.tolist() == [False, False, True]
