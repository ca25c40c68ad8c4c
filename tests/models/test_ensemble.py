"""Networks answer together as each alone does; noise moves their mean as drawn noise does; errors are a mixture's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectool.broaden import make_broadening
from spectool.continuum import kept_pixels, optical_wavelength
from spectool.models.bands import FACILITY_BANDS, SedMLP, read_inputs
from spectool.models.chunked import ChunkedEnsemble, ChunkedMLP, white_noise_variance
from spectool.models.ensemble import BandEnsemble, band_importance, missing_shares
from spectool.surveys.gama import BANDS
from tests.refusals import refused
from tests.sed_toy import make_galaxies

WAVELENGTH = optical_wavelength()
KEEP = kept_pixels(WAVELENGTH)


def make_members(n=3, **options):
    """Networks of two outputs, of which one is in Gyr."""
    options = {"outputs": ("log_z_lw", "age_lw"), "units": ("dex", "Gyr")} | options
    members = [ChunkedMLP(wavelength=WAVELENGTH[KEEP], seed=seed, **options) for seed in range(n)]
    for member in members:
        member.in_scale.fill_(0.04)
        member.out_scale.copy_(torch.tensor([0.6, 3.0]))
    return members


@pytest.fixture(scope="module")
def members():
    return make_members()


@pytest.fixture
def spectra(rng):
    return torch.from_numpy((0.04 * rng.standard_normal((5, int(KEEP.sum())))).astype("f4"))


@pytest.mark.parametrize("hidden", [(), (8,), (64, 32)])
def test_answers_and_gradient_are_those_of_each_network(spectra, hidden):
    members = make_members(2, hidden=hidden)
    outputs, gradient = ChunkedEnsemble(members).answer(spectra)
    through = [m.preactivations(spectra).detach().requires_grad_() for m in members]
    alone = torch.stack([m.head(t) for m, t in zip(members, through, strict=True)])
    torch.testing.assert_close(outputs, alone.detach(), rtol=1e-4, atol=1e-5)
    for output in range(2):
        wanted = torch.autograd.grad(alone.mean(dim=0)[:, output].sum(), through, retain_graph=True)
        wanted = torch.cat(wanted, dim=2).transpose(0, 1)
        torch.testing.assert_close(gradient[output], wanted, rtol=1e-3, atol=1e-6)


def by_pixel(members, spectra, output):
    x = spectra.clone().requires_grad_()
    torch.stack([m(x) for m in members]).mean(dim=0)[:, output].sum().backward()
    return x.grad


def test_noise_is_that_of_the_whole_gradient(members, spectra, rng):
    ensemble = ChunkedEnsemble(members)
    sigma = torch.from_numpy(rng.uniform(0.01, 0.1, (5, ensemble.n_chunks)).astype("f4"))
    got = white_noise_variance(ensemble.answer(spectra)[1], ensemble.filter_products(), sigma)
    for output in range(2):
        wanted = (by_pixel(members, spectra, output) * sigma[:, members[0].chunk_index]).square().sum(1)
        torch.testing.assert_close(got[output], wanted, rtol=1e-3, atol=0)


def test_noise_before_broadening(members, spectra):
    """With equal noise everywhere, all that is left out is what pixels at the edges of chunks share."""
    ensemble, operator = ChunkedEnsemble(members), make_broadening(120.0, WAVELENGTH, keep=KEEP)
    gradient, sigma = ensemble.answer(spectra)[1], torch.full((5, ensemble.n_chunks), 0.05)
    products, plain = ensemble.filter_products(operator), ensemble.filter_products()
    got, white = (white_noise_variance(gradient, p, sigma) for p in (products, plain))
    back = operator.transpose(by_pixel(members, spectra, 0).numpy())
    np.testing.assert_allclose(got[0].numpy(), np.square(0.05 * back).sum(axis=1), rtol=0.1)
    assert (got < 0.5 * white).all()
    for k in (0, 7, 24):  # one chunk alone is exact
        row, (low, high) = np.zeros((2, ensemble.n_kept)), ensemble.starts[k : k + 2]
        row[:, low:high] = ensemble.curves[k, : high - low, [0, 5]].T.numpy()
        back = operator.transpose(row)
        of_two = products[k][[0, 5]][:, [0, 5]].numpy()
        np.testing.assert_allclose(of_two, back @ back.T, rtol=1e-4, atol=1e-6)


def test_members_that_do_not_go_together_are_refused(members):
    for kind in (ChunkedEnsemble, BandEnsemble):
        refused("at least one member", kind, [])
    refused("member 2 has another hidden", ChunkedEnsemble, [members[0], *make_members(1, hidden=(8,))])
    refused("take different bands", BandEnsemble, [make_sed(0), make_sed(1, bands=["r"])])


def make_sed(seed, bands=tuple(BANDS)):
    how = {"hidden": (8,), "outputs": ["log_sfr"], "units": ["dex"], "with_mask": True, "gaussian": True}
    return SedMLP(bands=bands, seed=seed, **how)


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
    mask = np.arange(len(BANDS)) >= np.array([[len(BANDS)], [4]])
    shares = missing_shares(mask, list(BANDS))
    assert shares.shape == (2, 2 + len(FACILITY_BANDS)) and shares[0].tolist() == [1] + [0] * 7
    assert shares[1] == pytest.approx([1, 0, 0.6, 1, 1, 1, 1, (17 / 21) ** 2])


def test_importance_is_that_of_what_is_used():
    def predict(x):
        return 2 * x[:, [0]] + x[:, [2]], None

    groups = {"a": [0], "b": [1], "c": [2, 3]}
    model = SimpleNamespace(groups=groups, outputs=("y",), encode=lambda x: x, predict=predict)
    x = np.random.default_rng(0).normal(size=(5000, 4))
    importance = band_importance(model, x, predict(x)[0], seed=1)["importance"]
    # Mean |difference| of two normal deviates is 2 / sqrt(pi).
    np.testing.assert_allclose(importance[:, 0], np.array([2, 0, 1]) * 2 / np.sqrt(np.pi), atol=0.05)
