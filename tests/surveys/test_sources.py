"""Bytes from paths, uploads and addresses; packed ones; pages in the place of files; copies that are kept."""

import bz2
import gzip
import io
import lzma
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
        PACKED[kind],
        bytearray(PACKED[kind]),
        path.open("rb"),
    ):
        assert fetch(source)[0] == b"data"
    assert fetch(path)[1] == "a name.txt" and fetch(b"x", name="y")[1] == "y"
    if kind not in ("plain", "zip"):
        with pytest.raises(ValueError, match=r"a.gz: the \w+ file is truncated or damaged"):
            fetch(PACKED[kind][:-6], name="a.gz")


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    (tmp_path / "galaxy.fits").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no such file; there is galaxy"):
        fetch(tmp_path / "galaxie.fits")
    with pytest.raises(FileNotFoundError, match="is a folder; name a file in it, such as galaxy"):
        fetch(tmp_path)
    with pytest.raises(ValueError, match=r"holds 2 files \(a, b\)"):
        fetch(zipped(a=b"1", b=b"2"))
    with pytest.raises(ValueError, match="ftp is not read"):
        fetch("ftp://example.org/x.fits")
    with pytest.raises(ValueError, match="not the one asked for"):
        fetch(b"data", sha256="0" * 64)
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(ValueError, match="is larger than"):
        fetch(gzip.compress(bytes(2000)), name="bomb.gz")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on the loopback that gives what a test puts into it, and an empty folder of copies."""
    state = {"content": b"one", "status": 200, "etag": None, "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers.get("If-None-Match")
            state["asked"].append(known)
            fresh = known is not None and known == state["etag"]
            self.send_response(304 if fresh else state["status"])
            if state["etag"]:
                self.send_header("ETag", state["etag"])
            content = b"" if fresh else state["content"]
            self.send_header("Content-Length", str(len(content)))
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
    assert fetch(server["url"])[0] == b"three" and server["asked"][-1] == '"v3"'
    server["stop"]()
    content, _, notes = fetch(server["url"])
    assert content == b"three" and "the copy kept on 20" in notes[0]
    with pytest.raises(ConnectionError, match="needs a network"):
        fetch(server["url"] + "2")


def test_pages_and_refusals_of_a_server_are_not_kept(server, tmp_path, monkeypatch):
    server["content"] = b"<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(ValueError, match="is a web page, not a file"):
        fetch(server["url"])
    server["status"] = 404
    with pytest.raises(ValueError, match="404 no such file there"):
        fetch(server["url"])
    server |= {"status": 200, "content": b"data" * 500}
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(ValueError, match="is larger than"):
        fetch(server["url"])
    assert not list((tmp_path / "cache").rglob("*.*"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    server["content"] = b"data"
    content, _, notes = fetch(server["url"])
    assert content == b"data" and "cannot be written" in notes[0]
