"""The paper's cuts take what they say, and count it."""

import numpy as np
import pytest
import xarray as xr

from spectool.papers.surana2020.sample import PAPER_FAILING, PAPER_LEFT, PAPER_TOTAL, select_galaxies


@pytest.fixture
def sample():
    """Ten galaxies: five fail one cut each, one fails two, four are good."""
    n, bands = 10, [f"b{i}" for i in range(21)]
    flux, error = np.full((n, 21), 10.0), np.full((n, 21), 1.0)
    mask = np.zeros((n, 21), bool)
    redshift, log_mass = np.full(n, 0.2), np.full(n, 10.0)
    redshift[0], log_mass[1] = 0.51, 8.9
    mask[2, 20], flux[2, 20], error[2, 20] = True, np.nan, np.nan
    flux[3, 5] = -1.0
    flux[4, :16] = 2.9  # five bands at S/N >= 3
    redshift[5], log_mass[5] = 0.6, 8.0
    flux[6, :15] = 2.9  # six
    redshift[7], log_mass[7] = 0.5, 9.0  # at the limits
    dims = ("galaxy", "band")
    return xr.Dataset(
        {
            "flux": (dims, flux),
            "flux_error": (dims, error),
            "mask": (dims, mask),
            "redshift": ("galaxy", redshift),
            "log_mass": ("galaxy", log_mass),
            "number": ("galaxy", np.arange(n)),
        },
        coords={"band": bands},
        attrs={"history": "ten galaxies"},
    )


def test_each_cut_takes_its_galaxy_and_the_papers_counts_stand_beside_ours(sample):
    selected, cuts = select_galaxies(sample)
    assert selected["number"].values.tolist() == [6, 7, 8, 9]
    assert cuts["failing"].values.tolist() == [2, 2, 1, 1, 1]
    assert cuts["lost"].values.tolist() == [2, 1, 1, 1, 1]
    assert cuts["left"].values.tolist() == [8, 7, 6, 5, 4]
    assert "4 of 10 galaxies left; lost: redshift 2, mass 1" in selected.attrs["history"]
    assert selected.attrs["history"].startswith("ten galaxies\n")
    assert cuts["paper_failing"].sel(cut="missing band") == 36_768
    assert np.isnan(cuts["paper_failing"].sel(cut="signal-to-noise"))
    stated = np.nansum(list(PAPER_FAILING.values()))
    assert stated > PAPER_TOTAL - PAPER_LEFT, "so the paper counts some galaxies under more than one cut"


def test_negative_fluxes_may_stay_and_what_is_unknown_fails(sample):
    selected, cuts = select_galaxies(sample, drop_negative=False)
    assert selected["number"].values.tolist() == [3, 6, 7, 8, 9]
    assert cuts["lost"].sel(cut="negative flux") == 0
    sample["redshift"][8], sample["log_mass"][9] = np.nan, np.nan
    sample["flux_error"][6, :] = 0.0
    assert select_galaxies(sample)[0]["number"].values.tolist() == [7]


def test_columns_that_lack_are_named(sample):
    with pytest.raises(ValueError, match="the sample lacks log_mass"):
        select_galaxies(sample.drop_vars("log_mass"))
    empty = select_galaxies(sample.isel(galaxy=slice(0, 0)))[1]
    assert (empty["left"] == 0).all() and (empty["failing_fraction"] == 0).all()
