"""Pipe3D's table of NGC 4047 (Sb), a real CALIFA galaxy: positions, units, and its gradients."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from spectool.measure.gradients import add_radius, fit_gradients
from spectool.spectra import Z_SUN
from spectool.surveys.tables import read_pipe3d

# edge_pydb/dat_glob/external/edge_leda.csv and califa/edge_califa.csv
LEDA = {"center": (180.7111065, 48.6362161), "position_angle": 99.87, "inclination": 41.31}
RE = 18.598  # arcsec
COLUMNS = ["log_age_fit", "log_z_fit"]


@pytest.fixture(scope="module")
def path():
    """In the package's folder: importing it would write a file there."""
    folder = Path(find_spec("edge_pydb").submodule_search_locations[0])
    return folder / "img_califa" / "NGC4047_allpix.pipe3d.hdf5"


@pytest.fixture(scope="module")
def table(path):
    return Table.read(path, path="SSP", format="hdf5")


def with_radii(sample):
    where = {k: v for k, v in LEDA.items() if k != "center"}
    return add_radius(sample, re=RE, **where)


def test_positions_are_those_of_the_package(table):
    sample = with_radii(read_pipe3d(table, center=LEDA["center"], by_zone=False))
    rows = np.isfinite(table["age_lwt"])
    assert sample.sizes["spectrum"] == rows.sum() == 4282
    assert "no age, metallicity or dust: 1262 spaxels" in sample.attrs["history"]
    # their radii, by other code and in single precision
    np.testing.assert_allclose(sample["radius"] * RE, table["rad_arc"][rows], atol=0.03)
    np.testing.assert_allclose(sample["log_age_fit"], table["age_lwt"][rows] - 9, atol=1e-6)
    assert sample["galaxy_name"].item() == "NGC4047"
    # LEDA's centre is the light's to within a spaxel
    light = read_pipe3d(table, by_zone=False)
    assert np.abs(light["x"] - sample["x"]).max() < 1
    assert np.abs(light["y"] - sample["y"]).max() < 1


def test_the_solar_metallicity_is_that_of_the_table(path, table):
    history = Table.read(path, path="SFH", format="hdf5")
    names = [name for name in history.colnames if name.startswith("lumfrac_met")]
    share = np.nan_to_num(np.stack([np.asarray(history[name], float) for name in names], axis=1))
    log_z = share @ np.log10([float(name.split("_")[-1]) for name in names]) / share.sum(axis=1).clip(0.1)
    rows = np.isfinite(table["ZH_lwt"]) & (share.sum(axis=1) > 0.9)
    solar = 10 ** (log_z - np.asarray(table["ZH_lwt"], float))[rows]
    assert np.median(solar) == pytest.approx(Z_SUN, rel=1e-3)


def test_the_column_of_age_errors_holds_none(table):
    np.testing.assert_allclose(table["e_age_lwt"], table["age_mwt"] - 9, atol=1e-5)


def test_gradients_of_a_real_galaxy(path):
    sample = with_radii(read_pipe3d(path, center=LEDA["center"]))
    assert sample.sizes["spectrum"] == 1098
    found = fit_gradients(sample, columns=COLUMNS, seed=1)
    inside = sample["radius"].values < 1
    assert found["n_inside"].item() == inside.sum()
    for column in COLUMNS:
        slope, central = np.polyfit(sample["radius"].values[inside], sample[column].values[inside], 1)
        error = found[f"{column}_gradient_error"].item()
        assert found[f"{column}_gradient"].item() == pytest.approx(slope, abs=0.3 * error)
        assert found[f"{column}_central"].item() == pytest.approx(central, abs=0.01)
        # discs of CALIFA are older and richer in metals inside (Gonzalez Delgado et al. 2015)
        assert found[f"{column}_gradient"].item() < -5 * error
        assert 0.005 < error < 0.05


def test_zones_counted_by_their_spaxels_move_the_gradient(table):
    by_zone, by_spaxel = (
        fit_gradients(
            with_radii(read_pipe3d(table, center=LEDA["center"], by_zone=z)), columns=COLUMNS, seed=1
        )
        for z in (True, False)
    )
    # the outer zones, of many spaxels each, weigh more: 813 spaxels are 628 zones
    assert by_spaxel["n_inside"] > by_zone["n_inside"]
    assert by_spaxel["log_age_fit_gradient"] > by_zone["log_age_fit_gradient"]


def test_what_is_wrong_is_told(tmp_path, table):
    with pytest.raises(FileNotFoundError):
        read_pipe3d(tmp_path / "nowhere.hdf5")
    (tmp_path / "text.hdf5").write_text("no table")
    with pytest.raises(ValueError, match=r"text.hdf5: cannot be read as Pipe3D"):
        read_pipe3d(tmp_path / "text.hdf5")
    small = table["ra_abs", "dec_abs", "age_lwt", "ZH_lwt", "Av_ssp", "cont_segm", "Vcont_ssp"][
        2600:2700
    ].copy()
    with pytest.raises(ValueError, match="no column ZH_lwt"):
        read_pipe3d(small["ra_abs", "dec_abs", "age_lwt", "Av_ssp", "cont_segm", "Vcont_ssp"])
    odd = small.copy()
    odd["age_lwt"].unit = None
    with pytest.raises(ValueError, match=r"column age_lwt is in no unit, not in dex\(Gyr\)"):
        read_pipe3d(odd)
    odd = small.copy()
    odd["age_lwt"][:3] = 99
    good = np.isfinite(small["age_lwt"][3:]).sum()
    sample = read_pipe3d(odd, by_zone=False)
    assert sample.sizes["spectrum"] == good
    assert "impossible age: 3 spaxels" in sample.attrs["history"]
    odd["age_lwt"][:] = np.nan
    with pytest.raises(ValueError, match="none of 100 spaxels"):
        read_pipe3d(odd)
