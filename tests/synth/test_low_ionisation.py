"""Line ratios of star-forming galaxies: the diagram of BPT and the low-ionisation lines are those of real ones."""

import numpy as np
import pandas as pd
import pytest

from spectool.measure.classes import kauffmann2003
from spectool.synth.nebular import LOW_IONISATION, low_ionisation_offset, mend_low_ionisation
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize

BINS = [(8.5, 9.0), (9.0, 9.5), (9.5, 10.0), (10.0, 10.5)]


def draw(grid, wavelength, n=3000, dust=False, **options):
    galaxies = draw_population(n, grid_age=grid.age, seed=11, redshift_range=(0.024, 0.05))
    forming = (~galaxies.is_quiescent.values) & (galaxies.spectral_class.values == "star-forming")
    galaxies = galaxies.isel(galaxy=np.flatnonzero(forming))
    if not dust:
        galaxies = galaxies.assign(dust1=galaxies.dust1 * 0, dust2=galaxies.dust2 * 0)
    return synthesize(galaxies, grid, wavelength=wavelength, keep_lines=True, progress=False, **options)


@pytest.fixture(scope="module")
def mock(grid):
    """Star-forming galaxies without dust, on coarse pixels: only their lines are looked at."""
    return mend_low_ionisation(draw(grid, np.arange(3600.0, 7000.0, 20.0)))


@pytest.fixture(scope="module")
def eco(shared):
    """Real star-forming galaxies; their line fluxes are corrected for dust already."""
    table = pd.read_csv(shared / "data" / "eco_lines.csv")
    alpha, s2 = table.h_alpha_flux, table.sii_6717_flux + table.sii_6731_flux
    pairs = {"n2": (table.nii_6584_flux, alpha), "o3": (table.oiii_5007_flux, table.h_beta_flux)}
    pairs |= {"s2": (s2, alpha), "o1": (table.oi_6300_flux, alpha)}
    with np.errstate(all="ignore"):
        for name, (line, reference) in pairs.items():
            table[name] = np.log10(line / reference)
    table = table.replace([np.inf, -np.inf], np.nan).dropna(subset=["n2", "o3", "s2", "o1"])
    return table[table.o3 < kauffmann2003(table.n2)]


def log_flux(sample, *names):
    return np.log10(sample.line_luminosity.sel(line=list(names)).sum("line").values)


def ratios(sample):
    alpha = log_flux(sample, "H 1 6563")
    return {
        "n2": log_flux(sample, "N 2 6583") - alpha,
        "o3": log_flux(sample, "O 3 5007") - log_flux(sample, "H 1 4861"),
        "s2": log_flux(sample, "S 2 6716", "S 2 6731") - alpha,
        "o1": log_flux(sample, "O 1 6300") - alpha,
    }


def test_star_forming_locus_is_the_real_one(mock, eco):
    drawn = ratios(mock)
    for low in np.arange(-1.1, -0.3, 0.1):
        here = (drawn["n2"] >= low) & (drawn["n2"] < low + 0.1)
        real = eco.o3[(eco.n2 >= low) & (eco.n2 < low + 0.1)]
        assert min(here.sum(), real.size) > 20
        assert np.median(drawn["o3"][here]) == pytest.approx(real.median(), abs=0.1), low


@pytest.mark.parametrize(("low", "high"), BINS)
def test_galaxies_of_each_mass_have_the_lines_of_real_ones(mock, eco, low, high):
    """Medians within 0.1 dex of the locus and in [NII]/H-alpha; along it, where it is steep, 0.2 in [OIII]/H-beta."""
    mass = mock.log_mass.values
    here, real = (mass >= low) & (mass < high), eco[(eco.logmstar >= low) & (eco.logmstar < high)]
    drawn = {name: np.median(values[here]) for name, values in ratios(mock).items()}
    for name, within in {"n2": 0.1, "o3": 0.2, "s2": 0.1, "o1": 0.2}.items():
        assert drawn[name] == pytest.approx(real[name].median(), abs=within), name
    centres = np.arange(-1.2, -0.25, 0.05)
    locus = [eco.o3[np.abs(eco.n2 - c) < 0.05].median() for c in centres]
    assert np.hypot(centres - drawn["n2"], locus - drawn["o3"]).min() < 0.1
    o2 = 10 ** (log_flux(mock, "O 2 3726", "O 2 3729") - log_flux(mock, "H 1 6563"))
    assert 0.5 < np.median(o2[here]) < 1.5


def test_spectra_lose_what_their_lines_lose(grid):
    wavelength = grid.wavelength[(grid.wavelength > 3600) & (grid.wavelength < 7500)]
    before = draw(grid, wavelength, n=40, dust=True)
    after = mend_low_ionisation(before)
    change = after.line_luminosity - before.line_luminosity
    factor = 10 ** low_ionisation_offset(before.log_z_gas.values)
    for name in before.line.values:
        share = (after.line_luminosity / before.line_luminosity).sel(line=name).values
        np.testing.assert_allclose(share, factor if name in LOW_IONISATION else 1.0, rtol=1e-5)
    width = np.gradient(wavelength)
    lost = ((after.flux - before.flux) * width).sum("wavelength")
    np.testing.assert_allclose(lost, change.sum("line"), rtol=0.01)
    away = (wavelength > 4500) & (wavelength < 5100)
    np.testing.assert_array_equal(after.flux[:, away], before.flux[:, away])
    assert (change <= 0).all() and float(change.min()) < 0
    offset = low_ionisation_offset([-1.0, -0.567, -0.3, -0.15, 0.05])
    np.testing.assert_allclose(offset, [0, 0, -0.3075, -0.48, -0.48], atol=1e-3)
