"""Emission lines with pPXF, in parallel."""

from types import SimpleNamespace

import joblib
import numpy as np
from scipy.optimize import nnls

from spectool.measure.line_design import (
    DOUBLETS,
    FINE,
    MEASURED,
    REDDENING,
    choose_lines,
    gaussian_on_pixels,
    require_ppxf,
    stellar_templates,
    template_pixels,
)
from spectool.measure.line_spectra import read_spectra
from spectool.measure.line_table import BAD_INPUT, FAILED, OK, Results, assemble_table, attempt, flux_units
from spectool.spectra import KM_S, LINES
from spectool.synth.grid import embedded_grid

FIT_RANGE = (3540.0, 8750.0)  # where the embedded templates have their full resolution
# Pixels [km/s] from which [O II] 3726, 3729 (224 km/s apart) cannot be told from each other; their ratio 3729 / 3726
# at an electron density of 100 per cm3 (Osterbrock & Ferland 2006, Fig. 5.8).
_BLENDED, _O2_RATIO = 150.0, 1.36
_BALMER = ("Hα", "Hβ", "Hγ", "Hδ")
_MIN_COVERAGE = 0.7  # of a line's profile in good pixels, for its flux to be reported
_COUNTED = 0.02  # coverage from which a line is part of the fit at all
_MIN_PIXELS = 60
_LOCAL = 4500.0  # km/s on either side of a line in which the residual's rms is taken
_STEP = 5.0  # km/s, for the derivatives by kinematics
VELOCITY_LIMIT = 400.0  # km/s on either side
STAR_LIMITS = (20.0, 450.0)
GAS_LIMITS = (10.0, 600.0)
_MIN_STAR_SN, _MIN_GAS_SN = 100.0, 5.0  # for kinematics to be fitted
# Templates of stars and of lines that stay apart while pPXF fits the kinematics; the others are summed.
_OWN_STARS, _OWN_LINES = 3, 4
# Widths [km/s] whose sums are the broad lines of AGN, and what they have to bring to be used.
_BROAD_WIDTHS = (900.0, 1800.0, 3600.0)
_BROAD_SN, _BROAD_GAIN = 5.0, 30.0
_BROAD_WIDTH = 10.0  # equivalent width of Hα [Angstrom]
CHUNK = 32  # spectra per job


