"""Networks answer together as each alone does; noise moves their mean as drawn noise does; errors are a mixture's."""

import numpy as np
import pytest
import torch

from spectool.broaden import make_broadening
from spectool.continuum import kept_pixels, optical_wavelength
from spectool.models.bands import FACILITY_BANDS, SedMLP, read_inputs
from spectool.models.chunked import ChunkedEnsemble, ChunkedMLP, white_noise_variance
from spectool.models.ensemble import (
    BandEnsemble,
    band_importance,
    missing_shares,
)
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies

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
    outputs, _ = ChunkedEnsemble(members).answer(spectra)
    for k, member in enumerate(members):
        torch.testing.assert_close(outputs[k], member(spectra).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (8,), (64, 32)])
def test_the_gradient_is_that_of_autograd(spectra, hidden):
    members = make_members(2, hidden=hidden)
    ensemble = ChunkedEnsemble(members)
    _, gradient = ensemble.answer(spectra)
    through = [m.preactivations(spectra).detach().requires_grad_() for m in members]
    mean = torch.stack([m.head(t) for m, t in zip(members, through, strict=True)]).mean(dim=0)
    for output in range(2):
        wanted = torch.autograd.grad(mean[:, output].sum(), through, retain_graph=True)
        wanted = torch.cat(wanted, dim=2).transpose(0, 1)
        torch.testing.assert_close(gradient[output], wanted, rtol=1e-3, atol=1e-6)


def test_noise_is_that_of_the_whole_gradient(members, spectra, rng):
    ensemble = ChunkedEnsemble(members)
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (5, ensemble.n_chunks)).astype("f4"))
    got = white_noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(), sigma)
    x = spectra.clone().requires_grad_()
    mean = torch.stack([m(x) for m in members]).mean(dim=0)
    per_pixel = sigma[:, members[0].chunk_index]
    for output in range(2):
        (by_pixel,) = torch.autograd.grad(mean[:, output].sum(), x, retain_graph=True)
        torch.testing.assert_close(got[output], (by_pixel * per_pixel).square().sum(1), rtol=1e-3, atol=0)


def test_noise_before_broadening(members, spectra):
    """With equal noise everywhere, all that is left out is what pixels at the edges of chunks share."""
    ensemble, operator = ChunkedEnsemble(members), make_broadening(120.0, WAVELENGTH, keep=KEEP)
    sigma = torch.full((5, ensemble.n_chunks), 0.05)
    got = white_noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(operator), sigma)
    x = spectra.clone().requires_grad_()
    torch.stack([m(x) for m in members]).mean(dim=0)[:, 0].sum().backward()
    wanted = np.square(0.05 * operator.transpose(x.grad.numpy())).sum(axis=1)
    np.testing.assert_allclose(got[0].numpy(), wanted, rtol=0.1)
    white = white_noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(), sigma)
    assert (got < 0.5 * white).all()


def test_one_chunk_through_a_broadening_is_exact(members):
    ensemble, operator = ChunkedEnsemble(members), make_broadening(100.0, WAVELENGTH, keep=KEEP)
    products = ensemble.filter_products(operator)
    for k in (0, 7, 24):
        row = np.zeros((2, ensemble.n_kept))
        low, high = ensemble.starts[k : k + 2]
        row[:, low:high] = ensemble.curves[k, : high - low, [0, 5]].T.numpy()
        back = operator.transpose(row)
        np.testing.assert_allclose(
            products[k][[0, 5]][:, [0, 5]].numpy(), back @ back.T, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("kind", [ChunkedEnsemble, BandEnsemble])
def test_members_that_do_not_go_together_are_refused(kind, members):
    with pytest.raises(ValueError, match="at least one member"):
        kind([])
    with pytest.raises(ValueError, match=r"member 2 has another hidden|take different bands"):
        kind(
            [members[0], make_members(1, hidden=(8,))[0]]
            if kind is ChunkedEnsemble
            else [make_sed(0), make_sed(1, bands=["r"])]
        )


def make_sed(seed, bands=tuple(BANDS)):
    return SedMLP(
        bands=bands,
        hidden=(8,),
        outputs=["log_sfr"],
        units=["dex"],
        with_mask=True,
        gaussian=True,
        seed=seed,
    )


@pytest.fixture(scope="module")
def inputs():
    return read_inputs(make_galaxies(400, gaps=0.3), list(BANDS))


@pytest.fixture(scope="module")
def networks(inputs):
    """Networks that have learnt nothing but the scales of the inputs."""
    found = BandEnsemble([make_sed(0), make_sed(1)])
    for k, member in enumerate(found.members):
        member.set_statistics(inputs, np.random.default_rng(k).normal(k, 1, (400, 1)))
    return found


def test_the_error_is_that_of_the_mixture(inputs, networks):
    """Law of total variance, before calibration."""
    each = [member.predict(member.encode(inputs)) for member in networks.members]
    means, sigmas = (np.array(values, dtype=float) for values in zip(*each, strict=True))
    mean, error = networks.predict(inputs)
    np.testing.assert_allclose(mean, means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(error**2, (sigmas**2).mean(axis=0) + means.var(axis=0), rtol=1e-3)


def test_calibrated_errors_hold_their_share_whatever_is_missing(inputs, networks):
    scatter = np.where(inputs.mask[:, :1], 3.0, 1.0) * np.random.default_rng(5).normal(size=(400, 1))
    labels = networks.predict(inputs)[0] + scatter
    mean, error = networks.calibrate(inputs, labels).predict(inputs)
    for rows in (inputs.mask[:, 0], ~inputs.mask[:, 0]):
        share = (np.abs(labels - mean) <= error)[rows].mean()
        assert share == pytest.approx(0.6827, abs=1.5 / rows.sum() + 0.01)


def test_what_the_calibration_depends_on():
    mask = np.zeros((2, len(BANDS)), bool)
    mask[1, 4:] = True
    shares = missing_shares(mask, list(BANDS))
    assert shares.shape == (2, 2 + len(FACILITY_BANDS)) and shares[0].tolist() == [1] + [0] * 7
    assert shares[1] == pytest.approx([1, 0, 0.6, 1, 1, 1, 1, (17 / 21) ** 2])


def test_importance_is_that_of_what_is_used():
    class Model:
        groups, outputs = {"a": [0], "b": [1], "c": [2, 3]}, ("y",)

        def encode(self, x):
            return x

        def predict(self, x):
            return 2 * x[:, [0]] + x[:, [2]], None

    x = np.random.default_rng(0).normal(size=(5000, 4))
    found = band_importance(Model(), x, Model().predict(x)[0], seed=1)["importance"]
    # Mean |difference| of two normal deviates is 2 / sqrt(pi).
    np.testing.assert_allclose(found[:, 0], np.array([2, 0, 1]) * 2 / np.sqrt(np.pi), atol=0.05)
