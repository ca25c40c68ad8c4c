"""What can be read off a latent vector, with PCA to compare: its own file, for it knows latents, no spectra."""

import warnings

import numpy as np
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from spectool.measure.stats import numeric_columns
from spectool.parallel import n_workers

PROBES = ("linear", "mlp")
TEST_SIZE = 0.25
N_FIT = 20_000
_FEWEST = 50


def probe_latents(latent, parameters, *, seed, n_bootstrap=200):
    """How well a linear model and a small network find each parameter in the latents, on galaxies not fitted.

    What only the network finds is there, but curled up. Correlated parameters inherit each other's R^2.

    Parameters
    ----------
    latent : DataArray, shape (galaxy, latent)
    parameters : Dataset
        Per-galaxy columns, numeric. Galaxies with any value that is not finite are left out and counted.
    seed : int or numpy.random.Generator
    n_bootstrap : int
        Resamplings of the test galaxies for the error of R^2.

    Returns
    -------
    Dataset, dims (kind, parameter)
        ``r2``, ``r2_error``, and for the test galaxies, a quarter (dim ``test_galaxy``, the row in the input),
        ``truth`` and ``predicted``. ``attrs``: ``n_train``, ``n_test``, ``n_left_out``.

    Raises
    ------
    ValueError
        If the galaxies of the two differ, there are fewer than 50 usable ones, or a parameter is constant.
    """
    truth, names = numeric_columns(parameters)
    z, truth, rows, left_out = _usable(latent, truth)
    rng = np.random.default_rng(seed)
    train, test = _split(len(z), rng)
    resampled = rng.integers(len(test), size=(n_bootstrap, len(test)))
    spread = truth[train].std(axis=0)
    if np.any(spread == 0):
        raise ValueError(f"{names[int(np.argmin(spread))]} is constant: there is nothing to find")
    predicted = np.stack([_fit_predict(kind, z, truth, train, test, rng) for kind in PROBES])
    expected = truth[test]
    score = np.stack([r2_score(expected, p, multioutput="raw_values") for p in predicted])
    error = [[r2_score(expected[k], p[k], multioutput="raw_values") for k in resampled] for p in predicted]
    error = np.std(error, axis=1) if n_bootstrap else np.full_like(score, np.nan)
    return xr.Dataset(
        {
            "r2": (("kind", "parameter"), score, {"units": ""}),
            "r2_error": (("kind", "parameter"), error, {"units": ""}),
            "truth": (("test_galaxy", "parameter"), expected),
            "predicted": (("kind", "test_galaxy", "parameter"), predicted),
        },
        coords={"kind": list(PROBES), "parameter": names, "test_galaxy": rows[test]},
        attrs={"n_train": len(train), "n_test": len(test), "n_left_out": left_out},
    )


def compress_pca(flux, n_components, *, seed):
    """Principal components of spectra, the linear rival of an autoencoder with as many dimensions.

    Parameters
    ----------
    flux : DataArray, shape (galaxy, wavelength)
        In the normalisation that the autoencoder sees; finite.
    n_components : int
    seed : int or numpy.random.Generator

    Returns
    -------
    Dataset
        ``component`` (latent, wavelength), ``mean`` (wavelength), ``latent`` (galaxy, latent) of all galaxies,
        ``explained`` (latent): share of the variance; ``is_test`` (galaxy): a quarter is held back, of the others at
        most 20,000 are fitted; on the test galaxies ``mse`` (flux^2) and ``mse_per_pixel`` (wavelength).

    Raises
    ------
    ValueError
        If the flux is not finite or there are fewer galaxies than components.
    """
    values = flux.transpose("galaxy", ...).values
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise ValueError(f"flux of galaxy {row} holds values that are not finite; PCA cannot mask them")
    rng = np.random.default_rng(seed)
    train, test = _split(len(values), rng)
    if len(train) < n_components:
        raise ValueError(f"{len(train)} galaxies to fit cannot give {n_components} components")
    fitted = train[:N_FIT]
    state = int(rng.integers(2**31))
    with threadpool_limits(n_workers()):
        pca = PCA(n_components, svd_solver="randomized", random_state=state).fit(values[fitted])
        latent = pca.transform(values)
        residual = pca.inverse_transform(latent[test]) - values[test]
    per_pixel = np.mean(residual.astype(float) ** 2, axis=0)
    return xr.Dataset(
        {
            "component": (("latent", "wavelength"), pca.components_),
            "mean": ("wavelength", pca.mean_),
            "latent": (("galaxy", "latent"), latent),
            "explained": ("latent", pca.explained_variance_ratio_),
            "is_test": ("galaxy", np.isin(np.arange(len(values)), test)),
            "mse_per_pixel": ("wavelength", per_pixel),
            "mse": ((), per_pixel.mean()),
        },
        coords={n: flux.coords[n] for n in ("wavelength",) if n in flux.coords},
        attrs={"n_fitted": len(fitted), "n_test": len(test)},
    )


