"""Delimited text of any dialect as a table: what lies between columns, where the names are, which words are none."""

import csv
import re
from collections import Counter
from io import BytesIO, StringIO

import numpy as np
import pandas as pd
from astropy import units as u
from astropy.table import MaskedColumn, Table

from spectool.surveys import refusing
from spectool.surveys.layouts import find_roles, is_spectrum
from spectool.surveys.units import parse_unit

DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}
_WORDS = "nan -nan null none empty nil missing masked undef indef n/a n.a. na k.a. inf -inf +inf infinity -infinity"
MISSING = {"", r"\n", "<na>", "#n/a", "#nv", "#div/0!", "#value!", "#wert!", "#num!", *_WORDS.split()}
_IPAC = re.compile(r"\|[^\n]*\|\s*\n\|\s*(char|int|long|real|float|double)\b")
_COMMENT = ("#", ";", "!", "%", "//")
_EXPONENT = r"(?:[eEdD][+-]?\d+)?"
NUMBERS = {
    ".": re.compile(rf"[+-]?(?:\d+\.?\d*|\.\d+){_EXPONENT}"),
    ",": re.compile(rf"[+-]?(?:\d+(?:,\d+)?|,\d+){_EXPONENT}"),
}
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
# What a name in a catalogue's commented head may look like, and a word of prose does not.
_CATALOGUE = re.compile(
    r"(^|[_ ])(e|err|error|flux|mag|ivar|z|redshift|ra|dec|id)($|[_ ])|(flux|mag|err)", re.I
)


def read_text(content, name):
    """A table from bytes of text: ECSV, VOTable, IPAC, or lines of cells, in the dialect that they themselves show.

    Parameters
    ----------
    content : bytes
        UTF-8, UTF-16 with its mark, or cp1252. Names are looked for in the first line, or in the comments above the
        numbers; without any, two to four columns of numbers are wavelength, flux, error and mask.
    name : str
        For messages.

    Returns
    -------
    Table, list of str
        Missing values are masked, units are those of ECSV or of a line below the names; what was assumed, in sentences.

    Raises
    ------
    ValueError
        Naming the file, and the line.
    """
    with refusing(name):
        text, notes = _decode(content, name)
        start = text[:2000].lstrip()
        if start.startswith("# %ECSV"):
            try:
                return Table.read(text.splitlines(), format="ascii.ecsv"), notes
            except Exception as error:  # of astropy's, of yaml's
                raise ValueError(f"{name}: cannot be read as ECSV ({error})") from error
        if start.startswith(("<?xml", "<VOTABLE")):
            return Table.read(BytesIO(content), format="votable"), notes
        if start.startswith("\\") or _IPAC.match(start):
            return Table.read(text, format="ascii.ipac"), notes
        return _read_lines(text, name, notes), notes


def _decode(content, name):
    """Text, and a note if its encoding had to be assumed."""
    notes, encodings = [], ["utf-8-sig", "cp1252"]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        text = text.rstrip("\x1a").replace("\xa0", " ").replace("\u2212", "-")
        if re.search(r"[\x00-\x08\x0e-\x1f]", text):
            break
        if encoding == "cp1252":
            notes.append("the text is not UTF-8: read as cp1252, as Windows writes it")
        return text, notes
    raise ValueError(f"{name}: is neither FITS nor text (ECSV, CSV) in UTF-8, UTF-16 or cp1252")


