"""GAMA in a mock: photometry equal to sedpy's on whole spectra; what is taken, how noisy and how complete bands are."""

import numpy as np
import pytest
import xarray as xr
from astropy import constants
from astropy import units as u
from astropy.cosmology import Planck18
from sedpy.observate import load_filters as load_sedpy

from spectool.surveys import gama, photometry
from spectool.surveys.gama import BANDS, aperture_radius, draw_gama, load_filters, observe_gama, redraw_gama
from spectool.surveys.photometry import luminosity_distance, make_band_averages, measure_photometry
from spectool.synth import SSPGrid, synthesize

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


def magnitudes_apart(ours, theirs):
    return np.abs(2.5 * np.log10(ours / theirs))


def test_equals_sedpy_on_whole_spectra(galaxies, averages, broadband):
    ours = measure_photometry(galaxies, averages, progress=False)
    # sedpy draws straight lines between pixels: from far UV to 22 micron they must be finer than the grid's R = 200
    fine = np.geomspace(912.5, 9.9e6, 10_000)
    short = [name for name in BANDS if name not in INFRARED]
    apart = magnitudes_apart(ours["flux"].sel(band=short), sedpy_flux(galaxies, broadband, fine, short))
    assert apart.max() < 0.01
    apart = magnitudes_apart(
        ours["flux"].sel(band=list(INFRARED)), sedpy_flux(galaxies, broadband, None, INFRARED)
    )
    assert apart.max() < 0.02


def test_very_dusty_galaxies_equal_sedpy_too(galaxies, averages, broadband):
    few, one = galaxies.isel(galaxy=slice(0, 40, 4)), xr.ones_like(galaxies["dust1"][::4])
    dusty = few.assign(dust1=1.5 * one, dust2=1.5 * one, dust_index=-1.0 * one)
    ours = measure_photometry(dusty, averages, progress=False)["flux"].sel(
        band=["FUV", "NUV", "u", "r", "W3"]
    )
    theirs = sedpy_flux(dusty, broadband, np.geomspace(912.5, 9.9e6, 10_000), ours["band"].values)
    assert magnitudes_apart(ours, theirs).max() < 0.01


def test_without_dust_and_gas(galaxies, broadband, filters):
    chosen = {name: filters[name] for name in ("r", "J", "S250")}
    stars = make_band_averages(broadband, chosen, nebular=False, step=0.01)
    bare = galaxies.assign(dust1=0 * galaxies["dust1"], dust2=0 * galaxies["dust2"]).drop_vars(
        ["log_z_gas", "log_u"]
    )
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
    zero = 0 * galaxies["dust1"]
    one = galaxies.assign(dust1=zero, dust2=zero, redshift=zero + 0.07)
    flux = measure_photometry(one, averages, progress=False)["flux"].values
    total = one["mass_formed"].sum("age").values[:, None]
    expected = 1.07 * per_hertz / (4 * np.pi * Planck18.luminosity_distance(0.07) ** 2)
    assert np.allclose(flux / total, expected.to_value(u.Jy), rtol=1e-3)


def test_energy_absorbed_is_the_dust_luminosity(galaxies, averages, broadband):
    bare = galaxies.assign(dust1=0 * galaxies["dust1"], dust2=0 * galaxies["dust2"])
    width = np.diff(broadband.edges)
    lost = [
        synthesize(g, broadband, progress=False)["flux"].values.astype(float) @ width
        for g in (bare, galaxies)
    ]
    ours = 10 ** measure_photometry(galaxies, averages, progress=False)["log_dust_luminosity"]
    assert np.allclose(ours, lost[0] - lost[1], rtol=2e-3)


def test_order_batches_and_mass(galaxies, averages, monkeypatch):
    whole = measure_photometry(galaxies, averages, progress=False)
    monkeypatch.setattr(photometry, "_BATCH", 7)
    turned = measure_photometry(galaxies.isel(galaxy=slice(None, None, -1)), averages, progress=False)
    monkeypatch.undo()
    assert np.allclose(turned["flux"].values[::-1], whole["flux"], rtol=1e-4)
    double = measure_photometry(
        galaxies.assign(mass_formed=2 * galaxies["mass_formed"]), averages, progress=False
    )
    assert np.allclose(double["flux"], 2 * whole["flux"], rtol=1e-5)
    assert np.allclose(double["log_mass"] - whole["log_mass"], np.log10(2))


def test_a_metallicity_history_of_one_value_is_the_constant(galaxies, averages):
    history = galaxies.assign(log_z_star=galaxies["log_z_star"].broadcast_like(galaxies["mass_formed"]))
    assert np.allclose(
        measure_photometry(history, averages, progress=False)["flux"],
        measure_photometry(galaxies, averages, progress=False)["flux"],
        rtol=1e-4,
    )