def fit_lines(
    sample,
    *,
    grid=None,
    templates="compact",
    reddening=REDDENING,
    variable="flux",
    lines=MEASURED,
    kinematics="free",
    gas_dispersion=100.0,
    stellar_dispersion=130.0,
    broad=True,
    degree=-1,
    doublets=None,
    lsf=None,
    fit_range=FIT_RANGE,
    rescale_errors=None,
    keep_fit=False,
    n_workers=None,
    backend="loky",
    checkpoint=None,
    progress=True,
):
    """Fluxes, errors and peaks of emission lines, with pPXF.

    Parameters
    ----------
    sample : Dataset
        dims (galaxy, wavelength), on pixels uniform in log wavelength: SDSS's own (coordinate ``observed_wavelength``
        and column ``redshift``, or ``rest_wavelength``) or any common rest-frame grid (``wavelength``).
        ``ivar`` and ``mask`` are honoured.
    grid : SSPGrid, optional
        Default: the embedded one.
    templates, reddening
        Populations and optical depths of the stellar templates; see
        `spectool.measure.line_design.stellar_templates`.
    variable : str
        Which variable is fitted. For one that noise was added to, errors are those of that noise, in a variable of its
        name with ``_sigma``, and of the spectrum below it.
    lines : sequence of str
        To be reported.
    kinematics : {"free", "fixed"}
        Whether velocities and dispersions are fitted; spectra too noisy for that keep those that are given.
    gas_dispersion, stellar_dispersion : float or array_like (galaxy,)
        Intrinsic [km/s], to begin with or fixed.
    broad : bool
        Let Balmer lines have broad wings in spectra that ask for them: broad-line AGN.
    degree : int
        Of additive polynomials; -1 for none. They make Balmer absorption, and so Balmer lines, uncertain.
    doublets : dict, optional
        See `spectool.measure.lines_ppxf.fitted_columns`.
    lsf : float or array_like (wavelength,), optional
        Sigma of the line-spread function [km/s]; default the variable ``lsf_sigma`` (the median of galaxies that have
        their own, as DESI's), else SDSS's for surveys that are SDSS's or made of it, else the templates' own.
    fit_range : (float, float)
        Rest wavelengths [Angstrom].
    rescale_errors : bool, optional
        Multiply errors by the square root of chi2 per degree of freedom, as one must where the noise is not known;
        default: where there is no ``ivar``.
    keep_fit : bool
        Keep ``continuum`` and ``line_model``.
    n_workers : int, optional
        Default `spectool.parallel.n_workers`.
    backend : str
        Of joblib: "loky", "threading", or "dask" with a ``distributed.Client`` at hand.
    checkpoint : path, optional
        ``.npz`` file: what is done is kept there, and a second call with the same arguments goes on from it.
    progress : bool

    Returns
    -------
    Dataset
        dims (galaxy, line): ``line_flux`` and ``line_flux_error`` [flux unit Angstrom], ``line_sn``, ``line_peak`` of
        the profile on the spectrum's own (rest-frame) pixels and its error, ``line_an`` (peak over the local residual's
        rms); per galaxy ``gas_velocity``, ``gas_dispersion``, ``stellar_velocity``, ``stellar_dispersion`` [km/s],
        ``broad_h_alpha_flux``, ``chi2`` per degree of freedom, ``fit_status`` (0 ok, 1 bad input, 2 failed) and
        ``fit_message``. Lines that are masked or out of range are NaN and counted in ``attrs["history"]``. All
        per-galaxy columns of `sample` are kept. After an interrupt ``attrs["interrupted"]`` is 1 and what was not
        fitted has status 2.

    Raises
    ------
    ImportError
        Without pPXF.
    ValueError
        If the sample, a line or an option is none that can be fitted.
    """
    require_ppxf()
    if kinematics not in ("free", "fixed"):
        raise ValueError(f"kinematics are 'free' or 'fixed', not {kinematics!r}")
    grid = embedded_grid() if grid is None else grid
    fit_range = (max(fit_range[0], grid.edges[0]), min(fit_range[1], grid.edges[-1]))
    spectra = read_spectra(sample, variable, lsf, fit_range=fit_range, grid=grid)
    options = {
        "degree": int(degree),
        "free": kinematics == "free",
        "fit_stellar_velocity": spectra.velscale < 2 * FINE,
        "rounds": 1 if spectra.velscale > 2 * FINE else 2,
        "rescale": not spectra.has_ivar if rescale_errors is None else bool(rescale_errors),
        "keep_fit": bool(keep_fit),
    }
    setup = make_setup(spectra, lines, doublets, broad, grid, templates, reddening, **options)
    count, n_pixels = spectra.flux.shape
    star = _per_galaxy(stellar_dispersion, count, "stellar_dispersion")
    gas = _per_galaxy(gas_dispersion, count, "gas_dispersion")
    shapes = dict.fromkeys(("flux", "error", "peak", "peak_error", "an"), (len(lines),))
    shapes |= {"gas": (2,), "star": (2,), "broad": (), "chi2": ()}
    shapes |= dict.fromkeys(("continuum", "line_model"), (n_pixels,)) if keep_fit else {}
    arrays = [values for name, values in vars(spectra).items() if name != "coordinate"]
    known = "" if checkpoint is None else joblib.hash([vars(setup), arrays, star, gas])
    results = Results(count, shapes, path=checkpoint, fingerprint=known)

    def job(k):
        return k, *spectra.at_rest(k), (0.0, star[k]), (0.0, gas[k])

    options = {"workers": n_workers, "backend": backend, "desc": "fitting lines", "progress": progress}
    complete = results.fill(fit_line_chunk, setup, job, chunk=CHUNK, **options)
    values = results.values
    columns = {
        "gas_velocity": (values["gas"][:, 0], "km / s"),
        "gas_dispersion": (values["gas"][:, 1], "km / s"),
        "stellar_velocity": (values["star"][:, 0], "km / s"),
        "stellar_dispersion": (values["star"][:, 1], "km / s"),
        "broad_h_alpha_flux": (values["broad"], flux_units(spectra)),
        "chi2": (values["chi2"], ""),
    }
    how = {"what": "lines fitted with pPXF", "keep_fit": keep_fit}
    table = assemble_table(sample, lines, spectra, results.status, values["message"], values, columns, **how)
    return table.assign_attrs(interrupted=int(not complete))


