"""GAMA in a mock: photometry equal to sedpy's on whole spectra; what is taken, how noisy and how complete bands are."""

import numpy as np
import xarray as xr
from astropy import constants
from astropy import units as u
from astropy.cosmology import Planck18
from sedpy.observate import load_filters as load_sedpy

from spectool.surveys import gama, photometry
from spectool.surveys.gama import BANDS, aperture_radius, draw_gama, load_filters, observe_gama, redraw_gama
from spectool.surveys.photometry import luminosity_distance, make_band_averages, measure_photometry
from spectool.synth import SSPGrid, synthesize
from tests.refusals import refused
from tests.surveys.conftest import has_units

INFRARED = ("P100", "P160", "S250", "S350", "S500")


def sedpy_flux(galaxies, grid, wavelength, names, **options):
    """Fluxes [Jy] by the long way: a spectrum per galaxy, redshifted, and sedpy's integration."""
    options = {"dust_emission": True, "progress": False} | options
    spectra = synthesize(galaxies, grid, wavelength=wavelength, **options)
    curves = load_sedpy([BANDS[name].curve for name in names])
    to_cgs = u.Lsun.to(u.erg / u.s) / (4 * np.pi * u.Mpc.to(u.cm) ** 2)
    fluxes = []
    for z, luminosity in zip(galaxies["redshift"].values, spectra["flux"].values.astype(float), strict=True):
        density = luminosity * to_cgs / (1 + z) / Planck18.luminosity_distance(z).value ** 2
        observed = spectra["wavelength"].values * (1 + z)
        fluxes.append([3631 * 10 ** (-0.4 * curve.ab_mag(observed, density)) for curve in curves])
    return np.array(fluxes)


def without_dust(galaxies):
    return galaxies.assign(dust1=0 * galaxies["dust1"], dust2=0 * galaxies["dust2"])


def magnitudes_apart(ours, theirs):
    return np.abs(2.5 * np.log10(ours / theirs))


# sedpy draws straight lines between pixels: from far UV to 22 micron they must be finer than the grid's R = 200
FINE = np.geomspace(912.5, 9.9e6, 10_000)


def test_equals_sedpy_on_whole_spectra_however_dusty(galaxies, averages, broadband):
    ours = measure_photometry(galaxies, averages, progress=False)["flux"]
    short = [name for name in BANDS if name not in INFRARED]
    for bands, wavelength, most in ((short, FINE, 0.01), (list(INFRARED), None, 0.02)):
        theirs = sedpy_flux(galaxies, broadband, wavelength, bands)
        assert magnitudes_apart(ours.sel(band=bands), theirs).max() < most
    few, one = galaxies.isel(galaxy=slice(0, 40, 4)), xr.ones_like(galaxies["dust1"][::4])
    dusty = few.assign(dust1=1.5 * one, dust2=1.5 * one, dust_index=-1.0 * one)
    bands = ["FUV", "NUV", "u", "r", "W3"]
    ours = measure_photometry(dusty, averages, progress=False)["flux"].sel(band=bands)
    assert magnitudes_apart(ours, sedpy_flux(dusty, broadband, FINE, bands)).max() < 0.01


def test_without_dust_and_gas(galaxies, broadband, filters):
    chosen = {name: filters[name] for name in ("r", "J", "S250")}
    stars = make_band_averages(broadband, chosen, nebular=False, step=0.01)
    bare = without_dust(galaxies).drop_vars(["log_z_gas", "log_u"])
    result = measure_photometry(bare, stars, progress=False)
    assert np.isneginf(result["log_dust_luminosity"]).all()
    theirs = sedpy_flux(bare, broadband, None, list(chosen), nebular=False, dust_emission=False)
    assert magnitudes_apart(result["flux"], theirs).max() < 0.01


