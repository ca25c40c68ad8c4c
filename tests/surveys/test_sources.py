"""Bytes from paths, uploads and addresses; packed ones; pages in the place of files; copies that are kept."""

import bz2
import gzip
import io
import lzma
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from spectool.surveys import sources
from spectool.surveys.sources import fetch


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


PACKED = {
    "plain": b"data",
    "gz": gzip.compress(b"data"),
    "bz2": bz2.compress(b"data"),
    "xz": lzma.compress(b"data"),
    "zip": zipped(x=b"data"),
    "twice": gzip.compress(bz2.compress(b"data")),
    "among others": zipped(**{"a/x.fits": b"data", "README.txt": b"-", "__MACOSX/x.fits": b"-"}),
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_files_are_told_by_their_bytes(kind, tmp_path):
    path = tmp_path / "a name.txt"
    path.write_bytes(PACKED[kind])
    for source in (
        path,
        f'"{path}"',
        f" {path}\n",
        path.as_uri(),
        f"FILE://localhost{path}",
        PACKED[kind],
        bytearray(PACKED[kind]),
        path.open("rb"),
    ):
        assert fetch(source)[0] == b"data"
    assert fetch(path)[1] == "a name.txt" and fetch(b"x", name="y")[1] == "y"
    assert ("of the 2 files" in "".join(fetch(path)[2])) == (kind == "among others")
    if kind != "plain":
        with pytest.raises(ValueError, match=r"a.gz: the \w+ file is truncated or damaged"):
            fetch(PACKED[kind][:-6], name="a.gz")


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    (tmp_path / "galaxy.fits").write_bytes(b"")
    for source, says in (
        (tmp_path / "Galaxie.fits", "no such file; there is galaxy.fits"),
        (tmp_path, "is a folder; name a file in it, such as galaxy.fits"),
        (tmp_path / "galaxy.fits", "galaxy.fits: is empty"),
        ("~nobody there/x.fits", "no such file"),
        ("www.example.org/x.fits", "begins with https://"),
        ("s3://bucket/x.fits", "such addresses are not read"),
        ("file://elsewhere/x.fits", "such addresses are not read"),
        ("http://[::1/x.fits", "is no address"),
        ("wavelength,flux\n1,2\n", "give it as bytes"),
        (5, "a int is no path"),
        (zipped(a=b"1", b=b"2"), r"holds 2 files \(a, b\)"),
        (zipped(), "holds 0 files"),
        (zipped(**{"[Content_Types].xml": b"", "xl/a.xml": b""}), "save the table as CSV"),
        (gzip.compress(gzip.compress(gzip.compress(b"1"))), "is packed, with gzip"),
        (b"7z\xbc\xaf\x27\x1c", "is packed, with 7z"),
        (bytes(257) + b"ustar", "is packed, with tar"),
        (b'<?xml version="1.0"?><!-- a --><html>', "is a web page, not a file"),
    ):
        with pytest.raises((ValueError, OSError), match=says):
            fetch(source)
    with pytest.raises(ValueError, match="not the file that is asked for"):
        fetch(b"data", sha256="0" * 64)
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(ValueError, match="is larger than"):
        fetch(gzip.compress(bytes(2000)), name="bomb.gz")
    with pytest.raises(ValueError, match="is larger than"):
        fetch(zipped(x=bytes(2000)))


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on the loopback that gives what a test puts into it, and an empty folder of copies."""
    state = {"content": b"one", "status": 200, "etag": None, "asked": [], "headers": {}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("If-None-Match")
            state["asked"].append(known)
            fresh = known is not None and known == state["etag"]
            self.send_response(304 if fresh else state["status"])
            if state["etag"]:
                self.send_header("ETag", state["etag"])
            content = b"" if fresh else state["content"]
            for word, value in ({"Content-Length": len(content)} | state["headers"]).items():
                self.send_header(word, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state["url"] = f"http://127.0.0.1:{httpd.server_port}/a/galaxy.csv?x=1"
    state["stop"] = lambda: (httpd.shutdown(), httpd.server_close())
    yield state
    state["stop"]()


def test_an_address_is_asked_whether_its_file_has_changed(server):
    assert fetch(server["url"])[:2] == (b"one", "galaxy.csv")
    server["content"] = b"two"
    assert fetch(server["url"])[0] == b"two"
    server["etag"] = '"v3"'
    server["content"] = b"three"
    assert fetch(server["url"])[0] == b"three"
    server["content"] = b"not sent"
    content, _, notes = fetch(server["url"])
    assert content == b"three" and server["asked"][-1] == '"v3"' and "has not changed" in notes[0]
    server |= {"etag": None, "headers": {"Content-Length": 99}}
    assert "broke off" in fetch(server["url"])[2][0]
    for status in (429, 500):
        server |= {"status": status, "headers": {}}
        content, _, notes = fetch(server["url"])
        assert content == b"three" and str(status) in notes[0] and "the copy kept on 20" in notes[0]
    asked = len(server["asked"])
    assert fetch(server["url"], sha256=sources._digest(b"three"))[0] == b"three"
    assert len(server["asked"]) == asked, "what has the checksum need not be asked for"
    server["stop"]()
    content, _, notes = fetch(server["url"])
    assert content == b"three" and "the copy kept on 20" in notes[0]
    with pytest.raises(ConnectionError, match="needs a network"):
        fetch(server["url"] + "2")


def test_pages_and_refusals_of_a_server_are_not_kept(server, tmp_path, monkeypatch):
    server["content"] = b"<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(ValueError, match="is a web page, not a file"):
        fetch(server["url"])
    for status, says in ((404, "has no such file"), (403, "does it ask to sign in"), (503, "answered 503")):
        server["status"] = status
        with pytest.raises(OSError, match=says):
            fetch(server["url"])
    server |= {"status": 200, "content": gzip.compress(b"data"), "headers": {"Content-Encoding": "x-gzip"}}
    with pytest.raises(ValueError, match="not the file that is asked for"):
        fetch(server["url"], sha256="0" * 64)
    assert not list((tmp_path / "cache").rglob("*"))
    assert fetch(server["url"] + "z")[0] == b"data"
    server["headers"] = {}
    server |= {"status": 200, "content": b"data" * 500}
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(ValueError, match="is larger than"):
        fetch(server["url"])
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file where the folder should be")
    server["content"] = b"data"
    content, _, notes = fetch(server["url"])
    assert content == b"data" and "cannot be written" in notes[0]
