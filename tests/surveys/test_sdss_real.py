"""Catalogue and spectra of the same galaxies are joined; those without a spectrum are left out and counted."""

import numpy as np
import pytest

from spectool.surveys.archive import fetch_usable, join_spectra, query_catalogue, read_real_sample
from spectool.surveys.sdss import SurveyWarning
from tests.surveys.sdss_server import serve


@pytest.fixture
def archive():
    with serve() as archive:
        yield archive


def read(archive, cache, n_per_bin=1):
    where = {"skyserver_url": archive.url, "base_url": archive.url, "retries": 0, "timeout": 10}
    return read_real_sample(n_per_bin, cache=cache, progress=False, **where)


def test_each_galaxy_has_its_own_spectrum_and_columns(archive, tmp_path):
    sample = read(archive, tmp_path)
    assert sample.sizes["galaxy"] == 10 and sample.sizes["wavelength"] == 3840
    observed = sample["observed_wavelength"].values
    near = np.abs(observed - 6564.614 * 1.03) < 15
    step = np.gradient(observed)[near]
    flux = ((sample["flux"].values[:, near] - 20) * step).sum(axis=1)
    np.testing.assert_allclose(flux, sample["h_alpha_flux"], atol=5 * np.sqrt(near.sum()))
    assert (sample["sdss_label"] == "GALAXY STARFORMING").all()
    assert (np.diff(sample["h_alpha_bin"]) == 1).all()
    for name in ("log_mass", "log_sfr", "ebv", "line_flux", "name", "ivar", "mask"):
        assert name in sample
    assert "10 spectra, 10 of them fetched now" in sample.attrs["history"]


def test_a_second_call_needs_no_network(archive, tmp_path):
    first = read(archive, tmp_path)
    archive.asked.clear()
    again = read(archive, tmp_path)
    assert archive.asked == []
    np.testing.assert_array_equal(first["flux"], again["flux"])
    assert "10 spectra, 0 of them fetched now" in again.attrs["history"]


def test_galaxies_without_a_usable_spectrum_are_left_out_and_counted(archive, tmp_path):
    names = sorted(archive.spectra)
    catalogue = query_catalogue(1, cache=tmp_path, skyserver_url=archive.url, progress=False)
    wanted = [f"spec-0266-51602-{f:04d}.fits" for f in catalogue["fiberid"].values]
    del archive.spectra[wanted[2]]
    archive.broken[wanted[5]] = 500
    archive.spectra[wanted[7]] = archive.spectra[wanted[7]][:6000]
    assert set(wanted) <= set(names)
    with pytest.warns(
        SurveyWarning, match=r"3 of 10 galaxies left out: .*not in the archive \(404\) \(row 2\)"
    ):
        sample = read(archive, tmp_path)
    assert sample["h_alpha_bin"].values.tolist() == [0, 1, 3, 4, 6, 8, 9]
    assert sample["name"].values.tolist() == [w for i, w in enumerate(wanted) if i not in (2, 5, 7)]
    assert "3 of 10 galaxies left out" in sample.attrs["history"]


def test_not_a_single_spectrum_is_an_error(archive, tmp_path):
    archive.spectra.clear()
    with pytest.raises(
        ConnectionError, match=r"not one of 10 spectra could be fetched: 10 not in the archive"
    ):
        read(archive, tmp_path)


def test_rows_of_a_catalogue_may_be_read_alone(archive, tmp_path):
    catalogue = query_catalogue(1, cache=tmp_path, skyserver_url=archive.url, progress=False)
    some = catalogue.isel(galaxy=[7, 3])
    part = join_spectra(*fetch_usable(some, cache=tmp_path, base_url=archive.url, progress=False))
    assert part["h_alpha_bin"].values.tolist() == [7, 3]
    assert part["name"].values.tolist() == [f"spec-0266-51602-{f:04d}.fits" for f in some["fiberid"].values]
