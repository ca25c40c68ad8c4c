"""What the paper's de-noisers are trained on, how they are scored, and what the shipped ones make of real spectra."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Normal

from spectool.measure.lines_linear import measure_lines_linear
from spectool.models.denoise import DenseAutoencoder, denoise
from spectool.models.outliers import score_outliers
from spectool.models.store import load_model
from spectool.models.training import Step
from spectool.papers.scourfield2023 import network as paper
from spectool.papers.scourfield2023 import sample as denoising
from spectool.papers.scourfield2023.network import make_arrays, make_model, pixel_weights, weighted_loss
from spectool.papers.scourfield2023.sample import read_products
from spectool.prepare import resample, to_rest_frame
from tests.refusals import refused

TINY = {"n_pixels": 30, "n_latent": 2, "widths": (12, 8), "dropout": 0.0}


def step():
    return Step(0.0, 0.0, True, torch.Generator().manual_seed(0))


def test_arrays_are_target_input_and_weights_of_the_original(toy):
    sample = toy(20)
    sample["mask"][3, 5] = True
    sample["mask"][7] = True
    arrays = make_arrays(sample)
    assert {name: a.shape for name, a in arrays.items()} == dict.fromkeys(arrays, (19, 120))
    assert arrays["weight"][3, 5] == 0
    expected = 1 / (1 / sample["ivar"].values[0] + 2e-6)
    np.testing.assert_allclose(arrays["weight"][0], expected, rtol=1e-4)
    np.testing.assert_array_equal(arrays["input"][0], sample["noisy"].values[0])
    refused("no 'noisy'", make_arrays, sample.drop_vars("noisy"))
    sample["mask"][:] = True
    refused("all are masked", make_arrays, sample)


def test_validation_is_drawn_by_seed_and_disjoint():
    train, valid = paper.split_validation(8000, seed=1)
    assert (len(train), len(valid)) == (6000, 2000) and not set(train) & set(valid)
    assert not np.array_equal(valid, paper.split_validation(8000, seed=2)[1])


def test_training_learns(trained):
    history = trained["history"]
    assert history.records[-1]["train_reconstruction"] < 0.3 * history.records[0]["train_reconstruction"]


def test_scores_are_those_of_the_definition(trained):
    model, data = trained["model"], trained["data"]["test"]
    truth = trained["samples"]["test"]["truth"].values
    metrics, arrays = paper.score(model, data, truth)
    off = arrays["predicted"] - data["flux"]
    assert metrics["mse"] == pytest.approx(np.mean(off**2), rel=1e-4)
    assert metrics["mse_truth"] == pytest.approx(np.mean((arrays["predicted"] - truth) ** 2), rel=1e-4)
    assert metrics["loss"] == pytest.approx(0.5 * (data["weight"] * off**2).sum(axis=1).mean(), rel=1e-4)
    assert metrics["loss"] == pytest.approx(arrays["loss"].mean(), rel=1e-5)


def test_desi_noise_is_normalised_known_and_repeatable(toy):
    sample = toy(30).drop_vars(["noisy", "noisy_sigma", "noisy_scale"])
    unit = "1e-17 erg / (Angstrom s cm2)"
    for name in ("norm", "truth_norm"):
        sample[name] = sample[name].assign_attrs(units=unit) * xr.ones_like(sample[name]) * 20
        sample[name].attrs["units"] = unit
    sample["redshift"] = ("galaxy", np.full(30, 0.04), {"units": ""})
    seen = paper.add_desi_noise(sample, seed=3)
    np.testing.assert_allclose(seen["noisy"].sum("wavelength"), sample.attrs["constant"], rtol=1e-4)
    scale = seen["noisy"].sum("wavelength") / seen["flux"].sum("wavelength")
    pull = (seen["noisy"] - seen["flux"] * scale) / seen["noisy_sigma"]
    assert float(pull.std()) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_array_equal(seen["noisy"], paper.add_desi_noise(sample, seed=3)["noisy"])
    np.testing.assert_array_equal(seen["flux"], sample["flux"])


def test_weights_soften_the_best_pixels_and_the_loss_is_the_gaussian_likelihood_of_softened_errors():
    sigma = np.array([[0.0, 0.001, 0.1, np.nan, np.inf, 0.1]])
    mask = np.array([[False, False, False, False, False, True]])
    weight = pixel_weights(sigma, mask)
    np.testing.assert_allclose(weight, [[0, 1 / 3e-6, 1 / 0.010002, 0, 0, 0]], rtol=1e-6)
    rng = np.random.default_rng(0)
    target, predicted = (torch.from_numpy(rng.normal(size=(4, 30))) for _ in range(2))
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (4, 30)))
    weight = torch.from_numpy(pixel_weights(sigma.numpy(), False)).double()
    softened = Normal(target, (sigma**2 + 2e-6).sqrt())
    expected = (softened.log_prob(target) - softened.log_prob(predicted)).sum(dim=1)
    torch.testing.assert_close(paper.weighted_squares(predicted, target, weight), expected, rtol=1e-5, atol=0)


def test_a_vae_adds_the_divergence_and_masked_pixels_do_not_count():
    batch = {"flux": torch.rand(5, 30), "input": torch.rand(5, 30), "weight": torch.ones(5, 30)}
    vae = weighted_loss(DenseAutoencoder(**TINY), batch, step())
    assert vae["loss"] == vae["reconstruction"] + vae["kl"]
    model = DenseAutoencoder(**TINY, variational=False)
    ae, predicted = weighted_loss(model, batch, step()), model(batch["input"])[0]
    assert ae["loss"] == ae["reconstruction"] and "kl" not in ae
    torch.testing.assert_close(ae["loss"], 0.5 * (predicted - batch["flux"]).square().sum(dim=1).mean())
    batch["weight"][:, 7] = 0
    before = weighted_loss(model, batch, step())["loss"]
    batch["flux"][:, 7] = 1e3
    assert weighted_loss(model, batch, step())["loss"] == before


def linears(part):
    return [layer for layer in part if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("kind", "table", "coded"), [("ae", paper.TABLE4, 1), ("vae", paper.TABLE5, 2)])
def test_layers_are_those_of_the_tables_and_start_as_in_keras(kind, table, coded):
    for n_latent in (2, 4, 6, 10):
        model = make_model(kind, n_latent, np.ones((3, 825)), dropout=None)
        widths, rate = table[n_latent]["widths"], table[n_latent]["dropout"]
        encoder, decoder = linears(model.encoder), linears(model.decoder)
        assert [x.out_features for x in encoder] == [*widths, coded * n_latent]
        assert [x.out_features for x in decoder] == [*widths[::-1], 825]
        assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [rate] * 8
        assert [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)] == [0.3] * 8
        assert model.encoder[-1] is encoder[-1] and model.decoder[-1] is decoder[-1]
        limit = np.sqrt(6 / (825 + widths[0]))
        assert 0.95 * limit < encoder[0].weight.abs().max() <= limit
        assert not any(layer.bias.any() for layer in encoder)


def test_the_papers_scatter_is_that_of_its_table(shared):
    text = (shared / "papers/scourfield2023.txt").read_text(encoding="utf-8")
    table = text[text.index("2 dimensions") : text.index("Table 6. The standard deviations")]
    size, found = None, {}
    for row in table.splitlines():
        head = re.match(r"(\d+) dimensions", row)
        size = int(head[1]) if head else size
        values = re.findall(r"\d\.\d\d", row)
        if len(values) == 12:
            found[f"{row.split()[0]} {size}"] = [float(value) for value in values]
    assert set(found) == {f"{kind} {size}" for kind in ("PCA", "AE", "VAE") for size in (2, 4, 6, 10)}
    for source, values in found.items():
        assert [v for line in paper.PAPER_LINES for v in paper.paper_scatter(source, line)] == values, source
    assert paper.paper_scatter("VAE 4", "Hβ") is None and paper.paper_scatter("noise-added", "Hα") is None


@pytest.fixture(scope="module")
def galaxies(sdss_table, sdss_galaxies):
    """Star-forming galaxies with noise added, on the paper's bins, and their observed lines."""
    observed = sdss_galaxies(np.flatnonzero(sdss_table["forming"] & sdss_table["z"].between(0.004, 0.18)))
    rest = resample(to_rest_frame(observed.drop_vars("velocity_dispersion")), denoising.rest_wavelength())
    constant = read_products().attrs["constant"]
    sample = denoising.normalize_total(rest, constant=constant, min_fraction=0.8)
    return denoising.add_noise(sample, seed=8), measure_lines_linear(sample)


def difference(sample, said):
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
