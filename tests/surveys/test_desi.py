"""DESI's own files: arms and exposures are joined, the resolution matrices become what fits take as resolution."""

import gzip
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from spectool.measure.lines_linear import measure_lines_linear
from spectool.measure.lines_ppxf import fit_lines
from spectool.prepare import mask_bad_pixels, resample, to_rest_frame
from spectool.spectra import KM_S, LINES
from spectool.surveys import SurveyWarning, read_desi, read_sdss, read_spectrum
from spectool.surveys.desi import redrock_beside
from spectool.surveys.sdss import build_sample, open_fits, packaged_spectra

TARGETS = np.array([39627866878511337, 39627866878514741])
ARMS = {"B": 3600 + 0.8 * np.arange(300), "R": 3800 + 0.8 * np.arange(400), "Z": 4160 + 0.8 * np.arange(90)}
WIDTH = np.linspace(0.75, 1.1, 860)  # sigma of the line-spread function [pixel], along all arms' pixels
ROW = np.arange(-5, 6)


def band(n_pixels, first):
    """A resolution matrix as DESI keeps it: the highest diagonal first, along the column."""
    column = np.arange(n_pixels)
    place = column - ROW[::-1, None]
    sigma = WIDTH[np.clip(first + place, 0, WIDTH.size - 1)]
    return np.exp(-0.5 * ((place - column) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)


def write_desi(path, *, targetid=TARGETS, arms=ARMS, change=(), **columns):
    """A small file laid out as DESI's; every row's flux is its number from 1, in the arm R plus 0.5."""
    n = len(targetid)
    table = {"TARGETID": targetid, "TARGET_RA": np.full(n, 150.0), "TARGET_DEC": np.full(n, 2.0)}
    table |= {"EBV": np.linspace(0.02, 0.03, n), "OBJTYPE": np.full(n, "TGT")} | columns
    hdus = {"PRIMARY": fits.PrimaryHDU(), "FIBERMAP": fits.BinTableHDU(Table(table), name="FIBERMAP")}
    for arm, wavelength in arms.items():
        flux = np.arange(1, n + 1)[:, None] * np.ones(wavelength.size) + 0.5 * (arm == "R")
        first = round((wavelength[0] - 3600) / 0.8)
        parts = {"WAVELENGTH": wavelength, "FLUX": flux.astype("f4")}
        parts |= {"IVAR": np.full(flux.shape, 4, "f4"), "MASK": np.zeros(flux.shape, "u4")}
        parts["RESOLUTION"] = np.tile(band(wavelength.size, first).astype("f4"), (n, 1, 1))
        for part, values in parts.items():
            hdus[f"{arm}_{part}"] = fits.ImageHDU(values, name=f"{arm}_{part}")
        hdus[f"{arm}_FLUX"].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    if change:
        change(hdus)
    fits.HDUList(list(hdus.values())).writeto(path, overwrite=True)
    return path


def write_redrock(path, targetid=TARGETS, redshift=(0.1, 0.2), zwarn=(0, 4)):
    table = {"TARGETID": targetid, "Z": redshift, "ZWARN": zwarn}
    table |= {"SPECTYPE": ["GALAXY"] * len(targetid), "SUBTYPE": [""] * len(targetid)}
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table(table), name="REDSHIFTS")]).writeto(path)
    return path


def test_the_survey_s_own_coadd_is_joined_and_its_line_lies_where_redrock_says(shared):
    path = shared / "data" / "desi" / "coadd-special-dark-27247.fits"
    sample = read_desi(path)
    assert sample["name"].item() == "39089837499744649" and sample["zwarn"].item() == 0
    assert sample["spectral_class"].item() == "GALAXY" and sample["ebv"].item() == pytest.approx(
        0.02089, abs=1e-5
    )
    wavelength, flux = sample["observed_wavelength"].values, sample["flux"].values[0]
    assert wavelength.size == 7781 and wavelength[[0, -1]] == pytest.approx([3600, 9824])
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(flux[:2700], hdus["B_FLUX"].data[0, :2700])
        np.testing.assert_array_equal(flux[5026:], hdus["Z_FLUX"].data[0, 126:])
        both = sample["ivar"].values[0, 2700:2751]
        np.testing.assert_allclose(
            both, hdus["B_IVAR"].data[0, 2700:] + hdus["R_IVAR"].data[0, :51], rtol=1e-6
        )
    near = np.abs(wavelength / 1.00726967 - LINES["[O III] 5007"]) < 6
    light = np.clip(flux[near], 0, None)
    centre = (light * wavelength[near]).sum() / light.sum() / 1.00726967
    assert centre == pytest.approx(LINES["[O III] 5007"], abs=0.5)
    sigma = sample["lsf_sigma"].values[0, 1:-1] / KM_S * wavelength[1:-1]
    assert np.percentile(sigma, 1) > 0.62 and np.percentile(sigma, 99) < 0.8
    assert read_spectrum(path)["redshift"].item() == sample["redshift"].item()