def _per_galaxy(value, count, name):
    value = np.broadcast_to(np.asarray(value, float), count)
    if not (np.isfinite(value) & (value > 0)).all():
        raise ValueError(f"{name} must be positive [km/s]")
    return value


def make_setup(spectra, lines, doublets, broad, grid, selection, reddening, **options):
    """Templates and lines on pixels that serve all spectra, and settings."""
    ratio, edges, lsf, log_start = template_pixels(spectra)
    stars = stellar_templates(edges, lsf, grid, selection=selection, reddening=reddening)
    wavelength, columns, reported, balmer = fitted_columns(lines, spectra.velscale, doublets=doublets)
    sigma = wavelength * np.interp(wavelength, 0.5 * (edges[1:] + edges[:-1]), lsf) / KM_S
    gas = np.stack([gaussian_on_pixels(edges, *line) for line in zip(wavelength, sigma, strict=True)])
    size = 2 ** int(np.ceil(np.log2(edges.size - 1)))
    settings = {"degree": -1, "free": True, "fit_stellar_velocity": False, "rounds": 1}
    settings |= {"rescale": False, "keep_fit": False} | options
    return SimpleNamespace(
        velscale=spectra.velscale,
        ratio=ratio,
        log_start=log_start,
        stars=stars,
        gas=gas,
        stars_rfft=np.fft.rfft(stars, size, axis=1),
        gas_rfft=np.fft.rfft(gas, size, axis=1),
        columns=columns,
        reported=reported,
        balmer=balmer if broad else balmer[:0],
        **settings,
    )


def fitted_columns(lines, velscale, *, doublets=None):
    """Wavelengths of a fit's lines, their share in each free amplitude, and which are reported and which Balmer's."""
    ties, always = dict(DOUBLETS if doublets is None else doublets), MEASURED
    if velscale > _BLENDED:
        ties = {"[O II] 3729": ("[O II] 3726", 1 / _O2_RATIO)} | ties
    if "[O II]" in lines:  # the blend stands for both
        always = [name for name in always if not name.startswith("[O II] ")]
        ties = {name: tie for name, tie in ties.items() if not name.startswith("[O II] ")}
    wavelength, ratio, column, reported = choose_lines(lines, ties, always=(*always, *ties))
    columns = np.zeros((wavelength.size, column.max() + 1))
    columns[np.arange(wavelength.size), column] = ratio
    balmer = [np.abs(wavelength - LINES[name]).argmin() for name in _BALMER]
    return wavelength, columns, reported, np.array(balmer)


def fit_line_chunk(setup, jobs):
    """Fit several spectra."""
    # Workers get memory maps, whose every use costs some microseconds more.
    plain = {name: np.asarray(v) for name, v in vars(setup).items() if isinstance(v, np.ndarray)}
    setup, begun = SimpleNamespace(**vars(setup) | plain), {}
    return [(row, attempt(fit_spectrum, setup, *job, begun)) for row, *job in jobs]


def fit_spectrum(setup, flux, noise, log_first, star, gas, begun):
    """Fit one spectrum."""
    fit = SpectrumFit(setup, flux, noise, log_first)
    if reason := fit.what_is_wrong():
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


