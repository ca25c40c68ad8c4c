"""What the line-flux dashboard takes from the paper: the table, and the real steps behind brushed galaxies."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.classes import log_flux
from spectool.models.denoise import denoise, fit_pca
from spectool.papers.scourfield2023 import rebuild
from spectool.papers.scourfield2023 import sample as denoising
from spectool.papers.scourfield2023.line import Pipeline
from spectool.papers.scourfield2023.sample import open_lines

CANDIDATES = [17, 4, 256, 90, 33, 1001]


@pytest.fixture(scope="module")
def product():
    return open_lines()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.drop_vars("latent"), "lacks latent"),
        (lambda p: p.transpose("galaxy", ...), "lacks line_flux, line_flux_error"),
        (lambda p: p.drop_sel(line="Hβ"), "lacks the line Hβ"),
        (lambda p: p.drop_sel(source="original"), "lacks the source 'original'"),
    ],
    ids=["variable", "order of dims", "line", "original"],
)
def test_a_table_that_lacks_something_says_what(product, tmp_path, spoil, message):
    path = tmp_path / "lines.nc"
    spoil(product.isel(galaxy=slice(5))).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=f"{message}.*scourfield2023_lines"):
        open_lines(path)


def test_a_missing_table_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nc .*tools\.make\.scourfield2023_lines"):
        open_lines(tmp_path / "nowhere.nc")


def test_a_flux_and_its_error_are_in_dex_and_what_has_no_logarithm_has_none(product):
    lines = product.sel(source="VAE 6")
    value, error = log_flux(lines, "Hβ", "integrated")
    flux, sigma = (lines[n].sel(line="Hβ").values for n in ("line_flux", "line_flux_error"))
    good = flux > 0
    assert 0 < good.sum() < good.size
    np.testing.assert_allclose(10 ** value[good], flux[good], rtol=1e-6)
    np.testing.assert_allclose(error[good], sigma[good] / flux[good] * np.log10(np.e), rtol=1e-6)
    assert np.isnan(value[~good]).all() and np.isnan(error[~good]).all()


@pytest.fixture(scope="module")
def originals():
    return denoising.normalize_total(rebuild(CANDIDATES), constant=16.5)


@pytest.fixture(scope="module")
def pipeline(originals):
    """The shipped steps, but with a small PCA and the constant of this test."""
    model = fit_pca(originals["flux"].values, originals["wavelength"].values, n_latent=4)

    class Small(Pipeline):
        def rebuild(self, candidates):
            return originals.isel(galaxy=[CANDIDATES.index(c) for c in candidates])

        def denoise(self, kind, size, sample):
            return denoise(model.use(size), sample)

    return Small(xr.Dataset({"candidate": ("galaxy", CANDIDATES)}))


def test_the_noise_of_a_galaxy_is_that_of_the_test_spectra(originals, pipeline):
    whole = denoising.add_noise(originals, seed=denoising.TEST_NOISE_SEED)
    some = [90, 17]
    spectra = pipeline.run(pipeline.prepare(some), "PCA", 2, denoising.SIGMA)
    rows = [CANDIDATES.index(c) for c in some]
    good = ~whole["mask"].values[rows]
    np.testing.assert_allclose(spectra["noisy"].values[good], whole["noisy"].values[rows][good], rtol=1e-5)
    assert np.isnan(spectra["noisy"].values[~good]).all()
    assert np.isfinite(spectra["denoised"].values).all()


def test_a_fit_follows_the_spectrum_that_it_fits(pipeline):
    spectra = pipeline.run(pipeline.prepare(CANDIDATES[:3]), "PCA", 4, 0.005)
    residual = (spectra["fit"] - spectra["denoised"]).values
    level = np.nanmedian(spectra["denoised"].values, axis=1)
    assert (np.nanmedian(np.abs(residual), axis=1) < 0.05 * level).all()
    assert np.isfinite(spectra["line_peak"].sel(line="Hα").values).all()
    assert spectra["latent"].shape == (3, 4)


def test_lines_of_a_spectrum_without_noise_are_those_of_the_galaxy(originals, pipeline):
    truth = originals["true_line_flux"].sel(line="Hα").values / originals["norm"].values
    fit = pipeline.measure(originals[["flux", "ivar", "mask"]])["line_flux"].sel(line="Hα").values
    strong = truth > 0.1 * truth.max()
    np.testing.assert_allclose(fit[strong], truth[strong], rtol=0.15)


@pytest.mark.parametrize("kind", ["PCA", "AE", "VAE"])
def test_spectra_made_anew_are_those_of_the_shipped_table(product, kind):
    flux, error = (
        product[n].sel(source="original", line="Hα").values for n in ("line_flux", "line_flux_error")
    )
    strong = np.flatnonzero(flux > 30 * error)
    at = strong[:: strong.size // 8][:8]
    pipeline = Pipeline(product)
    originals = pipeline.prepare(product["candidate"].values[at])
    spectra = pipeline.run(originals, kind, 4, denoising.SIGMA)
    stored = product["latent"].sel(model=f"{kind} 4").values[at, :4]
    # The table keeps nine bits of a number.
    np.testing.assert_allclose(spectra["latent"].values, stored, rtol=2e-3, atol=2e-3)
    peak = spectra["line_peak"].sel(line="Hα").values
    table = product["line_peak"].sel(source=f"{kind} 4", line="Hα").values[at]
    # The table's fit is pPXF's, the one here linear.
    assert np.mean(np.abs(peak - table) < 0.05 * table) >= 0.75
    own = pipeline.measure(originals[["flux", "ivar", "mask"]])["line_flux"].sel(line="Hα").values
    np.testing.assert_allclose(own, flux[at], rtol=0.05)
