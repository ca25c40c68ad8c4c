"""SDSS: real files are read as they are, damaged ones refused by name; mock ones have its pixels, noise and flux."""

import numpy as np
import pytest
from astropy import units as u
from astropy.cosmology import Planck18
from astropy.io import fits

from spectool.spectra import FWHM_TO_SIGMA, PIXEL_VELOCITY
from spectool.surveys import SurveyWarning, spectrograph
from spectool.surveys.sdss import packaged_spectra, read_sdss
from tests.surveys.conftest import LOGLAM, make_rest, write_spec


def test_packaged_galaxies_are_what_ppxf_says():
    sample = read_sdss(packaged_spectra().values())
    assert dict(sample.sizes) == {"galaxy": 2, "wavelength": 3850}
    np.testing.assert_allclose(sample["redshift"], [0.004018, 0.003763], atol=1e-6)
    np.testing.assert_allclose(sample["ra"], [166.66859, 150.21698])
    # NGC 3522 begins 35 pixels later than NGC 3073 and ends 2 later: padded with no information
    np.testing.assert_array_equal(np.argmax(sample["flux"].values != 0, axis=1), [35, 0])
    assert sample["mask"].values[0, :35].all() and (sample["ivar"].values[0, :35] == 0).all()
    with fits.open(packaged_spectra()["NGC 3522"]) as hdus:
        table = hdus[1].data
        row = sample.isel(galaxy=0, wavelength=slice(35, 35 + len(table)))
        np.testing.assert_array_equal(row["flux"], table["flux"])
        np.testing.assert_allclose(row["observed_wavelength"], 10 ** table["loglam"].astype(float), rtol=1e-6)
        np.testing.assert_allclose(row["lsf_sigma"], table["wdisp"] * 69.03, rtol=1e-4)


def test_raw_files_agree_with_the_collection(shared, sdss_table, sdss_arrays):
    """The same galaxies, gathered by others, have the same pixels."""
    sample = read_sdss(sorted((shared / "data" / "sdss_raw").glob("*.fits")))
    assert sample.sizes["galaxy"] == 8
    assert (sample["mask"].mean("wavelength") < 0.1).all(), "a fibre-wide flag must not mask a whole spectrum"
    np.testing.assert_array_equal(sample["ivar"].values > 0, ~sample["mask"].values)
    offset = np.abs(sdss_arrays["wavelength"] - sample["observed_wavelength"].values[0]).argmin()
    keys = ["plate", "mjd", "fiberid"]
    for row in range(8):
        key = [sample[name].values[row] for name in keys]
        (match,) = np.flatnonzero((sdss_table[keys] == key).all(axis=1))
        theirs = sdss_arrays["flux"][match, offset : offset + sample.sizes["wavelength"]]
        good = ~sample["mask"].values[row]
        np.testing.assert_allclose(theirs[good], sample["flux"].values[row, good], rtol=1e-5)


def test_old_spspec_format(tmp_path):
    image = np.zeros((5, 500), "f4")
    image[0], image[2] = 3.0, 0.5
    image[2, 7], image[3, 9] = 0, 1 << 23
    hdu = fits.PrimaryHDU(image)
    hdu.header.update(COEFF0=3.58, COEFF1=1e-4, Z=0.07, RAOBJ=10.0, DECOBJ=-1.0)
    hdu.writeto(tmp_path / "spSpec-51630-0266-053.fit")
    sample = read_sdss(tmp_path / "spSpec-51630-0266-053.fit")
    assert sample["mask"].values[0].nonzero()[0].tolist() == [7, 9]
    assert sample["ivar"].values[0, 0] == 4 and sample["flux"].values[0, 0] == 3
    assert sample["redshift"].values[0] == 0.07 and sample["dec"].values[0] == -1
    np.testing.assert_allclose(np.log10(sample["observed_wavelength"].values[:2]), [3.58, 3.5801])