class SpectrumFit:
    """A spectrum and its model at the present kinematics."""

    def __init__(self, setup, flux, noise, log_first):
        self.setup, self.n = setup, flux.size
        self.good = np.flatnonzero((noise > 0) & np.isfinite(noise) & np.isfinite(flux))
        self.shift = (setup.log_start - log_first) / (setup.velscale / KM_S)
        level = np.median(np.abs(flux[self.good])) if self.good.size else 0.0
        self.level = level if level > 0 else 1.0
        self.flux = np.where(np.isfinite(flux), flux, 0.0) / self.level
        typical = np.median(noise[self.good]) if self.good.size else 1.0
        self.noise = np.full(self.n, typical / self.level)
        self.noise[self.good] = noise[self.good] / self.level
        centre = np.exp(log_first + setup.velscale / KM_S * np.arange(self.n))
        self.pixel = centre * 2 * np.sinh(0.5 * setup.velscale / KM_S)
        series = np.polynomial.legendre.legvander(np.linspace(-1, 1, self.n), max(setup.degree, 0))
        self.poly = series.T[: setup.degree + 1]
        self.broad = np.zeros((0, self.n))
        self.fitted = []

    def what_is_wrong(self):
        """Why this spectrum cannot be fitted, or nothing."""
        if self.good.size == 0:
            return "no good pixel: masked, not finite, without ivar or without redshift"
        if self.good.size < _MIN_PIXELS:
            return f"only {self.good.size} good pixels of {self.n}"
        flux, weight = self.flux[self.good], self.noise[self.good] ** -2
        if not flux.any():
            return "the flux is zero in all good pixels"
        if (flux * weight).sum() < -5 * np.sqrt(weight.sum()):
            return "the mean flux is negative: was too much sky subtracted?"
        return ""

    def convolve(self, star, gas):
        """Lines, stars and broad Balmer lines on the spectrum's pixels."""
        setup = self.setup
        members = convolve(setup.gas_rfft, *gas, setup, self.shift, self.n)
        stars = convolve(setup.stars_rfft, *star, setup, self.shift, self.n)
        transforms = setup.gas_rfft[setup.balmer]
        broad = [convolve(transforms, 0.0, width, setup, self.shift, self.n) for width in _BROAD_WIDTHS]
        return members, stars, np.concatenate(broad)

    def solve(self, star, gas, templates):
        """Non-negative least squares at fixed kinematics: what pPXF's linear fit does, without its loops."""
        self.star, self.gas, self.templates = star, gas, templates
        setup, good = self.setup, self.good
        self.members, stars, _ = templates
        self.coverage = (self.members * self.pixel)[:, good].sum(axis=1)
        inside = self.coverage > _COUNTED
        self.used = np.flatnonzero((setup.columns[inside] > 0).any(axis=0))
        lines = setup.columns[:, self.used].T @ self.members
        self.design = np.concatenate([self.poly, -self.poly, stars, self.broad, lines])
        self.first_star = 2 * len(self.poly)
        self.first_broad = self.first_star + len(stars)
        self.first_gas = self.first_broad + len(self.broad)
        scaled = (self.design[:, good] / self.noise[good]).T
        self.scale = np.linalg.norm(scaled, axis=0)
        self.scale[self.scale == 0] = 1.0
        self.scaled = scaled / self.scale
        weights, self.norm = nnls(self.scaled, self.flux[good] / self.noise[good])
        self.weights = weights / self.scale

    def add_broad_lines(self, templates):
        """Give the model broad Balmer lines if the spectrum asks for them."""
        broad, good = templates[2], self.good
        if not len(broad):
            return
        residual = ((self.flux - self.weights @ self.design) / self.noise)[good]
        columns = broad[:, good] / self.noise[good]
        length = np.linalg.norm(columns, axis=1)
        level = self.norm / np.sqrt(good.size)
        if (columns @ residual <= _BROAD_SN * level * length).all():
            return
        self.broad = broad
        self.keep_broad_lines_if_needed()

    def keep_broad_lines_if_needed(self):
        """Take broad lines out of the model again unless chi2 falls enough by them and Hα stands out."""
        if not len(self.broad):
            return
        broad, self.broad = self.broad, np.zeros((0, self.n))
        self.solve(self.star, self.gas, self.templates)
        without, self.broad = self.norm**2, broad
        self.solve(self.star, self.gas, self.templates)
        gained = without - self.norm**2 > _BROAD_GAIN * self.norm**2 / self.good.size
        stars = self.weights[: self.first_broad] @ self.design[: self.first_broad]
        continuum = stars[np.argmax(self.members[self.setup.balmer[0]])]
        if not gained or self.broad_h_alpha <= _BROAD_WIDTH * max(continuum, 0.0):
            self.broad = np.zeros((0, self.n))
            self.solve(self.star, self.gas, self.templates)

    @property
    def star_weights(self):
        """Of the stellar templates."""
        return self.weights[self.first_star : self.first_broad]

    @property
    def amplitudes(self):
        """Of all columns of lines, 0 where not used."""
        every = np.zeros(self.setup.columns.shape[1])
        every[self.used] = self.weights[self.first_gas :]
        return every

    @property
    def broad_h_alpha(self):
        """Flux of broad Hα."""
        per_width = self.weights[self.first_broad : self.first_gas].reshape(len(_BROAD_WIDTHS), -1)
        return float(per_width[:, 0].sum()) if per_width.size else 0.0

    def fit_kinematics(self, star, gas):
        """Fit velocities and dispersions with pPXF, and then the model with them."""
        setup, good = self.setup, self.good
        star_sn = np.linalg.norm((self.flux / self.noise)[good]) if self.star_weights.any() else 0.0
        free_star, converged = bool(star_sn > _MIN_STAR_SN), True
        for _ in range(setup.rounds):
            # Signal to noise of each line, were it alone.
            sn = self.weights[self.first_gas :] * self.scale[self.first_gas :]
            free_gas = bool(sn.size and sn.max() > _MIN_GAS_SN)
            if not (free_star or free_gas):
                return True, "kinematics fixed: too noisy"
            star, gas, converged = self._run_ppxf(star, gas, free_star, free_gas, sn)
            self.solve(star, gas, self.convolve(star, gas))
            self.fitted = ["star"] * free_star + ["gas"] * free_gas
        if not converged:
            return False, "not converged within pPXF's number of steps"
        note = [] if free_star else ["stellar kinematics fixed: too noisy"]
        if not free_gas:
            note.append("gas kinematics fixed: no line is strong enough")
        elif not GAS_LIMITS[0] * 1.01 < gas[1] < GAS_LIMITS[1] * 0.99:
            note.append("gas dispersion at its limit")
        return True, "; ".join(note)

    def _run_ppxf(self, star, gas, free_star, free_gas, sn):
        """The nonlinear fit, with few templates: sums of populations and of lines."""
        setup = self.setup
        stars = _mixtures(self.star_weights, _OWN_STARS)
        lines = _mixtures(self.weights[self.first_gas :], _OWN_LINES, rank=sn) @ setup.columns[:, self.used].T
        fixed_star = [not (free_star and setup.fit_stellar_velocity), not free_star]
        kinds = [
            (stars @ setup.stars, stars @ setup.stars_rfft, star, STAR_LIMITS, fixed_star),
            (lines @ setup.gas, lines @ setup.gas_rfft, gas, GAS_LIMITS, [not free_gas] * 2),
        ]
        present = [bool(len(kind[0])) for kind in kinds]
        kinds = [kind for kind, there in zip(kinds, present, strict=True) if there]
        if all(all(kind[4]) for kind in kinds):
            return star, gas, True
        fit = _call_ppxf(self, kinds)
        computed = iter(np.atleast_2d(fit.sol))
        star, gas = (
            tuple(map(float, next(computed))) if there else old
            for there, old in zip(present, (star, gas), strict=True)
        )
        return star, gas, fit.status > 0


