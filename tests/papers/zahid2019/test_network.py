"""Training the chunked network, its noise, and the errors of an ensemble of it: on toy spectra of two parameters."""

import numpy as np
import pytest
import torch

from spectool.models import chunked
from spectool.models.chunked import ChunkedEnsemble, ChunkedMLP
from spectool.models.training import Step
from spectool.papers.zahid2019 import network as paper
from tests.refusals import refused
from tests.samples import make_spectra
from tools.make.references import fit_errors

N_PIXELS = 263
QUICK = {"adam_epochs": 12, "sgd_epochs": 4, "batch_size": 128, "lr": 1e-2, "progress": False}


def make_toy(n, *, seed):
    """Absorption lines, some deepened by metals, some by age, some by both, as in galaxies."""
    rng = np.random.default_rng(seed)
    wavelength = 4050.0 + np.arange(N_PIXELS)
    log_z, log_age = rng.uniform(-2, 0.4, n), rng.uniform(-1, 1, n)
    lines = np.exp(-0.5 * ((np.arange(N_PIXELS)[:, None] - np.arange(6, N_PIXELS, 8)) / 2.0) ** 2)
    share = np.linspace(0, 1, lines.shape[1]) ** 2
    depth = 0.15 * (share * (log_z[:, None] + 1) + (1 - share) * log_age[:, None])
    sample = make_spectra((-depth @ lines.T).astype("f4"), wavelength, age_lw=10**log_age).assign(
        log_z_lw=("galaxy", log_z, {"units": "dex"}),
        log_z_interval=(("galaxy", "interval"), np.tile(log_z[:, None], 5), {"units": "dex"}),
    )
    sample["age_lw"].attrs["units"] = "Gyr"
    return sample


@pytest.fixture(scope="module")
def toys():
    return {"train": make_toy(2000, seed=0), "valid": make_toy(1500, seed=1), "test": make_toy(1500, seed=2)}


@pytest.fixture(scope="module")
def trained(toys):
    return [paper.train(toys["train"], toys["valid"], seed=k, **QUICK) for k in range(3)]


@pytest.fixture(scope="module")
def ensemble(trained, toys):
    bare = ChunkedEnsemble([model for model, _ in trained])
    truth = paper.make_labels(toys["valid"], paper.OUTPUTS)[0]
    return ChunkedEnsemble(bare.members, fit_errors(bare, toys["valid"]["flux"].values, truth, seed=5))


def noisy(sample, sn, seed=9):
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1 / sn, sample["flux"].shape).astype("f4")
    return sample.assign(flux=sample["flux"] + noise, sigma=0 * sample["flux"] + 1 / sn)


def test_finds_metals_and_better_the_better_the_spectrum(trained, toys):
    model, truth = trained[0][0], toys["test"]["log_z_lw"].values
    found = [model.predict(noisy(toys["test"], sn)["flux"].values)[:, 0] for sn in (1e6, 20, 5)]
    off = [np.sqrt(np.mean((values - truth) ** 2)) for values in found]
    assert off[0] < 0.15 and off[0] < off[1] < off[2] < 0.6 * truth.std()


def test_history_is_one_of_both_phases_the_seed_is_the_weights_and_pixel_noise_trains_as_well(trained, toys):
    history = trained[0][1]
    assert [r["phase"] for r in history.records] == ["adam"] * 12 + ["sgd"] * 4
    np.testing.assert_array_equal(history.column("epoch"), np.arange(1, 17))
    assert (np.diff(history.column("seconds")) > 0).all()
    assert history.best_epoch == history.column("valid_loss").argmin() + 1
    again, _ = paper.train(toys["train"], toys["valid"], seed=0, **QUICK)
    np.testing.assert_array_equal(again.filters(), trained[0][0].filters())
    _, history = paper.train(toys["train"], toys["valid"], pixel_noise=True, **QUICK)
    assert history.best_loss == pytest.approx(trained[0][1].best_loss, rel=0.15)


def test_noise_behind_the_filters_is_noise_in_the_pixels(trained):
    """The shortcut: same mean, same covariance of what the filters let through; the same gradient of a loss."""
    model, n, sigma = trained[0][0], 40_000, 0.1
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        behind = chunked.draw_filtered(model.responses(), torch.full((n,), sigma), generator)
        before = model.preactivations(sigma * torch.randn(n, N_PIXELS, generator=generator)) - model.bias
    curves = model.responses().detach()
    expected = sigma**2 * torch.bmm(curves, curves.transpose(1, 2))
    scale = torch.einsum("cii->ci", expected).sqrt()
    for drawn in (behind, before):
        covariance = torch.einsum("bcf,bcg->cfg", drawn, drawn) / n
        off = (covariance - expected) / (scale[:, :, None] * scale[:, None, :])
        assert off.abs().max() < 5 * np.sqrt(2 / n)
        # Chunks share no pixel: nothing is correlated between them.
        between = torch.einsum("bcf,bdf->cd", drawn / scale, drawn / scale) / (4 * n)
        assert (between - torch.diag(between.diagonal())).abs().max() < 5 / np.sqrt(4 * n)


