"""Tables of text in the dialects of spreadsheets, editors and old programs."""

import numpy as np
import pytest

from spectool.surveys.text import read_text

ROWS = [(4000.5, 1.25, 0.1), (4001.5, -2.5, 0.2), (4002.5, 3.0, 0.3)]


def lines(between=",", head="wave,flux,err", decimal=".", end="\n", rows=ROWS):
    body = [between.join(str(value).replace(".", decimal) for value in row) for row in rows]
    return end.join([*([head] if head else []), *body, ""]).encode()


DIALECTS = {
    "comma": lines(),
    "german": lines(";", "wave;flux;err", ","),
    "tabs and decimal commas": lines("\t", "wave\tflux\terr", ","),
    "blanks and decimal commas": lines("  ", "wave flux err", ","),
    "blanks": lines("   ", "wave  flux   err"),
    "bars": lines(" | ", "wave | flux | err"),
    "framed by bars": b"|wave|flux|err|\n" + b"\n".join(b"|%g|%g|%g|" % row for row in ROWS),
    "blanks behind commas": lines(", ", "wave, flux, err"),
    "quoted": lines(head='"wave","flux","err"'),
    "mark of UTF-8": b"\xef\xbb\xbf" + lines(),
    "UTF-16": lines().decode().encode("utf-16"),
    "Windows lines": lines(end="\r\n"),
    "old Mac lines": lines(end="\r"),
    "head in a comment": lines(" ", "# made by IRAF\n# wave flux err"),
    "head in a comment with commas": lines(",", "#wave, flux, err"),
    "comments of other programs": lines(head="! a spectrum\n% from somewhere\n// with words\nwave,flux,err"),
    "blank lines": lines(head="\n\nwave,flux,err\n\n"),
    "Fortran's exponents": b"wave flux err\n4.0005D3 0.125D+01 1.0d-1\n4.0015D3 -25D-1 2D-1\n4.0025D3 3D0 3D-1\n",
    "no head": lines(" ", ""),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_are_read_alike(dialect):
    table, notes = read_text(DIALECTS[dialect], "x.txt")
    assert table.colnames == (
        ["wavelength", "flux", "error"] if dialect == "no head" else ["wave", "flux", "err"]
    )
    np.testing.assert_allclose(np.array([table[column] for column in table.colnames]).T, ROWS)
    assert any("no line of column names" in note for note in notes) == (dialect == "no head")
    assert any("decimal commas" in note for note in notes) == ("decimal" in dialect or dialect == "german")


def test_units_encodings_and_missing_values():
    table, _ = read_text("Wave (Å),f\nnm,mJy\n1,2\n3,NULL\n5,--\n7,\n".encode("cp1252"), "x.csv")
    assert table.colnames == ["Wave (Å)", "f"] and [str(table[c].unit) for c in table.colnames] == [
        "nm",
        "mJy",
    ]
    assert table["f"].mask.tolist() == [False, True, True, True] and table["f"].dtype.kind == "i"
    table, _ = read_text(b"a,a,b\n1,2,x\n3,4,y\n", "x.csv")
    assert table.colnames == ["a", "a.1", "b"] and table["b"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"# only\n# comments\n", "is empty"),
        (b"wave,flux\n", "no rows below"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x01\x02\x03", "neither FITS nor text"),
        (lines() + b"4003.5,1\n", "line 5 has fewer cells"),
        (lines() + b"4003.5,1,2,3\n", "line 5 has 4 cells"),
        (b"1 2 3 4 5 6\n" * 9, "have no names"),
        (b"# %ECSV 1.0\n# ---\n# broken", "cannot be read as ECSV"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(content, says):
    with pytest.raises(ValueError, match=says) as refusal:
        read_text(content, "x.txt")
    assert "x.txt" in str(refusal.value)
