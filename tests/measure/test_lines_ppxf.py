"""pPXF's fits are those of its own loop, say what they could not fit, and lose nothing in workers and interrupts."""

import contextlib

import distributed
import numpy as np
import pytest
import xarray as xr

from benchmarks.lines import PEER_LINES, fit_plainly
from spectool.measure import lines_ppxf
from spectool.measure.line_design import MEASURED, REDDENING, gaussian_on_pixels
from spectool.measure.line_spectra import read_spectra
from spectool.measure.lines_ppxf import FIT_RANGE, convolve, fit_lines, make_setup
from spectool.prepare import mask_bad_pixels, resample, to_rest_frame
from spectool.spectra import LINES, pixel_edges
from spectool.surveys.spectrograph import luminosity_to_flux, observe_sdss
from spectool.synth.grid import embedded_grid
from spectool.synth.synthesis import synthesize
from tests.refusals import refused

from .line_mocks import PIXELS, make_mocks, pulls

CLOUDY_NAMES = ["O 2 3726", "O 2 3729", "H 1 4102", "H 1 4340", "O 3 4363", "H 1 4861", "O 3 4959"]
CLOUDY_NAMES += ["O 3 5007", "O 1 6300", "N 2 6548", "H 1 6563", "N 2 6583", "S 2 6716", "S 2 6731"]
# The doublets of the Cloudy tables, whose atomic data are older than those of the default.
CLOUDY_DOUBLETS = {"[O III] 5007": ("[O III] 4959", 1 / 2.903), "[N II] 6583": ("[N II] 6548", 1 / 2.953)}


def fit(sample, **options):
    return fit_lines(sample, **{"n_workers": 1, "progress": False} | options)


@pytest.fixture(scope="module")
def few(mocks):
    return mocks.isel(galaxy=slice(6))


@pytest.fixture(scope="module")
def fitted(few):
    return fit(few)


@pytest.fixture(scope="module")
def given(few):
    """What `fit_lines` gives its workers."""
    spectra = read_spectra(few, "flux", fit_range=FIT_RANGE)
    return spectra, make_setup(spectra, MEASURED, None, False, embedded_grid(), "compact", REDDENING)


@pytest.fixture(scope="module")
def observed(grid, population):
    """Galaxies of `synthesize`, lines and all, as SDSS sees them at z = 0.05, with the fluxes of their lines."""
    galaxies = population.isel(galaxy=slice(40)).assign(redshift=("galaxy", np.full(40, 0.05), {"units": ""}))
    inside = (grid.wavelength > 3400) & (grid.wavelength < 8700)
    stars = synthesize(galaxies, grid, wavelength=grid.wavelength[inside], keep_lines=True, progress=False)
    seen = mask_bad_pixels(observe_sdss(stars, seed=9, median_flux=None, fibre_fraction=0.3))
    luminosity = stars["line_luminosity"].sel(line=CLOUDY_NAMES).values
    true = luminosity * (luminosity_to_flux(np.full(40, 0.05)) * 1.05 * 0.3)[:, None]
    return seen.drop_dims("line"), true


def test_fluxes_are_unbiased_on_sdss_own_pixels(observed):
    sample, true = observed
    pull = pulls(fit(sample, doublets=CLOUDY_DOUBLETS), true)
    assert pull.size > 100 and abs(pull.mean()) < 0.1 + 2 / np.sqrt(pull.size) and 0.85 < pull.std() < 1.15


def test_frames_and_names_of_wavelengths_do_not_matter(observed):
    sample = observed[0].isel(galaxy=slice(3))
    lsf = sample["lsf_sigma"].values
    rest = to_rest_frame(sample.drop_vars("lsf_sigma"))
    common = ("wavelength", rest["rest_wavelength"].values[0], {"units": "Angstrom"})
    same = rest.drop_vars("rest_wavelength").assign_coords(wavelength=common)
    expected = fit(sample, lsf=lsf)
    for found in (fit(rest, lsf=lsf), fit(same, lsf=lsf)):
        assert (np.abs(found["line_flux"] - expected["line_flux"]) < 0.05 * expected["line_flux_error"]).all()
        np.testing.assert_allclose(found["line_flux_error"], expected["line_flux_error"], rtol=0.02)


def test_on_real_spectra_they_are_those_of_sdss_pipeline(sdss_table, sdss_galaxies):
    """Its line areas, of the lines that depend little on how much the stars absorb."""
    rows = np.flatnonzero((sdss_table["subclass"] == "STARFORMING") & (sdss_table["z"] > 0.01))[:24]
    found = fit(mask_bad_pixels(sdss_galaxies(rows).drop_vars("velocity_dispersion")))
    for name, column in {"Hα": "h_alpha", "[N II] 6583": "n_ii_6583", "[S II] 6716": "s_ii_6716"}.items():
        area, error = (sdss_table[f"{column}_{part}"].values[rows] for part in ("area", "err"))
        seen = (error > 0) & (area > 15 * error)
        ours = found.sel(line=name).isel(galaxy=seen)
        assert seen.sum() > 10
        assert np.median(ours["line_flux"] / area[seen]) == pytest.approx(1, abs=0.06)
        assert np.median(ours["line_flux_error"] / error[seen]) == pytest.approx(1, abs=0.2)


