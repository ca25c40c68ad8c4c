"""One line changed, and the notebook's sample is made of real spectra: the same columns, bins and scale."""

import numpy as np
import pytest

from spectool.papers.scourfield2023.sample import read_products, read_real, rest_wavelength
from spectool.spectra import LINES
from tests.surveys.sdss_server import catalogue_rows, serve

CONSTANT = 330.0


@pytest.fixture
def archive():
    with serve() as archive:
        yield archive


def read(archive, cache, sample="uniform", **options):
    options = {"constant": CONSTANT, "n_per_bin": 3, "progress": False, "cache": cache} | options
    options["catalogue_options"] = {"skyserver_url": archive.url, "timeout": 10}
    options["archive_options"] = {"base_url": archive.url, "retries": 0, "timeout": 10}
    return read_real(sample, **options)


def test_spectra_are_prepared_as_the_mocks_are(archive, tmp_path):
    sample = read(archive, tmp_path)
    np.testing.assert_allclose(sample["wavelength"], rest_wavelength())
    np.testing.assert_allclose(sample["flux"].sum("wavelength"), CONSTANT, rtol=1e-5)
    assert sample.sizes["galaxy"] == 24
    assert {"candidate", "spectral_class", "split", "h_alpha_bin", "norm"} <= set(sample.data_vars)
    assert np.isfinite(sample["flux"]).all() and sample["mask"].mean() < 0.03


def test_lines_keep_their_flux_and_place(archive, tmp_path):
    sample = read(archive, tmp_path)
    wavelength = sample["wavelength"].values
    near = np.abs(wavelength - LINES["Hα"]) < 30
    beside = (np.abs(wavelength - LINES["Hα"]) < 120) & ~near
    flux = sample["flux"] * sample["norm"]
    excess = flux.values[:, near] - np.median(flux.values[:, beside], axis=1, keepdims=True)
    measured = (excess * np.gradient(wavelength)[near]).sum(axis=1)
    gain = measured / sample["h_alpha_flux"].values
    bright = sample["h_alpha_flux"].values > 100
    # the Milky Way's dust, E(B-V) = 0.05 x 0.86, dims H-alpha by a tenth: k(6762 A) is some 2.4
    np.testing.assert_allclose(gain[bright], 10 ** (0.4 * 0.043 * 2.4), rtol=0.12)
    assert np.median(gain[bright]) == pytest.approx(10 ** (0.4 * 0.043 * 2.4), rel=0.03)
    peak = wavelength[near][np.argmax(flux.values[bright][:, near], axis=1)]
    np.testing.assert_allclose(peak, LINES["Hα"], atol=6.1, err_msg="a bin is 6 A")


def test_splits_part_the_sample_and_n_fetches_no_more(archive, tmp_path):
    whole, test, train = (read(archive, tmp_path, split=split) for split in (None, "test", "train"))
    assert test.sizes["galaxy"] == round(0.2 * 24) and train.sizes["galaxy"] == 24 - test.sizes["galaxy"]
    assert set(test["candidate"].values) | set(train["candidate"].values) == set(whole["candidate"].values)
    archive.asked.clear()
    few = read(archive, tmp_path / "other", split="test", n=2)
    np.testing.assert_array_equal(few["candidate"], test["candidate"][:2])
    assert sum(name.endswith(".fits") for name in archive.asked) == 2


def test_classes_follow_the_papers_rules(tmp_path):
    rows = catalogue_rows()
    rows["sdss_class"] = rows["sdss_class"].astype("U8")
    rows["sdss_class"][0] = "QSO"
    rows["nii_6584_flux"][1] = 1.2 * rows["h_alpha_flux"][1]
    rows["oiii_5007_flux"][1] = 5 * rows["h_beta_flux"][1]
    for row, depth in ((2, 4.0), (3, 0.5)):
        rows["h_alpha_flux_err"][row] = rows["h_alpha_flux"][row]
        rows["lick_hd_a"][row] = depth
    with serve(rows) as archive:
        sample = read(archive, tmp_path)
    found = sample["spectral_class"].values[np.argsort(sample["fiberid"].values)][:5].tolist()
    assert found[:2] == ["broad-line AGN", "narrow-line AGN"]
    assert found[2:] == ["absorption galaxy", "quiescent galaxy", "emission line galaxy"]


def test_section_5_has_star_forming_galaxies_in_its_own_bins_and_the_mocks_constant(archive, tmp_path):
    sample = read(archive, tmp_path, "star-forming", constant=None)
    assert set(sample["subclass"].values) == {"STARFORMING"}
    log = np.log10(sample["h_alpha_flux"].values)
    assert ((log >= 1.4) & (log < 3.2)).all()
    np.testing.assert_array_equal(sample["h_alpha_bin"], np.floor((log - 1.4) / 0.18).astype(int))
    assert sample.attrs["constant"] == read_products("star-forming").attrs["constant"]
