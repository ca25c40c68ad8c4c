"""A galaxy rebuilt alone is the one that was measured, its noise included."""

import json

import numpy as np
import pytest

from spectool.explore import mzr_spectra
from spectool.papers.scourfield2023.network import add_desi_noise, make_model
from spectool.papers.scourfield2023.sample import TEST_NOISE_SEED, make_sample, read_products

N = 5


@pytest.fixture(scope="module", params=["star-forming", "null"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def sample(name):
    """The first test galaxies, seen as tools/make/scourfield2023_lines.py sees them."""
    sample = make_sample(name, split="test", n=N, progress=False)
    return add_desi_noise(sample, seed=np.random.default_rng(TEST_NOISE_SEED))


@pytest.fixture
def untrained(monkeypatch, sample):
    model = make_model("vae", 2, sample["flux"].values, seed=1).eval()
    monkeypatch.setattr(mzr_spectra, "_model", lambda name: model)


def test_it_is_the_galaxy_that_was_measured(name, sample, untrained):
    for row in (0, N - 1):
        spectrum = mzr_spectra.rebuild_galaxy(int(sample["candidate"].values[row]), name)
        good = ~sample["mask"].values[row]
        for source, variable in (("original", "flux"), ("DESI-like", "noisy")):
            flux = spectrum["flux"].sel(source=source).values
            np.testing.assert_allclose(flux[good], sample[variable].values[row][good], rtol=1e-4, atol=1e-5)
            assert np.isnan(flux[~good]).all()


def test_every_source_of_the_table_has_a_spectrum(name, sample, untrained):
    spectrum = mzr_spectra.rebuild_galaxy(int(sample["candidate"].values[1]), name)
    assert list(spectrum["source"].values) == ["original", "DESI-like", *mzr_spectra.MODELS[name]]
    assert np.isfinite(spectrum["flux"].sel(source="de-noised")).all()


def test_a_stranger_is_refused(name):
    selection = read_products(name)
    trained_on = int(selection["candidate"].values[selection["split"].values == "train"][0])
    with pytest.raises(KeyError, match=f"galaxy {trained_on} is not one of the .* test galaxies"):
        mzr_spectra.rebuild_galaxy(trained_on, name)


def test_the_null_is_drawn_without_the_trend():
    recipes = {name: json.loads(read_products(name).attrs["recipe"]) for name in mzr_spectra.MODELS}
    assert recipes["star-forming"]["metallicity_sfr"]
    assert not recipes["null"]["metallicity_sfr"]
