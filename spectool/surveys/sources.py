"""Where bytes come from, a path, a URL or an upload: its own file, the one that unpacks and keeps copies."""

import bz2
import difflib
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from datetime import UTC, datetime
from hashlib import sha256 as sha
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spectool.io import atomic

LARGEST = 2**30
"""Bytes that a file may have, downloaded or unpacked."""
_PACKERS = {b"\x1f\x8b": ("gzip", gzip.open), b"BZh": ("bzip2", bz2.open), b"\xfd7zXZ\x00": ("xz", lzma.open)}
_DAMAGE = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
)


def fetch(source, *, name=None, sha256=None):
    """The content of a path, URL or upload, unpacked; what to call it; and what was assumed.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        Naming the file: missing, a folder, out of reach, damaged, too large, or a page in the place of a file.
    """
    notes = []
    if isinstance(source, bytes | bytearray | memoryview):
        content, name = bytes(source), name or "uploaded file"
    elif hasattr(source, "read"):
        content, name = source.read(), name or getattr(source, "name", "uploaded file")
    else:
        text = str(source).strip().strip("\"'“”‘’").strip()
        if re.match(r"ftps?://", text, re.IGNORECASE):
            raise ValueError(f"{text}: ftp is not read: download the file, and name that")
        if re.match(r"https?://", text, re.IGNORECASE):
            name = name or Path(unquote(urlsplit(text).path)).name or text
            content = _download(text, notes)
        else:
            path = _local_path(text)
            content, name = path.read_bytes(), name or path.name
    if sha256 and sha(content).hexdigest() != sha256.removeprefix("sha256:"):
        raise ValueError(
            f"{name}: its sha256 is {sha(content).hexdigest()[:12]}..., not the one asked for: another file"
        )
    return unpack(content, name), name, notes


def _local_path(text):
    """The file that a path or a file:// address names."""
    if text.lower().startswith("file:"):
        text = re.sub(r"^/(?=[A-Za-z]:)", "", unquote(urlsplit(text).path))
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        held = sorted(p.name for p in path.iterdir() if p.is_file())
        raise FileNotFoundError(
            f"{path}: is a folder; name a file in it, such as {', '.join(held[:3]) or 'none yet'}"
        )
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1)
    raise FileNotFoundError(f"{path}: no such file" + (f"; there is {near[0]}" if near else ""))


def unpack(content, name):
    """Content without gzip, bzip2, xz or zip, told by its first bytes; packed twice at most."""
    for _ in range(2):
        kind, opener = next(
            (packer for magic, packer in _PACKERS.items() if content.startswith(magic)), (None, None)
        )
        if kind is None and not content.startswith(b"PK\x03\x04"):
            break
        try:
            if kind is None:
                kind = "zip"
                content = _only_member(content, name)
            else:
                with opener(io.BytesIO(content)) as file:
                    content = _read(file, name)
        except _DAMAGE as error:
            raise ValueError(
                f"{name}: the {kind} file is truncated or damaged ({error}); fetch it again"
            ) from error
    return content


def _read(file, name):
    """All of an open file, if it is not too large."""
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(
            f"{name}: is larger than {LARGEST / 2**30:g} GiB: too large for one spectrum or table"
        )
    return content


def _only_member(content, name):
    """The content of the one file in a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        hidden = ("__MACOSX", ".")
        members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith(hidden)]
        if len(members) != 1:
            held = ", ".join(members[:8]) or "none"
            raise ValueError(
                f"{name}: the zip archive holds {len(members)} files ({held}): unpack it, and read one"
            )
        with archive.open(members[0]) as file:
            return _read(file, name)


def _download(url, notes):
    """The file behind an address; a copy is kept, and used where the server says that it has not changed."""
    import requests

    kept, about = _copy_of(url)
    headers = {
        word: about[key]
        for word, key in (("If-None-Match", "etag"), ("If-Modified-Since", "modified"))
        if about.get(key)
    }
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 304:
                return kept.read_bytes()
            if answer.status_code >= 400:
                meaning = {401: "sign in first", 403: "not allowed", 404: "no such file there"}.get(
                    answer.status_code
                )
                raise ValueError(
                    f"{url}: the server answered {answer.status_code} {meaning or answer.reason}"
                )
            answer.raw.decode_content = True
            content = _read(answer.raw, url)
            facts = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
            expected = answer.headers.get("Content-Length")
    except requests.RequestException as error:
        if not kept.is_file():
            text = f"{url}: could not be fetched; a URL needs a network ({error})"
            raise ConnectionError(text) from error
        notes.append(
            f"{url} could not be reached: the copy kept on {about.get('date', 'an earlier day')} was read"
        )
        return kept.read_bytes()
    if "Content-Encoding" not in answer.headers and expected and len(content) < int(expected):
        raise ValueError(f"{url}: the download was truncated ({len(content)} of {expected} bytes); try again")
    if re.match(rb"\s*(<!doctype html|<html|<head)", content[:500], re.IGNORECASE):
        raise ValueError(
            f"{url}: is a web page, not a file: does it ask to sign in, or is it a link to a page?"
        )
    try:
        with atomic(kept) as part:
            part.write_bytes(content)
        facts |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "url": url}
        with atomic(kept.with_suffix(".json")) as part:
            part.write_text(json.dumps(facts))
    except OSError as error:
        notes.append(f"no copy was kept: the folder {kept.parent} cannot be written ({error.strerror})")
    return content


def _copy_of(url):
    """Where the copy of an address is kept, and what is known of it."""
    import pooch

    kept = Path(pooch.os_cache("spectool")) / "urls" / sha(url.encode()).hexdigest()[:32]
    try:
        about = json.loads(kept.with_suffix(".json").read_text()) if kept.is_file() else {}
    except (OSError, ValueError):
        about = {}
    return kept, about
