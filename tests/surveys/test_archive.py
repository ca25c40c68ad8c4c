"""Archives are asked once, their answers kept whole and unchanged; what fails is named, counted, and stops nothing."""

import io
from urllib.parse import urlencode

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable import from_table
from astropy.table import Table

from spectool.spectra import LINES
from spectool.surveys import SurveyWarning
from spectool.surveys.archive import (
    CATALOGUE_LINES,
    RECORD,
    SAS_URL,
    cache_folder,
    catalogue_sql,
    fetch_spectra,
    fetch_usable,
    join_spectra,
    query_catalogue,
    query_vizier,
    read_real_sample,
    spectrum_url,
)
from spectool.surveys.sdss import read_sdss
from spectool.surveys.tables import read_photometry
from tests.surveys.sdss_server import catalogue_rows, serve, spectrum_bytes

FIBRES = (1, 2, 3, 4)
NAMES = [f"spec-0266-51602-{fibre:04d}.fits" for fibre in FIBRES]


@pytest.fixture
def archive():
    with serve() as archive:
        yield archive


def query(archive, cache, n_per_bin=2, **options):
    where = {"cache": cache, "skyserver_url": archive.url, "timeout": 10}
    return query_catalogue(n_per_bin, **where, progress=False, **options)


def fetch(archive, cache, fibres=FIBRES, **options):
    options = {"retries": 0, "progress": False, "base_url": f"{archive.url}/sas", "timeout": 10} | options
    return fetch_spectra([266] * len(fibres), [51602] * len(fibres), fibres, cache=cache, **options)


def read_both(archive, cache):
    where = {"skyserver_url": archive.url, "base_url": archive.url, "retries": 0, "timeout": 10}
    return read_real_sample(1, cache=cache, progress=False, **where)


def votable(n=3):
    table = Table({"r": np.linspace(1.0, 2.0, n), "e_r": np.full(n, 0.1), "Z": np.full(n, 0.1)})
    table["r"].unit = table["e_r"].unit = "mJy"
    content = io.BytesIO()
    from_table(table).to_xml(content)
    return content.getvalue()


@pytest.fixture
def vizier(archive, tmp_path, monkeypatch):
    """A query of the loopback server, which has no certificate: astroquery asks by https only."""
    from astroquery.vizier import VizierClass

    address = archive.url.removeprefix("http://")
    monkeypatch.setattr(
        VizierClass, "_server_to_url", lambda self, return_type="votable": f"http://{address}/{return_type}"
    )
    archive.votable = votable()
    return lambda **options: query_vizier("J/X/1/gama", cache=tmp_path, server=address, timeout=10, **options)


def test_a_table_of_vizier_arrives_once_and_is_kept(archive, vizier):
    first, again = (vizier(columns=("r", "e_r", "Z")) for _ in range(2))
    assert (
        len(archive.asked) == 1
        and "-source=J/X/1/gama" in archive.asked[0]
        and "unlimited" in archive.asked[0]
    )
    assert np.array_equal(first["r"], again["r"])
    sample = read_photometry(first)
    assert np.allclose(sample["flux"].sel(band="r"), [1e-3, 1.5e-3, 2e-3])
    assert np.allclose(sample["redshift"], 0.1)


