"""pPXF's fits find what was put in, are those of pPXF's own loop, and say what they could not fit."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from benchmarks.lines import PEER_LINES, fit_plainly
from spectool.measure import lines_ppxf
from spectool.measure.line_design import DOUBLETS, MEASURED, REDDENING, gaussian_on_pixels
from spectool.measure.line_spectra import read_spectra
from spectool.measure.lines_ppxf import FIT_RANGE, convolve, fit_lines, make_setup
from spectool.prepare import mask_bad_pixels, to_rest_frame
from spectool.spectra import LINES, pixel_edges
from spectool.surveys.sdss import FLUX_UNIT, luminosity_to_flux, observe_sdss
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import synthesize

from .line_mocks import gaussians, make_mocks

CLOUDY_NAMES = (
    "O 2 3726",
    "O 2 3729",
    "H 1 4102",
    "H 1 4340",
    "O 3 4363",
    "H 1 4861",
    "O 3 4959",
    "O 3 5007",
)
CLOUDY_NAMES += ("O 1 6300", "N 2 6548", "H 1 6563", "N 2 6583", "S 2 6716", "S 2 6731")
# The doublets of the Cloudy tables, whose atomic data are older than those of the default.
CLOUDY_DOUBLETS = {
    "[O III] 5007": ("[O III] 4959", 1 / 2.903),
    "[N II] 6583": ("[N II] 6548", 1 / 2.953),
}
# Those of make_mocks, where pixels are too coarse to tell the two lines of [O II] from each other.
MOCK_DOUBLETS = DOUBLETS | {"[O II] 3729": ("[O II] 3726", 0.43 / 0.57)}
TIED = ("[O II] 3726", "[O III] 4959", "[N II] 6548")
FREE = np.array([name not in TIED for name in MEASURED])


def fit(sample, **options):
    return fit_lines(sample, n_workers=1, progress=False, **options)


def pulls(table, true):
    """(measured - true) / error of lines with a true S/N above 5, the tied ones left out."""
    error = table["line_flux_error"].values
    pull = ((table["line_flux"].values - true) / error)[:, FREE]
    return pull[(true / error)[:, FREE] > 5]


def mock_setup(sample):
    """What `fit_lines` gives its workers."""
    spectra = read_spectra(sample, "flux", fit_range=FIT_RANGE)
    return spectra, make_setup(spectra, MEASURED, None, False, embedded_grid(), "compact", REDDENING)


@pytest.fixture(scope="module")
def mocks(grid):
    return make_mocks(grid, 240, seed=3, sn=25)


@pytest.fixture(scope="module")
def table(mocks):
    return fit(mocks, doublets=MOCK_DOUBLETS, keep_fit=True)


@pytest.fixture(scope="module")
def few(mocks):
    return mocks.isel(galaxy=slice(6))


@pytest.fixture(scope="module")
def observed(grid, population):
    """Galaxies of `synthesize`, lines and all, as SDSS sees them at z = 0.05, with the fluxes of their lines."""
    galaxies = population.isel(galaxy=slice(40)).assign(redshift=("galaxy", np.full(40, 0.05), {"units": ""}))
    inside = (grid.wavelength > 3400) & (grid.wavelength < 8700)
    stars = synthesize(galaxies, grid, wavelength=grid.wavelength[inside], keep_lines=True, progress=False)
    seen = mask_bad_pixels(observe_sdss(stars, seed=9, median_flux=None, fibre_fraction=0.3))
    luminosity = stars["line_luminosity"].sel(line=list(CLOUDY_NAMES)).values
    true = luminosity * (luminosity_to_flux(np.full(40, 0.05)) * 1.05 * 0.3)[:, None]
    return seen.drop_dims("line"), true


def test_fluxes_are_unbiased_and_their_errors_right(mocks, table):
    pull = pulls(table, mocks["true_flux"].values)
    assert pull.size > 1000
    assert abs(pull.mean()) < 0.1
    assert 0.9 < pull.std() < 1.1


def test_so_they_are_on_sdss_own_pixels(observed):
    sample, true = observed
    pull = pulls(fit(sample, doublets=CLOUDY_DOUBLETS), true)
    assert pull.size > 100
    assert abs(pull.mean()) < 0.1 + 2 / np.sqrt(pull.size)
    assert 0.85 < pull.std() < 1.15


def test_frames_and_names_of_wavelengths_do_not_matter(observed):
    sample = observed[0].isel(galaxy=slice(3))
    lsf = sample["lsf_sigma"].values
    rest = to_rest_frame(sample.drop_vars("lsf_sigma"))
    same = rest.drop_vars("rest_wavelength").assign_coords(
        wavelength=("wavelength", rest["rest_wavelength"].values[0], {"units": "Angstrom"})
    )
    expected = fit(sample, lsf=lsf)
    for other in (rest, same):
        found = fit(other, lsf=lsf)
        assert (np.abs(found["line_flux"] - expected["line_flux"]) < 0.05 * expected["line_flux_error"]).all()
        np.testing.assert_allclose(found["line_flux_error"], expected["line_flux_error"], rtol=0.02)


def test_on_real_spectra_they_are_those_of_sdss_pipeline(shared):
    """Its line areas, of the lines that depend little on how much the stars absorb."""
    table = pd.read_csv(shared / "data/sdss_galaxies.csv")
    with np.load(shared / "data/sdss_galaxies.npz") as archive:
        forming = ((table["subclass"] == "STARFORMING") & (table["z"] > 0.01)).values
        rows = np.flatnonzero(forming)[:24]
        flux, ivar = archive["flux"][rows], archive["ivar"][rows]
        wavelength = 10 ** (archive["loglam0"] + archive["dloglam"] * np.arange(flux.shape[1]))
    dims = ("galaxy", "wavelength")
    sample = xr.Dataset(
        {"flux": (dims, flux, {"units": FLUX_UNIT}), "ivar": (dims, ivar)},
        coords={"observed_wavelength": ("wavelength", wavelength)},
        attrs={"survey": "SDSS"},
    ).assign(redshift=("galaxy", table["z"].values[rows]))
    found = fit(mask_bad_pixels(sample))
    assert set(found["fit_status"].values) == {0}
    for name, column in {"Hα": "h_alpha", "[N II] 6583": "n_ii_6583", "[S II] 6716": "s_ii_6716"}.items():
        area, error = (table[f"{column}_{part}"].values[rows] for part in ("area", "err"))
        seen = (error > 0) & (area > 15 * error)
        ours = found.sel(line=name).isel(galaxy=seen)
        assert seen.sum() > 10
        assert np.median(ours["line_flux"] / area[seen]) == pytest.approx(1, abs=0.06)
        assert np.median(ours["line_flux_error"] / error[seen]) == pytest.approx(1, abs=0.2)


def test_chi2_is_that_of_white_noise(table):
    assert float(table["chi2"].median()) == pytest.approx(1, abs=0.02)
    assert set(table["fit_status"].values) == {0}


def test_the_fluxes_are_those_of_ppxf_looping_over_all_templates(few):
    spectra, setup = mock_setup(few)
    mine = fit(few, broad=False)
    wanted = np.array([MEASURED.index(name) for name in PEER_LINES])
    flux, error = (mine[name].values[:, wanted] for name in ("line_flux", "line_flux_error"))
    theirs = np.array([fit_plainly(setup, *spectra.at_rest(k), wanted) for k in range(len(flux))])
    strong = flux > 5 * error
    difference = np.abs(flux - theirs)[strong]
    assert strong.sum() > 15
    assert np.median(difference / error[strong]) < 0.15
    assert np.median(difference / flux[strong]) < 0.01


def test_at_fixed_kinematics_the_model_is_exactly_that_of_ppxf(few):
    from ppxf.ppxf import ppxf

    spectra, setup = mock_setup(few)
    flux, noise, log_first = spectra.at_rest(0)
    spectrum = lines_ppxf.SpectrumFit(setup, flux, noise, log_first)
    star, gas = (20.0, 140.0), (-30.0, 95.0)
    spectrum.solve(star, gas, spectrum.convolve(star, gas))
    theirs = ppxf(
        np.concatenate([setup.stars, setup.columns.T @ setup.gas]).T,
        spectrum.flux,
        spectrum.noise,
        setup.velscale,
        [list(star), list(gas)],
        moments=[-2, -2],
        degree=-1,
        component=np.repeat([0, 1], [len(setup.stars), setup.columns.shape[1]]),
        goodpixels=spectrum.good,
        vsyst=spectrum.shift * setup.velscale,
        velscale_ratio=setup.ratio,
        linear=True,
        quiet=True,
    )
    np.testing.assert_allclose(spectrum.weights @ spectrum.design, theirs.bestfit, rtol=1e-6)
    np.testing.assert_allclose(spectrum.amplitudes, theirs.weights[len(setup.stars) :], rtol=1e-4, atol=1e-6)


def test_a_line_holds_its_flux_whatever_its_kinematics(few):
    spectra, setup = mock_setup(few)
    edges = np.linspace(4900, 5100, 300)
    assert np.sum(gaussian_on_pixels(edges, 5008.24, 1.3) * np.diff(edges)) == pytest.approx(1)
    wavelength = few["wavelength"].values
    shift = (setup.log_start - spectra.log_first[0]) / spectra.step
    line = setup.reported[[MEASURED.index("Hβ")]]
    for velocity, sigma in ((0, 30), (200, 100), (-200, 300)):
        profile = convolve(setup.gas_rfft[line], velocity, sigma, setup, shift, wavelength.size)[0]
        assert np.sum(profile * np.diff(pixel_edges(wavelength))) == pytest.approx(1, rel=1e-3)
        assert np.sum(profile * wavelength) / profile.sum() == pytest.approx(
            LINES["Hβ"] * (1 + velocity / 299792.458), rel=1e-4
        )


def test_doublets_keep_their_ratio_and_peaks_are_those_of_the_profile(table):
    flux = table["line_flux"]
    for strong, weak, ratio in (
        ("[O III] 5007", "[O III] 4959", 2.98),
        ("[N II] 6583", "[N II] 6548", 3.05),
    ):
        ours = flux.sel(line=strong).values
        np.testing.assert_allclose(ours, ratio * flux.sel(line=weak).values)
    alone = np.abs(table["wavelength"].values - LINES["Hβ"]) < 15
    narrow = table["broad_h_alpha_flux"].values == 0
    top = table["line_model"].values[narrow][:, alone].max(axis=1)
    np.testing.assert_allclose(table["line_peak"].sel(line="Hβ")[narrow], top, rtol=0.01, atol=1e-3)
    relative = table["line_peak"] / table["line_peak_error"]
    np.testing.assert_allclose(relative, table["line_sn"])


def test_the_fit_kept_is_the_fit_measured(mocks, table):
    model = table["continuum"].values + table["line_model"].values
    chi2 = (((mocks["flux"].values - model) ** 2) * mocks["ivar"].values).sum(axis=1)
    ratio = chi2 / table["chi2"].values
    assert ((ratio > 740) & (ratio < 825)).all()  # degrees of freedom


def test_kinematics_come_back_where_lines_are_bright(mocks, table):
    bright = table["line_sn"].sel(line="Hα").values > 60
    assert bright.sum() > 30
    assert np.median(np.abs(table["gas_velocity"] - mocks["true_velocity"])[bright]) < 8
    assert abs(np.median((table["gas_dispersion"] - mocks["true_dispersion"])[bright])) < 8


def test_kinematics_can_be_given(few):
    fixed = fit(
        few, kinematics="fixed", gas_dispersion=few["true_dispersion"].values, stellar_dispersion=90.0
    )
    np.testing.assert_allclose(fixed["gas_dispersion"], few["true_dispersion"])
    assert set(fixed["stellar_dispersion"].values) == {90.0}
    assert set(fixed["gas_velocity"].values) == {0.0}


def test_broad_lines_are_found_and_leave_the_narrow_ones_alone(mocks):
    sample = mocks.isel(galaxy=slice(30))
    edges = pixel_edges(sample["wavelength"].values)
    strength = np.full(30, 150.0)
    strength[15:] = 0.0
    wings = sum(
        gaussians(edges, LINES[name], share * strength, np.zeros(30), np.full(30, 1500.0), 70.0)
        for name, share in (("Hα", 1.0), ("Hβ", 0.3), ("Hγ", 0.13))
    )
    table = fit(sample.assign(flux=sample["flux"] + wings))
    found = table["broad_h_alpha_flux"].values
    np.testing.assert_allclose(found[:15], 150.0, rtol=0.15)
    np.testing.assert_array_equal(found[15:], 0.0)
    pull = pulls(table.isel(galaxy=slice(15)), sample["true_flux"].values[:15])
    assert abs(np.median(pull)) < 0.4


def test_noise_that_drowns_the_lines_fixes_their_kinematics(grid):
    table = fit(make_mocks(grid, 4, seed=2, sn=0.5, strength=0.0))
    assert set(table["fit_message"].values) == {"kinematics fixed: too noisy"}
    assert set(table["fit_status"].values) == {0}
    assert (table["line_flux"] >= 0).all()


def test_errors_follow_the_noise_and_are_rescaled_where_it_is_unknown(few):
    known = fit(few)
    doubled = fit(few.assign(ivar=few["ivar"] / 4), rescale_errors=True)
    ratio = (doubled["line_flux_error"] / known["line_flux_error"]).values
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.06)
    guessed = fit(few.drop_vars("ivar"))
    ratio = (guessed["line_flux_error"] / known["line_flux_error"]).values
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.15)
    assert "noise guessed" in guessed.attrs["history"]


def test_another_variable_brings_its_own_noise(few):
    scale = np.full(few.sizes["galaxy"], 2.0)
    dims = ("galaxy", "wavelength")
    sample = few.assign(
        noisy=(dims, 2 * few["flux"].values, {"units": ""}),
        noisy_sigma=(dims, np.zeros(few["flux"].shape)),
        noisy_scale=("galaxy", scale),
    )
    found, expected = fit(sample, variable="noisy"), fit(few)
    for name in ("line_flux", "line_flux_error"):
        np.testing.assert_allclose(found[name], 2 * expected[name], rtol=1e-4)
    np.testing.assert_allclose(found["line_an"], expected["line_an"], rtol=1e-4)


def test_what_is_asked_does_not_change_what_is_found(few):
    every = fit(few, kinematics="fixed")
    one = fit(few, kinematics="fixed", lines=("Hα", "He I"))
    np.testing.assert_allclose(one["line_flux"].sel(line="Hα"), every["line_flux"].sel(line="Hα"), rtol=1e-3)
    assert list(one["line"].values) == ["Hα", "He I"]
    assert one["line_wavelength"].values[0] == LINES["Hα"]


def test_additive_polynomials_take_up_what_templates_have_not(few):
    tilt = 0.5 * np.linspace(-1, 1, few.sizes["wavelength"])
    tilted = few.assign(flux=few["flux"] + tilt)
    assert (fit(tilted, degree=2)["chi2"] < fit(tilted)["chi2"]).all()
