"""Chi-square of many galaxies against many models as matrix products, and the posteriors that follow.

With fluxes f, weights w = 1 / error^2 and a model m of unit mass, the best amplitude is A = b / a and its chi-square
chi^2 = sum(w f^2) - b^2 / a, with b = sum(w f m) and a = sum(w m^2): two matrix products for all pairs at once. Models
much worse than the best one have no weight and are dropped before anything else is done with them.
"""

import numpy as np
import torch

NEGLIGIBLE = 20.0
"""Models this much above the smallest chi-square are dropped: at most 0.14% of the weight in 32 galaxies tried."""
BIN = 0.005
RANGES = {"log_mass": (3.0, 14.0), "log_sfr": (-7.0, 5.0), "log_dust_luminosity": (2.0, 15.0)}
"""Of the posteriors [dex]; what lies beyond is counted in the outermost bins."""
QUANTILES = (0.5, 0.16, 0.84)

_TINY = 1e-30


def match_models(flux, weight, models, squares):
    """Reduction of chi-square that each model brings at its best amplitude, and the amplitude's weight.

    Parameters
    ----------
    flux, weight : Tensor, shape (galaxy, band)
        Weight 0: no measurement. Both of order 1 or so, for the sake of float32.
    models, squares : Tensor, shape (model, band)
        Fluxes of the models, and their squares.

    Returns
    -------
    gain : Tensor, shape (galaxy, model)
        sum(w f^2) - chi^2; 0 where the best amplitude is not positive.
    curvature : Tensor, shape (galaxy, model)
        sum(w m^2); the amplitude is sqrt(gain / curvature).
    """
    curvature = (weight @ squares.T).clamp_(min=_TINY)
    gain = (weight * flux) @ models.T
    gain.clamp_(min=0).square_().div_(curvature)
    return gain, curvature


def find_posteriors(gain, curvature, properties, log_scale, *, quantiles=QUANTILES):
    """Quantiles of the properties over models weighted by exp(-chi^2 / 2), as in da Cunha et al. (2008, Section 3.2).

    Each model counts once, at its best amplitude.

    Parameters
    ----------
    gain, curvature : Tensor, shape (galaxy, model)
        See `match_models`; left as they are.
    properties : dict of str to Tensor, shape (model,)
        Logarithms [dex] of properties at unit amplitude, named in `RANGES`.
    log_scale : Tensor, shape (galaxy,)
        Logarithm of the unit of each galaxy's amplitudes.
    quantiles : sequence of float

    Returns
    -------
    values : dict of str to ndarray, shape (quantile, galaxy)
    best : ndarray, shape (galaxy,)
        Index of the model of the smallest chi-square; -1, and NaN above, where no amplitude is positive.
    """
    highest, n_models = gain.amax(dim=1), gain.shape[1]
    # A model whose best amplitude is 0 has no logarithm of a mass.
    kept = gain > (highest - NEGLIGIBLE).clamp_(min=_TINY)[:, None]
    pairs = torch.from_numpy(np.flatnonzero(kept.numpy()))  # several times quicker than torch's nonzero
    galaxy = torch.div(pairs, n_models, rounding_mode="floor")
    model = pairs - galaxy * n_models
    gains = gain.view(-1).index_select(0, pairs)
    below = gains - highest.index_select(0, galaxy)
    smallest = below == 0
    best = _first_of_each(len(gain), galaxy[smallest], model[smallest])
    weight = below.mul_(0.5).exp_()
    log_amplitude = gains.div_(curvature.view(-1).index_select(0, pairs)).log_().mul_(0.5 / np.log(10))
    log_amplitude += log_scale.index_select(0, galaxy)
    values = {}
    for name, unit in properties.items():
        low, high = RANGES[name]
        n_bins = round((high - low) / BIN)
        place = unit.index_select(0, model).add_(log_amplitude).sub_(low).div_(BIN)
        place = place.clamp_(0, n_bins - 1).long().add_(galaxy, alpha=n_bins)
        histogram = torch.zeros(len(gain) * n_bins).scatter_add_(0, place, weight)
        values[name] = low + BIN * histogram_quantiles(histogram.view(-1, n_bins), quantiles).numpy()
    return values, best


def _first_of_each(n, galaxy, model):
    """First model listed of each of n galaxies, -1 where none is; galaxies are sorted."""
    galaxy, model = galaxy.numpy(), model.numpy()
    first = np.flatnonzero(np.diff(galaxy, prepend=-1))
    found = np.full(n, -1)
    found[galaxy[first]] = model[first]
    return found


def histogram_quantiles(histogram, quantiles):
    """Quantiles of histograms, in bins, flat within each.

    Parameters
    ----------
    histogram : Tensor, shape (n, bin)
    quantiles : sequence of float

    Returns
    -------
    Tensor, shape (quantile, n), float64
        0 to the number of bins; NaN where a histogram is empty.
    """
    cumulative = histogram.double().cumsum(dim=1)
    wanted = torch.tensor(quantiles, dtype=torch.float64) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, wanted).clamp_(max=histogram.shape[1] - 1)
    inside = histogram.double().gather(1, place)
    below = cumulative.gather(1, place) - inside
    found = place + ((wanted - below) / inside.clamp(min=_TINY)).clamp_(0, 1)
    return torch.where(cumulative[:, -1:] > 0, found, torch.nan).T


def exact_chi2(flux, weight, models, best):
    """Chi-square of one model per galaxy at its best amplitude, and the amplitude, in float64.

    Parameters
    ----------
    flux, weight : ndarray, shape (galaxy, band)
    models : ndarray, shape (model, band)
    best : ndarray, shape (galaxy,)

    Returns
    -------
    chi2, amplitude : ndarray, shape (galaxy,)
    """
    flux, weight, model = (np.asarray(x, float) for x in (flux, weight, models[best]))
    amplitude = (weight * flux * model).sum(1) / (weight * model**2).sum(1)
    return (weight * (flux - amplitude[:, None] * model) ** 2).sum(1), amplitude
