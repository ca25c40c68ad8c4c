"""The network on narrow bands: what it sees, what it does not, and what becomes of bad fluxes."""

import numpy as np
import pytest
import torch
from torch import nn

from spectool.models import store
from spectool.models.bands import MAG_PER_LN, BandInputs, NarrowBandCNN, NoisyBands, band_loss, read_bands
from tests.models.ifu_toy import BANDS, make_galaxies

OUTPUTS = {"outputs": ["log_age"], "units": ["dex(Gyr)"]}


@pytest.fixture(scope="module")
def sample():
    return make_galaxies(10, 20)


def make_model(sample, **options):
    model = NarrowBandCNN(bands=BANDS, **OUTPUTS, **options)
    model.set_statistics(read_bands(sample, BANDS), sample["log_age"].values[:, None])
    return model


def predict(model, sample):
    return model.predict(model.encode(read_bands(sample, model.bands)))[0][:, 0]


def test_magnitudes_are_those_of_the_fluxes(sample):
    inputs = read_bands(sample, BANDS)
    np.testing.assert_allclose(10 ** (-0.4 * inputs.magnitude), sample["flux"], rtol=1e-5)
    assert not inputs.mask.any() and not inputs.error.any() and inputs.describe() == "nothing amiss"


def test_the_layers_are_those_of_the_authors_script(sample):
    model = NarrowBandCNN(bands=BANDS, **OUTPUTS)
    sizes = [
        tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Conv1d | nn.Linear)
    ]
    assert sizes == [(16, 1, 6), (16, 16, 8), (40, 16 * 4), (1, 40)]
    convolved = model.convolutions[:-2](torch.zeros(3, 1, len(BANDS)))
    assert convolved.shape == (3, 16, len(BANDS))


def test_the_brightness_of_a_spectrum_tells_nothing_and_its_shape_does(sample):
    model = make_model(sample)
    found = predict(model, sample)
    brighter = sample.assign(flux=sample["flux"] * 1000)
    np.testing.assert_allclose(predict(model, brighter), found, atol=1e-5)
    redder = sample.assign(flux=sample["flux"] * np.linspace(1, 1.3, len(BANDS)))
    assert np.median(np.abs(predict(model, redder) - found)) > 1e-3


def test_bands_are_found_by_name(sample):
    model = make_model(sample)
    shuffled = sample.isel(band=np.random.default_rng(0).permutation(len(BANDS)))
    np.testing.assert_array_equal(predict(model, shuffled), predict(model, sample))
    with pytest.raises(ValueError, match="none of the network's bands"):
        read_bands(sample.assign_coords(band=[name + "x" for name in BANDS]), BANDS)
    with pytest.raises(ValueError, match="lacks flux"):
        read_bands(sample.drop_vars("flux"), BANDS)


def test_statistics_make_the_inputs_standard(sample):
    model, seen = make_model(sample), []
    model.convolutions.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    predict(model, sample)
    x = seen[0][:, 0]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0, correction=0), 1, rtol=1e-3)
    assert float(model.out_mean) == pytest.approx(sample["log_age"].values.mean(), rel=1e-5)


@pytest.fixture(scope="module")
def bad():
    """One kind of bad flux per spectrum, with errors everywhere."""
    sample = make_galaxies(2, 4, noise=0.01).load()
    flux, error = sample["flux"].values, sample["flux_error"].values
    flux[0, 3], flux[1, 3], flux[2, 3] = np.nan, -99.0, -1e-9
    flux[3, 3] = 0.5 * error[3, 3]
    error[4, 3], error[5, 3] = 0.0, np.nan
    sample["mask"].values[6, 3] = True
    return sample


def test_bad_fluxes_are_missing_and_counted(bad):
    inputs = read_bands(bad.drop_sel(band="J0500"), BANDS)
    gone = inputs.mask.copy()
    assert gone[:, BANDS.index("J0500")].all()
    gone[:, BANDS.index("J0500")] = False
    assert gone[:7, 3].all() and gone.sum() == 7
    assert inputs.counts == {
        "fluxes masked": 1,
        "fluxes no data": 1,
        "fluxes sentinel": 1,
        "fluxes error not positive": 2,
        "fluxes not detected": 2,
        "bands unknown to the network, left out": 0,
        "bands not in the sample": 1,
    }
    whole = inputs.error[7, 4] / inputs.magnitude.dtype.type(MAG_PER_LN)
    assert whole == pytest.approx(float((bad["flux_error"] / bad["flux"])[7, 4]), rel=1e-5)


def test_without_a_mask_channel_a_gap_means_no_prediction(bad, sample):
    found = predict(make_model(sample), bad)
    assert np.isnan(found[:7]).all() and np.isfinite(found[7])


