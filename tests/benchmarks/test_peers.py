"""A speed counts only for results as good as the peer's or the paper's, on the same data."""

import numpy as np
import pytest
import xarray as xr

from benchmarks import lines, metallicity, narrowband, sednet, synthesis, training_set
from spectool.papers.surana2020.network import TABLE_3
from spectool.papers.zahid2019.sample import make_sample, training_table
from tests.refusals import refused

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
    refused(message, require, *given)


def test_both_ways_make_the_same_training_spectra_and_others_do_not_count(grid):
    rows = training_table().isel(galaxy=slice(100, None, 2205))
    ours = make_sample(grid, table=rows, dtype="float32")["flux"].values
    theirs = training_set.make_directly(rows, grid)
    training_set.require_same(ours, theirs)
    refused("they differ by", training_set.require_same, ours, np.roll(theirs, 1, axis=0))
