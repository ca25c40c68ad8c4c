"""What visitors bring is read by its columns and units, or refused in words that help."""

import io

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table

from spectool.prepare import resample, to_rest_frame
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


def table_file(*tables, **header):
    """A FITS file of tables, with header words in its primary."""
    primary = fits.PrimaryHDU(header=fits.Header({word.replace("_", "-"): v for word, v in header.items()}))
    file = io.BytesIO()
    fits.HDUList([primary, *map(fits.table_to_hdu, tables)]).writeto(file)
    return file.getvalue()


def image_file(data, extensions=(), **header):
    file = io.BytesIO()
    axis = {"CRVAL1": 4000.0, "CDELT1": 1.5, "CRPIX1": 1.0, "CUNIT1": "Angstrom"} | header
    primary = fits.PrimaryHDU(np.asarray(data, "f4"), fits.Header(axis))
    parts = [fits.ImageHDU(np.asarray(values, "f4"), name=name) for name, values in dict(extensions).items()]
    fits.HDUList([primary, *parts]).writeto(file)
    return file.getvalue()


def history(sample):
    return sample.attrs["history"]


IVAR = np.full(3000, 16.0)
GOOD = (np.arange(3000) % 50 != 0).astype(int)
FLAGGED = {"WAVE": WAVE, "FLUX": FLUX, "IVAR": IVAR}
BITS = np.where(np.arange(3000) < 7, 1 << 24, 16)


