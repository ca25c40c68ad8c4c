"""Spectra of candidates are as stated; the shipped selections are what the paper asks for."""

import json

import numpy as np
import pytest
import xarray as xr

from spectool.measure.classes import CLASSES, classify
from spectool.measure.lines_linear import measure_lines_linear
from spectool.papers import candidates
from spectool.papers.scourfield2023 import sample as denoising
from spectool.spectra import AB_CGS, ANGSTROM_S
from spectool.surveys.spectrograph import luminosity_to_flux
from tests.samples import make_spectra

PAPER = {"emission line galaxy": 50948, "absorption galaxy": 20771, "quiescent galaxy": 12204}
PAPER |= {"narrow-line AGN": 2968, "broad-line AGN": 17}


@pytest.fixture(scope="module")
def some():
    return denoising.rebuild([5, 4097, 7, 5000, 3])


def test_spectra_are_those_of_the_paper(some):
    assert some["flux"].shape == (5, 825)
    np.testing.assert_allclose(some["wavelength"], denoising.rest_wavelength())
    assert (some["redshift"] > 0.024).all() and (some["redshift"] < 0.05).all()
    pull = ((some["flux"] - some["truth"]) * np.sqrt(some["ivar"])).values[~some["mask"].values]
    assert pull.std() == pytest.approx(1, abs=0.06) and pull.mean() == pytest.approx(0, abs=0.07)


def test_pixels_before_sdss_begins_are_masked_but_true(some):
    """3700 A is before 3800 A observed only at z < 0.027; the truth is known there all the same."""
    block = denoising.draw_block(0)
    near = int(np.argmin(block["redshift"].values))
    sample = denoising.rebuild([near])
    begins = sample["wavelength"].values * (1 + sample["redshift"].values[0])
    masked, first = sample["mask"].values[0], denoising.FIRST_PIXEL
    assert masked[begins < first - 2].all() and not masked[begins > first + 3].any()
    assert 1 <= masked.sum() <= 4
    assert (sample["truth"].values[0] > 0).all() and (sample["ivar"].values[0][masked] == 0).all()


def test_true_lines_are_the_light_that_the_spectra_hold():
    """A line far from others, against the integral of the noise-free spectrum above its surroundings."""
    block = denoising.draw_block(0)
    strong = np.flatnonzero(block["population_class"].values == "star-forming")[:40]
    sample = denoising.rebuild(block["candidate"].values[strong])
    wavelength, width = sample["wavelength"].values, np.gradient(sample["wavelength"].values)
    near = np.abs(wavelength / 5008.24 - 1) < 0.006
    side = (np.abs(wavelength / 5008.24 - 1) > 0.006) & (np.abs(wavelength / 5050 - 1) < 0.012)
    truth = sample["truth"].values.astype(float)
    area = ((truth[:, near] - np.median(truth[:, side], axis=1)[:, None]) * width[near]).sum(axis=1)
    stated = sample["true_line_flux"].sel(line="[O III] 5007").values
    clear = stated / np.median(truth[:, side], axis=1) > 15
    assert clear.sum() > 4
    np.testing.assert_allclose(area[clear], stated[clear], rtol=0.08)


def test_magnitudes_are_ab():
    """A galaxy of constant f_nu: 3631 Jy at its distance is magnitude 0."""
    wavelength = np.arange(4000.0, 8000.0, 2.0)
    redshift = np.array([0.03, 0.045])
    observed = wavelength * (1 + redshift[:, None])
    flux = AB_CGS * ANGSTROM_S / observed**2 / 1e-17 / luminosity_to_flux(redshift)[:, None]
    sample = make_spectra(flux, wavelength, redshift=redshift)
    np.testing.assert_allclose(candidates.r_magnitude(sample), 0, atol=2e-3)
    sample["flux"] = sample["flux"] * 1e-6
    np.testing.assert_allclose(candidates.r_magnitude(sample), 15, atol=2e-3)


