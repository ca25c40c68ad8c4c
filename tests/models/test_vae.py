"""The beta-VAE: shapes of the paper, its loss, its masks, and what it makes of a sample."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch.distributions import Normal, kl_divergence

from spectool.models import vae
from spectool.models.training import Step, fit, one_cycle
from spectool.models.vae import ConvBetaVAE, GappyComponents, RandomCoverage, conv_shape, fit_statistics
from tests.refusals import refused
from tools.recipes.marziano2024 import survey_mask

N = 120
WAVELENGTH = np.linspace(1000.0, 10000.0, N)
TINY = {"n_pixels": N, "n_latent": 4, "channels": (4, 8), "strides": (3, 2), "hidden": (16,)}


def spectra(n, seed=0):
    """A slope, a line and a break, each with its own amplitude."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, n, 1))
    x = WAVELENGTH / 5250.0
    flux = 1.0 + 0.3 * a * (x - 1) + np.exp(b) * np.exp(-0.5 * ((WAVELENGTH - 6563) / 80) ** 2)
    return (flux + 0.2 * c * (WAVELENGTH > 4000)).astype(np.float32)


def sample(**variables):
    columns = {"flux": spectra(5)} | variables
    dims = ("galaxy", "wavelength")
    return xr.Dataset({k: (dims, v) for k, v in columns.items()}, coords={"wavelength": WAVELENGTH})


def tiny(**options):
    model = ConvBetaVAE(**{**TINY, "decoder": "dense", **options})
    fit_statistics(model, spectra(200, 1), WAVELENGTH, seed=0)
    return model.eval()


@pytest.mark.parametrize("strides", [(2, 2), (3, 5), (1, 4), (7, 2)])
def test_transposed_convolutions_give_back_every_pixel(strides):
    for n_pixels in (97, 100, 113):
        model = ConvBetaVAE(n_pixels=n_pixels, n_latent=3, channels=(2, 4), strides=strides)
        assert model.decode(torch.zeros(2, 3)).shape == (2, n_pixels)
        assert conv_shape(n_pixels, strides)[-1] == model.flattened[1]


def test_loss_is_equation_8_and_beta_is_annealed_in_training_only():
    model, flux = tiny(), torch.from_numpy(spectra(6))
    eps = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    mu, log_var = model.encode(flux)
    sigma = torch.exp(0.5 * log_var)
    squared = ((flux - model.decode(mu + sigma * eps)) ** 2).sum(dim=1)
    kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1)
    annealed = [(8.0, 0.0, True, 8.0), (8.0, 0.3, True, 2.0), (8.0, 0.6, True, 0.5), (8.0, 0.0, False, 0.5)]
    for start, fraction, training, beta in [(None, 0.0, True, 0.5), *annealed]:
        step = Step(0.0, fraction, training, torch.Generator().manual_seed(3))
        loss = vae.BetaLoss(beta=0.5, start=start)(model, {"flux": flux}, step)["loss"]
        torch.testing.assert_close(loss, (squared + beta * kl).mean())


@pytest.mark.parametrize("shortcut", [0, 3])
def test_what_lies_under_the_mask_does_not_matter_but_is_told_from_the_mean(shortcut):
    model, flux = tiny(shortcut=shortcut), torch.from_numpy(spectra(3))
    mask, other, mean = torch.zeros(3, N, dtype=torch.bool), flux.clone(), model.pixel_mean[None].clone()
    mask[:, 30:50] = True
    other[mask] = float("nan")
    assert torch.equal(model.encode(flux, mask)[0], model.encode(other, mask)[0])
    assert not torch.equal(model.encode(flux, mask)[0], model.encode(flux)[0])
    assert not torch.allclose(model.encode(mean, mask[:1])[0], model.encode(mean)[0])


def test_gappy_coefficients_do_not_move_when_pixels_are_hidden():
    rng = np.random.default_rng(0)
    basis = torch.from_numpy(rng.normal(size=(3, N)).astype(np.float32))
    truth = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32))
    layer = GappyComponents(N, 3)
    layer.noise = 1e-6
    layer.components.data.copy_(basis)
    mask = torch.from_numpy(rng.random((4, N)) < 0.5)
    for hidden in (None, mask):
        torch.testing.assert_close(layer(truth @ basis, hidden), torch.asinh(truth), atol=1e-4, rtol=1e-4)


def test_learns_a_family_of_spectra_and_copes_with_a_survey_window():
    """Three parameters made the spectra: most of the variance must come back, from half the wavelengths too."""
    model, test = tiny(shortcut=3), torch.from_numpy(spectra(300, 2))
    how = {"epochs": 12, "lr": 5e-3, "schedule": one_cycle(), "clip": 10.0, "progress": False}
    how |= {"loss": vae.BetaLoss(0.01), "augment": RandomCoverage(WAVELENGTH)}
    fit(model, {"flux": spectra(2000, 1)}, {"flux": spectra(200, 3)}, **how)
    mask = torch.from_numpy(survey_mask(WAVELENGTH, np.full(300, 0.05)))
    variance = test.var(dim=0).sum()
    with torch.inference_mode():
        for hidden, allowed in ((None, 0.05), (mask, 0.1)):
            error = (model.decode(model.encode(test, hidden)[0]) - test).square().sum(dim=1).mean()
            assert error < allowed * variance


def test_coverage_draws_whole_and_survey_windows(monkeypatch):
    monkeypatch.setattr(vae, "MAX_GAPS", 0)
    masks = RandomCoverage(WAVELENGTH).draw(4000, torch.Generator().manual_seed(0)).numpy()
    assert abs((~masks.any(axis=1)).mean() - 0.5) < 0.04
    assert not masks[:, (WAVELENGTH > 5000) & (WAVELENGTH < 5500)].any()
    assert (masks.mean(axis=1) < 0.95).all()


def test_samples_are_encoded_and_decoded_without_their_bad_pixels_or_refused():
    model, flux, ivar = tiny(), spectra(5), np.ones((5, N))
    flux[1, 7], ivar[2] = np.nan, 0.0
    out = vae.reconstruct(model, sample(flux=flux, ivar=ivar, mask=np.zeros((5, N), bool)))
    latent = out["latent"]
    assert latent.attrs["n_unusable"] == 1 and np.isnan(latent).all("latent_dim").values.tolist()[1:3] == [
        False,
        True,
    ]
    expected = vae.decode_latent(model, latent.values)
    np.testing.assert_array_equal(out["reconstruction"].values, expected)
    np.testing.assert_allclose(vae.decode_latent(model, latent.values[0]), expected[0], rtol=1e-5)
    model = tiny()
    with pytest.raises(ValueError, match="another wavelength grid"):
        vae.encode_sample(model, sample().assign_coords(wavelength=WAVELENGTH + 100.0))
    refused("variable 'flux'", vae.encode_sample, model, xr.Dataset())
    refused("made by another model", vae.decode_latent, model, np.zeros((3, 5)))