def test_a_changed_file_is_refused(archive, vizier, tmp_path):
    vizier()
    query(archive, tmp_path)
    (path,) = (tmp_path / "vizier").glob("*.vot")
    path.write_bytes(votable(4))
    with pytest.raises(ValueError, match="not the table of J/X/1/gama that was first fetched"):
        vizier()
    path.unlink()
    with pytest.raises(ValueError, match="that was asked for"):
        vizier(checksum="0" * 64)
    path = next((tmp_path / "sdss").rglob("*.csv"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="not the bin of MPA-JHU's catalogue that was first fetched"):
        query(archive, tmp_path)


@pytest.mark.parametrize(
    ("answer", "status", "error", "message"),
    [
        (
            b"<html>down for maintenance</html>",
            None,
            ConnectionError,
            "did not answer with a table.*maintenance",
        ),
        (b"", 503, ConnectionError, r"could not be reached .*503"),
        (votable(0), None, ValueError, "no table 'J/X/1/gama', or an empty one"),
    ],
)
def test_other_answers_of_vizier_are_told_and_not_kept(
    archive, vizier, tmp_path, answer, status, error, message
):
    archive.votable, archive.broken["votable"] = answer, status
    with pytest.raises(error, match=message):
        vizier()
    assert not list(tmp_path.rglob("*.vot"))


def test_archives_out_of_reach_say_so(tmp_path):
    with serve() as archive:
        pass
    words = r"could not be reached .* needs a network the first time"
    with pytest.raises(ConnectionError, match=words):
        query(archive, tmp_path)
    with pytest.raises(ConnectionError, match=words):
        query_vizier("J/X/1/gama", cache=tmp_path, server=archive.url.removeprefix("http://"), timeout=5)


def test_the_query_is_short_and_plain():
    sql = catalogue_sql(10, 100, 50, star_forming=True)
    assert sql.startswith("SELECT TOP 50 s.specObjID,s.plate,s.mjd,")
    assert "s.z>0.024 AND s.z<0.05" in sql
    assert "l.h_alpha_flux>=10 AND l.h_alpha_flux<100" in sql
    assert "i.subclass='STARFORMING'" in sql and "STARFORMING" not in catalogue_sql(10, 100, 50)
    for table in ("galSpecLine", "galSpecInfo", "galSpecExtra", "galSpecIndx"):
        assert f"JOIN {table} " in sql
    assert ";" not in sql and "--" not in sql and "\n" not in sql
    assert len(urlencode({"cmd": sql, "format": "csv", "searchtool": "SQL"})) < 2048, "what many servers take"
    first, again, other = (catalogue_sql(10, 100, 5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_columns_arrive_with_units_and_in_their_bins(archive, tmp_path):
    table = query(archive, tmp_path)
    rows = archive.rows
    assert table.sizes == {"galaxy": 20, "line": len(CATALOGUE_LINES)}
    assert np.bincount(table["h_alpha_bin"]).tolist() == [2] * 10
    place = [int(np.flatnonzero(rows["specobjid"] == i)[0]) for i in table["specobjid"].values]
    for name in ("log_mass", "log_sfr", "redshift", "ebv", "plate", "fiberid", "h_alpha_flux"):
        np.testing.assert_allclose(table[name], rows[name][place])
    np.testing.assert_allclose(table["line_flux"].sel(line="[N II] 6583"), rows["nii_6584_flux"][place])
    np.testing.assert_allclose(table["line_flux_error"].sel(line="Hδ"), rows["h_delta_flux_err"][place])
    np.testing.assert_allclose(table["line_sn"], table["line_flux"] / table["line_flux_error"])
    np.testing.assert_allclose(table["line_wavelength"], [LINES[name] for name in table["line"].values])
    for name in table.variables:
        if table[name].dtype.kind == "f":
            u.Unit(table[name].attrs["units"])
    assert set(table["subclass"].values) == {"STARFORMING", ""}
    assert set(query(archive, tmp_path, star_forming=True)["subclass"].values) == {"STARFORMING"}
    assert "20 galaxies of MPA-JHU (SDSS DR17), 2 per bin" in table.attrs["history"]


def test_the_catalogue_is_a_line_table(archive, tmp_path):
    from spectool.measure.metallicity import metallicity

    out = metallicity(query(archive, tmp_path))
    n2, o3 = np.log10(0.3), np.log10(0.1 * 2.86)
    np.testing.assert_allclose(out["oxygen"], 8.73 - 0.32 * (o3 - n2))


def test_an_interrupted_query_goes_on_with_the_next_bin_and_asks_no_bin_twice(archive, tmp_path):
    whole, answered = archive.answer_sql, []

    def fail_at_the_fifth(sql):
        answered.append(sql)
        if len(answered) == 5:
            archive.broken["catalogue"] = 502
        return whole(sql)

    archive.answer_sql = fail_at_the_fifth
    with pytest.raises(ConnectionError, match="502 Bad Gateway"):
        query(archive, tmp_path)
    archive.broken.clear()
    first = query(archive, tmp_path)
    assert first.sizes["galaxy"] == 20
    assert query(archive, tmp_path).identical(first)
    assert len(answered) == 10 and len(set(answered)) == 10


def test_bins_that_hold_too_few_say_so(archive, tmp_path):
    table = query(archive, tmp_path, n_per_bin=3)
    counts = np.bincount(table["h_alpha_bin"])
    assert counts.sum() == 24 and counts.min() == 2
    assert f"bins with fewer: {int(np.argmin(counts))} (2)" in table.attrs["history"]


def test_empty_bins_are_empty_and_an_empty_sample_an_error(archive, tmp_path):
    archive.rows = archive.rows[archive.rows["h_alpha_flux"] > 100]
    assert query(archive, tmp_path / "some")["h_alpha_bin"].min() > 0
    archive.rows = archive.rows[:0]
    with pytest.raises(ValueError, match=r"no galaxy of MPA-JHU has a redshift of 0\.024-0\.05 .* widen"):
        query(archive, tmp_path / "none")
    archive.answer_sql = lambda sql, whole=archive.answer_sql: "\n".join(whole(sql).splitlines()[:2])
    with pytest.raises(ValueError, match="no galaxy of MPA-JHU"):
        query(archive, tmp_path / "header alone")


def test_what_mpa_jhu_does_not_know_is_nan(tmp_path):
    rows = catalogue_rows()
    rows["log_mass"][3], rows["log_sfr"][4], rows["oxygen_mpa_jhu"][5] = -1.0, -9999.0, -9999.0
    rows["oiii_4363_flux"][:], rows["oiii_4363_flux_err"][:] = 0.0, -1.0
    rows["h_beta_flux"][6] = -12.0
    with serve(rows) as archive:
        table = query(archive, tmp_path, n_per_bin=9)
    assert np.isnan(table["log_sfr"]).sum() == 1 and np.isnan(table["oxygen_mpa_jhu"]).sum() == 1
    assert np.isnan(table["log_mass"]).sum() == 1, "-1 is what the table holds without photometry"
    assert np.isnan(table["line_flux"].sel(line="[O III] 4363")).all()
    assert (table["line_flux"].sel(line="Hβ") < 0).sum() == 1, "noise may be negative"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: "<html><body>SkyServer is down for maintenance</body></html>", "maintenance"),
        (
            lambda _: "#Table1\nerror_message\nInvalid object name galSpecLine\n",
            "Invalid object name galSpecLine",
        ),
        (lambda _: "", "did not answer with the table asked for"),
        (lambda _: "#Table1\nspecobjid,plate\n1,2\n", "did not answer with the table asked for"),
        (lambda whole: whole[:-80], "did not answer with the table asked for"),
    ],
)
def test_answers_that_are_no_table_are_shown_and_not_kept(archive, tmp_path, answer, message):
    whole = archive.answer_sql
    archive.answer_sql = lambda sql: answer(whole(sql))
    with pytest.raises(ConnectionError, match=message):
        query(archive, tmp_path)
    archive.answer_sql = whole
    assert query(archive, tmp_path).sizes["galaxy"] == 20