def measure_degeneracy(probes, first, second, kind="mlp"):
    """Correlation of the errors with which two parameters are found: the age-metallicity degeneracy.

    Errors that trade one for the other - older for metal-poorer - correlate negatively.

    Parameters
    ----------
    probes : Dataset
        From `probe_latents`.
    first, second : str
        Parameters, say ``log_age_lw`` and ``log_z_lw``.
    kind : {"linear", "mlp"}

    Returns
    -------
    Dataset
        ``correlation`` (Pearson) of the residuals predicted - truth with its ``correlation_error``, (1 - r^2) / sqrt(n
        - 1); ``correlation_truth`` of the parameters; the residuals ``error_first``, ``error_second`` (test_galaxy).

    Raises
    ------
    ValueError
        If the probes hold no such parameter or kind.
    """
    for name, dim in ((first, "parameter"), (second, "parameter"), (kind, "kind")):
        if name not in probes[dim].values:
            there = ", ".join(map(str, probes[dim].values))
            raise ValueError(f"the probes hold no {dim} {name!r}, but {there}")
    residual = (probes["predicted"].sel(kind=kind) - probes["truth"]).sel(parameter=[first, second])
    a, b = residual.transpose("parameter", "test_galaxy").values
    r = np.corrcoef(a, b)[0, 1]
    truth = probes["truth"].sel(parameter=[first, second]).transpose("parameter", "test_galaxy").values
    return xr.Dataset(
        {
            "correlation": ((), r, {"units": ""}),
            "correlation_error": ((), (1 - r**2) / np.sqrt(len(a) - 1), {"units": ""}),
            "correlation_truth": ((), np.corrcoef(truth)[0, 1], {"units": ""}),
            "error_first": ("test_galaxy", a),
            "error_second": ("test_galaxy", b),
        },
        attrs={"first": first, "second": second, "kind": kind},
    )


def _usable(latent, truth):
    """Latents, parameters and rows of the galaxies in which all is finite, and how many are not."""
    z = latent.transpose("galaxy", ...).values
    if len(z) != len(truth):
        raise ValueError(f"{len(z)} latent vectors, but parameters of {len(truth)} galaxies")
    good = np.isfinite(z).all(axis=1) & np.isfinite(truth).all(axis=1)
    if good.sum() < _FEWEST:
        raise ValueError(
            f"{good.sum()} galaxies are finite in latents and parameters; a probe needs {_FEWEST}"
        )
    return z[good], truth[good], np.flatnonzero(good), int((~good).sum())


def _split(n, rng):
    """Rows to fit and to test, in random order."""
    return train_test_split(np.arange(n), test_size=TEST_SIZE, random_state=int(rng.integers(2**31)))


def _fit_predict(kind, z, truth, train, test, rng):
    """Predictions for the test galaxies, shape (test, parameter)."""
    state = int(rng.integers(2**31))
    model = LinearRegression()
    if kind == "mlp":
        how = {"early_stopping": True, "n_iter_no_change": 8, "max_iter": 150, "random_state": state}
        model = MLPRegressor((64, 64), alpha=1e-3, batch_size=min(256, len(train) // 2), **how)
    mean, spread = truth[train].mean(axis=0), truth[train].std(axis=0)
    # The matrices are small: threads would spend their time waiting for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the score on other galaxies tells what matters
        model = make_pipeline(StandardScaler(), model).fit(z[train], (truth[train] - mean) / spread)
        predicted = model.predict(z[test]).reshape(len(test), -1)
    return predicted * spread + mean
