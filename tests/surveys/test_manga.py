"""MaNGA's single spectra keep their own resolution, masks by their meaning, and a row can be chosen."""

import numpy as np
import pytest
from astropy.io import fits

from spectool.spectra import KM_S, SIGMA_TO_FWHM
from spectool.surveys import read_manga, read_spectrum

WAVELENGTH = 10 ** (3.6 + 1e-4 * np.arange(200))


def write_manga(path, **changes):
    shape = (3, WAVELENGTH.size)
    parts = {"WAVE": WAVELENGTH, "FLUX": np.ones(shape, "f4"), "IVAR": np.full(shape, 25, "f4")}
    parts |= {
        "MASK": np.zeros(shape, "i4"),
        "SRES": np.full(shape, 2000.0),
        "Z": np.array([0.02, 0.03, 0.04]),
    }
    hdus = [fits.ImageHDU(values, name=name) for name, values in (parts | changes).items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def test_real_spectra_with_their_redshifts_and_resolution(shared):
    path = shared / "data" / "manga" / "MaNGA_test_spectra.fits.gz"
    sample = read_manga(path)
    assert dict(sample.sizes) == {"galaxy": 8, "wavelength": 4563}
    np.testing.assert_allclose(sample["redshift"][:3], [0.0495282, 0.050231, 0.04935])
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(sample["flux"][2], hdus["FLUX"].data[2])
        power = KM_S / SIGMA_TO_FWHM / sample["lsf_sigma"].values
        np.testing.assert_allclose(power[2], hdus["SRES"].data[2], rtol=1e-6)
        assert (np.isnan(power[5]) == (hdus["SRES"].data[5] <= 0)).all() and np.isnan(power[5]).any()
    assert sample["mask"][5].all() and "no good pixel in spectrum 5" in sample.attrs["history"]
    chosen = read_spectrum(path, target=3)
    assert chosen["redshift"].item() == 0.027447 and read_spectrum(path, target="all").sizes["galaxy"] == 8
    with pytest.raises(
        ValueError, match=r"MaNGA_test_spectra.fits.gz: is a MaNGA file with 8 spectra.*target="
    ):
        read_spectrum(path)


def test_bits_that_spoil_a_pixel(tmp_path):
    mask = np.zeros((3, WAVELENGTH.size), "i4")
    mask[0, :6] = [1, 2, 4, 8, 1024, 16]
    sample = read_manga(write_manga(tmp_path / "m.fits", MASK=mask), targets=[2, 0])
    assert sample["mask"].values[1].nonzero()[0].tolist() == [0, 1, 2, 3, 4] and not sample["mask"][0].any()
    assert sample["redshift"].values.tolist() == [0.04, 0.02] and "no unit" in sample.attrs["history"]


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"targets": 3}, "has no spectrum 3; its 3 are counted from 0"),
        ({"IVAR": np.ones((2, 200))}, {}, "shapes do not fit: IVAR"),
        ({"SRES": np.ones(5), "FLUX": np.ones((2, 3, 200))}, {}, "holds no MaNGA spectra"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, changes, options, says):
    path = write_manga(tmp_path / "m.fits", **changes)
    with pytest.raises(ValueError, match=rf"m\.fits: .*{says}"):
        read_manga(path, **options)
