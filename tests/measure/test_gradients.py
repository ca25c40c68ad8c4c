"""Gradients: injected ones come back with honest errors, discs are turned face-on, hopeless galaxies are told."""

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord

from spectool.measure.gradients import GRADIENT_PROBLEMS, add_radius, deproject, fit_gradients
from tests.refusals import refused


def make_galaxies(n_galaxies, n_spectra, *, scatter):
    rng = np.random.default_rng(3)
    index = np.repeat(np.arange(n_galaxies), n_spectra)
    radius = rng.uniform(0, 2, index.size)
    slope, central = rng.normal(-0.2, 0.1, n_galaxies), rng.normal(0.5, 0.2, n_galaxies)
    age = central[index] + slope[index] * radius + scatter * rng.standard_normal(index.size)
    columns = {"galaxy_index": index, "radius": radius, "log_age": age}
    sample = xr.Dataset({name: ("spectrum", values) for name, values in columns.items()})
    return sample.assign(slope=("galaxy", slope), central=("galaxy", central))


def test_exact_lines_come_back_whatever_the_number_of_spectra(monkeypatch):
    n = np.array([60, 300, 85])
    sample = make_galaxies(3, n, scatter=0.0)
    found = fit_gradients(sample, columns=["log_age"], seed=1)
    np.testing.assert_allclose(found["log_age_gradient"], sample["slope"], rtol=1e-9)
    np.testing.assert_allclose(found["log_age_central"], sample["central"], rtol=1e-9)
    np.testing.assert_allclose(found["log_age_gradient_error"], 0, atol=1e-9)
    inside = sample["radius"].values < 1
    np.testing.assert_array_equal(found["n_inside"], np.bincount(sample["galaxy_index"].values[inside]))
    np.testing.assert_array_equal(found["n_inside"] + found["n_beyond"], n)
    assert (found["gradient_problem"] == "").all()
    monkeypatch.setattr("spectool.measure.gradients._CHUNK", 20_000)  # in parts
    parts = fit_gradients(sample, columns=["log_age"], seed=1)
    np.testing.assert_allclose(parts["log_age_gradient"], sample["slope"], rtol=1e-9)


def test_the_error_covers_the_truth_and_the_papers_std_is_0_58_of_it():
    sample = make_galaxies(600, 100, scatter=0.1)
    found = fit_gradients(sample, columns=["log_age"], seed=2)
    off = np.abs(found["log_age_gradient"] - sample["slope"]).values
    # 600 galaxies: 68.3 +- 1.9% expected, and 43.6 +- 2.0% for an error 0.577 as large
    assert (off < found["log_age_gradient_error"].values).mean() == pytest.approx(0.683, abs=0.05)
    assert (off < found["log_age_gradient_std"].values).mean() == pytest.approx(0.436, abs=0.05)
    share = found["log_age_gradient_std"] / found["log_age_gradient_error"]
    np.testing.assert_allclose(share, np.sqrt(1 / 3), rtol=1e-12)


def test_the_mean_of_the_draws_is_the_fit_to_all_spectra_and_columns_share_them():
    sample = make_galaxies(5, 120, scatter=0.1)
    options = {"n_bootstrap": 2000, "seed": 4, "keep_fits": True}
    found = fit_gradients(sample, columns=["log_age"], **options)
    slopes, mean = found["log_age_slopes"], found["log_age_gradient"]
    assert slopes.shape == (5, 2000)
    np.testing.assert_allclose(slopes.mean("bootstrap"), mean, rtol=1e-12, atol=1e-12)
    for i in range(5):
        rows = (sample["galaxy_index"].values == i) & (sample["radius"].values < 1)
        slope, central = np.polyfit(sample["radius"].values[rows], sample["log_age"].values[rows], 1)
        sampling = 5 * found["log_age_gradient_std"].values[i] / np.sqrt(2000)
        assert mean.values[i] == pytest.approx(slope, abs=sampling)
        assert found["log_age_central"].values[i] == pytest.approx(central, abs=sampling)
    sample["shifted"] = 2 * sample["log_age"] + 1
    sample["shifted"].values[7] = np.nan  # this spectrum leaves the other column, too
    both = fit_gradients(sample, columns=["log_age", "shifted"], **options)
    np.testing.assert_allclose(both["shifted_slopes"], 2 * both["log_age_slopes"], atol=1e-10)
    np.testing.assert_array_equal(both["n_left_out"], np.eye(5, dtype=int)[0])