@pytest.mark.parametrize("name", ["uniform", "star-forming", "null"])
def test_selections_are_balanced_and_split_as_in_the_paper(name):
    selection = denoising.read_products(name)
    ids, split = selection["candidate"].values, selection["split"].values
    assert np.unique(ids).size == ids.size
    assert (split == "test").sum() == round(0.2 * ids.size)
    low, high = (0.2, 3.4) if name == "uniform" else (1.4, 3.2)
    flux, edges = np.log10(selection["h_alpha_flux"].values), np.linspace(low, high, 11)
    np.testing.assert_array_equal(np.digitize(flux.astype(float), edges) - 1, selection["h_alpha_bin"])
    per_bin = np.bincount(selection["h_alpha_bin"].values, minlength=10)
    if name == "uniform":
        assert (per_bin == 1000).all()
    else:
        assert per_bin[9] <= 778 and (per_bin <= 1000).all() and ids.size > 9000
    in_test = np.bincount(selection["h_alpha_bin"].values[split == "test"], minlength=10)
    assert (np.abs(in_test - 0.2 * per_bin) < 5 * np.sqrt(0.2 * per_bin)).all()
    counts, kinds = json.loads(selection.attrs["counts"]), selection["spectral_class"].values
    assert {k: sum(v) for k, v in counts.items()} == {k: int((kinds == k).sum()) for k in CLASSES}
    assert json.loads(selection.attrs["proportions"]) == PAPER


def test_the_null_samples_recipe_differs_in_the_population_only():
    samples = [denoising.read_products(name).attrs for name in ("uniform", "star-forming", "null")]
    forming, null = (json.loads(attrs["recipe"]) for attrs in samples[1:])
    assert forming.pop("metallicity_sfr") and not null.pop("metallicity_sfr")
    assert forming == null and len({attrs["constant"] for attrs in samples}) == 1


@pytest.fixture(scope="module")
def selected():
    """Those galaxies of the uniform selection that lie in the first two blocks: quick to rebuild."""
    selection = denoising.read_products("uniform")
    rows = np.flatnonzero(selection["candidate"].values < 2 * candidates.BLOCK)
    selection = selection.isel(galaxy=rows)
    sample = denoising.rebuild(selection["candidate"].values)
    sample = denoising.normalize_total(sample, constant=selection.attrs["constant"])
    return sample.assign({n: selection[n] for n in ("h_alpha_flux", "spectral_class", "h_alpha_bin")})


def test_selected_spectra_are_normalised_and_measured_as_stated(selected):
    physical = selected.drop_dims("line").drop_vars("spectral_class")
    physical["flux"] = physical["flux"] * physical["norm"]
    physical["ivar"] = physical["ivar"] / physical["norm"] ** 2
    again = classify(measure_lines_linear(physical))
    flux, error = (again[n].sel(line="Hα").values for n in ("line_flux", "line_flux_error"))
    assert (np.abs(flux - selected["h_alpha_flux"].values) < 0.3 * error + 1e-4).mean() > 0.95
    assert (again["spectral_class"].values == selected["spectral_class"].values).mean() > 0.95
    share_of_signal = float(np.median(selected["truth"])) / denoising.SIGMA
    assert 0.6 < share_of_signal < 1.3  # the noise to be added is about as large as the light of a pixel


def test_total_variance_of_the_selection_is_that_of_the_tables(selected):
    """0.060 without noise and 1.38 with; some 200 galaxies, of which a few have strong lines, scatter by a fifth."""
    assert denoising.total_variance(selected["truth"]) == pytest.approx(0.060, rel=0.4)
    noisy = denoising.add_noise(selected, seed=denoising.TEST_NOISE_SEED)
    assert denoising.total_variance(noisy["noisy"]) == pytest.approx(1.38, rel=0.04)


def test_a_sample_is_rebuilt_in_the_selections_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    sample = denoising.make_sample(split="test", n=3, progress=False)
    selection = denoising.read_products("uniform")
    test = selection["candidate"].values[selection["split"].values == "test"]
    assert sample["candidate"].values.tolist() == test[:3].tolist()
    assert (sample["split"] == "test").all() and sample.attrs["constant"] == selection.attrs["constant"]
    np.testing.assert_allclose(sample["flux"].sum("wavelength"), sample.attrs["constant"], rtol=1e-4)


def test_samples_are_kept_on_disk(tmp_path, monkeypatch):
    selection = denoising.read_products("uniform").isel(galaxy=slice(4))
    monkeypatch.setattr(denoising, "read_products", lambda sample: selection)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path)
    first = denoising.make_sample(progress=False)
    assert len(list(tmp_path.rglob("*.nc"))) == 1
    monkeypatch.setattr(denoising, "rebuild", None)
    xr.testing.assert_identical(first, denoising.make_sample(progress=False))
    assert denoising.make_sample(n=2, progress=False).sizes["galaxy"] == 2