@pytest.mark.parametrize(
    ("content", "bad"),
    [
        (table_file(Table(FLAGGED | {"MASK": GOOD}), DMODCLS="OneSpec", PYP_SPEC="keck_lris"), GOOD == 0),
        (table_file(Table({f"OPT_{k}": v for k, v in FLAGGED.items()} | {"OPT_MASK": GOOD > 0})), GOOD == 0),
        (table_file(Table(FLAGGED | {"AND_MASK": BITS})), BITS > 16),
        (table_file(Table(FLAGGED | {"ANDMASK": GOOD, "ORMASK": GOOD * 0 + 1})), GOOD > 0),
        (table_file(Table(FLAGGED | {"QUAL": 1 - GOOD})), GOOD == 0),
        (table_file(Table(FLAGGED | {"good": GOOD})), GOOD == 0),
        (csv(**(FLAGGED | {"mask": np.where(GOOD == 0, "True", "False")})), GOOD == 0),
        (csv(**(FLAGGED | {"mask": 4 * (1 - GOOD), "data_release": ["DESI-DR1"] * 3000})), GOOD == 0),
        (csv(**(FLAGGED | {"mask": BITS, "data_release": ["SDSS-DR16"] * 3000})), BITS > 16),
        (csv(**(FLAGGED | {"IVAR": 9 * GOOD, "mask": GOOD})), GOOD == 0),
        (image_file(FLUX, {"DQ": 1 - GOOD, "ERR": FLUX * 0 + 0.1}), GOOD == 0),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_masks_mean_what_each_survey_says(content, bad):
    sample = read_spectrum(content, redshift=0.1, name="x")
    np.testing.assert_array_equal(sample["mask"].values[0], bad)


def test_a_mask_that_may_be_upside_down_is_asked_about():
    with pytest.raises(ValueError, match="does 1 mean good or bad"):
        read(**(FLAGGED | {"mask": GOOD}))


def test_lamost_is_not_taken_for_sdss():
    k, wave = np.arange(3000), 10 ** (3.6 + 1e-4 * np.arange(3000))
    rows = np.stack([FLUX, IVAR, wave, k < 9, k >= 0])
    axis = {"COEFF0": 3.6, "COEFF1": 1e-4, "DC-FLAG": 1, "Z": -9999.0}
    content = image_file(rows, **axis)
    sample = read_spectrum(content, redshift=0.1, name="x.fits")
    np.testing.assert_allclose(sample["observed_wavelength"], wave)
    np.testing.assert_allclose(sample["ivar"].values[0], np.where(k < 9, 0, 16))
    with pytest.raises(ValueError, match="does not say its redshift"):
        read_spectrum(content, name="x.fits")
    rows[2] = 0.2
    with pytest.raises(ValueError, match=r"SDSS's spSpec .* or LAMOST"):
        read_spectrum(image_file(rows, **axis), redshift=0.1, name="x.fits")
    sample = read_spectrum(image_file(rows, **axis, PLATEID=266), redshift=0.1, name="x.fits")
    np.testing.assert_allclose(sample["ivar"].values[0, 20:], 25, rtol=1e-5)


@pytest.mark.parametrize("wave", [WAVE, np.geomspace(4000, 7000, 3000), np.geomspace(7000, 4000, 3000)])
def test_pixels_without_rows_are_masked(wave):
    keep = (wave < 5000) | (wave > 5300)
    keep[[40, 41, 90]] = False
    error = np.full(keep.sum(), 0.1)
    sample = read(wavelength=wave[keep], flux=FLUX[keep], error=error)
    np.testing.assert_allclose(sample["observed_wavelength"], np.sort(wave), rtol=2e-4)
    np.testing.assert_array_equal(sample["mask"].values[0], ~keep[np.argsort(wave)])
    assert "no rows from" in history(sample)
    fine = resample(to_rest_frame(sample), np.arange(4900 / 1.1, 5400 / 1.1))
    inside = (fine["wavelength"].values * 1.1 > 5002) & (fine["wavelength"].values * 1.1 < 5298)
    assert fine["mask"].values[0, inside].all() and fine["mask"].values.mean() < 0.65


JY = (FLUX * 1e-17 * u.Unit("erg / (s cm2 AA)")).to_value("Jy", u.spectral_density(WAVE * u.AA))


@pytest.mark.parametrize(
    ("columns", "units"),
    [
        ({"flux": JY * 1e3, "error": JY * 1e5}, {"flux": "mJy", "error": "uJy"}),
        ({"flux": JY, "fluxerr": FLUX * 0 + 10}, {"flux": "Jy", "fluxerr": "percent"}),
        (
            {"flux": FLUX * 1e-17, "ivar": 100 / FLUX**2},
            {"flux": "erg/s/cm2/A", "ivar": "1E+34 cm^4 s^2 Ang^2/erg^2"},
        ),
        ({"flux": FLUX * 1e-17, "var": FLUX**2}, {"flux": "FLAM", "var": "(1e-18 erg/s/cm2/A)^2"}),
        ({"flux": -2.5 * np.log10(JY / 3631), "err": FLUX * 0 + 0.108574}, {"flux": "AB mag", "err": "mag"}),
    ],
)
def test_errors_are_in_their_own_units(columns, units):
    table = Table({"wave": WAVE, **columns})
    hdu = fits.table_to_hdu(table)
    for number, column in enumerate(table.colnames, 1):
        hdu.header[f"TUNIT{number}"] = units.get(column, "Angstrom")
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file, output_verify="ignore")
    sample = read_spectrum(file.getvalue(), redshift=0.1, name="x.fits")
    np.testing.assert_allclose(sample["flux"].values[0], FLUX, rtol=1e-4)
    np.testing.assert_allclose(sample["ivar"].values[0] ** -0.5, FLUX * 0.1, rtol=1e-4)


AIR = vacuum_to_air(WAVE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (csv(**{"wavelength (air)": AIR, "flux": FLUX}), "in air"),
        (csv(lambda_air=AIR, flux=FLUX), "in air"),
        (table_file(Table({"WAVE": AIR, "FLUX": FLUX}), VACUUM=False), "in air"),
        (csv(loglam=np.log10(WAVE), flux=FLUX), "taken as vacuum"),
        (csv(ln_lambda=np.log(WAVE), flux=FLUX), "taken as vacuum"),
        (csv(**{"wave [log10(A)]": np.log10(WAVE), "flux": FLUX}), "taken as vacuum"),
        (csv(**{"Wave_VAC": WAVE, "fnu": FLUX * WAVE**2}), "per frequency"),
    ],
)
def test_what_names_and_headers_say_of_wavelengths_is_obeyed(content, says):
    sample = read_spectrum(content, redshift=0.1, name="x.csv")
    np.testing.assert_allclose(sample["observed_wavelength"], WAVE, rtol=1e-8)
    ratio = sample["flux"].values[0] / FLUX
    np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-5)
    assert says in history(sample)


