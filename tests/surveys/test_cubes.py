"""Cubes are read as they were written: values, units, positions, wavelengths; what is wrong is told or counted."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

from spectool.measure.gradients import add_radius, fit_gradients
from spectool.spectra import air_to_vacuum
from spectool.surveys.cubes import read_cube
from tests.refusals import refused
from tests.surveys.conftest import AIR, CENTER, MED_VEL, NX, NY, write_cube

N = AIR.size
Z = MED_VEL / 299792.458


def test_values_positions_and_wavelengths(tmp_path):
    path = tmp_path / "NGC4047.V500.rscube.fits.gz"
    flux = write_cube(path)
    seen = read_cube(path, rest_frame=False)
    assert dict(seen.sizes)["spectrum"] == NY * NX
    row, column = seen["row"].values, seen["column"].values
    np.testing.assert_array_equal(seen["flux"], flux[:, row, column].T)
    np.testing.assert_allclose(seen["ivar"], 1 / 0.05**2, rtol=1e-6)
    assert not seen["mask"].any()
    np.testing.assert_allclose(seen["observed_wavelength"], air_to_vacuum(AIR), rtol=1e-12)
    # north is up, east to the left
    np.testing.assert_allclose(seen["x"], -(column - 10.0), atol=1e-4)
    np.testing.assert_allclose(seen["y"], row - 8.0, atol=1e-4)
    np.testing.assert_allclose(seen["redshift"], Z, rtol=1e-9)
    assert seen.attrs["galaxy_name"] == "NGC4047"
    rest = read_cube(path)
    np.testing.assert_allclose(rest["wavelength"] * (1 + Z), seen["observed_wavelength"], rtol=1e-12)
    # flux in the pixel, and signal to noise, stay
    np.testing.assert_allclose(rest["flux"], seen["flux"] * (1 + Z), rtol=1e-6)
    signal = [sample["flux"].values * np.sqrt(sample["ivar"].values) for sample in (rest, seen)]
    np.testing.assert_allclose(*signal, rtol=1e-5)
    write_cube(path, BUNIT="1E-17 erg/s/cm^2/A")
    fine = read_cube(path, rest_frame=False)
    np.testing.assert_allclose(fine["flux"], 0.1 * seen["flux"], rtol=1e-6)
    np.testing.assert_allclose(fine["ivar"], 100 * seen["ivar"], rtol=1e-5)


def as_muse(hdus):
    """Flux and variance in extensions, in air, no flags, the spectrum from red to blue."""
    hdus["ERROR"].data, hdus["ERROR"].name = 0.05**2 * np.ones((N, NY, NX), "f4")[::-1], "STAT"
    hdus["STAT"].header["BUNIT"] = "(10**(-16)*erg/s/cm**2/Angstrom)**2"
    words = {"CTYPE3": "AWAV", "CUNIT3": "Angstroms", "CDELT3": -20.0, "CRVAL3": AIR[-1], "INSTRUME": "MUSE"}
    flux = fits.ImageHDU(hdus[0].data[::-1], hdus[0].header, name="DATA")
    flux.header.update(words | {"BUNIT": "10**(-16)*erg/s/cm**2/Angstrom"})
    return [fits.PrimaryHDU(), flux, hdus["STAT"]]


def as_manga(hdus):
    """MaNGA's planes, in vacuum; resolution of 1.2 A; dead fibres in row 3, one foreground star, a harmless bit."""
    mask = np.zeros((N, NY, NX), "i4")
    mask[:, 3], mask[5, 8, 10], mask[6, 8, 10], mask[7, 8, 10] = 1 << 2 | 1 << 10, 1 << 3, 1 << 5, 1 << 1
    planes = {"FLUX": hdus[0].data, "IVAR": np.full((N, NY, NX), 400.0, "f4"), "MASK": mask}
    planes |= {"LSFPOST": np.full((N, NY, NX), 1.2, "f4"), "WAVE": 10 ** (3.7 + 1e-3 * np.arange(N))}
    images = [fits.ImageHDU(data, name=name) for name, data in planes.items()]
    sky = {
        word: value
        for word, value in hdus[0].header.items()
        if word[:5] in ("CTYPE", "CRVAL", "CRPIX", "CDELT")
    }
    images[0].header.update(sky | {"BUNIT": "1E-17 erg/s/cm^2/Ang/spaxel", "CTYPE3": "WAVE-LOG"})
    facts = {"MANGAID": "1-209232", "INSTRUME": "MaNGA", "EBVGAL": 0.03, "DRP3QUAL": 1 << 30}
    return [fits.PrimaryHDU(header=fits.Header(facts)), *images]


def rewritten(path, change):
    """A cube of CALIFA's form, written anew in that of another survey."""
    flux = write_cube(path)
    with fits.open(path) as hdus:
        fits.HDUList(change(hdus)).writeto(path, overwrite=True)
    return flux


