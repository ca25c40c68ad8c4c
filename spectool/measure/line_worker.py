"""One spectrum, its stars and its gas: what a worker process does. It imports NumPy, SciPy and pPXF, no more."""

import contextlib
import io
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.special import erf

KM_S = 299792.458
OK, BAD_INPUT, FAILED = 0, 1, 2
VELOCITY_LIMIT = 400.0  # km/s on either side
STAR_LIMITS = (20.0, 450.0)
GAS_LIMITS = (10.0, 600.0)
MIN_COVERAGE = 0.7  # of a line's profile in good pixels, for its flux to be reported
_COUNTED = 0.02  # coverage from which a line is part of the fit at all
# Templates of stars and of lines that stay apart while pPXF fits the kinematics; the others are summed.
_OWN_STARS, _OWN_LINES = 3, 4
_FTOL = 1e-2
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken
_STEP = 5.0  # km/s, for the derivatives by kinematics


@dataclass(frozen=True)
class FitSetup:
    """What all spectra of a batch share.

    Attributes
    ----------
    velscale : float
        km/s per pixel.
    ratio : int
        Template pixels per pixel.
    log_start : float
        ln wavelength of the mean of the first `ratio` template pixels.
    stars, gas : ndarray, shapes (star, n), (member, n)
        Templates [per unit of median flux], [1 / Angstrom]: each line has flux 1.
    stars_rfft, gas_rfft : ndarray, complex
        Their Fourier transforms.
    columns : ndarray, shape (member, column)
        Flux of each line per unit of the free amplitude that it belongs to.
    reported : ndarray of int, shape (line,)
        Members that are reported.
    degree : int
        Of additive polynomials; -1 for none.
    free : bool
        Whether kinematics are fitted.
    fit_stellar_velocity : bool
    rounds : int
        Times that kinematics are fitted; the templates' mix is found anew in between.
    rescale : bool
        Multiply errors by the square root of chi2 per degree of freedom.
    min_star_sn, min_gas_sn : float
        Signal to noise of continuum (over all pixels) and of the strongest line below which kinematics stay fixed.
    keep_fit : bool
    """

    velscale: float
    ratio: int
    log_start: float
    stars: np.ndarray
    gas: np.ndarray
    stars_rfft: np.ndarray
    gas_rfft: np.ndarray
    columns: np.ndarray
    reported: np.ndarray
    degree: int = -1
    free: bool = True
    fit_stellar_velocity: bool = False
    rounds: int = 1
    rescale: bool = False
    min_star_sn: float = 100.0
    min_gas_sn: float = 5.0
    keep_fit: bool = False

    def with_options(self, **options):
        """The same templates with other settings."""
        return replace(self, **options)

    @property
    def size(self):
        """Length of the padded templates."""
        return 2 * (self.gas_rfft.shape[1] - 1)


def line_template(edges, wavelength, sigma):
    """A Gaussian line of flux 1, integrated over pixels.

    Parameters
    ----------
    edges : ndarray, shape (n + 1,)
        [Angstrom]
    wavelength, sigma : float
        Centre [Angstrom] and width [km/s].

    Returns
    -------
    ndarray, shape (n,)
        [1 / Angstrom]
    """
    cumulative = 0.5 * erf((edges - wavelength) / (wavelength * sigma / KM_S * 2**0.5))
    return np.diff(cumulative) / np.diff(edges)


def convolve(rfft, velocity, sigma, setup, shift, n_pixels):
    """Templates at given kinematics on a spectrum's pixels, as pPXF does it (Cappellari 2017, eq. 38).

    Parameters
    ----------
    rfft : ndarray, shape (template, frequency)
    velocity, sigma : float
        [km/s]
    setup : FitSetup
    shift : float
        Of the templates' first pixel to the spectrum's [pixels].
    n_pixels : int

    Returns
    -------
    ndarray, shape (template, n_pixels)
    """
    frequency = np.linspace(0, np.pi * setup.ratio, rfft.shape[1])
    phase = (shift + velocity / setup.velscale) * frequency
    losvd = np.exp(-1j * phase - 0.5 * (sigma / setup.velscale * frequency) ** 2)
    fine = np.fft.irfft(rfft * losvd, setup.size, axis=1)[:, : n_pixels * setup.ratio]
    # Strided sums are several times quicker than a mean over so short an axis.
    return sum(fine[:, k :: setup.ratio] for k in range(setup.ratio)) / setup.ratio


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
    done = []
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
    spectrum = _Spectrum(setup, flux, noise, log_first)
    reason = spectrum.what_is_wrong()
    if reason:
        return {"status": BAD_INPUT, "message": reason}
    key = (spectrum.shift, star, gas)
    if key not in begun:
        begun.clear()
        begun[key] = spectrum.convolve(star, gas)
    spectrum.solve(star, gas, begun[key])
    message = spectrum.fit_kinematics(star, gas) if setup.free else ""
    return spectrum.measure() | {
        "status": OK if not message.startswith("not") else FAILED,
        "message": message,
    }


