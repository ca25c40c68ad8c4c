"""A simulated observation has SDSS's pixels, resolution and noise, and the flux that its distance says."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.cosmology import Planck18

from spectool.spectra import sps_wavelength
from spectool.surveys import sdss
from spectool.surveys.sdss import PIXEL_VELOCITY, packaged_spectra, read_sdss


def make_rest(flux, redshift, units="Lsun / Angstrom", wavelength=None, fwhm=2.5):
    wavelength = sps_wavelength() if wavelength is None else wavelength
    redshift = np.atleast_1d(redshift).astype(float)
    return xr.Dataset(
        {
            "flux": (
                ("galaxy", "wavelength"),
                np.broadcast_to(flux, (redshift.size, wavelength.size)),
                {"units": units},
            ),
            "redshift": ("galaxy", redshift),
            "log_mass": ("galaxy", np.full(redshift.size, 10.0)),
        },
        coords={"wavelength": wavelength},
        attrs={"fwhm": fwhm},
    )


def test_pixels_are_those_of_real_spectra():
    mine = sdss.sdss_wavelength()
    real = read_sdss(packaged_spectra()["NGC 3073"])["observed_wavelength"].values
    start = np.argmin(np.abs(real - mine[0]))
    np.testing.assert_allclose(mine, real[start : start + mine.size], rtol=1e-12)
    assert 3800 <= mine[0] < 3801 and 9197 < mine[-1] <= 9200


def test_flux_is_that_of_the_distance():
    redshift = 0.08
    out = sdss.observe_sdss(make_rest(3e6, redshift), seed=0, noise=False, fibre_fraction=0.5)
    sphere = 4 * np.pi * Planck18.luminosity_distance(redshift) ** 2
    expected = (0.5 * 3e6 * u.L_sun / u.AA / sphere / (1 + redshift)).to_value("1e-17 erg / (s cm2 Angstrom)")
    good = ~out["mask"].values
    np.testing.assert_allclose(out["flux"].values[good], expected, rtol=1e-5)
    assert good.all() and out["log_mass"].values[0] == 10


@pytest.mark.parametrize("fwhm", [1.0, 2.5])
@pytest.mark.parametrize("observed", [4500.0, 5500.0, 6600.0, 8000.0])
def test_a_line_gets_the_instruments_width(observed, fwhm):
    """Templates are blurred to SDSS's width, to 2%, or keep their own if larger; the line's flux is kept."""
    redshift = 0.12
    centre, sigma = observed / (1 + redshift), fwhm * sdss.FWHM_TO_SIGMA
    rest = np.arange(3000.0, 9000.0, 0.3)
    line = np.exp(-0.5 * ((rest - centre) / sigma) ** 2) * 1e8
    out = sdss.observe_sdss(make_rest(line, redshift, wavelength=rest, fwhm=fwhm), seed=0, noise=False)
    wavelength, flux = out["observed_wavelength"].values, out["flux"].values[0].astype(float)
    near = np.abs(wavelength - observed) < 25
    x, f = np.log(wavelength[near]) * 299792.458, flux[near]
    mean = (x * f).sum() / f.sum()
    width = np.sqrt(((x - mean) ** 2 * f).sum() / f.sum())
    at_line = np.interp(observed, wavelength, out["lsf_sigma"].values)
    templates = np.hypot(sigma / centre * 299792.458, PIXEL_VELOCITY / np.sqrt(12))
    assert width == pytest.approx(max(at_line, templates), rel=0.02)
    expected = sdss.luminosity_to_flux(np.array([redshift]))[0] * 0.3 * (1 + redshift)
    assert np.trapezoid(f, wavelength[near]) == pytest.approx(expected * np.trapezoid(line, rest), rel=2e-3)


def test_noise_is_what_ivar_says_and_independent_of_batches():
    rest = make_rest(2e7, np.linspace(0.05, 0.2, 60))
    clean = sdss.observe_sdss(rest, seed=5, noise=False)
    noisy = sdss.observe_sdss(rest, seed=5, batch_size=7)
    pull = (noisy["flux"] - clean["flux"]).values * np.sqrt(clean["ivar"].values)
    good = ~clean["mask"].values
    n = good.sum()
    assert pull[good].mean() == pytest.approx(0, abs=4 / np.sqrt(n))
    assert pull[good].std() == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    again = sdss.observe_sdss(rest, seed=5, batch_size=60)
    np.testing.assert_array_equal(noisy["flux"], again["flux"])


def test_a_seed_per_galaxy_lets_each_be_observed_alone():
    rest = make_rest(2e7, np.linspace(0.05, 0.2, 6))
    seeds = np.array([[7, k] for k in range(6)])
    together = sdss.observe_sdss(rest, seed=seeds, keep_truth=True)
    alone = sdss.observe_sdss(rest.isel(galaxy=[4, 1]), seed=seeds[[4, 1]])
    np.testing.assert_array_equal(together["flux"][[4, 1]], alone["flux"])
    clean = sdss.observe_sdss(rest, seed=0, noise=False)
    np.testing.assert_array_equal(together["truth"], clean["flux"])
    assert together["truth"].attrs["units"] == together["flux"].attrs["units"]
    assert (together["flux"][0] - together["truth"][0]).std() > 0.5 * np.median(clean["ivar"][0]) ** -0.5
    with pytest.raises(ValueError, match="2 seeds for 6 galaxies"):
        sdss.observe_sdss(rest, seed=seeds[:2])


def test_blur_is_a_convolution_with_each_pixels_own_gaussian(rng):
    flux, sigma = rng.lognormal(size=(11, 300)), np.tile(np.linspace(0, 3, 300), (11, 1))
    offset = np.arange(-14, 15)
    padded = np.pad(flux, ((0, 0), (14, 14)), mode="edge")
    expected = np.empty_like(flux)
    for pixel in range(300):
        kernel = np.exp(-0.5 * (offset / max(sigma[0, pixel], 1e-3)) ** 2)
        expected[:, pixel] = padded[:, pixel : pixel + 29] @ kernel / kernel.sum()
    np.testing.assert_allclose(sdss.blur(flux, sigma, reach=14), expected, rtol=1e-9)
    np.testing.assert_allclose(sdss.blur(flux.astype("f4"), sigma), expected, rtol=2e-3)


def test_red_sky_lines_are_noisier():
    wavelength = sdss.sdss_wavelength()
    variance = sdss.noise_variance(np.full(wavelength.size, 10.0), wavelength)
    quiet = np.interp(8230, wavelength, variance)
    assert np.interp(8828.8, wavelength, variance) > 5 * quiet
    assert np.interp(5579.6, wavelength, variance) > 3 * np.interp(5620, wavelength, variance)


def test_longer_exposures_are_deeper():
    wavelength = np.array([5000.0, 8000.0])
    flux = np.array([1.0, 1.0])
    ratio = sdss.noise_variance(flux, wavelength, exposure=5400) / sdss.noise_variance(flux, wavelength)
    np.testing.assert_allclose(ratio, 0.5, atol=0.01)


def test_resolution_and_noise_are_those_of_real_spectra(shared):
    """Against the wdisp and ivar of hundreds of legacy spectra: 8% and, in the median, 0.15 dex."""
    with np.load(shared / "data" / "sdss_galaxies.npz") as data:
        loglam = data["loglam0"] + data["dloglam"] * np.arange(data["flux"].shape[1])
        legacy = (
            np.genfromtxt(shared / "data" / "sdss_galaxies.csv", delimiter=",", skip_header=1, usecols=0)
            < 3000
        )
        flux, ivar, wdisp = (data[k][legacy].astype(float) for k in ("flux", "ivar", "wdisp"))
    for centre in (4200, 4800, 5400, 6400, 7000, 7700, 8400, 9000):
        at = np.abs(10**loglam - centre) < 40
        seen = np.where((ivar[:, at] > 0) & (wdisp[:, at] > 0), wdisp[:, at], np.nan)
        assert sdss.lsf_pixels(centre) == pytest.approx(np.nanmedian(seen), rel=0.08), centre
        good = ivar[:, at] > 0
        model = sdss.noise_variance(flux[:, at], 10 ** loglam[at])
        ratio = np.log10(model[good] * ivar[:, at][good])
        assert abs(np.median(ratio)) < 0.15, (centre, np.median(ratio))


def test_pixels_beyond_the_templates_are_masked():
    wavelength = np.arange(4000.0, 6000.0, 1.0)
    out = sdss.observe_sdss(make_rest(1e7, 0.1, wavelength=wavelength), seed=0)
    good = out["observed_wavelength"].values[~out["mask"].values[0]]
    assert 4399 < good[0] < 4402 and 6597 < good[-1] < 6600
    assert (out["ivar"].values[out["mask"].values] == 0).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"redshift of galaxy 1 is -0\.1"):
        sdss.observe_sdss(make_rest(1.0, [0.1, -0.1]), seed=0)
    with pytest.raises(ValueError, match="median_flux"):
        sdss.observe_sdss(make_rest(1.0, 0.1, units=""), seed=0)
    with pytest.raises(ValueError, match="Lsun / Angstrom"):
        sdss.observe_sdss(make_rest(1.0, 0.1, units="km"), seed=0)
    with pytest.raises(ValueError, match="no column `redshift`"):
        sdss.observe_sdss(make_rest(1.0, 0.1).drop_vars("redshift"), seed=0)
    out = sdss.observe_sdss(make_rest(1.0, 0.1, units=""), seed=0, noise=False, median_flux=30.0)
    assert np.median(out["flux"]) == pytest.approx(30, rel=0.2)


def test_pixel_velocity_is_69_km_per_s():
    assert pytest.approx(69.03, abs=0.01) == PIXEL_VELOCITY
