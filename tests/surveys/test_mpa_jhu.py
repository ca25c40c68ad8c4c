"""The catalogue comes in the paper's bins, once, with gaps as NaN; what SkyServer answers else is told."""

from urllib.parse import urlencode

import numpy as np
import pytest
from astropy import units as u

from spectool.spectra import LINES
from spectool.surveys.archive import CATALOGUE_LINES, H_ALPHA_EDGES, catalogue_sql, query_catalogue
from tests.surveys.sdss_server import catalogue_rows, serve


@pytest.fixture
def archive():
    with serve() as archive:
        yield archive


def query(archive, cache, n_per_bin=2, **options):
    return query_catalogue(
        n_per_bin, cache=cache, skyserver_url=archive.url, progress=False, timeout=10, **options
    )


def test_the_query_is_the_papers_selection():
    sql = catalogue_sql(10, 100, 50, star_forming=True)
    assert sql.startswith("SELECT TOP 50 s.specObjID,s.plate,s.mjd,")
    assert "s.z>0.024 AND s.z<0.05" in sql
    assert "l.h_alpha_flux>=10 AND l.h_alpha_flux<100" in sql
    assert "i.subclass='STARFORMING'" in sql and "STARFORMING" not in catalogue_sql(10, 100, 50)
    for table in ("galSpecLine", "galSpecInfo", "galSpecExtra", "galSpecIndx"):
        assert f"JOIN {table} " in sql
    assert ";" not in sql and "--" not in sql and "\n" not in sql
    assert len(urlencode({"cmd": sql, "format": "csv", "searchtool": "SQL"})) < 2048, "what many servers take"


def test_another_seed_asks_for_other_galaxies():
    assert catalogue_sql(10, 100, 5, seed=1) == catalogue_sql(10, 100, 5, seed=1)
    assert catalogue_sql(10, 100, 5, seed=1) != catalogue_sql(10, 100, 5, seed=2)


def test_the_papers_bins():
    np.testing.assert_allclose(np.diff(np.log10(H_ALPHA_EDGES)), 0.32)
    np.testing.assert_allclose(np.log10(H_ALPHA_EDGES)[[0, -1]], [0.2, 3.4])


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
    assert "20 galaxies of MPA-JHU (SDSS DR17), 2 per bin" in table.attrs["history"]


def test_a_second_call_asks_nobody(archive, tmp_path):
    first = query(archive, tmp_path)
    assert len(archive.asked) == 10
    archive.broken["catalogue"] = 500
    again = query(archive, tmp_path)
    assert len(archive.asked) == 10
    assert again.identical(first)


def test_an_interrupted_query_goes_on_with_the_next_bin(archive, tmp_path):
    whole = archive.answer_sql
    answered = []

    def fail_at_the_fifth(sql):
        answered.append(sql)
        if len(answered) == 5:
            archive.broken["catalogue"] = 502
        return whole(sql)

    archive.answer_sql = fail_at_the_fifth
    with pytest.raises(ConnectionError, match="502 Bad Gateway"):
        query(archive, tmp_path)
    archive.broken.clear()
    assert query(archive, tmp_path).sizes["galaxy"] == 20
    assert len(answered) == 10 and len(set(answered)) == 10


def test_bins_that_hold_too_few_say_so(archive, tmp_path):
    table = query(archive, tmp_path, n_per_bin=3)
    counts = np.bincount(table["h_alpha_bin"])
    assert counts.sum() == 24 and counts.min() == 2
    assert f"bins with fewer: {int(np.argmin(counts))} (2)" in table.attrs["history"]


def test_empty_bins_are_empty_and_an_empty_sample_an_error(archive, tmp_path):
    archive.rows = archive.rows[archive.rows["h_alpha_flux"] > 100]
    table = query(archive, tmp_path / "some")
    assert table["h_alpha_bin"].min() > 0
    archive.rows = archive.rows[:0]
    with pytest.raises(ValueError, match=r"no galaxy of MPA-JHU has a redshift of 0\.024-0\.05 .* widen"):
        query(archive, tmp_path / "none")


def test_a_header_alone_is_an_empty_bin(archive, tmp_path):
    whole = archive.answer_sql
    archive.answer_sql = lambda sql: "\n".join(whole(sql).splitlines()[:2])
    with pytest.raises(ValueError, match="no galaxy of MPA-JHU"):
        query(archive, tmp_path)


def test_star_forming_galaxies_alone(archive, tmp_path):
    assert set(query(archive, tmp_path, star_forming=True)["subclass"].values) == {"STARFORMING"}


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
        ("<html><body>SkyServer is down for maintenance</body></html>", "maintenance"),
        ("#Table1\nerror_message\nInvalid object name galSpecLine\n", "Invalid object name galSpecLine"),
        ("", "did not answer with the table asked for"),
        ("#Table1\nspecobjid,plate\n1,2\n", "did not answer with the table asked for"),
    ],
)
def test_answers_that_are_no_table_are_shown(archive, tmp_path, answer, message):
    archive.answer_sql = lambda _: answer
    with pytest.raises(ConnectionError, match=message):
        query(archive, tmp_path)
    del archive.answer_sql
    assert query(archive, tmp_path).sizes["galaxy"] == 20, "nothing wrong was kept"


def test_answers_cut_short_are_refused(archive, tmp_path):
    whole = archive.answer_sql
    archive.answer_sql = lambda sql: whole(sql)[:-80]
    with pytest.raises(ConnectionError, match="did not answer with the table asked for"):
        query(archive, tmp_path)


def test_offline_says_so(tmp_path):
    with serve() as archive:
        url = archive.url
    with pytest.raises(ConnectionError, match=r"could not be reached .* needs a network the first time"):
        query_catalogue(2, cache=tmp_path, skyserver_url=url, progress=False, timeout=5)


def test_the_catalogue_is_a_line_table(archive, tmp_path):
    from spectool.measure.metallicity import metallicity

    out = metallicity(query(archive, tmp_path))
    n2, o3 = np.log10(0.3), np.log10(0.1 * 2.86)
    np.testing.assert_allclose(out["oxygen"], 8.73 - 0.32 * (o3 - n2))