@pytest.mark.parametrize("form", ["path", "gz", "hdus", "one arm", "spectra"])
def test_arms_exposures_and_masks(tmp_path, form):
    def spoil(hdus):
        hdus["B_MASK"].data[0, 10] = 1 << 9
        hdus["B_IVAR"].data[0, 11] = 0
        hdus["B_FLUX"].data[0, 12] = np.nan
        hdus["B_MASK"].data[0, 260] = 4  # within R's reach
        hdus["R_IVAR"].data[:, 20] = 12

    path = tmp_path / "coadd-main-dark-1.fits"
    if form == "one arm":
        write_desi(path, arms={"BRZ": 3600 + 0.8 * np.arange(860)})
        assert (read_desi(path, targets=TARGETS[1].item())["flux"] == 2).all()
        return
    targetid = np.repeat(TARGETS, 2) if form == "spectra" else TARGETS
    write_desi(path, targetid=targetid, change=spoil)
    source = path
    if form == "gz":
        source = path.with_name(path.name + ".gz")
        source.write_bytes(gzip.compress(path.read_bytes()))
    if form == "hdus":
        source = open_fits(path, path.name, whole=False)
    sample = read_desi(source, targets=TARGETS[::-1])
    assert sample["name"].values.tolist() == TARGETS[::-1].astype(str).tolist()
    assert dict(sample.sizes) == {"galaxy": 2, "wavelength": 790} and "redshift" not in sample
    np.testing.assert_allclose(sample["observed_wavelength"].values[[0, 300, -1]], [3600, 3840, 4231.2])
    flux, ivar, mask = (sample[name].values for name in ("flux", "ivar", "mask"))
    if form == "spectra":  # two rows each: the spoiled one is the first of four
        assert flux[:, 5] == pytest.approx([3.5, 1.5]) and ivar[:, 5] == pytest.approx([8, 8])
        assert flux[1, 10:13] == pytest.approx([2, 2, 2]) and not mask[:, :650].any()
        return
    gap = list(range(650, 700))  # between R and Z
    assert mask[1].nonzero()[0].tolist() == [10, 11, 12, *gap] and mask[0].nonzero()[0].tolist() == gap
    assert (ivar[mask] == 0).all() and (flux[mask] == 0).all()
    assert flux[:, 5] == pytest.approx([2, 1]) and flux[:, 400] == pytest.approx([2.5, 1.5])
    assert flux[:, 260] == pytest.approx([2.25, 1.5]) and ivar[:, 260] == pytest.approx([8, 4])
    assert flux[0, 270] == pytest.approx(2 + 0.5 * 12 / 16)
    sigma = sample["lsf_sigma"].values / KM_S * sample["observed_wavelength"].values / 0.8
    seen = np.isfinite(sigma[0])
    assert seen[1:649].all() and not seen[650:700].any()
    np.testing.assert_allclose(sigma[0, seen], WIDTH[:790][seen], rtol=1e-4)  # rows: columns differ by 1e-3
    assert sample["ebv"].values == pytest.approx([0.03, 0.02])


def test_redshifts_are_matched_by_target_and_what_is_not_known_is_told(tmp_path):
    path = write_desi(tmp_path / "coadd-main-dark-1.fits", OBJTYPE=["TGT", "SKY"], EBV=[0.0, 0.0])
    other = write_redrock(tmp_path / "other.fits")
    sample = read_desi(path, redshifts=other)
    assert sample["redshift"].values.tolist() == [0.1, 0.2] and sample["zwarn"].values.tolist() == [0, 4]
    assert (
        "1 with ZWARN set" in sample.attrs["history"]
        and "fibres on the sky among them: 1" in sample.attrs["history"]
    )
    assert "ebv" not in sample and "E(B-V)" in sample.attrs["history"]
    write_redrock(tmp_path / "redrock-main-dark-1.fits", TARGETS[1:], (0.3,), (0,))
    sample = read_desi(path)
    assert np.isnan(sample["redshift"][0]) and sample["redshift"][1] == 0.3
    assert sample["zwarn"].values.tolist() == [-1, 0] and sample["spectral_class"].values.tolist() == [
        "",
        "GALAXY",
    ]
    assert read_spectrum(path, target=TARGETS[1])["redshift"].item() == 0.3
    with pytest.raises(
        ValueError, match=r"coadd-main-dark-1.fits: is a DESI file with 2 spectra \(396.*target="
    ):
        read_spectrum(path)
    packed = shutil.copy(path, tmp_path / "spectra-main-dark-1.fits.gz")
    assert redrock_beside(packed).name == "redrock-main-dark-1.fits"
    assert (
        redrock_beside(b"SIMPLE") is redrock_beside("https://x.org/y.fits") is redrock_beside(other) is None
    )