def test_shortcut_has_the_gradient_of_pixel_noise(trained, toys):
    model = ChunkedMLP(**trained[0][0].config)
    model.load_state_dict(trained[0][0].state_dict())
    x, y = (toys["train"][name].values[:200].astype("f4") for name in ("flux", "log_z_lw"))
    batch = {"x": torch.from_numpy(x), "y": torch.from_numpy(y[:, None])}

    def gradients(n, **options):
        step, loss = Step(0.0, 0.0, True, torch.Generator().manual_seed(3)), paper.NoisyLoss(**options)
        draws = []
        for _ in range(n):
            model.zero_grad()
            loss(model, batch, step)["loss"].backward()
            draws.append(model.weight.grad.clone())
        return torch.stack(draws)

    inside = model.inside.expand_as(model.weight) > 0
    pixels, filtered = (gradients(400, pixel_noise=kind, levels=(5.0,)) for kind in (True, False))
    error = ((pixels.var(0) + filtered.var(0)) / 400).sqrt()
    off = (pixels.mean(0) - filtered.mean(0)) / error
    assert off[inside].square().mean() == pytest.approx(1.0, abs=0.5)
    # Noise does change the gradient; and the shortcut's is less noisy, because it draws fewer numbers.
    clean = gradients(1, levels=(float("inf"),))[0]
    assert ((pixels.mean(0) - clean) / error)[inside].square().mean() > 10
    assert filtered.var(0).mean() < pixels.var(0).mean()


def test_coefficients_stand_for_spectra(trained, toys, monkeypatch):
    monkeypatch.setattr("spectool.models.chunked._TOLERANCE", 1e-5)
    model, x = trained[0][0], toys["train"]["flux"].values
    basis = chunked.fit_chunk_basis(x, model)
    assert basis.vectors.shape[1] <= 4
    found = basis.preactivations(model, torch.from_numpy(basis.project(x, model)))
    np.testing.assert_allclose(found.detach(), model.preactivations(torch.from_numpy(x)).detach(), atol=2e-3)


def test_stops_in_time(toys):
    options = QUICK | {"adam_epochs": 10_000, "sgd_epochs": 10_000, "max_seconds": 1.0}
    _, history = paper.train(toys["train"], toys["valid"], **options)
    assert history.stopped == "time"
    assert {r["phase"] for r in history.records} == {"adam", "sgd"}


def test_intervals_and_ages_are_labels(toys):
    outputs = (*paper.INTERVAL_OUTPUTS, "log_age_lw")
    labels, units = paper.make_labels(toys["test"], outputs)
    np.testing.assert_allclose(labels[:, 5], np.log10(toys["test"]["age_lw"]), rtol=1e-6)
    assert labels.shape == (1500, 6)
    assert units == ("dex",) * 5 + ("dex(Gyr)",)
    with pytest.raises(KeyError, match="no column 'age_interval'"):
        paper.make_labels(toys["test"], ["log_age_interval_2"])


def test_errors_know_of_hidden_pixels(ensemble, toys):
    sample, rng = noisy(toys["test"], 50.0), np.random.default_rng(4)
    bad = rng.random((1500, N_PIXELS // 4 + 1)).repeat(4, axis=1)[:, :N_PIXELS] < 0.15
    flux, covered = np.where(bad, 0, sample["flux"].values), []
    for hidden in (bad, None):
        mean, error, _ = ensemble.predict(flux, sample["sigma"].values, hidden)
        covered.append((np.abs(mean[:, 0] - sample["log_z_lw"].values) < error[:, 0]).mean())
    assert abs(covered[0] - 0.68) < 0.1 and covered[1] < covered[0]


def test_misuse_is_told(ensemble, toys):
    refused("same pixels", paper.train, toys["train"], toys["valid"].isel(wavelength=slice(1, None)))
    with pytest.raises(ValueError, match=r"with spectool.papers.zahid2019.reader.prepare_zahid2019"):
        paper.predict_ensemble(ensemble, toys["test"].isel(wavelength=slice(0, 100)))
    refused("sigma of shape", ensemble.predict, toys["test"]["flux"].values, np.zeros((1500, 7)))
