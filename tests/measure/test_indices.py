"""Indices of spectra whose indices can be calculated, and of populations whose trends are known."""

import numpy as np
import pytest

from spectool.measure.indices import COMMON, D4000, LICK, MOLECULAR, index_band, measure_indices
from spectool.spectra import air_to_vacuum
from tests.refusals import refused
from tests.samples import make_spectra

centres = np.geomspace(3700, 7900, 6000)


def make_sample(*spectra, wavelength=centres, **more):
    return make_spectra(np.stack(spectra), wavelength, **more)


def measure(*spectra, names, **more):
    return measure_indices(make_sample(*spectra, **more), names=names)["index_value"].values


def test_a_straight_continuum_has_no_lick_index_and_the_break_is_the_ratio_of_its_bands():
    straight, flat_f_nu = 1 + 1e-4 * (centres - 5000), (5000 / centres) ** 2
    np.testing.assert_allclose(measure(straight, names=LICK), 0, atol=1e-3)
    red = air_to_vacuum(np.array(D4000[1]))[0] - 10
    broken = np.where(red < centres, 1.7, 1.0) * flat_f_nu
    assert measure(flat_f_nu, broken, names=["D4000"])[:, 0] == pytest.approx([1, 1.7], rel=1e-3)


@pytest.mark.parametrize("name", LICK)
def test_a_box_of_known_depth_is_its_equivalent_width(name):
    low, high = air_to_vacuum(np.array(LICK[name][0]))
    third = (high - low) / 3
    inside = (centres > low + third) & (centres < high - third)
    expected = 0.6 * np.gradient(centres)[inside].sum()
    if name in MOLECULAR:
        expected = -2.5 * np.log10(1 - expected / (high - low))
    found = measure(np.where(inside, 0.4, 1.0), names=[name])[0, 0]
    assert found == pytest.approx(expected, rel=1e-3)
    assert index_band(name) == pytest.approx((low, high))


def test_scale_and_small_gaps_do_not_matter_large_gaps_give_nan_and_nonsense_is_refused():
    flux = 1 + 0.2 * np.sin(centres / 7)
    mask = np.zeros((3, centres.size), bool)
    mask[2] = (centres > 4840) & (centres < 4860)
    found = measure_indices(make_sample(flux, 5 * flux, flux, mask=mask))
    value = found["index_value"]
    np.testing.assert_allclose(value[0], value[1], rtol=1e-9)
    assert np.isnan(value[2].sel(index="Hβ"))
    assert np.isfinite(value[2].drop_sel(index="Hβ")).all()
    assert "1 without enough good pixels" in found.attrs["history"]
    assert tuple(found["index"].values) == COMMON
    sample = make_sample(np.ones_like(centres))
    refused("no index TiO9", measure_indices, sample, names=["TiO9"])
    refused("rest frame", measure_indices, sample.rename_vars(wavelength="observed_wavelength"))


def test_old_populations_have_the_stronger_break_and_metals_deepen_every_metal_index(grid):
    young, middle, old = (np.argmin(abs(grid.age - age)) for age in (3e8, 8e9, 1e10))
    poor, sun = (np.argmin(abs(grid.metallicity - z)) for z in (0.008, 0.02))
    metals = [name for name in LICK if not name.startswith("H")]
    found = measure(*grid.flux[sun, [young, old]], names=["D4000", "HδA", "Mg b"], wavelength=grid.wavelength)
    assert found[0, 0] < 1.25 < 1.8 < found[1, 0]
    assert found[0, 1] > 6 and found[1, 1] < 0
    assert found[1, 2] > 3 > found[0, 2]
    found = measure(*grid.flux[[poor, sun], middle], names=metals, wavelength=grid.wavelength)
    assert (found[1] > found[0]).all()
