"""A speed counts only for results as good as the peer's or the paper's, on the same data."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

from benchmarks import lines, metallicity, narrowband, sednet, synthesis, training_set
from spectool.continuum import stack_wavelength
from spectool.papers.surana2020.network import TABLE_3
from spectool.papers.zahid2019.sample import make_sample, training_table
from tests.ifu_toy import BANDS, make_galaxies

FLUX = np.linspace(10, 100, 20)
SMALL, LARGE = np.full(20, 0.1), np.full(20, 2.0)
SPECTRA = np.random.default_rng(0).uniform(1, 2, (3, 100))
PIXELS = np.linspace(3000, 9000, 100)
SETS = {"spectrum": 0.02, "galaxy": 0.15}
SIGMA = {name: {"sigma": row["sigma"]} for name, row in TABLE_3.items()}
WORSE_SETS, WORSE_SIGMA = SETS | {"galaxy": 0.2}, SIGMA | {"log_sfr": {"sigma": 0.2}}


def table(values):
    return xr.Dataset({"log_z_predicted": ("galaxy", values)})


ACCEPTED = {
    "lines to 2%": (lines.require_equal_fluxes, FLUX, FLUX * 1.01, SMALL),
    "lines to 0.3 errors": (lines.require_equal_fluxes, FLUX, FLUX * 1.009, LARGE),
    "spectra": (synthesis.require_agreement, SPECTRA, SPECTRA * 1.01, PIXELS),
    "metallicities": (metallicity.require_agreement, [0.1, -0.2, -0.5], table([0.11, -0.2])),
    "narrow bands": (narrowband.require_scatter, SETS, narrowband.LIMITS),
    "broad bands": (sednet.require_scatter, SIGMA, TABLE_3),
}
REFUSED = {
    "fluxes differ from the peer's by 5.0%": (lines.require_equal_fluxes, FLUX, FLUX * 1.05, SMALL),
    "only 0 lines are strong enough": (lines.require_equal_fluxes, FLUX, FLUX, FLUX),
    "not those of the peer": (synthesis.require_agreement, SPECTRA, SPECTRA * 1.2, PIXELS),
    r"off by 0\.100 dex": (metallicity.require_agreement, [0.1, -0.2, -0.5], table([0.2, -0.1])),
    r"by galaxy 0\.200 dex \(paper 0\.160\)": (narrowband.require_scatter, WORSE_SETS, narrowband.LIMITS),
    r"log_sfr 0\.2000 dex \(paper 0\.1643\)": (sednet.require_scatter, WORSE_SIGMA, TABLE_3),
}


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_a_speed_for_the_same_results_counts(case):
    require, *given = case
    require(*given)


@pytest.mark.parametrize("message", REFUSED)
def test_a_speed_for_other_results_does_not_count(message):
    require, *given = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        require(*given)


def test_both_ways_make_the_same_training_spectra_and_others_do_not_count(grid):
    rows = training_table().isel(galaxy=slice(100, None, 2205))
    ours = make_sample(grid, table=rows, dtype="float32")["flux"].values
    theirs = training_set.make_directly(rows, grid)
    training_set.require_same(ours, theirs)
    with pytest.raises(ValueError, match="they differ by"):
        training_set.require_same(ours, np.roll(theirs, 1, axis=0))


def test_the_peer_gets_the_same_dust():
    p = synthesis.draw_parameters(4)
    dust = synthesis.bagpipes_components(p, 2)["dust"]
    towards_young = dust["eta"] * dust["Av"] / 1.0857362
    np.testing.assert_allclose(towards_young, p["tau_birth"][2] + p["tau_diffuse"][2])


def test_the_map_holds_the_galaxies_in_order_and_then_again(rng, tmp_path):
    wavelength, dims = stack_wavelength(), ("galaxy", "wavelength")
    flux = 1 + rng.random((3, 1)) * (wavelength / 5000 - 1)
    columns = {"flux": flux, "ivar": np.full(flux.shape, 400.0), "mask": np.zeros(flux.shape, bool)}
    sample = xr.Dataset(
        {name: (dims, values) for name, values in columns.items()} | {"norm": ("galaxy", np.ones(3))},
        coords={"wavelength": wavelength},
    )
    metallicity.write_map(tmp_path, sample, np.array([0.0, 100.0, 200.0]), 10)
    written = np.load(tmp_path / "flux.npy")
    stored = xr.load_dataset(tmp_path / "table.nc", engine="h5netcdf")
    rows = np.array([0, 100, 200]).searchsorted(stored["extra_fwhm"].values)
    assert rows[:3].tolist() == [0, 1, 2] and written.shape == (10, 3251)
    np.testing.assert_allclose(written, flux[rows][:, 350:3601], rtol=1e-3)
    np.testing.assert_allclose(stored["chunk_sigma"].values.mean(), 0.05, rtol=0.2)


def test_a_million_spectra_are_those_of_the_sample_in_other_brightness():
    sample = make_galaxies(3, 4)
    many = narrowband.repeat(sample, 30)
    assert many.sizes == {"spectrum": 30, "band": len(BANDS)}
    ratio = many["flux"].values[12:24] / sample["flux"].values
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(len(BANDS)), rtol=1e-5)
    repeated, once = (narrowband.trees_inputs(some, BANDS)[:12] for some in (many, sample))
    np.testing.assert_allclose(repeated, once, atol=1e-5)


def test_rows_of_networks_and_peers_are_measured_on_the_same_galaxies(monkeypatch):
    monkeypatch.setattr(narrowband, "train_boosting", partial(narrowband.train_boosting, n_iterations=5))
    rows = narrowband.measure(make_galaxies(8, 20), n=1000, n_peer=100, limits={}, epochs=1)
    assert [row["name"] for row in rows] == ["cnn_training_seconds", "narrowband_1e6_seconds"]
    assert "same sixteen tasks" in rows[0]["peer"] and "of 100 spectra" in rows[1]["peer"]
    assert all(row["value"] > 0 and row["peer_value"] > 0 for row in rows)
    monkeypatch.setattr(sednet, "N_PEER", 20)
    sample, library = sednet.make_data(200, 1500)
    assert not sample["mask"].any()
    rows = sednet.measure(sample, library, epochs=2, limits={})
    assert [row["name"] for row in rows] == ["sednet_training_seconds", "sednet_galaxies_per_second"]
    assert "1770 s" in rows[0]["peer"] and "1500 models" in rows[1]["peer"]
    assert "on 40 test galaxies" in rows[0]["peer"]
