"""J-PAS: band fluxes by one matrix product, errors, gaps, frames, noise; held to the measured curves and to sedpy."""

import numpy as np
import pytest
from astropy import units as u
from astropy.constants import c

from spectool.prepare import PrepareWarning
from spectool.surveys import jpas
from spectool.surveys.jpas import BANDS, CALIFA_BANDS, band_matrix, measure_bands, observe_jpas, to_magnitudes
from tests.samples import make_spectra

LIGHT = c.to_value("Angstrom / s")


@pytest.fixture(scope="module")
def galaxies(sdss_table, sdss_galaxies):
    return sdss_galaxies(np.flatnonzero(sdss_table["z"].between(0.03, 0.1))[:100])


def test_the_bands_are_those_of_survey_and_paper():
    assert len(BANDS) == 54 and len(CALIFA_BANDS) == 34
    assert CALIFA_BANDS[0] == "J0390" and CALIFA_BANDS[-1] == "J0740"
    assert not {"J0660", "J0670"} & set(CALIFA_BANDS)
    for name, item in jpas.FILTERS.items():
        half = item.wavelength + item.fwhm / 2 * np.array([-1, 1])
        assert np.allclose(jpas.transmission(name, half), 0.5, atol=1e-6)
        assert jpas.transmission(name, item.wavelength) > 0.9999
    centre = np.array([one.wavelength for one in jpas.FILTERS.values()])
    assert np.abs(np.diff(centre) - 100).max() < 25
    califa = band_matrix(np.arange(3745.0, 7500.0, 2.0), BANDS)
    covered = {name for name, column in zip(BANDS, califa.T, strict=True) if np.isfinite(column).all()}
    assert covered == set(CALIFA_BANDS) | {"J0660", "J0670"}


@pytest.mark.parametrize("step", [1.0, 2.7, 10.0])
def test_a_source_of_constant_frequency_flux_has_it_in_every_band(step):
    wavelength = np.arange(3600.0, 9300.0, step)
    flux = LIGHT / wavelength**2
    assert np.allclose(flux @ band_matrix(wavelength, BANDS), 1, atol=5e-6)
    spectra = make_spectra((0 * u.ABmag).to_value("erg / (s cm2 Hz)") * 1e17 * flux, wavelength)
    seen = to_magnitudes(measure_bands(spectra, BANDS))
    assert np.allclose(seen["magnitude"], 0, atol=1e-5)


def test_an_independent_code_finds_the_same_magnitudes(galaxies):
    from sedpy.observate import Filter

    wavelength = galaxies["observed_wavelength"].values
    good = (galaxies["ivar"].values[:5] > 0).all(axis=0)
    first, last = np.flatnonzero(good)[[0, -1]]
    flux = galaxies["flux"].values[:5, first : last + 1]
    spectra = make_spectra(flux, wavelength[first : last + 1], frame="observed_wavelength", redshift=0.05)
    bands = BANDS[3::6]
    ours = to_magnitudes(measure_bands(spectra, bands, frame="observed"))["magnitude"].values
    fine = np.arange(3600.0, 9350.0, 0.25)
    for column, name in enumerate(bands):
        curve = jpas.transmission(name, fine)
        some = curve > 1e-6
        band = Filter(name, data=(fine[some], curve[some]))
        theirs = [band.ab_mag(wavelength[first : last + 1], 1e-17 * row.astype(float)) for row in flux]
        assert np.allclose(ours[:, column], theirs, atol=2e-3), name


def test_magnitudes_are_those_through_the_measured_curves(galaxies, packaged, shared):
    """To 0.02 mag on real galaxies, in the rest and in the observed frame (which alone reaches the reddest bands)."""
    fine = np.arange(3600.0, 9350.0, 1.0)
    measured = np.load(shared / "data/jpas_filters.npz")
    tables = (measured[f"JPAS_{name}"].T.astype(float) for name in BANDS)
    curves = np.array([np.interp(fine, *table, left=0, right=0) for table in tables]).T
    photons, flat = curves * fine[:, None], LIGHT * curves / fine[:, None]
    ours = band_matrix(fine, BANDS)
    spectra = [(packaged, row, 0.004) for row in range(2)]
    spectra += [(galaxies, row, float(galaxies["redshift"][row])) for row in range(100)]
    n_compared, errors = np.zeros(len(BANDS), int), []
    for sample, row, z in spectra:
        good = sample["ivar"].values[row] > 0
        for stretch in (1.0, 1 + z):
            pixels = sample["observed_wavelength"].values[good] / stretch
            values = np.interp(fine, pixels, sample["flux"].values[row, good], left=0, right=0)
            outside = (fine < pixels[0]) | (fine > pixels[-1])
            lost = curves[outside].sum(axis=0) / curves.sum(axis=0)
            covered = lost < 0.01  # J0910 leaks 0.9% beyond 9200 A
            theirs = values @ photons[:, covered] / flat[~outside][:, covered].sum(axis=0)
            errors.append(2.5 * np.log10(values @ ours[:, covered] / theirs))
            n_compared += covered
    errors = np.abs(np.concatenate(errors))
    assert n_compared.min() >= 10, "every band is compared on some galaxies"
    assert errors.max() < 0.02 and np.median(errors) < 0.001


