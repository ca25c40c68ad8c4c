"""What visitors bring is read by its columns and units, or refused in words that help."""

import io

import numpy as np
import pooch
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from spectool.spectra import vacuum_to_air
from spectool.surveys import packaged_spectra, read_spectrum

WAVE = np.linspace(4000.0, 7000.0, 3000)
FLUX = 5 + np.sin(WAVE / 100)


def csv(**columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]).encode()


def read(**columns):
    return read_spectrum(csv(**columns), redshift=0.1, name="x.csv")


HEADS = {"wavelength": 1, "lambda (Angstrom)": 1, "wave_nm": 0.1, "lam": 0.1}
HEADS |= {"Wavelength [um]": 1e-4, "WL": 1e-4}


@pytest.mark.parametrize(("header", "factor"), HEADS.items())
def test_wavelength_units_of_csv(header, factor):
    """Units from the header, or guessed from the numbers where there are none."""
    sample = read(**{header: WAVE * factor, "flux": FLUX, "error": np.full(3000, 0.1)})
    np.testing.assert_allclose(sample["observed_wavelength"], WAVE, rtol=1e-9)
    np.testing.assert_allclose(sample["flux"].values[0], FLUX, rtol=1e-6)
    np.testing.assert_allclose(sample["ivar"], 100, rtol=1e-5)
    assert ("no unit" in sample.attrs["history"].split("flux")[0]) == (header in ("wavelength", "lam", "WL"))


@pytest.mark.parametrize("unit", ["erg / (s cm2 Angstrom)", "W / (m2 um)", "mJy"])
def test_flux_units_of_ecsv(tmp_path, unit):
    flux = (FLUX * 1e-16 * u.Unit("erg / (s cm2 AA)")).to(unit, u.spectral_density(WAVE * u.AA))
    columns = {"wavelength": (WAVE / 10) * u.nm, "flux": flux, "flux_err": flux * 0.05}
    QTable(columns, meta={"z": 0.3, "ebv": 0.04}).write(tmp_path / "x.ecsv")
    sample = read_spectrum(tmp_path / "x.ecsv")
    np.testing.assert_allclose(sample["flux"].values[0], FLUX * 10, rtol=1e-5)
    np.testing.assert_allclose(sample["ivar"].values[0] ** -0.5, FLUX * 0.5, rtol=1e-4)
    assert sample["redshift"].values[0] == 0.3 and sample["ebv"].values[0] == 0.04
    assert "redshift 0.3 from the file's header" in sample.attrs["history"]
    assert read_spectrum(tmp_path / "x.ecsv", redshift=0.2)["redshift"].values[0] == 0.2


def test_fits_tables_and_images(tmp_path):
    columns = {"WAVE": vacuum_to_air(WAVE) * u.AA, "FLUX": FLUX, "IVAR": np.full(3000, 9.0)}
    Table(columns | {"MASK": np.arange(3000) < 5}).write(tmp_path / "x.fits")
    sample = read_spectrum(tmp_path / "x.fits", redshift=0.1, medium="air")
    np.testing.assert_allclose(sample["observed_wavelength"], WAVE, rtol=1e-8)
    assert sample["mask"].values.sum() == 5 and sample["flux"].attrs["units"] == ""
    hdu, file = fits.PrimaryHDU(FLUX.astype("f4")), io.BytesIO()
    hdu.header.update(CRVAL1=4000.0, CDELT1=1.5, CRPIX1=1.0, BUNIT="erg / (s cm2 Angstrom)")
    hdu.writeto(file)
    sample = read_spectrum(file.getvalue(), redshift=0.1)
    np.testing.assert_allclose(sample["observed_wavelength"], 4000 + 1.5 * np.arange(3000))
    np.testing.assert_allclose(sample["flux"].values[0], FLUX * 1e17, rtol=1e-5)


