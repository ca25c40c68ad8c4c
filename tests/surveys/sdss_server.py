"""SkyServer and the Science Archive in small, on loopback: what they answer, and what can go wrong with them."""

import io
import re
import threading
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
from astropy.io import fits
from astropy.table import Table

from spectool.surveys.archive import _COLUMNS, CATALOGUE_LINES, spectrum_name

LOGLAM = 3.58 + 1e-4 * np.arange(3840)


@cache
def spectrum_bytes(redshift=0.03, level=20.0, seed=0, h_alpha=50.0):
    """A "lite" file as SDSS writes it: a flat galaxy with H-alpha and noise."""
    rng = np.random.default_rng(seed)
    wavelength = 10**LOGLAM
    centre = 6564.614 * (1 + redshift)
    line = h_alpha / np.sqrt(2 * np.pi) / 3 * np.exp(-0.5 * ((wavelength - centre) / 3) ** 2)
    n = LOGLAM.size
    columns = {
        "flux": (level + line + rng.standard_normal(n)).astype("f4"),
        "loglam": LOGLAM.astype("f4"),
        "ivar": np.ones(n, "f4"),
        "and_mask": np.zeros(n, "i4"),
        "wdisp": np.full(n, 0.9, "f4"),
    }
    found = Table({"Z": [redshift], "CLASS": ["GALAXY"], "SUBCLASS": ["STARFORMING"]})
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table(columns)), fits.BinTableHDU(found)])
    content = io.BytesIO()
    hdus.writeto(content)
    return content.getvalue()


def catalogue_rows(n=24, seed=1):
    """Rows of the joined tables of MPA-JHU, one galaxy a row, H-alpha spread evenly over the paper's bins."""
    rng = np.random.default_rng(seed)
    alpha = 10 ** np.linspace(0.25, 3.35, n)
    table = Table(
        {
            "specobjid": 299489677444933632 + np.arange(n),
            "plate": np.full(n, 266),
            "mjd": np.full(n, 51602),
            "fiberid": 1 + np.arange(n),
            "run2d": np.full(n, "26"),
            "ra": rng.uniform(140, 150, n),
            "dec": rng.uniform(0, 1, n),
            "redshift": np.full(n, 0.03),
            "sn_median": np.full(n, 20.0),
            "sdss_class": np.full(n, "GALAXY"),
            "subclass": np.where(np.arange(n) % 2, "STARFORMING", ""),
            "ebv": np.full(n, 0.05),
            "velocity_dispersion": np.full(n, 80.0),
            "bptclass": np.ones(n, int),
            "log_mass": rng.uniform(9, 11, n),
            "log_mass_p16": np.full(n, 9.0),
            "log_mass_p84": np.full(n, 11.0),
            "log_sfr": rng.uniform(-1, 1, n),
            "log_sfr_p16": np.full(n, -1.0),
            "log_sfr_p84": np.full(n, 1.0),
            "oxygen_mpa_jhu": np.full(n, 8.9),
            "lick_hd_a": np.full(n, 4.0),
            "lick_hd_a_error": np.full(n, 0.5),
            "d4000_n": np.full(n, 1.3),
        }
    )
    for line in CATALOGUE_LINES.values():
        table[f"{line}_flux"] = alpha * 0.1
        table[f"{line}_flux_err"] = alpha * 0.01
    table["h_alpha_flux"], table["h_beta_flux"], table["nii_6584_flux"] = alpha, alpha / 2.86, alpha * 0.3
    return table


class Archive:
    """What the server holds, and what it was asked.

    Attributes
    ----------
    rows : astropy.table.Table
    spectra : dict of str to bytes
        By file name.
    broken : dict of str to int or str
        File name (or "catalogue") -> HTTP status, or "truncated": the connection closes half-way.
    asked : list of str
        Paths of all requests.
    """

    def __init__(self, rows):
        self.rows, self.broken, self.asked, self.url, self.note = rows, {}, [], "", ""
        keys = zip(
            rows["plate"], rows["mjd"], rows["fiberid"], rows["redshift"], rows["h_alpha_flux"], strict=True
        )
        self.spectra = {
            spectrum_name(p, m, f): spectrum_bytes(z, seed=int(f), h_alpha=a) for p, m, f, z, a in keys
        }

    def answer_sql(self, sql):
        """CSV as SkyServer writes it."""
        low, high = (
            float(v) for v in re.search(r"h_alpha_flux>=(\S+) AND l.h_alpha_flux<(\S+)", sql).groups()
        )
        limit = int(re.search(r"SELECT TOP (\d+)", sql)[1])
        chosen = (self.rows["h_alpha_flux"] >= low) & (self.rows["h_alpha_flux"] < high)
        if "STARFORMING" in sql:
            chosen &= self.rows["subclass"] == "STARFORMING"
        if not chosen.any():
            return "#Table1\nNo objects have been found\n"
        named = re.search(r"TOP \d+ (.*?) FROM", sql)[1].split(",")
        ours = {theirs: name for name, theirs, *_ in _COLUMNS}
        columns = [self.rows[ours.get(n, n.removeprefix("l."))][chosen][:limit].tolist() for n in named]
        named = [n.split(".")[1] for n in named]
        rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
        return "\n".join(["#Table1", ",".join(named), *rows, ""])


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
                answer = archive.note or archive.answer_sql(parse_qs(parsed.query)["cmd"][0])
                self._send(answer.encode(), "text/plain")
            elif name in archive.spectra:
                self._send(archive.spectra[name], "application/fits", whole=fault != "truncated")
            else:
                self.send_error(404)

        def _send(self, content, kind, whole=True):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if whole else content[: len(content) // 2])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    archive.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
