"""Candidates are what the survey simulator sees; cuts take the star-forming; metals of the null know mass."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from spectool.continuum import kept_pixels, optical_wavelength, stack_wavelength
from spectool.papers.zahid2019 import sample as paper
from spectool.papers.zahid2019.sample import chunk_sigma, stored_flux
from spectool.spectra import pixel_edges
from spectool.surveys.spectrograph import noise_variance, observe_sdss
from spectool.synth.agn import add_agn
from spectool.synth.grid import embedded_grid
from spectool.synth.nebular import mend_low_ionisation
from spectool.synth.synthesis import synthesize
from tools.command import write_table
from tools.make import zahid2019_selection as selection
from tools.make.gaussian_lines import measure_candidates
from tools.make.zahid2019_selection import screen


@pytest.fixture(scope="module")
def block():
    return paper.draw_block(7)


@pytest.fixture(scope="module")
def seen(block):
    rows = selection.screen(block)
    return paper.observe_candidates(block.isel(galaxy=rows[:60]))


def test_spectra_are_those_of_the_survey_simulator(block, seen):
    """The same galaxies through `observe_sdss`: other code for redshift, blur and pixels; and exactly its noise."""
    rows = block.isel(galaxy=selection.screen(block)[:6])
    grid = embedded_grid()
    native = grid.wavelength[(grid.wavelength > 3500) & (grid.wavelength < 7700)]
    rest = synthesize(rows, grid, wavelength=native, keep_lines=True, progress=False)
    rest = add_agn(mend_low_ionisation(rest), fibre_fraction=rows["fibre_fraction"].values)
    pixels = paper.rest_pixels()
    inside = np.flatnonzero((pixels > 3800) & (pixels < 7300))
    for k in range(6):
        stretch = 1 + float(rows["redshift"][k])
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
    assert good.mean() > 0.97 and (seen["ivar"].values[~good] == 0).all()


def residual_correlation(galaxies, name, low=9.0, high=11.0):
    """Spearman's rho of a column and star formation, both less their median at that mass, and its error."""
    mass, x, y = (galaxies[k].values for k in ("log_mass", "log_sfr", name))
    use = ~galaxies["is_quiescent"].values & (mass > low) & (mass < high)
    x, y = (v[use] - np.polyval(np.polyfit(mass[use], v[use], 4), mass[use]) for v in (x, y))
    return spearmanr(x, y).statistic, 1 / np.sqrt(use.sum() - 1)


def test_metals_fall_with_star_formation_in_the_main_population_only(block):
    null = paper.renew_metals(paper.draw_block(7, null=True))
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
    near = paper.draw_block(11)
    magnitude = selection.predict_r(near)
    kept = selection.screen(near)
    rows = np.setdiff1d(np.flatnonzero(magnitude < selection.SCREEN_MAGNITUDE + 0.3), kept)
    assert rows.size > 150
    passed, _ = selection.select(measure_candidates(near.isel(galaxy=rows), seed=paper.SEED))
    assert passed.sum() <= 1


@pytest.fixture(scope="module")
def native():
    block = paper.draw_block(3)
    return paper.observe_candidates(block.isel(galaxy=screen(block)[:40]))


@pytest.fixture(scope="module")
def sample(native):
    return paper.to_angstrom(native)


def test_rebinning_conserves_flux(native, sample):
    edges = pixel_edges(native["wavelength"].values)
    inside = (native["wavelength"].values > 4500.3) & (native["wavelength"].values < 5500.6)
    before = (native["truth"].values * np.diff(edges))[:, inside].sum(axis=1)
    low, high = edges[:-1][inside][0], edges[1:][inside][-1]
    overlap = np.diff(np.clip(pixel_edges(stack_wavelength()), low, high))
    np.testing.assert_allclose(sample["truth"].values @ overlap, before, rtol=1e-4)


