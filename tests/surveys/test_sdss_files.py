"""Real SDSS files are read as they are; damaged ones are refused by name or masked and counted."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from spectool.surveys.sdss import SurveyWarning, packaged_spectra, read_sdss

LOGLAM = 3.58 + 1e-4 * np.arange(500)


def write_spec(path, loglam=LOGLAM, flux=None, ivar=None, and_mask=None, redshift=0.1, **drop):
    n = len(loglam)
    columns = {
        "flux": np.ones(n, "f4") if flux is None else flux,
        "loglam": np.asarray(loglam, "f4"),
        "ivar": np.full(n, 4, "f4") if ivar is None else ivar,
        "and_mask": np.zeros(n, "i4") if and_mask is None else and_mask,
        "wdisp": np.full(n, 0.9, "f4"),
    }
    primary = fits.PrimaryHDU()
    primary.header["PLUG_RA"], primary.header["PLUG_DEC"] = 150.0, 2.0
    found = Table({"Z": [redshift], "CLASS": ["GALAXY"], "SUBCLASS": [""]})
    fits.HDUList([primary, fits.BinTableHDU(Table(columns)), fits.BinTableHDU(found)]).writeto(
        path, overwrite=True
    )
    return path


def write_spspec(path, n=500):
    image = np.stack([np.full(n, 3.0), np.zeros(n), np.full(n, 0.5), np.zeros(n), np.zeros(n)]).astype("f4")
    image[2, 7] = 0
    image[3, 9] = 1 << 23
    hdu = fits.PrimaryHDU(image)
    hdu.header["COEFF0"], hdu.header["COEFF1"] = 3.58, 1e-4
    hdu.header["Z"], hdu.header["RAOBJ"], hdu.header["DECOBJ"] = 0.07, 10.0, -1.0
    hdu.writeto(path)
    return path


def test_packaged_galaxies_are_what_ppxf_says():
    sample = read_sdss(packaged_spectra().values())
    assert dict(sample.sizes) == {"galaxy": 2, "wavelength": 3850}
    np.testing.assert_allclose(sample["redshift"], [0.004018, 0.003763], atol=1e-6)
    np.testing.assert_allclose(sample["ra"], [166.66859, 150.21698])
    # NGC 3522 begins 35 pixels later than NGC 3073 and ends 2 later
    np.testing.assert_array_equal(np.argmax(sample["flux"].values != 0, axis=1), [35, 0])
    with fits.open(packaged_spectra()["NGC 3522"]) as hdus:
        table = hdus[1].data
        row = sample.isel(galaxy=0, wavelength=slice(35, 35 + len(table)))
        np.testing.assert_array_equal(row["flux"], table["flux"])
        np.testing.assert_allclose(row["observed_wavelength"], 10 ** table["loglam"].astype(float), rtol=1e-6)
        np.testing.assert_allclose(row["lsf_sigma"], table["wdisp"] * 69.03, rtol=1e-4)


def test_all_raw_files_are_read(shared):
    paths = sorted((shared / "data" / "sdss_raw").glob("*.fits"))
    sample = read_sdss(paths)
    assert sample.sizes["galaxy"] == len(paths) == 8
    assert (sample["mask"].mean("wavelength") < 0.1).all(), "a fibre-wide flag must not mask a whole spectrum"
    assert ((sample["redshift"] > 0.02) & (sample["redshift"] < 0.21)).all()
    assert np.isfinite(sample["flux"].values).all()
    np.testing.assert_array_equal(sample["ivar"].values > 0, ~sample["mask"].values)


def test_raw_files_agree_with_the_collection(shared):
    """The same galaxies in sdss_galaxies.npz, gathered by others, have the same pixels."""
    paths = sorted((shared / "data" / "sdss_raw").glob("*.fits"))
    sample = read_sdss(paths)
    table = np.genfromtxt(
        shared / "data" / "sdss_galaxies.csv", delimiter=",", skip_header=1, usecols=(0, 1, 2)
    )
    with np.load(shared / "data" / "sdss_galaxies.npz") as data:
        flux, first = data["flux"], float(data["loglam0"])
    offset = round((np.log10(sample["observed_wavelength"].values[0]) - first) / 1e-4)
    keys = np.stack([sample[c].values for c in ("plate", "mjd", "fiberid")], axis=1)
    found = 0
    for row, key in enumerate(keys):
        match = np.flatnonzero((table == key).all(axis=1))
        if match.size:
            found += 1
            theirs = flux[match[0], offset : offset + sample.sizes["wavelength"]]
            good = ~sample["mask"].values[row]
            np.testing.assert_allclose(theirs[good], sample["flux"].values[row, good], rtol=1e-5)
    assert found == 8


def test_old_spspec_format(tmp_path):
    sample = read_sdss(write_spspec(tmp_path / "spSpec-51630-0266-053.fit"))
    assert sample["mask"].values[0].nonzero()[0].tolist() == [7, 9]
    assert sample["ivar"].values[0, 0] == 4 and sample["flux"].values[0, 0] == 3
    assert sample["redshift"].values[0] == 0.07 and sample["dec"].values[0] == -1
    np.testing.assert_allclose(np.log10(sample["observed_wavelength"].values[:2]), [3.58, 3.5801])


def test_different_ranges_share_one_grid_padded_with_no_information(tmp_path):
    paths = [write_spec(tmp_path / "a.fits", LOGLAM), write_spec(tmp_path / "b.fits", LOGLAM[100:] + 0.02)]
    sample = read_sdss(paths)
    assert sample.sizes["wavelength"] == 700
    assert (~sample["mask"]).sum("wavelength").values.tolist() == [500, 400]
    assert (sample["ivar"].values[1, :300] == 0).all()


def test_only_flags_that_spoil_a_pixel_mask_it(tmp_path):
    flags = np.zeros(500, "i4")
    flags[:] = 1 << 6  # LARGESHIFT, set for a whole fibre
    flags[3] |= 1 << 23  # BRIGHTSKY
    sample = read_sdss(write_spec(tmp_path / "a.fits", and_mask=flags))
    assert sample["mask"].values[0].nonzero()[0].tolist() == [3]


def test_not_finite_pixels_are_masked_and_counted(tmp_path):
    flux = np.ones(500, "f4")
    flux[:3] = [np.nan, np.inf, -np.inf]
    with pytest.warns(SurveyWarning, match=r"nan\.fits: 3 pixels are not finite"):
        sample = read_sdss(write_spec(tmp_path / "nan.fits", flux=flux))
    assert sample["mask"].values.sum() == 3 and np.isfinite(sample["flux"].values).all()


def test_no_information_at_all_is_said(tmp_path):
    with pytest.warns(SurveyWarning, match=r"zero\.fits: has no good pixel"):
        sample = read_sdss(write_spec(tmp_path / "zero.fits", ivar=np.zeros(500, "f4")))
    assert sample["mask"].values.all()


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncate, "truncated or damaged"),
        (lambda p: p.write_text("not a spectrum, a letter"), "is not a FITS file"),
        (lambda p: p.write_bytes(b""), "is not a FITS file"),
        (lambda p: p.unlink(), "no such file"),
        (lambda p: fits.PrimaryHDU(np.ones((9, 9))).writeto(p, overwrite=True), "is no SDSS spectrum"),
        (lambda p: write_spec(p, LOGLAM[::-1]), "do not increase after row 0"),
        (lambda p: write_spec(p, np.where(np.arange(500) == 7, np.nan, LOGLAM)), "row 7 is not a number"),
        (lambda p: write_spec(p, LOGLAM + 4e-5), "not on SDSS's grid"),
    ],
    ids=["truncated", "text", "empty", "missing", "image", "reversed", "nan", "offgrid"],
)
def test_bad_files_are_refused_by_name(tmp_path, spoil, says):
    path = write_spec(tmp_path / "bad.fits")
    spoil(path)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"bad\.fits.*{says}"):
        read_sdss(path)


def test_bad_files_of_a_batch_can_be_left_out(tmp_path):
    good, bad = write_spec(tmp_path / "good.fits"), write_spec(tmp_path / "bad.fits")
    truncate(bad)
    with pytest.warns(SurveyWarning, match=r"left out: bad\.fits"):
        assert read_sdss([good, bad], skip_bad=True).sizes["galaxy"] == 1
    with pytest.warns(SurveyWarning), pytest.raises(ValueError, match="none of 1 files"):
        read_sdss([bad], skip_bad=True)