def test_a_source_flat_in_frequency_is_equal_in_all_bands(galaxies, broadband, filters):
    per_hertz = 1e-12 * u.Lsun / u.Hz
    per_angstrom = (per_hertz * constants.c / (broadband.wavelength * u.AA) ** 2).to_value(u.Lsun / u.AA)
    flux = np.broadcast_to(per_angstrom.astype("f4"), broadband.flux.shape)
    flat = SSPGrid(**{**vars(broadband), "flux": flux})
    averages = make_band_averages(flat, filters, nebular=False, highest_redshift=0.1, step=0.05)
    one = without_dust(galaxies).assign(redshift=0 * galaxies["dust1"] + 0.07)
    flux = measure_photometry(one, averages, progress=False)["flux"].values
    total = one["mass_formed"].sum("age").values[:, None]
    expected = 1.07 * per_hertz / (4 * np.pi * Planck18.luminosity_distance(0.07) ** 2)
    assert np.allclose(flux / total, expected.to_value(u.Jy), rtol=1e-3)


def test_energy_absorbed_is_the_dust_luminosity(galaxies, averages, broadband):
    width = np.diff(broadband.edges)
    both = (synthesize(g, broadband, progress=False)["flux"] for g in (without_dust(galaxies), galaxies))
    lost = [flux.values.astype(float) @ width for flux in both]
    ours = 10 ** measure_photometry(galaxies, averages, progress=False)["log_dust_luminosity"]
    assert np.allclose(ours, lost[0] - lost[1], rtol=2e-3)


def test_order_batches_mass_and_constant_histories(galaxies, averages, monkeypatch):
    whole = measure_photometry(galaxies, averages, progress=False)
    monkeypatch.setattr(photometry, "_BATCH", 7)
    turned = measure_photometry(galaxies.isel(galaxy=slice(None, None, -1)), averages, progress=False)
    monkeypatch.undo()
    assert np.allclose(turned["flux"].values[::-1], whole["flux"], rtol=1e-4)
    heavy = galaxies.assign(mass_formed=2 * galaxies["mass_formed"])
    double = measure_photometry(heavy, averages, progress=False)
    assert np.allclose(double["flux"], 2 * whole["flux"], rtol=1e-5)
    assert np.allclose(double["log_mass"] - whole["log_mass"], np.log10(2))
    history = galaxies.assign(log_z_star=galaxies["log_z_star"].broadcast_like(galaxies["mass_formed"]))
    constant = measure_photometry(history, averages, progress=False)
    assert np.allclose(constant["flux"], whole["flux"], rtol=1e-4)
    assert has_units(whole) and list(whole["band"].values) == list(BANDS)
    assert {"log_dust_luminosity", "dust2"} <= set(whole.data_vars) and "mass_formed" not in whole


def test_bad_galaxies_are_named(galaxies, averages):
    few, bare = galaxies.isel(age=slice(0, 50)), galaxies.drop_vars("qpah")
    refused("50 age bins, the grid 83", measure_photometry, few, averages, progress=False)
    refused("galaxies lack the columns qpah", measure_photometry, bare, averages, progress=False)
    for name, value, message in (
        ("dust2", np.nan, "dust2 is not finite for 1 galaxies, the first is row 5"),
        ("redshift", 0.7, "1 galaxies lie outside, the first is row 5 at z = 0.7.*highest_redshift"),
        ("redshift", 0.0, "redshifts above 0 to 0.5.*row 5"),
        ("dust1", -0.1, "dust1 holds negative values, the first in row 5"),
    ):
        bad = galaxies.copy(deep=True)
        bad[name].values[5] = value
        refused(message, measure_photometry, bad, averages, progress=False)


POOR = ("W4", "P100", "P160", "S500")
GOOD = ("g", "r", "i", "z", "X", "Y", "J", "H", "K")


def test_bands_are_those_of_the_paper_and_distances_of_planck18():
    z = np.array([0.001, 0.01, 0.05, 0.2, 0.5])
    assert np.allclose(luminosity_distance(z), Planck18.luminosity_distance(z).value, rtol=1e-4)
    assert len(BANDS) == 21 and list(load_filters(["FUV", "S500"])) == ["FUV", "S500"]
    magnitude = {name: -2.5 * np.log10(5 * band.noise / 3631) for name, band in BANDS.items()}
    assert np.isclose(magnitude["r"], 22.2) and np.isclose(magnitude["FUV"], 22.6)


