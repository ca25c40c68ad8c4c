"""Networks side by side answer as each alone does, and noise does to their mean what drawing it does."""

import numpy as np
import pytest
import torch

from spectool.broaden import make_broadening
from spectool.models.chunked import ChunkedMLP
from spectool.models.ensemble import StackedEnsemble, noise_variance
from spectool.prepare import kept_pixels, optical_wavelength

WAVELENGTH = optical_wavelength()
KEEP = kept_pixels(WAVELENGTH)


def make_members(n=3, *, outputs=("log_z_lw", "age_lw"), **options):
    units = ("dex", "Gyr")[: len(outputs)]
    members = []
    for seed in range(n):
        member = ChunkedMLP(wavelength=WAVELENGTH[KEEP], outputs=outputs, units=units, seed=seed, **options)
        member.in_scale.fill_(0.04)
        member.out_scale.copy_(torch.tensor([0.6, 3.0])[: len(outputs)])
        members.append(member)
    return members


@pytest.fixture(scope="module")
def members():
    return make_members()


@pytest.fixture
def spectra(rng):
    return torch.from_numpy((0.04 * rng.standard_normal((5, int(KEEP.sum())))).astype("f4"))


def test_answers_are_those_of_each_network(members, spectra):
    outputs, _ = StackedEnsemble(members).answer(spectra)
    for k, member in enumerate(members):
        torch.testing.assert_close(outputs[k], member(spectra).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (8,), (64, 32)])
def test_the_gradient_is_that_of_autograd(spectra, hidden):
    members = make_members(2, hidden=hidden)
    ensemble = StackedEnsemble(members)
    _, gradient = ensemble.answer(spectra)
    through = [m.preactivations(spectra).detach().requires_grad_() for m in members]
    mean = torch.stack([m.head(t) for m, t in zip(members, through, strict=True)]).mean(dim=0)
    for output in range(2):
        wanted = torch.autograd.grad(mean[:, output].sum(), through, retain_graph=True)
        wanted = torch.cat(wanted, dim=2).transpose(0, 1)
        torch.testing.assert_close(gradient[output], wanted, rtol=1e-3, atol=1e-6)


def test_noise_is_that_of_the_whole_gradient(members, spectra, rng):
    ensemble = StackedEnsemble(members)
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (5, ensemble.n_chunks)).astype("f4"))
    got = noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(), sigma)
    x = spectra.clone().requires_grad_()
    mean = torch.stack([m(x) for m in members]).mean(dim=0)
    per_pixel = sigma[:, members[0].chunk_index]
    for output in range(2):
        (by_pixel,) = torch.autograd.grad(mean[:, output].sum(), x, retain_graph=True)
        torch.testing.assert_close(got[output], (by_pixel * per_pixel).square().sum(1), rtol=1e-3, atol=0)


def test_noise_before_broadening(members, spectra):
    """With equal noise everywhere, all that is left out is what pixels at the edges of chunks share."""
    ensemble, operator = StackedEnsemble(members), make_broadening(120.0, WAVELENGTH, keep=KEEP)
    sigma = torch.full((5, ensemble.n_chunks), 0.05)
    got = noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(operator), sigma)
    x = spectra.clone().requires_grad_()
    torch.stack([m(x) for m in members]).mean(dim=0)[:, 0].sum().backward()
    wanted = np.square(0.05 * operator.transpose(x.grad.numpy())).sum(axis=1)
    np.testing.assert_allclose(got[0].numpy(), wanted, rtol=0.1)
    white = noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(), sigma)
    assert (got < 0.5 * white).all()


def test_one_chunk_through_a_broadening_is_exact(members):
    ensemble, operator = StackedEnsemble(members), make_broadening(100.0, WAVELENGTH, keep=KEEP)
    products = ensemble.filter_products(operator)
    for k in (0, 7, 24):
        row = np.zeros((2, ensemble.n_kept))
        low, high = ensemble.starts[k : k + 2]
        row[:, low:high] = ensemble.curves[k, : high - low, [0, 5]].T.numpy()
        back = operator.transpose(row)
        np.testing.assert_allclose(
            products[k][[0, 5]][:, [0, 5]].numpy(), back @ back.T, rtol=1e-4, atol=1e-6
        )


def test_networks_of_different_shapes_are_refused(members):
    with pytest.raises(ValueError, match="network 1"):
        StackedEnsemble([members[0], make_members(1, hidden=(8,))[0]])
    with pytest.raises(ValueError, match="at least one"):
        StackedEnsemble([])
