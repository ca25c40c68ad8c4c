"""Tables of text in anybody's dialect: its own file, the one that decides how a text is meant before it is parsed."""

import csv
import io
import re
from contextlib import suppress

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.table import Table

from spectool.surveys.units import parse_unit

_COMMENT = re.compile(r"\s*(#|;(?=\s*[A-Za-z#])|!|%|//)+\s*")
_MISSING = [
    *["null", "n/a", "na", "nan", "none", "empty"],
    *["NULL", "N/A", "NA", "NaN", "NAN", "None", "NONE", "Null"],
    "",
    "--",
    "-",
    "...",
]
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eEdD][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.IGNORECASE)


def read_text(content, name):
    """A table of text: ECSV, or columns in the delimiter, decimals, encoding and head that the text itself shows.

    Parameters
    ----------
    content : bytes
    name : str
        The file, for errors.

    Returns
    -------
    astropy.table.Table
        Columns of numbers where all cells are numbers or missing (masked), of text else; units of a line of units.
    list of str
        What was assumed.

    Raises
    ------
    ValueError
        Naming the file, and the line that does not fit.
    """
    text = _decode(content, name)
    if text.lstrip().startswith("# %ECSV"):
        try:
            return Table.read(text.splitlines(), format="ascii.ecsv"), []
        except Exception as error:
            raise ValueError(f"{name}: cannot be read as ECSV ({error})") from error
    notes = []
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    data = [line for line in lines if not _COMMENT.match(line)]
    if not data:
        raise ValueError(f"{name}: is empty, or holds comments alone: no lines of a table")
    delimiter, decimal = _dialect(data)
    if decimal == ",":
        notes.append(f"decimal commas, {'blanks' if delimiter is None else repr(delimiter)} between columns")
    names, data = _head(lines, data, delimiter, name, notes)
    units = _cells(data[0], delimiter) if data and _are_units(_cells(data[0], delimiter)) else []
    if not (data := data[bool(units) :]):
        raise ValueError(f"{name}: has a line of column names, and no rows below it")
    cells = _parse(data, lines, names, delimiter, name)
    table = Table({column: _column(cells[k], decimal) for k, column in enumerate(names)}, masked=True)
    for column, unit in zip(names, units, strict=False):
        if unit.strip(" []()"):  # spelt as it is, for `spectool.surveys.units.parse_unit`
            table[column].unit = u.Unit(unit, parse_strict="silent")
    return table, notes


def _parse(data, lines, names, delimiter, name):
    """Cells of text below the head; a row of another length is refused with its line."""
    options = {
        "header": None,
        "dtype": str,
        "keep_default_na": False,
        "skipinitialspace": True,
        "index_col": False,
    }
    text = io.StringIO("\n".join(line.strip().strip("|") if delimiter == "|" else line for line in data))
    width = len(_cells(data[0], delimiter))
    if width != len(names):
        raise ValueError(
            f"{name}: cannot be read: {width} cells in a line, below {len(names)} names of columns"
        )
    try:
        cells = pd.read_csv(text, sep=delimiter or r"\s+", **options)
    except ValueError as error:  # pandas' ParserError is one
        row = re.search(r"line (\d+), saw (\d+)", str(error))
        where = (
            f"line {lines.index(data[int(row[1]) - 1]) + 1} has {row[2]} cells, not {width}" if row else error
        )
        raise ValueError(f"{name}: cannot be read as a table: {where}") from error
    empty = np.flatnonzero((cells[width - 1].fillna("") == "").to_numpy())
    short = [row for row in empty if len(_cells(data[row], delimiter)) != width]
    if short:
        line = lines.index(data[short[0]]) + 1
        raise ValueError(
            f"{name}: cannot be read as a table: line {line} has fewer cells than its {width} columns"
        )
    return cells


def _decode(content, name):
    """Text of bytes in UTF-8, UTF-16 with its mark, or as Windows writes it."""
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    codecs = ["utf-16"] if is_wide else ["utf-8-sig", "cp1252", "latin-1"]
    for codec in codecs:
        try:
            text = content.decode(codec)
        except UnicodeDecodeError:
            continue
        printable = sum(c.isprintable() or c in "\r\n\t\f" for c in text[:4000])
        if printable >= 0.98 * len(text[:4000]):
            return text
        break
    raise ValueError(f"{name}: is neither FITS nor text (ECSV, CSV); is it a spectrum?")


