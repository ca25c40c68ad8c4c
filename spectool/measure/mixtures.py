"""Mutual information of one pair by GMM-MI. Worker processes import this module alone, so it imports little."""

import warnings
from functools import partial
from unittest.mock import patch

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from tqdm.auto import tqdm

THRESHOLD_FIT = 1e-4
"""Log-likelihood at which a fit stops; 1e-3 biases estimates of mixtures by 40%: never loosen it."""


def estimate_at(place, x, y, n_bootstrap, gaussianize):
    """`estimate` of the pairs that are finite, with a label that is handed through."""
    good = np.isfinite(x) & np.isfinite(y)
    return place, estimate(x[good], y[good], n_bootstrap, gaussianize)


def estimate(x, y, n_bootstrap, gaussianize):
    """Mutual information and its bootstrap error (NaN without) of two finite arrays."""
    if not gaussianize:
        try:
            return _fit_mixture((x - x.mean()) / x.std(), (y - y.mean()) / y.std(), n_bootstrap)
        except ValueError as error:  # a component on a single outlier; ranks have none
            if "covariance" not in str(error):
                raise
    return _fit_mixture(_normal_scores(x), _normal_scores(y), n_bootstrap)


def _fit_mixture(x, y, n_bootstrap):
    import gmm_mi.mi
    from gmm_mi.mi import EstimateMI, GMMFitParamHolder, MIDistParamHolder, SelectComponentsParamHolder

    estimator = EstimateMI(
        GMMFitParamHolder(init_type="kmeans_sklearn", threshold_fit=THRESHOLD_FIT, reg_covar=1e-6),
        SelectComponentsParamHolder(n_inits=1, threshold_components=1e-3, max_components=10),
    )
    # Its progress bar, one per pair, would bury ours; its warnings tell of fits that needed all components.
    with patch.object(gmm_mi.mi, "tqdm", partial(tqdm, disable=True)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mi, error = estimator.fit_estimate(
            np.stack([x, y], axis=1), mi_dist_params=MIDistParamHolder(n_bootstrap=n_bootstrap)
        )
    return float(mi), float("nan" if error is None else error)


def _normal_scores(values):
    """Ranks turned into quantiles of the standard normal distribution; equal values share theirs."""
    return ndtri(rankdata(values) / (values.size + 1))
