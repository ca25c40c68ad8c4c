"""Catalogues of VizieR, fetched once through ``astroquery`` and kept."""

import hashlib
import io
from pathlib import Path

import pooch

SERVER = "vizier.cds.unistra.fr"
RECORD = "sha256.txt"
"""File in the cache that holds the checksum of each answer, recorded at its first download."""


def query_vizier(
    catalogue, *, columns=("*",), n_rows=-1, checksum=None, cache=None, server=SERVER, timeout=300.0
):
    """A table of VizieR, ready for `spectool.surveys.gama_files.read_photometry`.

    Parameters
    ----------
    catalogue : str
        Name of one table, such as "J/MNRAS/452/2087/gama".
    columns : sequence of str
        "*" for VizieR's default columns, "**" for all.
    n_rows : int
        The first rows; -1 for all.
    checksum : str, optional
        sha256 that the answer must have, in the place of the one recorded at the first download.
    cache : path, optional
        Default: the user's cache, as told by ``pooch``.
    server : str
        A mirror's name.
    timeout : float
        Seconds.

    Returns
    -------
    astropy Table
        With units and masked cells as in VizieR.

    Raises
    ------
    ConnectionError
        If VizieR cannot be reached and the cache does not hold the table.
    ValueError
        If VizieR has no such table, several, or the file is not the one that was recorded.
    """
    folder = Path(pooch.os_cache("spectool") if cache is None else cache) / "vizier"
    key = hashlib.sha256(f"{catalogue} {','.join(columns)} {n_rows}".encode()).hexdigest()[:16]
    path = folder / f"{key}.vot"
    if not path.exists():
        content = _ask(catalogue, columns, n_rows, server, timeout)
        _parse(content, catalogue)
        _write(content, path)
    content = path.read_bytes()
    found, known = hashlib.sha256(content).hexdigest(), checksum or _recorded(folder, path.name)
    if known and found != known:
        raise ValueError(
            f"{path}: is not the table of {catalogue} that was {'asked for' if checksum else 'first fetched'} "
            f"(sha256 {found[:12]}..., not {known[:12]}...): remove the file to fetch it again"
        )
    return _parse(content, catalogue)


def _ask(catalogue, columns, n_rows, server, timeout):
    """VizieR's answer, as it comes."""
    from astroquery.exceptions import TimeoutError as AstroqueryTimeout
    from astroquery.vizier import Vizier

    client = Vizier(columns=list(columns), row_limit=n_rows, timeout=timeout, vizier_server=server)
    try:
        answer = client.get_catalogs_async(catalogue)
        answer.raise_for_status()
    except (OSError, AstroqueryTimeout) as error:
        raise ConnectionError(
            f"VizieR ({server}) could not be reached ({error}): {catalogue} needs a network the first time"
        ) from error
    return answer.content


def _parse(content, catalogue):
    """The one table of an answer."""
    from astropy.io.votable import parse
    from astropy.io.votable.exceptions import VOTableSpecError

    try:
        tables = [table for table in parse(io.BytesIO(content)).iter_tables() if len(table.array)]
    except (VOTableSpecError, ValueError, IndexError) as error:
        raise ConnectionError(f"VizieR did not answer with a table, but with {content[:120]!r}") from error
    if len(tables) != 1:
        names = ", ".join(str(table.name) for table in tables)
        raise ValueError(
            f"VizieR has no table {catalogue!r}, or an empty one: look its name up"
            if not tables
            else f"{catalogue!r} holds several tables, name one of {names}"
        )
    return tables[0].to_table(use_names_over_ids=True)


def _write(content, path):
    """Write whole or not at all, and record the checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
    with (path.parent / RECORD).open("a") as record:
        record.write(f"{path.name} {hashlib.sha256(content).hexdigest()}\n")


def _recorded(folder, name):
    """The checksum recorded last for a file, or None."""
    record = folder / RECORD
    pairs = [line.split() for line in record.read_text().splitlines()] if record.exists() else []
    return next((pair[1] for pair in reversed(pairs) if len(pair) == 2 and pair[0] == name), None)