def _mixtures(weights, count, rank=None):
    """Few sums of templates: the `count` that matter most by themselves, the others together."""
    weighted = np.flatnonzero(weights > 0)
    order = weighted[np.argsort(-(weights if rank is None else rank)[weighted], kind="stable")]
    groups = [order[k : k + 1] for k in range(min(count, order.size))] + [order[count:]]
    groups = [group for group in groups if group.size]
    mixtures = np.zeros((len(groups), weights.size))
    for row, group in zip(mixtures, groups, strict=True):
        row[group] = weights[group]
    return mixtures


def _call_ppxf(spectrum, kinds):
    """pPXF on components (templates, their transforms, start, limits of the dispersion, what is fixed)."""
    from ppxf.ppxf import ppxf

    templates, transforms, start, limits, fixed = zip(*kinds, strict=True)
    bounds = [[[-VELOCITY_LIMIT, VELOCITY_LIMIT], list(limit)] for limit in limits]
    # With one component pPXF wants no lists of lists.
    pick = (lambda values: list(values)) if len(kinds) > 1 else (lambda values: values[0])
    broad = spectrum.weights[spectrum.first_broad : spectrum.first_gas] @ spectrum.broad
    # capfit divides by the step's gain, which is 0 where there is nothing to gain.
    with np.errstate(divide="ignore", invalid="ignore"):
        return ppxf(
            np.concatenate(templates).T,
            spectrum.flux,
            spectrum.noise,
            spectrum.setup.velscale,
            pick([list(s) for s in start]),
            bounds=pick(bounds),
            fixed=pick(fixed),
            component=np.repeat(np.arange(len(kinds)), [len(t) for t in templates]),
            moments=2,
            degree=spectrum.setup.degree,
            goodpixels=spectrum.good,
            sky=broad[:, None] if broad.any() else None,
            vsyst=spectrum.shift * spectrum.setup.velscale,
            velscale_ratio=spectrum.setup.ratio,
            templates_rfft=np.concatenate(transforms).T,
            linear_method="nnls",
            ftol=1e-2,
            quiet=True,
        )