def test_the_fluxes_are_those_of_ppxf_looping_over_all_templates(few, given):
    spectra, setup = given
    mine = fit(few, broad=False)
    wanted = np.array([MEASURED.index(name) for name in PEER_LINES])
    flux, error = (mine[name].values[:, wanted] for name in ("line_flux", "line_flux_error"))
    theirs = np.array([fit_plainly(setup, *spectra.at_rest(k), wanted) for k in range(len(flux))])
    strong = flux > 5 * error
    difference = np.abs(flux - theirs)[strong]
    assert difference.size > 15
    assert np.median(difference / error[strong]) < 0.15
    assert np.median(difference / flux[strong]) < 0.01


def test_at_fixed_kinematics_the_model_is_exactly_that_of_ppxf(given):
    from ppxf.ppxf import ppxf

    spectra, setup = given
    spectrum = lines_ppxf.SpectrumFit(setup, *spectra.at_rest(0))
    star, gas = (20.0, 140.0), (-30.0, 95.0)
    spectrum.solve(star, gas, spectrum.convolve(star, gas))
    templates = np.concatenate([setup.stars, setup.columns.T @ setup.gas]).T
    component = np.repeat([0, 1], [len(setup.stars), setup.columns.shape[1]])
    options = {"moments": [-2, -2], "degree": -1, "linear": True, "quiet": True, "component": component}
    options |= {"vsyst": spectrum.shift * setup.velscale, "velscale_ratio": setup.ratio}
    data, options["goodpixels"] = (spectrum.flux, spectrum.noise, setup.velscale), spectrum.good
    theirs = ppxf(templates, *data, [list(star), list(gas)], **options)
    np.testing.assert_allclose(spectrum.weights @ spectrum.design, theirs.bestfit, rtol=1e-6)
    np.testing.assert_allclose(spectrum.amplitudes, theirs.weights[len(setup.stars) :], rtol=1e-4, atol=1e-6)


def test_a_line_holds_its_flux_whatever_its_kinematics(few, given):
    spectra, setup = given
    edges = np.linspace(4900, 5100, 300)
    assert np.sum(gaussian_on_pixels(edges, 5008.24, 1.3) * np.diff(edges)) == pytest.approx(1)
    wavelength = few["wavelength"].values
    shift = (setup.log_start - spectra.log_first[0]) / spectra.step
    line = setup.gas_rfft[setup.reported[[MEASURED.index("Hβ")]]]
    for velocity, sigma in ((0, 30), (200, 100), (-200, 300)):
        profile = convolve(line, velocity, sigma, setup, shift, wavelength.size)[0]
        assert np.sum(profile * np.diff(pixel_edges(wavelength))) == pytest.approx(1, rel=1e-3)
        centre = LINES["Hβ"] * (1 + velocity / 299792.458)
        assert np.sum(profile * wavelength) / profile.sum() == pytest.approx(centre, rel=1e-4)


def test_kinematics_and_lines_can_be_given(few):
    widths = {"gas_dispersion": few["true_dispersion"].values, "stellar_dispersion": 90.0}
    every = fit(few, kinematics="fixed", **widths)
    np.testing.assert_allclose(every["gas_dispersion"], few["true_dispersion"])
    assert set(every["stellar_dispersion"].values) == {90.0} and set(every["gas_velocity"].values) == {0.0}
    part = fit(few, kinematics="fixed", lines=("Hα", "He I"), **widths)
    np.testing.assert_allclose(part["line_flux"].sel(line="Hα"), every["line_flux"].sel(line="Hα"), rtol=1e-3)
    assert list(part["line"].values) == ["Hα", "He I"]
    assert part["line_wavelength"].values[0] == LINES["Hα"]


def test_noise_that_drowns_the_lines_fixes_their_kinematics(grid):
    table = fit(make_mocks(grid, 4, seed=2, sn=0.5, strength=0.0))
    assert set(table["fit_message"].values) == {"kinematics fixed: too noisy"}
    assert set(table["fit_status"].values) == {0} and (table["line_flux"] >= 0).all()


