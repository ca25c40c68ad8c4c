"""Active nuclei have the line ratios of their kind, and bring exactly the light that they are said to."""

import numpy as np
import pytest

from spectool.measure.classes import kewley2001
from spectool.synth import agn
from spectool.synth.population import draw_population
from spectool.synth.synthesis import synthesize


@pytest.fixture(scope="module")
def active(grid):
    galaxies = draw_population(12_000, grid_age=grid.age, seed=3, redshift_range=(0.024, 0.05))
    return agn.draw_agn(galaxies, seed=[3, 1])


@pytest.fixture(scope="module")
def host(grid, active):
    """A few of each kind, without dust and with it, on the grid's pixels; and two galaxies without a nucleus."""
    rows = [np.flatnonzero(active.agn_type.values == k)[:4] for k in ("Seyfert", "LINER", "broad-line", "")]
    some = active.isel(galaxy=np.concatenate(rows))
    wavelength = grid.wavelength[(grid.wavelength > 3600) & (grid.wavelength < 8000)]
    return synthesize(some, grid, wavelength=wavelength, keep_lines=True, progress=False)


@pytest.fixture(scope="module")
def clear(host):
    return host.assign(dust1=host.dust1 * 0, dust2=host.dust2 * 0)


def log_ratios(galaxies):
    lines = agn.narrow_lines(galaxies)
    n2 = np.log10(lines["N 2 6583"] / lines["H 1 6563"])
    return n2, np.log10(lines["O 3 5007"] / lines["H 1 4861"]), lines


def test_only_galaxies_labelled_so_have_a_nucleus(active):
    labelled = active.spectral_class.values == "AGN"
    assert ((active.agn_type.values != "") == labelled).all()
    for name in ("agn_log_h_alpha", *agn.RATIOS):
        assert (np.isfinite(active[name].values) == labelled).all()
    broad = active.agn_type.values == "broad-line"
    assert (np.isfinite(active.agn_fwhm.values) == broad).all()
    assert broad.sum() == pytest.approx(agn.BROAD_SHARE * labelled.sum(), abs=4 * np.sqrt(broad.sum()))
    assert agn.draw_agn(active, seed=[3, 1]).agn_log_h_alpha.equals(active.agn_log_h_alpha)


def test_nuclei_lie_above_what_stars_can_ionise(active):
    """Nearly all above Kewley et al. (2001); Seyferts and LINERs on their sides of Kewley et al. (2006), eq. 7."""
    some = active.isel(galaxy=active.agn_type.values != "")
    n2, o3, lines = log_ratios(some)
    assert (o3 > kewley2001(n2)).mean() > 0.9
    s2 = np.log10((lines["S 2 6716"] + lines["S 2 6731"]) / lines["H 1 6563"])
    above = o3 > 1.89 * s2 + 0.76
    kind = some.agn_type.values
    assert above[kind == "Seyfert"].mean() > 0.8 and above[kind == "LINER"].mean() < 0.3
    # lines from one level have fixed ratios
    np.testing.assert_allclose(lines["O 3 5007"] / lines["O 3 4959"], 2.98)
    np.testing.assert_allclose(lines["N 2 6583"] / lines["N 2 6548"], 3.05)
    np.testing.assert_allclose(lines["H 1 6563"] / lines["H 1 4861"], 3.1)
    # Greene & Ho: lambda L at 5100 A of 1e44 erg/s goes with 5.25e42 erg/s of broad H-alpha
    log_sun = np.log10(3.828e33)
    density = agn.continuum_luminosity(np.log10(5.25e42) - log_sun)
    assert density * 5100 * 3.828e33 == pytest.approx(1e44, rel=1e-3)


def test_narrow_lines_bring_their_light_and_no_other(clear):
    host, after = clear, agn.add_agn(clear)
    width = np.gradient(host.wavelength.values)
    narrow = np.isin(host.agn_type.values, ["Seyfert", "LINER"])
    gained = ((after.flux - host.flux).values * width).sum(axis=1)
    lines = after.line_luminosity - host.line_luminosity
    np.testing.assert_allclose(gained[narrow], lines.sum("line").values[narrow], rtol=5e-3)
    expected = agn.narrow_lines(host.isel(galaxy=narrow))
    for name in ("H 1 6563", "O 3 5007", "O 2 3726"):
        np.testing.assert_allclose(lines.sel(line=name).values[narrow], expected[name], rtol=1e-3)
    none = host.agn_type.values == ""
    np.testing.assert_array_equal(after.flux.values[none], host.flux.values[none])
    away = (host.wavelength.values > 5250) & (host.wavelength.values < 5700)
    np.testing.assert_array_equal(after.flux.values[narrow][:, away], host.flux.values[narrow][:, away])


def test_dust_dims_nuclei_as_the_lines_of_young_stars(host, clear):
    gained, bare = (agn.add_agn(some).line_luminosity - some.line_luminosity for some in (host, clear))
    some = np.flatnonzero(host.agn_type.values != "")
    for name, centre in (("H 1 6563", 6564.6), ("O 3 5007", 5008.2)):
        depth = (host.dust1 + host.dust2) * (centre / 5500) ** host.dust_index
        left = (gained / bare).sel(line=name).values[some]
        np.testing.assert_allclose(left, np.exp(-depth.values[some]), rtol=2e-3)


def test_broad_lines_and_power_law(clear):
    broad = clear.isel(galaxy=clear.agn_type.values == "broad-line")
    gained = (agn.add_agn(broad).flux - broad.flux).values.astype(float)
    wavelength, lines = broad.wavelength.values, agn.narrow_lines(broad)
    near = np.abs(wavelength - 6564.6) < 400
    for i, row in enumerate(gained):
        slope, log_broad = float(broad.agn_slope[i]), float(broad.agn_log_broad[i])
        level = agn.continuum_luminosity(log_broad)
        assert np.interp(5650, wavelength, row) == pytest.approx(level * (5650 / 5100) ** slope, rel=2e-3)
        above = row - level * (wavelength / 5100) ** slope
        narrow = sum(v[i] for k, v in lines.items() if k[:3] in ("H 1", "N 2", "O 1", "S 2"))
        total = np.trapezoid(above[near], wavelength[near])
        assert total == pytest.approx(10**log_broad + narrow, rel=0.35)


def test_a_fibre_keeps_the_whole_nucleus_and_bad_samples_are_refused(host):
    """After an observation that keeps a share of the light, the nucleus is as bright as without."""
    share = np.linspace(0.2, 0.9, host.sizes["galaxy"])
    whole = agn.add_agn(host).flux - host.flux
    part = (agn.add_agn(host, fibre_fraction=share).flux - host.flux) * share[:, None]
    np.testing.assert_allclose(part, whole, atol=1e-5 * float(np.abs(whole).max()))
    none = host.isel(galaxy=host.agn_type.values == "")
    assert agn.add_agn(none) is none
    with pytest.raises(ValueError, match="lacks line_luminosity"):
        agn.add_agn(host.drop_vars("line_luminosity"))