def test_addresses_are_those_of_astroquery():
    """But for the folder of the "lite" files, a fifth of the size."""
    from astroquery.sdss import SDSS

    where = {
        "base": SAS_URL,
        "dr": 17,
        "redux_path": "sdss/spectro/redux",
        "run2d": "26",
        "spectra_path": "spectra",
    }
    theirs = SDSS.SPECTRA_URL_SUFFIX.format(**where, plate=266, mjd=51602, fiber=1)
    assert spectrum_url(266, 51602, 1).replace("/lite/", "/") == theirs


def test_fetched_spectra_are_those_of_the_archive_and_come_once(archive, tmp_path):
    paths, failures, n_downloaded = fetch(archive, tmp_path)
    assert [path.name for path in paths] == NAMES
    assert failures == {} and n_downloaded == 4
    assert [path.read_bytes() for path in paths] == [archive.spectra[name] for name in NAMES]
    assert read_sdss(paths).sizes["galaxy"] == 4
    archive.asked.clear()
    assert fetch(archive, tmp_path) == (paths, {}, 0)
    assert archive.asked == []


def test_offline_says_what_is_there_and_resumes(tmp_path):
    with serve(catalogue_rows(4)) as archive:
        paths, _, _ = fetch(archive, tmp_path, FIBRES[:3])
    assert fetch(archive, tmp_path, FIBRES[:3])[0] == paths
    words = r"could not be reached .*\. 3 of 4 spectra are in .*; run it again"
    with pytest.raises(ConnectionError, match=words):
        fetch(archive, tmp_path)
    with serve(catalogue_rows(4)) as archive:
        assert fetch(archive, tmp_path)[1:] == ({}, 1)
        assert archive.asked == NAMES[3:]