def test_the_result_is_a_sample_with_units_and_truths(galaxies, averages):
    result = measure_photometry(galaxies, averages, progress=False)
    assert result["flux"].dims == ("galaxy", "band")
    assert list(result["band"].values) == list(BANDS)
    for name in result.variables:
        if result[name].dtype.kind == "f":
            u.Unit(result[name].attrs["units"])
    assert {"log_mass", "log_sfr", "log_dust_luminosity", "redshift", "dust2"} <= set(result.data_vars)
    assert "mass_formed" not in result and "age" not in result.dims


def test_distances_are_those_of_planck18():
    z = np.array([0.001, 0.01, 0.05, 0.2, 0.5])
    assert np.allclose(luminosity_distance(z), Planck18.luminosity_distance(z).value, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dust2": np.nan}, r"dust2 is not finite for 1 galaxies, the first is row 5"),
        ({"redshift": 0.7}, r"1 galaxies lie outside, the first is row 5 at z = 0.7.*highest_redshift"),
        ({"redshift": 0.0}, r"redshifts above 0 to 0.5.*row 5"),
        ({"dust1": -0.1}, r"dust1 holds negative values, the first in row 5"),
    ],
)
def test_bad_galaxies_are_named(galaxies, averages, change, message):
    bad = galaxies.copy(deep=True)
    for name, value in change.items():
        bad[name].values[5] = value
    with pytest.raises(ValueError, match=message):
        measure_photometry(bad, averages, progress=False)


def test_what_is_missing_or_does_not_fit_is_named(galaxies, averages, grid, filters):
    with pytest.raises(ValueError, match="galaxies lack the columns qpah"):
        measure_photometry(galaxies.drop_vars("qpah"), averages, progress=False)
    with pytest.raises(ValueError, match="bands need a grid into the infrared"):
        make_band_averages(grid, filters)
    short = galaxies.isel(age=slice(0, 50))
    with pytest.raises(ValueError, match="50 age bins, the grid 83"):
        measure_photometry(short, averages, progress=False)
    with pytest.raises(ValueError, match="band 'radio' sees"):
        make_band_averages(averages.grid, {"radio": (np.array([1e8, 2e8]), np.ones(2))})
    with pytest.raises(ValueError, match="band 'dark' transmits nothing"):
        make_band_averages(averages.grid, {"dark": (np.array([4000.0, 5000.0]), np.zeros(2))})


POOR = ("W4", "P100", "P160", "S500")
GOOD = ("g", "r", "i", "z", "X", "Y", "J", "H", "K")


@pytest.fixture(scope="module")
def sample(averages):
    return draw_gama(1500, averages=averages, seed=3)


def test_the_bands_are_those_of_the_paper():
    assert len(BANDS) == 21
    filters = load_filters(["FUV", "S500"])
    assert list(filters) == ["FUV", "S500"]
    assert all(wavelength.shape == transmission.shape for wavelength, transmission in filters.values())
    with pytest.raises(ValueError, match="GAMA has no band 'B'"):
        load_filters(["B"])
    magnitude = {name: -2.5 * np.log10(5 * band.noise / 3631) for name, band in BANDS.items()}
    assert np.isclose(magnitude["r"], 22.2) and np.isclose(magnitude["FUV"], 22.6)


def test_a_magnitude_limited_survey(sample, averages):
    assert sample.sizes == {"galaxy": 1500, "band": 21}
    magnitude = -2.5 * np.log10(sample["flux"].sel(band="r") / 3631)
    assert float(magnitude.max()) < 19.8
    assert sample.attrs["n_candidates"] > 1500
    assert 0.1 < float(sample["redshift"].median()) < 0.3, "GAMA's median is 0.2"
    again = draw_gama(20, averages=averages, seed=3)
    xr.testing.assert_identical(again.drop_attrs(), sample.isel(galaxy=slice(0, 20)).drop_attrs())


def test_galaxies_are_drawn_again_by_number(sample, averages):
    some = sample.isel(galaxy=[0, 3, 1400, 1499])
    again = redraw_gama(some["candidate"].values, averages=averages, seed=3)
    assert int(some["candidate"][-1]) >= gama._BLOCK
    xr.testing.assert_allclose(again, some, rtol=1e-5)
    for wrong in ([], [5, 4], [-1, 2]):
        with pytest.raises(ValueError, match="must rise"):
            redraw_gama(wrong, averages=averages, seed=3)


