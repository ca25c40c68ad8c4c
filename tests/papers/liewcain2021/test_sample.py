"""The sample of Liew-Cain et al. (2021) in the paper's numbers, the same at every call."""

import numpy as np
import pytest

from spectool.papers.liewcain2021.sample import make_liewcain2021
from spectool.surveys.califa import draw_califa


def test_the_sample_has_the_papers_numbers_and_both_kinds_of_labels():
    sample = make_liewcain2021()
    assert sample.sizes["spectrum"] == 19_727 and sample.sizes["galaxy"] == 190
    assert int(sample["is_early"].sum()) == 44 and sample.sizes["band"] == 34
    # Fitted labels err, and alike within a galaxy.
    off = (sample["log_age_fit"] - sample["log_age"]).values
    galaxy = sample["galaxy_index"].values
    mean = np.bincount(galaxy, off) / np.bincount(galaxy)
    assert 0.03 < (off - mean[galaxy]).std() < 0.15 and mean.std() > 0.05


def test_streams_are_other_galaxies_and_calls_are_alike():
    one, again, other = (
        make_liewcain2021(6, spectra_per_galaxy=5, stream=stream) for stream in (None, None, 1)
    )
    assert one.identical(again) and one.sizes["galaxy"] == other.sizes["galaxy"]
    assert not np.array_equal(one["log_mass"], other["log_mass"])
    drawn = draw_califa(6, spectra_per_galaxy=5, seed=2021, progress=False)
    np.testing.assert_array_equal(one["flux"], drawn["flux"])
    assert one["log_z_fit"].attrs["units"] == "dex"


def test_nuisances_are_passed_on():
    plain = make_liewcain2021(6, spectra_per_galaxy=5, nuisances=())
    assert not plain["tilt"].any()
    with pytest.raises(ValueError, match="no such nuisance"):
        make_liewcain2021(6, nuisances=("weather",))
