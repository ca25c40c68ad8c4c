"""Lines are as wide as `line_spread` says, in spectra that went through the telescope and the rebinning."""

import numpy as np
import pytest
import xarray as xr

from spectool.measure.line_spectra import line_spread
from spectool.measure.lines_linear import measure_lines_linear
from spectool.papers.scourfield2023.sample import rest_wavelength
from spectool.prepare import resample, to_rest_frame
from spectool.surveys.spectrograph import observe_sdss, sdss_wavelength
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize

CLOUDY = {"Hδ": 4102.888, "Hγ": 4341.68, "Hβ": 4862.678, "Hα": 6564.613}


def test_width_of_the_gas_comes_back_and_blue_lines_are_as_wide_as_they_should_be(grid):
    """Hα sets the width; were Hδ's wrong by the 20 km/s between the arms, its flux would be wrong by 12%."""
    galaxies = draw_population(250, grid_age=grid.age, seed=1, redshift_range=(0.024, 0.05))
    galaxies = galaxies.isel(galaxy=np.flatnonzero(~galaxies["is_quiescent"].values)[:120])
    native = grid.wavelength[(grid.wavelength > 3640) & (grid.wavelength < 8020)]
    rest = synthesize(galaxies, grid, wavelength=native, keep_lines=True, progress=False).drop_dims("age")
    seen = observe_sdss(rest, seed=1, wavelength=sdss_wavelength(3770, 8330), noise=False)
    sample = resample(to_rest_frame(seen), rest_wavelength())
    table = measure_lines_linear(sample, broad=False)
    bright = table["line_sn"].sel(line="Hα").values > 50
    assert bright.sum() > 30
    ratio = (table["gas_dispersion"] / sample["velocity_dispersion"]).values[bright]
    assert np.median(ratio) == pytest.approx(1, abs=0.04)
    places = rest["line_wavelength"].values
    true = {
        name: rest["line_luminosity"].values[:, np.abs(places - at).argmin()] for name, at in CLOUDY.items()
    }
    for name in ("Hδ", "Hγ", "Hβ"):
        decrement = (table["line_flux"].sel(line=name) / table["line_flux"].sel(line="Hα")).values
        clear = table["line_sn"].sel(line=name).values > 10
        assert clear.sum() > 30
        assert np.median(decrement[clear] / (true[name] / true["Hα"])[clear]) == pytest.approx(1, abs=0.025)


def test_a_sample_says_what_its_resolution_is():
    wavelength = np.array([4000.0, 5000.0, 6500.0])
    bare = xr.Dataset(coords={"wavelength": wavelength})
    np.testing.assert_array_equal(line_spread(bare, wavelength), 70.0)
    templates = line_spread(bare.assign_attrs(fwhm=2.5), wavelength)
    np.testing.assert_allclose(templates * wavelength, 2.5 / np.sqrt(8 * np.log(2)) * 299792.458)
    given = bare.assign(lsf_sigma=("wavelength", [90.0, 80.0, 70.0]))
    np.testing.assert_allclose(line_spread(given, np.array([4500.0, 6500.0])), [85.0, 70.0])
    real = line_spread(bare.assign_attrs(survey="SDSS"), wavelength)
    mock = line_spread(bare.assign_attrs(survey="SDSS (simulated)", fwhm=2.5), wavelength)
    assert (np.diff(real) < 0).all()
    assert (mock > np.maximum(real, templates)).all()
    expected = np.hypot(299792.458 / 2.3548 / 1961.3, 69.03 / np.sqrt(12))
    np.testing.assert_allclose(real[1], expected, rtol=1e-3)
