"""The tool that measures how fitted labels err: it fits what it is told and prints the model."""

import numpy as np
import xarray as xr

from spectool.papers.liewcain2021.sample import add_fitted_labels, fit_error_model
from tools.make import liewcain2021_labels


def test_it_prints_the_model_and_writes_the_table(monkeypatch, capsys, tmp_path):
    asked = {}

    def fit(sample, **options):
        asked.update(options)
        few = sample.drop_dims(["galaxy", "band"]).isel(spectrum=slice(0, 600))
        few = add_fitted_labels(few, seed=0)[["galaxy_index", "log_age", "log_z", "log_age_fit", "log_z_fit"]]
        zero = np.zeros(600)
        return few.assign(fit_status=("spectrum", zero), fit_seconds=("spectrum", zero + 2))

    monkeypatch.setattr(liewcain2021_labels, "fit_labels", fit)
    path = tmp_path / "labels.nc"
    model = liewcain2021_labels.main(
        ["--galaxies", "5", "--per-galaxy", "3", "--sn", "25", "--table", str(path)]
    )
    assert asked["n_galaxies"] == 5 and asked["per_galaxy"] == 3 and asked["sn"] == 25
    printed = capsys.readouterr().out
    assert f"n_galaxies = {model.n_galaxies}" in printed and "0 of 600 fits failed; 2.00 s each" in printed
    with xr.open_dataset(path) as written:
        np.testing.assert_allclose(fit_error_model(written).within, model.within)