def convolve(rfft, velocity, sigma, setup, shift, n_pixels):
    """Templates at given kinematics on a spectrum's pixels, as pPXF does it (Cappellari 2017, eq. 38)."""
    frequency = np.linspace(0, np.pi * setup.ratio, rfft.shape[1])
    phase = (shift + velocity / setup.velscale) * frequency
    losvd = np.exp(-1j * phase - 0.5 * (sigma / setup.velscale * frequency) ** 2)
    fine = np.fft.irfft(rfft * losvd, axis=1)[:, : n_pixels * setup.ratio]
    # Strided sums are several times quicker than a mean over so short an axis.
    return sum(fine[:, k :: setup.ratio] for k in range(setup.ratio)) / setup.ratio


def measure(fit):
    """The numbers of one row of the line table."""
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
    known = fit.coverage[setup.reported] >= _MIN_COVERAGE
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
    """Errors of the used lines' amplitudes: those of pPXF with stars and kinematics free instead of known."""
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
    ends = {"velocity": ((velocity - _STEP, sigma), (velocity + _STEP, sigma))}
    ends["sigma"] = (velocity, max(sigma - _STEP, 1.0)), (velocity, sigma + _STEP)
    result = []
    for name in which:
        low, high = (convolve(mixed, *end, fit.setup, fit.shift, fit.n)[0] for end in ends[name])
        column = ((high - low) / fit.noise)[fit.good]
        length = np.linalg.norm(column)
        if length > 0:
            result.append((column / length)[:, None])
    return result


def local_rms(fit, residual):
    """Root mean square of the residual within 4500 km/s of each reported line."""
    setup = fit.setup
    place = np.argmax(fit.members[setup.reported], axis=1)
    near = np.abs(fit.good - place[:, None]) <= max(int(_LOCAL / setup.velscale), 5)
    count = near.sum(axis=1)
    return np.sqrt(near @ residual[fit.good] ** 2 / np.where(count > 0, count, np.nan))
