"""Spectra come over the network once, whole and unchanged; whatever fails is named and stops nothing."""

import numpy as np
import pytest

from spectool.surveys.archive import RECORD, SAS_URL, cache_folder, fetch_spectra, spectrum_url
from spectool.surveys.sdss import read_sdss
from tests.surveys.sdss_server import catalogue_rows, serve, spectrum_bytes

FIBRES = (1, 2, 3, 4)
NAMES = [f"spec-0266-51602-{fibre:04d}.fits" for fibre in FIBRES]


@pytest.fixture
def archive():
    with serve(catalogue_rows(4)) as archive:
        yield archive


def fetch(archive, cache, fibres=FIBRES, **options):
    options = {"retries": 0, "progress": False, "base_url": f"{archive.url}/sas", "timeout": 10} | options
    return fetch_spectra([266] * len(fibres), [51602] * len(fibres), fibres, cache=cache, **options)


def test_addresses_are_those_of_astroquery():
    """But for the folder of the "lite" files, a fifth of the size."""
    from astroquery.sdss import SDSS

    theirs = SDSS.SPECTRA_URL_SUFFIX.format(
        base=SAS_URL,
        dr=17,
        redux_path="sdss/spectro/redux",
        run2d="26",
        spectra_path="spectra",
        plate=266,
        mjd=51602,
        fiber=1,
    )
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


def test_the_cache_serves_without_any_network(tmp_path):
    with serve(catalogue_rows(4)) as archive:
        paths, _, _ = fetch(archive, tmp_path)
    assert fetch(archive, tmp_path)[0] == paths


def test_offline_says_what_is_there_and_resumes(tmp_path):
    with serve(catalogue_rows(4)) as archive:
        fetch(archive, tmp_path, FIBRES[:3])
    with pytest.raises(
        ConnectionError, match=r"could not be reached .*\. 3 of 4 spectra are in .*; run it again"
    ):
        fetch(archive, tmp_path)
    with serve(catalogue_rows(4)) as archive:
        assert fetch(archive, tmp_path)[1:] == ({}, 1)
        assert archive.asked == NAMES[3:]


def test_missing_spectra_are_named_and_stop_nothing(archive, tmp_path):
    del archive.spectra[NAMES[1]]
    paths, failures, _ = fetch(archive, tmp_path)
    assert failures == {1: "not in the archive (404)"}
    assert [path is None for path in paths] == [False, True, False, False]


def test_server_errors_are_named_and_the_next_call_mends_them(archive, tmp_path):
    archive.broken[NAMES[2]] = 503
    assert fetch(archive, tmp_path)[1] == {2: "the server answered 503 Service Unavailable"}
    archive.broken.clear()
    archive.asked.clear()
    assert fetch(archive, tmp_path)[1] == {}
    assert archive.asked == [NAMES[2]]


def test_failed_downloads_are_tried_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    archive.broken[NAMES[0]] = 500
    fetch(archive, tmp_path, FIBRES[:1], retries=2)
    assert archive.asked == [NAMES[0]] * 3


def test_downloads_that_break_off_are_not_kept(archive, tmp_path):
    archive.broken[NAMES[0]] = "truncated"
    assert fetch(archive, tmp_path)[1] == {0: "truncated download"}
    assert not (cache_folder(tmp_path) / "dr17" / NAMES[0]).exists()


def test_files_that_are_no_whole_spectra_are_not_kept(archive, tmp_path):
    whole = archive.spectra[NAMES[0]]
    archive.spectra[NAMES[0]] = whole[: len(whole) // 2]
    archive.spectra[NAMES[1]] = b"<html>maintenance</html>"
    failures = fetch(archive, tmp_path)[1]
    assert failures[0].startswith("the FITS file is truncated or damaged")
    assert failures[1] == "is not a FITS file"
    folder = cache_folder(tmp_path) / "dr17"
    assert sorted(path.name for path in folder.glob("*.fits")) == NAMES[2:]
    assert (folder / RECORD).read_text().count("\n") == 2


def test_files_that_changed_in_the_cache_are_fetched_again(archive, tmp_path):
    path = fetch(archive, tmp_path)[0][0]
    path.write_bytes(path.read_bytes()[:-2880])
    assert fetch(archive, tmp_path)[1:] == ({}, 1)
    assert path.read_bytes() == archive.spectra[NAMES[0]]


def test_files_that_changed_in_the_archive_are_refused(archive, tmp_path):
    fetch(archive, tmp_path)
    (cache_folder(tmp_path) / "dr17" / NAMES[0]).unlink()
    archive.spectra[NAMES[0]] = spectrum_bytes(seed=99)
    paths, failures, _ = fetch(archive, tmp_path)
    assert "not the one recorded at the first download" in failures[0]
    assert paths[0] is None and paths[1] is not None


def test_checksums_that_are_given_must_be_met(archive, tmp_path):
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


def test_real_files_pass_through(shared, tmp_path):
    """Files as SDSS distributes them, served as they are."""
    real = shared / "data" / "sdss_raw" / "spec-0266-51602-0056.fits"
    with serve(catalogue_rows(1)) as archive:
        archive.spectra[real.name] = real.read_bytes()
        sample = read_sdss(fetch(archive, tmp_path, (56,))[0])
    assert 0.02 < sample["redshift"].item() < 0.21 and np.isfinite(sample["flux"]).all()
