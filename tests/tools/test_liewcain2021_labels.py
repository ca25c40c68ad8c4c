"""Fitted labels: pPXF finds what is there, the error model finds what was put in, and the tool prints it."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from spectool.papers.liewcain2021.sample import PIVOT, ErrorModel, add_fitted_labels
from spectool.surveys.califa import draw_califa
from tools.make.liewcain2021_labels import fit_error_model, fit_labels

MODEL = ErrorModel(
    np.array([0.05, -0.03]),
    np.array([[0.10, 0.05], [-0.10, -0.20]]),
    np.array([[0.0100, -0.0040], [-0.0040, 0.0064]]),
    np.array([[0.0025, -0.0010], [-0.0010, 0.0036]]),
    0,
    0,
)


def table(n_galaxies, per_galaxy, seed=0):
    rng = np.random.default_rng(seed)
    n = n_galaxies * per_galaxy
    columns = {"galaxy_index": ("spectrum", np.repeat(np.arange(n_galaxies), per_galaxy))}
    columns["log_age"] = ("spectrum", rng.uniform(-0.3, 0.7, n), {"units": "dex(Gyr)"})
    return xr.Dataset(columns | {"log_z": ("spectrum", rng.uniform(-0.8, 0.2, n), {"units": "dex"})})


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("shared", [1.0, 0.0])
def test_the_error_model_finds_what_was_drawn_whatever_fits_failed(failing, shared):
    drawn = MODEL._replace(between=shared * MODEL.between)
    labels, rng = add_fitted_labels(table(3000, 6), drawn, seed=2), np.random.default_rng(3)
    failed = failing * (rng.random(18_000) < 0.4 * (labels["galaxy_index"].values % 2) + 0.1)
    labels["log_z_fit"] = labels["log_z_fit"].where(~xr.DataArray(failed > 0, dims="spectrum"))
    model = fit_error_model(labels)
    np.testing.assert_allclose(model.bias, drawn.bias, atol=0.01)
    np.testing.assert_allclose(model.slope, drawn.slope, atol=0.015)
    np.testing.assert_allclose(model.within, drawn.within, atol=2e-4)
    np.testing.assert_allclose(model.between, drawn.between, atol=8e-4 if shared else 2e-4)
    assert np.linalg.eigvalsh(model.between).min() > -1e-12
    assert model.n_spectra == (failed == 0).sum() and (failing or model.n_galaxies == 3000)
    with pytest.raises(ValueError, match="three galaxies"):
        fit_error_model(labels.isel(spectrum=slice(12)))


def test_drawn_labels_err_as_the_model_says():
    truth = table(4000, 5)
    truth = truth.assign(log_age=truth["log_age"] * 0 + PIVOT[0], log_z=truth["log_z"] * 0 + PIVOT[1])
    drawn = add_fitted_labels(truth, MODEL, seed=5)
    error = np.stack([drawn["log_age_fit"] - PIVOT[0], drawn["log_z_fit"] - PIVOT[1]], axis=1)
    np.testing.assert_allclose(error.mean(0), MODEL.bias, atol=0.005)
    np.testing.assert_allclose(np.cov(error.T), MODEL.between + MODEL.within, atol=5e-4)
    shared = np.mean((error[0::5] - error[0::5].mean(0)) * (error[1::5] - error[1::5].mean(0)), axis=0)
    np.testing.assert_allclose(shared, np.diag(MODEL.between), atol=5e-4)
    same, other = (add_fitted_labels(truth, MODEL, seed=seed) for seed in (5, 6))
    assert same.identical(drawn) and (other["log_z_fit"] != drawn["log_z_fit"]).all()


def test_ppxf_finds_ages_and_metallicities():
    sample = draw_califa(4, spectra_per_galaxy=20, seed=2, nuisances=(), progress=False)
    options = {"galaxies": 2, "per_galaxy": 1, "sn": 100.0, "regul": 10.0}
    labels = fit_labels(sample, SimpleNamespace(**options, seed=1, workers=1, quiet=True))
    assert labels.sizes == {"spectrum": 2} and (labels["fit_status"] == 0).all()
    assert np.unique(labels["galaxy_index"]).size == 2
    rows = labels["row"].values
    np.testing.assert_array_equal(labels["log_age"], sample["log_age"].values[rows])
    for name in ("log_age", "log_z"):
        assert np.abs(labels[f"{name}_fit"] - labels[name]).max() < 0.3
    # Noise is what was asked for: chi-square per degree of freedom says so.
    assert labels["chi2"].values == pytest.approx(1, abs=0.2)
