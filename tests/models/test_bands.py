"""Networks on bands: what they make of a sample, what they see of it, and what becomes of bad and missing fluxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from spectool.models import bands as networks
from spectool.models.bands import N_FOLDS, NarrowBandCNN, SedMLP, hold_out, read_bands, read_inputs
from spectool.surveys.gama import BANDS as BROAD
from tests import ifu_toy, sed_toy
from tests.ifu_toy import BANDS
from tests.refusals import refused

NAMES = list(BROAD)
ALL = ("log_mass", "log_sfr", "log_dust_luminosity")
EVERYTHING = {"with_errors": True, "with_mask": True}


def make_cnn(**options):
    return NarrowBandCNN(**{"bands": BANDS, "outputs": ["log_age"], "units": ["dex(Gyr)"]} | options)


def make_sed(outputs=("log_mass",), **options):
    given = {"bands": NAMES, "hidden": (44, 66, 66), "outputs": outputs, "units": ["dex"] * len(outputs)}
    return SedMLP(**given | options)


@pytest.fixture
def galaxies():
    return sed_toy.make_galaxies(40)


@pytest.fixture(scope="module")
def fluxes():
    """Inputs and labels of galaxies, some without GALEX."""
    sample = sed_toy.make_galaxies(800, gaps=0.2)
    return read_inputs(sample, NAMES), networks.stack_labels(sample, suffix="_fit", outputs=ALL)


@pytest.fixture(scope="module")
def spectra():
    return ifu_toy.make_galaxies(10, 20)


@pytest.fixture(scope="module")
def magnitudes(spectra):
    return read_bands(spectra, BANDS), spectra["log_age"].values[:, None]


@pytest.fixture(params=["broad", "narrow"])
def kind(request, fluxes, magnitudes):
    """Inputs, labels and a function that makes a network of each kind."""
    if request.param == "narrow":
        return *magnitudes, make_cnn
    inputs, labels = fluxes
    return inputs, labels[:, :1], make_sed


def taught(make, inputs, labels, **options):
    model = make(**options)
    model.set_statistics(inputs, labels)
    return model


@pytest.fixture(scope="module")
def cnn(magnitudes):
    """A network that takes everything in, and what it reads."""
    model = taught(make_cnn, *magnitudes, **EVERYTHING)
    return model, torch.from_numpy(model.encode(magnitudes[0]))


@pytest.fixture(scope="module")
def sed(fluxes):
    model = taught(make_sed, *fluxes, outputs=ALL, scaling="asinh", **EVERYTHING)
    return model, torch.from_numpy(model.encode(fluxes[0]))


def both(first, second):
    return xr.concat([first, second], "band", data_vars="minimal", coords="minimal", compat="override")


def test_order_and_units_of_fluxes_do_not_matter(galaxies):
    mixed = galaxies.isel(band=np.random.default_rng(0).permutation(len(NAMES)))
    for name in ("flux", "flux_error"):
        mixed[name] = (mixed[name] * 1e3).assign_attrs(units="mJy")
    plain, found = read_inputs(galaxies, NAMES), read_inputs(mixed.transpose("band", "galaxy"), NAMES)
    np.testing.assert_allclose(found.value, plain.value, rtol=1e-12)
    np.testing.assert_allclose(found.error, plain.error, rtol=1e-12)
    np.testing.assert_array_equal(plain.value, galaxies["flux"])


def as_magnitudes(sample):
    return -2.5 * np.log10(np.maximum(sample["flux"], 1e-7) / 3631)


def test_bad_fluxes_are_missing_and_counted_once_and_parts_join_to_the_whole(galaxies):
    flux, error = galaxies["flux"].values, galaxies["flux_error"].values
    flux[0, 0], flux[1, 1], flux[2, 2], flux[3, 3] = np.nan, -99, 9999, np.inf
    error[4, 4], error[5, 5], error[6, 6] = 0, -1, np.nan
    galaxies["mask"].values[7, 7] = True
    flux[7, 7], flux[8, 5], flux[9] = np.nan, -1e-6, as_magnitudes(galaxies).values[9]
    other = galaxies.isel(band=[4]).assign_coords(band=["unheard-of"])
    inputs = read_inputs(both(galaxies.drop_sel(band=["K", "W1"]), other), NAMES)
    expected = np.zeros(flux.shape, bool)
    expected[range(8), range(8)] = expected[9] = True
    expected[:, [NAMES.index("K"), NAMES.index("W1")]] = True
    np.testing.assert_array_equal(inputs.mask, expected)
    counts = {"no data": 2, "sentinel": 2, "error not positive": 3, "that look like magnitudes": 19}
    assert {name: inputs.counts[f"fluxes {name}"] for name in counts} == counts
    assert inputs.counts["bands not in the sample"] == 2
    assert "bands unknown to the network, left out: 1" in networks.describe_counts(inputs.counts)
    assert inputs.value[8, 5] == -1e-6 and inputs.counts["negative fluxes, kept"] >= 1
    again = networks.join_inputs(inputs.take(slice(0, 10)), inputs.take(np.arange(10, 40)))
    np.testing.assert_array_equal(again.value, inputs.value)
    assert len(again) == 40


def test_what_cannot_be_fluxes_is_refused(galaxies):
    other = galaxies.isel(band=[4]).assign_coords(band=["unheard-of"])
    magnitudes = galaxies.assign(flux=as_magnitudes(galaxies).assign_attrs(units="Jy"))
    refused("none of the network's bands", read_inputs, other, NAMES)
    refused("bands come twice: g", read_inputs, both(galaxies, galaxies.sel(band=["g"])), NAMES)
    refused("lacks flux_error", read_inputs, galaxies.drop_vars("flux_error"), NAMES)
    refused("look like magnitudes", read_inputs, magnitudes, NAMES)
    for unit in ("", "mag(AB)", "erg / s"):
        strange = galaxies.assign(flux=galaxies["flux"].assign_attrs(units=unit))
        refused("no flux per frequency" if unit else "flux has no unit", read_inputs, strange, NAMES)


def test_magnitudes_are_those_of_the_fluxes_in_any_order(spectra, magnitudes):
    inputs = magnitudes[0]
    np.testing.assert_allclose(10 ** (-0.4 * inputs.value), spectra["flux"], rtol=1e-5)
    assert not inputs.mask.any() and not inputs.error.any()
    assert networks.describe_counts(inputs.counts) == "nothing amiss"
    shuffled = spectra.isel(band=np.random.default_rng(0).permutation(len(BANDS)))
    np.testing.assert_array_equal(read_bands(shuffled, BANDS).value, inputs.value)
    refused("lacks flux", read_bands, spectra.drop_vars("flux"), BANDS)


def test_what_has_no_magnitude_is_missing_and_counted():
    sample = ifu_toy.make_galaxies(2, 4, noise=0.01).load()
    flux, error = sample["flux"].values, sample["flux_error"].values
    flux[0, 3], flux[1, 3], flux[2, 3], flux[3, 3] = np.nan, -99.0, -1e-9, 0.5 * error[3, 3]
    error[4, 3], error[5, 3], sample["mask"].values[6, 3] = 0.0, np.nan, True
    inputs = read_bands(sample.drop_sel(band="J0500"), BANDS)
    expected = np.zeros(flux.shape, bool)
    expected[:7, 3] = expected[:, BANDS.index("J0500")] = True
    np.testing.assert_array_equal(inputs.mask, expected)
    reasons = {"masked": 1, "no data": 1, "sentinel": 1, "error not positive": 2, "not detected": 2}
    assert {name: inputs.counts[f"fluxes {name}"] for name in reasons} == reasons
    assert inputs.counts["bands not in the sample"] == 1
    assert inputs.error[7, 4] / networks.MAG_PER_LN == pytest.approx(error[7, 4] / flux[7, 4], rel=1e-5)


def test_without_a_mask_channel_a_gap_means_no_prediction_and_empty_bands_are_named(kind):
    inputs, labels, make = kind
    model, hidden = taught(make, inputs, labels), np.zeros(inputs.mask.shape, bool)
    hidden[:7, 5] = True
    some = inputs.hide(hidden)
    mean, error = model.predict(model.encode(some))
    np.testing.assert_array_equal(np.isnan(mean[:, 0]), some.mask.any(axis=1))
    assert np.isnan(error).all()
    hidden[:, 5] = True
    refused(f"band {model.bands[5]} has no finite value", model.set_statistics, inputs.hide(hidden), labels)
    with pytest.raises(ValueError, match=f"output {model.outputs[0]} has no finite value"):
        model.set_statistics(inputs, np.full(labels.shape, np.nan))


def test_what_is_missing_does_not_tell_and_errors_are_in_units_of_the_labels(kind):
    inputs, labels, make = kind
    inputs = inputs.hide_random(3, seed=0)
    model = taught(make, inputs, labels, gaussian=True, **EVERYTHING)
    value, error = (np.where(inputs.mask, 7.0, values) for values in (inputs.value, inputs.error))
    other = replace(inputs, value=value, error=error)
    np.testing.assert_array_equal(model.encode(inputs), model.encode(other))
    mean, sigma = model.predict(model.encode(inputs))
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(sigma, np.broadcast_to(labels.std(axis=0), sigma.shape), rtol=0.5)


def test_the_loss_is_that_of_what_is_known_and_the_gaussian_one_torchs(kind):
    inputs, labels, make = kind
    plain, gaussian = (taught(make, inputs, labels, gaussian=g, with_mask=True) for g in (False, True))
    x, y = torch.from_numpy(plain.encode(inputs)), torch.from_numpy(labels.astype("f4"))
    y[::3] = torch.nan
    values, power = networks.band_loss(plain, {"x": x, "y": y}, None), plain.power
    off = np.nanmean(np.abs(plain.predict(x.numpy())[0] - y.numpy()) ** power)
    assert float(values["mae" if power == 1 else "mse"].detach()) == pytest.approx(off, rel=1e-4)
    assert float(values["loss"].detach()) == pytest.approx(off / labels.std() ** power, rel=1e-4)
    known = torch.isfinite(y[:, 0])
    mean, log_var = (value[known] for value in gaussian(x))
    scaled = ((y - gaussian.out_mean) / gaussian.out_scale)[known]
    expected = nn.functional.gaussian_nll_loss(mean, scaled, log_var.exp())
    loss = networks.band_loss(gaussian, {"x": x, "y": y}, None)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_brightness_of_a_spectrum_tells_nothing_and_its_shape_does(spectra, magnitudes, cnn):
    model, seen = taught(make_cnn, *magnitudes), []

    def ask(factor):
        sample = spectra.assign(flux=spectra["flux"] * factor)
        return model.predict(model.encode(read_bands(sample, BANDS)))[0]

    np.testing.assert_allclose(ask(1000), ask(1), atol=1e-5)
    assert np.median(np.abs(ask(np.linspace(1, 1.3, len(BANDS))) - ask(1))) > 1e-3
    # Of a spectrum with gaps, too: the mean is over the bands that are there.
    x = torch.from_numpy(cnn[0].encode(magnitudes[0].hide_random(5, seed=0)))
    shifted = x.clone()
    shifted[:, : len(BANDS)] += 3.0
    torch.testing.assert_close(cnn[0](shifted)[0], cnn[0](x)[0], atol=1e-4, rtol=1e-4)
    model.convolutions.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 0]))
    ask(1)
    np.testing.assert_allclose(seen[0].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen[0].std(0, correction=0), 1, rtol=1e-3)
    # The layers are those of the authors' script.
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(16, 1, 6), (16, 16, 8), (40, 16 * 4), (1, 40)]
    assert model.convolutions[:-2](torch.zeros(3, 1, len(BANDS))).shape == (3, 16, len(BANDS))


@pytest.mark.parametrize("scaling", ["linear", "asinh"])
def test_statistics_make_the_fluxes_standard(fluxes, scaling):
    inputs, labels = fluxes
    model = taught(make_sed, inputs, labels, outputs=ALL, scaling=scaling, **EVERYTHING)
    x, n = model.encode(inputs), len(NAMES)
    missing = np.concatenate([np.zeros((len(x), 1), bool), np.tile(inputs.mask, 2)], axis=1)
    values = np.where(missing, np.nan, x[:, : 2 * n + 1])
    np.testing.assert_allclose(np.nanmean(values, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(values, axis=0), 1, atol=1e-4)
    assert not x[:, : 2 * n + 1][missing].any()
    np.testing.assert_array_equal(x[:, -n:], inputs.mask)
    weight = make_sed(hidden=(400, 400)).dense[2].weight
    assert weight.std().item() == pytest.approx(networks.KERNEL_SIGMA, rel=0.02)
    if scaling == "linear":
        j = NAMES.index("r")
        assert model.groups["r"] == [1 + j, 1 + j + n, 1 + j + 2 * n]


def test_a_hidden_band_is_as_good_as_a_missing_one_and_some_are_left(fluxes, sed):
    inputs, (model, x) = fluxes[0], sed
    hidden = np.random.default_rng(0).random(inputs.mask.shape) < 0.3
    without = model.hide(x, torch.from_numpy(hidden)).numpy()
    np.testing.assert_array_equal(without, model.encode(inputs.hide(hidden)))
    refused("no mask channel", make_sed().hide, x, hidden)
    hider, poor = networks.RandomBands(model, full=0.25), inputs.hide(np.arange(len(NAMES)) >= 5)
    assert (~hider.hide(poor, seed=0).mask).sum(axis=1).min() == 3
    hidden = hider.hide(inputs, seed=0).mask & ~inputs.mask
    assert 0.25 < (~hidden.any(axis=1)).mean() < 0.5
    assert hidden.any(axis=0).all() and not hidden.all(axis=0).any()


def test_errors_beyond_the_training_galaxies_are_taken_for_the_least_and_largest(fluxes, sed):
    inputs, (model, x) = fluxes[0], sed
    low, high = 10 ** model.error_range.numpy().astype(float)
    for factor, limit in ((1e-4, low), (1e4, high)):
        far = replace(inputs, error=inputs.error * factor)
        edge = replace(inputs, error=np.broadcast_to(limit, inputs.error.shape))
        np.testing.assert_allclose(model.encode(far), model.encode(edge), atol=1e-4)
    x = x[:, 22:43].numpy()[~inputs.mask]
    assert len(np.unique(x)) > 0.9 * x.size


def test_added_noise_is_what_the_errors_say_and_gaps_are_runs(cnn):
    (model, x), n = cnn, len(BANDS)

    def disturb(x, sn, **options):
        noisy = networks.NoisyBands(model, sn=(sn, sn), **{"clean": 0.0, "gaps": 0.0} | options)
        return noisy.disturb(x, torch.Generator().manual_seed(0)).split(n, dim=1)

    after, error, _ = disturb(before := x.repeat(20, 1), 30.0, jitter=0.0, clean=0.25)
    before = before[:, :n]
    clean = (before == after).all(dim=1)
    assert clean.float().mean() == pytest.approx(0.25, abs=0.03)
    # One flux of noise per spectrum: 1/30 of that of the mean magnitude.
    off = (10 ** (0.4 * (before - after)) - 1)[~clean] * 10 ** (-0.4 * before[~clean])
    assert off.std() == pytest.approx(1 / 30, rel=0.02)
    pull = (after - before)[~clean] / 10 ** error[~clean]
    assert pull.std() == pytest.approx(1.0, abs=0.05) and (error[clean] == -3).all()
    magnitude, _, gone = disturb(x.repeat(5, 1), 2.0)
    assert 0.05 < gone.mean() < 0.5 and (magnitude[gone > 0] == 0).all()
    share = disturb(x.repeat(5, 1), 1e4, gaps=1.0)[2].mean(dim=0)
    assert share[0] > 0.4 and share[-1] > 0.4 and share[n // 2] < 0.25
    refused("takes errors in", networks.NoisyBands, make_cnn())


@pytest.mark.parametrize("by", ["spectrum", "galaxy"])
def test_folds_are_quarters_of_each_galaxy_or_of_all_galaxies(by):
    sample = ifu_toy.make_galaxies(9, 41)
    fold, galaxy = networks.split_spectra(sample, by=by, seed=3), sample["galaxy_index"].values
    np.testing.assert_array_equal(fold, networks.split_spectra(sample, by=by, seed=3))
    counts = np.array([np.bincount(fold[galaxy == g], minlength=N_FOLDS) for g in range(9)])
    if by == "galaxy":
        assert ((counts > 0).sum(axis=1) == 1).all() and np.ptp((counts > 0).sum(axis=0)) <= 1
    else:
        assert np.ptp(counts, axis=1).max() <= 1 and np.ptp(counts.sum(axis=0)) < 9
    train, valid = hold_out(sample, np.flatnonzero(fold != 0), by=by, seed=1)
    assert len(np.intersect1d(train, valid)) == 0 and len(train) + len(valid) == (fold != 0).sum()
    assert by == "spectrum" or len(np.intersect1d(galaxy[train], galaxy[valid])) == 0
    refused("cannot be split into 4 folds", networks.split_spectra, ifu_toy.make_galaxies(3, 4), by="galaxy")
    refused("not by 'luck'", networks.split_spectra, sample, by="luck")
