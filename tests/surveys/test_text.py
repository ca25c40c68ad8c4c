"""Text in the dialects of spreadsheets, databases and Fortran: the same table, or a refusal that names the line."""

import numpy as np
import pytest

from spectool.surveys.text import read_text
from tests.refusals import refused

ROWS = [(3800.5, 12.25, 0.2), (3806.5, 12.5, 0.2), (3812.5, 11.75, 0.2), (3818.5, 12.125, 0.2)]
HEAD = ["wavelength", "flux", "error"]


def lines(delimiter, decimal=".", head=True, number="{:g}"):
    rows = [[number.format(value).replace(".", decimal) for value in row] for row in ROWS]
    return "".join(delimiter.join(cells) + "\n" for cells in [HEAD] * head + rows)


def commented(*head):
    return "".join(f"{line}\n" for line in head) + lines("  ", head=False)


PLAIN = lines(",")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN, None),
        (lines(";", ","), "decimal commas, semicolons"),
        (lines("\t", ","), "decimal commas, tabs"),
        (lines("   ", ","), "decimal commas, blanks"),
        (lines(" | "), None),
        (lines(" , "), None),
        (PLAIN.replace("\n", ",\n"), None),
        (PLAIN.replace("\n", "\r\n"), None),
        (PLAIN.replace("\n", "\r"), None),
        (PLAIN.replace("\n", "\n\n"), None),
        (PLAIN.encode("utf-8-sig"), None),
        (PLAIN.encode("utf-16"), None),
        (PLAIN.replace("wavelength", "# gemessen für λ\nwavelength").encode(), None),
        (b"# gemessen f\xfcr uns\n" + PLAIN.encode(), "cp1252"),
        (lines(",", number='"{:g}"'), None),
        (lines(" ", number="{:.8e}").replace("e+", "D+").replace("e-", "d-"), None),
        (commented("# from the telescope", "# wavelength flux error"), None),
        (commented("! wavelength, flux, error"), None),
        (commented("// wavelength\tflux\terror"), None),
        (commented("; wavelength flux error", "; written by hand yesterday"), None),
        (commented("#  1 wavelength  of pixels", "#  2 flux  in no unit", "#  3 error"), None),
        (commented("My galaxy", "wavelength flux error"), "line 1 above the names was left out: 'My galaxy'"),
        (commented("% made by me"), "no line of column names: taken as wavelength, flux, error"),
        (PLAIN.replace("0.2\n", "0.2  # fine\n"), None),
    ],
)
def test_every_dialect_is_the_same_table(content, says):
    table, notes = read_text(content if isinstance(content, bytes) else content.encode(), "a.csv")
    assert table.colnames == HEAD
    assert np.allclose(np.array([table[name] for name in HEAD]).T, ROWS, rtol=1e-12)
    assert says in "\n".join(notes) if says else not notes


@pytest.mark.parametrize(
    "head",
    [
        "wavelength,flux,error\nAngstrom,1e-17 erg/s/cm2/A,1e-17 erg/s/cm2/A",
        "wavelength,flux,error\n(A),(1E-17 erg/cm^2/s/Ang),1E-17 erg/cm^2/s/Ang",
        "# wavelength,flux,error\n# units: Angstrom,1e-17 erg/s/cm2/A,1e-17 erg/s/cm2/A",
    ],
)
def test_a_line_of_units_below_the_names(head):
    table, notes = read_text((head + "\n" + lines(",", head=False)).encode(), "a.csv")
    assert table["wavelength"].unit == "Angstrom" and "line 2 was taken as the columns' units" in notes
    assert all(table[name].unit.to("erg / (s cm2 Angstrom)") == pytest.approx(1e-17) for name in HEAD[1:])


WORDS = ["", "NULL", "N/A", "nan", "--", "none", "Empty", "-inf", "INDEF", r"\N", "#DIV/0!", "***", " "]


@pytest.mark.parametrize("decimal", [".", ","])
def test_words_that_stand_for_nothing_are_masked(decimal):
    whole = "id;count;flux\n" + "".join(f"{2**60 + k};{k};{k}{decimal}5\n" for k in range(40))
    content = whole + "".join(f";{word};{word}\n" for word in WORDS)
    table, notes = read_text(content.encode(), "a.csv")
    assert all(
        table[name].mask.sum() == len(WORDS) and not table[name].mask[:40].any() for name in table.colnames
    )
    assert table["id"][3] == 2**60 + 3 and table["flux"][3] == 3.5 and table["count"].dtype.kind in "if"
    assert f"column 'flux': {len(WORDS)} missing values are masked" in notes


def test_columns_keep_what_they_are():
    head = "# redshift = 0.05\n# VACUUM: F\nname,id,,flux,flux\n"
    table, _ = read_text((head + "NGC 1,12,a,1.5,2\nM 31,,b,2.5,3\n").encode(), "a.csv")
    assert table.colnames == ["name", "id", "column_3", "flux", "flux.1"] and table["id"].dtype.kind == "i"
    assert list(table["name"]) == ["NGC 1", "M 31"] and table["id"].mask.tolist() == [False, True]
    assert table.meta["redshift"] == 0.05 and table.meta["VACUUM"] == "F"
    assert read_text(b"1,2,3,0\n2,3,4,1\n", "a.csv")[0].colnames == [*HEAD, "mask"]
    ipac = b"\\fixlen = T\n|wavelength|  flux|\n|   double|double|\n|        A|    Jy|\n     3800.0    2.5\n"
    assert read_text(ipac, "a.tbl")[0]["flux"].unit == "Jy"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"# only comments\n", "no line but comments"),
        (b"wavelength,flux\n", "no rows of numbers below it"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "neither FITS nor text"),
        (b"\xff\xfea", "neither FITS nor text"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", "line 3 has 3 cells between commas, line 1 2"),
        (b"a,b\n# note\n1,2\n3\n6,7\n", "line 4 has 1 cells"),
        (b"a,b,c\n1,2\n3,4\n", "line 1 holds 3 names, and the lines below 2 cells"),
        (b"1 2 3 4 5\n2 3 4 5 6\n", "no line of column names above its 5 columns"),
        (b"a,b\n,\nx y,\n1,2\n3,4\n", "line 2, below the names, holds neither numbers nor units"),
        (b'a,b\n"1,2\n3,4\n5,6\n', "line 2, below the names"),
        (b"a;b\n3,800;1,200\n3,900;1,300\n", "'3,800': a decimal comma, or one between thousands"),
        (b"a;b;c\n3.800;1,25;0,2\n3.900;1,35;0,2\n", "line 2 has '3.800' where others have a decimal comma"),
        (b"# %ECSV 1.0\n# ---\n# datatype: [\na b\n1 2\n", "cannot be read as ECSV"),
        (b"<?xml version='1.0'?><VOTABLE>", ""),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(content, says):
    refused(f"a.csv: (.|\n)*({says})", read_text, content, "a.csv")


def test_flags_of_letters_are_not_missing_values():
    table, _ = read_text(b"flux,flag\n1,nA\n2,\n3,NULL\n", "x.csv")
    assert table["flag"].tolist() == ["nA", None, None]
