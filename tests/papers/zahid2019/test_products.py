"""The selection takes star-forming galaxies, not active ones, whatever the sign in the paper's eq. 4."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.zahid2019 import sample as zahid2019
from tools.command import write_table
from tools.make import zahid2019_selection as selection

NAMES = ["Hβ", "[O III] 5007", "Hα", "[N II] 6583"]


def make_table(rows):
    """A table of (r, log M, line fluxes, S/N of Hb, Ha and [N II])."""
    flux = np.array([row[2] for row in rows], float)
    sn = np.array([[row[3][0], 9.0, *row[3][1:]] for row in rows], float)
    return xr.Dataset(
        {
            "r_magnitude": ("galaxy", [row[0] for row in rows]),
            "log_mass": ("galaxy", [row[1] for row in rows]),
            "line_flux": (("galaxy", "line"), flux),
            "line_sn": (("galaxy", "line"), sn),
        },
        coords={"line": NAMES},
    )


HII, GOOD = [10, 10, 30, 10], [5, 9, 5]


def test_every_cut_takes_what_it_should():
    galaxies = [(17.0, 10.0), (17.8, 10.0), (17.0, 8.4), (17.0, 11.6)]
    rows = [(*galaxy, HII, GOOD) for galaxy in galaxies]
    rows += [(17.0, 10.0, HII, sn) for sn in ([4.9, 9, 5], [5, 4.9, 5], [5, 9, 4.9])]
    fluxes = ([10, 80, 30, 30], [10, 0.1, 30, 28], [10, -1, 30, 10], [10, np.nan, 30, 10])
    table = make_table(rows + [(17.0, 10.0, flux, GOOD) for flux in fluxes])
    passed, counts = selection.select(table)
    np.testing.assert_array_equal(np.flatnonzero(passed), [0, 9])
    assert list(counts.values()) == [10, 8, 7, 6, 5, 2] and tuple(counts) == selection.CUTS


def test_eq_4_as_printed_selects_the_active_ones():
    """A Seyfert's and an HII region's ratios: the printed sign takes the first, ours the second."""
    ratios = {"Seyfert": (-0.1, 0.9), "HII": (-0.5, -0.2)}
    for name, (log_n2, log_o3) in ratios.items():
        printed = log_o3 > 0.61 / (log_n2 - 0.05) + 1.3
        flux = [10, 10 * 10**log_o3, 30, 30 * 10**log_n2]
        passed, _ = selection.select(make_table([(17.0, 10.0, flux, GOOD)]))
        assert printed == (name == "Seyfert") and passed[0] == (name == "HII")


def test_products_are_read_by_name(tmp_path):
    stored = xr.Dataset({"candidate": ("galaxy", np.array([4, 9], "i4"), {"units": ""})})
    stored.to_netcdf(tmp_path / "some.nc", engine="h5netcdf")
    assert zahid2019.read_products("null", path=tmp_path / "some.nc").identical(stored)
    with pytest.raises(ValueError, match="no sample 'all'; choose from main, null"):
        zahid2019.read_products("all")


def test_columns_are_kept_to_their_step_in_little_space(tmp_path, rng):
    n, path = 20_000, tmp_path / "some.nc"
    numbers = np.sort(rng.choice(10**6, n, replace=False)).astype("i4")
    sample = xr.Dataset(
        {
            "candidate": ("galaxy", numbers, {"units": ""}),
            "log_z_lw": ("galaxy", rng.normal(-0.4, 0.3, n), {"units": "dex"}),
            "line_sn": (("galaxy", "line"), 10 ** rng.normal(1.5, 0.5, (n, 2)), {"units": ""}),
            "is_agn": ("galaxy", rng.random(n) < 0.05, {"units": ""}),
        }
    )
    sample["log_z_lw"].values[3] = np.nan
    write_table(sample, path, steps={"log_z_lw": 0.01, "line_sn": 0.1})
    again = zahid2019.read_products(path=path)
    for name, step in (("candidate", 0), ("is_agn", 0), ("log_z_lw", 0.0051), ("line_sn", 0.051)):
        np.testing.assert_allclose(again[name].astype(float), sample[name].astype(float), rtol=0, atol=step)
    assert again["log_z_lw"].attrs["units"] == "dex" and path.stat().st_size < 8 * n
