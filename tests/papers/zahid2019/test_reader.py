"""One line from a file to a metallicity; whatever is not to be trusted says why."""

import numpy as np
import pytest
import torch

from spectool.continuum import ContinuumBasis, normalize_continuum
from spectool.models.chunked import ChunkedEnsemble
from spectool.models.outliers import BIN, BIN_STATISTICS, score_bin_outliers
from spectool.papers.zahid2019 import reader
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.reader import predict as predict_metallicity
from spectool.papers.zahid2019.sample import make_heldout, make_sample, training_table
from spectool.surveys.spectrograph import observe_sdss
from spectool.synth.agn import add_agn, draw_agn
from spectool.synth.broadening import smooth_ssps
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize
from tests.samples import make_spectra
from tools.make.references import fit_bin_outliers


@pytest.fixture(scope="module")
def ensemble(grid):
    """The shipped networks, with a reference for outliers made here: small, but by the present recipe."""
    rng = np.random.default_rng(3)
    table = training_table()
    table = table.isel(galaxy=rng.choice(table.sizes["galaxy"], 3000, replace=False))
    usual = make_heldout(1500, seed=4, grid=grid)["flux"].values
    sigma = (1 / np.exp(rng.uniform(np.log(5), np.log(40), len(usual)))).astype("f4")
    noisy = usual + sigma[:, None] * rng.standard_normal(usual.shape, dtype="f4")
    shipped = load_ensemble()
    reference = fit_bin_outliers(make_sample(grid, table=table)["flux"].values, noisy, sigma)
    return ChunkedEnsemble(shipped.members, shipped.arrays | reference)


@pytest.fixture(scope="module")
def heldout(grid):
    return make_heldout(600, seed=77, grid=grid)


def see(heldout, sn, seed=1):
    x = heldout["flux"]
    noise = np.random.default_rng(seed).standard_normal(x.shape, dtype="f4") / sn
    return heldout.assign(flux=x + noise, sigma=0 * x + 1 / sn)


@pytest.mark.parametrize(("sn", "scatter"), [(50, 0.1), (20, 0.15), (10, 0.25)])
def test_metallicities_of_heldout_histories_come_out_with_their_errors(ensemble, heldout, sn, scatter):
    found = predict_metallicity(see(heldout, sn), networks=ensemble)
    off = (found["log_z_predicted"] - heldout["log_z_lw"]).values
    assert np.std(off) < 2 * scatter and abs(np.median(off)) < 0.05
    assert np.mean(np.abs(off) < found["log_z_error"].values) == pytest.approx(0.68, abs=0.08)
    assert found["outlier"].values.mean() < 0.05
    np.testing.assert_array_equal(found["log_z_lw"], heldout["log_z_lw"])


def test_one_line_for_a_file_and_an_answer_for_any_spectrum(ensemble, packaged, monkeypatch):
    found = predict_metallicity(packaged.isel(galaxy=[0]))
    assert found["log_z_predicted"].values[0] == pytest.approx(0.0, abs=0.25)
    assert 0.02 < found["log_z_error"].values[0] < 0.4
    monkeypatch.setattr(reader, "load", lambda: ensemble)
    predictor = reader.make_predictor()
    result = predictor.predict(predictor.prepare(packaged))
    assert result["label"].values[0].startswith("log Z/Zsun") and result["unit"].values[0] == "dex"
    wanted = predict_metallicity(packaged, networks=ensemble)
    np.testing.assert_allclose(result["value"].values[:, 0], wanted["log_z_predicted"], rtol=1e-6)


def score_bins(ensemble, x, sigma, bad=None):
    noisy = x + sigma * np.random.default_rng(8).standard_normal(x.shape, dtype="f4")
    noisy = torch.from_numpy(noisy if bad is None else np.where(bad, 0, noisy)).float()
    bad = None if bad is None else torch.from_numpy(bad)
    return score_bin_outliers(ensemble.arrays, noisy, torch.full((len(x), 1), sigma**2), bad)


def test_ordinary_spectra_pass_at_any_noise_with_pixels_missing(ensemble, heldout, rng):
    x = heldout["flux"].values
    for sigma in (0.2, 0.1, 0.05, 0.02, 0.0):
        assert (score_bins(ensemble, x, sigma)["score"] > 2).mean() < 0.04
    bad = rng.random(x.shape) < 0.02
    bad[:, 600:640] = True
    assert (score_bins(ensemble, x, 0.02, bad)["score"] > 2).mean() < 0.04


