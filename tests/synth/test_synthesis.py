"""Synthesis: identities (energy, linearity, line flux), labels, memory, and what happens to bad input."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from spectool.spectra import pixel_edges, sps_wavelength
from spectool.synth import SSPGrid, describe, sfh, synthesize
from spectool.synth import synthesis as module

GALAXY = {"log_z_star": -0.2, "log_z_gas": -0.3, "log_u": -3.0, "velocity_dispersion": 120.0}
GALAXY |= {"dust1": 0.3, "dust2": 0.4, "dust_index": -0.7, "qpah": 2.0, "umin": 1.0, "gamma": 0.02}
CLEAR = {"dust1": 0.0, "dust2": 0.0}
COARSE = {"wavelength": np.arange(4000.0, 7000.0, 2.0), "progress": False}


def make_galaxies(grid, n=4, **columns):
    galaxies = xr.Dataset({name: ("galaxy", np.full(n, value)) for name, value in (GALAXY | columns).items()})
    histories = sfh.delayed_tau(grid.age_edges, np.linspace(2e9, 1.2e10, n), np.linspace(5e8, 8e9, n))
    return galaxies.assign(mass_formed=(("galaxy", "age"), 1e10 * histories))


def test_energy_absorbed_is_energy_reemitted(broadband):
    width = np.diff(broadband.edges)
    dusty = synthesize(make_galaxies(broadband), broadband, dust_emission=True, progress=False)
    bare = synthesize(make_galaxies(broadband, **CLEAR), broadband, progress=False)
    assert np.allclose(dusty.flux.values @ width, bare.flux.values @ width, rtol=1e-4)


def test_dust_takes_what_the_law_says(grid):
    histories = {"mass_formed": (("galaxy", "age"), 1e10 * sfh.constant(grid.age_edges, [5e9], [1e9]))}
    dusty, bare = (
        synthesize(make_galaxies(grid, 1, **dust).assign(histories), grid, nebular=False, **COARSE).flux
        for dust in ({"dust2": 0.5, "dust_index": -1.1}, CLEAR)
    )
    ratio = dusty / bare
    assert np.allclose(ratio, np.exp(-0.5 * (ratio.wavelength / 5500) ** -1.1), rtol=2e-4)


def test_mass_batches_and_constant_histories(grid):
    """Twice the mass is twice the light, whatever the batch; a metallicity history of one value is the constant."""
    galaxies = make_galaxies(grid, 7)
    first = synthesize(galaxies, grid, **COARSE)
    second = synthesize(galaxies.assign(mass_formed=2 * galaxies.mass_formed), grid, batch_size=2, **COARSE)
    assert np.allclose(second.flux, 2 * first.flux, rtol=1e-5)
    assert np.allclose(second.log_mass - first.log_mass, np.log10(2))
    assert np.allclose(second.age_lw, first.age_lw)
    history = galaxies.assign(log_z_star=galaxies.log_z_star.broadcast_like(galaxies.mass_formed))
    assert np.allclose(synthesize(history, grid, **COARSE).flux, first.flux, rtol=1e-4)


def test_lines_carry_their_luminosity_whatever_the_pixels_and_the_broadening(grid):
    for dispersion in (30.0, 300.0):
        galaxies = make_galaxies(grid, velocity_dispersion=dispersion)
        for wavelength in (sps_wavelength(), np.arange(4600.0, 7000.0, 3.0)):
            options = {"wavelength": wavelength, "progress": False}
            total = synthesize(galaxies, grid, keep_lines=True, **options)
            stars = synthesize(galaxies, grid, nebular=False, **options)
            width = np.diff(pixel_edges(wavelength))
            near = np.abs(wavelength - 6565) < 100
            smooth = np.abs(wavelength - 6565) > 70
            gas = (total.flux - stars.flux).values
            level = gas[:, near & smooth].mean(1)
            measured = ((gas - level[:, None]) * width)[:, near & ~smooth].sum(1)
            inside = np.abs(total.line_wavelength - 6560) < 60
            assert np.allclose(measured, total.line_luminosity[:, inside.values].sum("line"), rtol=0.01)


def test_broadening_conserves_flux_and_widens_as_it_says(grid):
    wavelength = np.arange(4000.0, 7000.0, 1.0)
    spike = np.zeros(grid.flux.shape, "f4") + 1.0
    pixel = int(np.abs(grid.wavelength - 5500).argmin())
    spike[..., pixel] += 1000.0
    toy = SSPGrid(**{**vars(grid), "flux": spike})
    galaxies = make_galaxies(toy, 1, velocity_dispersion=200.0, **CLEAR)
    galaxies["mass_formed"] = galaxies.mass_formed / galaxies.mass_formed.sum()
    made = synthesize(galaxies, toy, wavelength=wavelength, nebular=False, progress=False)
    flux = made.flux.values[0] - 1.0
    assert np.isclose(flux.sum(), 1000 * np.diff(grid.edges)[pixel], rtol=1e-3)
    centre = (flux * wavelength).sum() / flux.sum()
    sigma = np.sqrt((flux * (wavelength - centre) ** 2).sum() / flux.sum())
    assert np.isclose(sigma, 200.0 / 299792.458 * 5500, rtol=0.02)


def test_labels_of_a_single_population(grid):
    mass = 1e10 * (np.arange(len(grid.age)) == 60)[None]
    galaxies = make_galaxies(grid, 1, log_z_star=np.log10(grid.metallicity[4] / grid.z_sun))
    labels = describe(galaxies.assign(mass_formed=(("galaxy", "age"), mass)), grid)
    assert np.isclose(labels.age_lw[0], grid.age[60] / 1e9) and np.isclose(labels.log_z_lw[0], 0)
    assert np.isclose(labels.log_mass[0], 10 + np.log10(grid.surviving_mass[4, 60]))
    assert labels.log_sfr[0] == -np.inf


def test_gas_metallicity_moves_lines_and_leaves_the_ionising_budget(grid):
    options = COARSE | {"keep_lines": True}
    made = (synthesize(make_galaxies(grid, log_z_gas=z), grid, **options) for z in (-0.7, 0.0))
    poor, rich = (galaxies.line_luminosity.sel(line=["N 2 6583", "H 1 6563"]).values.T for galaxies in made)
    assert (rich[0] / rich[1] > 2 * poor[0] / poor[1]).all()
    assert np.allclose(poor[1] / rich[1], 1, atol=0.15)


def test_zarr_store_equals_memory_and_goes_on_after_an_interruption(grid, tmp_path, monkeypatch):
    galaxies = make_galaxies(grid, 7)
    options = {"wavelength": np.arange(5000.0, 6000.0, 2.0), "batch_size": 2, "progress": False}
    expected = synthesize(galaxies, grid, **options)
    real, calls = module._synthesize_batch, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_synthesize_batch", interrupted)
    store = tmp_path / "sample.zarr"
    with pytest.raises(KeyboardInterrupt):
        synthesize(galaxies, grid, store=store, **options)
    stored = synthesize(galaxies, grid, store=store, **options)
    assert len(calls) == 5, "the two batches that were done are not made again"
    assert stored.flux.chunks is not None
    xr.testing.assert_allclose(stored.load().drop_attrs(), expected.drop_attrs(), rtol=1e-4)
    with pytest.raises(ValueError, match="holds another sample"):
        synthesize(galaxies.assign(dust2=galaxies.dust2 + 1), grid, store=store, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from Linux's /proc")
def test_memory_stays_below_1_3_times_the_output(root):
    """A quarter of the 100,000 spectra: above the interpreter's own, memory peaks at the output and little more."""
    code = """
import re
from spectool.synth.grid import embedded_grid
from spectool.synth import synthesize
from spectool.spectra import sps_wavelength
from tests.synth.test_synthesis import make_galaxies
grid = embedded_grid()
one = make_galaxies(grid, 1).isel(galaxy=[0])
# Not getrusage: its peak is inherited from the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
make = lambda n: synthesize(one.isel(galaxy=[0] * n), grid, wavelength=sps_wavelength(), progress=False)
make(1024)
before = peak()
out = make(25000)
print((peak() - before) / out.flux.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert 0.5 < float(done.stdout) < 1.3


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda g: g.drop_vars("log_u"), {}, "lack the columns log_u"),
        (lambda g: g.assign(dust2=g.dust2.where(g.galaxy != 2)), {}, "dust2 is not finite for 1 .* is row 2"),
        (lambda g: g.assign(velocity_dispersion=-g.dust1), {}, "velocity_dispersion holds negative"),
        (lambda g: g.isel(age=slice(0, 5)), {}, "5 age bins, the grid 83"),
        (lambda g: g, {"wavelength": np.arange(500.0, 2000.0)}, "reach beyond the grid"),
        (lambda g: g, {"dust_emission": True}, "broadband"),
        (lambda g: g, {"label_range": (1e5, 2e5)}, "label_range .* lies outside the grid"),
    ],
)
def test_bad_columns_and_what_the_grid_cannot_do_are_named(grid, change, options, message):
    galaxies = make_galaxies(grid).assign_coords(galaxy=np.arange(4))
    with pytest.raises(ValueError, match=message):
        synthesize(change(galaxies), grid, progress=False, **options)
