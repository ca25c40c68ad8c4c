"""Archives are asked once, their answers kept whole and unchanged; what fails is named, counted, and stops nothing."""

import io
from urllib.parse import urlencode

import numpy as np
import pytest
from astropy.io.votable import from_table
from astropy.table import Table

from spectool.measure.metallicity import metallicity
from spectool.spectra import LINES
from spectool.surveys import SurveyWarning, archive, read_photometry, read_sdss
from tests.refusals import refused
from tests.surveys.conftest import has_units
from tests.surveys.sdss_server import catalogue_rows, serve, spectrum_bytes

FIBRES = (1, 2, 3, 4)
NAMES = [f"spec-0266-51602-{fibre:04d}.fits" for fibre in FIBRES]


@pytest.fixture
def server():
    with serve() as server:
        yield server


def query(server, cache, n_per_bin=2, **options):
    where = {"cache": cache, "skyserver_url": server.url, "timeout": 10}
    return archive.query_catalogue(n_per_bin, **where, progress=False, **options)


def fetch(server, cache, fibres=FIBRES, **options):
    options = {"retries": 0, "progress": False, "base_url": f"{server.url}/sas", "timeout": 10} | options
    keys = [266] * len(fibres), [51602] * len(fibres), fibres
    return archive.fetch_spectra(*keys, cache=cache, **options)


def read_both(server, cache):
    where = {"skyserver_url": server.url, "base_url": server.url, "retries": 0, "timeout": 10}
    return archive.read_real_sample(1, cache=cache, progress=False, **where)


def votable(n=3):
    table = Table({"r": np.linspace(1.0, 2.0, n), "e_r": np.full(n, 0.1), "Z": np.full(n, 0.1)})
    table["r"].unit = table["e_r"].unit = "mJy"
    content = io.BytesIO()
    from_table(table).to_xml(content)
    return content.getvalue()


@pytest.fixture
def vizier(server, tmp_path, monkeypatch):
    """A query of the loopback server, which has no certificate: astroquery asks by https only."""
    from astroquery.vizier import VizierClass

    address = server.url.removeprefix("http://")
    monkeypatch.setattr(
        VizierClass, "_server_to_url", lambda self, return_type="votable": f"http://{address}/{return_type}"
    )
    server.votable = votable()
    where = {"cache": tmp_path, "server": address, "timeout": 10}
    return lambda **options: archive.query_vizier("J/X/1/gama", **where, **options)


def test_a_table_of_vizier_arrives_once_and_is_kept(server, vizier):
    first, again = (vizier(columns=("r", "e_r", "Z")) for _ in range(2))
    (asked,) = server.asked
    assert "-source=J/X/1/gama" in asked and "unlimited" in asked
    assert np.array_equal(first["r"], again["r"])
    sample = read_photometry(first)
    assert np.allclose(sample["flux"].sel(band="r"), [1e-3, 1.5e-3, 2e-3])
    assert np.allclose(sample["redshift"], 0.1)


def test_a_changed_file_is_refused(server, vizier, tmp_path):
    vizier()
    query(server, tmp_path)
    (path,) = (tmp_path / "vizier").glob("*.vot")
    path.write_bytes(votable(4))
    refused("not the table of J/X/1/gama that was first fetched", vizier)
    path.unlink()
    refused("that was asked for", vizier, checksum="0" * 64)
    path = next((tmp_path / "sdss").rglob("*.csv"))
    path.write_bytes(path.read_bytes()[:-3])
    refused("not the bin of MPA-JHU's catalogue that was first fetched", query, server, tmp_path)


@pytest.mark.parametrize(
    ("answer", "status", "error", "message"),
    [
        (b"<html>down for repair</html>", None, ConnectionError, "did not answer with a table.*repair"),
        (b"", 503, ConnectionError, r"could not be reached .*503"),
        (votable(0), None, ValueError, "no table 'J/X/1/gama', or an empty one"),
    ],
)
def test_other_answers_of_vizier_are_told_and_not_kept(
    server, vizier, tmp_path, answer, status, error, message
):
    server.votable, server.broken["votable"] = answer, status
    refused(message, vizier, error=error)
    assert not list(tmp_path.rglob("*.vot"))
    server.votable, server.broken = votable(4), {}
    assert len(vizier()) == 4


