"""Where bytes come from, a path, a URL or an upload: its own file, the one that unpacks and keeps copies."""

import bz2
import difflib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname, urlopen

from spectool.io import atomic

LARGEST = 2**30
"""Bytes that a file may have, downloaded or unpacked."""
CHUNK = 2**20
TIMEOUT = 30.0  # seconds that a server may be silent
QUOTES = ('""', "''", "“”", "‘’", "«»")
PACKED = {b"\x1f\x8b": ("gzip", gzip.open), b"BZh": ("bzip2", bz2.open), b"\xfd7zXZ\x00": ("xz", lzma.open)}
PACKED |= {b"PK\x03\x04": ("zip", None), b"PK\x05\x06": ("zip", None)}
UNREAD = {magic: kind for magic, (kind, _) in PACKED.items()}
UNREAD |= {b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x9d": "compress (.Z)"}
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
WEB_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<(!--.*?--|\?xml[^>]*\?)>\s*)*"
    rb"<(!doctype html|html|head|body|script|style|title|meta|div|center|form|h1|p)\b",
    re.DOTALL | re.IGNORECASE,
)
MEMBERS = (r"\.(fits?|fts|fz)(\.\w+)?$", r"(?<!readme)\.(csv|ecsv|tsv|txt|dat|asc|ascii|vot|xml)(\.\w+)?$")
"""Names of a spectrum's file among others in a zip file, the likeliest first."""
STATUS = {
    401: "asks to sign in (401)",
    403: "refuses access (403): does it ask to sign in?",
    404: "has no such file (404): is the address right?",
    410: "has this file no longer (410)",
    429: "was asked too often (429): try again later",
}


def fetch(source, *, name=None, sha256=None):
    """The content of a path, URL or upload, unpacked; what to call it; and notes on what is worth knowing.

    Raises
    ------
    OSError, ValueError
        Naming the file: missing, a folder, out of reach, refused, damaged, too large, a page in the place of a file.
    """
    notes, path = [], local_path(source)
    if path is not None:
        name, content = name or path.name, path.read_bytes()
    elif isinstance(source, str | os.PathLike):
        url = _typed(source)
        name = name or unquote(re.sub(r"[?#].*", "", url).rstrip("/").rpartition("/")[2])
        return _download(url, name, sha256, notes), name, notes
    elif isinstance(source, bytes | bytearray | memoryview):
        name, content = name or "uploaded file", bytes(source)
    elif hasattr(source, "read"):
        name = name or Path(str(getattr(source, "name", "uploaded file"))).name
        content = source.read()
        content = content.encode() if isinstance(content, str) else content
    else:
        raise ValueError(f"a {type(source).__name__} is no path, URL or bytes of a file")
    return _checked(content, name, sha256, notes), name, notes


def _digest(content):
    return hashlib.sha256(content).hexdigest()


def _checked(content, name, sha256, notes):
    """A file's content, unpacked, after its checksum."""
    wanted = (sha256 or "").strip().lower().removeprefix("sha256:")
    if wanted and _digest(content) != wanted:
        digests = f"{_digest(content)[:12]}..., not {wanted[:12]}..."
        raise ValueError(f"{name}: is not the file that is asked for: its sha256 is {digests}")
    return unpack(content, name, notes)


def _typed(source):
    """A path or URL without the blanks and quotation marks around it."""
    text = str(source).strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in QUOTES else text