def test_errors_follow_the_noise_which_another_variable_brings_along(few, fitted):
    doubled = fit(few.assign(ivar=few["ivar"] / 4), rescale_errors=True)
    ratio = (doubled["line_flux_error"] / fitted["line_flux_error"]).values
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.06)
    sample = few.assign(
        noisy=(PIXELS, 2 * few["flux"].values, {"units": ""}),
        noisy_sigma=(PIXELS, np.zeros(few["flux"].shape)),
        noisy_scale=("galaxy", np.full(6, 2.0)),
    )
    found = fit(sample, variable="noisy")
    for name, factor in {"line_flux": 2, "line_flux_error": 2, "line_an": 1}.items():
        np.testing.assert_allclose(found[name], factor * fitted[name], rtol=1e-4)


def test_an_unknown_redshift_is_that_galaxys_trouble_and_pixels_have_to_be_uniform(few):
    moved = few.isel(galaxy=slice(3)).assign(redshift=("galaxy", [0.0, np.nan, -0.5]))
    table = fit(moved.rename(wavelength="observed_wavelength").swap_dims(observed_wavelength="wavelength"))
    np.testing.assert_array_equal(table["fit_status"], [0, 1, 1])
    assert "without redshift" in str(table["fit_message"].values[1])
    refused("uniform in log wavelength", fit, resample(few, np.linspace(3800, 7000, 400)))
    refused("the sample holds no galaxy", fit, few.isel(galaxy=slice(0)))


def test_a_fit_that_fails_is_recorded(few, monkeypatch):
    call, count = lines_ppxf._call_ppxf, iter(range(100))

    def sometimes(spectrum, kinds):
        k = next(count)
        if k == 1:
            raise np.linalg.LinAlgError("SVD did not converge")
        found = call(spectrum, kinds)
        if k == 3:
            found.status = 0
        return found

    monkeypatch.setattr(lines_ppxf, "_call_ppxf", sometimes)
    table = fit(few)
    np.testing.assert_array_equal(table["fit_status"], [0, 2, 0, 2, 0, 0])
    assert str(table["fit_message"].values[1]) == "LinAlgError: SVD did not converge"
    assert "not converged" in str(table["fit_message"].values[3])
    assert np.isnan(table["line_flux"].values[[1, 3]]).all() and "2 failed" in table.attrs["history"]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(lines_ppxf, "CHUNK", 2)


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupt_keeps_what_is_done_and_the_next_call_goes_on(
    few, fitted, monkeypatch, small_chunks, tmp_path, kept
):
    chunks, real, file = [], lines_ppxf.fit_line_chunk, tmp_path / "fits.npz" if kept else None

    def until_stopped(setup, jobs):
        chunks.append([job[0] for job in jobs])
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return real(setup, jobs)

    monkeypatch.setattr(lines_ppxf, "fit_line_chunk", until_stopped)
    text = "interrupted: 4 spectra are not fitted" + ("; the others are kept in" if kept else "$")
    with pytest.warns(UserWarning, match=text):
        part = fit(few, checkpoint=file)
    assert part.attrs["interrupted"] == 1 and "4 x not fitted: interrupted" in part.attrs["history"]
    np.testing.assert_array_equal(part["fit_status"], [0] * 2 + [2] * 4)
    assert np.isnan(part["line_flux"].values[2:]).all()
    np.testing.assert_array_equal(part["line_flux"][:2], fitted["line_flux"][:2])
    if kept:
        for _ in range(2):
            xr.testing.assert_identical(fit(few, checkpoint=file), fitted)
        assert chunks == [[0, 1], [2, 3], [2, 3], [4, 5]]


def test_failures_are_kept_in_the_file_and_one_of_other_fits_is_refused(few, monkeypatch, tmp_path):
    file, options = tmp_path / "fits.npz", {"kinematics": "fixed", "keep_fit": True}
    three = few.isel(galaxy=slice(3)).copy(deep=True)
    three["mask"].values[1] = True
    first = fit(three, checkpoint=file, **options)
    assert int(first["fit_status"][1]) == 1
    monkeypatch.setattr(lines_ppxf, "fit_line_chunk", lambda *_: pytest.fail("nothing is left to fit"))
    xr.testing.assert_identical(fit(three, checkpoint=file, **options), first)
    for other, changed in ((three, {"kinematics": "free"}), (three.assign(flux=three["flux"] * 1.01), {})):
        with pytest.raises(ValueError, match="holds fits of other spectra or with other settings"):
            fit(other, checkpoint=file, **options | changed)
    file.write_bytes(file.read_bytes()[:500])
    refused("no checkpoint of fit_lines", fit, three, checkpoint=file, **options)


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_several_workers_find_the_same(few, fitted, small_chunks, backend, capsys):
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with contextlib.ExitStack() as stack:
        if backend == "dask":
            cluster = stack.enter_context(distributed.LocalCluster(**options))
            stack.enter_context(distributed.Client(cluster))
        found = fit(few, n_workers=2, backend=backend, progress=True)
    xr.testing.assert_allclose(found, fitted, rtol=1e-5)
    np.testing.assert_array_equal(found["fit_message"], fitted["fit_message"])
    assert "fitting lines: 100%" in capsys.readouterr().err