def _dialect(lines):
    """The delimiter (None: blanks) and the decimal sign of lines of a table."""
    body = lines[len(lines) // 2 : len(lines) // 2 + 50]
    blanks = [cell for line in body for cell in line.split()]
    is_blank = all(_NUMBER.fullmatch(cell) and not cell.endswith(",") for cell in blanks)
    for delimiter in ("\t", ";", "|", None if is_blank else ",", ",", None):
        widths = {len(_cells(line, delimiter)) for line in body}
        if len(widths) == 1 and widths.pop() > 1:
            break
    else:
        delimiter = next((d for d in (";", "\t", "|", ",") if all(d in line for line in body)), None)
    cells = [cell for line in body for cell in _cells(line, delimiter)]
    commas = sum(bool(re.fullmatch(r"[+-]?\d*,\d+([eEdD][+-]?\d+)?", cell)) for cell in cells)
    points = any("." in cell and _NUMBER.fullmatch(cell) for cell in cells)
    return delimiter, "," if delimiter != "," and commas and not points else "."


def _cells(line, delimiter):
    """The cells of a line, without blanks and quotation marks."""
    if delimiter is None:
        return [cell.strip("\"'") for cell in line.split()]
    line = line.strip().strip("|") if delimiter == "|" else line
    return [
        cell.strip().strip("\"'").strip()
        for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    ]


def _is_data(cells):
    """Whether cells are numbers or missing, one number at least."""
    kinds = [bool(_NUMBER.fullmatch(cell)) for cell in cells]
    return any(kinds) and all(kind or cell in _MISSING for kind, cell in zip(kinds, cells, strict=True))


def _are_units(cells):
    """Whether a line below the names holds units: no number, and a unit that is known."""
    if any(_NUMBER.fullmatch(cell) for cell in cells):
        return False
    for cell in cells:
        if cell.strip(" []()") and cell not in _MISSING:
            with suppress(ValueError):
                parse_unit(cell, name="", column="", option="")
                return True
    return False


def _head(lines, data, delimiter, name, notes):
    """Names of columns, and the lines below them: from the first line, a comment above it, or by their order."""
    first = _cells(data[0], delimiter)
    if not _is_data(first):
        return _distinct(first), data[1:]
    for line in reversed([line for line in lines[: lines.index(data[0])] if _COMMENT.match(line)]):
        for split in (delimiter, None, ","):
            names = _cells(_COMMENT.sub("", line, count=1), split)
            if len(names) == len(first) and not any(_NUMBER.fullmatch(word) for word in names):
                return _distinct(names), data
    if not 2 <= len(first) <= 4:
        raise ValueError(
            f"{name}: its {len(first)} columns have no names: put a first line of column names there"
        )
    names = ["wavelength", "flux", "error", "mask"][: len(first)]
    notes.append(f"no line of column names: taken as {', '.join(names)}")
    return names, data


def _distinct(names):
    """Names of columns, each once: of copies the later ones get a number, as pandas gives it."""
    seen, result = {}, []
    for place, name in enumerate(names):
        name = name or f"col{place + 1}"
        count = seen[name] = seen.get(name, -1) + 1
        result.append(f"{name}.{count}" if count else name)
    return result


def _column(cells, decimal):
    """Cells as a masked column of whole numbers, numbers or text."""
    values = cells.fillna("").str.strip().str.strip("\"'")
    missing = values.isin(_MISSING)
    plain = values.str.replace(",", ".", regex=False) if decimal == "," else values
    plain = plain.str.replace(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", regex=True)
    numbers = pd.to_numeric(plain.where(~missing), errors="coerce")
    if numbers.isna().sum() > missing.sum() + values[~missing].str.lower().isin(["nan"]).sum():
        return np.ma.array(values.to_numpy(str), mask=missing.to_numpy())
    whole = (numbers.dropna() % 1 == 0).all() and values[~missing].str.fullmatch(r"[+-]?\d{1,18}").all()
    filled = numbers.fillna(0).to_numpy()
    return np.ma.array(filled.astype(np.int64) if whole else filled, mask=numbers.isna().to_numpy())
