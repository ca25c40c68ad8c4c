"""The real steps behind brushed galaxies, on a few of them and a model made here."""

import numpy as np
import pytest
import xarray as xr

from spectool.explore import line_data as data
from spectool.explore import line_live
from spectool.models.denoise import denoise, fit_pca
from spectool.papers.scourfield2023 import sample as denoising

from .line_fakes import make_pipeline, make_product

CANDIDATES = [17, 4, 256, 90, 33, 1001]
CONSTANT = 16.5


@pytest.fixture(scope="module")
def table():
    return xr.Dataset({"candidate": ("galaxy", CANDIDATES)})


@pytest.fixture(scope="module")
def originals():
    from spectool.papers.scourfield2023.sample import rebuild

    return denoising.normalize_total(rebuild(CANDIDATES), constant=CONSTANT)


@pytest.fixture(scope="module")
def pipeline(table, originals):
    """The shipped pipeline, but with a small PCA and the constant of this test."""

    def rebuild(ids):
        return originals.isel(galaxy=[CANDIDATES.index(c) for c in ids])

    model = fit_pca(originals["flux"].values, originals["wavelength"].values, n_latent=4)
    shipped = line_live.shipped_pipeline(table)
    return line_live.Pipeline(
        rebuild=rebuild,
        noise=shipped.noise,
        denoise=lambda kind, size, sample: denoise(model.use(size), sample),
        measure=shipped.measure,
    )


def test_the_noise_of_a_galaxy_is_that_of_the_test_spectra(table, originals, pipeline):
    whole = denoising.add_noise(originals, seed=denoising.TEST_NOISE_SEED)
    some = [90, 17]
    spectra = pipeline.run(pipeline.prepare(some), "PCA", 2, denoising.SIGMA)
    rows = [CANDIDATES.index(c) for c in some]
    good = ~whole["mask"].values[rows]
    np.testing.assert_allclose(spectra["noisy"].values[good], whole["noisy"].values[rows][good], rtol=1e-5)
    assert np.isnan(spectra["noisy"].values[~good]).all()


def test_a_fit_follows_the_spectrum_that_it_fits(pipeline):
    spectra = pipeline.run(pipeline.prepare(CANDIDATES[:3]), "PCA", 4, 0.005)
    residual = (spectra["fit"] - spectra["denoised"]).values
    level = np.nanmedian(spectra["denoised"].values, axis=1)
    assert (np.nanmedian(np.abs(residual), axis=1) < 0.05 * level).all()
    assert {"line_flux", "line_flux_error", "line_peak", "line_peak_error"} <= set(spectra)
    assert np.isfinite(spectra["line_peak"].sel(line="Hα").values).all()
    assert spectra["latent"].shape == (3, 4)


def test_lines_of_a_spectrum_without_noise_are_those_of_the_galaxy(originals, pipeline):
    truth = originals["true_line_flux"].sel(line="Hα").values / originals["norm"].values
    fit = pipeline.measure(originals[["flux", "ivar", "mask"]])["line_flux"].sel(line="Hα").values
    strong = truth > 0.1 * truth.max()
    np.testing.assert_allclose(fit[strong], truth[strong], rtol=0.15)


def test_masked_pixels_are_gaps_in_what_was_observed_and_not_in_the_prediction():
    product = make_product(20)
    pipeline = make_pipeline(product)
    originals = pipeline.prepare(product["candidate"].values[:2])
    originals["mask"].values[0, 100:120] = True
    spectra = pipeline.run(originals, "VAE", 4, 0.04)
    for name in ("original", "noisy"):
        assert np.isnan(spectra[name].values[0, 100:120]).all()
        assert np.isfinite(spectra[name].values[1]).all()
    assert np.isfinite(spectra["denoised"].values).all()


@pytest.fixture(scope="module")
def shipped():
    """The shipped table, and eight of its galaxies with strong lines."""
    product = data.open_lines()
    strong = np.flatnonzero(data.signal_to_noise(product) > 30)
    return product, strong[:: strong.size // 8][:8]


@pytest.mark.parametrize("kind", data.KINDS)
def test_spectra_made_anew_are_those_of_the_shipped_table(shipped, kind):
    product, at = shipped
    pipeline = line_live.shipped_pipeline(product)
    originals = pipeline.prepare(product["candidate"].values[at])
    spectra = pipeline.run(originals, kind, 4, denoising.SIGMA)
    stored = product["latent"].sel(model=f"{kind} 4").values[at, :4]
    # The table keeps nine bits of a number.
    np.testing.assert_allclose(spectra["latent"].values, stored, rtol=2e-3, atol=2e-3)
    peak = spectra["line_peak"].sel(line="Hα").values
    table = product["line_peak"].sel(source=f"{kind} 4", line="Hα").values[at]
    # The table's fit is pPXF's, the one here linear.
    assert np.mean(np.abs(peak - table) < 0.05 * table) >= 0.75
    observed = product["line_flux"].sel(source="original", line="Hα").values[at]
    own = pipeline.measure(originals[["flux", "ivar", "mask"]])["line_flux"].sel(line="Hα").values
    np.testing.assert_allclose(own, observed, rtol=0.05)
