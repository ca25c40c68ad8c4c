"""What a worker process does for `spectool.measure.populations`: one pPXF fit after the other."""

import time
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from spectool.measure.line_worker import BAD_INPUT, FAILED, OK

MIN_PIXELS = 100
VELOCITY_LIMIT, DISPERSION_LIMITS = 400.0, (5.0, 500.0)
KM_S = 299792.458


@dataclass(frozen=True)
class PopulationSetup:
    """Templates and settings that all spectra of a batch share.

    Attributes
    ----------
    velscale : float
        km/s per pixel.
    ratio : int
        Template pixels per pixel.
    log_start : float
        ln wavelength of the mean of the first `ratio` template pixels.
    templates : ndarray, shape (metallicity * age, n)
    light : ndarray, shape (metallicity, age)
        Of 4050-7300 A per unit weight.
    log_z, log_age : ndarray, shapes (metallicity,), (age,)
        [dex], [dex(Gyr)]
    mdegree : int
    regul, dispersion : float
    n_bootstrap : int
    """

    velscale: float
    ratio: int
    log_start: float
    templates: np.ndarray
    light: np.ndarray
    log_z: np.ndarray
    log_age: np.ndarray
    mdegree: int
    regul: float
    dispersion: float
    n_bootstrap: int


def fit_spectra(setup, jobs):
    """Fit several spectra.

    Parameters
    ----------
    setup : PopulationSetup
    jobs : list of (int, ndarray, ndarray, ndarray, float, tuple)
        Row, flux, noise, which pixels are good, ln of the first wavelength, seed.

    Returns
    -------
    dict
        Row to result; a fit that fails tells why and stops no other.
    """
    done = {}
    for row, *job in jobs:
        begun = time.perf_counter()
        try:
            result = _fit(setup, *job)
        except Exception as error:  # noqa: BLE001  (whatever pPXF stumbles over is that galaxy's message)
            result = {"status": FAILED, "message": f"{type(error).__name__}: {error}"[:200]}
        done[row] = result | {"fit_seconds": time.perf_counter() - begun}
    return done


def _fit(setup, flux, noise, good, log_first, seed):
    pixels = np.flatnonzero(good)
    level = float(np.median(flux[pixels])) if pixels.size else 0.0
    if pixels.size < MIN_PIXELS:
        return {"status": BAD_INPUT, "message": f"only {pixels.size} good pixels of {flux.size}"}
    if not level > 0:
        return {"status": BAD_INPUT, "message": "the median flux is not positive"}
    flux = np.where(np.isfinite(flux), flux, 0.0) / level
    noise = np.where(good, noise, np.median(noise[pixels])) / level
    found = _call_ppxf(setup, flux, noise, pixels, log_first)
    share = _light_share(setup, found.weights)
    if not np.isfinite(share).all():
        return {"status": FAILED, "message": "pPXF gave no template any weight"}
    log_z, log_age = _means(setup, share)
    off = (flux / found.bestfit - 1)[pixels]
    result = {
        "status": OK if found.status > 0 else FAILED,
        "message": "" if found.status > 0 else "not converged within pPXF's number of steps",
        "log_z_lw": log_z,
        "age_lw": 10**log_age,
        "stellar_velocity": float(found.sol[0]),
        "stellar_dispersion": float(found.sol[1]),
        "chi2": float(found.chi2),
        "residual_rms": float(np.sqrt(np.mean(off**2))),
        "light_share": share,
        "model": found.bestfit * level,
    }
    return result | _bootstrap(setup, found, flux, noise, pixels, seed)


def _call_ppxf(setup, flux, noise, pixels, log_first):
    from ppxf.ppxf import ppxf

    # capfit divides by the step's gain, which is 0 where there is nothing to gain.
    with np.errstate(divide="ignore", invalid="ignore"):
        return ppxf(
            setup.templates.T,
            flux,
            noise,
            setup.velscale,
            [0.0, setup.dispersion],
            bounds=[[-VELOCITY_LIMIT, VELOCITY_LIMIT], list(DISPERSION_LIMITS)],
            moments=2,
            degree=-1,
            mdegree=setup.mdegree,
            regul=setup.regul,
            reg_dim=setup.light.shape if setup.regul else None,
            goodpixels=pixels,
            vsyst=(setup.log_start - log_first) * KM_S,
            velscale_ratio=setup.ratio,
            quiet=True,
        )


def _light_share(setup, weights):
    share = np.asarray(weights).reshape(setup.light.shape) * setup.light
    with np.errstate(divide="ignore", invalid="ignore"):
        return share / share.sum()


def _means(setup, share):
    return float(share.sum(1) @ setup.log_z), float(share.sum(0) @ setup.log_age)


def _bootstrap(setup, found, flux, noise, pixels, seed):
    """Scatter of both means when residuals change their signs, at the polynomial and kinematics found."""
    if not setup.n_bootstrap:
        return {}
    rng = np.random.default_rng(seed)
    # The templates as pPXF fitted them, convolved and times the polynomial, over the noise.
    design = found.matrix[pixels] / noise[pixels, None]
    model = found.bestfit[pixels]
    residual = flux[pixels] - model
    means = []
    for _ in range(setup.n_bootstrap):
        drawn = model + residual * rng.choice((-1.0, 1.0), residual.size)
        weights, _ = nnls(design, drawn / noise[pixels])
        means.append(_means(setup, _light_share(setup, weights)))
    error = np.std(means, axis=0, ddof=1) if len(means) > 1 else np.full(2, np.nan)
    return {"log_z_lw_error": float(error[0]), "age_lw_error": float(error[1])}
