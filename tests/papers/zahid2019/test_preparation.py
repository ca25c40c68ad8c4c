"""Observed spectra come out of the preparation as the models' own; bad ones are named."""

import warnings

import numpy as np
import pytest

from spectool.continuum import N_KEPT, ContinuumBasis, normalize_continuum
from spectool.papers.zahid2019.reader import FWHM, prepare_zahid2019
from spectool.papers.zahid2019.sample import make_heldout, synthesize_histories
from spectool.prepare import PrepareWarning, history
from spectool.surveys.spectrograph import observe_sdss
from spectool.synth.histories import draw_histories
from spectool.synth.synthesis import synthesize

DISPERSION = np.array([50.0, 80.0, 110.0, 60.0, 90.0, 70.0])


@pytest.fixture(scope="module")
def galaxies(grid):
    drawn = draw_histories(6, seed=5, grid=grid)
    return drawn.assign(
        mass_formed=drawn["mass_formed"] * 1e10,
        velocity_dispersion=("galaxy", DISPERSION, {"units": "km / s"}),
        redshift=("galaxy", np.linspace(0.06, 0.1, 6), {"units": ""}),
    )


@pytest.fixture(scope="module")
def rest(galaxies, grid):
    wavelength = np.arange(3500.0, 7800.0, 0.9)
    return synthesize(galaxies, grid, wavelength=wavelength, nebular=False, progress=False)


@pytest.fixture(scope="module")
def observed(rest):
    return observe_sdss(rest, seed=1, noise=False)


@pytest.fixture(scope="module")
def truth(galaxies, grid):
    """What the models are trained on: the same histories, broadened and normalised without any survey."""
    basis = ContinuumBasis.optical()
    return normalize_continuum(synthesize_histories(galaxies, grid, basis.kept_wavelength), None, basis)[0]


def test_a_survey_s_spectra_come_out_as_the_training_spectra(observed, truth):
    prepared = prepare_zahid2019(observed)
    assert prepared["flux"].shape == (6, N_KEPT) and prepared["flux"].dtype == np.float32
    assert prepared.attrs["fwhm_kms"] == FWHM and set(prepared["prepared_reason"].values) == {""}
    flux, good = prepared["flux"].values, ~prepared["mask"].values
    assert good.mean() > 0.97
    for row in range(6):
        use = good[row]
        depth = flux[row, use] @ truth[row, use] / (truth[row, use] @ truth[row, use])
        assert depth == pytest.approx(1, abs=0.03)
        assert (flux[row] - truth[row])[use].std() < 0.1 * truth[row].std()


def test_the_resolution_is_what_the_sharper_spectra_are_brought_to(rest, galaxies, grid, monkeypatch):
    """Exact where nothing is guessed: the width given at one wavelength, the features compared around it."""
    kms_per_angstrom = 299792.458 / 5250
    boxes = (2.3548 * kms_per_angstrom) ** 2 * (2 * 0.9**2 + 1) / 12  # means over pixels, rebinned
    width = np.sqrt((DISPERSION * 2.3548) ** 2 + (grid.fwhm * kms_per_angstrom) ** 2 + boxes)
    prepared = prepare_zahid2019(rest, spectral_fwhm=width)
    basis = ContinuumBasis.optical()
    near = np.abs(basis.kept_wavelength - 5250) < 100
    scatter = {}
    for fwhm in (300.0, 330.0, 360.0):
        monkeypatch.setattr("spectool.papers.zahid2019.sample.FWHM", fwhm)
        flux = synthesize_histories(galaxies, grid, basis.kept_wavelength)
        scatter[fwhm] = (prepared["flux"].values - normalize_continuum(flux, None, basis)[0])[:, near].std()
    assert scatter[330.0] < 0.2 * min(scatter[300.0], scatter[360.0])
    np.testing.assert_allclose(prepared["spectral_fwhm"], width)


def test_the_dust_of_a_galaxy_is_divided_out(galaxies, rest, grid, truth):
    dusty = galaxies.assign(dust2=("galaxy", np.full(6, 0.8)))
    seen = synthesize(dusty, grid, wavelength=rest["wavelength"].values, nebular=False, progress=False)
    flux, clear = (prepare_zahid2019(sample)["flux"].values for sample in (seen, rest))
    assert np.abs(flux - clear).max() < 0.02 * np.abs(truth).max()


def test_sigma_is_the_noise_of_sums(observed, rest):
    noisy = observe_sdss(rest, seed=2)
    prepared = prepare_zahid2019(noisy)
    clean = prepare_zahid2019(observed.assign(ivar=noisy["ivar"]))
    basis = ContinuumBasis.optical().vectors.numpy()
    good = ~prepared["mask"].values
    pulls = []
    for first in range(0, N_KEPT - 30, 30):
        feature = np.zeros(N_KEPT)
        feature[first : first + 30] = 1
        feature -= basis @ (basis.T @ feature)  # the polynomial takes this part of the noise away
        use = good[:, first : first + 30].all(1)
        noise = (prepared["flux"].values - clean["flux"].values)[use] @ feature
        pulls.append(noise / np.sqrt(prepared["sigma"].values[use].astype(float) ** 2 @ feature**2))
    assert np.concatenate(pulls).std() == pytest.approx(1, abs=0.1)


def test_noise_is_none_without_errors_or_that_of_the_chunks(rest):
    assert not prepare_zahid2019(rest)["sigma"].any()
    known = rest.assign(chunk_sigma=(("galaxy", "chunk"), np.arange(1, 151.0).reshape(6, 25) / 100))
    sigma = prepare_zahid2019(known)["sigma"].values
    np.testing.assert_allclose(sigma[:, [0, -1]], known["chunk_sigma"].values[:, [0, -1]], rtol=1e-6)
    assert all(len(np.unique(row)) == 25 for row in sigma)