def test_galaxies_without_gradient_are_told_and_counted():
    good, few_inside = np.linspace(0, 1.5, 100), np.linspace(0, 1.5, 30)
    none_beyond, no_lever = np.linspace(0, 0.9, 60), np.r_[np.full(40, 0.5), 1.2]
    parts = (good, few_inside, none_beyond, no_lever)
    index = np.repeat(range(4), [p.size for p in parts])
    sample = xr.Dataset({"galaxy_index": ("spectrum", index), "radius": ("spectrum", np.concatenate(parts))})
    sample["log_age"] = -0.3 * sample["radius"]
    sample["galaxy_name"] = ("galaxy", list("abcde"))  # the last has no spectra at all
    found = fit_gradients(sample, columns=["log_age"], seed=1)
    few, beyond, lever = GRADIENT_PROBLEMS
    assert found["gradient_problem"].values.tolist() == ["", few, beyond, lever, few]
    np.testing.assert_allclose(found["log_age_gradient"], [-0.3] + [np.nan] * 4, rtol=1e-9)
    assert "gradients of 1 of 5 galaxies" in found.attrs["history"]
    assert f"2 have {few}" in found.attrs["history"]
    none = fit_gradients(sample, columns=["log_age"], seed=1, min_spectra=1000)
    assert np.isnan(none["log_age_gradient"]).all()
    for options, words in (({"columns": ["log_z"]}, "lacks log_z"), ({"n_bootstrap": 1}, "n_bootstrap")):
        refused(words, fit_gradients, sample, **{"columns": ["log_age"], "seed": 1} | options)


def test_a_circle_in_the_disc_is_an_ellipse_on_the_sky(rng):
    angle, radius = rng.uniform(0, 2 * np.pi, 50), rng.uniform(0, 30, 50)
    # in the disc: along the major axis and across; foreshortened; then turned so that north goes to east
    major, minor = radius * np.cos(angle), radius * np.sin(angle) * np.cos(np.deg2rad(60))
    pa = np.deg2rad(35)
    x, y = major * np.sin(pa) + minor * np.cos(pa), major * np.cos(pa) - minor * np.sin(pa)
    found = deproject(x, y, position_angle=35, inclination=60, re=15)
    np.testing.assert_allclose(found, radius / 15, rtol=1e-12)
    np.testing.assert_allclose(deproject(x, y, position_angle=9, inclination=0), np.hypot(x, y), rtol=1e-12)
    # the angle is astropy's: from north through east
    north = SkyCoord(10 * u.deg, 0 * u.deg)
    there = north.directional_offset_by(35 * u.deg, 10 * u.arcsec)
    dx, dy = (offset.to_value("arcsec") for offset in north.spherical_offsets_to(there))
    assert deproject(dx, dy, position_angle=35, inclination=80) == pytest.approx(10)
    assert deproject(dx, dy, position_angle=125, inclination=60) == pytest.approx(20)


def test_edge_on_discs_have_no_radii_and_nonsense_is_refused():
    found = deproject([1.0, 1.0], [1.0, 1.0], position_angle=0, inclination=[89.5, 45.0])
    assert np.isfinite(found).tolist() == [False, True]
    for wrong in ({"inclination": 95}, {"inclination": -5}, {"inclination": 40, "re": 0}):
        refused(r"inclinations|radii", deproject, 1, 1, position_angle=0, **wrong)
    sample = xr.Dataset({"x": ("spectrum", [0.0, 3.0]), "y": ("spectrum", [5.0, 0.0])})
    out = add_radius(sample, position_angle=0, inclination=60, re=5)
    np.testing.assert_allclose(out["radius"], [1, 1.2])
    assert out["galaxy_index"].values.tolist() == [0, 0]