def test_an_unmasked_line_and_a_star_with_molecular_bands_are_flagged(ensemble, heldout):
    """TiO bands of an M star, sharp to the red."""
    basis = ContinuumBasis.optical()
    wavelength = basis.kept_wavelength
    line = 4.0 / (np.sqrt(2 * np.pi) * 2.4) * np.exp(-0.5 * ((wavelength - 5412.0) / 2.4) ** 2)
    result = score_bins(ensemble, heldout["flux"].values + line, 0.04)
    assert (result["score"] > 2).mean() > 0.9
    assert (result["which"] == BIN_STATISTICS.index("excess")).mean() > 0.9
    where = wavelength[np.minimum(result["pixel"], len(wavelength) - 1)]
    assert (np.abs(where - 5412) < 2 * BIN).mean() > 0.9
    star = (wavelength / 6000) ** 3
    for head in (4761, 4954, 5167, 5448, 5862, 6159, 6651, 7053):
        star = star * np.where(wavelength > head, 1 - 0.5 * np.exp(-(wavelength - head) / 80), 1)
    result = score_bins(ensemble, normalize_continuum(star[None], None, basis)[0], 0.04)
    assert result["score"][0] > 2 and result["chi2"][0] > 3


@pytest.fixture(scope="module")
def raw(grid):
    """Star-forming galaxies of the mock at z = 0.08, seen by SDSS at high S/N."""
    galaxies = draw_population(200, grid_age=grid.age, seed=3, redshift_range=(0.07, 0.09))
    blue = ~galaxies["is_quiescent"].values & (galaxies["log_mass"].values > 9.5)
    galaxies = galaxies.isel(galaxy=np.flatnonzero(blue)[:12])
    return galaxies.assign(spectral_class=("galaxy", np.full(12, "AGN")))


def observe(galaxies, grid, **options):
    sample = synthesize(galaxies, grid, wavelength=np.arange(3400.0, 9000.0), keep_lines=True, progress=False)
    if "agn_type" in sample:
        sample = add_agn(sample, fibre_fraction=0.3)
    bare = sample.drop_dims(["line", "age"], errors="ignore")
    return observe_sdss(bare, seed=4, exposure=4e4, **options)


def test_galaxies_pass_and_quasars_wrong_redshifts_and_stars_do_not(raw, grid, ensemble, monkeypatch):
    galaxies = predict_metallicity(observe(raw, grid), networks=ensemble)
    assert galaxies["outlier"].values.mean() <= 0.25
    monkeypatch.setattr("spectool.synth.agn.BROAD_SHARE", 1.0)
    nuclei = draw_agn(raw, seed=1)
    nuclei["agn_log_broad"].values[:] = 10.0
    nuclei["agn_fwhm"].values[:] = 5000.0
    quasars = predict_metallicity(observe(nuclei, grid), networks=ensemble)
    assert quasars["outlier"].values.mean() >= 0.9
    reasons = quasars["reason"].values[quasars["outlier"].values]
    assert all("nucleus" in reason or "components" in reason for reason in reasons)
    sample = observe(raw, grid)
    wrong = sample.assign(redshift=sample["redshift"] + 0.03)
    assert predict_metallicity(wrong, networks=ensemble)["outlier"].values.mean() > 0.8
    star = sample.isel(galaxy=[0]).assign(redshift=("galaxy", [0.0002]))
    star = star.assign_coords(observed_wavelength=sample["observed_wavelength"] / 1.05)
    assert "a star" in predict_metallicity(star, networks=ensemble)["reason"].values[0]


def test_metallicities_beyond_the_training_spectra_are_limits(grid, ensemble):
    """5 and 0.005 Zsun, where training ends at 2.5 and 0.01; populations of 3-12 Gyr."""
    basis = ContinuumBasis.optical()
    old = (grid.age > 3e9) & (grid.age < 12e9)
    ssps = smooth_ssps(grid, basis.kept_wavelength, 330.0)
    for row, side in ((-1, 1), (0, -1)):
        x, _ = normalize_continuum(ssps[row][old], None, basis)
        prepared = make_spectra(x, basis.kept_wavelength)
        found = predict_metallicity(prepared, networks=ensemble)
        assert (side * found["log_z_predicted"].values > 0.2).all()
        assert found["out_of_range"].values.mean() > 0.5