def test_a_limit_that_no_galaxy_reaches_ends(averages, monkeypatch):
    monkeypatch.setattr(gama, "_BLOCK", 16)
    monkeypatch.setattr(gama, "R_LIMIT", 5.0)
    with pytest.raises(ValueError, match="none of 256 galaxies is brighter than r = 5"):
        draw_gama(1, averages=averages, seed=0)


def test_noise_is_as_large_as_its_error_says(sample):
    seen = observe_gama(sample, seed=4, facilities={})
    assert not seen["mask"].any()
    deviate = ((seen["flux"] - seen["true_flux"]) / seen["flux_error"]).values
    assert np.allclose(deviate.mean(axis=0), 0, atol=4.5 / np.sqrt(1500))
    assert np.allclose(deviate.std(axis=0), 1, atol=0.08)
    floor = np.array([BANDS[name].calibration for name in seen["band"].values])
    assert (seen["flux_error"] >= floor * seen["true_flux"] * 0.999).all()
    assert (seen["flux_error"] > np.array([BANDS[name].noise for name in seen["band"].values])).all()


def test_the_poor_bands_are_those_of_the_papers_figure_3(sample):
    seen = observe_gama(sample, seed=4, facilities={})
    low = ((seen["flux"] / seen["flux_error"]) < 3).mean("galaxy")
    assert float(low.sel(band=list(POOR)).min()) > 0.8
    assert float(low.sel(band=list(GOOD)).max()) < 0.1
    assert set(low["band"].values[np.argsort(-low.values)[:4]]) == set(POOR)


def test_gaps_are_masked_and_nan(sample):
    seen = observe_gama(sample, seed=5)
    gaps = seen["mask"]
    assert (
        np.isnan(seen["flux"].values[gaps.values]).all()
        and np.isfinite(seen["flux"].values[~gaps.values]).all()
    )
    assert not gaps.sel(band=["u", "g", "r", "i", "z", "J", "K", "W1"]).any()
    assert np.isclose(gaps.sel(band="NUV").mean(), 0.1, atol=0.03)
    assert (gaps.sel(band="FUV") | ~gaps.sel(band="NUV")).all(), "where GALEX did not look, both are missing"
    all_gone = observe_gama(sample, seed=5, facilities={"Herschel": (0.0, {})})["mask"]
    assert all_gone.sel(band=["P100", "S250", "S500"]).all() and all_gone.sum() == 5 * 1500


def test_negative_fluxes_are_kept_or_zero(sample):
    kept, zeroed = (observe_gama(sample, seed=6, negative=option) for option in ("keep", "zero"))
    below = (kept["flux"] < 0).values
    assert below.any()
    assert (zeroed["flux"].values[below] == 0).all()
    assert np.array_equal(zeroed["flux"].values[~below], kept["flux"].values[~below], equal_nan=True)
    assert np.array_equal(zeroed["flux_error"], kept["flux_error"], equal_nan=True)
    with pytest.raises(ValueError, match="'keep' or 'zero'"):
        observe_gama(sample, seed=6, negative="drop")


def test_the_same_seed_gives_the_same_bytes_and_units_are_readable(sample):
    one, two = observe_gama(sample, seed=7), observe_gama(sample, seed=7)
    xr.testing.assert_identical(one, two)
    assert not np.array_equal(one["flux"], observe_gama(sample, seed=8)["flux"], equal_nan=True)
    for name in ("flux", "flux_error", "true_flux", "log_mass", "log_sfr", "log_dust_luminosity"):
        u.Unit(one[name].attrs["units"])
    assert u.Unit(one["flux"].attrs["units"]) == u.Jy


def test_apertures_grow_with_mass_and_nearness():
    galaxies = xr.Dataset(
        {
            "redshift": ("galaxy", [0.05, 0.05, 0.4]),
            "log_mass": ("galaxy", np.log10([5e10, 5e9, 5e10])),
            "is_quiescent": ("galaxy", [False, False, False]),
        }
    )
    radius = np.mean([aperture_radius(galaxies, seed=s) for s in range(300)], axis=0)
    kpc = 2.5 * 10**0.86 * np.exp(0.5 * (0.16 * np.log(10)) ** 2)
    assert np.isclose(radius[0], kpc / Planck18.kpc_proper_per_arcmin(0.05).value * 60, rtol=0.05)
    assert radius[1] < radius[0] > radius[2]


def test_bands_of_others_are_refused(sample):
    with pytest.raises(ValueError, match="GAMA has no bands IRAC1"):
        observe_gama(sample.assign_coords(band=["IRAC1", *sample["band"].values[1:]]), seed=0)
