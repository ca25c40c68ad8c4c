"""The beta-VAE: shapes of the paper, its loss, its masks, and what it makes of a sample."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.models import vae
from spectool.models.training import Step, fit, one_cycle
from spectool.models.vae import ConvBetaVAE, GappyComponents, RandomCoverage, conv_shape, fit_statistics
from tools.recipes.marziano2024 import survey_mask

N = 120
WAVELENGTH = np.linspace(1000.0, 10000.0, N)
TINY = {
    "n_pixels": N,
    "n_latent": 4,
    "channels": (4, 8),
    "strides": (3, 2),
    "hidden": (16,),
    "decoder": "dense",
}


def spectra(n, seed=0):
    """A slope, a line and a break, each with its own amplitude."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, n, 1))
    x = WAVELENGTH / 5250.0
    flux = 1.0 + 0.3 * a * (x - 1) + np.exp(b) * np.exp(-0.5 * ((WAVELENGTH - 6563) / 80) ** 2)
    return (flux + 0.2 * c * (WAVELENGTH > 4000)).astype(np.float32)


def sample(n=5, **variables):
    data = xr.Dataset({"flux": (("galaxy", "wavelength"), spectra(n))}, coords={"wavelength": WAVELENGTH})
    return data.assign({k: (("galaxy", "wavelength"), v) for k, v in variables.items()})


def tiny(**options):
    model = ConvBetaVAE(**{**TINY, **options})
    fit_statistics(model, spectra(200, 1), WAVELENGTH, seed=0)
    return model.eval()


@pytest.mark.parametrize("strides", [(2, 2), (3, 5), (1, 4), (7, 2)])
@pytest.mark.parametrize("n_pixels", [97, 100, 113])
def test_transposed_convolutions_give_back_every_pixel(strides, n_pixels):
    model = ConvBetaVAE(n_pixels=n_pixels, n_latent=3, channels=(2, 4), strides=strides)
    assert model.decode(torch.zeros(2, 3)).shape == (2, n_pixels)
    assert conv_shape(n_pixels, strides)[-1] == model.flattened[1]


def test_kl_is_that_of_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mu, log_var = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, torch.exp(0.5 * log_var)), normal(0.0, 1.0))
    torch.testing.assert_close(vae.kl_per_dimension(mu, log_var), expected)


def test_loss_is_equation_8():
    model, flux = tiny(), torch.from_numpy(spectra(6))
    step = Step(0.0, 0.0, True, torch.Generator().manual_seed(3))
    values = vae.BetaLoss(beta=0.3)(model, {"flux": flux}, step)
    eps = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    mu, log_var = model.encode(flux)
    sigma = torch.exp(0.5 * log_var)
    squared = ((flux - model.decode(mu + sigma * eps)) ** 2).sum(dim=1)
    kl = 0.5 * (mu**2 + sigma**2 - torch.log(sigma**2) - 1).sum(dim=1)
    torch.testing.assert_close(values["loss"], (squared + 0.3 * kl).mean())


def test_beta_is_annealed_in_training_only():
    model, batch = tiny(), {"flux": torch.from_numpy(spectra(6))}
    loss = vae.BetaLoss(beta=0.5, start=8.0)
    for fraction, training, beta in (
        (0.0, True, 8.0),
        (0.3, True, 2.0),
        (0.6, True, 0.5),
        (0.0, False, 0.5),
    ):
        values = loss(model, batch, Step(0.0, fraction, training, torch.Generator().manual_seed(0)))
        torch.testing.assert_close(values["loss"], values["squared_error"] + beta * values["kl"])


@pytest.mark.parametrize("shortcut", [0, 3])
def test_what_lies_under_the_mask_does_not_matter(shortcut):
    model = tiny(shortcut=shortcut)
    flux = torch.from_numpy(spectra(3))
    mask = torch.zeros(3, N, dtype=torch.bool)
    mask[:, 30:50] = True
    other = flux.clone()
    other[mask] = float("nan")
    assert torch.equal(model.encode(flux, mask)[0], model.encode(other, mask)[0])
    assert not torch.equal(model.encode(flux, mask)[0], model.encode(flux)[0])


def test_a_masked_pixel_is_told_from_a_pixel_at_the_mean():
    model = tiny()
    flux = model.pixel_mean[None].clone()
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[:, 10:60] = True
    assert not torch.allclose(model.encode(flux, mask)[0], model.encode(flux)[0])


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


