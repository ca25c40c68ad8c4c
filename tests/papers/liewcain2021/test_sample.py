"""The sample of Liew-Cain et al. (2021) in the paper's numbers, the same at every call."""

import numpy as np
import pytest

from spectool.papers.liewcain2021.sample import make_liewcain2021, measure_stellar_bands
from spectool.prepare import PrepareWarning
from spectool.surveys import observe_sdss
from spectool.surveys.califa import draw_califa
from spectool.surveys.jpas import CALIFA_BANDS, measure_bands
from spectool.synth import describe, synthesize


def test_the_sample_has_the_papers_numbers_and_both_kinds_of_labels():
    sample = make_liewcain2021()
    assert sample.sizes["spectrum"] == 19_727 and sample.sizes["galaxy"] == 190
    assert int(sample["is_early"].sum()) == 44 and sample.sizes["band"] == 34
    # Fitted labels err, and alike within a galaxy.
    off = (sample["log_age_fit"] - sample["log_age"]).values
    galaxy = sample["galaxy_index"].values
    mean = np.bincount(galaxy, off) / np.bincount(galaxy)
    assert 0.03 < (off - mean[galaxy]).std() < 0.15 and mean.std() > 0.05


def test_streams_are_other_galaxies_and_nuisances_are_passed_on():
    few = {"spectra_per_galaxy": 5}
    one, other = (make_liewcain2021(6, stream=stream, **few) for stream in (None, 1))
    assert one.sizes["galaxy"] == other.sizes["galaxy"] and one["log_z_fit"].attrs["units"] == "dex"
    assert not np.array_equal(one["log_mass"], other["log_mass"])
    drawn = draw_califa(6, seed=2021, progress=False, **few)
    np.testing.assert_array_equal(one["flux"], drawn["flux"])
    assert not make_liewcain2021(6, nuisances=(), **few)["tilt"].any()


@pytest.fixture(scope="module")
def galaxies(grid, population):
    known = describe(population, grid)
    order = np.argsort((known["log_mass"] - known["log_sfr"]).values)
    forming = population.isel(galaxy=order[12:18]).assign(redshift=("galaxy", np.full(6, 0.05)))
    stars = synthesize(forming, grid, nebular=False, progress=False)
    gas = synthesize(forming, grid, progress=False)
    seen = observe_sdss(gas, seed=3, exposure=1e5)
    return stars, gas, seen


def test_lines_come_off_and_stars_stay_and_what_cannot_be_fitted_is_masked(galaxies):
    stars, gas, seen = galaxies
    found = measure_stellar_bands(seen)
    assert found.sizes == {"spectrum": 6, "band": 34} and not found["mask"].any()
    continuum, with_lines = (measure_bands(one)["flux"].values for one in (stars, gas))
    column = CALIFA_BANDS.index("J0650")
    assert (with_lines / continuum)[:, column].max() > 1.1, "H-alpha lies in J0650 at rest"

    def shape(flux):
        return flux / flux.mean(axis=1, keepdims=True)

    off = 2.5 * np.log10(shape(found["flux"].values) / shape(continuum))
    assert np.abs(np.median(off, axis=0)).max() < 0.03
    assert np.abs(off[:, column]).max() < 0.05
    truth = (with_lines / continuum)[:, column] - 1
    assert np.allclose(found["line_share"].values[:, column], truth, rtol=0.1, atol=0.01)
    seen = galaxies[2].isel(galaxy=slice(0, 2)).copy(deep=True)
    seen["ivar"][1] = 0
    with pytest.warns(PrepareWarning):
        found = measure_stellar_bands(seen)
    assert found["mask"].values.all(axis=1).tolist() == [False, True]
    assert np.isnan(found["flux"].values[1]).all() and np.isfinite(found["flux"].values[0]).all()
