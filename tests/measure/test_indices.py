import numpy as np
import pytest
import xarray as xr

from spectool.measure.indices import (
    COMMON,
    D4000,
    LICK,
    MOLECULAR,
    index_band,
    measure_indices,
)
from spectool.spectra import air_to_vacuum

centres = np.geomspace(3700, 7900, 6000)


def make_sample(*spectra, **more):
    return xr.Dataset(
        {"flux": (("galaxy", "wavelength"), np.stack(spectra)), **more},
        coords={"wavelength": ("wavelength", centres, {"units": "Angstrom"})},
    )


def test_a_straight_continuum_has_no_lick_index_and_flat_f_nu_has_no_break():
    straight, flat_f_nu = 1 + 1e-4 * (centres - 5000), (5000 / centres) ** 2
    found = measure_indices(make_sample(straight, flat_f_nu), names=("D4000", *LICK))["index_value"]
    np.testing.assert_allclose(found.sel(index=list(LICK))[0], 0, atol=1e-3)
    assert float(found.sel(index="D4000")[1]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", list(LICK))
def test_a_box_of_known_depth_is_its_equivalent_width(name):
    low, high = air_to_vacuum(np.array(LICK[name][0]))
    third = (high - low) / 3
    inside = (centres > low + third) & (centres < high - third)
    flux = np.where(inside, 0.4, 1.0)
    width = np.gradient(centres)[inside].sum()
    found = float(measure_indices(make_sample(flux), names=[name])["index_value"][0, 0])
    if name in MOLECULAR:
        assert found == pytest.approx(-2.5 * np.log10(1 - 0.6 * width / (high - low)), rel=1e-3)
    else:
        assert found == pytest.approx(0.6 * width, rel=1e-3)
    assert index_band(name) == pytest.approx((low, high))


def test_bands_lie_where_their_names_say():
    for name, (band, blue, red) in LICK.items():
        assert blue[0] < blue[1] <= band[1] and band[0] <= red[0] < red[1], name
        assert blue[0] < band[0] and band[1] < red[1], name
        if name[-4:].isdigit():  # Fe4383 is near 4383 A
            assert band[0] - 25 < int(name[-4:]) < band[1] + 25, name


def test_the_break_is_the_ratio_of_its_bands():
    red = air_to_vacuum(np.array(D4000[1]))[0] - 10
    flux = np.where(red < centres, 1.7, 1.0) / centres**2
    assert float(measure_indices(make_sample(flux), names=["D4000"])["index_value"][0, 0]) == pytest.approx(
        1.7, rel=1e-3
    )


def test_scale_and_small_gaps_do_not_matter_and_large_gaps_give_nan():
    flux = 1 + 0.2 * np.sin(centres / 7)
    mask = np.zeros((3, centres.size), bool)
    mask[2] = (centres > 4840) & (centres < 4860)
    sample = make_sample(flux, 5 * flux, flux, mask=(("galaxy", "wavelength"), mask))
    found = measure_indices(sample)
    value = found["index_value"]
    np.testing.assert_allclose(value[0], value[1], rtol=1e-9)
    assert np.isnan(value[2].sel(index="Hβ"))
    assert np.isfinite(value[2].drop_sel(index="Hβ")).all()
    assert "1 without enough good pixels" in found.attrs["history"]
    assert tuple(found["index"].values) == COMMON


def test_an_unknown_index_and_the_observed_frame_are_refused():
    sample = make_sample(np.ones_like(centres))
    with pytest.raises(ValueError, match="no index TiO9"):
        measure_indices(sample, names=["TiO9"])
    with pytest.raises(ValueError, match="rest frame"):
        measure_indices(sample.rename_vars(wavelength="observed_wavelength"))


def test_old_populations_have_the_stronger_break(grid):
    young, old = (np.argmin(abs(grid.age - age)) for age in (3e8, 1e10))
    z = np.argmin(abs(grid.metallicity - 0.02))
    sample = xr.Dataset(
        {"flux": (("galaxy", "wavelength"), grid.flux[z, [young, old]])},
        coords={"wavelength": ("wavelength", grid.wavelength)},
    )
    found = measure_indices(sample, names=["D4000", "HδA", "Mg b"])["index_value"]
    assert float(found[0, 0]) < 1.25 < 1.8 < float(found[1, 0])
    assert float(found[0, 1]) > 6 and float(found[1, 1]) < 0
    assert float(found[1, 2]) > 3 > float(found[0, 2])


def test_metals_deepen_every_metal_index_of_old_populations(grid):
    old = np.argmin(abs(grid.age - 8e9))
    pair = [np.argmin(abs(grid.metallicity - z)) for z in (0.008, 0.02)]
    sample = xr.Dataset(
        {"flux": (("galaxy", "wavelength"), grid.flux[pair, old])},
        coords={"wavelength": ("wavelength", grid.wavelength)},
    )
    metals = [name for name in LICK if not name.startswith("H")]
    found = measure_indices(sample, names=metals)["index_value"].values
    assert (found[1] > found[0]).all()