def test_what_is_missing_does_not_tell(bad, sample):
    model = make_model(sample, with_mask=True, with_errors=True)
    inputs = read_bands(bad, BANDS)
    other = BandInputs(
        np.where(inputs.mask, 7.0, inputs.magnitude), np.where(inputs.mask, 3.0, inputs.error), inputs.mask
    )
    np.testing.assert_array_equal(model.encode(inputs), model.encode(other))
    found = model.predict(model.encode(inputs))[0]
    assert np.isfinite(found).all()
    # Hidden bands leave the shape of the others alone: the mean is over those that are there.
    x = torch.from_numpy(model.encode(inputs))
    shifted = x.clone()
    shifted[:, : len(BANDS)] += 3.0
    torch.testing.assert_close(model(shifted)[0], model(x)[0], atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_mean_square_and_the_gaussian_one_torchs():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, len(BANDS), generator=rng), torch.randn(50, 1, generator=rng)
    y[7] = torch.nan
    plain, gaussian = (NarrowBandCNN(bands=BANDS, **OUTPUTS, gaussian=g) for g in (False, True))
    for model in (plain, gaussian):
        model.out_mean.fill_(0.5)
        model.out_scale.fill_(2.0)
    known = torch.isfinite(y[:, 0])
    mean = plain(x)[0] * 2.0 + 0.5
    values = band_loss(plain, {"x": x, "y": y}, None)
    assert values["mse"].item() == pytest.approx((mean - y)[known].square().mean().item(), rel=1e-5)
    assert values["loss"].item() == pytest.approx(values["mse"].item() / 4, rel=1e-5)
    mean, log_var = (value[known] for value in gaussian(x))
    expected = nn.functional.gaussian_nll_loss(mean, ((y - 0.5) / 2)[known], log_var.exp())
    assert band_loss(gaussian, {"x": x, "y": y}, None)["loss"].item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_added_noise_is_what_the_errors_say(sample):
    model = make_model(sample, with_mask=True, with_errors=True)
    x = torch.from_numpy(model.encode(read_bands(sample, BANDS))).repeat(20, 1)
    noisy = NoisyBands(model, sn=(30.0, 30.0), jitter=0.0, clean=0.25, gaps=0.0)
    found = noisy.disturb(x, torch.Generator().manual_seed(0))
    before, after = x[:, : len(BANDS)], found[:, : len(BANDS)]
    clean = (before == after).all(dim=1)
    assert clean.float().mean() == pytest.approx(0.25, abs=0.03)
    # One flux of noise per spectrum: 1/30 of that of the mean magnitude.
    off = (10 ** (0.4 * (before - after)) - 1)[~clean] * 10 ** (-0.4 * before[~clean])
    assert off.std() == pytest.approx(1 / 30, rel=0.02)
    pull = (after - before)[~clean] / 10 ** found[~clean, len(BANDS) : 2 * len(BANDS)]
    assert pull.std() == pytest.approx(1.0, abs=0.05) and (found[clean, len(BANDS)] == -3).all()


def test_faint_bands_are_lost_and_gaps_are_runs(sample):
    model = make_model(sample, with_mask=True, with_errors=True)
    x = torch.from_numpy(model.encode(read_bands(sample, BANDS))).repeat(5, 1)
    missing = slice(2 * len(BANDS), None)
    faint = NoisyBands(model, sn=(2.0, 2.0), clean=0.0, gaps=0.0)
    found = faint.disturb(x, torch.Generator().manual_seed(0))
    gone = found[:, missing] > 0
    assert 0.05 < gone.float().mean() < 0.5 and (found[:, : len(BANDS)][gone] == 0).all()
    gaps = NoisyBands(model, sn=(1e4, 1e4), clean=0.0, gaps=1.0).disturb(x, torch.Generator().manual_seed(0))
    share = (gaps[:, missing] > 0).float().mean(dim=0)
    assert share[0] > 0.4 and share[-1] > 0.4 and share[len(BANDS) // 2] < 0.25
    with pytest.raises(ValueError, match="takes errors in"):
        NoisyBands(make_model(sample))


def test_a_network_is_the_same_from_its_file(sample, tmp_path):
    model = make_model(sample, with_mask=True, with_errors=True, gaussian=True)
    x = model.encode(read_bands(sample, BANDS))
    path = store.save_model(tmp_path / "one", model, recipe={}, metrics={})
    loaded, _ = store.load_model(path, expected="NarrowBandCNN")
    for ours, theirs in zip(model.predict(x), loaded.predict(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": ["a", "a"]}, "comes twice"),
        ({"units": []}, "0 units for 1 outputs"),
        ({"kernels": (3, 3, 3)}, "two convolutions"),
        ({"bands": ["a", "b"]}, "cannot be pooled"),
    ],
)
def test_impossible_networks_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NarrowBandCNN(**{"bands": BANDS, **OUTPUTS} | options)


def test_empty_columns_and_other_widths_are_named(sample):
    model, inputs = make_model(sample), read_bands(sample, BANDS)
    hidden = np.zeros(inputs.mask.shape, bool)
    hidden[:, 5] = True
    with pytest.raises(ValueError, match=f"band {BANDS[5]} has no finite value"):
        model.set_statistics(inputs.hide(hidden), sample["log_age"].values[:, None])
    with pytest.raises(ValueError, match="output log_age has no finite value"):
        model.set_statistics(inputs, np.full((len(inputs), 1), np.nan))
    with pytest.raises(ValueError, match="do not fit this model"):
        model.predict(np.zeros((3, 7)))