def _mixtures(weights, count, rank=None):
    """Few sums of templates: the `count` that matter most by themselves, the others together.

    Parameters
    ----------
    weights : ndarray, shape (template,)
    count : int
    rank : ndarray, shape (template,), optional
        What matters; default the weights.

    Returns
    -------
    ndarray, shape (at most count + 1, template)
    """
    weighted = np.flatnonzero(weights > 0)
    order = weighted[np.argsort(-(weights if rank is None else rank)[weighted], kind="stable")]
    groups = [order[k : k + 1] for k in range(min(count, order.size))] + [order[count:]]
    groups = [group for group in groups if group.size]
    mixtures = np.zeros((len(groups), weights.size))
    for row, group in zip(mixtures, groups, strict=True):
        row[group] = weights[group]
    return mixtures


class _Spectrum:
    """A spectrum with its model at the present kinematics."""

    def __init__(self, setup, flux, noise, log_first):
        self.setup, self.n = setup, flux.size
        self.good = np.flatnonzero((noise > 0) & np.isfinite(noise) & np.isfinite(flux))
        self.shift = (setup.log_start - log_first) / (setup.velscale / KM_S)
        level = np.median(np.abs(flux[self.good])) if self.good.size else 0.0
        self.level = level if level > 0 else 1.0
        self.flux = np.where(np.isfinite(flux), flux, 0.0) / self.level
        typical = np.median(noise[self.good]) if self.good.size else 1.0
        self.noise = np.full(self.n, typical) / self.level
        self.noise[self.good] = noise[self.good] / self.level
        centre = np.exp(log_first + setup.velscale / KM_S * np.arange(self.n))
        self.pixel = centre * 2 * np.sinh(0.5 * setup.velscale / KM_S)
        series = np.polynomial.legendre.legvander(np.linspace(-1, 1, self.n), max(setup.degree, 0))
        self.poly = series.T[: setup.degree + 1]
        self.fitted = []

    def what_is_wrong(self):
        """Why this spectrum cannot be fitted, or nothing."""
        if self.good.size == 0:
            return "no good pixel: masked, not finite, without ivar or without redshift"
        if self.good.size < 60:
            return f"only {self.good.size} good pixels of {self.n}"
        flux, noise = self.flux[self.good], self.noise[self.good]
        if not flux.any():
            return "the flux is zero in all good pixels"
        weight = noise**-2
        if (flux * weight).sum() < -5 * np.sqrt(weight.sum()):
            return "the mean flux is negative: was too much sky subtracted?"
        return ""

    def convolve(self, star, gas):
        """Lines and stars on the spectrum's pixels."""
        setup = self.setup
        members = convolve(setup.gas_rfft, *gas, setup, self.shift, self.n)
        return members, convolve(setup.stars_rfft, *star, setup, self.shift, self.n)

    def solve(self, star, gas, templates):
        """Non-negative least squares with the kinematics fixed: what pPXF's linear fit does, without its loops."""
        self.star, self.gas = star, gas
        setup, good = self.setup, self.good
        self.members, stars = templates
        self.coverage = (self.members * self.pixel)[:, good].sum(axis=1)
        inside = self.coverage > _COUNTED
        self.used = np.flatnonzero((setup.columns[inside] > 0).any(axis=0))
        gas_columns = setup.columns[:, self.used].T @ self.members
        self.design = np.concatenate([self.poly, -self.poly, stars, gas_columns])
        scaled = (self.design[:, good] / self.noise[good]).T
        self.scale = np.linalg.norm(scaled, axis=0)
        self.scale[self.scale == 0] = 1.0
        self.scaled = scaled / self.scale
        self.weights = nnls(self.scaled, self.flux[good] / self.noise[good])[0] / self.scale
        self.first_star = 2 * len(self.poly)
        self.first_gas = self.first_star + len(stars)

    @property
    def star_weights(self):
        return self.weights[self.first_star : self.first_gas]

    @property
    def amplitudes(self):
        """Of all columns of lines, 0 where not used."""
        all_columns = np.zeros(self.setup.columns.shape[1])
        all_columns[self.used] = self.weights[self.first_gas :]
        return all_columns

    def rough_sn(self):
        """Signal to noise of each used line's amplitude, were it alone."""
        return self.weights[self.first_gas :] * self.scale[self.first_gas :]

    def fit_kinematics(self, star, gas):
        """Fit velocities and dispersions with pPXF, and the model with them; returns a message."""
        setup, good = self.setup, self.good
        star_sn = np.sqrt(np.sum((self.flux / self.noise)[good] ** 2)) if self.star_weights.any() else 0.0
        free_star = bool(star_sn > setup.min_star_sn)
        messages = []
        for _ in range(setup.rounds):
            sn = self.rough_sn()
            free_gas = bool(sn.size and sn.max() > setup.min_gas_sn)
            if not (free_star or free_gas):
                return "kinematics fixed: too noisy"
            star, gas, converged = self._run_ppxf(star, gas, free_star, free_gas, sn)
            self.solve(star, gas, self.convolve(star, gas))
            self.fitted = ["star"] * free_star + ["gas"] * free_gas
        if not converged:
            messages.append("not converged within pPXF's number of steps")
        if not free_star:
            messages.append("stellar kinematics fixed: too noisy")
        if not free_gas:
            messages.append("gas kinematics fixed: no line is strong enough")
        elif not GAS_LIMITS[0] * 1.01 < gas[1] < GAS_LIMITS[1] * 0.99:
            messages.append("gas dispersion at its limit")
        return "; ".join(messages)

    def _run_ppxf(self, star, gas, free_star, free_gas, sn):
        """The nonlinear fit, with the populations that have weight and few templates of gas.

        One population alone would keep the dispersion that it was mixed for; faint lines share a template, because
        left out they would bias the stars.
        """
        from ppxf.ppxf import ppxf

        setup = self.setup
        stars = _mixtures(self.star_weights, _OWN_STARS)
        lines = _mixtures(self.weights[self.first_gas :], _OWN_LINES, rank=sn)
        mix = lines @ setup.columns[:, self.used].T
        templates = np.concatenate([stars @ setup.stars, mix @ setup.gas])
        if not len(templates):
            return star, gas, True
        rfft = np.concatenate([stars @ setup.stars_rfft, mix @ setup.gas_rfft])
        kinds = [
            (len(stars), star, STAR_LIMITS, [not (free_star and setup.fit_stellar_velocity), not free_star])
        ]
        kinds += [(len(mix), gas, GAS_LIMITS, [not free_gas, not free_gas])]
        kinds = [kind for kind in kinds if kind[0]]
        component = np.repeat(np.arange(len(kinds)), [kind[0] for kind in kinds])
        several = len(kinds) > 1
        limits = [[[-VELOCITY_LIMIT, VELOCITY_LIMIT], list(kind[2])] for kind in kinds]
        start, fixed = [list(kind[1]) for kind in kinds], [kind[3] for kind in kinds]
        if all(np.concatenate(fixed)):
            return star, gas, True
        with contextlib.redirect_stdout(io.StringIO()):
            fit = ppxf(
                templates.T,
                self.flux,
                self.noise,
                setup.velscale,
                start if several else start[0],
                bounds=limits if several else limits[0],
                fixed=fixed if several else fixed[0],
                component=component,
                moments=2,
                degree=setup.degree,
                goodpixels=self.good,
                vsyst=self.shift * setup.velscale,
                velscale_ratio=setup.ratio,
                templates_rfft=rfft.T,
                linear_method="nnls",
                ftol=_FTOL,
                quiet=True,
            )
        solution = [tuple(map(float, part)) for part in (fit.sol if several else [fit.sol])]
        found = iter(solution)
        star = next(found) if len(stars) else star
        gas = next(found) if len(mix) else gas
        return star, gas, fit.status > 0

    def _errors(self):
        """Errors of the used lines' amplitudes, with everything else that was fitted marginalised."""
        setup = self.setup
        active = self.weights > 0
        active[self.first_gas :] = True
        columns = [self.scaled[:, active]]
        if "gas" in self.fitted:
            amplitude = setup.columns @ self.amplitudes
            columns.append(self._derivatives(setup.gas_rfft, amplitude, self.gas, ("velocity", "sigma")))
        if "star" in self.fitted:
            which = ("velocity", "sigma") if setup.fit_stellar_velocity else ("sigma",)
            columns.append(self._derivatives(setup.stars_rfft, self.star_weights, self.star, which))
        matrix = np.concatenate(columns, axis=1)
        # The pseudo-inverse leaves out what the data do not hold, such as one of two equal populations.
        covariance = np.linalg.pinv(matrix.T @ matrix, rcond=1e-9, hermitian=True)
        first = int(active[: self.first_gas].sum())
        last = first + self.used.size
        return np.sqrt(np.clip(np.diag(covariance)[first:last], 0, None)) / self.scale[
            self.first_gas :
        ], matrix

    def _derivatives(self, rfft, amplitude, kinematics, which):
        """Columns: the model's change with velocity and dispersion, of unit length."""
        mixed = (amplitude @ rfft)[None]
        velocity, sigma = kinematics
        found = []
        for name in which:
            step = np.array([_STEP, 0.0] if name == "velocity" else [0.0, _STEP])
            low = np.maximum(np.array([velocity, sigma]) - step, [-np.inf, 1.0])
            high = np.array([velocity, sigma]) + step
            change = convolve(mixed, *high, self.setup, self.shift, self.n)
            change = change - convolve(mixed, *low, self.setup, self.shift, self.n)
            column = (change[0] / self.noise)[self.good]
            length = np.linalg.norm(column)
            if length > 0:
                found.append(column / length)
        return np.stack(found, axis=1) if found else np.zeros((self.good.size, 0))

    def measure(self):
        """The numbers of the line table, in the spectrum's unit."""
        setup, good = self.setup, self.good
        errors, matrix = self._errors()
        model = self.weights @ self.design
        gas_model = self.weights[self.first_gas :] @ self.design[self.first_gas :]
        residual = self.flux - model
        freedom = max(good.size - matrix.shape[1], 1)
        chi2 = float(np.sum((residual / self.noise)[good] ** 2) / freedom)
        error = np.full(setup.columns.shape[1], np.nan)
        error[self.used] = errors * (np.sqrt(chi2) if setup.rescale else 1.0)
        share = setup.columns[setup.reported]
        known = self.coverage[setup.reported] >= MIN_COVERAGE
        line_flux = np.where(known, share @ self.amplitudes, np.nan)
        line_error = np.where(known, np.nan_to_num(error) @ share.T, np.nan)
        top = self.members[setup.reported].max(axis=1)
        rms = self._local_rms(residual)
        with np.errstate(invalid="ignore", divide="ignore"):
            an = line_flux * top / rms
        result = {
            "flux": line_flux * self.level,
            "error": line_error * self.level,
            "peak": line_flux * top * self.level,
            "peak_error": line_error * top * self.level,
            "an": an,
            "gas": self.gas if line_flux.any() else (np.nan, np.nan),
            "star": self.star,
            "chi2": chi2,
        }
        if setup.keep_fit:
            result["continuum"] = (model - gas_model) * self.level
            result["line_model"] = gas_model * self.level
        return result

    def _local_rms(self, residual):
        """Root mean square of the residual near each reported line."""
        setup = self.setup
        place = np.argmax(self.members[setup.reported], axis=1)
        reach = max(int(_LOCAL / setup.velscale), 5)
        near = np.abs(self.good - place[:, None]) <= reach
        count = near.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.sqrt(near @ residual[self.good] ** 2 / np.where(count > 0, count, np.nan))
