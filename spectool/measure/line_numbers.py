"""From a fitted spectrum to the line table's numbers: fluxes, peaks, and errors with all else marginalised."""

import numpy as np

from spectool.measure.line_setup import convolve

MIN_COVERAGE = 0.7  # of a line's profile in good pixels, for its flux to be reported
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken
_STEP = 5.0  # km/s, for the derivatives by kinematics


def measure(fit):
    """The numbers of one row of the line table.

    Parameters
    ----------
    fit : SpectrumFit

    Returns
    -------
    dict
        ``flux``, ``error``, ``peak``, ``peak_error``, ``an`` (line,), in the spectrum's unit and Angstrom; ``gas`` and
        ``star``: velocity and dispersion [km/s]; ``broad``: flux of broad Hα; ``chi2`` per degree of freedom; with
        ``keep_fit`` also ``continuum`` and ``line_model`` (n,). A peak's relative error is that of its flux.
    """
    setup, good = fit.setup, fit.good
    errors, n_parameters = amplitude_errors(fit)
    model = fit.weights @ fit.design
    gas_model = fit.weights[fit.first_broad :] @ fit.design[fit.first_broad :]
    residual = fit.flux - model
    chi2 = float(np.sum((residual / fit.noise)[good] ** 2) / max(good.size - n_parameters, 1))
    scale = np.sqrt(chi2) if setup.rescale else 1.0
    error = np.zeros(setup.columns.shape[1])
    error[fit.used] = errors * scale
    share = setup.columns[setup.reported]
    known = fit.coverage[setup.reported] >= MIN_COVERAGE
    line_flux = np.where(known, share @ fit.amplitudes, np.nan) * fit.level
    line_error = np.where(known, share @ error, np.nan) * fit.level
    top = fit.members[setup.reported].max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        an = line_flux * top / (local_rms(fit, residual) * fit.level)
    result = {
        "flux": line_flux,
        "error": line_error,
        "peak": line_flux * top,
        "peak_error": line_error * top,
        "an": an,
        "gas": fit.gas if fit.amplitudes.any() else (np.nan, np.nan),
        "star": fit.star,
        "broad": fit.broad_h_alpha * fit.level,
        "chi2": chi2,
    }
    if setup.keep_fit:
        result |= {"continuum": (model - gas_model) * fit.level, "line_model": gas_model * fit.level}
    return result


def amplitude_errors(fit):
    """Errors of the used lines' amplitudes: those of pPXF with stars and kinematics free instead of known.

    Parameters
    ----------
    fit : SpectrumFit

    Returns
    -------
    errors : ndarray, shape (used,)
    n_parameters : int
        Numbers that were fitted.
    """
    setup = fit.setup
    active = fit.weights > 0
    n_parameters = int(active.sum())
    active[fit.first_gas :] = True  # also lines that came out as nothing have errors
    columns = [fit.scaled[:, active]]
    if "gas" in fit.fitted:
        amplitude = setup.columns @ fit.amplitudes
        columns += _derivatives(fit, setup.gas_rfft, amplitude, fit.gas, ("velocity", "sigma"))
    if "star" in fit.fitted:
        which = ("velocity", "sigma") if setup.fit_stellar_velocity else ("sigma",)
        columns += _derivatives(fit, setup.stars_rfft, fit.star_weights, fit.star, which)
    matrix = np.concatenate(columns, axis=1)
    # The pseudo-inverse leaves out what the data do not hold, such as one of two equal populations.
    covariance = np.linalg.pinv(matrix.T @ matrix, rcond=1e-9, hermitian=True)
    first = int(active[: fit.first_gas].sum())
    variance = np.diag(covariance)[first : first + fit.used.size]
    n_parameters += matrix.shape[1] - int(active.sum())
    return np.sqrt(np.clip(variance, 0, None)) / fit.scale[fit.first_gas :], n_parameters


def _derivatives(fit, rfft, amplitude, kinematics, which):
    """Columns of unit length: the model's change with velocity and dispersion."""
    mixed = (amplitude @ rfft)[None]
    velocity, sigma = kinematics
    found = []
    for name in which:
        if name == "velocity":
            ends = (velocity - _STEP, sigma), (velocity + _STEP, sigma)
        else:
            ends = (velocity, max(sigma - _STEP, 1.0)), (velocity, sigma + _STEP)
        low, high = (convolve(mixed, *end, fit.setup, fit.shift, fit.n)[0] for end in ends)
        column = ((high - low) / fit.noise)[fit.good]
        length = np.linalg.norm(column)
        if length > 0:
            found.append((column / length)[:, None])
    return found


def local_rms(fit, residual):
    """Root mean square of the residual within 4500 km/s of each reported line.

    Parameters
    ----------
    fit : SpectrumFit
    residual : ndarray, shape (n,)

    Returns
    -------
    ndarray, shape (line,)
        NaN where there is no good pixel.
    """
    setup = fit.setup
    place = np.argmax(fit.members[setup.reported], axis=1)
    near = np.abs(fit.good - place[:, None]) <= max(int(_LOCAL / setup.velscale), 5)
    count = near.sum(axis=1)
    return np.sqrt(near @ residual[fit.good] ** 2 / np.where(count > 0, count, np.nan))