def test_several_spectra_in_a_file_are_asked_about():
    vectors = Table({"WAVE": np.stack([WAVE, WAVE]), "FLUX": np.stack([FLUX, 2 * FLUX]), "Z": [0.1, 0.2]})
    content = table_file(vectors)
    with pytest.raises(ValueError, match=r"holds 2 spectra.*target=0"):
        read_spectrum(content, name="x.fits")
    second = read_spectrum(content, name="x.fits", target=1)
    assert second["redshift"].item() == 0.2
    np.testing.assert_allclose(second["flux"].values[0], 2 * FLUX, rtol=1e-6)
    both = read_spectrum(content, name="x.fits", target="all")
    assert both.sizes["galaxy"] == 2 and both["redshift"].values.tolist() == [0.1, 0.2]
    for target in (2, -1, "last", []):
        with pytest.raises(ValueError, match="it has 2 rows"):
            read_spectrum(content, name="x.fits", target=target)
    for single in (csv(wavelength=WAVE, flux=FLUX), packaged_spectra()["NGC 3522"]):
        with pytest.raises(ValueError, match="it has 1 spectrum: give 0"):
            read_spectrum(single, redshift=0.1, target=5)
    stack = image_file(np.stack([FLUX, 2 * FLUX]), {"ERR": np.full((2, 3000), 0.1)})
    np.testing.assert_array_equal(
        read_spectrum(stack, redshift=0.1, target=1)["flux"].values[0], (2 * FLUX).astype("f4")
    )
    arms = table_file(*[Table({"WAVE": w, "FLUX": FLUX}) for w in (WAVE, WAVE + 3000)])
    with pytest.raises(ValueError, match="holds 2 spectra, in tables"):
        read_spectrum(arms, redshift=0.1, name="x.fits")
    halves = Table({"WAVE": np.stack([WAVE + 3100, WAVE]), "FLUX": np.stack([2 * FLUX, FLUX])})
    joined = read_spectrum(table_file(halves), redshift=0.1, name="x.fits")
    assert joined["observed_wavelength"].values[[0, -1]].tolist() == [4000, 10100]
    assert "joined end to end" in history(joined)


def test_rows_that_a_header_names_are_flux_and_sigma():
    """IRAF's bands, and 6dF's joined arms."""
    bands = np.stack([FLUX, FLUX * 0.9, FLUX * 0, FLUX * 0.1])[:, None]
    words = {
        "BANDID1": "spectrum - weights variance",
        "BANDID2": "raw",
        "BANDID3": "background",
        "BANDID4": "sigma",
    }
    sample = read_spectrum(image_file(bands, **words), redshift=0.1)
    np.testing.assert_allclose(sample["ivar"].values[0] ** -0.5, FLUX * 0.1, rtol=1e-5)
    empty = image_file(np.zeros((2, 2)))
    with fits.open(io.BytesIO(empty)) as hdus:
        hdus.append(fits.ImageHDU(np.stack([FLUX, FLUX * 0 + 4, FLUX]), hdus[0].header, name="SPECTRUM VR"))
        file = io.BytesIO()
        hdus.writeto(file)
    np.testing.assert_allclose(read_spectrum(file.getvalue(), redshift=0.1)["ivar"], 0.25)


def test_header_words_that_are_no_redshift_are_none():
    for value in (True, -9999.0, "high"):
        with pytest.raises(ValueError, match="does not say its redshift"):
            read_spectrum(table_file(Table({"WAVE": WAVE, "FLUX": FLUX}), REDSHIFT=value))
    with pytest.raises(ValueError, match="log10 of Angstrom, or micrometres"):
        read(wavelength=np.log10(WAVE), flux=FLUX)


def test_padded_vectors_small_numbers_and_wavelengths_at_rest():
    vectors = {
        "WAVE": np.r_[WAVE, 0, 0],
        "FLUX": np.r_[FLUX, 0, 0] * 1e-17,
        "ERR": np.r_[0 * FLUX + 1e-20, 0, 0],
    }
    sample = read_spectrum(table_file(Table({key: v[None] for key, v in vectors.items()})), redshift=0.1)
    assert sample.sizes["wavelength"] == 3000 and not sample["mask"].values.any()
    np.testing.assert_allclose(sample["ivar"], 1e6, rtol=1e-5)
    with pytest.raises(ValueError, match="in the rest frame"):
        read(**{"wavelength (rest)": WAVE, "flux": FLUX})
