"""SkyServer, the Science Archive and VizieR in small, on loopback: what they answer, and what can go wrong."""

import io
import re
import threading
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
from astropy.table import Table

from spectool.surveys.archive import _COLUMNS, CATALOGUE_LINES, spectrum_name
from tests.surveys.conftest import write_spec

LOGLAM = 3.58 + 1e-4 * np.arange(3840)
# What all galaxies of the catalogue share.
SAME = {"plate": 266, "mjd": 51602, "run2d": "26", "redshift": 0.03, "sn_median": 20.0}
SAME |= {"ebv": 0.05, "velocity_dispersion": 80.0, "bptclass": 1, "log_mass_p16": 9.0, "log_mass_p84": 11.0}
SAME |= {"log_sfr_p16": -1.0, "log_sfr_p84": 1.0, "oxygen_mpa_jhu": 8.9, "lick_hd_a": 4.0}
SAME |= {"sdss_class": "GALAXY", "lick_hd_a_error": 0.5, "d4000_n": 1.3}


@cache
def spectrum_bytes(redshift=0.03, level=20.0, seed=0, h_alpha=50.0):
    """A "lite" file as SDSS writes it: a flat galaxy with H-alpha and noise."""
    wavelength, centre = 10**LOGLAM, 6564.614 * (1 + redshift)
    line = h_alpha / np.sqrt(2 * np.pi) / 3 * np.exp(-0.5 * ((wavelength - centre) / 3) ** 2)
    flux = level + line + np.random.default_rng(seed).standard_normal(LOGLAM.size)
    columns = {"flux": flux.astype("f4"), "ivar": np.ones(LOGLAM.size, "f4")}
    facts = {"redshift": redshift, "subclass": "STARFORMING"}
    return write_spec(io.BytesIO(), LOGLAM, **columns, **facts).getvalue()


def catalogue_rows(n=24, seed=1):
    """Rows of the joined tables of MPA-JHU, one galaxy a row, H-alpha spread evenly over the paper's bins."""
    rng, alpha, number = np.random.default_rng(seed), 10 ** np.linspace(0.25, 3.35, n), np.arange(n)
    table = Table({name: np.full(n, value) for name, value in SAME.items()})
    table["specobjid"], table["fiberid"] = 299489677444933632 + number, 1 + number
    table["subclass"] = np.where(number % 2, "STARFORMING", "")
    for name, low, high in (("ra", 140, 150), ("dec", 0, 1), ("log_mass", 9, 11), ("log_sfr", -1, 1)):
        table[name] = rng.uniform(low, high, n)
    for line in CATALOGUE_LINES.values():
        table[f"{line}_flux"], table[f"{line}_flux_err"] = alpha * 0.1, alpha * 0.01
    table["h_alpha_flux"], table["h_beta_flux"], table["nii_6584_flux"] = alpha, alpha / 2.86, alpha * 0.3
    return table


class Archive:
    """What the server holds (``rows``, ``spectra`` by file name, a ``votable``), and what it was ``asked``.

    ``broken``: file name, "catalogue" or "votable" -> HTTP status, or "truncated": the connection closes half-way.
    """

    def __init__(self, rows):
        self.rows, self.broken, self.asked, self.url, self.votable = rows, {}, [], "", b""
        self.spectra = {}
        for row in rows:
            options = {"seed": int(row["fiberid"]), "h_alpha": row["h_alpha_flux"]}
            name = spectrum_name(row["plate"], row["mjd"], row["fiberid"])
            self.spectra[name] = spectrum_bytes(row["redshift"], **options)

    def answer_sql(self, sql):
        limits = re.search(r"h_alpha_flux>=(\S+) AND l.h_alpha_flux<(\S+)", sql).groups()
        low, high = (float(limit) for limit in limits)
        n = int(re.search(r"SELECT TOP (\d+)", sql)[1])
        chosen = (self.rows["h_alpha_flux"] >= low) & (self.rows["h_alpha_flux"] < high)
        if "STARFORMING" in sql:
            chosen &= self.rows["subclass"] == "STARFORMING"
        if not chosen.any():
            return "#Table1\nNo objects have been found\n"
        names = re.search(r"TOP \d+ (.*?) FROM", sql)[1].split(",")
        ours = {theirs: name for name, theirs, *_ in _COLUMNS}
        columns = [self.rows[ours.get(name, name.removeprefix("l."))][chosen][:n].tolist() for name in names]
        rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
        return "\n".join(["#Table1", ",".join(name.split(".")[1] for name in names), *rows, ""])


@contextmanager
def serve(rows=None):
    """A running server; ``archive.url`` is both SkyServer and archive."""
    archive = Archive(catalogue_rows() if rows is None else rows)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parsed = urlparse(self.path)
            name = parsed.path.rsplit("/", 1)[-1]
            archive.asked.append(name)
            is_query = name == "x_results.aspx"
            fault = archive.broken.get("catalogue" if is_query else name)
            if isinstance(fault, int):
                self.send_error(fault)
            elif is_query:
                self._send(archive.answer_sql(parse_qs(parsed.query)["cmd"][0]).encode())
            elif name in archive.spectra:
                self._send(archive.spectra[name], whole=fault != "truncated")
            else:
                self.send_error(404)

        def do_POST(self):
            archive.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            fault = archive.broken.get("votable")
            self.send_error(fault) if fault else self._send(archive.votable)

        def _send(self, content, whole=True):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if whole else content[: len(content) // 2])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        archive.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()