def test_flags_pixels_that_are_not_finite_and_empty_spectra_are_masked(tmp_path):
    flags = np.full(500, 1 << 6, "i4")  # LARGESHIFT, set for a whole fibre, spoils no pixel
    flags[3] |= 1 << 23  # BRIGHTSKY
    sample = read_sdss(write_spec(tmp_path / "a.fits", and_mask=flags))
    assert sample["mask"].values[0].nonzero()[0].tolist() == [3]
    flux = np.r_[np.nan, np.inf, -np.inf, np.ones(497)].astype("f4")
    with pytest.warns(SurveyWarning, match=r"nan\.fits: 3 pixels are not finite"):
        sample = read_sdss(write_spec(tmp_path / "nan.fits", flux=flux))
    assert sample["mask"].values.sum() == 3 and np.isfinite(sample["flux"].values).all()
    with pytest.warns(SurveyWarning, match=r"zero\.fits: has no good pixel"):
        sample = read_sdss(write_spec(tmp_path / "zero.fits", ivar=np.zeros(500, "f4")))
    assert sample["mask"].values.all()


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: fits.PrimaryHDU(np.ones((9, 9))).writeto(p), "is no SDSS spectrum"),
        (lambda p: write_spec(p, LOGLAM[::-1]), "do not increase after row 0"),
        (lambda p: write_spec(p, np.where(np.arange(500) == 7, np.nan, LOGLAM)), "row 7 is not a number"),
        (lambda p: write_spec(p, LOGLAM + 4e-5), "not on SDSS's grid"),
    ],
)
def test_what_is_no_sdss_spectrum_is_refused_or_left_out(tmp_path, write, says):
    good, bad = write_spec(tmp_path / "good.fits"), tmp_path / "bad.fits"
    write(bad)
    with pytest.raises(ValueError, match=rf"bad\.fits.*{says}"):
        read_sdss(bad)
    with pytest.warns(SurveyWarning, match=r"left out: bad\.fits"):
        assert read_sdss([good, bad], skip_bad=True).sizes["galaxy"] == 1
    with pytest.warns(SurveyWarning), pytest.raises(ValueError, match="none of 1 files"):
        read_sdss([bad], skip_bad=True)


def test_pixels_are_those_of_real_spectra():
    mine = spectrograph.sdss_wavelength()
    real = read_sdss(packaged_spectra()["NGC 3073"])["observed_wavelength"].values
    start = np.argmin(np.abs(real - mine[0]))
    np.testing.assert_allclose(mine, real[start : start + mine.size], rtol=1e-12)
    assert 3800 <= mine[0] < 3801 and 9197 < mine[-1] <= 9200


def test_flux_is_that_of_the_distance_or_without_unit_the_one_asked_for():
    redshift = 0.08
    out = spectrograph.observe_sdss(make_rest(3e6, redshift), seed=0, noise=False, fibre_fraction=0.5)
    sphere = 4 * np.pi * Planck18.luminosity_distance(redshift) ** 2
    expected = (0.5 * 3e6 * u.L_sun / u.AA / sphere / (1 + redshift)).to_value("1e-17 erg / (s cm2 Angstrom)")
    good = ~out["mask"].values
    np.testing.assert_allclose(out["flux"].values[good], expected, rtol=1e-5)
    assert good.all() and out["log_mass"].values[0] == 10
    rest = make_rest(1.0, 0.1, units="", wavelength=np.arange(4000.0, 6000.0, 1.0))
    out = spectrograph.observe_sdss(rest, seed=0, noise=False, median_flux=30.0)
    wavelength, good = out["observed_wavelength"].values, ~out["mask"].values[0]
    assert 4399 < wavelength[good][0] < 4402 and 6597 < wavelength[good][-1] < 6600
    assert (out["ivar"].values[0, ~good] == 0).all()
    assert np.median(out["flux"][0, good]) == pytest.approx(30, rel=0.2)


