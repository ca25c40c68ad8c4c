"""Candidates seen the quick way are what the survey simulator sees; the null sample's metals know nothing but mass."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from spectool.papers.zahid2019 import sample as candidates
from spectool.surveys.spectrograph import noise_variance, observe_sdss
from spectool.synth.agn import add_agn
from spectool.synth.grid import embedded_grid
from spectool.synth.nebular import mend_low_ionisation
from spectool.synth.synthesis import synthesize
from tools.make import zahid2019_selection as selection
from tools.make.gaussian_lines import measure_candidates


@pytest.fixture(scope="module")
def block():
    return candidates.draw_block(7)


@pytest.fixture(scope="module")
def seen(block):
    rows = selection.screen(block)
    return candidates.observe_candidates(block.isel(galaxy=rows[:60]))


def test_redshifts_are_whole_pixels(block):
    shift = np.log10(1 + block["redshift"].values) / 1e-4
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-6)
    assert block["redshift"].min() >= 0.027 and block["redshift"].max() <= 0.25
    np.testing.assert_array_equal(block["candidate"], 7 * 4096 + np.arange(4096))


def test_spectra_are_those_of_the_survey_simulator(block, seen):
    """The same galaxies through `observe_sdss`: other code for redshift, blur and pixels; and exactly its noise."""
    rows = block.isel(galaxy=selection.screen(block)[:6])
    grid = embedded_grid()
    native = grid.wavelength[(grid.wavelength > 3500) & (grid.wavelength < 7700)]
    rest = synthesize(rows, grid, wavelength=native, keep_lines=True, progress=False)
    rest = add_agn(mend_low_ionisation(rest), fibre_fraction=rows["fibre_fraction"].values)
    pixels = candidates.rest_pixels()
    for k in range(6):
        stretch = 1 + float(rows["redshift"][k])
        inside = np.flatnonzero((pixels > 3800) & (pixels < 7300))
        wavelength = pixels[inside] * stretch
        options = {"wavelength": wavelength, "fibre_fraction": float(rows["fibre_fraction"][k])}
        other = observe_sdss(rest.isel(galaxy=[k]), seed=1, keep_truth=True, **options)
        ours = seen["truth"].values[k, inside] / stretch
        difference = ours / other["truth"].values[0] - 1
        assert np.sqrt((difference**2).mean()) < 0.006 and abs(difference.mean()) < 1e-3
        good = ~seen["mask"].values[k, inside]
        variance = 1 / (seen["ivar"].values[k, inside] * stretch**2)[good]
        np.testing.assert_allclose(variance, noise_variance(ours, wavelength)[good], rtol=2e-3)


def test_noise_is_what_ivar_says_and_sky_lines_are_masked(seen):
    good = ~seen["mask"].values
    pull = ((seen["flux"] - seen["truth"]) * np.sqrt(seen["ivar"])).values[good]
    assert pull.std() == pytest.approx(1, abs=0.01) and pull.mean() == pytest.approx(0, abs=0.01)
    observed = seen["wavelength"].values * (1 + seen["redshift"].values[:, None])
    assert not good[np.abs(observed - 5578.89) < 8].any()
    assert not good[(observed < 3799) | (observed > 9201)].any()
    assert good.mean() > 0.97
    assert (seen["ivar"].values[~good] == 0).all() and (seen["truth"].values > 0).mean() > 0.999


def residual_correlation(galaxies, name, low=9.0, high=11.0):
    """Spearman's rho of a column and star formation, both less their median at that mass, and its error."""
    mass, x, y = (galaxies[k].values for k in ("log_mass", "log_sfr", name))
    use = ~galaxies["is_quiescent"].values & (mass > low) & (mass < high)
    x, y = (v[use] - np.polyval(np.polyfit(mass[use], v[use], 4), mass[use]) for v in (x, y))
    return spearmanr(x, y).statistic, 1 / np.sqrt(use.sum() - 1)


def test_metals_fall_with_star_formation_in_the_main_population_only(block):
    null = candidates.renew_metals(candidates.draw_block(7, null=True))
    for name, least in (("log_z_star", -0.15), ("log_z_gas", -0.2)):
        assert residual_correlation(block, name)[0] < least
        statistic, error = residual_correlation(null, name)
        assert abs(statistic) < 3.5 * error
    for name in ("dust2", "redshift"):
        np.testing.assert_array_equal(null[name], block[name])


def test_predicted_magnitudes_are_those_of_the_stars(block, seen):
    predicted = selection.predict_r(block.isel(galaxy=selection.screen(block)[:60]))
    brighter = predicted - seen["r_magnitude"].values
    assert np.median(np.abs(brighter)) < 0.05 and brighter.min() > -0.05 and brighter.max() < 0.4


def test_what_is_screened_out_would_not_have_been_selected():
    """Candidates just beyond the limits of the screen; among some 10,000 two would have passed."""
    near = candidates.draw_block(11)
    magnitude = selection.predict_r(near)
    kept = selection.screen(near)
    rows = np.setdiff1d(np.flatnonzero(magnitude < selection.SCREEN_MAGNITUDE + 0.3), kept)
    assert rows.size > 150
    passed, _ = selection.select(measure_candidates(near.isel(galaxy=rows), seed=candidates.SEED))
    assert passed.sum() <= 1