def test_targets_without_a_good_pixel_are_counted_in_a_warning(tmp_path):
    def lose(hdus):
        for arm in ARMS:
            hdus[f"{arm}_MASK"].data[1] = 1 << 9
            del hdus[f"{arm}_RESOLUTION"]

    path = write_desi(tmp_path / "coadd.fits", change=lose)
    with pytest.warns(SurveyWarning, match="1 targets have no good pixel.*39627866878514741"):
        sample = read_desi(path)
    assert np.isnan(sample["lsf_sigma"]).all() and "no resolution matrices" in sample.attrs["history"]


def no_fibermap(hdus):
    del hdus["FIBERMAP"]


def other_grid(hdus):
    hdus["R_WAVELENGTH"].data = hdus["R_WAVELENGTH"].data + 0.3


def short(hdus):
    hdus["Z_IVAR"] = fits.ImageHDU(np.ones((1, 90), "f4"), name="Z_IVAR")


def counts(hdus):
    hdus["B_FLUX"].header["BUNIT"] = "electron / Angstrom"


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ((), {"targets": 5}, "holds no DESI target 5; its TARGETIDs are 396"),
        (no_fibermap, {}, "is no DESI file"),
        (other_grid, {}, "do not share one grid.*R 3800.3"),
        (short, {}, "Z_IVAR has shape"),
        (counts, {}, "B_FLUX is in electron / Angstrom, which is no flux density"),
        ((), {"redshifts": "coadd.fits"}, "no table with TARGETID and Z"),
        ((), {"redshifts": "twice.fits"}, "2 redshifts of target 396"),
        ((), {"redshifts": "none.fits"}, "no such file"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, change, options, says):
    path = write_desi(tmp_path / "coadd.fits", change=change)
    write_redrock(tmp_path / "twice.fits", np.repeat(TARGETS, 2), np.zeros(4), np.zeros(4, int))
    options = {k: tmp_path / v if k == "redshifts" else v for k, v in options.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
        read_desi(path, **options)
    assert ".fits: " in str(caught.value)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"coadd\.fits: "):
        read_desi(path)


def narrow_lines():
    """A galaxy at z = 0.05 with lines of 60 km/s that DESI blurs by 0.68 Angstrom."""
    wavelength = 3600 + 0.8 * np.arange(7781)
    flux = np.full(wavelength.size, 2.0) + 0.02 * np.random.default_rng(1).standard_normal(wavelength.size)
    for name in ("Hα", "Hβ", "[O III] 5007"):
        centre = LINES[name] * 1.05
        sigma = np.hypot(0.68, centre * 60 / KM_S)
        flux += 200 * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    arrays = {"flux": flux, "ivar": np.full(flux.shape, 0.02**-2), "mask": np.zeros(flux.shape, bool)}
    arrays = {name: values[None] for name, values in arrays.items()} | {
        "lsf_sigma": (0.68 / wavelength * KM_S)[None]
    }
    return build_sample(wavelength, arrays, {"redshift": ([0.05], "")}, ["a"], "DESI", "")


@pytest.mark.parametrize("fit", ["linear", "ppxf"])
def test_fits_take_the_resolution_that_the_survey_measures(fit):
    rest = to_rest_frame(mask_bad_pixels(narrow_lines()))
    linear = fit == "linear"
    out = resample(rest, np.arange(3700, 7200.0) if linear else np.exp(np.arange(8.217, 8.88, 50 / KM_S)))
    assert out["lsf_sigma"].dims == ("galaxy", "wavelength")
    options = {"dispersions": (30, 40, 50, 60, 70, 80)} if linear else {"progress": False, "n_workers": 1}
    table = (measure_lines_linear if linear else fit_lines)(out, **options)
    assert table["gas_dispersion"].item() == pytest.approx(60, abs=2)
    assert table["line_flux"].sel(line="Hα").item() == pytest.approx(200, rel=0.02)


def test_sdss_spectra_are_fitted_with_the_survey_s_mean_curve_as_before():
    rest = to_rest_frame(read_sdss(packaged_spectra()["NGC 3522"]))
    assert "lsf_sigma" in rest and "lsf_sigma" not in resample(rest, np.arange(4000, 7000.0))
