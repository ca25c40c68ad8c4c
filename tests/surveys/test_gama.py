"""GAMA in a mock: what is taken, how noisy the bands are, where they are missing."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.cosmology import Planck18

from spectool.surveys import gama
from spectool.surveys.gama import BANDS, aperture_radius, draw_gama, load_filters, observe_gama, redraw_gama

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


def test_depths_are_those_published():
    magnitude = {name: -2.5 * np.log10(5 * band.noise / 3631) for name, band in BANDS.items()}
    assert np.isclose(magnitude["r"], 22.2) and np.isclose(magnitude["FUV"], 22.6)
    assert np.isclose(BANDS["S250"].noise, 7.4e-3)


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
