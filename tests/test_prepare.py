"""Preparation keeps flux, variance and masks right; bad spectra are masked and counted."""

import numpy as np
import pytest
import xarray as xr

from spectool import prepare
from spectool.spectra import extinction_curve, pixel_edges, sps_wavelength
from tests.refusals import refused
from tests.samples import make_spectra

LOG_GRID = 10 ** np.arange(3.58, 3.96, 1e-4)


def make_sample(rng, n=4, redshift=0.05, noise=0.1, wavelength=LOG_GRID):
    smooth = 10 + 3 * np.sin(wavelength / 300) + np.exp(-0.5 * ((wavelength - 5500) / 8) ** 2) * 20
    flux = smooth * rng.uniform(0.5, 2, (n, 1)) + rng.normal(0, noise, (n, wavelength.size))
    columns = {"ivar": np.float32(noise**-2), "mask": False, "redshift": redshift}
    return make_spectra(flux.astype("f4"), wavelength, frame="observed_wavelength", **columns)


def test_rest_frame_keeps_line_flux_and_signal_to_noise(rng):
    sample = make_sample(rng, redshift=0.3)
    rest = prepare.to_rest_frame(sample)
    widths = np.diff([pixel_edges(row) for row in rest["rest_wavelength"].values], axis=1)
    got = (rest["flux"].values * widths).sum(axis=1)
    expected = (sample["flux"].values * np.diff(pixel_edges(LOG_GRID))).sum(axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    snr = [s["flux"].values * np.sqrt(s["ivar"].values) for s in (sample, rest)]
    np.testing.assert_allclose(snr[0], snr[1], rtol=1e-5)


@pytest.mark.parametrize("step", [0.7, 3.3])
def test_resampled_variance_is_that_of_resampled_noise(rng, step):
    sample = make_sample(rng, n=2000, noise=1.0, wavelength=LOG_GRID[2000:2200])
    sample["flux"].values[:] = rng.normal(size=sample["flux"].shape)
    centre = LOG_GRID[2100]
    out = prepare.resample(sample, np.arange(centre - 30, centre + 30, step))
    measured = out["flux"].values.var(axis=0)
    # 2000 draws: the variance of one pixel is known to 3.2%, their mean better.
    np.testing.assert_allclose(measured, 1 / out["ivar"].values[0], rtol=0.16)
    np.testing.assert_allclose(np.mean(measured * out["ivar"].values[0]), 1, atol=0.02)


def test_pixels_covered_by_less_than_half_are_masked(rng):
    sample = make_sample(rng, n=1)
    new = np.arange(5000.0, 5200.0, 10.0)
    inside = (LOG_GRID > 5095) & (LOG_GRID < 5101)
    sample["mask"].values[:, inside] = True
    out = prepare.resample(sample, new)
    assert new[out["mask"].values[0]].tolist() == [5100.0]
    assert out["ivar"].values[0, 10] == 0 and out["flux"].values[0, 10] == 0
    sample["mask"].values[:] = False
    sample["mask"].values[:, inside & (LOG_GRID < 5098)] = True
    assert not prepare.resample(sample, new)["mask"].values.any()


@pytest.mark.parametrize("law", ["F99", "G23"])
def test_extinction_round_trip_and_refusals(rng, law):
    assert extinction_curve(np.array([5470.0]), law=law)[0] == pytest.approx(3.1, rel=0.02)
    sample, ebv = make_sample(rng), np.array([0.0, 0.02, 0.1, 0.4])
    screen = 10 ** (-0.4 * ebv[:, None] * extinction_curve(LOG_GRID, law=law))
    seen = sample.assign(flux=sample["flux"] * screen, ivar=sample["ivar"] / screen**2)
    back = prepare.correct_extinction(seen, ebv=ebv, law=law)
    np.testing.assert_allclose(back["flux"], sample["flux"], rtol=1e-5)
    np.testing.assert_allclose(back["ivar"], sample["ivar"], rtol=1e-5)
    refused("corrected already", prepare.correct_extinction, back, ebv=ebv)
    refused("ebv=0", prepare.correct_extinction, sample, ebv=None)
    refused("F99, G23", prepare.correct_extinction, sample, ebv=0.1, law="CCM")
    for wrong in (-0.1, np.nan):
        refused("must be|galaxy 0", prepare.correct_extinction, sample, ebv=wrong)


def test_sky_lines_and_bad_pixels_are_masked_and_counted(rng):
    out = prepare.mask_sky_lines(prepare.mask_bad_pixels(make_sample(rng)))
    centre, half_width = np.array(list(prepare.SKY_LINES.values())).T
    near = (np.abs(LOG_GRID[:, None] - centre) <= half_width).any(axis=1)
    np.testing.assert_array_equal(out["mask"].values[0], near)
    refused("before to_rest_frame", prepare.mask_sky_lines, prepare.to_rest_frame(out))
    sample = make_sample(rng)
    sample["flux"].values[0, :7] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan, np.nan]
    sample["ivar"].values[1] = 0
    sample["ivar"].values[2, 3] = np.nan
    with pytest.warns(prepare.PrepareWarning, match=r"1 spectrum is masked out: no good pixel.*number 1"):
        out = prepare.mask_bad_pixels(sample)
    assert out["mask"].values.sum(axis=1).tolist() == [7, LOG_GRID.size, 1, 0]
    assert np.isfinite(out["flux"].values).all() and np.isfinite(out["ivar"].values).all()
    assert "7 with flux not finite" in prepare.history(out)[-1]
    assert np.isnan(sample["flux"].values[0, 0]), "the input is left alone"


