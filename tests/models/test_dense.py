"""The dense autoencoder is the paper's: its layers, its start, its two ways to the latent vector."""

import numpy as np
import pytest
import torch
from torch import nn

from spectool.models.denoise import DenseAutoencoder
from spectool.papers.scourfield2023.network import TABLE4, TABLE5, make_model

TINY = {"n_pixels": 40, "n_latent": 3, "widths": (20, 15, 10, 8), "dropout": 0.2}


def linears(part):
    return [layer for layer in part if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("variational", "table", "coded"), [(False, TABLE4, 1), (True, TABLE5, 2)])
@pytest.mark.parametrize("n_latent", [2, 4, 6, 10])
def test_layers_are_those_of_the_tables(variational, table, coded, n_latent):
    kind = "vae" if variational else "ae"
    model = make_model(kind, n_latent, np.ones((3, 825)), dropout=None)
    widths, rate = table[n_latent]["widths"], table[n_latent]["dropout"]
    assert [x.out_features for x in linears(model.encoder)] == [*widths, coded * n_latent]
    assert [x.out_features for x in linears(model.decoder)] == [*widths[::-1], 825]
    dropouts = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [rate] * 8
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.3] * 8
    assert isinstance(model.encoder[-1], nn.Linear)
    assert isinstance(model.decoder[-1], nn.Linear)


def test_weights_start_as_in_keras_and_by_the_seed():
    one, same, other = (DenseAutoencoder(**TINY, seed=s) for s in (1, 1, 2))
    weight = one.encoder[0].weight
    limit = np.sqrt(6 / (40 + 20))
    assert weight.abs().max() <= limit
    assert weight.abs().max() > 0.95 * limit
    assert torch.equal(weight, same.encoder[0].weight)
    assert not torch.equal(weight, other.encoder[0].weight)
    assert all((x.bias == 0).all() for x in linears(one.encoder))


def test_an_ae_draws_nothing_and_a_vae_does():
    x = torch.rand(5, 40)
    for variational in (False, True):
        model = DenseAutoencoder(**TINY, variational=variational).eval()
        mean, mu, log_var = model(x)
        drawn, *_ = model(x, None, torch.Generator().manual_seed(0))
        assert torch.equal(mean, model.decode(mu))
        assert torch.equal(mean, drawn) == (not variational)
        assert torch.exp(log_var).max() > 0 if variational else (torch.exp(log_var) == 0).all()


def test_draws_have_the_posteriors_width():
    model = DenseAutoencoder(**TINY).eval()
    x = torch.rand(1, 40).expand(20000, 40)
    seen = []
    model.decode = lambda z: seen.append(z) or z
    _, mu, log_var = model(x, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0].std(dim=0), torch.exp(0.5 * log_var[0]), rtol=0.03, atol=0)
    torch.testing.assert_close(seen[0].mean(dim=0), mu[0], rtol=0, atol=0.05)


def test_statistics_shift_and_scale_both_ends():
    plain, scaled = (DenseAutoencoder(**TINY, seed=3).eval() for _ in range(2))
    mean = np.linspace(0, 1, 40)
    scaled.set_statistics(mean, 0.2)
    x = torch.rand(4, 40)
    expected = (
        torch.as_tensor(mean, dtype=torch.float32) + 0.2 * plain((x - torch.as_tensor(mean).float()) / 0.2)[0]
    )
    torch.testing.assert_close(scaled(x)[0], expected)
    hidden = torch.zeros(4, 40, dtype=torch.bool)
    hidden[:, 5] = True
    other = x.clone()
    other[:, 5] = torch.nan
    torch.testing.assert_close(scaled.encode(x, hidden)[0], scaled.encode(other, hidden)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout must be"),
        ({"ranks": [3]}, "one rank .* for each of 10 layers"),
    ],
)
def test_options_that_describe_no_network_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        DenseAutoencoder(**{**TINY, **options})


@pytest.mark.parametrize(("mean", "scale"), [(np.full(40, np.nan), 1.0), (np.zeros(3), 1.0), (0.0, -1.0)])
def test_statistics_that_cannot_be_are_told(mean, scale):
    with pytest.raises(ValueError, match="must be"):
        DenseAutoencoder(**TINY).set_statistics(mean, scale)