def test_archives_out_of_reach_say_so_and_what_is_there(tmp_path):
    with serve(catalogue_rows(4)) as server:
        paths, _, _ = fetch(server, tmp_path, FIBRES[:3])
    words = r"could not be reached .* needs a network the first time"
    refused(words, query, server, tmp_path, error=ConnectionError)
    with pytest.raises(ConnectionError, match=words):
        archive.query_vizier("J/X/1", cache=tmp_path, server=server.url.removeprefix("http://"), timeout=5)
    assert fetch(server, tmp_path, FIBRES[:3])[0] == paths
    words = r"could not be reached .*\. 3 of 4 spectra are in .*; run it again"
    refused(words, fetch, server, tmp_path, error=ConnectionError)
    with serve(catalogue_rows(4)) as server:
        assert fetch(server, tmp_path)[1:] == ({}, 1)
        assert server.asked == NAMES[3:]


def test_the_query_is_short_and_plain():
    sql = archive.catalogue_sql(10, 100, 50, star_forming=True)
    tables = (f"JOIN {name} " for name in ("galSpecLine", "galSpecInfo", "galSpecExtra", "galSpecIndx"))
    words = (
        "SELECT TOP 50 s.specObjID,",
        "s.z>0.024 AND s.z<0.05",
        "h_alpha_flux>=10 AND l.h_alpha_flux<100",
    )
    assert all(text in sql for text in (*words, *tables, "='STARFORMING'"))
    assert ";" not in sql and "--" not in sql and "\n" not in sql
    assert len(urlencode({"cmd": sql, "format": "csv", "searchtool": "SQL"})) < 2048, "what many servers take"
    first, again, other = (archive.catalogue_sql(10, 100, 5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and "STARFORMING" not in first


def test_columns_arrive_with_units_and_in_their_bins(server, tmp_path):
    table = query(server, tmp_path)
    rows = server.rows
    assert table.sizes == {"galaxy": 20, "line": len(archive.CATALOGUE_LINES)}
    assert np.bincount(table["h_alpha_bin"]).tolist() == [2] * 10
    place = [int(np.flatnonzero(rows["specobjid"] == i)[0]) for i in table["specobjid"].values]
    for name in ("log_mass", "log_sfr", "redshift", "ebv", "plate", "fiberid", "h_alpha_flux"):
        np.testing.assert_allclose(table[name], rows[name][place])
    np.testing.assert_allclose(table["line_flux"].sel(line="[N II] 6583"), rows["nii_6584_flux"][place])
    np.testing.assert_allclose(table["line_flux_error"].sel(line="Hδ"), rows["h_delta_flux_err"][place])
    np.testing.assert_allclose(table["line_sn"], table["line_flux"] / table["line_flux_error"])
    np.testing.assert_allclose(table["line_wavelength"], [LINES[name] for name in table["line"].values])
    assert has_units(table) and set(table["subclass"].values) == {"STARFORMING", ""}
    assert set(query(server, tmp_path, star_forming=True)["subclass"].values) == {"STARFORMING"}
    n2, o3 = np.log10(0.3), np.log10(0.1 * 2.86)
    np.testing.assert_allclose(metallicity(table)["oxygen"], 8.73 - 0.32 * (o3 - n2))
    short = query(server, tmp_path, n_per_bin=3)
    counts = np.bincount(short["h_alpha_bin"])
    assert (counts < 3).any() and counts.sum() == short.sizes["galaxy"]
    assert all(f"{i} ({n})" in short.attrs["history"] for i, n in enumerate(counts) if n < 3)


def test_an_interrupted_query_goes_on_with_the_next_bin_and_asks_no_bin_twice(server, tmp_path):
    whole, answered = server.answer_sql, []

    def fail_at_the_fifth(sql):
        answered.append(sql)
        if len(answered) == 5:
            server.broken["catalogue"] = 502
        return whole(sql)

    server.answer_sql = fail_at_the_fifth
    refused("502 Bad Gateway", query, server, tmp_path, error=ConnectionError)
    server.broken.clear()
    first = query(server, tmp_path)
    assert first.sizes["galaxy"] == 20 and query(server, tmp_path).identical(first)
    assert len(answered) == 10 and len(set(answered)) == 10


def test_what_is_not_there_is_empty_or_nan(tmp_path):
    rows = catalogue_rows()
    rows["log_mass"][3], rows["log_sfr"][4], rows["oxygen_mpa_jhu"][5] = -1.0, -9999.0, -9999.0
    rows["oiii_4363_flux"][:], rows["oiii_4363_flux_err"][:] = 0.0, -1.0
    rows["h_beta_flux"][6] = -12.0
    with serve(rows) as server:
        table = query(server, tmp_path, n_per_bin=9)
        server.rows = server.rows[server.rows["h_alpha_flux"] > 100]
        assert query(server, tmp_path / "some")["h_alpha_bin"].min() > 0
        server.rows = server.rows[:0]
        with pytest.raises(ValueError, match=r"no galaxy of MPA-JHU has a redshift of 0\.024-0\.05 .* widen"):
            query(server, tmp_path / "none")
        server.answer_sql = lambda sql, whole=server.answer_sql: "\n".join(whole(sql).splitlines()[:2])
        refused("no galaxy of MPA-JHU", query, server, tmp_path / "header alone")
    # -1 is what the table holds without photometry
    assert all(np.isnan(table[name]).sum() == 1 for name in ("log_sfr", "oxygen_mpa_jhu", "log_mass"))
    assert np.isnan(table["line_flux"].sel(line="[O III] 4363")).all()
    assert (table["line_flux"].sel(line="Hβ") < 0).sum() == 1, "noise may be negative"


def test_answers_that_are_no_table_are_shown_and_not_kept(server, tmp_path):
    whole = server.answer_sql
    other = ["", "#Table1\nspecobjid,plate\n1,2\n", None]
    answers = dict.fromkeys(other, "did not answer with the table asked")
    answers["<html><body>SkyServer is down for maintenance</body></html>"] = "maintenance"
    answers["#Table1\nerror_message\nInvalid object name galSpecLine\n"] = "Invalid object name galSpecLine"
    for answer, message in answers.items():
        server.answer_sql = lambda sql, answer=answer: whole(sql)[:-80] if answer is None else answer
        refused(message, query, server, tmp_path, error=ConnectionError)
    server.answer_sql = whole
    assert query(server, tmp_path).sizes["galaxy"] == 20


def test_addresses_are_those_of_astroquery():
    """But for the folder of the "lite" files, a fifth of the size."""
    from astroquery.sdss import SDSS

    where = {"base": archive.SAS_URL, "dr": 17, "redux_path": "sdss/spectro/redux", "spectra_path": "spectra"}
    theirs = SDSS.SPECTRA_URL_SUFFIX.format(**where, run2d="26", plate=266, mjd=51602, fiber=1)
    assert archive.spectrum_url(266, 51602, 1).replace("/lite/", "/") == theirs


def test_spectra_are_those_of_the_archive_and_come_once(shared, server, tmp_path):
    """In any order, again and again; and real files pass through as SDSS distributes them."""
    paths, failures, n_downloaded = fetch(server, tmp_path)
    assert [path.name for path in paths] == NAMES and failures == {} and n_downloaded == 4
    assert [path.read_bytes() for path in paths] == [server.spectra[name] for name in NAMES]
    assert read_sdss(paths).sizes["galaxy"] == 4
    server.asked.clear()
    assert fetch(server, tmp_path) == (paths, {}, 0)
    assert fetch(server, tmp_path, (2, 1, 2))[0] == [paths[1], paths[0], paths[1]]
    record = archive.cache_folder(tmp_path) / "dr17" / archive.RECORD
    lines = record.read_text().splitlines()
    record.write_text("\n".join([*lines[:3], lines[3][:40]]))  # an interrupt
    assert fetch(server, tmp_path)[1:] == ({}, 0) and server.asked == []
    real = shared / "data" / "sdss_raw" / "spec-0266-51602-0056.fits"
    server.spectra[real.name] = real.read_bytes()
    sample = read_sdss(fetch(server, tmp_path, (56,))[0])
    assert 0.02 < sample["redshift"].item() < 0.21 and np.isfinite(sample["flux"]).all()


def test_missing_spectra_and_errors_of_the_server_are_named_and_stop_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    missing = server.spectra.pop(NAMES[1])
    server.broken[NAMES[2]] = 503
    paths, failures, _ = fetch(server, tmp_path)
    assert failures == {1: "not in the archive (404)", 2: "the server answered 503 Service Unavailable"}
    assert [path is None for path in paths] == [False, True, True, False]
    server.asked.clear()
    fetch(server, tmp_path, FIBRES[2:3], retries=2)
    assert server.asked == [NAMES[2]] * 3
    server.spectra[NAMES[1]] = missing
    server.broken.clear()
    server.asked.clear()
    assert fetch(server, tmp_path)[1] == {} and sorted(server.asked) == NAMES[1:3]


def test_files_that_are_no_whole_spectra_are_not_kept(server, tmp_path):
    whole = server.spectra[NAMES[0]]
    server.spectra[NAMES[0]] = whole[: len(whole) // 2]
    server.spectra[NAMES[1]] = b"<html>please log in</html>"
    server.broken[NAMES[2]] = "truncated"
    failures = fetch(server, tmp_path)[1]
    assert failures[0].startswith("the FITS file is truncated or damaged")
    assert failures[1].startswith("is a web page") and failures[2] == "truncated download"
    folder = archive.cache_folder(tmp_path) / "dr17"
    assert [path.name for path in folder.glob("*.fits")] == NAMES[3:]
    assert (folder / archive.RECORD).read_text().count("\n") == 1


def test_files_that_changed_are_fetched_again_or_refused(server, tmp_path):
    path = fetch(server, tmp_path)[0][0]
    path.write_bytes(path.read_bytes()[:-2880])
    assert fetch(server, tmp_path)[1:] == ({}, 1)
    assert path.read_bytes() == server.spectra[NAMES[0]]
    path.unlink()
    server.spectra[NAMES[0]] = spectrum_bytes(seed=99)
    paths, failures, _ = fetch(server, tmp_path)
    assert "not the one recorded at the first download" in failures[0]
    assert paths[0] is None and paths[1] is not None
    asked = fetch(server, tmp_path, checksums={NAMES[0]: "0" * 64})
    assert asked[1] == {0: "its sha256 is not the one asked for"}


def test_each_galaxy_has_its_own_spectrum_and_columns(server, tmp_path):
    sample = read_both(server, tmp_path)
    assert sample.sizes["galaxy"] == 10 and sample.sizes["wavelength"] == 3840
    observed = sample["observed_wavelength"].values
    near = np.abs(observed - 6564.614 * 1.03) < 15
    flux = ((sample["flux"].values[:, near] - 20) * np.gradient(observed)[near]).sum(axis=1)
    np.testing.assert_allclose(flux, sample["h_alpha_flux"], atol=5 * np.sqrt(near.sum()))
    assert (sample["sdss_label"] == "GALAXY STARFORMING").all()
    assert (np.diff(sample["h_alpha_bin"]) == 1).all()
    assert "10 spectra, 10 of them fetched now" in sample.attrs["history"]
    server.asked.clear()
    again = read_both(server, tmp_path)
    assert server.asked == [] and sample["flux"].equals(again["flux"])


def test_galaxies_without_a_usable_spectrum_are_left_out_and_counted(server, tmp_path):
    catalogue = query(server, tmp_path, n_per_bin=1)
    names = np.array([f"spec-0266-51602-{f:04d}.fits" for f in catalogue["fiberid"].values])
    where = {"cache": tmp_path, "base_url": server.url, "progress": False}
    part = archive.join_spectra(*archive.fetch_usable(catalogue.isel(galaxy=[7, 3]), **where))
    assert part["h_alpha_bin"].values.tolist() == [7, 3] and (part["name"] == names[[7, 3]]).all()
    del server.spectra[names[2]]
    server.broken[names[5]] = 500
    server.spectra[names[8]] = server.spectra[names[8]][:6000]
    words = r"3 of 10 galaxies left out: .*not in the archive \(404\) \(row 2\)"
    with pytest.warns(SurveyWarning, match=words):
        sample = read_both(server, tmp_path)
    kept = [0, 1, 3, 4, 6, 7, 9]
    assert sample["h_alpha_bin"].values.tolist() == kept and (sample["name"] == names[kept]).all()
    server.spectra.clear()
    server.broken.clear()
    words = "not one of 10 spectra could be fetched: 10 not in the archive"
    refused(words, read_both, server, tmp_path / "elsewhere", error=ConnectionError)
