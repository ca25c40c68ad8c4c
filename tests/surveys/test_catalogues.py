"""Catalogues as surveys and people write them: names, units, errors, redshifts, formats; or a question, by column."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from spectool.surveys import read_photometry
from tests.refusals import refused

FLUX = {"g": 3e-4, "r": 5e-4, "i": 7e-4}  # Jy
AB = {band: 8.9 - 2.5 * np.log10(flux) for band, flux in FLUX.items()}
NMGY = 3.631e-6


def catalogue(flux="{}_flux", error="{}_fluxerr", *, scale=1e3, error_of=lambda sigma: sigma, extra=()):
    """Three galaxies with errors of 5%, by default in mJy."""
    columns = {}
    for band, value in FLUX.items():
        columns[flux.format(band)] = np.full(3, value * scale) * [1, 2, 3]
        columns[error.format(band)] = error_of(0.05 * np.full(3, value * scale) * [1, 2, 3])
    return Table(columns | {"redshift": [0.05, 0.06, 0.07]} | dict(extra))


def is_right(sample, share=0.05):
    for band, flux in FLUX.items():
        assert np.allclose(sample["flux"].sel(band=band), flux * np.array([1, 2, 3]), rtol=2e-3), band
        assert np.allclose(
            sample["flux_error"].sel(band=band) / sample["flux"].sel(band=band), share, rtol=0.03
        ), band
    assert np.allclose(sample["redshift"], [0.05, 0.06, 0.07])
    return True


def inverse(sigma):
    return 1 / sigma**2


@pytest.mark.parametrize(
    ("flux", "error", "error_of"),
    [
        ("{}", "{}_err", None),
        ("FLUX_{}", "FLUX_IVAR_{}", inverse),
        ("flux_{}", "flux_ivar_{}", inverse),
        ("{}_flux", "{}_ivar", inverse),
        ("{}", "VAR_{}", np.square),
        ("{}_flux", "{}_flux_variance", np.square),
        ("flux_{}", "fluxerr_{}", None),
        ("FLUX_{}", "e_FLUX_{}", None),
        ("f_{}", "sigma_{}", None),
        ("{}_flux", "{}_err", None),
        ("{}_flux [mJy]", "{}_fluxerr [mJy]", None),
        ("{}_flux_mJy", "{}_flux_err_mJy", None),
    ],
)
def test_errors_under_the_names_people_use(flux, error, error_of):
    table = catalogue(flux, error, error_of=error_of or (lambda sigma: sigma))
    if "FLUX_IVAR" in error:  # as the Legacy Surveys write them
        table.rename_columns(table.colnames, [name.upper() for name in table.colnames])
    assert is_right(read_photometry(table, units=None if "mJy" in flux else "mJy"))


@pytest.mark.parametrize(
    ("unit", "scale", "error_unit", "error_scale"),
    [
        ("nJy", 1e9, "uJy", 1e6),
        ("nanomaggy", 1 / NMGY, "nanomaggy", 1 / NMGY),
        ("nanomaggies", 1 / NMGY, "Jy", 1),
        ("1e-29 erg / (s cm2 Hz)", 1e6, "MJY", None),
        ("mJy", 1e3, "percent", None),
        ("uJy", 1e6, "", 1e6),
    ],
)
def test_errors_in_a_unit_of_their_own(unit, scale, error_unit, error_scale):
    table = catalogue(scale=scale)
    for band, flux in FLUX.items():
        share = {"percent": 5 / flux, "MJY": 0.05e-6}.get(error_unit, 0.05 * (error_scale or 0))
        table[f"{band}_fluxerr"] = (
            share * flux * np.array([1, 2, 3] if error_unit != "percent" else [1, 1, 1])
        )
        table[f"{band}_flux"].unit = u.Unit(unit, parse_strict="silent")
        table[f"{band}_fluxerr"].unit = u.Unit(error_unit.replace("MJY", "MJy"), parse_strict="silent")
    assert is_right(read_photometry(table))
    if unit == "nanomaggy":
        squares = catalogue(scale=scale, error="{}_ivar", error_of=inverse)
        for band in FLUX:
            squares[f"{band}_flux"].unit, squares[f"{band}_ivar"].unit = (
                u.Unit(text, parse_strict="silent") for text in ("nanomaggy", "1/nanomaggy^2")
            )
        assert is_right(read_photometry(squares))


@pytest.mark.parametrize(
    ("flux", "error"),
    [("mag_{}", "magerr_{}"), ("{}_mag", "{}_mag_err"), ("{}mag", "e_{}mag"), ("{}", "{}_err")],
)
def test_magnitudes_need_their_system(flux, error):
    table = catalogue(flux, error)
    for band, magnitude in AB.items():
        table[flux.format(band)] = magnitude - 2.5 * np.log10([1, 2, 3])
        table[error.format(band)] = np.full(3, 0.05)
    sample = read_photometry(table, units="AB mag")
    assert is_right(sample, share=0.047)
    table[flux.format("r")][1] = 99.0
    table[error.format("i")][2] = 99.9
    mask = read_photometry(table, units="mag(AB)")["mask"].sel(band=["r", "i"]).values
    assert mask.tolist() == [[False, False], [True, False], [False, True]]
    if "mag" in flux:
        refused(f"column '{flux.format('g')}' is in magnitudes of an unnamed system", read_photometry, table)
        refused("is a magnitude by its name, not in mJy", read_photometry, table, units="mJy")


@pytest.mark.parametrize(
    "column", ["REDSHIFT", "Z_SPEC", "zphot", "z_phot", "Z_BEST", "photo_z", "specz", "Z_HELIO", "z"]
)
def test_redshifts_in_any_spelling(column):
    table = catalogue()
    table.rename_column("redshift", column)
    sample = read_photometry(table, units="mJy")
    assert is_right(sample) and f"redshift from column '{column}'" in sample.attrs["history"]
    table["Z_PHOT2"] = table["z_ml"] = [0.5, 0.5, np.nan]
    assert "not z_ml, which differ" in read_photometry(table, units="mJy").attrs["history"]
    table[column].unit = "km/s"
    refused(f"column '{column}' is in km / s", read_photometry, table, units="mJy")


Z = {"z": [0.05, 0.06, 0.07], "z_err": [0.001] * 3}
BRIGHT = {"z": [0.8, 1.6, 2.4], "z_err": [0.04, 0.08, 0.12]}


@pytest.mark.parametrize(
    ("columns", "without", "options", "expected"),
    [
        (Z, True, {}, "redshift"),
        (Z, True, {"redshift": "Z"}, "redshift"),
        (BRIGHT, False, {}, "band"),
        (BRIGHT, True, {}, "band"),
        (BRIGHT | {"z": [0.8, 0.3, 2.4]}, True, {}, "column 'z' the redshift or the z band"),
        (BRIGHT | {"z": [0.3, 0.6, 0.9]}, True, {}, "column 'z' the redshift or the z band"),
        (BRIGHT, True, {"redshift": [0.05, 0.06, 0.07]}, "band"),
        (BRIGHT, True, {"redshift": "z", "columns": {"z": "z"}}, "cannot be both redshift and"),
        (Z, False, {}, "redshift"),
        ({"z": [80.0, 160.0, 240.0], "z_err": [4.0] * 3}, True, {}, "band"),
        (Z | {"z_flux": [0.8, 1.6, 2.4], "z_fluxerr": [0.1] * 3}, True, {}, "both"),
    ],
)
def test_z_is_the_redshift_or_the_band(columns, without, options, expected):
    table = catalogue("{}", "{}_err", extra=columns)
    if without:
        table.remove_column("redshift")
    if expected not in ("redshift", "band", "both"):
        refused(
            "is column 'z' the redshift", read_photometry, Table({"z": [0.1], "z_err": [0.01]}), units="mJy"
        )
        refused(f"table: .*{expected}", read_photometry, table, units="mJy", **options)
        return
    sample = read_photometry(table, units="mJy", **options)
    assert sample["mask"].sel(band="z").all() == (expected == "redshift")
    if expected != "band":
        assert np.allclose(sample["redshift"], Z["z"])


def scaled_integers():
    """TNULL in a column of scaled integers, which astropy passes over."""
    hdu = fits.table_to_hdu(Table({"r_flux": np.array([50, 100, -32768], "i2"), "r_err": [0.1, 0.1, 0.1]}))
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    words = {"TNULL1": "-32768", "TSCAL1": "0.01", "TZERO1": "0.0"}
    cards = "".join(f"{key:8s}= {value:>20s}".ljust(80) for key, value in words.items()) + "END".ljust(80)
    end = file.getvalue().rindex(b"END" + b" " * 77)
    return file.getvalue()[:end] + cards.encode() + file.getvalue()[end + len(cards) :]


def test_missing_values_of_every_format(tmp_path):
    (tmp_path / "scaled.fits").write_bytes(scaled_integers())
    sample = read_photometry(tmp_path / "scaled.fits", units="mJy")
    assert np.allclose(sample["flux"].sel(band="r"), [5e-4, 1e-3, np.nan], equal_nan=True)
    text = "r_flux;r_err;u_flux;u_err;redshift\n0,5;0,1;99;99;0,05\n-99;0,1;-9999,0;1;0,05\n0,5;0,1;NULL;1;-9,99\n"
    (tmp_path / "german.csv").write_text(text)
    sample = read_photometry(tmp_path / "german.csv", units="mJy")
    assert sample["mask"].sel(band=["r", "u"]).values.tolist() == [[False, True], [True, True], [False, True]]
    assert np.isnan(sample["redshift"][2]) and "decimal commas" in sample.attrs["history"]


@pytest.mark.parametrize("kind", ["csv.gz", "fits", "fits.gz", "vot", "ecsv", "frame", "masked"])
def test_formats(tmp_path, kind):
    table, path = catalogue(scale=1.0), tmp_path / f"bands.{kind}"
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(table.to_pandas().to_csv(index=False).encode()))
    elif kind == "frame":
        path = pd.concat([table.to_pandas()] * 2).iloc[:4]
        assert "1 rows repeat" in read_photometry(path, units="Jy").attrs["history"]
        path = path.iloc[:3]
    elif kind == "masked":
        path = Table(table, masked=True)
        path["r_flux"].mask[1] = True
        assert read_photometry(path, units="Jy")["mask"].sel(band="r").values.tolist() == [False, True, False]
        path["r_flux"].mask[1] = False
    else:
        table.write(
            path, format="votable" if kind == "vot" else kind.split(".")[0].replace("ecsv", "ascii.ecsv")
        )
    assert is_right(read_photometry(path, units="Jy"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"r_flux,r_err\n", "no rows"),
        (b"", "is empty"),
        (b"r_flux,r_err\n1,2\n3\n", "line 3 has 1 cells"),
        (b"r_flux,r_err\nbright,0.1\n0.2,0.1\n", "column 'r_flux' is not numeric|line 2"),
        (b"\x1f\x8b\x08broken", "gzip file is truncated or damaged"),
        (fits.HDUList([fits.PrimaryHDU(np.ones((3, 3)))]), "holds no table"),
        (
            Table({"r_flux": np.ones((2, 3)), "r_err": [1.0, 1.0]}),
            "columns 'r_flux' and 'r_err' hold several",
        ),
        (
            Table({"r_flux": np.ones(2), "r_err": np.ones((2, 2))}),
            "columns 'r_flux' and 'r_err' hold several",
        ),
        (Table(names=["r_flux", "r_err"]), "no rows"),
    ],
)
def test_no_catalogue_crashes(tmp_path, content, says):
    path = tmp_path / "bands.x"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, fits.HDUList):
        content.writeto(path)
    else:
        content.write(path, format="fits")
    refused(f"bands.x: .*({says})", read_photometry, path, units="mJy")