def test_spectra_that_ppxf_ships():
    path = packaged_spectra()["NGC 3522"]
    a, b = read_spectrum(path, ebv=0.02), read_spectrum(path.read_bytes(), name="upload.fits", ebv=0.02)
    np.testing.assert_array_equal(a["flux"], b["flux"])
    assert a["redshift"].values[0] == pytest.approx(0.004018, abs=1e-6) and a["ebv"].values[0] == 0.02
    folder = path.parent
    legac = read_spectrum(folder / "legac_M19_56670_v3.0.fits", redshift=0.7)
    with fits.open(folder / "legac_M19_56670_v3.0.fits") as hdus:
        given = hdus[1].data["FLUX"][0]
    np.testing.assert_allclose(legac["flux"].values[0], np.nan_to_num(given) * 1e-2, rtol=1e-5)
    assert legac["mask"].values[0, np.isnan(given)].all()
    sauron = read_spectrum(folder / "NGC4550_SAURON.fits", redshift=0.0013, medium="air")
    assert 4820 < sauron["observed_wavelength"].values[0] < 4835


def test_missing_errors_reversed_order_and_bad_pixels(rng):
    sample = read(wavelength=WAVE, flux=FLUX + rng.normal(0, 0.2, 3000))
    assert sample["ivar"].values[0, 0] ** -0.5 == pytest.approx(0.2, rel=0.06)
    assert "DER_SNR" in sample.attrs["history"]
    sample = read(wavelength=WAVE[::-1], flux=FLUX[::-1])
    np.testing.assert_allclose(sample["observed_wavelength"], WAVE)
    np.testing.assert_allclose(sample["flux"].values[0], FLUX, rtol=1e-6)
    flux, error = FLUX.astype(object), np.full(3000, 0.1)
    flux[:3], error[5] = [np.nan, np.inf, ""], 0
    sample = read(wavelength=WAVE, flux=flux, error=error)
    assert sample["mask"].values[0].nonzero()[0].tolist() == [0, 1, 2, 5]
    assert np.isfinite(sample["flux"].values).all()


SWAPPED = np.r_[WAVE[:10], WAVE[11], WAVE[10], WAVE[12:]]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (csv(wavelength=SWAPPED, flux=FLUX), {}, "not sorted: row 11"),
        (csv(wavelength=WAVE, brightness=FLUX), {}, "no flux column among"),
        (csv(pixel=WAVE, flux=FLUX), {}, "no wavelength column"),
        (csv(wavelength=WAVE, flux=["dim"] * 3000), {}, "'flux' is not numeric"),
        (csv(wavelength=WAVE[:3], flux=FLUX[:3]), {}, "3 pixels"),
        (b"Dear diary,\ntoday I saw\na galaxy, a big, blue one", {}, "x.csv"),
        (csv(wavelength=np.where(WAVE < 4002, np.nan, WAVE), flux=FLUX), {}, "not a number at row 0"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", {}, "neither FITS nor text"),
        (b"SIMPLE  = T but not really", {}, "truncated or damaged"),
        (csv(wavelength=WAVE, flux=FLUX), {"redshift": None}, "give redshift="),
        (csv(wavelength=WAVE, flux=FLUX), {"redshift": -0.3}, "redshift -0.3"),
        (csv(wavelength=WAVE, flux=FLUX), {"ebv": -1.0}, "makes no sense"),
        (csv(wavelength=WAVE, flux=FLUX), {"medium": "water"}, "'vacuum' or 'air'"),
        (csv(wavelength=WAVE, flux=FLUX), {"wavelength_unit": "kg"}, "no wavelength"),
        (csv(wavelength=WAVE, flux=FLUX), {"flux_unit": "kg"}, "no flux density"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(content, options, says):
    with pytest.raises(ValueError, match=says):
        read_spectrum(content, **{"redshift": 0.1, "name": "x.csv", **options})


def test_url_goes_through_pooch_with_its_checksum(monkeypatch, tmp_path):
    url, kept, asked = "https://example.org/x.csv", tmp_path / ("0" * 32 + "-x.csv"), []
    kept.write_bytes(csv(wavelength=WAVE, flux=FLUX))

    def retrieve(url, known_hash, path):
        asked.append((url, known_hash))
        if known_hash is None:
            raise OSError("no route")
        return str(kept)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert read_spectrum(url, redshift=0.1, sha256="ab")["name"].values[0] == "x.csv"
    assert asked == [(url, "sha256:ab")]
    with pytest.raises(ConnectionError, match="needs a network"):
        read_spectrum(url, redshift=0.1)