def test_a_magnitude_limited_survey(gama_sample, averages):
    magnitude = -2.5 * np.log10(gama_sample["flux"].sel(band="r") / 3631)
    assert float(magnitude.max()) < 19.8 and gama_sample.sizes == {"galaxy": 1500, "band": 21}
    assert 0.1 < float(gama_sample["redshift"].median()) < 0.3, "GAMA's median is 0.2"
    again = draw_gama(20, averages=averages, seed=3)
    xr.testing.assert_identical(again.drop_attrs(), gama_sample.isel(galaxy=slice(0, 20)).drop_attrs())


def test_galaxies_are_drawn_again_by_number(gama_sample, averages, monkeypatch):
    some = gama_sample.isel(galaxy=[0, 3, 1400, 1499])
    again = redraw_gama(some["candidate"].values, averages=averages, seed=3)
    assert int(some["candidate"][-1]) >= gama._BLOCK
    xr.testing.assert_allclose(again, some, rtol=1e-5)
    for wrong in ([], [5, 4], [-1, 2]):
        refused("must rise", redraw_gama, wrong, averages=averages, seed=3)
    monkeypatch.setattr(gama, "_BLOCK", 16)
    monkeypatch.setattr(gama, "R_LIMIT", 5.0)
    refused("none of 256 galaxies is brighter than r = 5", draw_gama, 1, averages=averages, seed=0)


def test_errors_have_floors_and_poor_bands_are_those_of_the_papers_figure_3(gama_sample):
    seen = observe_gama(gama_sample, seed=4, facilities={})
    noise, floor = ([getattr(BANDS[name], key) for name in BANDS] for key in ("noise", "calibration"))
    assert (seen["flux_error"] >= floor * seen["true_flux"] * 0.999).all()
    assert (seen["flux_error"] > np.array(noise)).all()
    low = ((seen["flux"] / seen["flux_error"]) < 3).mean("galaxy")
    assert float(low.sel(band=list(POOR)).min()) > 0.8 and float(low.sel(band=list(GOOD)).max()) < 0.1
    assert set(low["band"].values[np.argsort(-low.values)[:4]]) == set(POOR)


def test_gaps_are_masked_and_nan_and_negative_fluxes_kept_or_zero(gama_sample):
    seen = observe_gama(gama_sample, seed=5)
    gaps = seen["mask"]
    np.testing.assert_array_equal(np.isfinite(seen["flux"]), ~gaps)
    assert not gaps.sel(band=["u", "g", "r", "i", "z", "J", "K", "W1"]).any()
    assert np.isclose(gaps.sel(band="NUV").mean(), 0.1, atol=0.03)
    assert (gaps.sel(band="FUV") | ~gaps.sel(band="NUV")).all(), "where GALEX did not look, both are missing"
    all_gone = observe_gama(gama_sample, seed=5, facilities={"Herschel": (0.0, {})})["mask"]
    assert all_gone.sel(band=["P100", "S250", "S500"]).all() and all_gone.sum() == 5 * 1500
    kept, zeroed = (observe_gama(gama_sample, seed=6, negative=option) for option in ("keep", "zero"))
    below = (kept["flux"] < 0).values
    assert below.any()
    np.testing.assert_array_equal(zeroed["flux"], np.where(below, 0, kept["flux"]))
    np.testing.assert_array_equal(zeroed["flux_error"], kept["flux_error"])


def test_apertures_grow_with_mass_and_nearness():
    columns = {"redshift": [0.05, 0.05, 0.4], "log_mass": np.log10([5e10, 5e9, 5e10])}
    columns["is_quiescent"] = [False] * 3
    galaxies = xr.Dataset({name: ("galaxy", values) for name, values in columns.items()})
    radius = np.mean([aperture_radius(galaxies, seed=s) for s in range(300)], axis=0)
    kpc = 2.5 * 10**0.86 * np.exp(0.5 * (0.16 * np.log(10)) ** 2)
    assert np.isclose(radius[0], kpc / Planck18.kpc_proper_per_arcmin(0.05).value * 60, rtol=0.05)
    assert radius[1] < radius[0] > radius[2]
