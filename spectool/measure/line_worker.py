"""What a worker process does: fit some spectra, whatever happens to one of them."""

from spectool.measure.line_fit import SpectrumFit
from spectool.measure.line_numbers import measure

OK, BAD_INPUT, FAILED = 0, 1, 2


def fit_chunk(setup, jobs):
    """Fit several spectra.

    Parameters
    ----------
    setup : FitSetup
    jobs : list of (int, ndarray, ndarray, float, tuple, tuple)
        Row, flux, noise (0 = masked), ln of the first wavelength, (velocity, dispersion) of stars and of gas to begin
        with [km/s].

    Returns
    -------
    list of (int, dict)
        Row and result; a fit that fails tells why and stops no other.
    """
    setup, done = setup.with_plain_arrays(), []
    begun = {}
    for row, *job in jobs:
        try:
            result = fit_spectrum(setup, *job, begun)
        except Exception as error:  # noqa: BLE001  (whatever pPXF stumbles over is that galaxy's message)
            result = {"status": FAILED, "message": f"{type(error).__name__}: {error}"[:200]}
        done.append((row, result))
    return done


def fit_spectrum(setup, flux, noise, log_first, star, gas, begun):
    """Fit one spectrum.

    Parameters
    ----------
    setup, flux, noise, log_first, star, gas
        See `fit_chunk`.
    begun : dict
        Keeps the templates as they are at the first kinematics, which most spectra share.

    Returns
    -------
    dict
        ``status``, ``message`` and, unless the input is bad, the numbers of the line table.
    """
    fit = SpectrumFit(setup, flux, noise, log_first)
    reason = fit.what_is_wrong()
    if reason:
        return {"status": BAD_INPUT, "message": reason}
    key = (fit.shift, star, gas)
    if key not in begun:
        begun.clear()
        begun[key] = fit.convolve(star, gas)
    fit.solve(star, gas, begun[key])
    fit.add_broad_lines(begun[key])
    converged, message = fit.fit_kinematics(star, gas) if setup.free else (True, "")
    # At the first kinematics, lines of another width may have looked broad.
    fit.keep_broad_lines_if_needed()
    return measure(fit) | {"status": OK if converged else FAILED, "message": message}