def local_path(source):
    """The path of a file that is there, or an error that says what is instead; None for URLs and uploads."""
    if not isinstance(source, str | os.PathLike):
        return None
    text = _typed(source)
    if re.match(r"(https?|ftp)://", text, re.I):
        return None
    if "\n" in text:
        raise ValueError(
            f"{text.splitlines()[0][:40]}...: is a file's content, not its name: give it as bytes"
        )
    if scheme := re.match(r"([a-z][a-z0-9+.-]+):/", text, re.I):
        host, _, rest = re.sub(r"^file:/*?(//|(?=/[^/]))", "", text, flags=re.I).partition("/")
        if scheme[1].lower() != "file" or host not in ("", "localhost"):
            raise ValueError(
                f"{text}: such addresses are not read: give a path, or one of http, https or ftp"
            )
        text = url2pathname(f"/{rest}")
    path = Path(os.path.expanduser(text))  # pathlib's own raises where there is no such user
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())[:3]
        raise FileNotFoundError(
            f"{path}: is a folder; name a file in it, such as {', '.join(inside) or 'none yet'}"
        )
    there = (
        {entry.name.lower(): entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else {}
    )
    near = difflib.get_close_matches(path.name.lower(), there, n=1)
    advice = "; a web address begins with https://" if text.startswith("www.") else ""
    raise FileNotFoundError(f"{path}: no such file{f'; there is {there[near[0]]}' if near else advice}")


# ---- unpacking


def unpack(content, name, notes):
    """A file's content, unpacked if it is packed, at most twice; what is no file of data is refused."""
    for _ in range(2):
        kind, opener = next((PACKED[magic] for magic in PACKED if content.startswith(magic)), (None, None))
        if kind is None:
            break
        try:
            with (
                zipfile.ZipFile(io.BytesIO(content)) if kind == "zip" else opener(io.BytesIO(content)) as file
            ):
                content = _member(file, name, notes) if kind == "zip" else _at_most(file.read, name)
        except DAMAGE as error:
            raise ValueError(
                f"{name}: the {kind} file is truncated or damaged ({error}); fetch it again"
            ) from error
    kind = next((kind for magic, kind in UNREAD.items() if content.startswith(magic)), None)
    if kind or content[257:262] == b"ustar":
        raise ValueError(f"{name}: is packed, with {kind or 'tar'}: unpack it, and give the file inside")
    if WEB_PAGE.match(content[:4096]):
        raise ValueError(f"{name}: is a web page, not a file: does it ask to sign in?")
    if not content:
        raise ValueError(f"{name}: is empty; fetch it again")
    return content


def _member(archive, name, notes):
    """The only file of a zip archive, or the only one whose name is that of a spectrum."""
    names = [n for n in archive.namelist() if not re.search(r"(^|/)(\.|__MACOSX/)|/$", n)]
    if "[Content_Types].xml" in names:
        raise ValueError(f"{name}: is a document of an office program: save the table as CSV")
    likely = [[n for n in names if re.search(ending, n, re.I)] for ending in MEMBERS]
    chosen = next((some[0] for some in [names, *likely] if len(some) == 1), None)
    if chosen is None:
        held = ", ".join(names[:8]) or "none"
        raise ValueError(
            f"{name}: the zip file holds {len(names)} files ({held}): unpack it, and give one of them"
        )
    if len(names) > 1:
        notes.append(f"of the {len(names)} files in {name}, {chosen} was read")
    try:
        with archive.open(chosen) as file:
            return _at_most(file.read, name)
    except (RuntimeError, NotImplementedError) as error:  # a password, or a way of packing that Python lacks
        raise ValueError(f"{name}: cannot be unpacked ({error}): unpack it first") from error


def _at_most(read, name):
    """What a stream holds, piece by piece: a small file may unpack to more than the memory."""
    pieces, size = [], 0
    while piece := read(CHUNK):
        pieces.append(piece)
        size += len(piece)
        _refuse_large(size, name)
    return b"".join(pieces)


def _refuse_large(size, name):
    if size > LARGEST:
        limit = f"the limit of {LARGEST / 2**30:.3g} GiB"
        raise ValueError(f"{name}: is larger than {limit}, downloaded or unpacked: give a part of it")


# ---- downloads


def _download(url, name, sha256, notes):
    """A file from the network, unpacked; what is kept of it if that is the same, or all that can be had."""
    import pooch

    shown = re.sub(r"//[^/@]*@", "//", url)  # without a password
    path = Path(pooch.os_cache("spectool")) / "urls" / _digest(url.encode())[:32]
    facts, kept = _kept(path)
    copy = f"the copy kept on {facts.get('date')} was read"
    if kept is not None and sha256 and facts["sha256"] in sha256.lower():
        notes.append(f"{shown} was not asked: {copy}")
        return _checked(kept, name, sha256, notes)
    try:
        content, conditions = _ask(url, shown, facts.get("conditions", {}))
    except ConnectionError as error:
        if kept is None:
            raise
        notes.append(f"{error}: {copy}")
        return _checked(kept, name, sha256, notes)
    if content is None:
        notes.append(f"{shown} has not changed: {copy}")
        return _checked(kept, name, sha256, notes)
    unpacked = _checked(content, name, sha256, notes)  # what is refused is not kept
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "sha256": _digest(content), "conditions": conditions}
    try:
        with atomic(path) as part:
            part.write_bytes(json.dumps(facts).encode() + b"\n" + content)
    except OSError as error:
        notes.append(
            f"{name} was not kept: the cache folder {path.parent} cannot be written ({error.strerror})"
        )
    return unpacked


def _kept(path):
    """What is known of a copy in the cache, and its content; nothing if there is none, or a damaged one."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
        facts = json.loads(head)
    except (OSError, ValueError):
        return {}, None
    whole = isinstance(facts, dict) and _digest(content) == facts.get("sha256")
    return (facts, content) if whole else ({}, None)


def _ask(url, shown, conditions):
    """What a server gives (None: what is kept already), and on which conditions to ask it again."""
    import requests
    from urllib3.exceptions import HTTPError

    try:
        if url.lower().startswith("ftp"):
            with urlopen(url, timeout=TIMEOUT) as answer:
                return _at_most(answer.read, shown), {}
        # As it lies on the server: whether it is packed, its first bytes tell.
        headers = {"Accept-Encoding": "identity"} | conditions
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            code, given = answer.status_code, answer.headers
            content = None
            if code == 200:
                _refuse_large(int(given.get("Content-Length") or 0), shown)
                content = _at_most(lambda n: answer.raw.read(n, decode_content=False), shown)
    except (OSError, HTTPError) as error:
        if isinstance(error, ValueError):
            raise ValueError(f"{shown}: is no address ({error})") from error
        broke_off = isinstance(error, HTTPError)
        problem = (
            "broke off" if broke_off else f"could not be reached ({_reason(error)}; a URL needs a network)"
        )
        raise ConnectionError(f"{shown} {problem}") from error
    if code not in (200, 304):
        kind = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 410: FileNotFoundError}
        what = STATUS.get(code, f"answered {code} {answer.reason}: try again later")
        raise kind.get(code, ConnectionError)(f"{shown}: the server {what}")
    return content, _conditions(given)


def _reason(error):
    """The heart of what requests says of a connection that failed."""
    text = str(error)
    if "timed out" in text:
        return f"no answer in {TIMEOUT:g} s"
    return re.sub(r".*(\[Errno|\[SSL|Failed to resolve)", r"\1", text, flags=re.S).rstrip("\"')>")[:200]


def _conditions(headers):
    """Header words with which a server says whether a file has changed; a date must be older than its grain."""
    conditions = {"If-None-Match": headers.get("ETag"), "If-Modified-Since": headers.get("Last-Modified")}
    try:
        age = datetime.now(UTC) - parsedate_to_datetime(headers.get("Last-Modified", ""))
    except (TypeError, ValueError):
        age = None
    if age is None or age.total_seconds() < 60:
        del conditions["If-Modified-Since"]
    return {word: value for word, value in conditions.items() if value}