def test_cubes_of_muse(tmp_path):
    path = tmp_path / "muse.fits"
    flux = rewritten(path, as_muse)
    sample = read_cube(path, redshift=Z, rest_frame=False)
    np.testing.assert_allclose(sample["observed_wavelength"], air_to_vacuum(AIR), rtol=1e-6)
    np.testing.assert_allclose(sample["flux"], flux.reshape(N, -1).T, rtol=1e-6)
    np.testing.assert_allclose(sample["ivar"], 400, rtol=1e-5)
    assert sample.attrs["survey"] == "MUSE" and "no plane of flags" in sample.attrs["history"]


def test_cubes_of_manga(tmp_path):
    path = tmp_path / "manga-8485-1901-LOGCUBE.fits.gz"
    flux = rewritten(path, as_manga)
    sample = read_cube(path, redshift=0.04, rest_frame=False)
    wavelength = 10 ** (3.7 + 1e-3 * np.arange(N))
    np.testing.assert_allclose(sample["observed_wavelength"], wavelength)
    assert sample.sizes["spectrum"] == NX * (NY - 1) and 3 not in sample["row"]
    spaxel = sample.isel(spectrum=np.flatnonzero((sample["row"] == 8) & (sample["column"] == 10))[0])
    np.testing.assert_array_equal(np.flatnonzero(spaxel["mask"]), [5, 7])
    np.testing.assert_allclose(spaxel["flux"][10:], 0.1 * flux[10:, 8, 10], rtol=1e-6)
    np.testing.assert_allclose(spaxel["ivar"][10:], 400 * 100, rtol=1e-5)
    np.testing.assert_allclose(spaxel["lsf_sigma"], 1.2 / wavelength * 299792.458, rtol=1e-5)
    np.testing.assert_allclose(sample["ebv"], 0.03)
    assert sample.attrs["survey"] == "MaNGA" and "CRITICAL" in sample.attrs["history"]
    refused("manga-8485.*redshift", read_cube, path)


def test_noise_in_its_own_unit_and_flags_that_are_missing(tmp_path):
    path = tmp_path / "cube.fits"
    for name, value, unit in (
        ("SIGMA", 0.5, "1e-17 erg/s/cm2/A"),
        ("VAR", 0.0025, "1E-16 erg/s/cm^2/A"),
        ("VAR", 25e-36, "(erg/s/cm2/A)**2"),
        ("IVAR", 4.0, "1e34 cm4 s2 A2 / erg2"),
        ("IVAR", 400.0, ""),
    ):
        write_cube(
            path, BUNIT="1E-16 erg/s/cm^2/A", drop=("BADPIX",), error_name=name, error_unit=unit, error=value
        )
        sample = read_cube(path)
        np.testing.assert_allclose(sample["ivar"] * (1 + Z) ** 2, 400, rtol=1e-4, err_msg=f"{name} {unit}")
        assert "no plane of flags" in sample.attrs["history"]
    write_cube(path, BUNIT="counts")
    assert read_cube(path, flux_unit="1e-16 erg/s/cm2/A")["flux"].attrs["units"].startswith("1e-16")


def test_fields_turned_without_axes_and_centres_given(tmp_path):
    angle = np.deg2rad(30)
    cd = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / 3600
    words = {f"CD{i + 1}_{j + 1}": cd[i, j] for i in range(2) for j in range(2)} | {"CD3_3": 20.0}
    path = tmp_path / "field.fits"
    write_cube(path, CDELT1=None, CDELT2=None, CDELT3=None, **words)
    there = SkyCoord(*CENTER, unit="deg").spherical_offsets_by(3 * u.arcsec, -2 * u.arcsec)
    sample = read_cube(path, center=(there.ra.deg, there.dec.deg))
    offset = np.stack([sample["column"] - 10.0, sample["row"] - 8.0])
    expected = cd * 3600 @ offset - np.array([[3.0], [-2.0]])
    np.testing.assert_allclose(np.stack([sample["x"], sample["y"]]), expected, atol=1e-3)
    refused(r"field.fits: the centre .* arcsec from the field", read_cube, path, center=(10.0, 41.0))
    write_cube(path, CTYPE1=None, CTYPE2=None, CUNIT1=None, CUNIT2=None, CDELT1=1.0, CDELT2=1.0)
    sample = read_cube(path)
    np.testing.assert_allclose(sample["x"], -(sample["column"] - 10.0))
    np.testing.assert_allclose(sample["y"], sample["row"] - 8.0)
    assert "no celestial coordinates" in sample.attrs["history"]
    refused("cannot be centred", read_cube, path, center=CENTER)