def _read_lines(text, name, notes):
    """The table of lines of cells."""
    lines = [(k, line.strip(" \f")) for k, line in enumerate(re.split("\r\n|\r|\n", text), 1) if line.strip()]
    body = [(k, line) for k, line in lines if not line.startswith(_COMMENT)]
    if not body:
        comments = " but comments" if lines else ""
        raise ValueError(f"{name}: is empty: it holds no line{comments}")
    delimiter, decimal = _sniff([line for _, line in body], name)
    if delimiter == ";":  # an empty first cell is no comment
        body = [(k, line) for k, line in lines if not line.startswith(("#", "!", "%", "//"))]
    edges = "| " if delimiter == "|" else " "
    rows = [(k, (re.sub(r"\s+#.*$", "", line) if "#" in line else line).strip(edges)) for k, line in body]
    is_data = (_is_data(_cells(line, delimiter), decimal, place) for place, (_, line) in enumerate(rows))
    n_head = next((place for place, yes in enumerate(is_data) if yes), len(rows))
    head, rows = rows[:n_head], rows[n_head:]
    if rows and all(line.endswith(delimiter) for _, line in rows) and delimiter != "\t":
        rows = [(k, line[:-1]) for k, line in rows]
        head = [(k, line.removesuffix(delimiter)) for k, line in head]
    is_plain = delimiter != " " and not any('"' in line for _, line in rows)
    counts = [line.count(delimiter) + 1 if is_plain else len(_cells(line, delimiter)) for _, line in rows]
    if not rows:
        raise ValueError(f"{name}: has a line of column names, and no rows of numbers below it")
    n = Counter(counts).most_common(1)[0][0]
    names, units, named_at = _names(lines, head, rows, delimiter, n, name, notes)
    wrong = next((i for i, count in enumerate(counts) if count != n), None)
    if wrong is not None:
        has = f"line {rows[wrong][0]} has {counts[wrong]} cells between {DELIMITERS[delimiter]}"
        raise ValueError(f"{name}: {has}, {named_at or 'most lines'} {n}: write an empty cell as nan")
    if decimal == ",":
        notes.append(f"decimal commas, {DELIMITERS[delimiter]} between columns")
    frame = pd.read_csv(
        StringIO("\n".join(line for _, line in rows)),
        **{"sep": r"\s+" if delimiter == " " else delimiter, "decimal": decimal, "skipinitialspace": True},
        **{"header": None, "names": names, "index_col": False, "dtype_backend": "numpy_nullable"},
        **{"skip_blank_lines": False, "low_memory": False},
    )
    if len(frame) != len(rows):
        raise ValueError(f"{name}: a quotation mark is open: {len(rows)} lines came out as {len(frame)}")
    where = [k for k, _ in rows]
    table = Table({column: _column(frame[column], decimal, where, name, notes) for column in names})
    for column, unit in zip(names, units, strict=True):
        if unit:
            table[column].unit = unit
    table.meta |= _facts(lines)
    return table


