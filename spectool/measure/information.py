"""Mutual information with GMM-MI."""

import warnings
from functools import partial
from unittest.mock import patch

import numpy as np
import xarray as xr
from scipy.special import ndtri
from scipy.stats import rankdata
from tqdm.auto import tqdm

from spectool.measure.stats import numeric_columns
from spectool.parallel import run_jobs

THRESHOLD_FIT = 1e-4
"""Log-likelihood at which a fit stops; 1e-3 biases estimates of mixtures by 40%: never loosen it."""

_FEWEST = 100
BATCH = 256  # galaxies read at once


def estimate_at(place, x, y, n_bootstrap):
    """A label handed through; mutual information and its bootstrap error (NaN without) of the pairs that are finite."""
    import gmm_mi.mi
    from gmm_mi.mi import EstimateMI, GMMFitParamHolder, MIDistParamHolder, SelectComponentsParamHolder

    estimator = EstimateMI(
        GMMFitParamHolder(init_type="kmeans_sklearn", threshold_fit=THRESHOLD_FIT, reg_covar=1e-6),
        SelectComponentsParamHolder(n_inits=1, threshold_components=1e-3, max_components=10),
    )
    good = np.isfinite(x) & np.isfinite(y)
    # Ranks become quantiles of the standard normal distribution; equal values share theirs.
    pairs = np.stack([ndtri(rankdata(v[good]) / (good.sum() + 1)) for v in (x, y)], axis=1)
    # Its progress bar, one per pair, would bury ours; its warnings tell of fits that needed all components.
    with patch.object(gmm_mi.mi, "tqdm", partial(tqdm, disable=True)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mi, error = estimator.fit_estimate(pairs, mi_dist_params=MIDistParamHolder(n_bootstrap=n_bootstrap))
    return place, (float(mi), float("nan" if error is None else error))


def informativeness(latent, flux):
    """Mean absolute covariance of each latent dimension with the pixels (Marziano et al. 2024, eq. 11).

    Parameters
    ----------
    latent : DataArray, shape (galaxy, latent)
    flux : DataArray, shape (galaxy, wavelength)
        In the normalisation that the model sees. May lie on disk: it is read batch by batch.

    Returns
    -------
    DataArray, shape (latent,)
        In units of the flux (latents have none).

    Raises
    ------
    ValueError
        If the galaxies of the two differ, or there are flux values that are not finite.
    """
    latent, flux = latent.transpose("galaxy", ...), flux.transpose("galaxy", ...)
    n = flux.sizes["galaxy"]
    if latent.sizes["galaxy"] != n:
        raise ValueError(f"{latent.sizes['galaxy']} latent vectors, but {n} spectra")
    z = latent.values.astype(float)
    z -= z.mean(axis=0)  # shifts do not change a covariance, but keep the sums below small
    reference = None
    sum_z = sum_x = sum_zx = 0.0
    for first in range(0, n, BATCH):
        rows = slice(first, first + BATCH)
        x = flux.isel(galaxy=rows).values.astype(float)
        if not np.isfinite(x).all():
            row = first + int(np.argmin(np.isfinite(x).all(axis=1)))
            raise ValueError(f"flux of galaxy {row} holds values that are not finite")
        reference = x.sum(0) / len(x) if reference is None else reference
        x = x - reference
        sum_x = sum_x + x.sum(axis=0)
        sum_z = sum_z + z[rows].T @ np.ones(x.shape)
        sum_zx = sum_zx + z[rows].T @ x
    # By columns: the mean adds one pixel after the other, and stored scores depend on the order.
    covariance = np.asfortranarray(sum_zx - sum_z * (sum_x / n)) / n
    dims = [d for d in latent.dims if d != "galaxy"]
    return xr.DataArray(
        np.abs(covariance).mean(axis=1),
        dims=dims,
        coords={d: latent.coords[d] for d in dims if d in latent.coords},
        name="informativeness",
        attrs={"units": flux.attrs.get("units", ""), "long_name": "mean absolute covariance with the pixels"},
    )


def n_informative(scores):
    """Number of dimensions whose `informativeness` exceeds 0.01."""
    return int((scores > 0.01).sum())


def mutual_information_matrix(
    a, b=None, *, seed, n_max=2000, n_bootstrap=10, n_shuffles=10, n_jobs=None, progress=True
):
    """Mutual information of every pair of columns [nat], in parallel.

    Ranks are turned into normal deviates, so all shuffled pairs are alike and the bias is calibrated once for the whole
    matrix. An interrupt (stop button) keeps the pairs that are done.

    For latent dimensions give *sampled* values, z = mu + sigma eps: a dimension that the model ignores has means that
    hardly move but still depend on the spectrum, and rank for rank they would seem to know everything.

    Parameters
    ----------
    a, b : Dataset or DataArray, shape (galaxy, columns)
        A Dataset's numeric per-galaxy variables, or a DataArray whose second dimension is labelled by its coordinate.
        Without ``b``: all pairs within ``a``.
    seed : int or numpy.random.Generator
    n_max, n_bootstrap, n_shuffles : int
        Galaxies at most, the same for every pair; resamplings for each error; shuffles over all pairs for the bias.
    n_jobs : int, optional
        Processes; default `spectool.parallel.n_workers`.
    progress : bool

    Returns
    -------
    Dataset, dims (first, second)
        ``mi``, ``mi_error`` [nat] and the scalars ``bias``, ``bias_scatter`` [nat]: mean and standard
        deviation over the shuffles. NaN on the diagonal of ``a`` with itself and for pairs not done.
        ``attrs``: ``n_galaxies``, ``interrupted``.

    Raises
    ------
    ImportError
        Without gmm-mi.
    ValueError
        Naming the column that is constant or has too few finite values.
    """
    _require_gmm_mi()
    left, left_names = numeric_columns(a)
    right, right_names = (left, left_names) if b is None else numeric_columns(b)
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} galaxies and b {len(right)}: they must be the same ones")
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(left), n_max, replace=False) if len(left) > n_max else np.arange(len(left))
    left, right = left[rows], right[rows]
    pairs = [(i, j) for i in range(left.shape[1]) for j in range(right.shape[1]) if b is not None or i < j]
    jobs = [((i, j), left[:, i], right[:, j], n_bootstrap) for i, j in pairs]
    for k in range(n_shuffles if pairs else 0):
        i, j = pairs[(k * 7919) % len(pairs)]  # a prime stride spreads them over rows and columns
        jobs.append((None, left[:, i], rng.permutation(right[:, j]), 0))
    for i, j in pairs:
        _check_pair(left[:, i], right[:, j], (left_names[i], right_names[j]))
    mi, shuffled = np.full((2, left.shape[1], right.shape[1]), np.nan), []

    def take(done):
        place, value = done
        if place is None:
            shuffled.append(value[0])
        else:
            mi[:, place[0], place[1]] = value
            if b is None:
                mi[:, place[1], place[0]] = value
        return 1

    bar = {"total": len(jobs), "desc": "mutual information", "unit": "pair", "disable": not progress}
    complete = run_jobs(estimate_at, jobs, take, workers=n_jobs, **bar)
    if not complete:
        warnings.warn("interrupted: the pairs that were not done are NaN", stacklevel=2)
    # Completion order varies; sorted sums do not.
    bias, scatter = (np.mean(sorted(shuffled)), np.std(sorted(shuffled))) if shuffled else (np.nan, np.nan)
    both, nat = ("first", "second"), {"units": "", "description": "nat"}
    return xr.Dataset(
        {
            "mi": (both, mi[0], nat),
            "mi_error": (both, mi[1], nat),
            "bias": ((), bias, nat),
            "bias_scatter": ((), scatter, nat),
        },
        coords={"first": left_names, "second": right_names},
        attrs={"n_galaxies": len(rows), "n_bootstrap": n_bootstrap, "interrupted": int(not complete)},
    )


def _require_gmm_mi():
    try:
        import gmm_mi  # noqa: F401
    except ImportError as error:
        text = "mutual information needs the package gmm-mi (pip install 'gmm-mi>=0.8' 'scikit-learn<1.7')"
        raise ImportError(text) from error


def _check_pair(x, y, names):
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < _FEWEST:
        raise ValueError(
            f"{names[0]!s} and {names[1]!s}: {good.sum()} finite pairs, at least {_FEWEST} are needed"
        )
    for values, name in zip((x, y), names, strict=True):
        if np.ptp(values[good]) == 0:
            raise ValueError(f"{name!s} is constant: it shares no information with anything")
