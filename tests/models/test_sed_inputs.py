"""Samples of fluxes as networks take them: names, units, and every kind of bad value."""

import numpy as np
import pytest
import xarray as xr

from spectool.models.bands import join_inputs, read_inputs
from spectool.surveys.gama import BANDS
from tests.models.sed_toy import make_galaxies

NAMES = list(BANDS)


@pytest.fixture
def sample():
    return make_galaxies(40)


def both(first, second):
    """Bands of two samples in one."""
    return xr.concat([first, second], "band", data_vars="minimal", coords="minimal", compat="override")


def test_order_and_units_do_not_matter(sample):
    mixed = sample.isel(band=np.random.default_rng(0).permutation(len(NAMES)))
    for name in ("flux", "flux_error"):
        mixed[name] = (mixed[name] * 1e3).assign_attrs(units="mJy")
    plain, found = read_inputs(sample, NAMES), read_inputs(mixed.transpose("band", "galaxy"), NAMES)
    np.testing.assert_allclose(found.flux, plain.flux, rtol=1e-12)
    np.testing.assert_allclose(found.error, plain.error, rtol=1e-12)
    np.testing.assert_array_equal(plain.flux, sample["flux"])
    assert not plain.mask.any()


def test_bad_values_are_missing_and_counted_once(sample):
    flux, error = sample["flux"].values, sample["flux_error"].values
    flux[0, 0], flux[1, 1], flux[2, 2], flux[3, 3] = np.nan, -99, 9999, np.inf
    error[4, 4], error[5, 5], error[6, 6] = 0, -1, np.nan
    sample["mask"].values[7, 7] = True
    flux[7, 7] = np.nan
    found = read_inputs(sample, NAMES)
    expected = np.zeros(flux.shape, bool)
    expected[range(8), range(8)] = True
    np.testing.assert_array_equal(found.mask, expected)
    names = ("fluxes masked", "fluxes no data", "fluxes sentinel", "fluxes error not positive")
    assert [found.counts[name] for name in names] == [1, 2, 2, 3]
    assert "fluxes sentinel: 2" in found.describe()


def test_negative_fluxes_are_measurements(sample):
    sample["flux"].values[3, 5] = -1e-6
    before = int((sample["flux"].values < 0).sum())
    found = read_inputs(sample, NAMES)
    assert found.flux[3, 5] == -1e-6 and not found.mask[3, 5]
    assert found.counts["negative fluxes, kept"] == before


def test_absent_bands_are_missing_and_unknown_ones_left_out(sample):
    other = sample.isel(band=[4]).assign_coords(band=["unheard-of"])
    found = read_inputs(both(sample.sel(band=["r", "g"]), other), NAMES)
    assert found.mask.sum(axis=1).tolist() == [19] * 40
    assert not found.mask[:, [NAMES.index("g"), NAMES.index("r")]].any()
    assert found.counts["bands not in the sample"] == 19
    assert found.counts["bands unknown to the network, left out"] == 1
    with pytest.raises(ValueError, match="none of the network's bands"):
        read_inputs(other, NAMES)


def test_magnitudes_are_not_taken_for_fluxes(sample):
    magnitudes = -2.5 * np.log10(np.maximum(sample["flux"], 1e-7) / 3631)
    wrong = sample.assign(flux=magnitudes.assign_attrs(units="Jy"))
    with pytest.raises(ValueError, match="look like magnitudes"):
        read_inputs(wrong, NAMES)
    few = sample.copy(deep=True)
    few["flux"].values[3] = magnitudes.values[3]
    found = read_inputs(few, NAMES)
    assert found.mask.all(axis=1).nonzero()[0].tolist() == [3]
    assert found.counts["fluxes that look like magnitudes"] == 21


def test_a_unit_is_never_guessed(sample):
    with pytest.raises(ValueError, match="flux has no unit"):
        read_inputs(sample.assign(flux=sample["flux"].assign_attrs(units="")), NAMES)
    with pytest.raises(ValueError, match="no flux per frequency"):
        read_inputs(sample.assign(flux=sample["flux"].assign_attrs(units="mag(AB)")), NAMES)
    with pytest.raises(ValueError, match="no flux per frequency"):
        read_inputs(sample.assign(flux=sample["flux"].assign_attrs(units="erg / s")), NAMES)


def test_duplicates_and_lacking_columns_are_named(sample):
    with pytest.raises(ValueError, match="bands come twice: g"):
        read_inputs(both(sample, sample.sel(band=["g"])), NAMES)
    with pytest.raises(ValueError, match="lacks flux_error"):
        read_inputs(sample.drop_vars("flux_error"), NAMES)


def test_parts_join_to_the_whole(sample):
    whole = read_inputs(sample, NAMES)
    again = join_inputs(whole.take(slice(0, 10)), whole.take(np.arange(10, 40)))
    np.testing.assert_array_equal(again.flux, whole.flux)
    assert len(again) == 40