def test_frames_differ_by_the_redshift():
    """At z = 0.03 H-alpha leaves J0660 for J0680."""
    wavelength = np.arange(3700.0, 7600.0, 1.0)
    line = LIGHT / wavelength**2 * (1 + 3 * np.exp(-0.5 * ((wavelength - 6564.6) / 3) ** 2))
    spectra = make_spectra(line, wavelength, redshift=0.03, units="")
    bands = ("J0640", "J0650", "J0660", "J0670", "J0680", "J0690")
    at_rest = measure_bands(spectra, bands)["flux"].values[0]
    shifted = measure_bands(spectra, bands, frame="observed")["flux"].values[0]
    assert [bands[i] for i in np.flatnonzero(at_rest > 1.05 * at_rest[0])] == ["J0650", "J0660"]
    assert [bands[i] for i in np.flatnonzero(shifted > 1.05 * shifted[0])] == ["J0670", "J0680"]
    given = {"ivar": np.ones(wavelength.size), "frame": "observed_wavelength", "redshift": 0.03}
    observed = make_spectra(line, wavelength * 1.03, **given)
    back = measure_bands(observed, bands)["flux"].values[0]
    assert np.allclose(back / back[0], at_rest / at_rest[0], rtol=1e-6)


def test_errors_are_the_scatter_of_repeated_noise(rng):
    wavelength = np.arange(4400.0, 5200.0, 1.1)
    sigma = rng.uniform(0.05, 0.2, wavelength.size)
    flux = 1 + sigma * rng.standard_normal((4000, wavelength.size))
    spectra = make_spectra(flux, wavelength, ivar=np.tile(sigma**-2, (4000, 1)))
    seen = measure_bands(spectra, ("J0460", "J0480", "J0500"))
    assert np.allclose(seen["flux"].std("spectrum") / seen["flux_error"][0], 1, atol=0.05)


def test_gaps_are_bridged_up_to_the_rule_and_masked_beyond():
    wavelength = np.arange(4400.0, 5200.0, 1.0)
    flux = np.tile(LIGHT / wavelength**2, (4, 1))
    ivar = np.ones(flux.shape)
    ivar[1, np.abs(wavelength - 4809) < 3] = 0  # 3% of J0480
    ivar[2, np.abs(wavelength - 4809) < 6] = 0  # 8%
    ivar[3] = 0
    flux[1:3, np.abs(wavelength - 4809) < 3] = np.nan
    with pytest.warns(PrepareWarning, match="1 spectra cover none of the 3 bands, the first is row 3"):
        seen = measure_bands(make_spectra(flux, wavelength, ivar=ivar, units=""), ("J0470", "J0480", "J0510"))
    assert seen["mask"].values.tolist() == [[False] * 3, [False] * 3, [False, True, False], [True] * 3]
    assert np.isnan(seen["flux"].values[seen["mask"].values]).all()
    assert np.allclose(seen["flux"].values[~seen["mask"].values], 1, atol=1e-5)
    assert float(seen["flux_error"][1, 1]) > float(seen["flux_error"][0, 1])
    for words in ("4 of 12 bands masked", "2 of 4 spectra lack some, 1 all"):
        assert words in seen.attrs["history"]


def test_depths_mean_five_sigma_and_what_cannot_be_scaled_or_seen_is_masked(flat_bands):
    assert np.isclose(jpas.DEPTHS["J0378"], 23.5) and np.isclose(jpas.DEPTHS["J0910"], 22.0)
    for area, snr in ((np.pi * 1.5**2, 5.0), (4 * np.pi * 1.5**2, 2.5)):
        column = observe_jpas(flat_bands, seed=1, magnitude=jpas.DEPTHS["J0620"], area=area).sel(band="J0620")
        assert np.allclose(column["true_flux"] / column["flux_error"], snr)
    assert np.allclose(-2.5 * np.log10(column["true_flux"] / 3631), jpas.DEPTHS["J0620"], atol=1e-3)
    seen = observe_jpas(flat_bands, seed=1, magnitude=np.full(3000, 14.0), floor=0.02)
    assert np.allclose(seen["flux_error"] / seen["true_flux"], 0.02, rtol=0.01)
    few = flat_bands.isel(spectrum=slice(0, 400)).copy(deep=True)
    few["flux"][0, list(CALIFA_BANDS).index("J0620")] = -1
    few["flux"][1, 3] = np.nan
    seen = observe_jpas(few, seed=2, magnitude=23.5)
    assert seen["mask"].values[0].all() and seen["mask"].values[1:].sum() == 1
    assert "1 of 400 spectra masked for want of light in J0620" in seen.attrs["history"]
    magnitudes = to_magnitudes(seen)
    lost = magnitudes["mask"].values & ~seen["mask"].values
    assert ((seen["flux"] < seen["flux_error"]).values[lost]).all() and lost.sum() > 100
    assert f"{lost.sum()} of {lost.size} bands masked as not detected" in magnitudes.attrs["history"]
    assert np.isfinite(magnitudes["magnitude"].values).sum() == (~magnitudes["mask"]).sum()
    bright = to_magnitudes(observe_jpas(few, seed=2, magnitude=18.0))
    expected = 2.5 / np.log(10) * bright["flux_error"] / bright["flux"]
    assert np.allclose(bright["magnitude_error"], expected, equal_nan=True)