def test_missing_spectra_and_errors_of_the_server_are_named_and_stop_nothing(archive, tmp_path):
    missing = archive.spectra.pop(NAMES[1])
    archive.broken[NAMES[2]] = 503
    paths, failures, _ = fetch(archive, tmp_path)
    assert failures == {1: "not in the archive (404)", 2: "the server answered 503 Service Unavailable"}
    assert [path is None for path in paths] == [False, True, True, False]
    archive.spectra[NAMES[1]] = missing
    archive.broken.clear()
    archive.asked.clear()
    assert fetch(archive, tmp_path)[1] == {}
    assert sorted(archive.asked) == NAMES[1:3]


def test_failed_downloads_are_tried_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    archive.broken[NAMES[0]] = 500
    fetch(archive, tmp_path, FIBRES[:1], retries=2)
    assert archive.asked == [NAMES[0]] * 3


def test_files_that_are_no_whole_spectra_are_not_kept(archive, tmp_path):
    whole = archive.spectra[NAMES[0]]
    archive.spectra[NAMES[0]] = whole[: len(whole) // 2]
    archive.spectra[NAMES[1]] = b"<html>maintenance</html>"
    archive.broken[NAMES[2]] = "truncated"
    failures = fetch(archive, tmp_path)[1]
    assert failures[0].startswith("the FITS file is truncated or damaged")
    assert failures[1] == "is not a FITS file" and failures[2] == "truncated download"
    folder = cache_folder(tmp_path) / "dr17"
    assert [path.name for path in folder.glob("*.fits")] == NAMES[3:]
    assert (folder / RECORD).read_text().count("\n") == 1


def test_files_that_changed_are_fetched_again_or_refused(archive, tmp_path):
    path = fetch(archive, tmp_path)[0][0]
    path.write_bytes(path.read_bytes()[:-2880])
    assert fetch(archive, tmp_path)[1:] == ({}, 1)
    assert path.read_bytes() == archive.spectra[NAMES[0]]
    path.unlink()
    archive.spectra[NAMES[0]] = spectrum_bytes(seed=99)
    paths, failures, _ = fetch(archive, tmp_path)
    assert "not the one recorded at the first download" in failures[0]
    assert paths[0] is None and paths[1] is not None
    failures = fetch(archive, tmp_path, checksums={NAMES[0]: "0" * 64})[1]
    assert failures == {0: "its sha256 is not the one asked for"}


def test_an_interrupted_record_is_read_as_far_as_it_goes(archive, tmp_path):
    fetch(archive, tmp_path)
    record = cache_folder(tmp_path) / "dr17" / RECORD
    lines = record.read_text().splitlines()
    record.write_text("\n".join([*lines[:3], lines[3][:40]]))
    archive.asked.clear()
    assert fetch(archive, tmp_path)[1:] == ({}, 0) and archive.asked == []


def test_galaxies_may_repeat(archive, tmp_path):
    paths, _, n_downloaded = fetch(archive, tmp_path, (2, 1, 2))
    assert [path.name for path in paths] == [NAMES[1], NAMES[0], NAMES[1]]
    assert n_downloaded == 2


def test_real_files_pass_through(shared, archive, tmp_path):
    """Files as SDSS distributes them, served as they are."""
    real = shared / "data" / "sdss_raw" / "spec-0266-51602-0056.fits"
    archive.spectra[real.name] = real.read_bytes()
    sample = read_sdss(fetch(archive, tmp_path, (56,))[0])
    assert 0.02 < sample["redshift"].item() < 0.21 and np.isfinite(sample["flux"]).all()


def test_each_galaxy_has_its_own_spectrum_and_columns(archive, tmp_path):
    sample = read_both(archive, tmp_path)
    assert sample.sizes["galaxy"] == 10 and sample.sizes["wavelength"] == 3840
    observed = sample["observed_wavelength"].values
    near = np.abs(observed - 6564.614 * 1.03) < 15
    step = np.gradient(observed)[near]
    flux = ((sample["flux"].values[:, near] - 20) * step).sum(axis=1)
    np.testing.assert_allclose(flux, sample["h_alpha_flux"], atol=5 * np.sqrt(near.sum()))
    assert (sample["sdss_label"] == "GALAXY STARFORMING").all()
    assert (np.diff(sample["h_alpha_bin"]) == 1).all()
    assert {"log_mass", "log_sfr", "ebv", "line_flux", "name", "ivar", "mask"} <= set(sample.variables)
    assert "10 spectra, 10 of them fetched now" in sample.attrs["history"]
    archive.asked.clear()
    again = read_both(archive, tmp_path)
    assert archive.asked == []
    np.testing.assert_array_equal(sample["flux"], again["flux"])
    assert "10 spectra, 0 of them fetched now" in again.attrs["history"]


def test_galaxies_without_a_usable_spectrum_are_left_out_and_counted(archive, tmp_path):
    catalogue = query(archive, tmp_path, n_per_bin=1)
    wanted = [f"spec-0266-51602-{f:04d}.fits" for f in catalogue["fiberid"].values]
    part = join_spectra(
        *fetch_usable(catalogue.isel(galaxy=[7, 3]), cache=tmp_path, base_url=archive.url, progress=False)
    )
    assert part["h_alpha_bin"].values.tolist() == [7, 3]
    assert part["name"].values.tolist() == [wanted[7], wanted[3]]
    del archive.spectra[wanted[2]]
    archive.broken[wanted[5]] = 500
    archive.spectra[wanted[8]] = archive.spectra[wanted[8]][:6000]
    words = r"3 of 10 galaxies left out: .*not in the archive \(404\) \(row 2\)"
    with pytest.warns(SurveyWarning, match=words):
        sample = read_both(archive, tmp_path)
    assert sample["h_alpha_bin"].values.tolist() == [0, 1, 3, 4, 6, 7, 9]
    assert sample["name"].values.tolist() == [w for i, w in enumerate(wanted) if i not in (2, 5, 8)]
    assert "3 of 10 galaxies left out" in sample.attrs["history"]


def test_not_a_single_spectrum_is_an_error(archive, tmp_path):
    archive.spectra.clear()
    words = r"not one of 10 spectra could be fetched: 10 not in the archive"
    with pytest.raises(ConnectionError, match=words):
        read_both(archive, tmp_path)
