"""Fitted labels: pPXF finds what is there, the error model finds what was put in, and the tool prints it."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from spectool.papers.liewcain2021.sample import MEASURED, PIVOT, ErrorModel, add_fitted_labels
from spectool.surveys.califa import draw_califa
from tools.make import liewcain2021_labels
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
    """Truth alone."""
    rng = np.random.default_rng(seed)
    n = n_galaxies * per_galaxy
    return xr.Dataset(
        {
            "galaxy_index": ("spectrum", np.repeat(np.arange(n_galaxies), per_galaxy)),
            "log_age": ("spectrum", rng.uniform(-0.3, 0.7, n), {"units": "dex(Gyr)"}),
            "log_z": ("spectrum", rng.uniform(-0.8, 0.2, n), {"units": "dex"}),
        }
    )


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
    first, second = error[0::5], error[1::5]
    shared = np.mean((first - first.mean(0)) * (second - second.mean(0)), axis=0)
    np.testing.assert_allclose(shared, np.diag(MODEL.between), atol=5e-4)
    same, other = (add_fitted_labels(truth, MODEL, seed=seed) for seed in (5, 6))
    assert same.identical(drawn) and (other["log_z_fit"] != drawn["log_z_fit"]).all()


def test_ppxf_finds_ages_and_metallicities():
    sample = draw_califa(4, spectra_per_galaxy=20, seed=2, nuisances=(), progress=False)
    options = {
        "galaxies": 2,
        "per_galaxy": 1,
        "sn": 100.0,
        "regul": 10.0,
        "seed": 1,
        "workers": 1,
        "quiet": True,
    }
    labels = fit_labels(sample, SimpleNamespace(**options))
    assert labels.sizes == {"spectrum": 2}
    assert (labels["fit_status"] == 0).all()
    assert np.unique(labels["galaxy_index"]).size == 2
    rows = labels["row"].values
    for name in ("log_age", "log_z", "galaxy_index"):
        np.testing.assert_array_equal(labels[name], sample[name].values[rows])
    assert np.abs(labels["log_age_fit"] - labels["log_age"]).max() < 0.3
    assert np.abs(labels["log_z_fit"] - labels["log_z"]).max() < 0.3
    # Noise is what was asked for: chi-square per degree of freedom says so.
    assert labels["chi2"].values == pytest.approx(1, abs=0.2)


def test_it_prints_the_model_and_writes_the_table(monkeypatch, capsys, tmp_path):
    asked = {}

    def fit(sample, options):
        asked.update(vars(options))
        few = sample.drop_dims(["galaxy", "band"]).isel(spectrum=slice(0, 600))
        few = add_fitted_labels(few, MEASURED, seed=0)[
            ["galaxy_index", "log_age", "log_z", "log_age_fit", "log_z_fit"]
        ]
        zero = np.zeros(600)
        return few.assign(fit_status=("spectrum", zero), fit_seconds=("spectrum", zero + 2))

    monkeypatch.setattr(liewcain2021_labels, "fit_labels", fit)
    path = tmp_path / "labels.nc"
    model = liewcain2021_labels.main(
        ["--galaxies", "5", "--per-galaxy", "3", "--sn", "25", "--table", str(path)]
    )
    assert asked["galaxies"] == 5 and asked["per_galaxy"] == 3 and asked["sn"] == 25
    printed = capsys.readouterr().out
    assert f"n_galaxies = {model.n_galaxies}" in printed and "0 of 600 fits failed; 2.00 s each" in printed
    with xr.open_dataset(path) as written:
        np.testing.assert_allclose(fit_error_model(written).within, model.within)