def test_bad_pixels_are_zero_and_do_not_spread(observed):
    spoilt = observed.copy(deep=True)
    spoilt["flux"][1, 2000:2010] = np.nan
    before, after = prepare_zahid2019(observed), prepare_zahid2019(spoilt)
    assert 5 < int(after["mask"][1].sum() - before["mask"][1].sum()) < 20
    assert np.isfinite(after["flux"]).all() and not after["flux"].values[after["mask"].values].any()
    np.testing.assert_array_equal(after["flux"][2:], before["flux"][2:])
    far = np.abs(np.arange(N_KEPT) - np.argmax(after["mask"].values[1] & ~before["mask"].values[1])) > 150
    assert np.abs(after["flux"].values[1] - before["flux"].values[1])[far].max() < 2e-3


def test_each_kind_of_bad_spectrum_is_named_and_masked(observed):
    spoilt, pixel = observed.copy(deep=True), np.arange(observed.sizes["wavelength"])
    rest = observed["observed_wavelength"].values / (1 + float(observed["redshift"][4]))
    spoilt["flux"][0] = spoilt["redshift"][1] = np.nan
    spoilt["flux"][2, pixel < 1000] = np.nan
    spoilt["flux"][3] = -spoilt["flux"][3]
    spoilt["ivar"][4] = np.where((rest > 5210) & (rest < 5290), 0, 1)
    with pytest.warns(PrepareWarning):
        prepared = prepare_zahid2019(spoilt)
    reasons = prepared["prepared_reason"].values.tolist()
    assert reasons[:2] == ["no good pixel", "redshift not usable"]
    assert "0% are good in chunk 1 (" in reasons[2] and "the spectrum covers 44" in reasons[2]
    assert reasons[3] == "the pseudo-continuum is not well above zero everywhere" and reasons[5] == ""
    assert reasons[4].startswith("1 of 25 chunks lack good pixels: ") and "covers" not in reasons[4]
    np.testing.assert_array_equal(prepared["mask"].all("wavelength"), [True] * 5 + [False])
    assert not prepared["flux"][:5].any()
    assert "5 of 6 spectra masked out" in history(prepared)[-1]


def test_resolution_below_the_models_is_named_and_unknown_ones_are_the_instruments(observed):
    wide = observed.assign(velocity_dispersion=("galaxy", np.array([np.nan, 60, 60, 60, 60, 200])))
    prepared = prepare_zahid2019(wide)
    reasons = prepared["prepared_reason"].values.tolist()
    assert reasons[5].startswith("resolution 5") and "lower than the models' 330 km/s" in reasons[5]
    assert reasons[:5] == [""] * 5 and not prepared["mask"][5].all() and prepared["flux"][5].any()
    assert "1 have a lower resolution" in history(prepared)[-2] and "1 unknown" in history(prepared)[-2]
    none = prepare_zahid2019(observed.drop_vars("velocity_dispersion"))
    assert float(prepared["spectral_fwhm"][0]) == pytest.approx(float(none["spectral_fwhm"][0]))


def test_the_resolution_of_each_file_is_believed_or_that_of_attrs(observed, rest):
    still = observed.assign(velocity_dispersion=("galaxy", np.zeros(6)))
    lsf = np.broadcast_to(np.array([60.0, 70, 80, 90, np.nan, 60])[:, None], observed["flux"].shape)
    width = prepare_zahid2019(still.assign(lsf_sigma=(("galaxy", "wavelength"), lsf)))["spectral_fwhm"].values
    np.testing.assert_allclose(np.diff(width[:4]), 10 * 2.3548, rtol=0.1)
    assert width[4] == pytest.approx(float(prepare_zahid2019(still)["spectral_fwhm"][0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        final = prepare_zahid2019(rest.isel(galaxy=[0]).assign_attrs(fwhm_kms=330.0))
    assert "attrs['fwhm_kms']" in history(final)[-2] and final["spectral_fwhm"].values == [330]


@pytest.mark.parametrize("width", [np.nan, -1.0, np.inf])
def test_impossible_widths_are_refused(rest, width):
    with pytest.raises(ValueError, match="the width of galaxy 2 is"):
        prepare_zahid2019(rest, spectral_fwhm=np.where(np.arange(6) == 2, width, 200.0))


def test_real_galaxies_look_like_the_models_and_at_the_same_wavelengths(sdss_table, sdss_galaxies, grid):
    """Each is compared with the most similar of 300 held-out spectra, as it is and shifted by some pixels."""
    bright = (sdss_table["sn"] > 15) & (sdss_table["vdisp"] < 115) & sdss_table["z"].between(0.02, 0.2)
    prepared = prepare_zahid2019(sdss_galaxies(np.flatnonzero(bright & sdss_table["forming"])))
    usable = ~prepared["mask"].values.all(1)
    assert usable.sum() >= 30 and usable.mean() > 0.9
    seen, good = prepared["flux"].values[usable], ~prepared["mask"].values[usable]
    models = make_heldout(300, seed=1, grid=grid)["flux"].values

    def similarity(shift):
        moved = np.roll(models, shift, axis=1)
        length = np.sqrt((moved**2) @ good.T * (seen**2).sum(1))
        return float(np.median((moved @ seen.T / length).max(0)))

    found = {shift: similarity(shift) for shift in (-2, -1, 0, 1, 2)}
    assert max(found, key=found.get) == 0
    assert found[0] > 0.75 and found[0] > found[2] + 0.05 and found[0] > found[-2] + 0.05, found