@pytest.mark.parametrize("fwhm", [1.0, 2.5])
@pytest.mark.parametrize("observed", [4500.0, 5500.0, 6600.0, 8000.0])
def test_a_line_gets_the_instruments_width(observed, fwhm):
    """Templates are blurred to SDSS's width, to 2%, or keep their own if larger; the line's flux is kept."""
    redshift = 0.12
    centre, sigma = observed / (1 + redshift), fwhm * FWHM_TO_SIGMA
    rest = np.arange(3000.0, 9000.0, 0.3)
    line = np.exp(-0.5 * ((rest - centre) / sigma) ** 2) * 1e8
    galaxy = make_rest(line, redshift, wavelength=rest, fwhm=fwhm)
    out = spectrograph.observe_sdss(galaxy, seed=0, noise=False)
    wavelength, flux = out["observed_wavelength"].values, out["flux"].values[0].astype(float)
    near = np.abs(wavelength - observed) < 25
    x, f = np.log(wavelength[near]) * 299792.458, flux[near]
    width = np.sqrt(np.average((x - np.average(x, weights=f)) ** 2, weights=f))
    at_line = np.interp(observed, wavelength, out["lsf_sigma"].values)
    templates = np.hypot(sigma / centre * 299792.458, PIXEL_VELOCITY / np.sqrt(12))
    assert width == pytest.approx(max(at_line, templates), rel=0.02)
    expected = spectrograph.luminosity_to_flux(np.array([redshift]))[0] * 0.3 * (1 + redshift)
    assert np.trapezoid(f, wavelength[near]) == pytest.approx(expected * np.trapezoid(line, rest), rel=2e-3)


def test_a_seed_per_galaxy_lets_each_be_observed_alone():
    rest = make_rest(2e7, np.linspace(0.05, 0.2, 6))
    seeds = np.array([[7, k] for k in range(6)])
    together = spectrograph.observe_sdss(rest, seed=seeds, keep_truth=True)
    alone = spectrograph.observe_sdss(rest.isel(galaxy=[4, 1]), seed=seeds[[4, 1]])
    np.testing.assert_array_equal(together["flux"][[4, 1]], alone["flux"])
    clean = spectrograph.observe_sdss(rest, seed=0, noise=False)
    np.testing.assert_array_equal(together["truth"], clean["flux"])
    batches = (spectrograph.observe_sdss(rest, seed=5, batch_size=size)["flux"] for size in (4, 64))
    np.testing.assert_array_equal(*batches)


def test_blur_is_a_convolution_with_each_pixels_own_gaussian(rng):
    flux, sigma = rng.lognormal(size=(11, 300)), np.tile(np.linspace(0, 3, 300), (11, 1))
    offset = np.arange(-14, 15)
    padded = np.pad(flux, ((0, 0), (14, 14)), mode="edge")
    expected = np.empty_like(flux)
    for pixel in range(300):
        kernel = np.exp(-0.5 * (offset / max(sigma[0, pixel], 1e-3)) ** 2)
        expected[:, pixel] = padded[:, pixel : pixel + 29] @ kernel / kernel.sum()
    np.testing.assert_allclose(spectrograph.blur(flux, sigma, reach=14), expected, rtol=1e-9)
    np.testing.assert_allclose(spectrograph.blur(flux.astype("f4"), sigma), expected, rtol=2e-3)


def test_resolution_and_noise_are_those_of_real_spectra(sdss_table, sdss_arrays):
    """Against the wdisp and ivar of hundreds of legacy spectra: 8% and, in the median, 0.15 dex."""
    legacy, wavelength = sdss_table["plate"].values < 3000, sdss_arrays["wavelength"]
    flux, ivar, wdisp = (sdss_arrays[name][legacy].astype(float) for name in ("flux", "ivar", "wdisp"))
    for centre in (4200, 4800, 5400, 6400, 7000, 7700, 8400, 9000):
        at = np.abs(wavelength - centre) < 40
        seen = np.where((ivar[:, at] > 0) & (wdisp[:, at] > 0), wdisp[:, at], np.nan)
        assert spectrograph.lsf_pixels(centre) == pytest.approx(np.nanmedian(seen), rel=0.08), centre
        good = ivar[:, at] > 0
        model = spectrograph.noise_variance(flux[:, at], wavelength[at])
        ratio = np.log10(model[good] * ivar[:, at][good])
        assert abs(np.median(ratio)) < 0.15, (centre, np.median(ratio))
    # the sky's lines are noisier, longer exposures deeper
    wavelength = spectrograph.sdss_wavelength()
    once, twice = (spectrograph.noise_variance(1.0, wavelength, exposure=t) for t in (2700, 5400))
    at = {place: np.interp(place, wavelength, once) for place in (5579.6, 5620, 8230, 8828.8)}
    assert at[8828.8] > 5 * at[8230] and at[5579.6] > 3 * at[5620]
    np.testing.assert_allclose(np.interp([5000, 8000], wavelength, twice / once), 0.5, atol=0.01)