def _sniff(lines, name):
    """What lies between columns, and the decimal sign: where most cells are numbers."""
    sample = lines[1 :: max(1, len(lines) // 200)] or lines
    best, choice, commas = 0.0, None, []
    for delimiter in DELIMITERS:
        rows = [_cells(line, delimiter) for line in sample]
        count, often = Counter(map(len, rows)).most_common(1)[0]
        cells = [cell for row in rows for cell in row if cell.lower() not in MISSING]
        if count < 2:
            continue
        for decimal in "." if delimiter == "," else ".,":
            share = np.mean([bool(NUMBERS[decimal].fullmatch(cell)) for cell in cells]) if cells else 0.0
            if round(share * often / len(rows), 3) > best:
                best, choice = round(share * often / len(rows), 3), (delimiter, decimal)
                commas = [cell for cell in cells if "," in cell and NUMBERS[","].fullmatch(cell)]
    if choice is None:
        raise ValueError(f"{name}: has a line of column names, and no rows of numbers below it")
    if choice[1] == "," and commas and all(_THOUSANDS.fullmatch(cell) for cell in commas):
        both = f"{commas[0]!r}: a decimal comma, or one between thousands"
        raise ValueError(f"{name}: nobody can tell what {both}; write it with a decimal point")
    return choice


def _cells(line, delimiter):
    """The cells of a line, without blanks and quotation marks around them."""
    if delimiter == " ":
        return line.split()
    cells = line.split(delimiter)
    if '"' in line:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    return [cell.strip() for cell in cells]


def _is_data(cells, decimal, place):
    """Whether a line holds numbers; the first one holds names as soon as it has one word."""
    numbers = [bool(NUMBERS[decimal].fullmatch(cell)) for cell in cells]
    words = [cell for cell, is_number in zip(cells, numbers, strict=True) if not is_number]
    return any(numbers) and (place > 0 or all(cell.lower() in MISSING for cell in words))


def _split_head(line, delimiter, n):
    """The n names or units of a line, whose delimiter may not be that of the numbers; None if there are not n."""
    joined = re.sub(r"\s+(?=[\[(])", "", line)
    ways = [_cells(line, d) for d in (delimiter.strip(" "), *DELIMITERS) if d]
    ways += [re.split(r"\s{2,}|\t", line), joined.split()]
    return next(([cell.strip("'\" ") for cell in cells] for cells in ways if len(cells) == n), None)


def _names(lines, head, rows, delimiter, n, name, notes):
    """Names and units of n columns, and the line that the names are from."""
    first = rows[0][0]
    comments = [(k, line.lstrip("#;!%/ \t")) for k, line in lines if line.startswith(_COMMENT) and k < first]
    numbered = {
        int(m[1]): m for _, text in comments if (m := re.match(r"(\d+)[:.)]?\s+(\S+)(?:.*\[(.*)\]$)?", text))
    }
    if not head and set(numbered) >= set(range(1, n + 1)):  # SExtractor's head
        return (
            [numbered[k][2] for k in range(1, n + 1)],
            [_unit(numbered[k][3] or "") for k in range(1, n + 1)],
            "",
        )
    split = {
        k: _split_head(re.sub(r"^units?\s*[:=]\s*", "", text), delimiter, n) for k, text in head + comments
    }
    split = {k: cells for k, cells in sorted(split.items()) if cells}
    at = next((k for k, _ in head if k in split), None)
    if head and at is None:
        has = len(_cells(head[0][1], delimiter))
        raise ValueError(
            f"{name}: line {head[0][0]} holds {has} names, and the lines below {n} cells: name each"
        )
    if not head:
        looks = {
            k: is_spectrum(find_roles(cells)) or any(map(_CATALOGUE.search, cells))
            for k, cells in split.items()
        }
        at = max((k for k in split if looks[k] or n > 4), key=lambda k: (looks[k], k), default=None)
    if at is None:
        if not 2 <= n <= 4:
            raise ValueError(
                f"{name}: no line of column names above its {n} columns: write one, as wavelength,flux"
            )
        names = ["wavelength", "flux", "error", "mask"][:n]
        notes.append(f"no line of column names: taken as {', '.join(names)}")
        return names, [None] * n, ""
    notes += [f"line {k} above the names was left out: {line[:60]!r}" for k, line in head if k < at]
    units = [None] * n
    for k in (k for k, _ in head + comments if k > at):
        below = [_unit(cell) for cell in split.get(k, [])]
        is_strange = any(isinstance(unit, u.UnrecognizedUnit) for unit in below)
        if any(unit not in (None, u.dimensionless_unscaled) for unit in below) and (
            k in dict(head) or not is_strange
        ):
            units = below
            notes.append(f"line {k} was taken as the columns' units")
        elif k in dict(head):
            raise ValueError(
                f"{name}: line {k}, below the names, holds neither numbers nor units: leave it out"
            )
    names = [cell or f"column_{place}" for place, cell in enumerate(split[at], 1)]
    earlier = [names[:place].count(cell) for place, cell in enumerate(names)]
    names = [f"{cell}.{count}" if count else cell for cell, count in zip(names, earlier, strict=True)]
    return names, units, f"line {at}"


def _unit(text):
    """A unit, which astropy may not know, or None for nothing."""
    text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    if not text.strip("-. []"):
        return None
    try:
        return parse_unit(text, name="", column="", option="units")
    except ValueError:
        return u.Unit(text, parse_strict="silent")


def _column(series, decimal, lines, name, notes):
    """A column of pandas with what is missing masked: words of many kinds, and infinities."""
    missing = series.isna().to_numpy(copy=True)
    if pd.api.types.is_string_dtype(series.dtype):
        texts = series.fillna("").astype(str).str.strip()
        odd = texts.str.fullmatch("[a-z]+[A-Z]+")  # nA is a flag of letters, and NaN and null are none
        is_word = (texts.str.lower().isin(MISSING) & ~odd | texts.str.fullmatch(r"[-*.?]+")).to_numpy(bool)
        is_number = texts.str.fullmatch(NUMBERS[decimal]).to_numpy(bool)
        missing |= is_word if (is_number | is_word).all() else (texts == "").to_numpy(bool)
        wrong = np.flatnonzero(texts.str.fullmatch(NUMBERS["."]).to_numpy(bool) & ~is_number & ~missing)
        if wrong.size:
            where = f"line {lines[wrong[0]]} has {texts.iloc[wrong[0]]!r}"
            raise ValueError(f"{name}: {where} where others have a decimal comma: write all numbers alike")
        values = texts.mask(missing, "").to_numpy(str)
        if (is_number | missing).all():
            plain = texts.mask(missing, "0").str.replace(",", ".").str.replace("[dD]", "e", regex=True)
            values = pd.to_numeric(plain).to_numpy()
    else:
        values = series.to_numpy(series.dtype.numpy_dtype, na_value=series.dtype.numpy_dtype.type(0))
    if values.dtype.kind == "f":
        missing |= ~np.isfinite(values)
    if missing.any():
        notes.append(f"column {series.name!r}: {missing.sum()} missing values are masked")
    return MaskedColumn(values, mask=missing)


def _facts(lines):
    """What comments say as key: value, and the comments."""
    comments = [line.lstrip("#;!%/ \t") for _, line in lines if line.startswith(_COMMENT)]
    facts = dict(
        m.groups() for text in comments if (m := re.fullmatch(r"([A-Za-z_][\w-]*)\s*[:=]\s*(\S.*)", text))
    )
    facts = {key: float(value) if NUMBERS["."].fullmatch(value) else value for key, value in facts.items()}
    return facts | ({"comments": comments} if comments else {})
