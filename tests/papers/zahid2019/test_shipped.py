"""What comes with the package, held to what it says, on unseen histories; and on real spectra, against pPXF."""

import numpy as np
import pytest

from spectool.models import store
from spectool.models.chunked import score_by_sn
from spectool.papers.zahid2019.network import ENSEMBLE, predict_ensemble
from spectool.papers.zahid2019.network import load as load_ensemble
from spectool.papers.zahid2019.reader import prepare_zahid2019
from spectool.papers.zahid2019.sample import HELDOUT_TEST_SEED, make_heldout

LEVELS = (np.inf, 50.0, 20.0, 10.0, 5.0)


def test_rms_is_the_stated_one_and_errors_cover_68_percent_at_each_noise():
    """On another draw of the noise: 5,000 squares have a sampling error of 2% or so."""
    sample, ensemble = make_heldout(5000, seed=HELDOUT_TEST_SEED), load_ensemble()

    def predict(x, sigma):
        mean, error, _ = ensemble.predict(x, sigma)
        return mean[:, 0], error[:, 0]

    scores = score_by_sn(predict, sample, sample["log_z_lw"].values, levels=LEVELS, seed=20195)
    stated = store.load_model(ENSEMBLE[0])[1].metrics
    assert scores.keys() == stated["ensemble"]["by_sn"].keys() and len(scores) == 5
    for sn, row in scores.items():
        assert row["coverage"] == pytest.approx(0.68, abs=0.03)
        assert row["rms"] == pytest.approx(stated["ensemble"]["by_sn"][sn]["rms"], rel=0.06)
    for name in ("rms", "median_error"):
        values = [row[name] for row in scores.values()]
        assert values == sorted(values)
    assert stated["ensemble"]["rms"] < stated["log_z_lw"]["rms"], "members together are better than one"
    assert stated["ensemble"]["members"] == len(ENSEMBLE) >= 5


N_OTHERS = 60


@pytest.fixture(scope="module")
def galaxies(sdss_table, sdss_galaxies):
    """All star-forming galaxies, and sixty others with a signal to noise above 25 per pixel."""
    near = sdss_table["z"].between(0.005, 0.24) & (sdss_table["vdisp"] > 0)
    others = np.flatnonzero(near & ~sdss_table["forming"] & (sdss_table["sn"] > 25))
    others = np.random.default_rng(0).permutation(others)[:N_OTHERS]
    rows = np.sort(np.concatenate([np.flatnonzero(near & sdss_table["forming"]), others]))
    return sdss_galaxies(rows).assign(is_forming=("galaxy", sdss_table["forming"].values[rows]))


@pytest.fixture(scope="module")
def compared(galaxies, fit_quickly):
    """log Z of the networks and of pPXF, and which spectra both can say something about."""
    prepared = prepare_zahid2019(galaxies)
    mean, _, _ = predict_ensemble(load_ensemble(), prepared)
    fit = fit_quickly(galaxies)
    usable = ~prepared["mask"].values.all(axis=1) & (fit["fit_status"].values == 0) & np.isfinite(mean[:, 0])
    return mean[:, 0], fit["log_z_lw"].values, usable


@pytest.mark.parametrize(
    ("name", "number", "least", "low", "high"),
    [
        ("star-forming", 100, 0.35, -0.3, 0.3),
        ("within the models' resolution", 30, 0.35, -0.3, 0.3),
        # What is blurred looks metal-poor to a network that expects 330 km/s.
        ("with wider lines", 30, -1, -0.6, 0.1),
    ],
)
def test_networks_and_ppxf_agree_on_real_galaxies(
    galaxies, compared, compare, name, number, least, low, high
):
    network, ppxf, usable = compared
    assert usable.sum() >= 150 and usable.mean() > 0.9
    narrow = galaxies["velocity_dispersion"].values <= 140
    groups = {"star-forming": galaxies["is_forming"].values, "with wider lines": ~narrow}
    rows = usable & groups.get(name, narrow)
    correlation, offset, scatter = compare(name, network[rows], ppxf[rows])
    assert rows.sum() > number and correlation > least and low < offset < high and scatter < 0.25