def test_bad_pixels_and_spaxels_are_masked_left_out_and_counted(tmp_path):
    path = tmp_path / "bad.fits.gz"
    flux = write_cube(path)
    error, bad = np.full(flux.shape, 0.05), np.zeros(flux.shape)
    flux[:, 0, :] = np.nan  # a row of spaxels outside of the field
    bad[:, 1, :] = 1
    bad[: N // 2 + 1, 2, 3] = 1  # one that misses most of the range
    flux[5, 8, 10], bad[6, 8, 10] = np.inf, 1
    error[7, 8, 10], error[8, 8, 10], error[9, 8, 10] = 0, 1e10, np.nan
    flux[20, 8, 11] = -3.0  # a measurement
    write_cube(path, flux=flux, error=error, bad=bad)
    sample = read_cube(path, rest_frame=False)
    assert sample.sizes["spectrum"] == NY * NX - 2 * NX - 1
    problems = sample["spaxel_problems"].to_pandas()
    assert problems.to_dict() == {"empty": 2 * NX, "covered too little": 1, "too noisy": 0}
    assert sample["pixel_problems"].to_pandas().tolist() == [1, 1, 3]
    spaxel = sample.isel(spectrum=np.flatnonzero((sample["row"] == 8) & (sample["column"] == 10))[0])
    np.testing.assert_array_equal(np.flatnonzero(spaxel["mask"]), [5, 6, 7, 8, 9])
    assert not spaxel["flux"][5:10].any() and not spaxel["ivar"][5:10].any()
    assert np.isfinite(sample["flux"]).all() and sample["flux"].values.min() == -3
    for words in ("empty: 40 spaxels", "left out, covered too little: 1", "no valid error: 3 pixels"):
        assert words in sample.attrs["history"]
    bright = read_cube(path, rest_frame=False, min_sn=5)
    light = np.nanmedian(flux[:, bright["row"].values, bright["column"].values], axis=0) / 0.05
    assert light.min() >= 4.99
    assert bright["spaxel_problems"].values[2] == sample.sizes["spectrum"] - bright.sizes["spectrum"] > 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CDELT3": None}, "no wavelengths"),
        ({"CRVAL3": 500.0}, "WCS is wrong"),
        ({"CRVAL3": 5000.0, "CUNIT3": "m"}, "WCS is wrong"),
        ({"CDELT1": -1.0, "CDELT2": 1.0}, "spaxels measure 3600"),
        ({"CDELT1": 0.0}, "WCS is wrong"),
        ({"CTYPE1": "GLON-FOO"}, "WCS is wrong"),
        ({"MED_VEL": None}, "redshift"),
        ({"MED_VEL": -5e4}, "redshift"),
        ({"BUNIT": "mag"}, "no flux density"),
        ({"drop": ("ERROR",)}, "lacks a plane of noise, such as ERROR; .* BADPIX"),
        ({"BUNIT": "counts"}, "no flux density"),
        ({"error_unit": "Jy2"}, "ERROR is in 'Jy2'"),
        ({"error": np.ones((N, NY, NX - 1))}, "plane ERROR has shape"),
        ({"bad": np.ones((N, NY, NX))}, "no spaxel is left of 480: 480 empty"),
        ({"flux": np.ones((NY, NX)), "error": np.ones((NY, NX)), "bad": np.zeros((NY, NX))}, "is no cube"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(tmp_path, changes, words):
    path = tmp_path / "wrong.fits"
    write_cube(path, **changes)
    refused(f"wrong.fits: .*{words}", read_cube, path)


def test_a_part_of_negative_size_is_refused_and_not_read_for_ever(tmp_path):
    path = tmp_path / "wrong.fits"
    write_cube(path)
    good = b"GCOUNT  =                    1"
    path.write_bytes(path.read_bytes().replace(good, good.replace(b"    1", b"-   1"), 1))
    refused("wrong.fits: .*damaged", read_cube, path)


def test_a_gradient_in_an_inclined_disc_is_found(tmp_path):
    row, column = np.mgrid[:NY, :NX]
    east, north = -(column - 10.0), row - 8.0
    pa, cosine = np.deg2rad(120), np.cos(np.deg2rad(50))
    major = east * np.sin(pa) + north * np.cos(pa)
    radius = np.hypot(major, (east * np.cos(pa) - north * np.sin(pa)) / cosine) / 6
    colour = 0.3 - 0.2 * radius  # red over blue half of the spectrum, in dex
    half = np.arange(N)[:, None, None] < N // 2
    flux = np.exp(-radius) * np.where(half, 1, 10**colour)
    path = tmp_path / "disc.fits"
    write_cube(path, flux=flux, error=np.full(flux.shape, 0.01))
    sample = add_radius(read_cube(path), position_angle=120, inclination=50, re=6)
    np.testing.assert_allclose(sample["radius"], radius.ravel(), atol=1e-3)
    light = sample["flux"].values
    sample["colour"] = ("spectrum", np.log10(light[:, N // 2 :].mean(1) / light[:, : N // 2].mean(1)))
    found = fit_gradients(sample, columns=["colour"], seed=1)
    assert found["colour_gradient"].item() == pytest.approx(-0.2, abs=1e-3)
    assert found["colour_central"].item() == pytest.approx(0.3, abs=1e-3)