def test_variance_is_that_of_sums_over_many_pixels(native, sample):
    """Neighbours share noise, and the variance stated makes up for it."""
    wavelength, width = native["wavelength"].values, np.diff(pixel_edges(native["wavelength"].values))
    clean = np.flatnonzero(~sample["mask"].values[:, 600:1400].any(axis=1))[:10]
    assert clean.size > 3
    low, high = stack_wavelength()[600] - 0.5, stack_wavelength()[1400] - 0.5
    inside = (wavelength > low) & (wavelength < high)
    exact = (width[inside] ** 2 / native["ivar"].values[clean][:, inside]).sum(axis=1)
    stated = (1 / sample["ivar"].values[clean, 600:1400]).sum(axis=1)
    np.testing.assert_allclose(stated, exact, rtol=5e-3)


def test_masked_pixels_stay_masked_and_stored_spectra_have_a_mean_of_one(native, sample):
    bad = sample["mask"].values
    assert 0.002 < bad.mean() < 0.04 and (sample["ivar"].values[bad] == 0).all()
    observed = stack_wavelength() * (1 + sample["redshift"].values[:, None])
    assert bad[np.abs(observed - 5578.89) < 6].all()
    assert not np.isnan(sample["flux"].values).any() and (sample["sn"] > 2).all()
    stored = stored_flux(sample)
    wavelength = optical_wavelength()
    window = (wavelength >= 4400) & (wavelength <= 4450)
    np.testing.assert_allclose(np.nanmean(stored[:, window].astype("f8"), axis=1), 1, atol=1e-3)
    part = (stack_wavelength() >= 4050) & (stack_wavelength() <= 7300)
    np.testing.assert_array_equal(np.isnan(stored), sample["mask"].values[:, part])


def test_noise_per_chunk_against_a_loop(sample):
    found = chunk_sigma(sample)
    part = (stack_wavelength() >= 4050) & (stack_wavelength() <= 7300)
    kept = np.flatnonzero(part)[kept_pixels(optical_wavelength())]
    for row in (0, 7):
        for k, chunk in enumerate(np.array_split(kept, 25)):
            good = chunk[~sample["mask"].values[row, chunk]]
            noise = np.sqrt((1 / sample["ivar"].values[row, good].astype(float)).mean())
            assert found[row, k] == pytest.approx(noise / sample["flux"].values[row, good].mean(), rel=1e-4)
    sample = sample.copy(deep=True)
    sample["mask"].values[0, np.array_split(kept, 25)[3]] = True
    assert np.isnan(chunk_sigma(sample)[0]).sum() == 1


NAMES = ["Hβ", "[O III] 5007", "Hα", "[N II] 6583"]


def make_table(rows):
    """A table of (r, log M, line fluxes, S/N of Hb, Ha and [N II])."""
    magnitude, mass, flux, sn = zip(*rows, strict=True)
    sn = [[beta, 9.0, *others] for beta, *others in sn]
    columns = {"r_magnitude": ("galaxy", list(magnitude)), "log_mass": ("galaxy", list(mass))}
    columns["line_flux"] = (("galaxy", "line"), np.array(flux, float))
    columns["line_sn"] = (("galaxy", "line"), np.array(sn, float))
    return xr.Dataset(columns, coords={"line": NAMES})


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


def test_columns_are_kept_to_their_step_in_little_space(tmp_path, rng):
    n, path = 20_000, tmp_path / "some.nc"
    numbers = np.sort(rng.choice(10**6, n, replace=False)).astype("i4")
    sample = xr.Dataset({"candidate": ("galaxy", numbers), "is_agn": ("galaxy", rng.random(n) < 0.05)})
    sample["log_z_lw"] = ("galaxy", rng.normal(-0.4, 0.3, n), {"units": "dex"})
    sample["line_sn"] = (("galaxy", "line"), 10 ** rng.normal(1.5, 0.5, (n, 2)))
    sample["log_z_lw"].values[3] = np.nan
    write_table(sample, path, steps={"log_z_lw": 0.01, "line_sn": 0.1})
    again = paper.read_products(path=path)
    for name, step in (("candidate", 0), ("is_agn", 0), ("log_z_lw", 0.0051), ("line_sn", 0.051)):
        np.testing.assert_allclose(again[name].astype(float), sample[name].astype(float), rtol=0, atol=step)
    assert again["log_z_lw"].attrs["units"] == "dex" and path.stat().st_size < 8 * n
