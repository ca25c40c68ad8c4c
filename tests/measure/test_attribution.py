"""Attributions add up, fall into the bands that matter, and filters are described by what they follow."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.measure.attribution import attribute, describe_filters, filter_patterns, share_by_index
from spectool.measure.indices import index_band
from spectool.models.chunked import ChunkedMLP

WAVELENGTH = np.arange(4900.0, 5500.0, 2.0)
N_CHUNKS = 7


def inside(name):
    low, high = index_band(name)
    return (low <= WAVELENGTH) & (high >= WAVELENGTH)


@pytest.fixture(scope="module")
def prepared():
    """Spectra in which metals deepen Mg b and Fe5335, age the rest."""
    rng = np.random.default_rng(0)
    log_z, age = rng.uniform(-1, 0.3, 200), rng.uniform(1, 10, 200)
    flux = 0.02 * rng.normal(size=(200, WAVELENGTH.size)) + 0.001 * age[:, None] * np.sin(WAVELENGTH / 30)
    for name in ("Mg b", "Fe5335"):
        flux[:, inside(name)] -= 0.2 * (log_z[:, None] + 1)
    columns = {"flux": (("galaxy", "wavelength"), flux.astype("f4"))}
    columns |= {"log_z_lw": ("galaxy", log_z, {"units": "dex"}), "age_lw": ("galaxy", age, {"units": "Gyr"})}
    return xr.Dataset(columns, coords={"wavelength": WAVELENGTH})


def make_model(n_filters=3):
    return ChunkedMLP(wavelength=WAVELENGTH, n_chunks=N_CHUNKS, n_filters=n_filters, hidden=(8, 4), seed=0)


@pytest.mark.parametrize("from_mean", [False, True])
def test_attributions_add_up_to_the_change_of_the_answer(prepared, from_mean):
    few, model = prepared.isel(galaxy=slice(40)), make_model()
    start = few["flux"].mean("galaxy").values if from_mean else np.zeros(WAVELENGTH.size, "f4")
    found = attribute(model, few, baseline=start if from_mean else None)
    change = model.predict(few["flux"].values)[:, 0] - model.predict(start[None])[0, 0]
    np.testing.assert_allclose(found["attribution"].sum("wavelength"), change, atol=1e-5)
    assert abs(found["gap"]).max() < 1e-5
    batches = attribute(model, few, baseline=start, batch_size=7)
    np.testing.assert_allclose(batches["attribution"], found["attribution"], atol=1e-7)
    with pytest.raises(ValueError, match="baseline has shape"):
        attribute(model, few, baseline=np.zeros(3))


class Linear(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.from_numpy(weight.astype("f4")))

    def forward(self, x):
        return x @ self.weight.T


def test_a_linear_network_attributes_weight_times_flux_and_an_ensemble_its_mean(prepared):
    weights = np.random.default_rng(1).normal(size=(2, 2, WAVELENGTH.size))
    found = attribute([Linear(w) for w in weights], prepared.isel(galaxy=slice(5)), steps=3)
    expected = prepared["flux"].values[:5] * weights[:, 0].mean(axis=0)
    np.testing.assert_allclose(found["attribution"], expected, atol=1e-5)


def test_shares_are_those_of_the_bands(prepared):
    weight = np.zeros((1, WAVELENGTH.size))
    weight[0, inside("Mg b")] = 3.0
    weight[0, inside("Fe5335")] = -1.0
    weight[0, WAVELENGTH == 5460.0] = 2.0  # in no band
    flat = prepared.assign(flux=xr.ones_like(prepared["flux"]))
    table = share_by_index(attribute(Linear(weight), flat, steps=2))
    size = {"Mg b": 3.0 * inside("Mg b").sum(), "Fe5335": 1.0 * inside("Fe5335").sum(), "elsewhere": 2.0}
    for name, value in size.items():
        assert float(table["share"].sel(index=name)) == pytest.approx(value / sum(size.values()), rel=1e-5)
    assert float(table["net"].sel(index="Fe5335")) == pytest.approx(-size["Fe5335"], rel=1e-5)
    assert float(table["share"].sel(index="Fe5015")) == 0
    assert "TiO₁" not in table["index"]  # no pixel is there
    assert table["gain"].sel(index="Mg b") > 5


def test_filters_are_found_where_they_were_put(prepared):
    model = make_model()
    chunk = int(model.chunk_index[inside("Mg b")][5])
    own = WAVELENGTH[model.chunk_index == chunk]
    low, high = index_band("Mg b")
    with torch.no_grad():
        model.weight[chunk, 1] = 0
        model.weight[chunk, 1, : own.size] = torch.from_numpy(((own > low) & (own < high)).astype("f4"))
    table = describe_filters(model, prepared)
    here = table.isel(chunk=chunk, filter=1)
    assert str(here["band"].values) == "Mg b" and float(here["band_share"]) == pytest.approx(1)
    assert low < float(here["peak"]) < high
    assert float(here["metallicity_rho"]) < -0.95 and int(here["sign"]) == -1


def test_filters_of_a_chunk_share_what_its_pixels_were_given(prepared):
    """With one filter per chunk the sizes are the same; in general the sum of sizes is at least that of the sum."""
    two = prepared.isel(galaxy=slice(2))
    for n_filters in (1, 3):
        model = make_model(n_filters)
        by_pixel = attribute(model, two, baseline=two["flux"].mean("galaxy").values)["attribution"].values
        sums = [by_pixel[:, model.chunk_index == k].sum(axis=1) for k in range(N_CHUNKS)]
        by_chunk = np.abs(sums).mean(axis=1)
        by_filter = describe_filters(model, two)["importance"].values
        assert (by_filter.sum(axis=1) >= by_chunk - 1e-6).all()
        if n_filters == 1:
            np.testing.assert_allclose(by_filter[:, 0], by_chunk, atol=1e-6)


def test_a_pattern_is_what_changes_the_output_not_the_weight(prepared):
    # Two pixels share a disturbance; the filter cancels it with a weight of the opposite sign (Haufe et al. 2014).
    rng = np.random.default_rng(0)
    signal, disturbance = rng.normal(size=(2, 4000))
    model = ChunkedMLP(wavelength=[5000.0, 5001.0], n_chunks=1, n_filters=1, hidden=(4,))
    flux = np.stack([signal + disturbance, disturbance], axis=1)
    with torch.no_grad():
        model.weight[0, 0] = torch.tensor([1.0, -1.0])
    pair = xr.Dataset({"flux": (("galaxy", "wavelength"), flux)}, coords={"wavelength": model.wavelength})
    np.testing.assert_allclose(filter_patterns(model, pair)[0, 0], [1, 0], atol=0.05)
    model = make_model()  # patterns of shorter chunks are padded
    patterns, lengths = filter_patterns(model, prepared), np.bincount(model.chunk_index)
    assert len(set(lengths)) == 2 and not patterns[lengths.argmin(), :, lengths.min() :].any()