def test_same_seed_same_weights():
    first, second, third = (ConvBetaVAE(**TINY, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.head_mu.weight, second.head_mu.weight)
    assert not torch.equal(first.head_mu.weight, third.head_mu.weight)


def test_learns_a_family_of_spectra_and_copes_with_a_survey_window():
    """Three parameters made the spectra: most of the variance must come back, from half the wavelengths too."""
    model, flux, test = tiny(shortcut=3), spectra(2000, 1), torch.from_numpy(spectra(300, 2))
    coverage = RandomCoverage(WAVELENGTH)
    fit(
        model,
        {"flux": flux},
        {"flux": spectra(200, 3)},
        loss=vae.BetaLoss(0.01),
        epochs=12,
        lr=5e-3,
        schedule=one_cycle(),
        clip=10.0,
        augment=coverage,
        progress=False,
    )
    mask = torch.from_numpy(survey_mask(WAVELENGTH, np.full(300, 0.05)))
    variance = test.var(dim=0).sum()
    with torch.inference_mode():
        for hidden, allowed in ((None, 0.05), (mask, 0.1)):
            error = (model.decode(model.encode(test, hidden)[0]) - test).square().sum(dim=1).mean()
            assert error < allowed * variance


def test_coverage_draws_whole_and_survey_windows(monkeypatch):
    monkeypatch.setattr(vae, "MAX_GAPS", 0)
    coverage = RandomCoverage(WAVELENGTH)
    masks = coverage.draw(4000, torch.Generator().manual_seed(0)).numpy()
    whole = ~masks.any(axis=1)
    assert abs(whole.mean() - 0.5) < 0.04
    kept = (WAVELENGTH > 5000) & (WAVELENGTH < 5500)
    assert not masks[:, kept].any()
    assert (masks.mean(axis=1) < 0.95).all()


def test_survey_mask_is_the_range_in_the_rest_frame():
    mask = survey_mask(np.array([3700.0, 3900.0, 9000.0, 9300.0]), [0.0, 0.1])
    assert mask.tolist() == [[True, False, False, True], [False, False, True, True]]


def test_encode_sample_masks_and_counts():
    flux = spectra(5)
    flux[1, 7] = np.nan
    ivar = np.ones((5, N))
    ivar[2] = 0.0
    data = sample(ivar=ivar, mask=np.zeros((5, N), bool)).assign(flux=(("galaxy", "wavelength"), flux))
    out = vae.encode_sample(tiny(), data)
    assert out["latent"].dims == ("galaxy", "latent_dim")
    assert np.isnan(out["latent"].values[2]).all()
    assert np.isfinite(out["latent"].values[[0, 1, 3, 4]]).all()
    assert out["latent"].attrs["n_unusable"] == 1
    assert (out["latent_sigma"].values[[0, 1]] > 0).all()
    assert out["latent"].attrs["units"] == ""


def test_reconstruct_decodes_the_mean():
    model, data = tiny(), sample()
    out = vae.reconstruct(model, data)
    expected = vae.decode_latent(model, out["latent"].values)
    np.testing.assert_array_equal(out["reconstruction"].values, expected)
    np.testing.assert_allclose(vae.decode_latent(model, out["latent"].values[0]), expected[0], rtol=1e-5)


def test_sample_of_other_pixels_is_refused():
    with pytest.raises(ValueError, match="reads 120 pixels"):
        vae.encode_sample(tiny(), sample().isel(wavelength=slice(1, None)))
    with pytest.raises(ValueError, match="another wavelength grid"):
        vae.encode_sample(tiny(), sample().assign_coords(wavelength=WAVELENGTH + 100.0))
    with pytest.raises(ValueError, match="variable 'flux'"):
        vae.encode_sample(tiny(), xr.Dataset())


def test_latent_vectors_of_another_model_are_refused():
    with pytest.raises(ValueError, match="made by another model"):
        vae.decode_latent(tiny(), np.zeros((3, 5)))


def test_bad_options_are_told():
    with pytest.raises(ValueError, match="finite numbers"):
        ConvBetaVAE(**TINY).set_statistics(np.full(N, np.nan), np.ones(N))
    with pytest.raises(ValueError, match="needs components of shape"):
        ConvBetaVAE(**TINY, shortcut=3).set_components(np.zeros((2, N)))
