"""The shipped de-noisers on real SDSS spectra: degraded with the paper's noise, and compared with what was seen."""

import numpy as np
import pytest

from spectool.measure.lines_linear import measure_lines_linear
from spectool.models.denoise import denoise
from spectool.models.outliers import score_outliers
from spectool.models.store import load_model
from spectool.papers.scourfield2023 import sample as denoising
from spectool.papers.scourfield2023.sample import read_products
from spectool.prepare import resample, to_rest_frame


@pytest.fixture(scope="module")
def galaxies(sdss_table, sdss_galaxies):
    """Star-forming galaxies with noise added, on the paper's bins, and their observed lines."""
    observed = sdss_galaxies(np.flatnonzero(sdss_table["forming"] & sdss_table["z"].between(0.004, 0.18)))
    rest = resample(to_rest_frame(observed.drop_vars("velocity_dispersion")), denoising.rest_wavelength())
    constant = read_products().attrs["constant"]
    sample = denoising.normalize_total(rest, constant=constant, min_fraction=0.8)
    return denoising.add_noise(sample, seed=8), measure_lines_linear(sample)


def difference(sample, said):
    """Rms difference from what was observed, over the flux, of each galaxy."""
    off = np.where(sample["mask"], np.nan, said["flux"].values - sample["flux"].values)
    return np.nanstd(off, axis=1) / np.median(sample["flux"].values, axis=1)


def test_a_network_that_saw_mocks_alone_de_noises_real_galaxies(galaxies):
    sample, observed = galaxies
    model, info = load_model("scourfield2023_vae6")
    said = denoise(model, sample, errors=info.arrays)
    smooth = denoise(load_model("scourfield2023_pca")[0].use(6), sample)
    noisy = sample.assign(flux=sample["noisy"])
    ours, pca, none = (np.median(difference(sample, s)) for s in (said, smooth, noisy))
    assert ours < 0.1 < none and ours < 0.7 * pca
    assert score_outliers(info.arrays, sample, said)["is_outlier"].mean() < 0.05
    lines = measure_lines_linear(said)
    true, guess = (t["line_flux"].sel(line="Hα").values for t in (observed, lines))
    seen = observed["line_sn"].sel(line="Hα").values > 3
    found = seen & (guess > 0)
    assert found.sum() > 0.9 * seen.sum() > 100
    # The paper's scatter of Halpha in filled bins is 0.29 dex.
    assert np.std(np.log10(guess[found] / true[found])) < 0.4
