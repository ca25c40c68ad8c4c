"""Streaming is preparing and predicting, whatever the batches, and holds few pages of the file."""

import numpy as np
import pytest
import torch
import xarray as xr

from spectool.broaden import broaden
from spectool.continuum import ContinuumBasis, kept_pixels, normalize_continuum, optical_wavelength
from spectool.models.chunked import ChunkedEnsemble, ChunkedMLP
from spectool.papers.zahid2019.reader import SIGMA_STEP, stream_metallicity
from spectool.papers.zahid2019.reader import predict as predict_metallicity
from tests.refusals import refused
from tests.samples import make_spectra
from tools.make.references import fit_bin_outliers

N = 60
WAVELENGTH = optical_wavelength()
TO_FWHM = np.sqrt(8 * np.log(2))


def make_members():
    """Untrained: what is tested is what is done with them."""
    members = []
    for seed in range(3):
        member = ChunkedMLP(wavelength=WAVELENGTH[kept_pixels(WAVELENGTH)], seed=seed)
        member.in_scale.fill_(0.04)
        members.append(member)
    return members


@pytest.fixture(scope="module")
def flux():
    """Stored spectra: smooth continua with features, float16, bad pixels NaN."""
    rng = np.random.default_rng(2)
    knots = np.linspace(4000, 7350, 900)
    slope = rng.uniform(-0.5, 0.5, N)[:, None] * (WAVELENGTH - 5600) / 1600
    detail = np.stack([np.interp(WAVELENGTH, knots, rng.normal(0, 0.04, 900)) for _ in range(N)])
    flux = (1 + slope + detail).astype("f2")
    flux[rng.random(flux.shape) < 0.01] = np.nan
    flux[3, 1000:1030] = np.nan
    return flux


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    sigma, mass = rng.uniform(0.02, 0.1, (N, 25)).astype("f2"), rng.uniform(9, 11, N)
    extra = rng.choice([0, 20, 25], N) * SIGMA_STEP * TO_FWHM / 5
    columns = {"log_mass": ("galaxy", mass, {"units": "dex(Msun)"}), "extra_fwhm": ("galaxy", extra)}
    return xr.Dataset(columns | {"chunk_sigma": (("galaxy", "chunk"), sigma, {"units": ""})})


@pytest.fixture(scope="module")
def ensemble():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.04, (200, int(kept_pixels(WAVELENGTH).sum()))).astype("f4")
    return ChunkedEnsemble(make_members(), fit_bin_outliers(x, x, 0.05 * np.ones(200, "f4")))


def stream(*arguments, **options):
    return stream_metallicity(*arguments, **{"progress": False, "threads": 1} | options)


def test_the_stream_is_preparing_and_predicting(flux, table, ensemble):
    got = stream(flux, table, networks=ensemble)
    basis, index = ContinuumBasis.optical(), ensemble.chunk_index
    bad = np.isnan(flux)
    sigma = table["extra_fwhm"].values / TO_FWHM
    kept = broaden(flux, sigma, WAVELENGTH, bad=bad, keep=basis.keep)
    x, _ = normalize_continuum(kept, bad[:, basis.keep], basis)
    columns = {"mask": bad[:, basis.keep], "sigma": table["chunk_sigma"].values.astype("f4")[:, index]}
    columns["spectral_fwhm"] = np.sqrt(330**2 - table["extra_fwhm"].values ** 2)
    prepared = make_spectra(x, basis.kept_wavelength, **columns)
    wanted = predict_metallicity(prepared, networks=ensemble)
    for name in ("log_z_predicted", "log_z_error", "log_z_spread", "outlier_chi2", "outlier_distance"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=2e-3, atol=1e-4, err_msg=name)
    mean, error, _ = ensemble.predict(x, prepared["sigma"].values, prepared["mask"].values)
    np.testing.assert_allclose(got["log_z_predicted"], mean[:, 0], rtol=1e-4, atol=1e-5)
    unbroadened = sigma == 0
    np.testing.assert_allclose(got["log_z_error"][unbroadened], error[unbroadened, 0], rtol=0.03)
    assert got["log_mass"].identical(table["log_mass"]) and "chunk_sigma" not in got


def test_batches_threads_and_files_do_not_matter(flux, table, ensemble, tmp_path):
    before, whole = torch.get_num_threads(), stream(flux, table, networks=ensemble)
    np.save(tmp_path / "flux.npy", flux)
    table.to_netcdf(tmp_path / "table.nc", engine="h5netcdf")
    for parts in (
        stream(flux, table, networks=ensemble, batch_size=17, threads=2),
        stream(tmp_path, networks=ensemble, batch_size=16),
    ):
        for name in whole.data_vars:
            if whole[name].dtype.kind == "f":
                np.testing.assert_allclose(whole[name], parts[name], rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(parts["log_mass"], table["log_mass"])
    assert torch.get_num_threads() == before


def test_errors_are_what_noise_does(flux, table, ensemble):
    rng = np.random.default_rng(4)
    clean = np.repeat(np.nan_to_num(flux[:1].astype("f4"), nan=1.0), 1500, axis=0)
    sigma = 0.05
    noisy = clean * (1 + sigma * rng.standard_normal(clean.shape, dtype="f4"))
    about = xr.Dataset({"chunk_sigma": (("galaxy", "chunk"), np.full((1500, 25), sigma, "f4"))})
    quiet = stream(clean[:1], networks=make_members(), extra_fwhm=250.0)
    found = stream(noisy, about, networks=make_members(), extra_fwhm=250.0)
    noise = np.sqrt(found["log_z_error"].values ** 2 - found["log_z_spread"].values ** 2)
    assert np.std(found["log_z_predicted"].values) == pytest.approx(noise.mean(), rel=0.1)
    assert quiet["log_z_error"].values[0] < found["log_z_error"].values.mean()


def test_bad_spectra_are_named_and_not_answered(flux, ensemble):
    bad = flux.copy()
    bad[0] = np.nan
    bad[1, 500:700] = np.nan
    bad[2] = -1
    bad[4, 100] = np.inf
    found = stream(bad, networks=ensemble)
    assert np.isnan(found["log_z_predicted"].values[:3]).all() and found["out_of_range"].values[:3].all()
    assert np.isfinite(found["log_z_predicted"].values[3:]).all()
    reasons = found["reason"].values[:3].tolist()
    for reason, words in zip(reasons, ("no good pixel", "half of a chunk", "no continuum"), strict=True):
        assert words in reason


def test_what_does_not_belong_together_is_refused(flux, table, ensemble, tmp_path):
    refused(r"no flux\.npy", stream, tmp_path, error=FileNotFoundError, networks=ensemble)
    wrong = np.where(np.arange(N) == 2, np.nan, 10)
    for arguments, options, message in (
        ([flux[:, :100]], {}, "3251"),
        ([flux, table.isel(galaxy=slice(5))], {}, "60 spectra, but a table of 5"),
        ([flux], {"extra_fwhm": wrong}, "extra_fwhm of galaxy 2"),
        ([flux, table.isel(chunk=slice(7))], {}, "25 chunks"),
    ):
        refused(message, stream, *arguments, networks=ensemble, **options)