def test_medians_are_one_and_the_models_own_pixels_are_not_resampled(rng):
    out = prepare.prepare_spectra(make_sample(rng))
    np.testing.assert_array_equal(out["wavelength"], sps_wavelength())
    inside = (out["wavelength"] >= 5000) & (out["wavelength"] <= 5500)
    medians = np.nanmedian(np.where(out["mask"], np.nan, out["flux"])[:, inside.values], axis=1)
    np.testing.assert_allclose(medians, 1, rtol=1e-6)
    assert out["flux"].attrs["units"] == "" and (out["norm"] > 0).all()
    assert "not known" in "".join(prepare.history(out))
    flux = ("galaxy", "wavelength"), rng.uniform(1, 2, (3, 4582)), {"units": "Lsun / Angstrom"}
    out = prepare.prepare_spectra(xr.Dataset({"flux": flux}, coords={"wavelength": sps_wavelength()}))
    assert not out["mask"].values.any()
    np.testing.assert_allclose(out["flux"] * out["norm"], flux[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("redshift", "reason"),
    # At 0.9 the spectrum ends at 4798 A in its rest frame.
    [(0.9, "5000-5500 A"), (-0.3, "redshift"), (np.nan, "redshift"), (np.inf, "redshift")],
)
def test_a_spectrum_that_cannot_be_used_is_masked_and_counted(rng, redshift, reason):
    sample = make_sample(rng, n=3)
    sample["redshift"].values[1] = redshift
    with pytest.warns(prepare.PrepareWarning, match=f"{reason}.*number 1"):
        out = prepare.prepare_spectra(sample)
    assert out["mask"].values.all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(out["flux"].values).all() and np.isnan(out["norm"].values[1])


def test_range_that_misses_the_model_is_masked_and_missing_columns_are_refused(rng):
    sample = make_sample(rng, n=1, wavelength=np.linspace(15000.0, 20000.0, 500), redshift=0.0)
    with pytest.warns(prepare.PrepareWarning, match="no good pixel within 1006-9990 A"):
        out = prepare.prepare_spectra(sample)
    assert out["mask"].values.all()
    sample = make_sample(rng)
    refused("redshift is unknown", prepare.prepare_spectra, sample.drop_vars("redshift"))
    refused("no variable `flux`", prepare.prepare_spectra, sample.drop_vars("flux"))
    refused("no wavelengths", prepare.prepare_spectra, sample.drop_vars("observed_wavelength"))
    turned = sample.assign_coords(observed_wavelength=("wavelength", LOG_GRID[::-1]))
    refused("must increase", prepare.prepare_spectra, turned)


def test_all_996_real_spectra_are_prepared(sdss_galaxies):
    out = prepare.prepare_spectra(sdss_galaxies(np.arange(996)), ebv=0.0)
    good = out["ivar"].values > 0
    assert np.isfinite(out["flux"].values).all() and np.isfinite(out["ivar"].values).all()
    np.testing.assert_array_equal(good, ~out["mask"].values)
    assert (good.mean(axis=1) > 0.5).all(), "SDSS covers most pixels of the model, which lie in the optical"
    assert not good[:, out["wavelength"].values < 2500].any(), "SDSS has no ultraviolet"
