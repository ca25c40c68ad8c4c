"""VizieR is asked once; its answer is kept, checked, and read as a table with units."""

import io
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from astropy.io.votable import from_table
from astropy.table import Table

from spectool.surveys.archive import query_vizier
from spectool.surveys.tables import read_photometry


def votable(n=3):
    table = Table({"r": np.linspace(1.0, 2.0, n), "e_r": np.full(n, 0.1), "Z": np.full(n, 0.1)})
    table["r"].unit = table["e_r"].unit = "mJy"
    content = io.BytesIO()
    from_table(table).to_xml(content)
    return content.getvalue()


@contextmanager
def serve(answer, status=200):
    """A server on loopback that gives one answer, and notes what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def plain_http(monkeypatch):
    """The loopback server has no certificate; astroquery asks by https only."""
    from astroquery.vizier import VizierClass

    monkeypatch.setattr(
        VizierClass,
        "_server_to_url",
        lambda self, return_type="votable": f"http://{self.VIZIER_SERVER}/viz-bin/{return_type}",
    )


def test_a_table_arrives_once_and_is_kept(tmp_path):
    with serve(votable()) as (server, asked):
        options = {"cache": tmp_path, "server": server, "timeout": 10}
        first = query_vizier("J/X/1/gama", columns=("r", "e_r", "Z"), **options)
        again = query_vizier("J/X/1/gama", columns=("r", "e_r", "Z"), **options)
    assert len(asked) == 1 and "-source=J/X/1/gama" in asked[0] and "unlimited" in asked[0]
    assert np.array_equal(first["r"], again["r"])
    sample = read_photometry(first)
    assert np.allclose(sample["flux"].sel(band="r"), [1e-3, 1.5e-3, 2e-3])
    assert np.allclose(sample["redshift"], 0.1)


def test_a_changed_file_is_refused(tmp_path):
    with serve(votable()) as (server, _):
        options = {"cache": tmp_path, "server": server, "timeout": 10}
        query_vizier("J/X/1/gama", **options)
        (path,) = (tmp_path / "vizier").glob("*.vot")
        path.write_bytes(votable(4))
        with pytest.raises(ValueError, match="not the table of J/X/1/gama that was first fetched"):
            query_vizier("J/X/1/gama", **options)
        path.unlink()
        with pytest.raises(ValueError, match="that was asked for"):
            query_vizier("J/X/1/gama", checksum="0" * 64, **options)


@pytest.mark.parametrize(
    ("answer", "status", "error", "message"),
    [
        (
            b"<html>down for maintenance</html>",
            200,
            ConnectionError,
            "did not answer with a table.*maintenance",
        ),
        (b"", 503, ConnectionError, r"could not be reached .*503"),
        (votable(0), 200, ValueError, "no table 'J/X/1/gama', or an empty one"),
    ],
)
def test_other_answers_are_told_and_not_kept(tmp_path, answer, status, error, message):
    with serve(answer, status) as (server, _), pytest.raises(error, match=message):
        query_vizier("J/X/1/gama", cache=tmp_path, server=server, timeout=10)
    assert not list(tmp_path.rglob("*.vot"))


def test_offline_says_so(tmp_path):
    with serve(b"") as (server, _):
        pass
    with pytest.raises(ConnectionError, match=r"could not be reached .* needs a network the first time"):
        query_vizier("J/X/1/gama", cache=tmp_path, server=server, timeout=5)
